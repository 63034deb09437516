"""Small folders of real audio with captions: tones, chords and noise in several formats."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

RATE_HZ = 44100
_SUBTYPES = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III")}


def tone(frequency_hz: float, duration_s: float, rate_hz: int = RATE_HZ, level: float = 0.3) -> npt.NDArray[np.float32]:
    """A decaying and returning tone with three partials, shape (1, samples): no two windows of it are the same."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    partials = sum(np.sin(2 * np.pi * frequency_hz * k * time_s) / k for k in (1, 2, 3))
    swell = 0.6 + 0.4 * np.cos(2 * np.pi * 0.31 * time_s)
    return (level * swell * partials / 1.8)[None].astype(np.float32)


def chord(root_hz: float, duration_s: float, rate_hz: int = RATE_HZ) -> npt.NDArray[np.float32]:
    """A major triad in stereo, shape (2, samples)."""
    left = tone(root_hz, duration_s, rate_hz, 0.15) + tone(root_hz * 1.25, duration_s, rate_hz, 0.15)
    right = tone(root_hz, duration_s, rate_hz, 0.15) + tone(root_hz * 1.5, duration_s, rate_hz, 0.15)
    return np.concatenate([left, right])


def noise(seed: int, duration_s: float, rate_hz: int = RATE_HZ) -> npt.NDArray[np.float32]:
    """White noise, shape (1, samples)."""
    samples = np.random.default_rng(seed).standard_normal((1, round(duration_s * rate_hz)))
    return (0.1 * samples).astype(np.float32)


def write_audio(path: Path, wav: npt.NDArray[np.float32], rate_hz: int = RATE_HZ) -> Path:
    """Write (channels, samples) in the format of the suffix: wav, flac, aiff, ogg, opus, mp3 or m4a."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".m4a":
        _write_aac(path, wav, rate_hz)
        return path
    container, subtype = _SUBTYPES.get(path.suffix, (None, None))
    soundfile.write(path, wav.T, rate_hz, format=container, subtype=subtype)
    return path


def write_track(path: Path, wav: npt.NDArray[np.float32], *captions: str, rate_hz: int = RATE_HZ) -> Path:
    """Write audio and, where captions are given, its `.txt` with one caption a line."""
    write_audio(path, wav, rate_hz)
    if captions:
        path.with_suffix(".txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    return path


def write_tones(folder: Path, count: int, duration_s: float = 5.2, suffix: str = ".wav", rate_hz: int = 22050) -> Path:
    """Write `count` captioned tones, `tone-000` and so on. Returns the folder."""
    for index in range(count):
        frequency_hz = 110 * 2 ** (index % 36 / 12)
        wav = tone(frequency_hz, duration_s, rate_hz, 0.2 + 0.001 * index)
        write_track(folder / f"tone-{index:03d}{suffix}", wav, f"a tone at {frequency_hz:.0f} Hz", rate_hz=rate_hz)
    return folder


def _write_aac(path: Path, wav: npt.NDArray[np.float32], rate_hz: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="stereo" if wav.shape[0] == 2 else "mono")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wav), format="fltp", layout="stereo" if wav.shape[0] == 2 else "mono"
        )
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
