"""Previews: clips sampled while training, from the averaged weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from riffusion_train.config.train import PreviewConfig
from riffusion_train.dataset.loading import SliceTable
from riffusion_train.model.components import Components
from riffusion_train.sampling.sampler import Sampler


def preview_prompts(config: PreviewConfig, table: SliceTable) -> list[str]:
    """Return the prompts of the config, or the first captions of the slices."""
    if config.prompts:
        return list(config.prompts)
    return [table.captions(index)[0] for index in range(min(config.num_prompts, len(table)))]


def make_preview(
    config: PreviewConfig, components: Components, prompts: list[str], folder: Path, accelerator: Any
) -> Callable[[int], None]:
    """Return the function that writes `previews/step-000500/` with one clip for each prompt. Rank 0 samples."""

    def preview(step: int) -> None:
        if accelerator.is_main_process:
            sampler = Sampler(
                components,
                device=accelerator.device,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
            )
            training = {name: module.training for name, module in components.modules.items()}
            for module in components.modules.values():
                module.eval()
            wanted = [(prompt, "", seed) for seed, prompt in enumerate(prompts)]
            for index, clip in enumerate(sampler.generate(wanted)):
                clip.save(folder / f"step-{step:06d}" / f"{index:02d}")
            for name, module in components.modules.items():
                module.train(training[name])
        accelerator.wait_for_everyone()

    return preview
