"""The set of clips that the benchmarks use, made at run time: stereo, 44.1 kHz, 5.11 s, free to use and to redistribute.

Twelve are music: eight excerpts of produced tracks (the package immich-memories-music, MIT licence), and four pieces that are
composed here and rendered with the General MIDI SoundFont of the demo. Four are synthesized to be difficult for a codec.
"""

import dataclasses
import functools
import importlib.metadata
import io
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_prep.corpus.exercises import (
    attributes_of,
    compose_notes,
    default_soundfont,
    load_soundfont,
    midi_bytes,
    require_renderer,
)
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.runtime.errors import InputError

RATE_HZ = 44100
CLIP_SAMPLES = 511 * 441

_TRACKS = (
    "calm_acoustic_1", "energetic_acoustic_2", "energetic_electronic_2", "happy_electronic_s411",
    "nostalgic_acoustic_s522", "tender_electronic_1", "happy_acoustic_1", "tender_acoustic_1",
)  # fmt: skip
_RENDERED = (("piano", "none"), ("distorted guitar", "rock"), ("choir", "none"), ("string ensemble", "none"))
_START_SHARE = 0.3  # after the introductions


@dataclasses.dataclass(frozen=True)
class Clip:
    """A sound of the set: its name, and its audio (2, samples)."""

    name: str
    wav: np.ndarray

    @property
    def is_music(self) -> bool:
        """Whether it is music rather than a synthesized signal."""
        return self.name not in _SYNTHESIZED

    @property
    def mono(self) -> np.ndarray:
        """The mean of the channels (1, samples)."""
        return self.wav.mean(0, keepdims=True)


def make_clips(samples: int = CLIP_SAMPLES, names: Sequence[str] | None = None) -> list[Clip]:
    """Make the set, the same every time.

    Args:
        samples: Length of each clip.
        names: Names of the clips to make; None for all.

    Raises:
        InputError: If the packages that hold the music are not installed.
    """
    makers: dict[str, Callable[[], np.ndarray]] = {name: functools.partial(_excerpt, name, samples) for name in _TRACKS}
    makers |= {f"rendered {name}": functools.partial(_rendered_piece, name, drums) for name, drums in _RENDERED}
    makers |= _SYNTHESIZED
    return [Clip(name, _window(make(), 0, samples)) for name, make in makers.items() if names is None or name in names]


def load_track(name: str) -> np.ndarray:
    """Return a produced track (2, samples) at 44.1 kHz.

    Raises:
        InputError: If its package is not installed.
    """
    try:
        files = importlib.metadata.distribution("immich-memories-music").files or ()
    except importlib.metadata.PackageNotFoundError:
        raise InputError("the benchmark's music is missing: pip install 'riffusion-train[demo,dev]'") from None
    path = next(Path(str(file.locate())) for file in files if str(file).endswith(f"{name}.opus"))
    wav, rate_hz = read_audio(path)
    return resample(wav, rate_hz, RATE_HZ)


def _excerpt(name: str, samples: int) -> np.ndarray:
    wav = load_track(name)
    return _window(wav, int(_START_SHARE * wav.shape[1]), samples)


def _window(wav: np.ndarray, start: int, samples: int) -> np.ndarray:
    piece = wav[:, start : start + samples]
    return np.pad(
        piece, ((0, 2 - len(piece)), (0, samples - piece.shape[1])), mode="edge" if len(piece) == 1 else "constant"
    )


def _rendered_piece(instrument: str, drums: str) -> np.ndarray:
    """Compose a piece and render it in stereo."""
    require_renderer()
    import midirenderer

    attributes = dataclasses.replace(attributes_of(1, 0), instrument=instrument, drums=drums, register="middle")
    midi = midi_bytes(compose_notes(attributes, 1, 0), instrument)
    rendered = midirenderer.render_wave_from(load_soundfont(default_soundfont()), midi)
    with wave.open(io.BytesIO(rendered)) as reader:
        rate_hz, channels = reader.getframerate(), reader.getnchannels()
        frames = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").reshape(-1, channels)
    wav = resample(frames.T.astype(np.float32) / 32768, rate_hz, RATE_HZ)
    return wav * np.float32(0.9 / np.abs(wav).max())


def _time_s() -> np.ndarray:
    return np.arange(CLIP_SAMPLES) / RATE_HZ


def _bursts() -> np.ndarray:
    """Bursts of noise with sharp attacks, decays of 5 to 200 ms, and random panning."""
    rng = np.random.default_rng(10)
    wav = np.zeros((2, CLIP_SAMPLES))
    for index, start_s in enumerate(np.arange(0.1, 4.9, 0.24)):
        start = round(start_s * RATE_HZ)
        decay_s = (0.005, 0.02, 0.06, 0.2)[index % 4]
        length = min(round(5 * decay_s * RATE_HZ), CLIP_SAMPLES - start)
        burst = rng.standard_normal(length) * np.exp(-np.arange(length) / (decay_s * RATE_HZ))
        pan = rng.uniform(0.1, 0.9)
        wav[:, start : start + length] += 0.25 * np.outer([np.sqrt(1 - pan), np.sqrt(pan)], burst)
    return wav.astype(np.float32)


def _sweep() -> np.ndarray:
    """A tone that rises from 40 Hz to 16 kHz, with its second and third partial up to 16 kHz."""
    time_s = _time_s()
    rate = np.log(400) / time_s[-1]
    phase = 2 * np.pi * 40 / rate * (np.exp(rate * time_s) - 1)
    frequency_hz = 40 * np.exp(rate * time_s)
    partials = sum(np.sin(k * phase) / k * (k * frequency_hz < 16000) for k in (1, 2, 3))
    return (0.3 * partials)[None].astype(np.float32)


def _quiet_tones() -> np.ndarray:
    """Beating pairs of tones at levels from -6 to -66 dB, with digital silence between them."""
    time_s = _time_s()
    wav = np.zeros(CLIP_SAMPLES)
    for index, hz in enumerate((220.0, 1318.5, 523.25, 3520.0, 110.0, 880.0)):
        inside = (time_s >= 0.85 * index) & (time_s < 0.85 * index + 0.6)
        since_s = time_s[inside] - 0.85 * index
        level = 10 ** (-(6 + 12 * index) / 20)
        fade = np.minimum(1, np.minimum(since_s, 0.6 - since_s) / 0.01)
        wav[inside] = level * fade * (np.sin(2 * np.pi * hz * since_s) + np.sin(2 * np.pi * (hz + 3) * since_s)) / 2
    return wav[None].astype(np.float32)


def _vowels() -> np.ndarray:
    """A synthesized voice: partials with vibrato, shaped by the formants of five vowels (Peterson, Barney 1952)."""
    time_s = _time_s()
    pitch_hz = 196 * 2 ** (np.repeat([0, 3, 5, 7, 0], -(-CLIP_SAMPLES // 5))[:CLIP_SAMPLES] / 12)
    pitch_hz = pitch_hz * (1 + 0.012 * np.sin(2 * np.pi * 5.5 * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    vowels = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
    formants_hz = np.repeat(np.array(vowels, float), -(-CLIP_SAMPLES // 5), 0)[:CLIP_SAMPLES].T
    wav = np.zeros(CLIP_SAMPLES)
    for partial in range(1, 40):
        hz = partial * pitch_hz
        level = sum(
            gain / (1 + ((hz - formant_hz) / width_hz) ** 2)
            for formant_hz, width_hz, gain in zip(formants_hz, (60, 90, 120), (1, 0.5, 0.25), strict=True)
        )
        wav += level / partial**0.5 * np.sin(partial * phase)
    breath = np.random.default_rng(11).standard_normal(CLIP_SAMPLES) * 0.003
    return (0.6 * wav / np.abs(wav).max() + breath)[None].astype(np.float32)


_SYNTHESIZED = {"noise bursts": _bursts, "sweep": _sweep, "quiet tones": _quiet_tones, "vowels": _vowels}
