"""The denoising loop over a canvas of any width: overlapping windows blended in every step, each guided towards its prompt.

First guidance, as pure functions of tensors: how two predictions of a step become one that follows the prompt more closely.
Combined are `towards`, with the prompt, and `away`: without it, with the negative prompt, or of a weaker model. Then the loop.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from riffusion_train.config.denoising import USUAL, GuidanceName, TimestepSpacing
from riffusion_train.sampling.schedulers import set_steps, takes_generator, takes_noise
from riffusion_train.sampling.text import Condition

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


StepReport = Callable[[int, int], None]
"""Called with the number of denoising steps that are done, and of all of them."""

StepHook = Callable[[Tensor, Tensor | None], Tensor]
"""Takes the latents after a step and the next timestep (None after the last); returns the latents to continue with."""

Averages = Mapping[tuple[int, int], Tensor]
"""The running averages of adaptive projected guidance, (C, h, window), by a window's row and first column."""

_MIN_WEIGHT = 0.02
"""Of a window's outermost column: a column that only one window covers must have some weight."""


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a canvas that the UNet sees in one piece."""

    row: int
    """Index of the canvas in the batch."""
    start: int
    """First column; on a circular canvas a window may reach over the end."""
    condition: Condition


def window_starts(width: int, window: int, *, circular: bool = False, overlap: float = 0.5) -> list[int]:
    """Return the first columns of the windows that cover a canvas; the last one ends with it, unless it is circular.

    They start at multiples of one step, so that a longer canvas begins with the windows of a shorter one.

    Args:
        width: Columns of the canvas.
        window: Columns of a window.
        circular: Whether the canvas is circular: its end meets its beginning.
        overlap: Share of a window that its neighbour covers too.
    """
    if width <= window:
        return [0]
    step = max(round(window * (1 - overlap)), 1)
    if circular:
        count = -(-width // step)
        return [index * width // count for index in range(count)]
    return [*range(0, width - window, step), width - window]


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """What predicts: the model's UNet, how it is guided, and the weaker UNet of autoguidance."""

    unet: Any
    guidance: Guidance
    guide: Any = None
    """The UNet that `negative` of a condition goes to; None is the same one."""
    unet_batch_size: int = 1
    """Windows in one call of a UNet, always as many, so that a clip does not depend on its batch."""


def run_denoising(
    denoiser: Denoiser,
    scheduler: Any,
    latents: Tensor,
    windows: Sequence[Window],
    window_width: int,
    *,
    num_inference_steps: int,
    spacing: TimestepSpacing = TimestepSpacing.model,
    strength: float = 1.0,
    noise: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    noise_at: Callable[[int], Tensor] | None = None,
    hook: StepHook | None = None,
    report: StepReport | None = None,
) -> Tensor:
    """Denoise canvases in overlapping windows that are blended in every step.

    Blending is MultiDiffusion's (Bar-Tal et al. 2023, arXiv:2302.08113), with weights that fall towards a window's edges.
    The UNet always sees the same number of windows at once, so that a clip does not depend on the rest of its
    batch: in a batch of another size, sums are rounded differently.

    Args:
        denoiser: What predicts.
        scheduler: A diffusers scheduler; its state is reset.
        latents: Standard normal noise, or what to change if `noise` is given, float32 (B, C, h, width).
        windows: The windows that cover the canvases.
        window_width: Columns of a window, at most `width`.
        num_inference_steps: Steps from pure noise to the image.
        spacing: Where on the noise schedule they are.
        strength: Share of these steps that is done, the last ones (SDEdit, Meng et al. 2021, arXiv:2108.01073).
        noise: What is added to the latents at the first of the steps that are done.
        generators: One for each canvas, for schedulers that draw noise of their own.
        noise_at: Returns the noise of a step, (B, C, h, width), for schedulers that can be given theirs.
        hook: May change the latents after every step.
        report: Called after every step.

    Returns:
        Latents, float32 (B, C, h, width), in the UNet's scale.
    """
    set_steps(scheduler, num_inference_steps, spacing, latents.device)
    skipped = num_inference_steps - min(int(num_inference_steps * strength + 1e-6), num_inference_steps)
    timesteps = scheduler.timesteps[skipped:]
    if noise is None:
        # Schedulers in sigma space (Euler) begin with noise of the largest sigma, the others with that of 1.
        canvas = latents * scheduler.init_noise_sigma
    elif not len(timesteps):
        return latents
    else:
        # SDEdit: the latents with as much noise as they have at the first step that is done.
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        canvas = scheduler.add_noise(latents, noise, timesteps[:1])
    extra: dict[str, Any] = {}
    if generators is not None and takes_generator(scheduler):
        extra["generator"] = list(generators)
    averages: Averages = {}
    for done, timestep in enumerate(timesteps, start=1):
        if noise_at is not None and takes_noise(scheduler):
            extra["variance_noise"] = noise_at(skipped + done - 1).to(canvas)
        scaled = scheduler.scale_model_input(canvas, timestep)  # (B, C, h, width)
        level = NoiseLevel.at(scheduler.alphas_cumprod, float(timestep), scheduler.config.prediction_type)
        prediction, averages = predict(denoiser, scaled, timestep, windows, window_width, level, averages)
        canvas = scheduler.step(prediction, timestep, canvas, **extra).prev_sample
        if hook is not None:
            canvas = hook(canvas, timesteps[done] if done < len(timesteps) else None)
        if report is not None:
            report(done, len(timesteps))
    return canvas


@torch.no_grad()
def predict(
    denoiser: Denoiser,
    canvas: Tensor,
    timestep: Tensor,
    windows: Sequence[Window],
    window_width: int,
    level: NoiseLevel,
    averages: Averages,
) -> tuple[Tensor, Averages]:
    """Return the guided prediction for canvases (B, C, h, width): the weighted mean of all windows, least at their edges.

    It is a pure function: what one step hands to the next is `averages`, which it returns anew.

    Args:
        denoiser: What predicts.
        canvas: What the UNet sees.
        timestep: The step's timestep.
        windows: The windows that cover the canvases.
        window_width: Columns of a window.
        level: How noisy the canvases are.
        averages: The running averages of guidance that the step before returned; empty at the first.
    """
    width = canvas.shape[-1]
    total = torch.zeros_like(canvas)
    weight = canvas.new_zeros(len(canvas), width)
    bell = _bell(window_width).to(canvas.device) if width > window_width else canvas.new_ones(window_width)
    acts = denoiser.guidance.acts_at(float(timestep))
    updated: dict[tuple[int, int], Tensor] = {}
    for batch in _unet_batches(windows, denoiser.unet_batch_size, acts=acts):
        parts = _cut(canvas, batch, window_width)  # (n, C, h, window)
        if not acts or batch[0].condition.guidance_scale == 1:
            predicted = _unguided(denoiser, parts, timestep, batch)
        else:
            predicted, kept = _guided(denoiser, parts, timestep, batch, level, averages)
            updated.update(kept)
        for window, part in zip(batch, predicted, strict=True):
            columns = torch.arange(window.start, window.start + window_width, device=canvas.device) % width
            total[window.row].index_add_(-1, columns, part * bell)
            weight[window.row].index_add_(0, columns, bell)
    return (total if width == window_width else total / weight[:, None, None]), updated


def _unet_batches(windows: Sequence[Window], unet_batch_size: int, *, acts: bool) -> Iterator[list[Window]]:
    """Yield windows that fit into one call of the UNet: all guided or none, with prompts of one length."""
    kinds: dict[tuple[bool, int], list[Window]] = {}
    for window in windows:
        condition = window.condition
        kinds.setdefault((acts and condition.guidance_scale != 1, len(condition.positive)), []).append(window)
    for alike in kinds.values():
        for first in range(0, len(alike), unet_batch_size):
            yield alike[first : first + unet_batch_size]


def _cut(canvas: Tensor, windows: Sequence[Window], window_width: int) -> Tensor:
    """Return the windows of canvases, (windows, C, h, window_width)."""
    columns = torch.arange(window_width, device=canvas.device)
    return torch.stack([canvas[window.row][..., (columns + window.start) % canvas.shape[-1]] for window in windows])


def _filled(denoiser: Denoiser, parts: Tensor, windows: Sequence[Window]) -> tuple[Tensor, list[Window]]:
    """Return windows in the number that the UNet always sees; a batch that is not full is filled with its first window."""
    missing = denoiser.unet_batch_size - len(windows)
    x = torch.cat([parts, *[parts[:1]] * missing]).to(denoiser.unet.dtype)
    return x, [*windows, *[windows[0]] * missing]


def _unguided(denoiser: Denoiser, parts: Tensor, timestep: Tensor, windows: Sequence[Window]) -> Tensor:
    """Return the predictions of windows with their prompts alone, float32."""
    x, filled = _filled(denoiser, parts, windows)
    positive = torch.stack([window.condition.positive for window in filled]).to(x)
    return denoiser.unet(x, timestep, positive).sample.float()[: len(windows)]


def _guided(
    denoiser: Denoiser,
    parts: Tensor,
    timestep: Tensor,
    windows: Sequence[Window],
    level: NoiseLevel,
    averages: Averages,
) -> tuple[Tensor, Averages]:
    """Return the guided predictions of windows, float32, and their running averages."""
    x, filled = _filled(denoiser, parts, windows)
    positive = torch.stack([window.condition.positive for window in filled]).to(x)
    negative = torch.stack([window.condition.negative for window in filled]).to(x)
    if denoiser.guide is None:  # both predictions in one call
        both = denoiser.unet(torch.cat([x, x]), timestep, torch.cat([negative, positive])).sample.float()
        away, towards = both.chunk(2)
    else:
        towards = denoiser.unet(x, timestep, positive).sample.float()
        away = denoiser.guide(x, timestep, negative).sample.float()
    scales = torch.tensor([window.condition.guidance_scale for window in filled], device=x.device)
    known = [averages.get((window.row, window.start)) for window in filled]
    average = None if known[0] is None else torch.stack([one for one in known if one is not None])
    guided, average = guide(denoiser.guidance, away, towards, scales[:, None, None, None], x.float(), level, average)
    count = len(windows)
    kept = {} if average is None else {(one.row, one.start): average[index] for index, one in enumerate(windows)}
    return guided[:count], kept


def _bell(width: int) -> Tensor:
    """Return the weights of a window's columns, (width,): a raised cosine with a floor."""
    return (torch.hann_window(width + 2, periodic=False)[1:-1]).clamp(min=_MIN_WEIGHT)
