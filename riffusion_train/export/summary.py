"""How a model came to be, as plain data: written beside it, into the header of its file, and onto its card."""

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

from riffusion_train.config.compose import conf_dir, group_options
from riffusion_train.config.export import ExportFormat
from riffusion_train.config.train import PredictionType
from riffusion_train.dataset.layout import read_stats
from riffusion_train.model.detect import SD1, detect_folder
from riffusion_train.model.diffusers_folder import SUMMARY_FILE, SUMMARY_KEY
from riffusion_train.runtime.files import write_json
from riffusion_train.training.run_folder import RunFolder, read_lines
from riffusion_train.training.run_model import RunModel

OPENRAIL = "creativeml-openrail-m"
OWN = "other"

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


def summarise(model: RunModel) -> Summary:
    """Collect what the run folder and its dataset say about a model."""
    config, manifest = model.config, model.manifest
    dataset = Path(config.dataset).expanduser()
    stats = (read_stats(dataset) or {}) if dataset.is_dir() else {}
    slices: dict[str, int] = {}
    if stats.get("fingerprint") == manifest["dataset"]["fingerprint"]:
        for shard in stats["shards"]:
            slices[shard["split"]] = slices.get(shard["split"], 0) + shard["slices"]
    source, codec = str(manifest["base_model"]["source"]), model.base.skeleton.spectrogram
    per_process = config.train_batch_size * config.gradient_accumulation_steps
    return Summary(
        riffusion_train=manifest["versions"]["riffusion-train"],
        base_model=Path(source).name if Path(source).exists() or Path(source).is_absolute() else source,
        licence=licence_of(source, is_sd15(model)),
        method=config.method.name.value,
        step=model.step,
        weights=model.weights.value,
        prediction_type=config.objective.prediction_type.value,
        learning_rate=config.optimizer.lr,
        slices_per_step=per_process * manifest["world_size"],
        seed=config.seed,
        presets=_presets(model.run),
        dataset=dataset.name,
        dataset_fingerprint=manifest["dataset"]["fingerprint"],
        dataset_slices=slices,
        codec=None if codec is None else codec.name,
    )


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
    path = Path(source)
    run = RunFolder(path.parent)
    if path.name == "final" and run.manifest_file.is_file():
        return licence_of(run.read_manifest()["base_model"]["source"], sd15)
    if (path / "README.md").is_file():
        match = re.search(r"^license: *(\S+)$", (path / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return match[1]
    return OPENRAIL if sd15 or not path.exists() else OWN


def is_sd15(model: RunModel) -> bool:
    """Return whether a model has the size of Stable Diffusion 1.5."""
    return detect_folder({"unet": 1, "text_encoder": 1}, dict(model.base.skeleton.unet.config)) == SD1


def metadata(summary: Summary, model: RunModel, kind: ExportFormat, title: str) -> dict[str, str]:
    """Return the texts for a file's header: the summary, and the fields of the ModelSpec standard with a thumbnail.

    Args:
        summary: How the model came to be.
        model: The model.
        kind: The format of the file.
        title: The name of the model.
    """
    codec = model.base.skeleton.spectrogram
    velocity = summary.prediction_type == PredictionType.v_prediction.value
    texts = {
        SUMMARY_KEY: json.dumps(dataclasses.asdict(summary)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1" + ("/lora" if kind is ExportFormat.lora else ""),
        "modelspec.implementation": "diffusers"
        if kind is ExportFormat.lora
        else "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": title,
        "modelspec.description": "Draws mel-spectrograms, which riffusion-train inverts to sound.",
        "modelspec.license": summary.licence,
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }
    if codec is not None:
        texts["modelspec.resolution"] = f"{codec.width_px}x{codec.n_mels}"
    images = previews(model)
    if images:
        texts["modelspec.thumbnail"] = _thumbnail(images[0])
    return texts


def previews(model: RunModel) -> list[Path]:
    """Return the images of the newest preview made up to the step of the model; the sounds are beside them."""
    steps = [folder for folder in model.run.previews.glob("step-*") if _step(folder) <= model.step]
    return sorted(max(steps, key=_step).glob("*.png")) if steps else []


def _thumbnail(image: Path) -> str:
    """Return a small JPEG of an image as a data URL."""
    from PIL import Image

    with Image.open(image) as opened:
        small = opened.convert("RGB")
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


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
