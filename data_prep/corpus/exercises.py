"""The exercises: short clips with attributes, notes and captions, rendered from MIDI and a SoundFont to 5.12 s of mono audio.

Clip `i` of seed `s` is a pure function of (s, i).
"""

import dataclasses
import importlib.util
import io
import itertools
import math
import random
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from data_prep.corpus.palette import (
    CLIP_S,
    DRUMS,
    INSTRUMENTS,
    KEYS,
    MODES,
    PATTERNS,
    PROGRESSIONS,
    REGISTERS,
    TEMPI,
    TEMPLATES,
)
from riffusion_train.runtime.errors import InputError

_COMBINATIONS = tuple(itertools.product(INSTRUMENTS, TEMPI, DRUMS, REGISTERS, PATTERNS))
_ARPEGGIO_STEPS = (0, 2, 4, 7, 4, 2, 0, 2)
"""Scale steps above the root of the chord, one for each half beat of a bar."""
_LAST_ONSET_S = CLIP_S - 0.02
_CAPTIONS_PER_CLIP = 3


@dataclasses.dataclass(frozen=True)
class Attributes:
    """The attributes of a clip; texts are keys of the tables in `palette`."""

    instrument: str
    tempo: str
    bpm: int
    drums: str
    register: str
    pattern: str
    key: str
    mode: str


@dataclasses.dataclass(frozen=True)
class Note:
    """One note: onset and length in seconds, MIDI note number, velocity (1-127), and whether a drum plays it."""

    start_s: float
    duration_s: float
    pitch: int
    velocity: int
    is_drum: bool = False


def attributes_of(seed: int, clip: int) -> Attributes:
    """Return the attributes of one clip.

    Each round of clips visits every combination of instrument, tempo, drums, register and pattern once, in an order
    shuffled by (seed, round), so that the attributes are balanced and independent of each other.
    """
    round_index, position = divmod(clip, len(_COMBINATIONS))
    order = list(range(len(_COMBINATIONS)))
    addressed_random(seed, round_index, "order").shuffle(order)
    instrument, tempo, drums, register, pattern = _COMBINATIONS[order[position]]
    rng = addressed_random(seed, clip, "attributes")
    return Attributes(
        instrument=instrument,
        tempo=tempo,
        bpm=rng.randint(*TEMPI[tempo].bpm),
        drums=drums,
        register=register,
        pattern=pattern,
        key=rng.choice(list(KEYS)),
        mode=rng.choice(list(MODES)),
    )


def compose_notes(attributes: Attributes, seed: int, clip: int) -> list[Note]:
    """Return the notes of one clip in order of their onsets; the first one is at 0 s, on the first beat of a bar."""
    rng = addressed_random(seed, clip, "notes")
    beat_s = 60 / attributes.bpm
    beats = math.ceil(CLIP_S / beat_s)
    play = {"melody": _melody, "chords": _chords, "arpeggio": _arpeggio}[attributes.pattern]
    notes = play(attributes, beat_s, beats, rng) + _drum_notes(attributes.drums, beat_s, beats)
    return sorted((note for note in notes if note.start_s < _LAST_ONSET_S), key=lambda note: (note.start_s, note.pitch))


def addressed_random(seed: int, index: int, purpose: str) -> random.Random:
    """Return a random generator that depends on its arguments alone.

    `random.Random` hashes a text seed in the same way in every process.
    """
    return random.Random(f"{seed}/{index}/{purpose}")


def _pitch(attributes: Attributes, step: int) -> int:
    """Return the MIDI note of a scale step; steps 0 to 7 span one octave, others are folded into it."""
    lowest = REGISTERS[attributes.register].lowest_tonic
    tonic = lowest + (KEYS[attributes.key] - lowest) % 12
    return tonic + MODES[attributes.mode][step % 7] + (12 if step == 7 else 0)


def _melody(attributes: Attributes, beat_s: float, beats: int, rng: random.Random) -> list[Note]:
    """Walk along the scale in small steps, one or two notes a beat."""
    notes = []
    step = rng.randint(0, 4)
    for beat in range(beats):
        parts = rng.choice((1, 2))
        for part in range(parts):
            step = max(0, min(7, step + rng.choice((-2, -1, -1, 1, 1, 2))))
            start_s, length_s = (beat + part / parts) * beat_s, beat_s / parts
            notes.append(Note(start_s, 0.9 * length_s, _pitch(attributes, step), rng.randint(92, 110)))
    return notes


def _chords(attributes: Attributes, beat_s: float, beats: int, rng: random.Random) -> list[Note]:
    """Strike a triad on every beat; the chord changes with the bar."""
    progression = rng.choice(PROGRESSIONS)
    notes = []
    for beat in range(beats):
        root = progression[beat // 4 % len(progression)]
        for third in (0, 2, 4):
            pitch = _pitch(attributes, (root + third) % 7)
            notes.append(Note(beat * beat_s, 0.75 * beat_s, pitch, rng.randint(80, 95)))
    return notes


def _arpeggio(attributes: Attributes, beat_s: float, beats: int, rng: random.Random) -> list[Note]:
    """Break the chord of the bar into two notes a beat."""
    progression = rng.choice(PROGRESSIONS)
    notes = []
    for half in range(2 * beats):
        root = progression[half // 8 % len(progression)]
        pitch = _pitch(attributes, (root + _ARPEGGIO_STEPS[half % 8]) % 7)
        notes.append(Note(half * beat_s / 2, 0.45 * beat_s, pitch, rng.randint(85, 105)))
    return notes


def _drum_notes(drums: str, beat_s: float, beats: int) -> list[Note]:
    bars = math.ceil(beats / 4)
    return [
        Note((4 * bar + hit.beat) * beat_s, 0.1, hit.note, hit.velocity, is_drum=True)
        for bar in range(bars)
        for hit in DRUMS[drums].hits
    ]


def captions_of(attributes: Attributes, seed: int, clip: int) -> list[str]:
    """Return the captions of one clip: the canonical one, then others from different templates with random words.

    Each names instrument, tempo, drums, register and pattern.
    """
    rng = addressed_random(seed, clip, "captions")
    captions = [prompt_of(attributes)]
    for template in rng.sample(TEMPLATES[1:], _CAPTIONS_PER_CLIP - 1):
        words = {name: rng.choice(choices) for name, choices in _words(attributes).items()}
        captions.append(_fill(template, attributes, words))
    return captions


def prompt_of(attributes: Attributes) -> str:
    """Return the canonical prompt: the first template with the first word of every attribute."""
    return _fill(TEMPLATES[0], attributes, {name: choices[0] for name, choices in _words(attributes).items()})


def _words(attributes: Attributes) -> dict[str, tuple[str, ...]]:
    return {
        "instrument": INSTRUMENTS[attributes.instrument].words,
        "tempo": TEMPI[attributes.tempo].words,
        "drums": DRUMS[attributes.drums].words,
        "register": REGISTERS[attributes.register].words,
        "pattern": PATTERNS[attributes.pattern],
    }


def _fill(template: str, attributes: Attributes, words: dict[str, str]) -> str:
    text = template.format(bpm=attributes.bpm, key=attributes.key, mode=attributes.mode, **words)
    return text.replace("with without", "without")


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
