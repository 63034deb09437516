"""The model card: what the model is, what it was made from, how to use it."""

from pathlib import Path
from typing import Any

from riffusion_train.config.spectrogram import load_spectrogram
from riffusion_train.config.train import TrainConfig

_CARD = """---
library_name: diffusers
pipeline_tag: text-to-audio
license: {license}
tags: [music, spectrogram, riffusion, stable-diffusion]
---

# {name}

A Stable Diffusion 1.5 model that draws music: it turns a prompt into a mel-spectrogram, which is inverted to sound.
Made with [riffusion-train](https://pypi.org/project/riffusion-train/) {version}.

| | |
|---|---|
| base model | {base} |
| method | {method}, {steps} steps of {batch} slices, learning rate {lr} |
| target | {target} |
| dataset | `{dataset}` |
| codec | {codec} |

## Use

```
riffusion sample {name} --prompt "…" out=clips
```

```python
from riffusion_train.sampling.sampler import Sampler

clip = Sampler.load("{name}").text_to_audio("…", seed=0)
clip.save(Path("clip"))
```

`StableDiffusionPipeline.from_pretrained("{name}")` opens it too and gives the pictures; `spectrogram.json` says what they
mean.

## Licence

{licence_text}
"""
_OWN = "The weights were trained from nothing by the owner of this card, who may choose their licence."
_DERIVED = (
    "The base model's licence carries over to fine-tuned weights. Stable Diffusion 1.5 is under CreativeML OpenRAIL-M: use "
    "and sharing are free, within its use restrictions, which must be passed on."
)


def write_card(folder: Path, *, name: str, config: TrainConfig, manifest: dict[str, Any]) -> None:
    """Write `README.md` into an exported model folder."""
    codec = load_spectrogram(folder)
    base = str(manifest["base_model"]["source"])
    own = base.startswith("random weights") or Path(base).is_dir()
    per_process = config.train_batch_size * config.gradient_accumulation_steps
    text = _CARD.format(
        name=name,
        license="other" if own else "creativeml-openrail-m",
        version=manifest["versions"]["riffusion-train"],
        base=base,
        method=config.method.name.value,
        steps=config.max_train_steps,
        batch=per_process * manifest["world_size"],
        lr=config.optimizer.lr,
        target=config.objective.prediction_type.value,
        dataset=manifest["dataset"]["fingerprint"],
        codec="unknown" if codec is None else f"{codec.name}: {codec.n_mels} bands, {codec.clip_s:.2f} s",
        licence_text=_OWN if own else _DERIVED,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
