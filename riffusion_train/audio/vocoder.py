"""A neural vocoder in place of phase retrieval, for the mels of one preset.

The network is that of Vocos (Siuzdak 2023, https://arxiv.org/abs/2306.00814): a convolution, ConvNeXt blocks over time at the
rate of the columns, and a head that gives magnitude and phase of a short-time Fourier transform. A model is a folder with
`vocoder.json`, which names the spectrogram it was trained for and its sizes, and `vocoder.safetensors`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from riffusion_train.config.spectrogram import Channels, SpectrogramConfig, from_data, to_data
from riffusion_train.runtime.errors import InputError

CONFIG_FILE = "vocoder.json"
WEIGHTS_FILE = "vocoder.safetensors"

_NO_MATTER = ("name", "width_px", "decode_rate_hz", "decode_n_fft")
"""Parameters of a codec that do not change what its columns mean."""

_LARGEST_MAGNITUDE = 1e2


@dataclasses.dataclass(frozen=True)
class VocoderSize:
    """Sizes of the network.

    Attributes:
        dim: Channels of the blocks.
        intermediate_dim: Channels inside a block.
        num_layers: Number of blocks.
    """

    dim: int = 512
    intermediate_dim: int = 1536
    num_layers: int = 8


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block over time (Liu et al. 2022), (clips, dim, frames) -> the same."""

    def __init__(self, dim: int, intermediate_dim: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(layer_scale * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Add to the input what the block finds."""
        y = self.norm(self.dwconv(x).mT)
        y = self.pwconv2(nn.functional.gelu(self.pwconv1(y)))
        return x + (self.gamma * y).mT


class Vocoder(nn.Module):
    """Vocos for the columns of a codec: intensity in, samples at the codec's `rate_hz` out.

    Args:
        config: The codec whose images it hears.
        size: Sizes of the network.
    """

    def __init__(self, config: SpectrogramConfig, size: VocoderSize) -> None:
        super().__init__()
        self.config = config
        self.size = size
        self._n_fft = config.win_length
        self.embed = nn.Conv1d(config.n_mels, size.dim, kernel_size=7, padding=3)
        self.norm = nn.LayerNorm(size.dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(size.dim, size.intermediate_dim, 1 / size.num_layers) for _ in range(size.num_layers)
        )
        self.final_norm = nn.LayerNorm(size.dim, eps=1e-6)
        self.head = nn.Linear(size.dim, 2 * (self._n_fft // 2 + 1))

    def forward(self, intensity: Tensor) -> Tensor:
        """Return sounds at the scale of black = 1 in [-1, 1] samples, (clips, (frames - 1) * hop_length).

        Args:
            intensity: 0 for white to 1 for black, (clips, frames, n_mels).
        """
        x = self.norm(self.embed(intensity.mT).mT).mT
        for block in self.blocks:
            x = block(x)
        log_magnitude, angle = self.head(self.final_norm(x.mT)).mT.chunk(2, 1)
        spectrum = torch.polar(log_magnitude.exp().clamp(max=_LARGEST_MAGNITUDE), angle)
        window = torch.hann_window(self._n_fft, device=x.device)
        return torch.istft(spectrum, self._n_fft, self.config.hop_length, self._n_fft, window, center=True)


def write_vocoder(folder: Path, vocoder: Vocoder) -> None:
    """Write a vocoder as a folder that `load_vocoder` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {**to_data(vocoder.config), "vocoder": dataclasses.asdict(vocoder.size)}
    weights = {name: value.detach().cpu().contiguous() for name, value in vocoder.state_dict().items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_vocoder(folder: Path, config: SpectrogramConfig) -> Vocoder:
    """Read a vocoder, ready to be used for the images of `config`.

    Raises:
        InputError: If a file is missing or cannot be used, or the vocoder was trained for other parameters.
    """
    path = folder / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; a vocoder is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    trained_for = from_data(data, str(path))
    _refuse_others(trained_for, config, path)
    try:
        vocoder = Vocoder(trained_for, VocoderSize(**data["vocoder"]))
    except (KeyError, TypeError):
        fields = ", ".join(field.name for field in dataclasses.fields(VocoderSize))
        raise InputError(f"{path}: 'vocoder' must give {fields}") from None
    weights = folder / WEIGHTS_FILE
    try:
        vocoder.load_state_dict(safetensors.torch.load_file(weights))
    except FileNotFoundError:
        raise InputError(f"{weights}: no such file") from None
    except (safetensors.SafetensorError, RuntimeError):
        raise InputError(f"{weights}: its weights are not those that {CONFIG_FILE} describes") from None
    return vocoder.eval()


def _refuse_others(trained_for: SpectrogramConfig, config: SpectrogramConfig, path: Path) -> None:
    def meaning(of: SpectrogramConfig) -> dict[str, Any]:
        return {name: value for name, value in to_data(of)["spectrogram"].items() if name not in _NO_MATTER}

    mine, wanted = meaning(trained_for), meaning(config)
    odd = [f"{name}={mine[name]} (not {wanted[name]})" for name in mine if mine[name] != wanted[name]]
    if odd:
        raise InputError(
            f"{path}: trained for '{trained_for.name}' with {', '.join(odd)}; use a vocoder made for '{config.name}'"
        )
    if config.channels is not Channels.mono:
        raise InputError(f"{path}: a vocoder hears one channel; decode '{config.name}' without it")
