"""The parts of a Stable Diffusion 1.5 model, read from and written to a diffusers folder."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from riffusion_train.config.errors import InputError
from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram, write_spectrogram
from riffusion_train.model.tokenizer import VOCABULARY_SIZE, write_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

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
    path = Path(source).expanduser()
    if path.is_file():
        return _load_single_file(path)
    if path.is_dir():
        if not (path / MODEL_INDEX_FILE).is_file():
            raise InputError(f"{path}: no {MODEL_INDEX_FILE}; this is not a diffusers folder")
        return _load_parts(str(path), None, load_spectrogram(path))
    if source.count("/") != 1 or source.startswith((".", "~")) or source.endswith((".safetensors", ".ckpt")):
        raise InputError(f"{source}: no such file or folder, and not a hub id (user/name)")
    return _load_parts(source, revision, _hub_spectrogram(source, revision))


def _load_parts(source: str, revision: str | None, spectrogram: SpectrogramConfig | None) -> Components:
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    def load(kind: Any, part: str, **options: Any) -> Any:
        return _explained(source, part, lambda: kind.from_pretrained(source, subfolder=part, **options))

    at = {"revision": revision} if revision else {}
    weights = {"use_safetensors": True, **at}
    return Components(
        vae=load(AutoencoderKL, "vae", dtype=torch.float32, **weights),
        text_encoder=load(CLIPTextModel, "text_encoder", dtype=torch.float32, **weights),
        unet=load(UNet2DConditionModel, "unet", dtype=torch.float32, **weights),
        tokenizer=load(CLIPTokenizer, "tokenizer", **at),
        scheduler=load(PNDMScheduler, "scheduler", **at),
        spectrogram=spectrogram,
        source=source,
    )


def _load_single_file(path: Path) -> Components:
    """Load an LDM-layout `.safetensors` file; the configs come from this package, not from the network."""
    from safetensors import SafetensorError

    from riffusion_train.model.single_file import load_single_file, read_metadata_spectrogram

    if path.suffix != ".safetensors":
        raise InputError(f"{path}: only .safetensors files are read (a .ckpt is a pickle that can run code)")
    try:
        spectrogram = read_metadata_spectrogram(path)
        parts = load_single_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None
    return Components(**parts, spectrogram=spectrogram, source=str(path))


def _hub_spectrogram(source: str, revision: str | None) -> SpectrogramConfig | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    from riffusion_train.config.spectrogram import SPECTROGRAM_FILE

    def fetch() -> SpectrogramConfig | None:
        try:
            file = Path(hf_hub_download(source, SPECTROGRAM_FILE, revision=revision))
        except EntryNotFoundError:
            return None
        return load_spectrogram(file.parent)

    return _explained(source, SPECTROGRAM_FILE, fetch)


def _explained(source: str, part: str, load: Callable[[], Any]) -> Any:
    """Run a loader; turn what it raises for unusable input into one line."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from safetensors import SafetensorError

    try:
        return load()
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{source}: cannot be fetched from the hub ({reason})") from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{source}: cannot read its {part} ({reason})") from None


def write_components(folder: Path, components: Components) -> None:
    """Write a model as a diffusers folder of safetensors files, with `spectrogram.json` where it is known."""
    import diffusers

    folder.mkdir(parents=True, exist_ok=True)
    for name, module in components.modules.items():
        module.save_pretrained(folder / name, safe_serialization=True)  # type: ignore[operator]
    components.tokenizer.save_pretrained(folder / "tokenizer")
    if len(components.tokenizer) == VOCABULARY_SIZE:
        write_tokenizer(folder / "tokenizer")
    components.scheduler.save_pretrained(folder / "scheduler")
    if components.spectrogram is not None:
        write_spectrogram(folder, components.spectrogram)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(components.scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / MODEL_INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def fingerprint(module: nn.Module) -> str:
    """Return a short hash of a network's weights: names, shapes, dtypes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
