"""Previews: clips sampled while training, from the averaged weights, with a page to see and hear them."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from riffusion_train.audition.site import Cell, Site, Version, write_site
from riffusion_train.config.train import PreviewConfig
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.clip import Clip
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.run_folder import step_of
from riffusion_train.training.tracking import track_clips
from riffusion_train.training.validation import spread

BASE_DIR = "base"
_BATCH_SIZE = 4
"""Prompts that are sampled together."""


def preview_prompts(
    config: PreviewConfig, trained: SpectrogramDataset, held_out: SpectrogramDataset | None
) -> list[str]:
    """Return the prompts of the config, or distinct captions: half of them held out, then half of them trained.

    A split that has too few leaves its part to the other. All slices of a song often have the same caption, so captions are
    taken evenly from all of a split.

    Args:
        config: How many.
        trained: The slices that are trained on.
        held_out: Those that are not; None where there are none.
    """
    if config.prompts:
        return list(config.prompts)
    seen = dict.fromkeys(trained.all_captions())
    new = [] if held_out is None else [caption for caption in held_out.all_captions() if caption not in seen]
    num_new = min(len(new), max(-(-config.num_prompts // 2), config.num_prompts - len(seen)))
    num_seen = min(len(seen), config.num_prompts - num_new)
    return [new[index] for index in spread(len(new), num_new)] + [
        list(seen)[index] for index in spread(len(seen), num_seen)
    ]


def make_preview(
    config: PreviewConfig, components: Components, prompts: list[str], folder: Path, distribution: Distribution
) -> Callable[[int], None]:
    """Return the function that writes `previews/step-000500/`: a clip for each prompt at each strength of guidance.

    Step 0 is the model that training begins with and goes to `previews/base/`, once. The first rank samples. The page
    `previews/index.html` shows and plays all of them.
    """

    def preview(step: int) -> None:
        target = folder / (f"step-{step:06d}" if step else BASE_DIR)
        model = distribution.whole_model(components)

        def write() -> None:
            if not step and (target.is_dir() or not config.base_row):
                return
            clips = dict(_sample(config, model, prompts, distribution.device))
            for name, clip in clips.items():
                clip.save(target / name)
            track_clips(distribution.accelerator, clips, step)
            _write_page_or_warn(folder)

        distribution.on_main(write)

    return preview


def write_page(folder: Path) -> Path:
    """Write the audition page of all previews in a folder: the base model first, then the newest step; return its path.

    Raises:
        InputError: If a preview cannot be read.
    """
    steps = sorted(folder.glob("step-*"), reverse=True)
    base = [folder / BASE_DIR] if (folder / BASE_DIR).is_dir() else []
    versions: dict[str, Version] = {}
    cells = []
    for step in [*base, *steps]:
        for scale, stems in _by_guidance(step):
            version = _version(step, scale)
            versions[version.name] = version
            cells += [Cell(f"{step.name}/{stem}", version.name, command="") for stem in stems]
    return write_site(folder, Site("Previews", "", list(versions.values()), cells))


def _write_page_or_warn(folder: Path) -> None:
    """Write the page; damaged previews are no reason for training to stop."""
    try:
        write_page(folder)
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        print(f"the page of previews was not written: {error}", file=sys.stderr)


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
                components,
                device=device,
                num_inference_steps=config.num_inference_steps,
                scheduler=config.scheduler,
                timesteps=config.timesteps,
                guidance=config.guidance,
                guidance_interval=config.guidance_interval,
                guidance_rescale=config.guidance_rescale,
                apg_momentum=config.apg_momentum,
                apg_norm_threshold=config.apg_norm_threshold,
                apg_eta=config.apg_eta,
                quality=config.quality,
                target_lufs=config.target_lufs,
                guidance_scale=scale,
                unet_batch_size=min(len(prompts), _BATCH_SIZE),
            )
            requests = [(prompt, "", config.seed + index) for index, prompt in enumerate(prompts)]
            with torch.compiler.set_stance("force_eager"):  # sampling has other shapes than what was compiled
                sampled = list(sampler.generate(requests, batch_size=_BATCH_SIZE))
            for index, clip in enumerate(sampled):
                yield f"{index:02d}" + (f"-guidance-{scale:g}" if len(config.guidance_scales) > 1 else ""), clip
    finally:
        for name, module in components.modules.items():
            module.train(training[name])
            module.to(devices[name])  # what is kept in the host's memory goes back there


def _by_guidance(step: Path) -> list[tuple[float, list[str]]]:
    """Return the clips of a step by their strength of guidance, read from the clips themselves."""
    by_scale: dict[float, list[str]] = {}
    for path in sorted(step.glob("*.json")):
        scale = json.loads(path.read_text(encoding="utf-8"))["guidance_scale"]
        by_scale.setdefault(scale, []).append(path.stem)
    return sorted(by_scale.items())


def _version(step: Path, scale: float) -> Version:
    number = 0 if step.name == BASE_DIR else step_of(step)
    name = f"step {number}" if number else "before training"
    return Version(f"{name} · guidance {scale:g}", str(step), number)
