"""The codec beside the original's: sound, speed, and what is left of the sound after a model has been at the image.

Times are CPU seconds of one thread; the methods take turns on each clip, so that a ratio is one of neighbours in time. The
first clip is run once before, unmeasured: it compiles and allocates.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.clips import Clip, make_clips
from benchmarks.codec_stereo import stereo_rows
from benchmarks.codec_width import width_rows
from benchmarks.damage import bottleneck, noise
from benchmarks.original import OriginalCodec
from benchmarks.report import Goal, Row
from riffusion_train.audio.codec.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.compare import SoundDistance, compare_sounds
from riffusion_train.config.spectrogram import load_preset

RATE_HZ = 44100
_ENCODINGS = 5
_QUICK_PX = 64
_QUICK_CLIPS = ("tender_electronic_1", "rendered piano")
_SLOW_CLIPS = 2
_AS_SHIPPED_CLIPS = 2
_WARM_UP_SAMPLES = 30_000

_PRESETS = ("riffusion_v1", "hifi")
_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{preset} {words}": (preset, options)
    for preset in _PRESETS
    for words, options in {
        "draft": {"quality": "draft"},
        "normal": {},
        "best": {"quality": "best"},
        "fast_griffin_lim": {"inverter": "fast_griffin_lim"},
        "griffin_lim": {"inverter": "griffin_lim"},
    }.items()
}
_DAMAGES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "noise of 2/255": lambda image, seed: noise(image, 2, seed),
    "noise of 4/255": lambda image, seed: noise(image, 4, seed),
    "24 kB bottleneck": lambda image, seed: bottleneck(image, 24),
    "12 kB bottleneck": lambda image, seed: bottleneck(image, 12),
}
_REFERENCE_DAMAGES = ("24 kB bottleneck",)  # ten seconds a clip each


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One decoded clip: how long it took, and how far it is from the clip."""

    seconds: float
    distance: SoundDistance


def run(*, quick: bool = False, most_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: Take two short clips and leave out what takes minutes, to show that it runs.
        most_clips: Take no more than this many clips, spread over the set, and leave out the original as shipped, for a
            machine that has no ten minutes.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width_px = _QUICK_PX if quick else 512
    clips = make_clips((width_px - 1) * 441, _QUICK_CLIPS) if quick else make_clips()
    clips = clips[:: -(-len(clips) // (most_clips or len(clips)))]
    original = OriginalCodec()
    codecs = {
        preset: make_codec(dataclasses.replace(load_preset(preset), width_px=width_px)) for preset in _PRESETS
    }  # fmt: skip
    rows = list(_encoding(clips, codecs, original))
    outcomes = _decode_all(clips, codecs, original)
    duration_s = clips[0].wav.shape[1] / RATE_HZ
    rows += [*_speed(outcomes, duration_s), *_sound(outcomes, clips), *_inverters(outcomes)]
    rows += _damaged(clips, codecs, original, quick)
    if not quick and most_clips is None:
        rows += _as_shipped(clips[:_AS_SHIPPED_CLIPS], codecs["riffusion_v1"], original)
    rows += stereo_rows(clips[:1] if quick else clips)
    return rows + width_rows(quick)


def cpu_seconds(work: Callable[[np.ndarray], Any], wav: np.ndarray) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    work(wav)
    return time.process_time() - start


def _encoding(clips: Sequence[Clip], codecs: dict[str, SpectrogramCodec], original: OriginalCodec) -> Iterator[Row]:
    times: dict[str, list[float]] = {name: [] for name in ("original", *codecs)}
    equal, largest = [], []
    for clip in clips:
        for codec in codecs.values():
            codec.encode(clip.mono)
        runs: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(_ENCODINGS):
            runs["original"].append(cpu_seconds(original.encode, clip.mono))
            for name, codec in codecs.items():
                runs[name].append(cpu_seconds(codec.encode, clip.mono))
        for name, seconds in runs.items():
            times[name].append(float(np.median(seconds)))
        apart = np.abs(original.encode(clip.mono).astype(int) - codecs["riffusion_v1"].encode(clip.mono).image)
        equal.append(float((apart == 0).mean()))
        largest.append(float(apart.max()))
    for name, speedup in (("riffusion_v1", 1.3), ("hifi", 4.0)):
        yield Row(
            f"{name} encode",
            "CPU s a clip",
            times[name],
            times["original"],
            Goal.speedup_at_least,
            speedup,
            median=True,
        )
    yield Row("riffusion_v1 pixels equal to the original's", "share", equal, (), Goal.ours_at_least, 0.9995)
    yield Row("riffusion_v1 largest difference of a pixel", "levels of 255", [max(largest)], (), Goal.ours_at_most, 1)


def _decode_all(
    clips: Sequence[Clip], codecs: dict[str, SpectrogramCodec], original: OriginalCodec
) -> dict[str, list[Outcome]]:
    """Decode every clip by every method, in turns; `original` and its `phase alone` are the references."""
    outcomes: dict[str, list[Outcome]] = {}
    warm_up = Clip("warm-up", clips[0].wav[:, :_WARM_UP_SAMPLES])
    for index, clip in enumerate([warm_up, *clips]):
        found = _decode_by_original(clip, original)
        for method, (preset, options) in _METHODS.items():
            if method.endswith(" griffin_lim") and not 0 < index <= _SLOW_CLIPS:
                continue
            encoded = codecs[preset].encode_long(clip.mono)
            start = time.process_time()
            wav = codecs[preset].decode(encoded.image, encoded.max_value, **options)
            found[method] = Outcome(time.process_time() - start, _distance(clip, wav))
        if index > 0:
            for method, outcome in found.items():
                outcomes.setdefault(method, []).append(outcome)
    return outcomes


def _decode_by_original(clip: Clip, original: OriginalCodec) -> dict[str, Outcome]:
    image = original.encode(clip.mono)
    start = time.process_time()
    magnitudes = original.magnitudes(image)
    middle = time.process_time()
    wav = original.phase(magnitudes)
    end = time.process_time()
    distance = _distance(clip, wav)
    return {"original": Outcome(end - start, distance), "phase alone": Outcome(end - middle, distance)}


def _distance(clip: Clip, wav: np.ndarray) -> SoundDistance:
    return compare_sounds(clip.mono, RATE_HZ, wav, RATE_HZ)


def _speed(outcomes: dict[str, list[Outcome]], duration_s: float) -> Iterator[Row]:
    seconds = {method: [outcome.seconds for outcome in found] for method, found in outcomes.items()}
    unit = "CPU s a clip"
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
            yield Row(
                f"{preset} {quality} real-time factor of decode",
                "CPU s a second",
                ours,
                reference,
                goal,
                limit,
                median=True,
            )


_GOALS = {
    ("riffusion_v1 normal", "log_mel_10k_db"): (Goal.ratio_at_most, 0.5),
    ("hifi normal", "log_mel_db"): (Goal.ours_at_most, 0.35),
}
# A share of the whole, so that it cannot be asked of noise: a mel picture does not hold its fine structure.
_MUSIC_GOALS = {"hifi normal": 0.075, "hifi best": 0.05}
_FIGURES = {
    "log_mel_db": ("log-mel error 0-16 kHz", "dB"),
    "log_mel_10k_db": ("log-mel error 0-10 kHz", "dB"),
    "spectral_convergence": ("spectral convergence", "1"),
    "multi_resolution_stft": ("multi-resolution STFT", "1"),
}


def _sound(outcomes: dict[str, list[Outcome]], clips: Sequence[Clip]) -> Iterator[Row]:
    for preset in _PRESETS:
        for quality in ("draft", "normal", "best"):
            method = f"{preset} {quality}"
            for figure, (name, unit) in _FIGURES.items():
                goal, limit = _GOALS.get((method, figure), (None, 0.0))
                ours, reference = _values(outcomes[method], figure), _values(outcomes["original"], figure)
                yield Row(f"{method} {name}", unit, ours, reference, goal, limit)
    for method, limit in _MUSIC_GOALS.items():
        ours, reference = (
            [
                value
                for value, clip in zip(_values(outcomes[name], "spectral_convergence"), clips, strict=True)
                if clip.is_music
            ]
            for name in (method, "original")
        )
        yield Row(f"{method} spectral convergence, of the music", "1", ours, reference, Goal.ours_at_most, limit)
    gains = [abs(outcome.distance.gain_db) for outcome in outcomes["hifi normal"]]
    yield Row("hifi normal level is off by", "dB", gains)


def _inverters(outcomes: dict[str, list[Outcome]]) -> Iterator[Row]:
    for preset in _PRESETS:
        for inverter in ("fast_griffin_lim", "griffin_lim"):
            found = outcomes[f"{preset} {inverter}"]
            normal = outcomes[f"{preset} normal"][: len(found)]
            what = f"{preset} inverter={inverter}, against pghi:"
            times, references = ([outcome.seconds for outcome in part] for part in (found, normal))
            yield Row(f"{what} decode", "CPU s a clip", times, references, median=True)
            for figure in ("log_mel_10k_db", "spectral_convergence"):
                name, unit = _FIGURES[figure]
                yield Row(f"{what} {name}", unit, _values(found, figure), _values(normal, figure))


def _values(outcomes: Sequence[Outcome], figure: str) -> list[float]:
    return [float(getattr(outcome.distance, figure)) for outcome in outcomes]


def _damaged(
    clips: Sequence[Clip], codecs: dict[str, SpectrogramCodec], original: OriginalCodec, quick: bool
) -> Iterator[Row]:
    for damage, apply in _DAMAGES.items():
        found: dict[str, list[SoundDistance]] = {name: [] for name in ("original", *codecs)}
        for seed, clip in enumerate(clips):
            for name, codec in codecs.items():
                encoded = codec.encode(clip.mono)
                wav = codec.decode(apply(encoded.image, seed), encoded.max_value)
                found[name].append(_distance(clip, wav))
            if damage in _REFERENCE_DAMAGES and not quick:
                found["original"].append(_distance(clip, original.decode(apply(original.encode(clip.mono), seed))))
        for name in codecs:
            for figure in ("log_mel_db", "log_mel_10k_db", "spectral_convergence"):
                asked = name == "hifi" and damage == "noise of 4/255" and figure == "log_mel_db"
                what, unit = _FIGURES[figure]
                ours, reference = ([float(getattr(item, figure)) for item in found[key]] for key in (name, "original"))
                goal = Goal.ours_at_most if asked else None
                yield Row(f"{name} normal after {damage}: {what}", unit, ours, reference, goal, 0.8 if asked else 0.0)


def _as_shipped(clips: Sequence[Clip], codec: SpectrogramCodec, original: OriginalCodec) -> Iterator[Row]:
    """Measure against the mel inversion that the original shipped with, on a few clips: it takes half a minute each."""
    times: tuple[list[float], list[float]] = ([], [])
    found: tuple[list[SoundDistance], list[SoundDistance]] = ([], [])
    for clip in clips:
        encoded, image = codec.encode(clip.mono), original.encode(clip.mono)
        works = (
            lambda encoded=encoded: codec.decode(encoded.image, encoded.max_value),
            lambda image=image: original.decode(image, as_shipped=True),
        )
        for place, work in enumerate(works):
            start = time.process_time()
            wav = work()
            times[place].append(time.process_time() - start)
            found[place].append(_distance(clip, wav))
    yield Row("riffusion_v1 normal decode, against the original as shipped", "CPU s a clip", *times, median=True)
    for figure in ("log_mel_10k_db", "spectral_convergence"):
        name, unit = _FIGURES[figure]
        ours, reference = ([float(getattr(item, figure)) for item in part] for part in found)
        yield Row(f"riffusion_v1 normal {name}, against the original as shipped", unit, ours, reference)
