"""`dry_run=true`: what would be made and how large, from the heads of the files alone."""

import math
from pathlib import Path

from data_prep.places import is_url
from data_prep.tracks import Sources
from riffusion_train.config.prepare import PrepareConfig, Windows
from riffusion_train.config.spectrogram import Channels

_BYTES_A_PIXEL = 0.45
"""Of a grey PNG; 300 spectrograms of 512 x 512 pixels took 106 kB each."""


def estimate_lines(sources: Sources, config: PrepareConfig) -> list[str]:
    """Return the report: tracks, hours, slices, bytes, and what is rejected already."""
    usable = [track for track in sources.tracks if track.rejection is None]
    lengths_s = [declared_s(track.locator) for track in usable]
    known_s = [length for length in lengths_s if length is not None]
    slices = sum(_count_slices(length, config) for length in known_s)
    spectrogram = config.spectrogram
    layers = 1 if spectrogram.channels is Channels.mono else 2
    image_bytes = _BYTES_A_PIXEL * layers * spectrogram.n_mels * spectrogram.width_px
    lines = [
        f"{config.out} would hold about {slices} slices of {len(known_s)} tracks, {sum(known_s) / 3600:.2f} h of audio",
        f"  about {slices * image_bytes / 1e6:.0f} MB; twice as much is needed on the disk while it is made",
        f"  captions on {sum(bool(track.captions) for track in usable)} of {len(usable)} tracks",
    ]
    if len(known_s) < len(usable):
        lines.append(
            f"  {len(usable) - len(known_s)} files whose length the head does not tell, or behind URLs, are not counted"
        )
    rejected = [track for track in sources.tracks if track.rejection is not None]
    lines += [f"  rejected: {track.source}: {track.rejection.reason}" for track in rejected[:5] if track.rejection]
    return lines + ([f"  … and {len(rejected) - 5} more rejected"] if len(rejected) > 5 else [])


def declared_s(locator: str) -> float | None:
    """Return the seconds that the head of a local file declares; None where it cannot be told so."""
    import soundfile

    if is_url(locator) or not Path(locator).is_file():
        return None
    try:
        return float(soundfile.info(locator).duration)
    except (soundfile.SoundFileError, RuntimeError):
        return _container_s(locator)


def _container_s(path: str) -> float | None:
    import av

    try:
        with av.open(path) as container:
            return container.duration / av.time_base if container.duration and container.streams.audio else None
    except (av.FFmpegError, ValueError, OSError, UnicodeDecodeError):
        return None


def _count_slices(length_s: float, config: PrepareConfig) -> int:
    clip_s, stride_s = config.spectrogram.clip_s, config.clip_stride_s
    full = math.floor((length_s - clip_s) / stride_s) + 1 if length_s >= clip_s else 0
    rest_s = length_s - full * stride_s
    padded = int(config.windows is Windows.fixed and config.shortest_clip_s <= rest_s < clip_s)
    count = full + padded + (config.random_crops if full else 0)
    return count if config.max_slices_per_track is None else min(count, config.max_slices_per_track)
