"""Parts of a canvas made anew, the rest held fast in every step: what inpainting and extending share."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.requests import Request

if TYPE_CHECKING:
    from riffusion_train.sampling.engine import Engine


def renew(
    engine: "Engine",
    request: Request,
    image: np.ndarray,
    share: np.ndarray,
    strength: float,
    report: StepReport | None = None,
) -> np.ndarray:
    """Return a picture of which parts are made anew.

    After every step, what is kept is put back with as much noise as the next step expects (the repainting of the original
    Riffusion and of Lugmayr et al. 2022, arXiv:2201.09865, without its jumps back).

    Args:
        engine: The model.
        request: Prompts, seed and guidance.
        image: The picture, of a width on the grid of the latents.
        share: 1 where it is made anew, 0 where it stays, (n_mels, width) as the picture lies.
        strength: Share of the steps that is done.
        report: Told about every step.
    """
    known = engine.encode(image)[None]
    width = known.shape[-1]
    noise = long_noise(request.seed, engine.latent_shape, width)[None].to(known)
    new = F.adaptive_max_pool2d(torch.from_numpy(share)[None, None], known.shape[-2:]).to(known)
    condition = engine.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale)
    scheduler = engine.scheduler

    def keep(canvas: Tensor, next_timestep: Tensor | None) -> Tensor:
        held = known if next_timestep is None else scheduler.add_noise(known, noise, next_timestep[None])
        return torch.lerp(held, canvas, new)

    whole = strength == 1
    latents = engine.denoise(
        noise if whole else known,
        lambda row, column: condition,
        strength=strength,
        noise=None if whole else noise,
        seeds=[request.seed],
        hook=keep,
        report=report,
    )
    made = engine.decode(latents[0])
    weight = share if made.ndim == 2 else share[..., None]
    return np.rint(image + (made.astype(np.float32) - image) * weight).astype(np.uint8)
