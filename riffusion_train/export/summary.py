"""What is known of a trained model: for its card, and for the metadata of a single file."""

import base64
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

from riffusion_train.config.compose import conf_dir, group_options
from riffusion_train.config.export import ExportFormat
from riffusion_train.config.train import PredictionType
from riffusion_train.dataset.layout import read_stats
from riffusion_train.export.run_model import RunModel
from riffusion_train.model.detect import SD1, detect_folder_family
from riffusion_train.training.run_folder import RunFolder

SUMMARY_KEY = "riffusion_train"
"""Key of the summary's JSON in a file's metadata."""
SUMMARY_FILE = "training.json"
"""The same in an exported folder."""
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
    """The hub's name of the licence; `other` where no foreign weights are in it."""
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
    """Slices of every split; empty where the dataset is not there any more."""
    codec: str | None


def summarise(model: RunModel) -> Summary:
    """Collect what the run folder and its dataset say."""
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
    text = json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False) + "\n"
    (folder / SUMMARY_FILE).write_text(text, encoding="utf-8")


def licence_of(source: str, sd15: bool) -> str:
    """Return the licence that comes with a base model.

    Weights that were trained from nothing are their owner's. A folder with a card has the card's licence, and what has the size
    of Stable Diffusion 1.5 and says nothing is taken for a descendant of it.
    """
    if source.startswith("random weights"):
        return OWN
    path = Path(source)
    manifest = RunFolder(path.parent).manifest_file
    if path.name == "final" and manifest.is_file():
        return licence_of(json.loads(manifest.read_text(encoding="utf-8"))["base_model"]["source"], sd15)
    if (path / "README.md").is_file():
        found = re.search(r"^license: *(\S+)$", (path / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return OPENRAIL if sd15 or not path.exists() else OWN


def is_sd15(model: RunModel) -> bool:
    """Say whether a model has the size of Stable Diffusion 1.5."""
    return detect_folder_family({"unet": 1, "text_encoder": 1}, dict(model.base.skeleton.unet.config)) == SD1


def metadata(summary: Summary, model: RunModel, kind: ExportFormat, title: str) -> dict[str, str]:
    """Return the texts for a file's header: the summary, and the fields of the ModelSpec standard with a thumbnail."""
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
    pictures = previews(model)
    if pictures:
        texts["modelspec.thumbnail"] = thumbnail(pictures[0])
    return texts


def previews(model: RunModel) -> list[Path]:
    """Return the pictures of the newest preview that is not younger than the model; their sound lies beside them."""
    steps = [folder for folder in model.run.previews.glob("step-*") if _step(folder) <= model.step]
    return sorted(max(steps, key=_step).glob("*.png")) if steps else []


def thumbnail(picture: Path) -> str:
    """Return a small JPEG of a picture as a data URL."""
    from PIL import Image

    with Image.open(picture) as opened:
        small = opened.convert("RGB")
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _presets(run: RunFolder) -> list[str]:
    """Return the presets among the words that the run was first started with."""
    if not run.overrides_file.is_file():
        return []
    first: dict[str, Any] = json.loads(run.overrides_file.read_text(encoding="utf-8").splitlines()[0])
    groups = {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}
    pairs = [word.lstrip("+").partition("=") for word in first["overrides"]]
    return [f"{group}={name}" for group, _, name in pairs if group in groups and name in group_options(group)]
