"""Does a wide image sound as good as one of 512 columns? The original lost 9 dB of bass at 1536.

The moments around the ends of the narrowest images are left out of all of them: there, a narrow image knows less.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from benchmarks.clips import load_track
from benchmarks.report import Goal, Row
from riffusion_train.audio.codec.codec import make_codec
from riffusion_train.audio.compare import BAND_EDGES_HZ, SoundDistance, compare_sounds
from riffusion_train.config.spectrogram import load_preset

_TRACKS = ("happy_acoustic_2", "energetic_electronic_s411")
_WIDTHS_PX = (512, 1536, 5120)
_QUICK_WIDTHS_PX = (64, 192)
_LIMIT_DB = 0.1
_EDGE_S = 0.15
_RATE_HZ = 44100


def width_rows(quick: bool) -> list[Row]:
    """Cut one long sound into images of several widths, and compare each band's error and level with the narrowest's."""
    widths = _QUICK_WIDTHS_PX if quick else _WIDTHS_PX
    wav = np.concatenate([load_track(name) for name in _TRACKS], 1).mean(0, keepdims=True)
    wav = wav[:, 5 * _RATE_HZ :][:, : (widths[-1] - 1) * 441]
    return [row for preset in ("riffusion_v1", "hifi") for row in _rows(preset, wav, widths)]


def _rows(preset: str, wav: np.ndarray, widths: tuple[int, ...]) -> Iterator[Row]:
    narrow, *wide = (_decoded_in_pieces(preset, wav, width, (widths[0] - 1) * 441) for width in widths)
    for width, found in zip(widths[1:], wide, strict=True):
        for band, (low, high) in enumerate(itertools.pairwise(BAND_EDGES_HZ)):
            if low >= load_preset(preset).f_max_hz:
                continue
            what = f"{preset} {width} px wide, against {widths[0]} px, {low}-{high} Hz:"
            yield Row(
                f"{what} log-mel error", "dB", [found.band_log_mel_db[band]], [narrow.band_log_mel_db[band]],
                Goal.apart_at_most, _LIMIT_DB,
            )  # fmt: skip
            yield Row(
                f"{what} level", "dB", [found.band_level_db[band]], [narrow.band_level_db[band]],
                Goal.apart_at_most, _LIMIT_DB,
            )  # fmt: skip


def _decoded_in_pieces(preset: str, wav: np.ndarray, width_px: int, shortest: int) -> SoundDistance:
    codec = make_codec(dataclasses.replace(load_preset(preset), width_px=width_px))
    pieces = []
    for start in range(0, wav.shape[1], codec.clip_samples):
        encoded = codec.encode(wav[:, start : start + codec.clip_samples])
        pieces.append(codec.decode(encoded.image, encoded.max_value))
    decoded = np.concatenate(pieces, 1)[:, : wav.shape[1]]
    inner, decoded_inner = (_without_edges(sound, shortest) for sound in (wav, decoded))
    return compare_sounds(inner, _RATE_HZ, decoded_inner, _RATE_HZ, match_level=False)


def _without_edges(wav: np.ndarray, shortest: int) -> np.ndarray:
    edge = round(_EDGE_S * _RATE_HZ)
    starts = range(0, wav.shape[1], shortest)
    return np.concatenate([wav[:, start + edge : start + shortest - edge] for start in starts], 1)
