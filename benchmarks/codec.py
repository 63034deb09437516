"""The codec compared with the original's: sound, speed, and the sound of images with the errors of a model.

Times are CPU seconds of one thread. The methods alternate on each clip, and each runs once before it is measured, to compile
and allocate.
"""

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.clips import RATE_HZ, Clip, make_clips
from benchmarks.codec_formats import stereo_rows, width_rows
from benchmarks.original import OriginalCodec
from benchmarks.report import Goal, Row
from benchmarks.timing import alternate, timed
from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.compare import SoundDistance, compare_sounds
from riffusion_train.config.spectrogram import load_preset

_ENCODINGS = 5
_QUICK_PX = 64
_QUICK_CLIPS = ("tender_electronic_1", "rendered piano")
_SLOW_CLIPS = 2
_AS_SHIPPED_CLIPS = 2
_WARM_UP_SAMPLES = 30_000

_PRESETS = ("riffusion_v1", "hifi")
_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{preset} {method}": (preset, options)
    for preset in _PRESETS
    for method, options in {
        "draft": {"quality": "draft"},
        "normal": {},
        "best": {"quality": "best"},
        "fast_griffin_lim": {"inverter": "fast_griffin_lim"},
        "griffin_lim": {"inverter": "griffin_lim"},
    }.items()
}
_DAMAGES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "noise of 2/255": lambda image, seed: _with_noise(image, 2, seed),
    "noise of 4/255": lambda image, seed: _with_noise(image, 4, seed),
    "24 kB bottleneck": lambda image, seed: _through_bottleneck(image, 24),
    "12 kB bottleneck": lambda image, seed: _through_bottleneck(image, 12),
}
_REFERENCE_DAMAGES = ("24 kB bottleneck",)  # the original's decoder takes ten seconds per clip

_GOALS = {
    ("riffusion_v1 normal", "log_mel_10k_db"): (Goal.ratio_at_most, 0.5),
    ("hifi normal", "log_mel_db"): (Goal.ours_at_most, 0.35),
}
# For music only: a mel image does not hold the fine structure of noise, so no decoder can reach this for noise.
_MUSIC_LIMITS = {"hifi normal": 0.075, "hifi best": 0.05}
_METRICS = {
    "log_mel_db": ("log-mel error 0-16 kHz", "dB"),
    "log_mel_10k_db": ("log-mel error 0-10 kHz", "dB"),
    "spectral_convergence": ("spectral convergence", "1"),
    "multi_resolution_stft": ("multi-resolution STFT", "1"),
}
"""Names and units of the attributes of `SoundDistance`."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One decoded clip: the CPU seconds it took, and its distance from the original sound."""

    seconds: float
    distance: SoundDistance


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: Use two short clips and leave out what takes minutes, to show that it runs.
        max_clips: Use at most this many clips, spread over the set, and leave out the original as shipped. Saves most of
            the ten minutes.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width_px = _QUICK_PX if quick else 512
    clips = make_clips((width_px - 1) * 441, _QUICK_CLIPS) if quick else make_clips()
    clips = clips[:: -(-len(clips) // (max_clips or len(clips)))]
    original = OriginalCodec()
    codecs = {
        preset: make_codec(dataclasses.replace(load_preset(preset), width_px=width_px)) for preset in _PRESETS
    }  # fmt: skip
    rows = list(_encoding(clips, codecs, original))
    outcomes = _decode_all(clips, codecs, original)
    duration_s = clips[0].wav.shape[1] / RATE_HZ
    rows += [*_speed(outcomes, duration_s), *_sound(outcomes, clips), *_inverters(outcomes)]
    rows += _damaged(clips, codecs, original, quick)
    if not quick and max_clips is None:
        rows += _as_shipped(clips[:_AS_SHIPPED_CLIPS], codecs["riffusion_v1"], original)
    rows += stereo_rows(clips[:1] if quick else clips)
    return rows + width_rows(quick)


def _encoding(clips: Sequence[Clip], codecs: dict[str, SpectrogramCodec], original: OriginalCodec) -> Iterator[Row]:
    times: dict[str, list[float]] = {name: [] for name in ("original", *codecs)}
    equal, largest = [], []
    for clip in clips:
        mono = clip.mono
        for codec in codecs.values():
            codec.encode(mono)
        encoders = {"original": original.encode, **{name: codec.encode for name, codec in codecs.items()}}
        # The number of the repeat is not used: each encodes the same clip again.
        methods = {name: lambda _, encode=encode, mono=mono: encode(mono) for name, encode in encoders.items()}
        for name, seconds in alternate(methods, _ENCODINGS).items():
            times[name].append(float(np.median(seconds)))
        difference = np.abs(original.encode(mono).astype(int) - codecs["riffusion_v1"].encode(mono).image)
        equal.append(float((difference == 0).mean()))
        largest.append(float(difference.max()))
    for name, speedup in (("riffusion_v1", 1.3), ("hifi", 4.0)):
        yield Row(
            f"{name} encode", "CPU s per clip", times[name], times["original"], Goal.speedup_at_least, speedup,
            median=True,
        )  # fmt: skip
    yield Row("riffusion_v1 pixels equal to the original's", "share", equal, (), Goal.ours_at_least, 0.9995)
    yield Row("riffusion_v1 largest pixel difference", "levels of 255", [max(largest)], (), Goal.ours_at_most, 1)


def _decode_all(
    clips: Sequence[Clip], codecs: dict[str, SpectrogramCodec], original: OriginalCodec
) -> dict[str, list[Outcome]]:
    """Decode every clip with every method, alternating; `original` and its `phase alone` are the references."""
    outcomes: dict[str, list[Outcome]] = {}
    warm_up = Clip("warm-up", clips[0].wav[:, :_WARM_UP_SAMPLES])
    for index, clip in enumerate([warm_up, *clips]):
        decoded = _decode_by_original(clip, original)
        for method, (preset, options) in _METHODS.items():
            if method.endswith(" griffin_lim") and not 0 < index <= _SLOW_CLIPS:
                continue
            encoded = codecs[preset].encode_long(clip.mono)
            wav, seconds = timed(partial(codecs[preset].decode, encoded.image, encoded.max_value, **options))
            decoded[method] = Outcome(seconds, _distance(clip, wav))
        if index > 0:
            for method, outcome in decoded.items():
                outcomes.setdefault(method, []).append(outcome)
    return outcomes


def _decode_by_original(clip: Clip, original: OriginalCodec) -> dict[str, Outcome]:
    image = original.encode(clip.mono)
    magnitudes, mel_s = timed(lambda: original.magnitudes(image))
    wav, phase_s = timed(lambda: original.phase(magnitudes))
    distance = _distance(clip, wav)
    return {"original": Outcome(mel_s + phase_s, distance), "phase alone": Outcome(phase_s, distance)}


def _distance(clip: Clip, wav: np.ndarray) -> SoundDistance:
    return compare_sounds(clip.mono, RATE_HZ, wav, RATE_HZ)


def _speed(outcomes: dict[str, list[Outcome]], duration_s: float) -> Iterator[Row]:
    seconds = {method: [outcome.seconds for outcome in decoded] for method, decoded in outcomes.items()}
    unit = "CPU s per clip"
    for method, speedup in (("riffusion_v1 normal", 7.0), ("hifi normal", 12.0)):
        yield Row(
            f"{method} decode", unit, seconds[method], seconds["original"], Goal.speedup_at_least, speedup, median=True
        )
    yield Row(
        "riffusion_v1 normal decode, against Griffin-Lim alone", unit,
        seconds["riffusion_v1 normal"], seconds["phase alone"], Goal.speedup_at_least, 7, median=True,
    )  # fmt: skip
    for preset in _PRESETS:
        for quality, limit in (("draft", 0.06), ("normal", 0.15), ("best", 0.0)):
            ours, reference = (
                [value / duration_s for value in seconds[name]] for name in (f"{preset} {quality}", "original")
            )
            goal = Goal.ours_at_most if limit else None
            what = f"{preset} {quality} real-time factor of decode"
            yield Row(what, "CPU s per second", ours, reference, goal, limit, median=True)


def _sound(outcomes: dict[str, list[Outcome]], clips: Sequence[Clip]) -> Iterator[Row]:
    for preset in _PRESETS:
        for quality in ("draft", "normal", "best"):
            method = f"{preset} {quality}"
            for metric, (name, unit) in _METRICS.items():
                goal, limit = _GOALS.get((method, metric), (None, 0.0))
                ours, reference = (_values(_distances(outcomes[key]), metric) for key in (method, "original"))
                yield Row(f"{method} {name}", unit, ours, reference, goal, limit)
    is_music = [clip.is_music for clip in clips]
    for method, limit in _MUSIC_LIMITS.items():
        ours, reference = (
            list(itertools.compress(_values(_distances(outcomes[key]), "spectral_convergence"), is_music))
            for key in (method, "original")
        )
        yield Row(f"{method} spectral convergence, music only", "1", ours, reference, Goal.ours_at_most, limit)
    gains = [abs(outcome.distance.gain_db) for outcome in outcomes["hifi normal"]]
    yield Row("hifi normal level error", "dB", gains)


def _inverters(outcomes: dict[str, list[Outcome]]) -> Iterator[Row]:
    for preset in _PRESETS:
        for inverter in ("fast_griffin_lim", "griffin_lim"):
            decoded = outcomes[f"{preset} {inverter}"]
            normal = outcomes[f"{preset} normal"][: len(decoded)]
            what = f"{preset} inverter={inverter}, against pghi:"
            times, references = ([outcome.seconds for outcome in part] for part in (decoded, normal))
            yield Row(f"{what} decode", "CPU s per clip", times, references, median=True)
            for metric in ("log_mel_10k_db", "spectral_convergence"):
                name, unit = _METRICS[metric]
                ours, reference = (_values(_distances(part), metric) for part in (decoded, normal))
                yield Row(f"{what} {name}", unit, ours, reference)


def _distances(outcomes: Sequence[Outcome]) -> list[SoundDistance]:
    return [outcome.distance for outcome in outcomes]


def _values(distances: Sequence[SoundDistance], metric: str) -> list[float]:
    return [float(getattr(distance, metric)) for distance in distances]


def _damaged(
    clips: Sequence[Clip], codecs: dict[str, SpectrogramCodec], original: OriginalCodec, quick: bool
) -> Iterator[Row]:
    for damage, apply in _DAMAGES.items():
        distances: dict[str, list[SoundDistance]] = {name: [] for name in ("original", *codecs)}
        for seed, clip in enumerate(clips):
            for name, codec in codecs.items():
                encoded = codec.encode(clip.mono)
                wav = codec.decode(apply(encoded.image, seed), encoded.max_value)
                distances[name].append(_distance(clip, wav))
            if damage in _REFERENCE_DAMAGES and not quick:
                wav = original.decode(apply(original.encode(clip.mono), seed))
                distances["original"].append(_distance(clip, wav))
        for name in codecs:
            for metric in ("log_mel_db", "log_mel_10k_db", "spectral_convergence"):
                has_goal = name == "hifi" and damage == "noise of 4/255" and metric == "log_mel_db"
                goal, limit = (Goal.ours_at_most, 0.8) if has_goal else (None, 0.0)
                what, unit = _METRICS[metric]
                ours, reference = (_values(distances[key], metric) for key in (name, "original"))
                yield Row(f"{name} normal after {damage}: {what}", unit, ours, reference, goal, limit)


def _with_noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Add Gaussian noise of `sigma` levels of 255, rounded and clipped as in an image file."""
    added = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.rint(image + added).clip(0, 255).astype(np.uint8)


def _through_bottleneck(image: np.ndarray, kilobytes: float) -> np.ndarray:
    """Encode an image as the best JPEG of at most this size, without chroma subsampling, and decode it.

    The size is fixed and not the quality, as a VAE has the same number of latents for every image.
    """
    low, high = 1, 100
    best = _jpeg(image, low)
    while low <= high:  # bisection of the quality
        quality = (low + high) // 2
        data = _jpeg(image, quality)
        if len(data) <= 1000 * kilobytes:
            best, low = data, quality + 1
        else:
            high = quality - 1
    with PIL.Image.open(io.BytesIO(best)) as file:
        return np.asarray(file)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def _as_shipped(clips: Sequence[Clip], codec: SpectrogramCodec, original: OriginalCodec) -> Iterator[Row]:
    """Compare with the mel inversion that the original shipped with, on a few clips: it takes half a minute each."""
    outcomes: tuple[list[Outcome], list[Outcome]] = ([], [])
    for clip in clips:
        encoded, image = codec.encode(clip.mono), original.encode(clip.mono)
        decoders = (
            partial(codec.decode, encoded.image, encoded.max_value),
            partial(original.decode, image, as_shipped=True),
        )
        for decode, decoded in zip(decoders, outcomes, strict=True):
            wav, seconds = timed(decode)
            decoded.append(Outcome(seconds, _distance(clip, wav)))
    ours, reference = ([outcome.seconds for outcome in decoded] for decoded in outcomes)
    yield Row(
        "riffusion_v1 normal decode, against the original as shipped", "CPU s per clip", ours, reference, median=True
    )
    for metric in ("log_mel_10k_db", "spectral_convergence"):
        name, unit = _METRICS[metric]
        ours, reference = (_values(_distances(decoded), metric) for decoded in outcomes)
        yield Row(f"riffusion_v1 normal {name}, against the original as shipped", unit, ours, reference)
