"""The loaded model as functions of tensors: texts to conditions, images to latents and back, noise to latents."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.audio.codec import make_codec
from riffusion_train.config.denoising import SchedulerName, TimestepSpacing, usual_timesteps
from riffusion_train.config.spectrogram import Channels, load_preset
from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import (
    CLASSIFIER_FREE,
    Denoiser,
    Guidance,
    StepHook,
    StepReport,
    Window,
    run_denoising,
    window_starts,
)
from riffusion_train.sampling.schedulers import check_spacing, make_scheduler
from riffusion_train.sampling.sources import step_noise
from riffusion_train.sampling.text import Condition, TextConditions

ASSUMED_PRESET = "riffusion_v1"
"""The codec of a model that has no `spectrogram.json`."""

Conditions = Condition | Sequence[Condition] | Callable[[float], Condition]
"""One condition for everything, one for each canvas, or one as a function of the time in latent columns."""

_TILE_OVERLAP = 4
"""A quarter of a tile's columns overlap with its neighbour when a long canvas goes through the VAE."""


class Pipeline:
    """A model, its codec and a scheduler.

    Args:
        components: The model; it is moved to `device`.
        device: Where to run.
        scheduler: The solver.
        timesteps: Where its steps are; None takes what is usual for their number.
        guidance: How predictions are guided.
        guide: A weaker model to lead away from (autoguidance); it is moved to `device`.
        unet_batch_size: Windows in one call of the UNet, always as many, so that a clip does not depend on its batch.
        dtype: What UNet and text encoder are turned into; None leaves them.
        channels_last: Store weights in the layout that tensor cores read fastest.
        compile: Compile the UNet.
        attention_slicing: Compute attention in slices: less memory, slower.
    """

    def __init__(
        self,
        components: Components,
        *,
        device: torch.device | str = "cpu",
        scheduler: SchedulerName = SchedulerName.dpmsolver,
        timesteps: TimestepSpacing | None = None,
        guidance: Guidance = CLASSIFIER_FREE,
        guide: Components | None = None,
        unet_batch_size: int = 1,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        compile: bool = False,
        attention_slicing: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.components = components.to(self.device)
        self.guide = None if guide is None else _fitting(guide, components).to(self.device)
        for model in (components, *([] if guide is None else [guide])):
            if dtype is not None:
                model.unet.to(dtype)
                model.text_encoder.to(dtype)
            if channels_last:
                model.unet.to(memory_format=torch.channels_last)
                model.vae.to(memory_format=torch.channels_last)
            if attention_slicing:
                model.unet.set_attention_slice("auto")
            if compile:
                model.unet.compile()
        self._scheduler_name, self._spacing = scheduler, timesteps
        if timesteps is not None:
            check_spacing(scheduler, timesteps)
        self._schedulers: dict[TimestepSpacing, Any] = {}
        self.guidance = guidance
        self.unet_batch_size = unet_batch_size
        self.assumed_spectrogram = components.spectrogram is None
        self.codec = make_codec(components.spectrogram or load_preset(ASSUMED_PRESET))
        guide_texts = None if guide is None else TextConditions(guide.tokenizer, guide.text_encoder)
        self.texts = TextConditions(components.tokenizer, components.text_encoder, guide_texts)

    def spacing(self, num_inference_steps: int) -> TimestepSpacing:
        """Return where the steps are, if there are that many."""
        return self._spacing or usual_timesteps(self._scheduler_name, num_inference_steps)

    def scheduler(self, num_inference_steps: int) -> Any:
        """Return the solver for a number of steps."""
        spacing = self.spacing(num_inference_steps)
        if spacing not in self._schedulers:
            self._schedulers[spacing] = make_scheduler(self._scheduler_name, self.components.scheduler, spacing)
        return self._schedulers[spacing]

    @property
    def downsampling(self) -> int:
        """Columns of the image for one column of latents."""
        return self.components.downsampling

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of the latents of a clip, (C, h, w)."""
        config, scale = self.codec.config, self.downsampling
        return (int(self.components.unet.config.in_channels), config.n_mels // scale, config.width_px // scale)

    @property
    def latent_step(self) -> int:
        """The width of a canvas must be a multiple of this number of latent columns: the UNet halves it that often."""
        return int(2 ** (len(self.components.unet.config.block_out_channels) - 1))

    def latent_columns(self, duration_s: float) -> int:
        """Return the latent columns of the shortest canvas of at least this duration and a clip's width."""
        config = self.codec.config
        pixels = duration_s * config.rate_hz / config.hop_length + 1
        unit = self.downsampling * self.latent_step
        return max(-int(-pixels // unit) * self.latent_step, self.latent_shape[2])

    def seconds(self, latent_columns: float) -> float:
        """Return the duration of a number of latent columns."""
        config = self.codec.config
        return latent_columns * self.downsampling * config.hop_length / config.rate_hz

    def denoise(
        self,
        latents: Tensor,
        conditions: Conditions,
        *,
        num_inference_steps: int,
        circular: bool = False,
        strength: float = 1.0,
        noise: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        hook: StepHook | None = None,
        report: StepReport | None = None,
        scheduler: Any = None,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """Denoise canvases, (B, C, h, width), all of one width; see `run_denoising`.

        Args:
            latents: Noise, or what to change if `noise` is given.
            conditions: What guides the canvases.
            num_inference_steps: Steps from pure noise to the image.
            circular: Whether the canvases are circular: their ends meet their beginnings.
            strength: Share of the steps that is done.
            noise: What is added to the latents before the first step.
            seeds: The canvases' seeds, for schedulers that add noise of their own.
            hook: May change the latents after every step.
            report: Called after every step.
            scheduler: Another scheduler than the pipeline's.
            guidance: Another guidance than the pipeline's.
        """
        width, window = latents.shape[-1], min(self.latent_shape[2], latents.shape[-1])
        wraps = circular and width > window  # windows that reach over the end need no circular convolutions
        windows = [
            Window(
                row, start, _condition(conditions, row, (start + window / 2) % width if wraps else start + window / 2)
            )
            for row in range(len(latents))
            for start in window_starts(width, window, circular=wraps)
        ]
        unet = self.components.unet
        guide = None if self.guide is None else self.guide.unet
        with contextlib.ExitStack() as contexts:
            if circular and not wraps:
                contexts.enter_context(circular_along_time(unet, *([] if guide is None else [guide])))
                # A compiled network has the plain convolutions built in.
                contexts.enter_context(torch.compiler.set_stance("force_eager"))
            return run_denoising(
                Denoiser(unet, guidance or self.guidance, guide, self.unet_batch_size),
                scheduler or self.scheduler(num_inference_steps),
                latents.to(self.device),
                windows,
                window,
                num_inference_steps=num_inference_steps,
                spacing=TimestepSpacing.model if scheduler is not None else self.spacing(num_inference_steps),
                strength=strength,
                noise=None if noise is None else noise.to(self.device),
                generators=[torch.Generator().manual_seed(seed % 2**63) for seed in seeds],
                noise_at=lambda step: torch.stack([step_noise(seed, step, self.latent_shape, width) for seed in seeds]),
                hook=hook,
                report=report,
            )

    @torch.no_grad()
    def encode(self, image: np.ndarray, *, circular: bool = False) -> Tensor:
        """Return the latents of an image, float32 (C, h, width / downsampling): the mode of the VAE's posterior.

        Long images go through the VAE in overlapping tiles. The width must be a multiple of `downsampling`.

        Args:
            image: uint8 (n_mels, width) or (n_mels, width, 3).
            circular: Whether the image is circular.
        """
        vae, scale = self.components.vae, self.downsampling
        colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        tile = self.latent_shape[2]
        width = image.shape[1] // scale
        total = torch.zeros(*self.latent_shape[:2], width, device=self.device)
        weight = torch.zeros(width, device=self.device)
        for start, columns, shape in _tiles(width, tile, circular=circular):
            order = (
                (columns[:, None] * scale + torch.arange(scale)).flatten().numpy()
            )  # the tile's columns of the image
            pixels = torch.from_numpy(colours[:, order]).to(self.device, vae.dtype).permute(2, 0, 1)[None] / 127.5 - 1
            latents = vae.encode(pixels).latent_dist.mode()[0].float() * vae.config.scaling_factor  # (C, h, columns)
            if start == 0 and len(columns) == width:
                return latents
            total.index_add_(-1, columns.to(self.device), latents * shape.to(self.device))
            weight.index_add_(0, columns.to(self.device), shape.to(self.device))
        return total / weight

    def decode(self, latents: Tensor, *, circular: bool = False) -> np.ndarray:
        """Return the image of latents (C, h, width): uint8 (n_mels, width) for mono, (n_mels, width, 3) for stereo."""
        tile, width, scale = self.latent_shape[2], latents.shape[-1], self.downsampling
        if not circular:
            return np.concatenate(list(self.decode_stream(latents)), axis=1)
        if width <= tile:
            with circular_along_time(self.components.vae):
                return self.to_image(self._through_vae(latents))
        total = torch.zeros(3, latents.shape[1] * scale, width * scale, device=self.device)
        weight = torch.zeros(width * scale, device=self.device)
        for _, columns, shape in _tiles(width, tile, circular=True):
            order = (columns[:, None] * scale + torch.arange(scale)).flatten().to(self.device)
            bell = shape.repeat_interleave(scale).to(self.device)  # the weights of image columns
            total.index_add_(-1, order, self._through_vae(latents[..., columns.to(latents.device)]) * bell)
            weight.index_add_(0, order, bell)
        return self.to_image(total / weight)

    def decode_stream(self, latents: Tensor) -> Iterator[np.ndarray]:
        """Yield the image of latents from left to right, some columns at a time; memory does not grow with the width.

        Each tile is decoded once. Its last quarter is held back and crossfaded with the first quarter of the next tile.
        """
        tile, width, scale = self.latent_shape[2], latents.shape[-1], self.downsampling
        if width <= tile:
            yield self.to_image(self._through_vae(latents))
            return
        share = tile // _TILE_OVERLAP
        fade = torch.linspace(0, 1, share * scale + 2, device=self.device)[1:-1]
        held: Tensor | None = None  # the end of the last tile, (3, H, share * scale), over which the next one fades in
        start = 0
        while start + share < width or start == 0:
            stop = min(start + tile, width)
            left = max(stop - tile, 0)  # the last tile is a whole one too: what was decoded before is cut off its left
            pixels = self._through_vae(latents[..., left:stop])[..., (start - left) * scale :]
            if held is not None:
                both = torch.lerp(held, pixels[..., : share * scale], fade)
                pixels = torch.cat([both, pixels[..., share * scale :]], -1)
            if stop < width:
                held = pixels[..., -share * scale :]
                pixels = pixels[..., : -share * scale]
            yield self.to_image(pixels)
            if stop == width:
                return
            start = stop - share

    @torch.no_grad()
    def _through_vae(self, latents: Tensor) -> Tensor:
        """Return the pixels of one tile of latents, float32 (3, H, W) in [-1, 1]."""
        vae = self.components.vae
        rows = latents[None].to(self.device, vae.dtype) / vae.config.scaling_factor
        return vae.decode(rows).sample[0].float().clamp(-1, 1)

    def to_image(self, pixels: Tensor) -> np.ndarray:
        """Return pixels in [-1, 1], (3, H, W), as the codec's image: uint8 (H, W), the mean of the colours, or (H, W, 3)."""
        levels = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu()  # (H, W, 3)
        if self.codec.config.channels is not Channels.mono:
            return levels.numpy()
        return levels.float().mean(dim=2).round().to(torch.uint8).numpy()


def _tiles(width: int, tile: int, *, circular: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the tiles of a canvas in latent columns: start, columns, and the weight of each column."""
    size = min(tile, width)
    shape = torch.hann_window(size + 2, periodic=False)[1:-1].clamp(min=0.02)
    for start in window_starts(width, size, circular=circular, overlap=1 / _TILE_OVERLAP):
        yield start, (torch.arange(size) + start) % width, shape


def _fitting(guide: Components, components: Components) -> Components:
    """Return a guide whose latents and target are the model's.

    Raises:
        InputError: If they are not.
    """
    ours, theirs = (
        (int(one.unet.config.in_channels), one.downsampling, one.scheduler.config.prediction_type)  # type: ignore[attr-defined]
        for one in (components, guide)
    )
    if ours != theirs:
        raise InputError(
            f"guide={guide.source}: its latents or its target are not those of {components.source}; "
            "take a checkpoint of the same run"
        )
    return guide


def best_device() -> str:
    """Return the fastest device of this machine: `cuda`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _condition(conditions: Conditions, row: int, column: float) -> Condition:
    """Return the condition of canvas `row` at a time in latent columns."""
    if isinstance(conditions, Condition):
        return conditions
    return conditions(column) if callable(conditions) else conditions[row]


@contextlib.contextmanager
def circular_along_time(*networks: nn.Module) -> Iterator[None]:
    """Pad the convolutions of networks circularly along time, so that each end of an image sees the other; zeros above, below.

    Attention and group normalisation do not depend on positions along time, so the whole network becomes circular: an input
    rotated by a multiple of its largest stride gives the same output, rotated.
    """
    patched = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and _width(module.padding) > 0
    ]
    for module in patched:
        module._conv_forward = _circular_forward(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in patched:
            del module._conv_forward


def _circular_forward(module: nn.Conv2d) -> Any:
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = (int(size) for size in module.padding)
        wrapped = F.pad(x, (width, width, 0, 0), mode="circular")
        return F.conv2d(wrapped, weight, bias, module.stride, (height, 0), module.dilation, module.groups)

    return forward


def _width(padding: Any) -> int:
    return 0 if isinstance(padding, str) else int(padding[1])
