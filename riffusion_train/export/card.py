"""The model card: what a model is, what it was made from, how it sounds, and how to use it."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.audio.plots import curve_image
from riffusion_train.config.compose import group_options
from riffusion_train.config.denoising import SchedulerName
from riffusion_train.config.model import ExportFormat
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE, SpectrogramConfig
from riffusion_train.export.summary import (
    OPENRAIL,
    OWN,
    Imported,
    ModelScores,
    Summary,
    base_name,
    inherited_licence,
    is_hub_id,
    is_sd15,
    preview_prompt,
    previews,
)
from riffusion_train.model.lora import LORA_FILE
from riffusion_train.runtime.files import write_atomically
from riffusion_train.runtime.provenance import versions
from riffusion_train.training.run_folder import read_lines
from riffusion_train.training.run_model import RunModel

CARD_FILE = "README.md"
CURVE_FILE = "loss.png"
PREVIEW_DIR = "previews"

_CARD = """---
{front}
---

# {name}

{what}. It turns a prompt into a mel-spectrogram, which is inverted to sound.
Made with riffusion-train {version}.

| | |
|---|---|
{rows}
{notes}{scores}{sound}
## Use

With riffusion-train, which gives sound; install it by `pip install .` in a checkout of its source code:

```
{sampler}
```

With diffusers, which gives the images:

```python
{diffusers}
```

{webui}

## Licence

{licence_text}
"""
_OWN_LICENCE = "The weights do not descend from any that others published; they are under this licence: {}."
_DIFFUSERS_OPTIONS = ("num_inference_steps", "guidance_scale")
"""Recommended options that diffusers' pipeline has too."""
_COMFY = "the node ModelSamplingDiscrete"
_LICENCES = {
    OWN: "The weights do not descend from any that others published; their owner may choose the licence.",
    OPENRAIL: (
        "The base model's licence carries over to fine-tuned weights: CreativeML OpenRAIL-M. Use and sharing are free, "
        "within its use restrictions, which must be passed on."
    ),
}


@dataclasses.dataclass(frozen=True)
class Form:
    """The format that a card describes."""

    name: str
    """The folder or file, or the hub's `user/name`."""
    kind: ExportFormat
    file: str | None
    """The one file that holds all weights; None for a folder of diffusers."""

    @property
    def is_lora(self) -> bool:
        """Whether it holds adapters."""
        return self.kind is ExportFormat.lora


@dataclasses.dataclass(frozen=True)
class Card:
    """A model card, ready to be written."""

    form: Form
    licence: str
    base: str
    """What the model was made from."""
    relation: str
    """The hub's word for how it was made from its base."""
    rows: Sequence[tuple[str, str]]
    """The table: what, value."""
    codec: SpectrogramConfig | None
    sd15: bool
    """Whether the model has the size of Stable Diffusion 1.5."""
    velocity: bool
    """Whether the UNet predicts velocity."""
    version: str
    """The version of riffusion-train that made it."""
    prompts: Sequence[tuple[str, str]] = ()
    """Prompt and image of every preview."""
    dataset: str | None = None
    """The dataset's id on the hub, where it has one."""
    loss: tuple[str, float] | None = None
    """The name and value of the last loss on held-out slices."""
    owner_chose_licence: bool = False
    """Whether the licence is that of the owner of weights that descend from no others."""
    notes: str = ""
    """A text in Markdown by the model's owner."""
    scores: ModelScores | None = None
    """What `riffusion evaluate` measured, if it did."""
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options that are recommended to sample it with, as JSON data."""
    write_sound: Callable[[Path], str] = lambda folder: ""
    """Puts previews and the loss curve into the folder, and returns the lines that show them."""

    def write(self, folder: Path) -> None:
        """Write `README.md`, with the loss curve and the previews, image and sound, into a folder that exists."""
        where = "Stable Diffusion 1.5's architecture" + ("" if self.sd15 else " at another size")
        what = f"Low-rank adapters (LoRA) for a model of {where}" if self.form.is_lora else f"A model of {where}"
        text = _CARD.format(
            front="\n".join(_front_lines(self)),
            name=self.form.name,
            what=what,
            version=self.version,
            rows="\n".join(f"| {name} | {value} |" for name, value in self.rows),
            notes=f"\n{self.notes}\n" if self.notes else "",
            scores="" if self.scores is None else self.scores.text(),
            sound=self.write_sound(folder),
            sampler=_sampler_lines(self),
            diffusers=_diffusers_lines(self),
            webui=_webui_lines(self),
            licence_text=_licence_text(self),
        )
        (folder / CARD_FILE).write_text(text, encoding="utf-8")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its images."""
        return (512, 512) if self.codec is None else (self.codec.width_px, self.codec.n_mels)


def card_of(model: RunModel, summary: Summary, form: Form, scores: ModelScores | None = None, notes: str = "") -> Card:
    """Return the card of a run's model.

    Args:
        model: The model that was exported.
        summary: How it came to be.
        form: The format it is exported to.
        scores: How good it is, if that was measured.
        notes: A text in Markdown by the model's owner.
    """
    codec = model.base.skeleton.spectrogram
    counts = ", ".join(f"{count} {split}" for split, count in summary.dataset_slices.items())
    rows = [
        ("base model", summary.base_model),
        (
            "method",
            f"{summary.method}, {summary.step} steps of {summary.slices_per_step} slices, learning rate "
            f"{summary.learning_rate}, seed {summary.seed}",
        ),
        ("weights", {"ema": "moving average (EMA)", "raw": "as trained"}[summary.weights]),
        ("target", summary.prediction_type),
        ("presets", ", ".join(f"`{preset}`" for preset in summary.presets) or "none"),
        (
            "dataset",
            f"`{summary.dataset}`, fingerprint `{summary.dataset_fingerprint}`"
            + (f", slices: {counts}" if counts else ""),
        ),
        ("codec", _codec_text(codec)),
    ]
    held_out = _read_series(model.run.metrics_file, model.step, "validation_loss")
    source = model.config.dataset
    return Card(
        form,
        summary.licence,
        summary.base_model,
        "adapter" if form.is_lora else "finetune",
        rows,
        codec,
        is_sd15(model.base.skeleton),
        summary.prediction_type == "v_prediction",
        summary.riffusion_train,
        prompts=[(preview_prompt(image), f"{PREVIEW_DIR}/{image.name}") for image in previews(model)],
        dataset=source if is_hub_id(source) and not Path(source).exists() else None,
        loss=("validation loss", held_out[-1][1]) if held_out else None,
        owner_chose_licence=summary.licence != OWN and inherited_licence(model) == OWN,
        notes=notes,
        scores=scores,
        sampling=summary.sampling,
        write_sound=lambda folder: _sound(folder, model),
    )


def imported_card(about: Imported, form: Form) -> Card:
    """Return the card of an imported model or of converted adapters."""
    base = base_name(about.base or about.source)
    made = [
        ("imported from", f"`{Path(about.source).name if Path(about.source).exists() else about.source}`, {about.what}")
    ]
    if about.base is not None:
        made.append(("base model", base))
        if about.lora is not None and about.parts is not None:
            made.append(("strength of the LoRA", f"{about.lora_scale:g}"))
    rows = [*made, ("target", "v_prediction" if about.velocity else "epsilon"), ("codec", _codec_text(about.codec))]
    merged = about.base is not None and about.parts is not None
    return Card(
        form,
        about.licence,
        base,
        "adapter" if form.is_lora else "merge" if merged else "finetune",
        rows,
        about.codec,
        about.sd15,
        about.velocity,
        versions()["riffusion-train"],
    )


def _licence_text(card: Card) -> str:
    if card.owner_chose_licence:
        return _OWN_LICENCE.format(card.licence)
    return _LICENCES.get(card.licence, f"The base model's licence carries over: {card.licence}.")


def _codec_text(codec: SpectrogramConfig | None) -> str:
    return (
        "unknown" if codec is None else f"{codec.name}: {codec.n_mels} bands, {codec.clip_s:.2f} s, {codec.rate_hz} Hz"
    )


def _front_lines(card: Card) -> list[str]:
    """Return the YAML that the hub reads; texts are quoted as JSON, which is YAML too."""
    lines = [
        f"license: {card.licence}",
        "library_name: diffusers",
        "pipeline_tag: text-to-audio",
        "language: en",
        f"tags: [music, spectrogram, riffusion, stable-diffusion{', lora' if card.form.is_lora else ''}]",
    ]
    if is_hub_id(card.base):
        lines += [f"base_model: {card.base}", f"base_model_relation: {card.relation}"]
    if card.dataset is not None:
        lines.append(f"datasets: [{card.dataset}]")
    if card.prompts and card.form.is_lora:
        lines.append(f"instance_prompt: {json.dumps(card.prompts[0][0], ensure_ascii=False)}")
    if card.prompts:
        lines.append("widget:")
    for prompt, image in card.prompts:
        lines += [
            f"  - text: {json.dumps(prompt, ensure_ascii=False)}",
            "    output:",
            f"      url: {json.dumps(image)}",
        ]
    metrics = (
        [] if card.loss is None else [{"type": "loss", "name": card.loss[0], "value": float(f"{card.loss[1]:.6g}")}]
    )
    metrics += [] if card.scores is None else card.scores.metrics()
    if metrics:
        lines += [
            "model-index:",
            f"  - name: {json.dumps(card.form.name)}",
            "    results:",
            "      - task: {type: text-to-audio}",
            f"        dataset: {{type: {json.dumps(card.dataset or 'audiofolder')}, name: held-out slices of the dataset}}",
            "        metrics:",
            *(f"          - {json.dumps(metric, ensure_ascii=False)}" for metric in metrics),
        ]
    return lines


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
    losses = _read_series(model.run.metrics_file, model.step, "loss")
    curve = curve_image(losses)
    if curve is not None:
        write_atomically(folder / CURVE_FILE, curve)
        lines.append(f"\n## Training\n\n![loss over {losses[-1][0]} steps]({CURVE_FILE})\n")
    return "\n".join(lines)


def _read_series(metrics_file: Path, last_step: int, name: str) -> list[tuple[int, float]]:
    """Return (step, value) of every logged step up to `last_step`."""
    if not metrics_file.is_file():
        return []
    rows, _ = read_lines(metrics_file)
    pairs = [(row.get("step"), row.get(name)) for row in rows]
    return [
        (step, float(value))
        for step, value in pairs
        if isinstance(step, int) and isinstance(value, int | float) and step <= last_step
    ]


def _sampler_lines(card: Card) -> str:
    form = card.form
    loads = form.name
    if form.is_lora and is_hub_id(form.name):  # `--lora` takes a file of a repository, not its name
        loads = form.file or LORA_FILE
    if not form.is_lora:
        return f'riffusion sample {loads} --prompt "…" out=clips'
    return f'riffusion sample {_base(card)} --lora {loads} --prompt "…" out=clips{_base_note(card)}'


def _diffusers_lines(card: Card) -> str:
    form = card.form
    lines = ["from diffusers import StableDiffusionPipeline", ""]
    if form.is_lora:
        lines.append(
            f'pipe = StableDiffusionPipeline.from_pretrained("{_base(card)}", safety_checker=None){_base_note(card)}'
        )
        inside = form.file is not None and form.file != form.name
        weights = f', weight_name="{form.file}"' if inside else ""
        lines.append(f'pipe.load_lora_weights("{form.name}"{weights})')
    elif form.kind is ExportFormat.single_file:
        lines.append(
            "# FOLDER: the same model with format=diffusers; without config= diffusers takes SD 1.5's from the hub"
        )
        lines.append(f'pipe = StableDiffusionPipeline.from_single_file("{form.name}", config="FOLDER")')
    else:
        lines.append(f'pipe = StableDiffusionPipeline.from_pretrained("{form.name}")')
    if form.is_lora and card.sampling.get("scheduler") == SchedulerName.lcm.value:
        lines.insert(0, "from diffusers import LCMScheduler")
        lines.append("pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)")
    options = [f"width={card.size[0]}", f"height={card.size[1]}"]
    options += [f"{key}={card.sampling[key]}" for key in _DIFFUSERS_OPTIONS if key in card.sampling]
    return "\n".join([*lines, f'image = pipe("…", {", ".join(options)}).images[0]'])


def _base(card: Card) -> str:
    """Return how to load the base of adapters: its hub id, or a word instead of a folder that only the trainer has."""
    return card.base if is_hub_id(card.base) else "BASE"


def _base_note(card: Card) -> str:
    return "" if is_hub_id(card.base) else f"  # BASE is your copy of the base model: {card.base}"


def _webui_lines(card: Card) -> str:
    """Return the steps for web interfaces, which load models of Stable Diffusion 1.5's size alone."""
    if not card.sd15:
        return "A1111, Forge and ComfyUI load models of Stable Diffusion 1.5's size only, and this one has another."
    form = card.form
    folder = "models/Lora" if form.is_lora else "models/Stable-diffusion"
    need = "" if form.file else " (export again with `format=single_file`, or a LoRA with `layout=kohya`)"
    file = form.file or Path(form.name).name.removesuffix(".safetensors") + ".safetensors"
    yaml = (
        f" with the `.yaml` of that name, which says so to A1111 and Forge; in ComfyUI choose v-prediction ({_COMFY})"
    )
    velocity = ""
    if card.velocity:
        velocity = f"; it predicts velocity, so {'choose v-prediction' if form.is_lora else 'keep it together' + yaml}"
    preset = (
        card.codec.name
        if card.codec is not None and card.codec.name in group_options("spectrogram")
        else SPECTROGRAM_FILE
    )
    use = f" and add `<lora:{file.removesuffix('.safetensors')}:1>` to the prompt" if form.is_lora else ""
    return (
        "With A1111, Forge or ComfyUI, which also give the images:\n\n"
        f"1. Put `{file}` into `{folder}`{need}{use}.\n"
        f"2. Draw at {card.size[0]} x {card.size[1]}, 20 to 30 steps, CFG 7{velocity}; save as PNG.\n"
        f"3. `riffusion spectrogram decode image.png sound.wav preset={preset}` turns it into sound."
    )
