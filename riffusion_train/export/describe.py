"""Say what a model or LoRA is, and which model made a clip: `riffusion doctor FILE`."""

import dataclasses
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from riffusion_train.audio.marking import SOURCE_TYPE, read_manifest, read_mark
from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram
from riffusion_train.model.detect import LORA_PEFT, LORAS, OTHER_SIZE, SD1, detect_file, detect_folder, lora_advice
from riffusion_train.model.diffusers_folder import MODEL_INDEX_FILE, SUMMARY_FILE, SUMMARY_KEY, read_json
from riffusion_train.model.loading import open_model
from riffusion_train.model.lora import PEFT_CONFIG_FILE, lora_files
from riffusion_train.model.single_file import CONFIGS_KEY, read_metadata_spectrogram
from riffusion_train.model.weights import WEIGHT_STEMS, LazyModel, LazyTensor, open_tensors
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import model_place
from riffusion_train.sampling.clip import load_record

_UNKNOWN = "not said"
_DOWN_ENDS = (".lora_A.weight", ".lora_down.weight", "lora.down.weight", ".lora_linear_layer.down.weight")


@dataclasses.dataclass(frozen=True)
class Description:
    """What a file or folder is; `_UNKNOWN` if it does not say."""

    what: str
    """Kind and layout."""
    base: str
    """The model it was made from."""
    codec: str
    """The codec of its images."""
    target: str
    """What the UNet predicts."""
    dtype: str
    """Number formats of the weights, the most frequent first."""
    size: str
    """Parameters and bytes."""
    sampler: str
    """Whether `riffusion sample` can use it; if not, why, or what to do."""
    fault: str | None = None
    """Why a model of the right kind cannot be read; None for a sound model, and for one of another kind."""
    scores: str | None = None
    """What `riffusion evaluate` measured, where the model says so."""

    def lines(self) -> list[str]:
        """Return one line for every field but `fault`; none for scores that are not known."""
        shown = {name: value for name, value in dataclasses.asdict(self).items() if name != "fault"}
        return [f"{name:<8} {value}" for name, value in shown.items() if name != "scores" or value is not None]


def describe(source: str) -> Description:
    """Describe a diffusers folder, a single file, a LoRA, or a model on the hub.

    Raises:
        InputError: If there is nothing at `source`, or the file is damaged.
    """
    path = Path(model_place(source)).expanduser()
    if path.is_dir() and lora_files(path):
        return _describe_lora(path, *open_tensors(lora_files(path)[0]))
    if path.is_dir():
        return _describe_folder(path)
    if path.is_file() and path.suffix != ".safetensors":
        return _describe_pickle(path)
    if path.is_file():
        tensors, metadata = open_tensors(path)
        family = detect_file({name: tensor.shape for name, tensor in tensors.items()})
        if family in LORAS:
            return _describe_lora(path, tensors, metadata)
        return _describe_file(path, family, tensors, metadata)
    return _describe_model("a diffusers model on the hub", open_model(source), {}, 0)


def describe_clip(path: Path) -> list[str]:
    """Return, as lines, what a sound or an image says about how it was made; checked against its record where it has one.

    Raises:
        InputError: If it is not marked as synthetic, or cannot be read, or its mark and its record name different models.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    mark = read_mark(path)
    if mark is None:
        raise InputError(
            f"{path}: is not marked as made by a model; it is from elsewhere, older than the mark, or its metadata were removed"
        )
    lines = [
        f"{'what':<8} marked as synthetic: made by a trained model ({SOURCE_TYPE})",
        f"{'model':<8} {mark.model}",
        f"{'weights':<8} {mark.model_fingerprint}",
        f"{'dataset':<8} {mark.dataset_fingerprint or 'not said'}",
    ]
    manifest = read_manifest(path)
    if manifest is not None:
        lines.append(f"{'c2pa':<8} {manifest}")
    try:
        clip_record = load_record(path)
    except InputError:
        return [*lines, f"{'settings':<8} not said"]
    if clip_record.mark != mark:
        other = clip_record.sampler
        raise InputError(
            f"{path}: its mark names {mark.model} ({mark.model_fingerprint}), its settings {other.model} "
            f"({other.model_fingerprint}): one of the two was changed afterwards"
        )
    made = f"riffusion sample --again {shlex.quote(str(path))} out=DIR"
    return [*lines, f"{'settings':<8} agree with the mark; the same clip once more: {made}"]


def _describe_folder(path: Path) -> Description:
    if (path / "manifest.json").is_file() and (path / "config.yaml").is_file():
        raise InputError(f"{path}: a run, not a model; riffusion export run={path} out=MODEL, or look at {path}/final")
    if not (path / MODEL_INDEX_FILE).is_file():
        raise InputError(f"{path}: no {MODEL_INDEX_FILE}; this is not a diffusers folder")
    family = detect_folder(read_json(path / MODEL_INDEX_FILE), _json_or_empty(path / "unet" / "config.json"))
    num_bytes = sum(file.stat().st_size for part in WEIGHT_STEMS for file in (path / part).glob("*.safetensors"))
    summary = _json_or_empty(path / SUMMARY_FILE)
    what = f"{family}, as a diffusers folder"
    try:
        return _describe_model(what, open_model(str(path)), summary, num_bytes)
    except InputError as error:
        return _unusable(what, family, _codec_text(load_spectrogram(path)), [], num_bytes, str(error))


def _describe_file(
    path: Path, family: str, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]
) -> Description:
    num_bytes = path.stat().st_size
    what = f"{family}, as one file" + (
        " in the LDM layout" if family.startswith(("Stable Diffusion 1", "the arch")) else ""
    )
    try:
        described = _describe_model(what, open_model(str(path)), _summary(metadata), num_bytes)
    except InputError as error:
        codec = _codec_text(read_metadata_spectrogram(path, metadata))
        return _unusable(what, family, codec, tensors.values(), num_bytes, str(error))
    says = CONFIGS_KEY in metadata or "modelspec.prediction_type" in metadata or described.target != "epsilon"
    if not says:
        described = dataclasses.replace(described, target="not said; epsilon is assumed")
    return described


def _describe_model(what: str, model: LazyModel, summary: Mapping[str, Any], num_bytes: int) -> Description:
    parts = model.skeleton
    tensors = [tensor for weights in model.tensors.values() for tensor in weights.values()]
    return Description(
        what=what,
        base=_base(summary),
        codec=_codec_text(parts.spectrogram),
        target=str(parts.scheduler.config.prediction_type),  # type: ignore[attr-defined]
        dtype=_dtypes(tensors),
        size=_size(tensors, num_bytes),
        sampler="yes"
        if parts.spectrogram
        else "yes, with riffusion_v1 assumed; riffusion import … codec=PRESET sets it",
        scores=_scores_text(summary),
    )


def _describe_lora(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> Description:
    family = detect_file({name: tensor.shape for name, tensor in tensors.items()})
    downs = {name: one.shape for name, one in tensors.items() if name.endswith(_DOWN_ENDS)}
    ranks = sorted({shape[0] for shape in downs.values()})
    widths = sorted({shape[1] for name, shape in downs.items() if "attn2" in name and "to_k" in name})
    text = f", text width {', '.join(map(str, widths))}" if widths else ""
    summary = _summary(metadata)
    base = _base(summary) if summary else metadata.get("ss_base_model_version", _UNKNOWN)
    codec = read_metadata_spectrogram(path, metadata) or (load_spectrogram(path) if path.is_dir() else None)
    num_bytes = sum(file.stat().st_size for file in lora_files(path))
    if any(width in (1024, 2048) for width in widths):
        sampler = "no: it is for another model than Stable Diffusion 1.x"
    elif family == LORA_PEFT and not lora_files(path)[0].with_name(PEFT_CONFIG_FILE).is_file():
        sampler = f"no: it does not say how strong it is; put the {PEFT_CONFIG_FILE} that peft wrote with it beside it"
    else:
        sampler = f"not alone; {lora_advice(str(path))}"
    return Description(
        what=f"{family}: {len(downs)} layers of rank {', '.join(map(str, ranks))}{text}",
        base=base,
        codec=_codec_text(codec),
        target=str(summary.get("prediction_type", _UNKNOWN)),
        dtype=_dtypes(tensors.values()),
        size=_size(tensors.values(), num_bytes),
        sampler=sampler,
        scores=_scores_text(summary),
    )


def _describe_pickle(path: Path) -> Description:
    with path.open("rb") as file:
        pickled = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    if not pickled:
        raise InputError(f"{path}: neither safetensors nor a pickle of weights")
    convert = f"no; convert it if you trust it: riffusion import {path} out=DIR allow_pickle=true"
    return Description(
        "a pickle (.ckpt), which can run code and was not opened",
        _UNKNOWN,
        _UNKNOWN,
        _UNKNOWN,
        _UNKNOWN,
        _bytes_text(path.stat().st_size),
        convert,
    )


def _unusable(
    what: str, family: str, codec: str, tensors: Iterable[LazyTensor], num_bytes: int, reason: str
) -> Description:
    weights = list(tensors)
    size = _size(weights, num_bytes) if weights else _bytes_text(num_bytes)
    fault = reason if family in (SD1, OTHER_SIZE) else None
    return Description(what, _UNKNOWN, codec, _UNKNOWN, _dtypes(weights), size, f"no: {reason}", fault)


def _summary(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        summary = json.loads(metadata.get(SUMMARY_KEY, "{}"))
    except ValueError:
        return {}
    return summary if isinstance(summary, dict) else {}


def _json_or_empty(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _base(summary: Mapping[str, Any]) -> str:
    if "base_model" not in summary:
        return _UNKNOWN
    base, method, step, weights = (summary.get(key) for key in ("base_model", "method", "step", "weights"))
    return f"{base}; {method}, step {step}, {weights} weights"


def _scores_text(summary: Mapping[str, Any]) -> str | None:
    scores = summary.get("scores")
    if not isinstance(scores, dict) or not scores:
        return None
    return ", ".join(f"{name} {value:.3g}" for name, value in scores.items() if isinstance(value, int | float)) or None


def _codec_text(codec: SpectrogramConfig | None) -> str:
    if codec is None:
        return _UNKNOWN
    size = f"{codec.width_px} x {codec.n_mels} px, {codec.clip_s:.2f} s"
    return f"{codec.name}: {size}, {codec.channels.value}, {codec.rate_hz} Hz"


def _dtypes(tensors: Iterable[LazyTensor]) -> str:
    counts: dict[str, int] = {}
    for tensor in tensors:
        name = str(tensor.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(sorted(counts, key=lambda name: -counts[name])) or _UNKNOWN


def _size(tensors: Iterable[LazyTensor], num_bytes: int) -> str:
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    return f"{count:,} parameters" + (f", {_bytes_text(num_bytes)}" if num_bytes else "")


def _bytes_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
