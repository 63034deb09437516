"""Mixing the tracks of a piece: levels, saturation, ducking, reverberation, tone, compression, and the level of the whole."""

import dataclasses
import functools
import random

import numpy as np
import numpy.typing as npt

from data_prep.corpus.music.soundfont import Part

Stereo = npt.NDArray[np.float32]

_LEVELS_DB: dict[str, float] = {"lead": -15.0, "drums": -15.0, "bass": -16.5, "chords": -20.0, "pad": -23.0}
"""Loudness of the parts while they play, as RMS."""
_LOUDNESS_DB = -15.0
_PEAK = 0.89
_KICKS = (35, 36)
_CABINET_DRIVE = 0.8
_DECAYS_S = (0.5, 0.7, 0.9, 1.2, 1.6, 2.0, 2.6, 3.5)


@dataclasses.dataclass(frozen=True)
class Sound:
    """How a style is mixed.

    Attributes:
        reverb: Amount of reverberation, 0 to 1.
        decay_s: Its length, to -60 dB.
        pump: How much the kick drum ducks everything else, 0 to 1.
        drive: Saturation of the mix.
        highest_hz: Where the mix rolls off.
        tilt_db: Treble against bass.
        noise: Level of crackle and hiss.
    """

    reverb: float = 0.2
    decay_s: float = 1.2
    pump: float = 0.0
    drive: float = 0.3
    highest_hz: float = 16000.0
    tilt_db: float = 0.0
    noise: float = 0.0


def mix(tracks: npt.NDArray[np.float32], parts: list[Part], sound: Sound, rng: random.Random, rate_hz: int) -> Stereo:
    """Return the mix of the tracks of a piece, (2, samples), from -1 to 1.

    Args:
        tracks: One for each part, (parts, 2, samples); changed in place.
        parts: What plays them.
        sound: How the style sounds.
        rng: Where variations between pieces come from.
        rate_hz: Sample rate.
    """
    samples = tracks.shape[2]
    duck = _duck_curve(parts, samples, sound.pump * rng.uniform(0.7, 1.2), rate_hz)
    dry = np.zeros((2, samples), np.float32)
    send = np.zeros((2, samples), np.float32)
    for track, part in zip(tracks, parts, strict=True):
        level = _playing_level(track, rate_hz)
        if level < 1e-6:
            continue
        target_db = _LEVELS_DB[part.role] + part.gain_db + rng.gauss(0, 1.2)
        count = sum(other.role == part.role for other in parts)
        track *= np.float32(10 ** (target_db / 20) / level / count**0.5)
        if part.drive > 0:
            _saturate(track, part.drive)
            if part.drive >= _CABINET_DRIVE:
                track = _cabinet(track, rate_hz)
        if duck is not None and part.role != "drums":
            track *= duck
        dry += track
        send += np.float32(part.reverb) * track
    mixed = _reverberate_and_shape(dry, send, sound, rng, rate_hz)
    if sound.noise:
        mixed += _crackle(rng, samples, sound.noise * rng.uniform(0.5, 1.5), rate_hz)
    return _master(mixed, sound.drive, rate_hz)


def _playing_level(track: Stereo, rate_hz: int) -> float:
    """Return the RMS of a track over the blocks in which it plays."""
    block = rate_hz // 20
    usable = track.shape[1] // block * block
    power = np.square(track[:, :usable]).reshape(2, -1, block).mean((0, 2))
    heard = power[power > 0.03 * power.max()] if power.max() > 0 else power
    return float(np.sqrt(heard.mean())) if len(heard) else 0.0


def _saturate(track: Stereo, drive: float) -> None:
    gain = np.float32(2 + 6 * drive)
    np.multiply(track, gain, out=track)
    np.tanh(track, out=track)
    track *= np.float32(1 / gain**0.8)


def _cabinet(track: Stereo, rate_hz: int) -> Stereo:
    """Return a distorted guitar as a loudspeaker of 12 inches plays it: little above 4.5 kHz and below 90 Hz."""
    import scipy.signal  # type: ignore[import-untyped]

    sos = np.concatenate([
        scipy.signal.butter(4, 4500, fs=rate_hz, output="sos"),
        scipy.signal.butter(2, 90, "highpass", fs=rate_hz, output="sos"),
    ])  # fmt: skip
    return scipy.signal.sosfilt(sos.astype(np.float32), track, axis=1)


def _duck_curve(parts: list[Part], samples: int, depth: float, rate_hz: int) -> npt.NDArray[np.float32] | None:
    """Return the gain that every kick drum pulls down for a quarter of a second; None without."""
    kicks = [note.start_s for part in parts if part.role == "drums" for note in part.notes if note.pitch in _KICKS]
    if depth <= 0 or not kicks:
        return None
    curve = np.ones(samples, np.float32)
    time = np.arange(round(0.28 * rate_hz), dtype=np.float32) / np.float32(0.28 * rate_hz)
    dip = 1 - np.float32(min(0.9, depth)) * (1 - time) ** 2
    for start_s in kicks:
        first = max(0, round(start_s * rate_hz))
        span = curve[first : first + len(dip)]
        np.minimum(span, dip[: len(span)], out=span)
    return curve


@functools.lru_cache(maxsize=8)
def _room(decay_s: float, rate_hz: int, length: int) -> npt.NDArray[np.complex64]:
    """Return the spectrum of a reverberation: decaying noise, duller and duller, different on both sides; (2, bins)."""
    import scipy.fft  # type: ignore[import-untyped]
    import scipy.signal  # type: ignore[import-untyped]

    samples = min(round(decay_s * rate_hz), length)
    noise = np.random.default_rng(round(1000 * decay_s)).standard_normal((2, samples)).astype(np.float32)
    time_s = np.arange(samples, dtype=np.float32) / rate_hz
    # Two bands: the treble decays in half the time.
    low = scipy.signal.sosfilt(scipy.signal.butter(2, 3000, fs=rate_hz, output="sos"), noise, axis=1)
    response = low * 10 ** (-3 * time_s / decay_s) + (noise - low) * 10 ** (-6 * time_s / decay_s)
    response *= np.minimum(1, time_s / 0.012)  # the first reflections come late
    response /= np.sqrt(np.square(response).sum(1, keepdims=True))
    return scipy.fft.rfft(response.astype(np.float32), length, axis=1)


def _reverberate_and_shape(dry: Stereo, send: Stereo, sound: Sound, rng: random.Random, rate_hz: int) -> Stereo:
    """Add the reverberation of `send`, and change the tone of the whole, both in the frequency domain."""
    import scipy.fft

    samples = dry.shape[1]
    # What wraps around falls into the lead-in, which is cut off.
    length = scipy.fft.next_fast_len(samples, real=True)
    wanted_s = sound.decay_s * rng.uniform(0.7, 1.3)
    decay_s = min(_DECAYS_S, key=lambda value: abs(value - wanted_s))
    spectrum = scipy.fft.rfft(dry, length, axis=1)
    wet = scipy.fft.rfft(send, length, axis=1)
    wet *= _room(decay_s, rate_hz, length)
    wet *= np.float32(5 * sound.reverb * rng.uniform(0.6, 1.4))
    spectrum += wet
    spectrum *= _tone(sound.highest_hz * rng.uniform(0.8, 1.15), sound.tilt_db + rng.gauss(0, 1.5), rate_hz, length)
    return scipy.fft.irfft(spectrum, length, axis=1)[:, :samples]


def _tone(highest_hz: float, tilt_db: float, rate_hz: int, length: int) -> npt.NDArray[np.float32]:
    """Return the gain of every bin: no sound below 30 Hz, a tilt about 800 Hz, and a gentle roll-off."""
    frequency = np.fft.rfftfreq(length, 1 / rate_hz).astype(np.float32)
    low_cut = frequency**4 / (frequency**4 + np.float32(30.0**4))
    ratio = frequency**2 / (frequency**2 + np.float32(800.0**2))
    tilt = np.exp((ratio - 0.5) * np.float32(tilt_db / 20 * np.log(10)))
    roll_off = 1 / np.sqrt(1 + (frequency / np.float32(highest_hz)) ** 8)
    return (low_cut * tilt * roll_off).astype(np.float32)


def _crackle(rng: random.Random, samples: int, level: float, rate_hz: int) -> Stereo:
    """Return the hiss and the clicks of an old record."""
    noise = np.random.default_rng(rng.getrandbits(32))
    sound = noise.standard_normal((2, samples), np.float32) * np.float32(level * 0.12)
    clicks = noise.integers(0, samples - 8, round(9 * samples / rate_hz))
    for at in clicks:
        sound[:, at : at + 4] += np.float32(noise.uniform(-4, 4) * level)
    return sound


def _master(mixed: Stereo, drive: float, rate_hz: int) -> Stereo:
    """Compress, bring to the common loudness, and round the peaks off."""
    # The level in blocks of 5 ms, smoothed over 60 ms, reduced 2:1 above the mean.
    block = rate_hz // 200
    blocks = -(-mixed.shape[1] // block)
    padded = np.pad(mixed, ((0, 0), (0, blocks * block - mixed.shape[1])))
    power = np.square(padded).reshape(2, blocks, block).mean((0, 2))
    window = np.hanning(14)[1:-1]
    smooth = np.sqrt(np.convolve(power, window / window.sum(), mode="same") + 1e-12)
    mean = np.sqrt(power.mean() + 1e-12)
    gain = np.maximum(smooth / mean, 1.0) ** -0.5
    centres = (np.arange(blocks) + 0.5) * block
    curve = np.interp(np.arange(mixed.shape[1]), centres, gain).astype(np.float32)
    mixed = mixed * curve
    mixed -= mixed.mean(axis=1, keepdims=True)
    mixed *= np.float32(10 ** (_LOUDNESS_DB / 20) / np.sqrt(np.square(mixed).mean() + 1e-12))
    # The harder a style is driven, the lower its peaks above its loudness.
    ceiling = np.float32(0.95 - 0.15 * min(1.0, drive))
    mixed = np.tanh(mixed / ceiling) * ceiling
    peak = float(np.abs(mixed).max())
    return (mixed * np.float32(min(1.0, _PEAK / max(peak, 1e-9)))).astype(np.float32)
