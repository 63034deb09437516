"""Previews: clips sampled while training, from the averaged weights, with a page to see and hear them."""

import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from riffusion_train.audition.site import Cell, Site, Version, write_site
from riffusion_train.config.sample import clip_options
from riffusion_train.config.train import PreviewConfig
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.clip import Clip
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.run_folder import METRICS_FILE, read_lines, step_name, step_of
from riffusion_train.training.tracking import track_clips
from riffusion_train.training.validation import AGREEMENT, COPIES, KID, LOSS

BASE_DIR = "base"
_LOOKED_AT = 4096
"""Trained slices, spread evenly, whose captions may become prompts."""
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
    seen = dict.fromkeys(trained.captions_of(spread(len(trained), _LOOKED_AT)))
    new = [] if held_out is None else [caption for caption in held_out.all_captions() if caption not in seen]
    num_new = min(len(new), max(-(-config.num_prompts // 2), config.num_prompts - len(seen)))
    num_seen = min(len(seen), config.num_prompts - num_new)
    return [new[index] for index in spread(len(new), num_new)] + [
        list(seen)[index] for index in spread(len(seen), num_seen)
    ]


def make_preview(
    config: PreviewConfig,
    components: Components,
    prompts: list[str],
    folder: Path,
    distribution: Distribution,
    dataset_fingerprint: str,
) -> Callable[[int], None]:
    """Return the function that writes `previews/step-000500/`: a clip for each prompt at each strength of guidance.

    Step 0 is the model that training begins with and goes to `previews/base/`, once. The first rank samples. The page
    `previews/index.html` shows and plays all of them.
    """

    def preview(step: int) -> None:
        target = folder / (step_name(step) if step else BASE_DIR)
        model = distribution.whole_model(components)

        def write() -> None:
            if not step and (target.is_dir() or not config.base_row):
                return
            trained = dataclasses.replace(model, dataset_fingerprint=dataset_fingerprint) if step else model
            clips = dict(_sample(config, trained, prompts, distribution.device))
            for name, clip in clips.items():
                clip.save(target / name)
            track_clips(distribution.accelerator, clips, step)
            _write_page_or_warn(folder)

        distribution.on_main(write)

    return preview


def write_page(folder: Path) -> Path:
    """Write the audition page of all previews in a folder: the base model first, then the newest step; return its path.

    What validation measured at a step stands beside its clips.

    Args:
        folder: `previews/` in a run folder.

    Raises:
        InputError: If a preview cannot be read.
    """
    figures = _figures(folder.parent / METRICS_FILE)
    steps = sorted(folder.glob("step-*"), reverse=True)
    base = [folder / BASE_DIR] if (folder / BASE_DIR).is_dir() else []
    versions: dict[str, Version] = {}
    cells = []
    for step in [*base, *steps]:
        samplings = _by_sampling(step)
        several = len({count for (_, count), _ in samplings}) > 1
        for (scale, count), stems in samplings:
            version = _version(step, f"guidance {scale:g}" + (f" · {count} steps" if several else ""), figures)
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
    config: PreviewConfig, components: Components, prompts: Sequence[str], device: torch.device
) -> Iterator[tuple[str, Clip]]:
    """Yield the name and clip of every prompt at every strength of guidance, with every number of steps."""
    counts: Sequence[int | None] = config.step_counts or [config.num_inference_steps]
    for scale, steps in itertools.product(config.guidance_scales, counts):
        options = {
            **clip_options(config),
            "guidance_scale": scale,
            "num_inference_steps": steps,
            "unet_batch_size": min(len(prompts), _BATCH_SIZE),
        }
        ending = f"-guidance-{scale:g}" if len(config.guidance_scales) > 1 else ""
        ending += f"-steps-{steps}" if len(counts) > 1 else ""
        requests = [(prompt, "", config.seed + index) for index, prompt in enumerate(prompts)]
        with sampler_of(components, device, options) as sampler:
            sampled = list(sampler.generate(requests, batch_size=_BATCH_SIZE))
        for index, clip in enumerate(sampled):
            yield f"{index:02d}{ending}", clip


@contextlib.contextmanager
def sampler_of(components: Components, device: torch.device, options: Mapping[str, Any]) -> Iterator[Sampler]:
    """Sample networks that are being trained, and leave them as they were.

    Args:
        components: The model.
        device: Where it is sampled.
        options: Options of the sampler by name.
    """
    training = {name: module.training for name, module in components.modules.items()}
    devices = {name: next(module.parameters()).device for name, module in components.modules.items()}
    for module in components.modules.values():
        module.eval()
    try:
        with torch.compiler.set_stance("force_eager"):  # sampling has other shapes than what was compiled
            yield Sampler(components, device=device, **options)
    finally:
        for name, module in components.modules.items():
            module.train(training[name])
            module.to(devices[name])  # what is kept in the host's memory goes back there


def _by_sampling(step: Path) -> list[tuple[tuple[float, int], list[str]]]:
    """Return the clips of a step by their strength of guidance and number of steps, read from the clips themselves."""
    by_sampling: dict[tuple[float, int], list[str]] = {}
    for path in sorted(step.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        by_sampling.setdefault((record["guidance_scale"], record["num_inference_steps"]), []).append(path.stem)
    return sorted(by_sampling.items())


def _version(step: Path, sampling: str, figures: Mapping[int, str]) -> Version:
    number = 0 if step.name == BASE_DIR else step_of(step)
    name = f"step {number}" if number else "before training"
    return Version(f"{name} · {sampling}", str(step), number, figures.get(number, ""))


_SHOWN = {LOSS: "held-out loss {:.4f}", KID: "KID {:.3g}", AGREEMENT: "agreement {:.2f}", COPIES: "copies {:.0%}"}
"""Measurements that the page shows, and how."""


def _figures(metrics_file: Path) -> dict[int, str]:
    """Return what validation measured, by step, as short texts."""
    rows = read_lines(metrics_file)[0] if metrics_file.is_file() else []
    texts = {}
    for row in rows:
        shown = [text.format(row[key]) for key, text in _SHOWN.items() if isinstance(row.get(key), int | float)]
        if shown and isinstance(row.get("step"), int):
            texts[row["step"]] = " · ".join(shown)
    return texts
