"""Guidance: how two predictions of a step become one that follows the prompt more closely. Pure functions of tensors.

Combined are `towards`, with the prompt, and `away`: without it, with the negative prompt, or of a weaker model.
"""

import dataclasses
import math

import torch
from torch import Tensor

from riffusion_train.config.denoising import USUAL, GuidanceName

EVERYWHERE: tuple[float, float] = USUAL["guidance_interval"]
"""The interval of guidance in all steps."""

_NORM_ELEMENTS = 4 * 64 * 64
"""Elements of the latents that norm thresholds are given for, those of Stable Diffusion 1.5."""


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How predictions are guided, besides the strength, which belongs to the prompt."""

    name: GuidanceName = GuidanceName.cfg
    interval: tuple[float, float] = EVERYWHERE
    """First and last timestep that are guided, both included, from 0 (the image) to 1000 (noise). Outside, `away` is not
    computed (Kynkäänniemi et al. 2024, arXiv:2404.07724, who give noise levels; timesteps do not depend on the solver)."""
    rescale: float = 0.0
    """Share of `rescaled`."""
    momentum: float = USUAL["apg_momentum"]
    norm_threshold: float = USUAL["apg_norm_threshold"]
    eta: float = USUAL["apg_eta"]

    def acts_at(self, timestep: float) -> bool:
        """Whether predictions at a timestep are guided."""
        low, high = self.interval
        return low <= timestep <= high


CLASSIFIER_FREE = Guidance()
"""Classifier-free guidance in all steps."""


@dataclasses.dataclass(frozen=True)
class NoiseLevel:
    """A step's place on the noise schedule: `x = alpha * image + sigma * noise`, where alpha² + sigma² = 1."""

    alpha: float
    sigma: float
    prediction_type: str
    """What the model predicts: `epsilon`, the noise; `v_prediction`, `alpha * noise - sigma * image`; or `sample`."""

    @classmethod
    def at(cls, alphas_cumprod: Tensor, timestep: float, prediction_type: str) -> "NoiseLevel":
        """Return the level at a timestep, also between two: there alpha² is interpolated on a straight line.

        Args:
            alphas_cumprod: alpha² at every timestep, (timesteps,).
            timestep: Which one.
            prediction_type: What the model predicts.
        """
        low = min(max(math.floor(timestep), 0), len(alphas_cumprod) - 1)
        high = min(low + 1, len(alphas_cumprod) - 1)
        square = torch.lerp(alphas_cumprod[low].double(), alphas_cumprod[high].double(), timestep - low)
        return cls(math.sqrt(float(square)), math.sqrt(1 - float(square)), prediction_type)

    def to_image(self, prediction: Tensor, x: Tensor) -> Tensor:
        """Return the image (in latents) that a prediction for `x` means."""
        if self.prediction_type == "sample":
            return prediction
        if self.prediction_type == "v_prediction":
            return self.alpha * x - self.sigma * prediction
        return (x - self.sigma * prediction) / self.alpha

    def from_image(self, image: Tensor, x: Tensor) -> Tensor:
        """Return the prediction for `x` that means an image."""
        if self.prediction_type == "sample":
            return image
        if self.prediction_type == "v_prediction":
            return (self.alpha * x - image) / self.sigma
        return (x - self.alpha * image) / self.sigma


def classifier_free(away: Tensor, towards: Tensor, scale: Tensor | float) -> Tensor:
    """Return the guided prediction of classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, equation 6).

    With `away` from a weaker model it is autoguidance (Karras et al. 2024, arXiv:2406.02507, equation 3).

    Args:
        away: Prediction without the prompt, (B, C, h, w).
        towards: Prediction with it, of the same shape.
        scale: Strength, a number or (B, 1, 1, 1); 1 is `towards`.
    """
    return away + scale * (towards - away)


def rescaled(guided: Tensor, towards: Tensor, share: float) -> Tensor:
    """Return a guided prediction with the spread of the unguided one (Lin et al. 2023, arXiv:2305.08891, equations 15, 16).

    Args:
        guided: The guided prediction, (B, C, h, w).
        towards: The prediction with the prompt, of the same shape.
        share: 0 leaves it; 1 gives it the standard deviation of `towards`. The paper takes 0.7.
    """
    axes = (1, 2, 3)
    factor = towards.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-12)
    return guided * (share * factor + (1 - share))


def adaptive_projected(
    away: Tensor,
    towards: Tensor,
    scale: Tensor | float,
    average: Tensor | None,
    *,
    momentum: float,
    norm_threshold: float,
    eta: float,
) -> tuple[Tensor, Tensor]:
    """Return an image guided by adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416, algorithm 1).

    The part of the guidance along the image, which saturates it, is scaled by `eta`; the norm is bounded; and a negative
    momentum pushes away from the directions of earlier steps.

    Args:
        away: Image predicted without the prompt, (B, C, h, w).
        towards: Image predicted with it.
        scale: Strength, a number or (B, 1, 1, 1).
        average: What the step before returned; None at the first.
        momentum: Weight of `average`.
        norm_threshold: Largest norm of the guidance for 4 x 64 x 64 elements, which grows with the root of their number; 0 is
            none.
        eta: Share of the part along `towards`.

    Returns:
        The guided image, and the running average for the next step.
    """
    axes = (1, 2, 3)
    average = towards - away if average is None else towards - away + momentum * average
    update = average
    if norm_threshold > 0:
        limit = norm_threshold * math.sqrt(update[0].numel() / _NORM_ELEMENTS)
        update = update * (limit / torch.linalg.vector_norm(update, dim=axes, keepdim=True).clamp(min=1e-12)).clamp(
            max=1.0
        )
    direction = towards / torch.linalg.vector_norm(towards, dim=axes, keepdim=True).clamp(min=1e-12)
    along = (update * direction).sum(axes, keepdim=True) * direction
    return towards + (scale - 1) * (update - along + eta * along), average


def guide(
    guidance: Guidance,
    away: Tensor,
    towards: Tensor,
    scale: Tensor,
    x: Tensor,
    level: NoiseLevel,
    average: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Combine two predictions of a step.

    Args:
        guidance: How.
        away: Prediction without the prompt, (B, C, h, w).
        towards: Prediction with it.
        scale: Strength, (B, 1, 1, 1).
        x: What the model saw.
        level: How noisy that is.
        average: The running average that the step before returned; None at the first.

    Returns:
        The guided prediction, and the running average, None with `cfg`.
    """
    if guidance.name is GuidanceName.apg:
        image, average = adaptive_projected(
            level.to_image(away, x),
            level.to_image(towards, x),
            scale,
            average,
            momentum=guidance.momentum,
            norm_threshold=guidance.norm_threshold,
            eta=guidance.eta,
        )
        guided = level.from_image(image, x)
    else:
        guided, average = classifier_free(away, towards, scale), None
    return (rescaled(guided, towards, guidance.rescale) if guidance.rescale else guided), average
