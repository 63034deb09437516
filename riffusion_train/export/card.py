"""The model card: what a model is, what it was made from, how it sounds, and how to use it."""

import json
import shutil
from pathlib import Path

from riffusion_train.audio.plots import curve_image
from riffusion_train.config.compose import group_options
from riffusion_train.config.export import ExportFormat, LoraLayout, is_file
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE
from riffusion_train.export.summary import OPENRAIL, OWN, Summary, previews
from riffusion_train.runtime.files import write_atomically
from riffusion_train.training.run_model import RunModel

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
Made with riffusion-train {version}.

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

With riffusion-train, which gives sound; install it by `pip install .` in a checkout of its source code:

```
{sampler}
```

With diffusers, which gives the images:

```python
{diffusers}
```

With A1111, Forge or ComfyUI, which also give the images:

{webui}

## Licence

{licence_text}
"""
_LICENCES = {
    OWN: "The weights do not descend from any that others published; their owner may choose the licence.",
    OPENRAIL: (
        "The base model's licence carries over to fine-tuned weights: CreativeML OpenRAIL-M. Use and sharing are free, "
        "within its use restrictions, which must be passed on."
    ),
}


def write_card(
    folder: Path, model: RunModel, summary: Summary, kind: ExportFormat, layout: LoraLayout, *, name: str
) -> None:
    """Write `README.md` with the loss curve and the previews, image and sound, into a folder.

    Args:
        folder: Where to write; it must exist.
        model: The model that was exported.
        summary: How it came to be.
        kind: The format it was exported to.
        layout: The layout of adapters.
        name: The name of the model: of its folder or file, or the hub's `user/name`.
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
    """Copy the previews and draw the loss curve; return the lines that show them."""
    lines = []
    images = previews(model)
    if images:
        (folder / PREVIEW_DIR).mkdir()
        lines.append("\n## How it sounds\n")
    for image in images:
        record = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
        files = sorted(image.parent.glob(f"{image.stem}.*"))
        for file in files:
            shutil.copyfile(file, folder / PREVIEW_DIR / file.name)
        sounds = [file.name for file in files if file.suffix not in (".png", ".json")]
        prompt = str(record["prompt"]).replace("\n", " ")
        lines.append(f"**{prompt}** (seed {record['seed']})\n")
        lines.append(f"![spectrogram of: {prompt}]({PREVIEW_DIR}/{image.name})\n")
        lines += [
            f'<audio controls src="{PREVIEW_DIR}/{name}"></audio> [{name}]({PREVIEW_DIR}/{name})\n' for name in sounds
        ]
    losses = _read_losses(model.run.metrics_file, model.step)
    curve = curve_image(losses)
    if curve is not None:
        write_atomically(folder / CURVE_FILE, curve)
        lines.append(f"\n## Training\n\n![loss over {losses[-1][0]} steps]({CURVE_FILE})\n")
    return "\n".join(lines)


def _read_losses(metrics_file: Path, last_step: int) -> list[tuple[int, float]]:
    """Return (step, loss) of every logged step up to `last_step`."""
    if not metrics_file.is_file():
        return []
    rows = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    return [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row and row["step"] <= last_step]


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
        f"3. `riffusion spectrogram decode image.png sound.wav preset={preset}` turns it into sound."
    )


def _file(name: str, kind: ExportFormat, layout: LoraLayout) -> str:
    """Return what to give to a program that loads the model: the folder or hub id, or the file."""
    return Path(name).name if is_file(kind, layout) else name
