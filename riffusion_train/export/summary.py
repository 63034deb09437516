"""What is known of a model, as plain data: written beside it, into the header of its file, and onto its card.

First how it came to be; then its scores, as a table in plain language, and as metrics that the hub reads.
"""

import base64
import dataclasses
import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.audio.marking import encode_image, read_mark
from riffusion_train.config.compose import conf_dir, group_options
from riffusion_train.config.model import ExportFormat, ExportWeights
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.config.train import OptimizerName, PredictionType
from riffusion_train.dataset.layout import read_stats
from riffusion_train.listening.distances import MEANINGS, Meaning
from riffusion_train.model.components import Components
from riffusion_train.model.detect import SD1, detect_folder
from riffusion_train.model.diffusers_folder import SUMMARY_FILE, SUMMARY_KEY
from riffusion_train.model.lora import Lora
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_json
from riffusion_train.runtime.hub import MODELS, model_place
from riffusion_train.training.run_folder import RunFolder, read_lines, step_name, step_of
from riffusion_train.training.run_model import FINAL, RunModel

# --- how a model came to be ------------------------------------------------------------------------------------------

OPENRAIL = "creativeml-openrail-m"
OWN = "other"

_OTHER_ARCHITECTURE = "latent-diffusion-of-another-size"
_SD15_TEXT_WIDTH = 768
_THUMBNAIL_PX = 256


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a model came to be, as plain data."""

    riffusion_train: str
    """Version that trained it."""
    base_model: str
    licence: str
    """The hub's name of the licence; `other` if it contains no weights of other people."""
    method: str
    step: int
    weights: str
    prediction_type: str
    learning_rate: float
    slices_per_step: int
    seed: int
    presets: list[str]
    """Presets named on the command line, `method=lora`."""
    dataset: str
    """Name of its folder."""
    dataset_fingerprint: str
    dataset_slices: dict[str, int]
    """Slices of every split; empty if the dataset is no longer there."""
    codec: str | None
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The options that are recommended to sample it with, as JSON data; empty if none are."""
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    """Figures of `riffusion evaluate` by name; empty if the model was not scored."""
    prompts: list[str] = dataclasses.field(default_factory=list)
    """Prompts that it understands, for `play` to begin with and to suggest."""


def summarise(
    model: RunModel,
    scores: Mapping[str, float] | None = None,
    sampling: Mapping[str, Any] | None = None,
    licence: str | None = None,
    prompts: Sequence[str] = (),
) -> Summary:
    """Collect what the run folder and its dataset say about a model.

    Args:
        model: The model.
        scores: Figures of `riffusion evaluate`, if it was scored.
        sampling: The options that are recommended to sample it with, as JSON data.
        licence: The hub's name of the licence that the owner of the weights has chosen.
        prompts: Prompts that it understands; none for those of its base.

    Raises:
        InputError: If a licence is given for weights that have that of others.
    """
    config, manifest = model.config, model.manifest
    dataset = Path(config.dataset).expanduser()
    stats = (read_stats(dataset) or {}) if dataset.is_dir() else {}
    slices: dict[str, int] = {}
    if stats.get("fingerprint") == manifest["dataset"]["fingerprint"]:
        for shard in stats["shards"]:
            slices[shard["split"]] = slices.get(shard["split"], 0) + shard["slices"]
    source, codec = str(manifest["base_model"]["source"]), model.base.skeleton.spectrogram
    inherited = inherited_licence(model)
    if licence is not None and inherited not in (OWN, licence):
        raise InputError(f"licence={licence}: the licence of the base model carries over, {inherited}; leave it out")
    per_process = config.train_batch_size * config.gradient_accumulation_steps
    return Summary(
        riffusion_train=manifest["versions"]["riffusion-train"],
        base_model=base_name(source),
        licence=licence or inherited,
        method=config.method.name.value,
        step=model.step,
        weights=model.weights.value,
        prediction_type=str(model.base.skeleton.scheduler.config.prediction_type),  # type: ignore[attr-defined]
        learning_rate=config.optimizer.lr,
        slices_per_step=per_process * manifest["world_size"],
        seed=config.seed,
        presets=_presets(model.run),
        dataset=dataset.name,
        dataset_fingerprint=manifest["dataset"]["fingerprint"],
        dataset_slices=slices,
        codec=None if codec is None else codec.name,
        sampling=dict(sampling or {}),
        scores=dict(scores or {}),
        prompts=list(filter(None, prompts)) or list(model.base.skeleton.prompts),
    )


def inherited_licence(model: RunModel) -> str:
    """Return the licence that comes with what a run was started from."""
    return licence_of(str(model.manifest["base_model"]["source"]), is_sd15(model.base.skeleton))


def write_summary(folder: Path, summary: Summary) -> None:
    """Write the summary into an exported folder."""
    write_json(folder / SUMMARY_FILE, dataclasses.asdict(summary))


def licence_of(source: str, sd15: bool) -> str:
    """Return the licence that comes with a base model.

    Weights trained from scratch belong to their owner. A folder with a card has the card's licence. A model without one that
    has the size of Stable Diffusion 1.5 is assumed to descend from it.

    Args:
        source: What the run was started from, as its manifest says.
        sd15: Whether the model has the size of Stable Diffusion 1.5.
    """
    if source.startswith("random weights"):
        return OWN
    path = Path(model_place(source))
    run = RunFolder(path.parent)
    if path.name == "final" and run.manifest_file.is_file():
        return licence_of(run.read_manifest()["base_model"]["source"], sd15)
    if (path / "README.md").is_file():
        match = re.search(r"^license: *(\S+)$", (path / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return match[1]
    return OPENRAIL if sd15 or not path.exists() else OWN


def base_name(source: str) -> str:
    """Return what a card says about a base: its name, hub id or folder, and for a run what that began from."""
    path = Path(source)
    if source in MODELS or source.startswith("random weights") or not (path.exists() or path.is_absolute()):
        return source
    manifest, summary = RunFolder(path.parent).manifest_file, path / SUMMARY_FILE
    if path.name == "final":
        known = json.loads(manifest.read_text(encoding="utf-8"))["base_model"]["source"] if manifest.is_file() else None
        return f"the final model of the run {path.parent.name}" + (
            f", which began from {base_name(known)}" if known else ""
        )
    if summary.is_file():
        began = json.loads(summary.read_text(encoding="utf-8")).get("base_model")
        return f"{path.name}, which began from {began}"
    return path.name


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of the hub's, `user/name`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def is_sd15(parts: Components) -> bool:
    """Return whether a model has the size of Stable Diffusion 1.5."""
    return detect_folder({"unet": 1, "text_encoder": 1}, dict(parts.unet.config)) == SD1


def metadata(
    summary: Summary, model: RunModel, kind: ExportFormat, *, title: str, author: str | None = None
) -> dict[str, str]:
    """Return the texts for a file's header: the summary, and the fields of the ModelSpec standard with a thumbnail.

    Args:
        summary: How the model came to be.
        model: The model.
        kind: The format of the file.
        title: The name of the model.
        author: Who made it.
    """
    parts, images = model.base.skeleton, previews(model)
    texts = {SUMMARY_KEY: json.dumps(dataclasses.asdict(summary))} | _modelspec(
        kind,
        sd15=is_sd15(parts),
        title=title,
        licence=summary.licence,
        velocity=summary.prediction_type == PredictionType.v_prediction.value,
        codec=parts.spectrogram,
        time=model.run.metrics_file.stat().st_mtime if model.run.metrics_file.is_file() else None,
    )
    if author:
        texts["modelspec.author"] = author
    if images:
        texts["modelspec.thumbnail"] = _thumbnail(images[0])
        if kind is ExportFormat.lora:
            texts["modelspec.trigger_phrase"] = preview_prompt(images[0])
    return texts


def _modelspec(
    kind: ExportFormat,
    *,
    sd15: bool,
    title: str,
    licence: str,
    velocity: bool,
    codec: SpectrogramConfig | None,
    time: float | None,
) -> dict[str, str]:
    """Return the fields of the ModelSpec standard (github.com/Stability-AI/ModelSpec), and kohya's name of the base."""
    # Loaders go by these names: only what has Stable Diffusion 1.5's size may bear them.
    made = datetime.datetime.now(datetime.UTC) if time is None else datetime.datetime.fromtimestamp(time, datetime.UTC)
    is_lora = kind is ExportFormat.lora
    texts = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": ("stable-diffusion-v1" if sd15 else _OTHER_ARCHITECTURE)
        + ("/lora" if is_lora else ""),
        "modelspec.implementation": "diffusers" if is_lora else "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": title,
        "modelspec.description": "Draws mel-spectrograms, which riffusion-train inverts to sound.",
        "modelspec.date": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "modelspec.tags": "music, spectrogram, riffusion",
        "modelspec.license": licence,
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }
    if is_lora:
        texts |= {"ss_base_model_version": "sd_v1" if sd15 else _OTHER_ARCHITECTURE, "ss_v2": "False"}
        texts |= {"ss_v_parameterization": "True"} if velocity else {}
    if codec is not None:
        texts["modelspec.resolution"] = f"{codec.width_px}x{codec.n_mels}"
    return texts


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model or adapters that were read from another format."""

    source: str
    """What the user called it."""
    what: str
    """What it was, in words."""
    base: str | None
    """The model that completed it."""
    lora_scale: float
    """Weight of adapters that were merged."""
    parts: Components | None
    """The whole model; None for adapters alone."""
    lora: Lora | None
    """The adapters, also where they were merged."""

    @property
    def codec(self) -> SpectrogramConfig | None:
        """The codec of its images."""
        if self.parts is not None:
            return self.parts.spectrogram
        return None if self.lora is None else self.lora.spectrogram

    @property
    def sd15(self) -> bool:
        """Whether it has the size of Stable Diffusion 1.5; adapters alone have where no base was named for their sizes."""
        if self.parts is not None:
            return is_sd15(self.parts)
        return self.base is None or self.text_width == _SD15_TEXT_WIDTH

    @property
    def text_width(self) -> int | None:
        """The width of the text that adapters of cross-attention read; None where there are none."""
        layers = {} if self.lora is None else self.lora.layers
        widths = [int(one.down.shape[1]) for name, one in layers.items() if name.endswith(("attn2.to_k", "attn2.to_v"))]
        return widths[0] if widths else None

    @property
    def velocity(self) -> bool:
        """Whether it predicts velocity."""
        if self.parts is not None:
            return bool(self.parts.scheduler.config.prediction_type == "v_prediction")  # type: ignore[attr-defined]
        return self.lora is not None and self.lora.metadata.get("modelspec.prediction_type") == "v"

    @property
    def licence(self) -> str:
        """The licence of what it was made from."""
        said = None if self.lora is None or self.base is not None else self.lora.metadata.get("modelspec.license")
        return said or licence_of(self.base or self.source, self.sd15)


def imported_metadata(about: Imported, kind: ExportFormat, *, title: str) -> dict[str, str]:
    """Return the texts for the header of an imported file; what its trainer said of adapters stays."""
    own = {} if about.lora is None else about.lora.metadata
    kept = (
        {key: text for key, text in own.items() if key == SUMMARY_KEY or key.startswith("ss_")}
        if about.parts is None
        else {}
    )
    return kept | _modelspec(
        kind,
        sd15=about.sd15,
        title=title,
        licence=about.licence,
        velocity=about.velocity,
        codec=about.codec,
        time=None,
    )


def preview_prompt(image: Path) -> str:
    """Return the prompt of a preview on one line."""
    record = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
    return " ".join(str(record["prompt"]).split())


def previews(model: RunModel) -> list[Path]:
    """Return the images of the newest preview made up to the step of the model; the sounds are beside them."""
    steps = [folder for folder in model.run.previews.glob("step-*") if step_of(folder) <= model.step]
    return sorted(max(steps, key=step_of).glob("*.png")) if steps else []


def _thumbnail(image: Path) -> str:
    """Return a small JPEG of an image as a data URL."""
    from PIL import Image

    with Image.open(image) as opened:
        small = opened.convert("RGB")
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    data = encode_image(small, "JPEG", read_mark(image), quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _presets(run: RunFolder) -> list[str]:
    """Return the presets among the arguments that the run was first started with."""
    if not run.overrides_file.is_file():
        return []
    rows, _ = read_lines(run.overrides_file)
    first = rows[0].get("overrides") if rows else None
    if not isinstance(first, list):
        return []
    groups = {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}
    pairs = [argument.lstrip("+").partition("=") for argument in map(str, first)]
    return [f"{group}={name}" for group, _, name in pairs if group in groups and name in group_options(group)]


# --- its scores ------------------------------------------------------------------------------------------------------

SCORES_FILE = "scores.json"
_SHOWN = ("kid", "fad", "coverage", "agreement", "retrieval", "clap_score", "tempo", "key", "copies")
"""Figures that go onto a card, in this order; the others answer the same questions."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One figure of a model."""

    what: str
    """Its name, one of those of `scores.json`."""
    value: float
    low: float | None = None
    """Lower end of its interval."""
    high: float | None = None
    control: float | None = None
    """The same figure of real music, of shuffled captions, or of false alarms."""

    @property
    def meaning(self) -> Meaning:
        """What it says."""
        return MEANINGS[self.what]


@dataclasses.dataclass(frozen=True)
class ModelScores:
    """What `riffusion evaluate` measured of a model."""

    scores: Sequence[Score]
    num_clips: int | None = None
    num_real: int | None = None
    embedder: str = "musicnn"

    def values(self) -> dict[str, float]:
        """Return the value of each figure by its name."""
        return {score.what: score.value for score in self.scores}

    def text(self) -> str:
        """Return the part of the card: what was compared, and the table."""
        clips = "Clips" if self.num_clips is None else f"{self.num_clips} clips"
        real = "real ones" if self.num_real is None else f"{self.num_real} real ones"
        lines = [
            "\n## How good it is\n",
            f"{clips} were compared with {real} by `riffusion evaluate`; {self.embedder} listened. "
            "Figures of other models compare only if the same clips and the same embedder were used.\n",
            "| figure | this model | 95 % interval | compare with | what it says |",
            "|---|---|---|---|---|",
        ]
        for score in self.scores:
            meaning = score.meaning
            interval = "–"
            if score.low is not None and score.high is not None:
                interval = f"{_shown(score.low, meaning)} to {_shown(score.high, meaning)}"
            control = "–" if score.control is None else f"{_shown(score.control, meaning)} ({meaning.control})"
            says = f"{meaning.meaning} {meaning.better[:1].upper()}{meaning.better[1:]}."
            cells = (meaning.label, f"**{_shown(score.value, meaning)}**", interval, control, says)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def metrics(self) -> list[dict[str, Any]]:
        """Return the figures as metrics of a `model-index`."""
        return [
            {
                "type": score.what,
                "name": f"{score.meaning.label} ({self.embedder})",
                "value": float(f"{score.value:.6g}"),
            }
            for score in self.scores
        ]


def scores_of_run(model: RunModel) -> ModelScores | None:
    """Return what `evaluate run` measured of the exported weights; None if it has not, or of others."""
    averaged = model.config.ema.enabled or model.config.optimizer.name is OptimizerName.schedule_free
    # Of a run without averaged weights there is but one kind, whatever it is called.
    kinds = [model.weights] if averaged else list(ExportWeights)
    for kind in kinds:
        for stem in (step_name(model.step), FINAL):
            path = model.run.scores / f"{stem}{'' if kind is ExportWeights.ema else f'-{kind.value}'}.json"
            data = _read(path) if path.is_file() else None
            if data is not None and data["step"] in (None, model.step):
                return _scores(data)
    return None


def read_scores(path: Path) -> ModelScores:
    """Read a file of scores, or the folder that holds `scores.json`.

    Raises:
        InputError: If it is no such file, or holds no figure for a card.
    """
    file = path / SCORES_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"scores={path}: no such file; name the scores.json that riffusion evaluate score wrote")
    scores = _scores(_read(file))
    if scores is None:
        raise InputError(f"scores={path}: holds no figure that a card shows ({', '.join(_SHOWN)})")
    return scores


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows, about = data["rows"], data.get("about") or {}
        for row in rows:
            row["what"], row["ours"]
        about = {"num_clips": len(data["clips"]) if "clips" in data else None, **about}
        return {"rows": rows, "about": about, "step": data.get("step")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is no file of scores; make it again with riffusion evaluate") from None


def _scores(data: dict[str, Any]) -> ModelScores | None:
    rows, about = {row["what"]: row for row in data["rows"]}, data["about"]
    scores = []
    for what in _SHOWN:
        row = rows.get(what)
        if row is None or not isinstance(row["ours"], int | float) or not math.isfinite(row["ours"]):
            continue
        if what == "fad" and row.get("note"):  # of too few clips, which only sets of the same size share
            continue
        low, high, control = (row.get(name) for name in ("ours_min", "ours_max", "reference"))
        scores.append(Score(what, float(row["ours"]), low, high, control))
    if not scores:
        return None
    return ModelScores(scores, about.get("num_clips"), about.get("num_real"), str(about.get("embedder") or "musicnn"))


def _shown(value: float, meaning: Meaning) -> str:
    if not meaning.is_share:
        return f"{value:.4g}"
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
