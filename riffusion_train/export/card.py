"""The model card: what the model is, what it was made from, how it sounds, how to use it."""

import base64
import dataclasses
import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from riffusion_train.config.compose import conf_dir, group_options
from riffusion_train.config.export import ExportFormat, LoraLayout, is_file
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE
from riffusion_train.config.train import PredictionType
from riffusion_train.dataset.layout import read_stats
from riffusion_train.model.detect import SD1, detect_folder
from riffusion_train.model.diffusers_folder import SUMMARY_FILE, SUMMARY_KEY
from riffusion_train.training.run_folder import RunFolder
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
    return detect_folder({"unet": 1, "text_encoder": 1}, dict(model.base.skeleton.unet.config)) == SD1


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


_WIDTH, _HEIGHT, _SCALE = 640, 280, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 36
_INK, _GRID, _LIGHT, _STRONG = "#333333", "#dddddd", "#a9c4e6", "#1f5fa8"
_WINDOW_SHARE = 0.05
_NUM_TICKS = 4


def read_losses(metrics_file: Path, last_step: int) -> list[tuple[int, float]]:
    """Return (step, loss) of every logged step up to `last_step`."""
    if not metrics_file.is_file():
        return []
    rows = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    points = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row and row["step"] <= last_step]
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def write_curve(path: Path, points: list[tuple[int, float]]) -> None:
    """Draw the losses as a PNG: every point in a light line, their running mean in a strong one.

    Args:
        path: The file.
        points: (step, loss), at least two, in order.
    """
    from PIL import Image, ImageDraw, ImageFont

    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    low, high = min(losses), max(losses)
    high = high if high > low else low + 1e-6

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (step - steps[0]) / (steps[-1] - steps[0]) * (_WIDTH - _LEFT - _RIGHT)
        return x * _SCALE, (_TOP + (high - loss) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)) * _SCALE

    image = Image.new("RGB", (_WIDTH * _SCALE, _HEIGHT * _SCALE), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12 * _SCALE)
    for tick in range(_NUM_TICKS + 1):
        loss = low + (high - low) * tick / _NUM_TICKS
        step = steps[0] + (steps[-1] - steps[0]) * tick / _NUM_TICKS
        draw.line([place(steps[0], loss), place(steps[-1], loss)], fill=_GRID, width=_SCALE)
        x, y = place(steps[0], loss)
        draw.text((x - 8 * _SCALE, y), f"{loss:.3g}", fill=_INK, font=font, anchor="rm")
        x, y = place(step, low)
        draw.text((x, y + 8 * _SCALE), f"{step:.0f}", fill=_INK, font=font, anchor="ma" if tick < _NUM_TICKS else "ra")
    draw.line([place(*point) for point in points], fill=_LIGHT, width=_SCALE)
    draw.line([place(*point) for point in _running_mean(points)], fill=_STRONG, width=2 * _SCALE)
    draw.text((_WIDTH * _SCALE // 2, (_HEIGHT - 2) * _SCALE), "step; loss upwards", fill=_INK, font=font, anchor="mb")
    image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS).save(path)


def _running_mean(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    half = max(1, round(len(points) * _WINDOW_SHARE))
    means = []
    for index, (step, _) in enumerate(points):
        window = [loss for _, loss in points[max(0, index - half) : index + half + 1]]
        means.append((step, sum(window) / len(window)))
    return means


CARD_FILE = "README.md"
CURVE_FILE = "loss.png"
PREVIEW_DIR = "previews"

_CARD = """---
license: {licence}
library_name: diffusers
pipeline_tag: text-to-audio
tags: [music, spectrogram, riffusion, stable-diffusion{lora_tag}]{base_line}
---

# {name}

{what}. It turns a prompt into a mel-spectrogram, which is inverted to sound.
Made with [riffusion-train](https://pypi.org/project/riffusion-train/) {version}.

| | |
|---|---|
| base model | {base} |
| method | {method}, {steps} steps of {batch} slices, learning rate {lr}, seed {seed} |
| weights | {weights} |
| target | {target} |
| presets | {presets} |
| dataset | {dataset}, fingerprint `{fingerprint}`{counts} |
| codec | {codec} |
{sound}
## Use

With riffusion-train, which gives sound:

```
pip install riffusion-train
{sampler}
```

With diffusers, which gives the pictures:

```python
{diffusers}
```

With A1111, Forge or ComfyUI, which give the pictures too:

{webui}

## Licence

{licence_text}
"""
_LICENCES = {
    OWN: "The weights descend from none that others published; their owner may choose the licence.",
    OPENRAIL: (
        "The base model's licence carries over to fine-tuned weights: CreativeML OpenRAIL-M. Use and sharing are free, "
        "within its use restrictions, which must be passed on."
    ),
}


def write_card(
    folder: Path, model: RunModel, summary: Summary, kind: ExportFormat, layout: LoraLayout, *, name: str
) -> None:
    """Write `README.md` with the loss curve and the previews, picture and sound, into a folder.

    Args:
        folder: Where to write; it is there.
        model: What was exported.
        summary: What is known of it.
        kind: The format it was exported to.
        layout: The layout of adapters.
        name: What the model is called: the folder's or file's name, or the hub's `user/name`.
    """
    codec = model.base.skeleton.spectrogram
    size = (512, 512) if codec is None else (codec.width_px, codec.n_mels)
    counts = ", ".join(f"{count} {split}" for split, count in summary.dataset_slices.items())
    is_lora = kind is ExportFormat.lora
    text = _CARD.format(
        licence=summary.licence,
        lora_tag=", lora" if is_lora else "",
        base_line=f"\nbase_model: {summary.base_model}" if summary.base_model.count("/") == 1 else "",
        name=name,
        what="Low-rank adapters (LoRA) for a Stable Diffusion 1.5 model"
        if is_lora
        else "A model of Stable Diffusion 1.5's architecture",
        version=summary.riffusion_train,
        base=summary.base_model,
        method=summary.method,
        steps=summary.step,
        batch=summary.slices_per_step,
        lr=summary.learning_rate,
        seed=summary.seed,
        weights={"ema": "moving average (EMA)", "raw": "as trained"}[summary.weights],
        target=summary.prediction_type,
        presets=", ".join(f"`{preset}`" for preset in summary.presets) or "none",
        dataset=f"`{summary.dataset}`",
        fingerprint=summary.dataset_fingerprint,
        counts=f", slices: {counts}" if counts else "",
        codec="unknown"
        if codec is None
        else f"{codec.name}: {codec.n_mels} bands, {codec.clip_s:.2f} s, {codec.rate_hz} Hz",
        sound=_sound(folder, model),
        sampler=_sampler_lines(name, kind, layout, summary.base_model),
        diffusers=_diffusers_lines(name, kind, layout, summary.base_model, size),
        webui=_webui_lines(name, kind, layout, summary, size),
        licence_text=_LICENCES.get(summary.licence, f"The base model's licence carries over: {summary.licence}."),
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _sound(folder: Path, model: RunModel) -> str:
    """Copy previews and draw the curve; return the lines that show them."""
    lines = []
    pictures = previews(model)
    if pictures:
        (folder / PREVIEW_DIR).mkdir()
        lines.append("\n## How it sounds\n")
    for picture in pictures:
        settings = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
        for file in picture.parent.glob(f"{picture.stem}.*"):
            shutil.copyfile(file, folder / PREVIEW_DIR / file.name)
        sounds = [
            file.name
            for file in sorted(picture.parent.glob(f"{picture.stem}.*"))
            if file.suffix not in (".png", ".json")
        ]
        prompt = str(settings["prompt"]).replace("\n", " ")
        lines.append(f"**{prompt}** (seed {settings['seed']})\n")
        lines.append(f"![spectrogram of: {prompt}]({PREVIEW_DIR}/{picture.name})\n")
        lines += [
            f'<audio controls src="{PREVIEW_DIR}/{name}"></audio> [{name}]({PREVIEW_DIR}/{name})\n' for name in sounds
        ]
    points = read_losses(model.run.metrics_file, model.step)
    if len(points) > 1:
        write_curve(folder / CURVE_FILE, points)
        lines.append(f"\n## Training\n\n![loss over {points[-1][0]} steps]({CURVE_FILE})\n")
    return "\n".join(lines)


def _sampler_lines(name: str, kind: ExportFormat, layout: LoraLayout, base: str) -> str:
    if kind is not ExportFormat.lora:
        return f'riffusion sample {_file(name, kind, layout)} --prompt "…" out=clips'
    return (
        f"riffusion import {_file(name, kind, layout)} base={base} out=merged\n"
        'riffusion sample merged --prompt "…" out=clips'
    )


def _diffusers_lines(name: str, kind: ExportFormat, layout: LoraLayout, base: str, size: tuple[int, int]) -> str:
    file = _file(name, kind, layout)
    draw = f'image = pipe("…", width={size[0]}, height={size[1]}).images[0]'
    if kind is ExportFormat.lora:
        return (
            f'pipe = StableDiffusionPipeline.from_pretrained("{base}", safety_checker=None)\n'
            f'pipe.load_lora_weights("{file}")\n{draw}'
        )
    load = "from_single_file" if kind is ExportFormat.single_file else "from_pretrained"
    return f'from diffusers import StableDiffusionPipeline\npipe = StableDiffusionPipeline.{load}("{file}")\n{draw}'


def _webui_lines(name: str, kind: ExportFormat, layout: LoraLayout, summary: Summary, size: tuple[int, int]) -> str:
    folder = "models/Lora" if kind is ExportFormat.lora else "models/Stable-diffusion"
    need = "" if is_file(kind, layout) else " (export again with `format=single_file`, or a LoRA with `layout=kohya`)"
    file = Path(name).name.removesuffix(".safetensors") + ".safetensors"
    velocity = "; it predicts velocity, so choose v-prediction" if summary.prediction_type == "v_prediction" else ""
    preset = summary.codec if summary.codec in group_options("spectrogram") else SPECTROGRAM_FILE
    use = f" and add `<lora:{file.removesuffix('.safetensors')}:1>` to the prompt" if kind is ExportFormat.lora else ""
    return (
        f"1. Put `{file}` into `{folder}`{need}{use}.\n"
        f"2. Draw at {size[0]} x {size[1]}, 20 to 30 steps, CFG 7{velocity}; save as PNG.\n"
        f"3. `riffusion spectrogram decode picture.png sound.wav preset={preset}` turns it into sound."
    )


def _file(name: str, kind: ExportFormat, layout: LoraLayout) -> str:
    """Return what a reader passes to a program: the folder or hub id, or the file."""
    return Path(name).name if is_file(kind, layout) else name
