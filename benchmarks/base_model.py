"""The base model judged: `python -m benchmarks.base_model corpus=DIR dataset=DIR [model=PATH] [clips=N] [out=DIR]`.

`corpus` holds composed clips of another seed than the model was trained on, `dataset` is a dataset of composed music for the
classifier. The prompts are the first captions of the corpus. For three sampling seeds: KID to the corpus, and how often the
classifier hears in the image what the prompt asks for, with shuffled prompts as the reference. Before them, what codec and VAE
lose by themselves: KID of clips that went through them to other clips, and how often the classifier is right about real clips
before and after the VAE. `benchmarks.guidance` and `benchmarks.distill` judge in the same way.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.json
import torch

from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from benchmarks.report import Row
from benchmarks.timing import timed
from riffusion_train.audio.codec import EncodedClip, SpectrogramCodec
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.demo.judged import image_features
from riffusion_train.listening.captions import Agreement, Labels, measure_agreement
from riffusion_train.listening.distances import kernel_inception_distance
from riffusion_train.listening.embedder import Clip, make_embedder
from riffusion_train.model.components import Components, freeze
from riffusion_train.model.loading import load_components
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import TextRequest
from riffusion_train.sampling.pipeline import Pipeline
from riffusion_train.sampling.sampler import Sampler

SEEDS = 3
"""Of the sampling."""
UNET_BATCH = 16
_ROUND_TRIPS = 96
_FEWEST = 40
"""Clips of a corpus."""
_LABELS = {"drums": "drums", "tempo": "tempo", "register": "register", "instrument": "lead", "style": "style"}
"""What is judged, and the column of the corpus that says it."""
_TARGETS = {"drums": 0.95, "tempo": 0.9, "register": 0.9, "instrument": 0.8, "style": 0.8}
_LEARNED = 5000
"""Slices that the classifier is fitted on."""
_DECODED = 1500
"""Of these, slices that it is fitted on once more after the VAE."""
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "steps": ("num_inference_steps", int),
    "guidance": ("guidance_scale", float),
    "scheduler": ("scheduler", str),
}
"""Keys of the command line that replace what the model recommends, and the options of the sampler that they set."""

_Images = Sequence[npt.NDArray[np.uint8]]


class Listener:
    """Classifiers of the features of spectrogram images, one for each attribute.

    They are fitted on images as they are, and on a part of them as the model's VAE decodes them. Fitted on the first alone, a
    classifier takes the VAE's softer onsets for a slow tempo: it was right about the tempo of .90 of real images, and of .71
    after the VAE, although the VAE moves no beat.
    """

    def __init__(self, images: _Images, labels: Labels, decoded: _Images) -> None:
        """Fit on real clips.

        Args:
            images: Images of real clips.
            labels: For every attribute, the label of each image.
            decoded: The first of the images, after the VAE.
        """
        features = _features([*images, *decoded])
        self._models: dict[str, Any] = {}
        for name, values in labels.items():
            self._models[name] = _classifier(name).fit(features, [*values, *values[: len(decoded)]])

    def predict(self, images: _Images) -> dict[str, list[str]]:
        """Return the labels of images, for each attribute."""
        features = _features(images)
        return {name: [str(label) for label in model.predict(features)] for name, model in self._models.items()}

    def accuracy(self, images: _Images, labels: Labels) -> dict[str, float]:
        """Return the share of right labels, for each attribute."""
        predicted = self.predict(images)
        return {name: float(np.mean(np.asarray(predicted[name]) == np.asarray(labels[name]))) for name in predicted}


def _features(images: _Images) -> npt.NDArray[np.float64]:
    return np.stack([image_features(image) for image in images])


def _classifier(attribute: str) -> Any:
    """Return what was right about most of 200 real clips after the VAE: a kernel machine for two attributes, else LDA."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if attribute in ("tempo", "register"):
        return make_pipeline(StandardScaler(), SVC(C=10, gamma=5e-4))
    return make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))


@dataclasses.dataclass(frozen=True)
class Judge:
    """What the clips of a model are compared with.

    Attributes:
        clips: The composed clips, and their rate.
        real: Their embeddings, (clips, dimensions).
        prompts: One caption of each clip that is sampled.
        expected: For every attribute, what each prompt asks for.
        listener: Says what is heard in an image.
        heard: The share of labels that it is right about on those clips themselves, for each attribute.
        hear: Returns the embeddings of clips.
    """

    clips: list[Clip]
    real: npt.NDArray[np.float32]
    prompts: list[str]
    expected: dict[str, list[str]]
    listener: Listener
    heard: dict[str, float]
    hear: Callable[[Sequence[Clip]], npt.NDArray[np.float32]]

    @classmethod
    def open(cls, corpus: Path, dataset: Path, pipeline: Pipeline, count: int) -> "Judge":
        """Read the corpus, and fit the classifier on the training split of the dataset.

        Raises:
            InputError: If the corpus is too small or has no labels.
        """
        rows = _read_rows(corpus)
        clips = [read_audio(corpus / row["file_name"]) for row in rows]
        count = min(count, len(clips))
        if len(clips) < 2 * min(_ROUND_TRIPS, count) or len(clips) < _FEWEST:
            raise InputError(f"corpus={corpus}: has {len(clips)} clips; compose at least 400")
        embedder = make_embedder("musicnn")

        def hear(some: Sequence[Clip]) -> npt.NDArray[np.float32]:
            return np.stack([heard.embedding for heard in embedder.hear(some)])

        listener = _fit_listener(SpectrogramDataset(open_dataset_folder(dataset), "train"), pipeline)
        prompts = [row["caption"][0] for row in rows[:count]]
        expected = _labels({column: [row[column] for row in rows[:count]] for column in _LABELS.values()})
        heard = listener.accuracy([_encode(pipeline.codec, clip).image for clip in clips[:count]], expected)
        return cls(clips, hear(clips), prompts, expected, listener, heard, hear)

    def draw(self, sampler: Sampler, seed: int) -> tuple[list[npt.NDArray[np.uint8]], list[Clip]]:
        """Return an image and a sound for every prompt; each has a noise of its own."""
        requests = [
            TextRequest(prompt=prompt, seed=seed * len(self.prompts) + index, guidance_scale=sampler.guidance_scale)
            for index, prompt in enumerate(self.prompts)
        ]
        images = [
            image
            for first in range(0, len(requests), UNET_BATCH)
            for image in sampler.images(requests[first : first + UNET_BATCH])
        ]
        codec = sampler.codec
        return images, [(codec.decode(image), codec.rate_hz) for image in images]

    def distance(self, sounds: Sequence[Clip]) -> float:
        """Return KID of sounds to the corpus."""
        return float(kernel_inception_distance(self.hear(sounds), self.real, resamples=0).value)

    def agreements(self, images: _Images) -> dict[str, Agreement]:
        """Return for every attribute how often the prompt's is heard in the images."""
        labels = self.listener.predict(images)
        return {name: measure_agreement({name: labels[name]}, self.expected, self.heard)[0] for name in _LABELS}


def _fit_listener(trained: SpectrogramDataset, pipeline: Pipeline) -> Listener:
    """Fit on at most `_LEARNED` slices that have labels, and on `_DECODED` of them after the VAE."""
    columns = {column: trained.rows[column] for column in _LABELS.values()}
    labelled = [row for row in range(len(trained)) if columns["style"][row] is not None]
    learned = [labelled[place] for place in spread(len(labelled), _LEARNED)]
    images = [trained.image(row) for row in learned]
    decoded = [pipeline.decode(pipeline.encode(image)) for image in images[:_DECODED]]
    return Listener(
        images, _labels({name: [str(values[row]) for row in learned] for name, values in columns.items()}), decoded
    )


def _encode(codec: SpectrogramCodec, clip: Clip) -> EncodedClip:
    return codec.encode(resample(*clip, codec.rate_hz))


def run(model: Components, judge: Judge, options: Mapping[str, Any]) -> list[Row]:
    """Measure a model as it is sampled, and what codec and VAE lose.

    Args:
        model: The model, frozen.
        judge: What it is compared with; has the prompts.
        options: Options of the sampler, where they are not to be those that the model recommends.
    """
    sampler = Sampler(model, unet_batch_size=UNET_BATCH, **options)
    count = len(judge.prompts)
    rows, decoded = _losses(sampler.pipeline, judge)
    kids, seconds, agreements = [], [], []
    for seed in range(SEEDS):
        (images, sounds), cpu_s = timed(lambda seed=seed: judge.draw(sampler, seed))  # type: ignore[misc]
        seconds.append(cpu_s / count)
        kids.append(judge.distance(sounds))
        agreements.append(judge.agreements(images))
    rows.append(Row(f"{count} clips of the model: KID", "1", kids))
    for name, target in _TARGETS.items():
        ceiling = f"real clips {judge.heard[name]:.3f}, after the VAE {decoded[name]:.3f}"
        rows.append(
            Row(
                f"agreement, {name} ({ceiling}, target {target})",
                "share of clips; reference: shuffled prompts",
                [each[name].agreement for each in agreements],
                [each[name].shuffled for each in agreements],
            )
        )
    rows.append(Row("a clip, image and sound", "CPU s", seconds))
    return rows


def _losses(pipeline: Pipeline, judge: Judge) -> tuple[list[Row], dict[str, float]]:
    """Return what codec and VAE lose.

    Returns:
        KID to other clips of clips as they are, through the codec, and through the VAE as well; and the classifier's share of
        right labels on the last.
    """
    trips = min(_ROUND_TRIPS, len(judge.prompts))
    codec, others = pipeline.codec, judge.real[trips:]
    images, coded, learned, psnr_db = [], [], [], []
    for clip in judge.clips[:trips]:
        encoded = _encode(codec, clip)
        image = pipeline.decode(pipeline.encode(encoded.image))
        error = np.mean((image.astype(np.float64) - encoded.image) ** 2)
        psnr_db.append(float(10 * np.log10(255.0**2 / max(error, 1e-9))))
        images.append(image)
        coded.append((codec.decode(encoded.image, encoded.max_value), codec.rate_hz))
        learned.append((codec.decode(image, encoded.max_value), codec.rate_hz))
    stages = {"untouched": judge.real[:trips], "codec": judge.hear(coded), "codec and VAE": judge.hear(learned)}
    rows = [
        Row(f"{name}: KID", "1", [kernel_inception_distance(heard, others, resamples=0).value])
        for name, heard in stages.items()
    ]
    expected = {name: values[:trips] for name, values in judge.expected.items()}
    return [*rows, Row("VAE: PSNR", "dB", psnr_db)], judge.listener.accuracy(images, expected)


def _labels(columns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    labels = {name: list(columns[column]) for name, column in _LABELS.items()}
    labels["drums"] = ["no" if beat == "none" else "yes" for beat in labels["drums"]]
    return labels


def _read_rows(corpus: Path) -> list[dict[str, Any]]:
    file = corpus / "metadata.jsonl"
    if not file.is_file():
        raise InputError(f"corpus={corpus}: has no metadata.jsonl; python -m data_prep.corpus kind=music writes one")
    rows: list[dict[str, Any]] = pyarrow.json.read_json(file).to_pylist()
    missing = [column for column in _LABELS.values() if column not in rows[0]]
    if missing:
        raise InputError(f"corpus={corpus}: its clips do not say their {missing[0]}; compose with kind=music")
    return rows


JUDGE_KEYS = ("corpus", "dataset", "model", "clips", "out")
JUDGE_USAGE = "corpus=DIR, dataset=DIR, model=PATH, clips=N or out=DIR"


def open_judge(values: Mapping[str, str], count: int | None) -> tuple[Components, Judge]:
    """Load what the command line names: the model, frozen, and what judges it.

    Args:
        values: Of the command line, by `JUDGE_KEYS`.
        count: Prompts; 200 where it is None.

    Raises:
        InputError: If `corpus` or `dataset` is missing or cannot be used.
    """
    for key in ("corpus", "dataset"):
        if key not in values:
            raise InputError(f"{key}=DIR is missing; docs/laptop.md says how it is made")
    torch.set_num_threads(1)
    model = load_components(values.get("model", "laptop"))
    freeze(model)
    return model, Judge.open(Path(values["corpus"]), Path(values["dataset"]), Pipeline(model), count or 200)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 0 done, 2 invalid input."""
    given = arguments_of(argv)

    def work() -> None:
        usage = f"{JUDGE_USAGE}, steps=N, guidance=X or scheduler=NAME"
        arguments = parse_arguments(given, usage, keys=(*JUDGE_KEYS, *_OPTIONS))
        values = arguments.values
        options: dict[str, Any] = {}
        for key, (name, kind) in _OPTIONS.items():
            if key in values:
                try:
                    options[name] = kind(values[key])
                except ValueError:
                    raise InputError(f"{key}={values[key]}: give a number") from None
        said = [f"{key}={values[key]}" for key in ("model", *_OPTIONS) if key in values]

        def measured(_quick: bool, number: int | None) -> list[Row]:
            return run(*open_judge(values, number), options)

        command = " ".join(["python -m benchmarks.base_model corpus=DIR dataset=DIR", *said])
        measure("base_model", command, measured, arguments)

    return exit_code("benchmarks.base_model", work)


if __name__ == "__main__":
    sys.exit(main())
