"""A model as a diffusers folder, read and written without the network."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.denoising import RecommendedConfig, read_recommended, recommended_data
from riffusion_train.config.spectrogram import load_spectrogram, write_spectrogram
from riffusion_train.model.components import Components, build_skeleton, load_tokenizer, save_tokenizer, scheduler_class
from riffusion_train.model.detect import detect_folder, require_sd1
from riffusion_train.model.weights import (
    PICKLE_STEMS,
    WEIGHT_STEMS,
    LazyModel,
    LazyTensor,
    as_matrix,
    match_weights,
    open_pickle,
    open_tensors,
    write_tensors,
)
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_json

MODEL_INDEX_FILE = "model_index.json"
SUMMARY_KEY = "riffusion_train"
"""Key of the summary's JSON in a file's metadata."""
SUMMARY_FILE = "training.json"
"""The same in an exported folder."""

_POSITION_IDS = "embeddings.position_ids"  # a constant that old versions of transformers saved as a weight


def write_model(folder: Path, model: LazyModel, *, dtype: torch.dtype | None = None) -> None:
    """Write a model as a diffusers folder, tensor by tensor, with its codec and what it recommends to sample it with.

    The text encoder's keys keep the prefix `text_model.` of transformers 4, which transformers 5 reads too.

    Args:
        folder: The folder to write into.
        model: The model.
        dtype: The weights' new dtype; None keeps each.
    """
    import diffusers

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
    if parts.sampling or parts.prompts:
        sampling = recommended_data(RecommendedConfig(), parts.sampling)
        write_json(folder / SUMMARY_FILE, {"sampling": sampling, "prompts": list(parts.prompts)})
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
    write_json(folder / MODEL_INDEX_FILE, index, ascii_only=True)


_OLD_VAE_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def open_folder(folder: Path, source: str, *, allow_pickle: bool = False) -> LazyModel:
    """Open a diffusers folder.

    Args:
        folder: The folder.
        source: What the user called it, for messages.
        allow_pickle: Whether a part without safetensors may be read from its `.bin`, a pickle.

    Raises:
        InputError: If it is another kind of model, or a part is missing, damaged or of other sizes than its config says.
    """
    if not (folder / MODEL_INDEX_FILE).is_file():
        raise InputError(f"{source}: no {MODEL_INDEX_FILE}; this is not a diffusers folder")
    kind = detect_folder(read_json(folder / MODEL_INDEX_FILE), read_json(folder / "unet" / "config.json"))
    require_sd1(source, kind)
    skeleton = _folder_skeleton(folder, source)
    tensors = {}
    for part, module in skeleton.modules.items():
        try:
            found = _folder_tensors(folder / part, part, allow_pickle)
        except InputError as error:
            raise InputError(f"{source}: cannot read its {part} ({error})") from None
        tensors[part] = match_weights(source, part, module, found)
    return LazyModel(skeleton, tensors)


def _folder_skeleton(folder: Path, source: str) -> Components:
    def load(part: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise InputError(f"{source}: cannot read its {part} ({str(error).strip().splitlines()[0]})") from None

    configs = {part: read_json(folder / part / "config.json") for part in WEIGHT_STEMS}
    summary_file = folder / SUMMARY_FILE
    summary = read_json(summary_file) if summary_file.is_file() else {}
    return load(
        "configs",
        lambda: build_skeleton(
            configs,
            load("tokenizer", lambda: load_tokenizer(folder / "tokenizer")),
            load("scheduler", lambda: _read_scheduler(folder)),
            spectrogram=load_spectrogram(folder),
            source=source,
            sampling=read_recommended(summary.get("sampling"), str(summary_file)),
            prompts=suggested_prompts(summary),
            dataset_fingerprint=_trained_on(folder, summary),
        ),
    )


def _read_scheduler(folder: Path) -> Any:
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_json(file) if file.is_file() else {}
    return scheduler_class(config).from_pretrained(str(folder), subfolder="scheduler")


def suggested_prompts(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the prompts that a model's summary suggests; whatever is no text is left out."""
    prompts = summary.get("prompts")
    return tuple(one for one in prompts if isinstance(one, str) and one) if isinstance(prompts, list) else ()


def _trained_on(folder: Path, summary: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of the dataset that a model was trained on: of an exported one, or of `final/` in a run folder."""
    if summary:
        return dataset_of(summary)
    manifest = folder.absolute().parent / "manifest.json"
    data = read_json(manifest).get("dataset") if folder.name == "final" and manifest.is_file() else None
    return dataset_of({"dataset_fingerprint": data.get("fingerprint")}) if isinstance(data, dict) else None


def dataset_of(summary: Any) -> str | None:
    """Return the fingerprint of the dataset that the summary of an exported model names; None where it names none."""
    text = summary.get("dataset_fingerprint") if isinstance(summary, dict) else None
    return text if isinstance(text, str) else None


def _folder_tensors(folder: Path, part: str, allow_pickle: bool) -> dict[str, LazyTensor]:
    """List one part's weights under today's names, from one file or several shards."""
    stem = WEIGHT_STEMS[part]
    tensors: dict[str, LazyTensor] = {}
    index = folder / f"{stem}.safetensors.index.json"
    whole = [folder / f"{stem}{kind}.safetensors" for kind in ("", ".fp16")]
    pickled = folder / f"{PICKLE_STEMS[part]}.bin"
    if index.is_file():
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            tensors |= open_tensors(folder / str(shard))[0]
    elif any(path.is_file() for path in whole):
        tensors = open_tensors(next(path for path in whole if path.is_file()))[0]
    elif pickled.is_file() and allow_pickle:
        tensors = open_pickle(pickled)
    elif pickled.is_file():
        raise InputError(f"{pickled.name} is a pickle that can run code; riffusion import … allow_pickle=true reads it")
    else:
        raise InputError(f"no {whole[0].name}")
    return dict(_renamed(part, name, tensor) for name, tensor in tensors.items() if not name.endswith(_POSITION_IDS))


def _renamed(part: str, name: str, tensor: LazyTensor) -> tuple[str, LazyTensor]:
    if part == "text_encoder":
        return name.removeprefix("text_model."), tensor
    if part == "vae" and ".attentions." in name:
        for old, new in _OLD_VAE_NAMES.items():
            name = name.replace(old, new)
        if len(tensor.shape) == 4:
            return name, as_matrix(tensor)
    return name, tensor


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: If the file is missing or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the model is incomplete") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a JSON object")
    return data
