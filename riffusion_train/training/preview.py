"""Previews: clips sampled while training, from the averaged weights, with a page to look and listen."""

import html
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from riffusion_train.config.train import PreviewConfig
from riffusion_train.dataset.loading import SliceTable
from riffusion_train.model.components import Components
from riffusion_train.sampling.clip import Clip
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.sharding import whole_model
from riffusion_train.training.trackers import track_clips

BASE_DIR = "base"
PAGE = "index.html"

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Previews</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #fff; color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .4rem .6rem; text-align: left; vertical-align: top; font-weight: normal }}
thead th {{ max-width: 14rem; font-weight: 600 }}
tr.base {{ background: #f1f1ec }}
img, audio {{ display: block; width: 14rem }}
img {{ height: 14rem; image-rendering: pixelated }}
</style>
<h1>Previews</h1>
<p>One prompt and one seed a column, one step and one strength of guidance a row; the newest first.</p>
<table><thead><tr><th></th>{heads}</tr></thead><tbody>
{rows}
</tbody></table>
</html>
"""


def preview_prompts(config: PreviewConfig, table: SliceTable) -> list[str]:
    """Return the prompts of the config, or the first captions of the slices."""
    if config.prompts:
        return list(config.prompts)
    return [table.captions(index)[0] for index in range(min(config.num_prompts, len(table)))]


def make_preview(
    config: PreviewConfig, components: Components, prompts: list[str], folder: Path, accelerator: Any
) -> Callable[[int], None]:
    """Return the function that writes `previews/step-000500/`: a clip for each prompt at each strength of guidance.

    Step 0 is the model that training begins with and goes to `previews/base/`, once. Rank 0 samples. The page
    `previews/index.html` shows and plays all of them.
    """

    def preview(step: int) -> None:
        target = folder / (f"step-{step:06d}" if step else BASE_DIR)
        model = whole_model(components, accelerator)
        if accelerator.is_main_process and (step or (config.base_row and not target.is_dir())):
            clips = dict(_sample(config, model, prompts, accelerator.device))
            for name, clip in clips.items():
                clip.save(target / name)
            track_clips(accelerator, clips, step)
            write_page(folder, prompts)
        accelerator.wait_for_everyone()

    return preview


def write_page(folder: Path, prompts: Sequence[str]) -> Path:
    """Write the page of all previews in a folder; return its path."""
    steps = sorted(folder.glob("step-*"), reverse=True)
    base = [folder / BASE_DIR] if (folder / BASE_DIR).is_dir() else []
    rows = "\n".join(row for step in [*base, *steps] for row in _rows(step))
    heads = "".join(f"<th>{html.escape(prompt)}</th>" for prompt in prompts)
    page = folder / PAGE
    page.write_text(_PAGE.format(heads=heads, rows=rows), encoding="utf-8")
    return page


def _sample(
    config: PreviewConfig, components: Components, prompts: Sequence[str], device: Any
) -> Iterator[tuple[str, Clip]]:
    """Yield the name and clip of every prompt at every strength of guidance, and leave the networks as they were."""
    training = {name: module.training for name, module in components.modules.items()}
    devices = {name: next(module.parameters()).device for name, module in components.modules.items()}
    for module in components.modules.values():
        module.eval()
    try:
        for scale in config.guidance_scales:
            sampler = Sampler(
                components, device=device, num_inference_steps=config.num_inference_steps, guidance_scale=scale
            )
            wanted = [(prompt, "", config.seed + index) for index, prompt in enumerate(prompts)]
            with torch.compiler.set_stance("force_eager"):  # sampling has other shapes than what was compiled
                drawn = list(sampler.generate(wanted))
            for index, clip in enumerate(drawn):
                yield f"{index:02d}" + (f"-guidance-{scale:g}" if len(config.guidance_scales) > 1 else ""), clip
    finally:
        for name, module in components.modules.items():
            module.train(training[name])
            module.to(devices[name])  # what waits in the host's memory goes back there


def _rows(step: Path) -> Iterator[str]:
    """Yield a row for each strength of guidance, read from the clips themselves."""
    by_scale: dict[float, list[Path]] = {}
    for path in sorted(step.glob("*.json")):
        by_scale.setdefault(json.loads(path.read_text(encoding="utf-8"))["guidance_scale"], []).append(path)
    for scale, paths in sorted(by_scale.items()):
        cells = "".join(_cell(f"{step.name}/{path.stem}") for path in paths)
        title = "before training" if step.name == BASE_DIR else f"step {int(step.name.removeprefix('step-'))}"
        kind = ' class="base"' if step.name == BASE_DIR else ""
        yield f"<tr{kind}><th>{title}<br>guidance {scale:g}</th>{cells}</tr>"


def _cell(stem: str) -> str:
    source = quote(stem)
    return f'<td><img src="{source}.png" alt="" loading="lazy"><audio controls preload="none" src="{source}.wav"></audio></td>'
