"""The parts of a Stable Diffusion 1.5 model, read from and written to a diffusers folder."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xxhash
from torch import nn

from riffusion_train.config.spectrogram import SPECTROGRAM_FILE, SpectrogramConfig, write_spectrogram
from riffusion_train.model.tokenizer import save_tokenizer
from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from riffusion_train.model.stored import StoredModel

MODEL_INDEX_FILE = "model_index.json"


@dataclasses.dataclass
class Components:
    """A whole model in memory, in fp32."""

    vae: "AutoencoderKL"
    text_encoder: "CLIPTextModel"
    unet: "UNet2DConditionModel"
    tokenizer: "CLIPTokenizer"
    scheduler: "SchedulerMixin"
    spectrogram: SpectrogramConfig | None
    """What the pictures mean; None where the model does not say."""
    source: str
    """Where the model came from, for messages and cards."""

    @property
    def downsampling(self) -> int:
        """Pixels of the picture for one pixel of the latents, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, codec: SpectrogramConfig) -> tuple[int, int, int]:
        """Return the shape of the latents of a codec's pictures: (channels, height, width)."""
        scale = self.downsampling
        return (int(self.vae.config.latent_channels), codec.n_mels // scale, codec.width_px // scale)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The three networks by name."""
        return {"vae": self.vae, "text_encoder": self.text_encoder, "unet": self.unet}

    def to(self, device: torch.device) -> "Components":
        """Move the networks to `device`."""
        for module in self.modules.values():
            module.to(device)
        return self


def load_components(source: str, revision: str | None = None) -> Components:
    """Load a model in fp32 from a diffusers folder, a single `.safetensors` file, or a Hugging Face hub id.

    Raises:
        InputError: If there is nothing usable at `source`; the message names the part that is missing.
    """
    from riffusion_train.model.stored import read_components

    return read_components(open_model(source, revision))


def open_model(source: str, revision: str | None = None, *, allow_pickle: bool = False) -> "StoredModel":
    """Open a model without reading its weights: a diffusers folder, a single file, or a Hugging Face hub id.

    Args:
        source: Where it is.
        revision: Revision of a hub id.
        allow_pickle: Whether weights may come from a `.ckpt` or `.bin`, which are pickles.

    Raises:
        InputError: If there is nothing usable at `source`.
    """
    from riffusion_train.model.single_file import open_single_file
    from riffusion_train.model.stored import open_folder

    path = Path(source).expanduser()
    if path.is_file():
        return open_single_file(path, allow_pickle=allow_pickle)
    if path.is_dir():
        return open_folder(path, str(path), allow_pickle=allow_pickle)
    if source.count("/") != 1 or source.startswith((".", "~")) or source.endswith((".safetensors", ".ckpt")):
        raise InputError(f"{source}: no such file or folder, and not a hub id (user/name)")
    return open_folder(_fetch(source, revision, allow_pickle), source, allow_pickle=allow_pickle)


def _fetch(source: str, revision: str | None, allow_pickle: bool) -> Path:
    """Fetch the parts of a model from the hub; return the folder in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [MODEL_INDEX_FILE, SPECTROGRAM_FILE, "tokenizer/*", "scheduler/*"]
    for part in ("unet", "vae", "text_encoder"):
        patterns += [f"{part}/config.json", f"{part}/*.safetensors", f"{part}/*.safetensors.index.json"]
        patterns += [f"{part}/{stem}.bin" for stem in ("diffusion_pytorch_model", "pytorch_model") if allow_pickle]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{source}: cannot be fetched from the hub ({reason})") from None


def write_components(folder: Path, components: Components) -> None:
    """Write a model as a diffusers folder of safetensors files, with `spectrogram.json` where it is known."""
    from riffusion_train.model.stored import stored_components

    write_model(folder, stored_components(components))


def write_model(folder: Path, model: "StoredModel", *, dtype: torch.dtype | None = None) -> None:
    """Write a stored model as a diffusers folder, tensor by tensor.

    The text encoder's keys keep the `text_model.` that transformers 4 knows; transformers 5 reads them too.

    Args:
        folder: The folder to write into.
        model: The model.
        dtype: What the weights become; None keeps them.
    """
    import diffusers

    from riffusion_train.model.stored import WEIGHT_STEMS
    from riffusion_train.model.tensor_file import write_tensors

    parts = model.skeleton
    folder.mkdir(parents=True, exist_ok=True)
    for part, weights in model.tensors.items():
        (folder / part).mkdir(exist_ok=True)
        prefix = "text_model." if part == "text_encoder" else ""
        write_tensors(
            folder / part / f"{WEIGHT_STEMS[part]}.safetensors",
            {prefix + name: tensor for name, tensor in weights.items()},
            dtype=dtype,
            metadata={"format": "pt"},
        )
    parts.unet.save_config(folder / "unet")
    parts.vae.save_config(folder / "vae")
    parts.text_encoder.config.architectures = ["CLIPTextModel"]
    parts.text_encoder.config.save_pretrained(folder / "text_encoder")
    save_tokenizer(parts.tokenizer, folder / "tokenizer")
    parts.scheduler.save_pretrained(folder / "scheduler")
    if parts.spectrogram is not None:
        write_spectrogram(folder, parts.spectrogram)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(parts.scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / MODEL_INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def fingerprint(module: nn.Module) -> str:
    """Return a short hash of a network's weights: names, shapes, dtypes and values."""
    return hash_weights(sorted(module.state_dict().items()))


def hash_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return what `fingerprint` says of the network with these weights, which come in the order of their names."""
    digest = xxhash.xxh3_128()
    for name, tensor in weights:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
