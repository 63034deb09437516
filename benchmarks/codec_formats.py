"""Stereo images compared with separate channels, and wide images with narrow ones."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.clips import RATE_HZ, Clip, load_track
from benchmarks.report import Goal, Row
from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.compare import BAND_EDGES_HZ, SoundDistance, compare_sounds
from riffusion_train.config.spectrogram import load_preset

_HOP_LENGTH = 441
_LONG_TRACKS = ("happy_acoustic_2", "energetic_electronic_s411")
_LONG_START_S = 5
_WIDTHS_PX = (512, 1536, 5120)
_QUICK_WIDTHS_PX = (64, 192)
_WIDTH_LIMIT_DB = 0.1
_EDGE_S = 0.15


def stereo_rows(clips: Sequence[Clip]) -> list[Row]:
    """Measure how well `hifi_stereo` preserves the stereo clips of a set.

    The reference decodes left and right separately, as the original does.
    """
    wide = [clip for clip in clips if not np.array_equal(*clip.wav)]
    preset = dataclasses.replace(load_preset("hifi_stereo"), width_px=wide[0].wav.shape[1] // _HOP_LENGTH + 1)
    stereo = make_codec(preset)
    mono = make_codec(dataclasses.replace(load_preset("hifi"), width_px=preset.width_px))
    together, separate = [], []
    for clip in wide:
        encoded = stereo.encode(clip.wav)
        wav = stereo.decode(encoded.image, encoded.max_value)
        together.append(compare_sounds(clip.wav, RATE_HZ, wav, RATE_HZ))
        sides = []
        for channel, side in enumerate(clip.wav):
            encoded = mono.encode(side[None])
            sides.append(mono.decode(encoded.image, encoded.max_value, seed=channel))
        separate.append(compare_sounds(clip.wav, RATE_HZ, np.concatenate(sides), RATE_HZ))

    def row(metric: str, what: str, unit: str, goal: Goal | None = None, limit: float = 0.0) -> Row:
        ours, reference = ([float(getattr(item, metric)) for item in items] for items in (together, separate))
        return Row(f"hifi_stereo {what}, against separate channels", unit, ours, reference, goal, limit)

    return [
        row("coherence_error", "inter-channel coherence error", "1", Goal.ours_at_most, 0.05),
        row("log_mel_db", "log-mel error 0-16 kHz", "dB"),
        row("spectral_convergence", "spectral convergence", "1"),
    ]


def width_rows(quick: bool) -> list[Row]:
    """Cut one long sound into images of several widths, and compare the error and level of each band with the narrowest's.

    The original lost 9 dB of bass at 1536 columns. The moments around the ends of the narrowest images are left out for all
    widths, because a narrow image holds less of them.
    """
    widths = _QUICK_WIDTHS_PX if quick else _WIDTHS_PX
    wav = np.concatenate([load_track(name) for name in _LONG_TRACKS], 1).mean(0, keepdims=True)
    wav = wav[:, _LONG_START_S * RATE_HZ :][:, : (widths[-1] - 1) * _HOP_LENGTH]
    return [row for preset in ("riffusion_v1", "hifi") for row in _width_rows(preset, wav, widths)]


def _width_rows(preset: str, wav: np.ndarray, widths: tuple[int, ...]) -> Iterator[Row]:
    narrow, *wide = (_decode_in_pieces(preset, wav, width, (widths[0] - 1) * _HOP_LENGTH) for width in widths)
    for width, distance in zip(widths[1:], wide, strict=True):
        for band, (low, high) in enumerate(itertools.pairwise(BAND_EDGES_HZ)):
            if low >= load_preset(preset).f_max_hz:
                continue
            what = f"{preset} {width} px wide, against {widths[0]} px, {low}-{high} Hz:"
            for name, metric in (("log-mel error", "band_log_mel_db"), ("level", "band_level_db")):
                ours, reference = (float(getattr(item, metric)[band]) for item in (distance, narrow))
                yield Row(f"{what} {name}", "dB", [ours], [reference], Goal.difference_at_most, _WIDTH_LIMIT_DB)


def _decode_in_pieces(preset: str, wav: np.ndarray, width_px: int, shortest: int) -> SoundDistance:
    codec = make_codec(dataclasses.replace(load_preset(preset), width_px=width_px))
    pieces = []
    for start in range(0, wav.shape[1], codec.clip_samples):
        encoded = codec.encode(wav[:, start : start + codec.clip_samples])
        pieces.append(codec.decode(encoded.image, encoded.max_value))
    decoded = np.concatenate(pieces, 1)[:, : wav.shape[1]]
    inner, decoded_inner = (_without_edges(sound, shortest) for sound in (wav, decoded))
    return compare_sounds(inner, RATE_HZ, decoded_inner, RATE_HZ, match_level=False)


def _without_edges(wav: np.ndarray, shortest: int) -> np.ndarray:
    """Cut away the moments around each multiple of `shortest` samples."""
    edge = round(_EDGE_S * RATE_HZ)
    starts = range(0, wav.shape[1], shortest)
    return np.concatenate([wav[:, start + edge : start + shortest - edge] for start in starts], 1)
