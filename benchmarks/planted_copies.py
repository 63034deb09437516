"""Is a copy of the training data noticed? Copies of five kinds are planted among new music, and the search must find them."""

import dataclasses
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soxr

from benchmarks.report import Goal, Row
from benchmarks.timing import timed
from data_prep.corpus import write_music
from riffusion_train.audio.codec import SpectrogramCodec
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.listening.copies import CopySearch, TrainingSlices, band_centres_hz
from riffusion_train.runtime.files import write_json

KINDS = ("exact", "shifted", "transposed", "re-encoded", "mixed")
"""A copy as it is, .7 s later, one semitone higher, through MP3 at 64 kbit/s, and under other music at -6 dB."""
SHIFT_S = 0.7
SEMITONES = 1
BIT_RATE = 64_000
MIX_DB = -6.0

WORK = Path("runs/benchmark-copies")
PRESETS = ("tiny", "small", "laptop", "hifi")
NUM_CLIPS, TRAINING, COPIES = 600, 300, 40
"""Clips that are composed, how many of them are training slices, and how many of these are copied in each kind."""
FEW_SLICES, DRAWS = 90, 12
"""A small training set, and how many are drawn."""
_LEAST_FOUND, _MOST_FLAGGED = 0.9, 0.015
_LARGE_SLICES, _LARGE_CLIPS = 10_000, 200

Wav = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well copies of one kind are told from new music.

    Attributes:
        kind: One of `KINDS`.
        copies: Number of planted copies.
        flagged: Share that the search calls copies.
        at_one_percent: Share above the similarity that 1 % of the new clips exceed.
        right_slice: Share whose nearest slice is the one that was copied.
        area: Area under the ROC: the chance that a copy is more similar to a slice than a new clip is.
        similarity: Median similarity to the nearest slice.
        roc: Share of copies found at each share of new clips flagged, [[false positives, true positives], …].
    """

    kind: str
    copies: int
    flagged: float
    at_one_percent: float
    right_slice: float
    area: float
    similarity: float
    roc: list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        detections: One for each kind.
        threshold: Similarity above which the search calls a clip a copy.
        new_flagged: Share of the new clips that it calls copies.
        new_similarity: Median similarity of new clips to their nearest slice.
    """

    detections: list[Detection]
    threshold: float
    new_flagged: float
    new_similarity: float


def plant(kind: str, wav: Wav, other: Wav, rate_hz: int) -> Wav:
    """Return a copy of a sound, as long as the sound.

    Args:
        kind: One of `KINDS`.
        wav: The sound that is copied, (samples,).
        other: Other music of the same length: what comes before a shifted copy, and what is mixed with one.
        rate_hz: Sample rate of both.
    """
    if kind == "shifted":
        shift = round(SHIFT_S * rate_hz)
        return np.concatenate([other[:shift], wav[: len(wav) - shift]])
    if kind == "transposed":
        from librosa.effects import pitch_shift

        return np.asarray(pitch_shift(wav, sr=rate_hz, n_steps=SEMITONES), np.float32)
    if kind == "re-encoded":
        return _through_mp3(wav, rate_hz)
    if kind == "mixed":
        gain = 10 ** (MIX_DB / 20) * np.sqrt(np.mean(wav**2) / max(float(np.mean(other**2)), 1e-9))
        return np.asarray(wav + gain * other, np.float32)
    return wav


def calibrate(
    training: Sequence[Wav],
    tracks: Sequence[str],
    new: Sequence[Wav],
    codec: SpectrogramCodec,
    copies: int,
    *,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Calibration:
    """Plant copies of training slices among new music and search for all of them.

    Args:
        training: The sounds of the training slices at the codec's rate, (samples,) each.
        tracks: The track of each.
        new: Music of the same kind that is not in the training set.
        codec: The codec of the images.
        copies: Number of slices that are copied, once in each kind.
        kinds: Which of `KINDS` to plant.
        seed: Seed of the choice of the slices, and of the search.
    """
    config = codec.config
    search = CopySearch(_slices([_image(codec, wav) for wav in training], tracks, codec), seed=seed)
    found = search.find([_image(codec, wav) for wav in new])
    by_chance = np.array([nearest.similarity for nearest in found])
    chosen = np.random.default_rng(seed).permutation(len(training))[:copies]
    detections = []
    for kind in kinds:
        planted = [plant(kind, training[i], new[n % len(new)], config.rate_hz) for n, i in enumerate(chosen)]
        nearest = search.find([_image(codec, wav) for wav in planted])
        similar = np.array([one.similarity for one in nearest])
        detections.append(
            Detection(
                kind,
                len(planted),
                flagged=float(np.mean([one.is_copy for one in nearest])),
                at_one_percent=float(np.mean(similar > np.quantile(by_chance, 0.99))),
                right_slice=float(np.mean([one.slice == i for one, i in zip(nearest, chosen, strict=True)])),
                area=float(np.mean(similar[:, None] > by_chance[None, :])),
                similarity=float(np.median(similar)),
                roc=_roc(similar, by_chance),
            )
        )
    flagged = float(np.mean([nearest.is_copy for nearest in found]))
    return Calibration(detections, search.threshold, flagged, float(np.median(by_chance)))


def as_lines(calibration: Calibration) -> list[str]:
    """Return a calibration as the lines of a table for a terminal, with a few points of each ROC."""
    new = f"new music: median similarity {calibration.new_similarity:.2f}, {calibration.new_flagged:.1%} flagged"
    lines = [f"{new} above {calibration.threshold:.2f}"]
    for one in calibration.detections:
        points = ", ".join(f"{_true_positives(one.roc, share):.2f} at {share:.0%}" for share in (0.0, 0.01, 0.05, 0.1))
        lines.append(
            f"{one.kind:>10}: {one.flagged:.0%} of {one.copies} flagged, right slice {one.right_slice:.0%}, "
            f"similarity {one.similarity:.2f}, area {one.area:.3f}; ROC {points}"
        )
    return lines


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Plant copies among composed music in many styles, count false alarms with few and many slices, and time the search.

    The ROC of each kind is printed. The work is kept in `runs/benchmark-copies`; the same command continues it.

    Args:
        quick: One preset and few clips, to show that it runs.
        max_clips: Compose this many clips instead of 600; half of them are training slices.
    """
    import torch

    torch.set_num_threads(1)
    clips = 120 if quick else max_clips or NUM_CLIPS
    copies, draws = (5, 2) if quick else (COPIES, DRAWS)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) if quick else WORK / f"{clips}-clips"
        write_music(work / "audio", clips=clips, num_workers=1)
        rows: list[Row] = []
        for preset in PRESETS[:1] if quick else PRESETS:
            file = work / f"{preset}.json"
            if not file.is_file():
                write_json(file, _measure_preset(preset, work / "audio", clips, copies, draws))
            measured = json.loads(file.read_text(encoding="utf-8"))
            print(f"{preset}:", *measured["roc"], sep="\n  ", flush=True)
            rows += _preset_rows(preset, clips // 2, measured)
    return [*rows, *_time_rows(200 if quick else _LARGE_SLICES, 16 if quick else _LARGE_CLIPS)]


def _measure_preset(preset: str, audio: Path, clips: int, copies: int, draws: int) -> dict[str, Any]:
    """Return what is found of each kind of copies with its ROC, and the shares of new clips flagged by number of slices."""
    codec = SpectrogramCodec.from_preset(preset)
    sounds = [_sound(path, codec) for path in sorted(audio.glob("*.flac"))[:clips]]
    half = clips // 2
    result = calibrate(sounds[:half], [str(number) for number in range(half)], sounds[half:], codec, copies)
    images = [_image(codec, wav) for wav in sounds]
    return {
        "copies": {one.kind: [one.at_one_percent, one.flagged] for one in result.detections},
        "roc": as_lines(result),
        "alarms": {
            str(count): false_alarms(images, codec, count, draws if count < half else max(1, draws // 4))
            for count in (FEW_SLICES, half)
        },
    }


def _preset_rows(preset: str, slices: int, measured: dict[str, Any]) -> list[Row]:
    rows = [
        Row(
            f"{preset}, {slices} slices: {kind} copies found where 1 % of new clips are",
            "share of copies",
            [found],
            [flagged],
            *(() if kind == "mixed" else (Goal.ours_at_least, _LEAST_FOUND)),
        )
        for kind, (found, flagged) in measured["copies"].items()
    ]
    for count, shares in measured["alarms"].items():
        what = f"{preset}, {count} slices: new clips flagged"
        rows.append(Row(what, "share of clips", shares, (), Goal.ours_at_most, _MOST_FLAGGED))
    return rows


def false_alarms(
    images: Sequence[npt.NDArray[np.uint8]], codec: SpectrogramCodec, count: int, draws: int, seed: int = 0
) -> list[float]:
    """Return for each of several random sets of training slices the share of all other clips that is flagged.

    Args:
        images: Clips of as many tracks.
        codec: Their codec.
        count: Number of training slices.
        draws: Number of sets.
        seed: Seed of the sets.
    """
    shares = []
    for draw in range(draws):
        order = np.random.default_rng((seed, draw)).permutation(len(images))
        chosen, others = order[:count], order[count:]
        search = CopySearch(_slices([images[index] for index in chosen], [str(index) for index in chosen], codec))
        shares.append(float(np.mean([one.is_copy for one in search.find([images[index] for index in others])])))
    return shares


def _time_rows(slices: int, clips: int) -> list[Row]:
    """Return how long a large search takes; random images take as long as music."""
    codec = SpectrogramCodec.from_preset("tiny")
    shape = (codec.config.n_mels, codec.config.width_px)
    images = list(np.random.default_rng(0).integers(0, 256, (slices + clips, *shape), dtype=np.uint8))
    prepared = _slices(images[:slices], [str(number) for number in range(slices)], codec)
    search, prepare_s = timed(lambda: CopySearch(prepared))
    _, find_s = timed(lambda: search.find(images[slices:]))
    return [
        Row(f"learning how similar {slices:,} slices are", "CPU s", [prepare_s]),
        Row(f"search of {clips} clips in {slices:,} slices", "CPU s", [find_s]),
    ]


def _sound(path: Path, codec: SpectrogramCodec) -> Wav:
    """Return the beginning of a file in mono, as long as a slice."""
    wav, rate_hz = read_audio(path)
    mono = resample(wav.mean(axis=0, keepdims=True), rate_hz, codec.rate_hz)[0, : codec.clip_samples]
    return np.asarray(np.pad(mono, (0, codec.clip_samples - len(mono))), np.float32)


def _slices(images: Sequence[npt.NDArray[np.uint8]], tracks: Sequence[str], codec: SpectrogramCodec) -> TrainingSlices:
    config = codec.config
    return TrainingSlices(images, tracks, config.hop_length / config.rate_hz, band_centres_hz(config))


def _image(codec: SpectrogramCodec, wav: Wav) -> npt.NDArray[np.uint8]:
    return np.asarray(codec.encode(wav[None]).image)


def _roc(copies: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    thresholds = np.concatenate([np.sort(new)[::-1], [-np.inf]])
    return [(float(np.mean(new > limit)), float(np.mean(copies > limit))) for limit in thresholds]


def _true_positives(roc: Sequence[tuple[float, float]], false_positives: float) -> float:
    return max(true for false, true in roc if false <= false_positives)


def _through_mp3(wav: Wav, rate_hz: int) -> Wav:
    """Return a sound after MP3; what the encoder delays it by is left in."""
    file_hz = 44100
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=file_hz)
        stream.bit_rate, stream.layout = BIT_RATE, "mono"
        samples = np.clip(soxr.resample(wav, rate_hz, file_hz), -1.0, 1.0) * 32767.0
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], format="s16p", layout="mono")
        frame.sample_rate, frame.pts = file_hz, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    buffer.seek(0)
    with av.open(buffer) as container:
        decoded = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
    back = np.asarray(soxr.resample(decoded.astype(np.float32), file_hz, rate_hz), np.float32)
    return np.pad(back, (0, max(0, len(wav) - len(back))))[: len(wav)]
