"""Rendering notes: from a MIDI file and a SoundFont to 5.12 seconds of mono audio."""

import importlib.util
import io
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from data_prep.corpus.palette import CLIP_S, INSTRUMENTS
from data_prep.corpus.score import Note
from riffusion_train.runtime.errors import InputError

RATE_HZ = 22050
"""Sample rate of the written files; the demo's codec goes up to 10 kHz."""
PEAK = 0.9
"""Largest sample of a clip."""

_TICKS_PER_BEAT = 480
_TICKS_PER_SECOND = 2 * _TICKS_PER_BEAT  # at MIDI's default of 120 beats a minute
_DRUM_CHANNEL = 9
_RELEASE_S = 0.2
_INSTALL = "pip install 'riffusion-train[demo]'"


def default_soundfont() -> Path:
    """Return the General MIDI SoundFont inside the `pretty_midi` package, without importing it (which is slow).

    Raises:
        InputError: If the extra `demo` is not installed.
    """
    spec = importlib.util.find_spec("pretty_midi")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        fonts = sorted(Path(folder).glob("*.sf2"))
        if fonts:
            return fonts[0]
    raise InputError(f"no General MIDI SoundFont is installed; {_INSTALL}, or give soundfont=PATH")


def require_renderer() -> None:
    """Check that the MIDI writer and the renderer can be imported.

    Raises:
        InputError: If the extra `demo` is not installed.
    """
    for package in ("midirenderer", "mido"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"composing the corpus needs the package {package}; {_INSTALL}")


def load_soundfont(path: Path) -> bytes:
    """Read a SoundFont 2 file.

    Raises:
        InputError: If the file cannot be read, is not a SoundFont, or is an SF3, whose samples are compressed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"soundfont={path}: {error.strerror}") from None
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
        raise InputError(f"soundfont={path}: not a SoundFont; give an .sf2 file")
    version = data.find(b"ifil", 12, 512)
    if version >= 0 and int.from_bytes(data[version + 8 : version + 10], "little") >= 3:
        raise InputError(f"soundfont={path}: an SF3 (compressed samples) cannot be rendered; give an .sf2 file")
    return data


def midi_bytes(notes: Sequence[Note], instrument: str) -> bytes:
    """Return notes as a standard MIDI file: one track, the instrument on the first channel, drums on the tenth."""
    import mido

    track = mido.MidiTrack([mido.Message("program_change", channel=0, program=INSTRUMENTS[instrument].program)])
    events = []
    for note in notes:
        channel = _DRUM_CHANNEL if note.is_drum else 0
        end_s = min(note.start_s + note.duration_s, CLIP_S)
        on = mido.Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
        off = mido.Message("note_off", channel=channel, note=note.pitch)
        events += [(_ticks(note.start_s), 1, on), (_ticks(end_s), 0, off)]
    # A last silent event makes the renderer continue to the end of the clip.
    events.append((_ticks(CLIP_S + _RELEASE_S), 0, mido.Message("note_off", channel=0, note=0)))
    now = 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):  # a repeated note ends before it starts again
        track.append(message.copy(time=tick - now))
        now = tick
    out = io.BytesIO()
    mido.MidiFile(ticks_per_beat=_TICKS_PER_BEAT, tracks=[track]).save(file=out)
    return out.getvalue()


def render_clip(soundfont: bytes, midi: bytes) -> npt.NDArray[np.float32]:
    """Render a MIDI file to `CLIP_S` seconds of mono audio at `RATE_HZ`, scaled to `PEAK`; shape (samples,).

    Raises:
        InputError: If the SoundFont cannot be played, or is silent.
    """
    import midirenderer

    try:
        rendered = midirenderer.render_wave_from(soundfont, midi)
    except Exception as error:  # the renderer raises various exceptions for a font that it cannot read
        raise InputError(f"the SoundFont cannot be played: {str(error).splitlines()[0]}") from None
    with wave.open(io.BytesIO(rendered)) as reader:
        rate_hz, channels = reader.getframerate(), reader.getnchannels()
        frames = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").reshape(-1, channels)
    mono = frames.mean(axis=1, dtype=np.float32)
    audio = soxr.resample(mono, rate_hz, RATE_HZ)[: round(CLIP_S * RATE_HZ)]
    audio = np.pad(audio, (0, round(CLIP_S * RATE_HZ) - len(audio)))
    peak = float(np.abs(audio).max())
    if peak < 1.0:
        raise InputError("the SoundFont is silent for this clip; give a General MIDI .sf2")
    return (audio * (PEAK / peak)).astype(np.float32)


def flac_bytes(audio: npt.NDArray[np.float32]) -> bytes:
    """Encode mono audio as 16-bit FLAC at `RATE_HZ`: lossless, and two thirds of the size of a WAV."""
    out = io.BytesIO()
    soundfile.write(out, audio, RATE_HZ, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _ticks(time_s: float) -> int:
    return round(time_s * _TICKS_PER_SECOND)
