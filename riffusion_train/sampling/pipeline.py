"""The loaded model as functions of tensors: texts to conditions, images to latents and back, noise to latents."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.audio.codec.codec import make_codec
from riffusion_train.config.sample import SchedulerName
from riffusion_train.config.spectrogram import Channels, load_preset
from riffusion_train.model.components import Components
from riffusion_train.sampling.denoise import StepHook, StepReport, Window, denoise, make_scheduler, window_starts
from riffusion_train.sampling.text import Condition, TextConditions

ASSUMED_PRESET = "riffusion_v1"
"""What a model's pictures are taken to mean where it does not say."""

_TILE_OVERLAP = 4
"""A quarter of a tile's columns are shared with its neighbour when a long canvas goes through the VAE."""


class Pipeline:
    """A model, its codec and a solver.

    Args:
        components: The model; it is moved to `device`.
        device: Where to run.
        scheduler: The solver.
        num_inference_steps: Its steps.
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
        num_inference_steps: int = 20,
        unet_batch_size: int = 1,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        compile: bool = False,
        attention_slicing: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.components = components.to(self.device)
        if dtype is not None:
            components.unet.to(dtype)
            components.text_encoder.to(dtype)
        if channels_last:
            components.unet.to(memory_format=torch.channels_last)
            components.vae.to(memory_format=torch.channels_last)
        if attention_slicing:
            components.unet.set_attention_slice("auto")
        if compile:
            components.unet.compile()
        self.scheduler = make_scheduler(scheduler, components.scheduler)
        self.num_inference_steps = num_inference_steps
        self.unet_batch_size = unet_batch_size
        self.assumed_spectrogram = components.spectrogram is None
        self.codec = make_codec(components.spectrogram or load_preset(ASSUMED_PRESET))
        self.texts = TextConditions(components.tokenizer, components.text_encoder)

    @property
    def downsampling(self) -> int:
        """Columns of the picture for one of the latents."""
        return self.components.downsampling

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of the latents of a clip, (C, h, w)."""
        config, scale = self.codec.config, self.downsampling
        return (int(self.components.unet.config.in_channels), config.n_mels // scale, config.width_px // scale)

    @property
    def latent_step(self) -> int:
        """Columns of latents that the width of a canvas must be a multiple of."""
        return int(2 ** (len(self.components.unet.config.block_out_channels) - 1))

    def latent_columns(self, duration_s: float) -> int:
        """Return the columns of latents of the shortest canvas that lasts so long, at least a clip's width."""
        config = self.codec.config
        pixels = duration_s * config.rate_hz / config.hop_length + 1
        unit = self.downsampling * self.latent_step
        return max(-int(-pixels // unit) * self.latent_step, self.latent_shape[2])

    def seconds(self, latent_columns: float) -> float:
        """Return how long columns of latents last."""
        config = self.codec.config
        return latent_columns * self.downsampling * config.hop_length / config.rate_hz

    def denoise(
        self,
        latents: Tensor,
        condition_at: Callable[[int, float], Condition],
        *,
        circular: bool = False,
        strength: float = 1.0,
        noise: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        hook: StepHook | None = None,
        report: StepReport | None = None,
        scheduler: Any = None,
    ) -> Tensor:
        """Denoise canvases, (B, C, h, width), all of one width; see `denoise.denoise`.

        Args:
            latents: Noise, or what is to be changed, at a strength below 1.
            condition_at: The condition of a canvas (its place in the batch) at a time in latent columns.
            circular: Whether the canvases go round.
            strength: Share of the steps that is done.
            noise: What is laid over the latents at a strength below 1.
            seeds: The canvases' seeds, for solvers that add noise of their own.
            hook: May change the latents after every step.
            report: Told about every step.
            scheduler: Another solver than the engine's.
        """
        width, window = latents.shape[-1], min(self.latent_shape[2], latents.shape[-1])
        wraps = circular and width > window  # windows that reach over the end need no circular convolutions
        windows = [
            Window(row, start, condition_at(row, (start + window / 2) % width if wraps else start + window / 2))
            for row in range(len(latents))
            for start in window_starts(width, window, circular=wraps)
        ]
        unet = self.components.unet
        with contextlib.ExitStack() as ways:
            if circular and not wraps:
                ways.enter_context(circular_along_time(unet))
                ways.enter_context(torch.compiler.set_stance("force_eager"))  # what was compiled does not go round
            return denoise(
                unet,
                scheduler or self.scheduler,
                latents.to(self.device),
                windows,
                window,
                num_inference_steps=self.num_inference_steps,
                strength=strength,
                noise=None if noise is None else noise.to(self.device),
                generators=[torch.Generator().manual_seed(seed % 2**63) for seed in seeds],
                unet_batch_size=self.unet_batch_size,
                hook=hook,
                report=report,
            )

    @torch.no_grad()
    def encode(self, image: np.ndarray, *, circular: bool = False) -> Tensor:
        """Return the latents of a picture, float32 (C, h, width / downsampling); the mean of what the VAE thinks they are.

        Long pictures go through the VAE in tiles that overlap. The width must be a multiple of `downsampling`.

        Args:
            image: uint8 (n_mels, width) or (n_mels, width, 3).
            circular: Whether the picture goes round.
        """
        vae, scale = self.components.vae, self.downsampling
        colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        tile = self.latent_shape[2]
        total: Tensor | None = None
        width = image.shape[1] // scale
        weight = torch.zeros(width, device=self.device)
        for start, columns, shape in _tiles(width, tile, circular=circular):
            order = (columns[:, None] * scale + torch.arange(scale)).flatten().numpy()
            pixels = torch.from_numpy(colours[:, order]).to(self.device, vae.dtype).permute(2, 0, 1)[None] / 127.5 - 1
            found = vae.encode(pixels).latent_dist.mode()[0].float() * vae.config.scaling_factor
            if total is None:
                total = found.new_zeros(*found.shape[:2], width)
            if start == 0 and len(columns) == width:
                return found
            total.index_add_(-1, columns.to(self.device), found * shape.to(self.device))
            weight.index_add_(0, columns.to(self.device), shape.to(self.device))
        assert total is not None
        return total / weight

    def decode(self, latents: Tensor, *, circular: bool = False) -> np.ndarray:
        """Return the picture of latents, (C, h, width): uint8 (height, width) for mono, (height, width, 3) for stereo."""
        tile, width, scale = self.latent_shape[2], latents.shape[-1], self.downsampling
        if not circular:
            return np.concatenate(list(self.decode_stream(latents)), axis=1)
        if width <= tile:
            with circular_along_time(self.components.vae):
                return self.to_picture(self._through_vae(latents))
        total = torch.zeros(3, latents.shape[1] * scale, width * scale, device=self.device)
        weight = torch.zeros(width * scale, device=self.device)
        for _, columns, shape in _tiles(width, tile, circular=True):
            order = (columns[:, None] * scale + torch.arange(scale)).flatten().to(self.device)
            bell = shape.repeat_interleave(scale).to(self.device)
            total.index_add_(-1, order, self._through_vae(latents[..., columns.to(latents.device)]) * bell)
            weight.index_add_(0, order, bell)
        return self.to_picture(total / weight)

    def decode_stream(self, latents: Tensor) -> Iterator[np.ndarray]:
        """Yield the picture of latents in pieces from left to right; memory does not grow with their width."""
        tile, width, scale = self.latent_shape[2], latents.shape[-1], self.downsampling
        if width <= tile:
            yield self.to_picture(self._through_vae(latents))
            return
        share = tile // _TILE_OVERLAP
        fade = torch.linspace(0, 1, share * scale + 2, device=self.device)[1:-1]
        held: Tensor | None = None  # the end of the last tile, which the next one fades in over
        start = 0
        while start + share < width or start == 0:
            stop = min(start + tile, width)
            left = max(stop - tile, 0)  # the last tile is a whole one too
            pixels = self._through_vae(latents[..., left:stop])[..., (start - left) * scale :]
            if held is not None:
                both = torch.lerp(held, pixels[..., : share * scale], fade)
                pixels = torch.cat([both, pixels[..., share * scale :]], -1)
            if stop < width:
                held = pixels[..., -share * scale :]
                pixels = pixels[..., : -share * scale]
            yield self.to_picture(pixels)
            if stop == width:
                return
            start = stop - share

    @torch.no_grad()
    def _through_vae(self, latents: Tensor) -> Tensor:
        """Return pixels of latents, float32 (3, H, W) in [-1, 1]; one tile at a time, so that memory stays flat."""
        vae = self.components.vae
        rows = latents[None].to(self.device, vae.dtype) / vae.config.scaling_factor
        return vae.decode(rows).sample[0].float().clamp(-1, 1)

    def to_picture(self, pixels: Tensor) -> np.ndarray:
        """Return pixels in [-1, 1], (3, H, W), as the codec's levels."""
        levels = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu()  # (H, W, 3)
        if self.codec.config.channels is not Channels.mono:
            return levels.numpy()
        return levels.float().mean(dim=2).round().to(torch.uint8).numpy()


def _tiles(width: int, tile: int, *, circular: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the tiles of a canvas in latent columns: start, columns, and how much each column counts."""
    size = min(tile, width)
    shape = torch.hann_window(size + 2, periodic=False)[1:-1].clamp(min=0.02)
    for start in window_starts(width, size, circular=circular, overlap=1 / _TILE_OVERLAP):
        yield start, (torch.arange(size) + start) % width, shape


def best_device() -> str:
    """Return the fastest device of this machine: `cuda`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextlib.contextmanager
def circular_along_time(*networks: nn.Module) -> Iterator[None]:
    """Let the convolutions of networks see the other end of a picture beyond its sides; above and below it stays zero.

    Attention and group normalisation know no places along time, so the whole network then goes round: a picture that is
    turned by a multiple of its largest step comes out turned, and otherwise the same.
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
