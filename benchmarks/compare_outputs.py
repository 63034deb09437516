"""What the files of a command hold, so that two versions of the package can be compared by it.

A file counts by its bytes where `strict` is asked for. Else it counts by what it means: the pixels and texts of an image, the
samples and tags of a sound, the tensors and metadata of a safetensors file, the values of JSON and YAML. Left out is what no
two runs share: times, speeds, the commit, and the version of the package.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from omegaconf import OmegaConf
from PIL import Image

Facts = dict[str, Any]
"""What a case wrote, by file: a digest, or JSON data."""

RENAMED = {"lane": "unet_batch_size", "energy": "volume", "picture_error_percent": "image_error_percent"}
"""Keys, and names of metrics, that the new version may write under another name."""
LEFT_OUT = {
    "metrics.jsonl": {
        "step_s", "images_per_s", "audio_s_per_s", "tflops_per_s", "mfu_percent", "data_wait_percent", "peak_memory_gib",
    },
    "overrides.jsonl": {"time"},
    "manifest.json": {"git"},
    "site.json": {"stamp", "id", "label"},
    "*.safetensors": {"modelspec.date"},
    "corpus.json": {"palette_sha256"},
}  # fmt: skip
"""Keys that are not compared, by file: times, dates, speeds, memory; the commit; what follows from them; a source's hash;
what the page calls a metric."""
VERSION = "<version>"
"""Stands for the package's own version, as `--version` prints it."""

_CLIP_MODE = re.compile(r"(?<=/)(\d{4,}-)(?:text|audio|inpaint|extend|long|loop|walk|morph)-")
"""The mode in the name of a clip, which 0.1.0 left out."""
# The page's code, whose data is in site.json; a model card's words and its chart, which say what other files hold.
_SKIPPED = {"index.html", "model/README.md", "model/loss.png", "lora/README.md", "lora/loss.png"}
_SOUNDS = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
_TEXTS = {".md", ".txt", ".csv"}


def facts_of(folder: Path, outputs: tuple[str, ...], *, version: str, strict: bool) -> Facts:
    """Return what lies under some paths of a folder.

    Args:
        folder: Where the commands ran.
        outputs: Files and folders in it.
        version: Version of the package that wrote them, which is left out.
        strict: Compare the bytes of every file.
    """
    found: Facts = {}
    for output in outputs:
        path = folder / output
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            name = _CLIP_MODE.sub(r"\1", file.relative_to(folder).as_posix())
            if file.is_file() and not {file.name, name} & _SKIPPED:
                found[name] = _sha256(file.read_bytes()) if strict else _meaning(file, version)
    return found


def numbers_of(printed: str) -> list[str]:
    """Return the numbers of a printed text, whatever words stand around them."""
    return re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", printed)


def digest(fact: Any) -> str:
    """Return a short hash of a fact."""
    return _sha256(json.dumps(fact, sort_keys=True).encode())[:12]


def shared(old: Any, new: Any, added: set[str], where: str = "") -> Any:
    """Return the part of the new data that the old one has as well, under the old names.

    Args:
        old: Data of the old version.
        new: Data of the new one.
        added: Takes the keys that only the new version writes.
        where: The keys that lead here.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = {key: RENAMED[key] if key not in new and RENAMED.get(key) in new else key for key in old}
        added |= {f"{where}{key}" for key in new.keys() - set(names.values())}
        return {key: shared(old[key], new[name], added, f"{where}{key}.") for key, name in names.items() if name in new}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [shared(*pair, added, where) for pair in zip(old, new, strict=True)]
    return new


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Yield the places at which two facts differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{where}[{place}]")
    elif json.dumps(old) != json.dumps(new) and not (isinstance(old, str) and RENAMED.get(old) == new):
        yield f"{where or 'content'}: {_shown(old)} became {_shown(new)}"


def _meaning(path: Path, version: str) -> Any:
    """Return what a file means, as a digest or as data."""
    suffix = path.suffix
    if suffix == ".png":
        with Image.open(path) as image:
            pixels = _sha256(repr((image.mode, image.size)).encode() + image.tobytes())
            texts = {name: str(text) for name, text in getattr(image, "text", {}).items()}
        return {"pixels": pixels, "texts": _parsed(texts, version)}
    if suffix in _SOUNDS:
        with soundfile.SoundFile(path) as sound:
            samples = sound.read(dtype="float32", always_2d=True)
            tags = sound.copy_metadata()
        heard = _sha256(np.ascontiguousarray(samples).tobytes())
        return {"samples": heard, "shape": [*samples.shape, sound.samplerate], "tags": _parsed(tags, version)}
    if suffix == ".safetensors":
        return _tensors(path, version)
    if suffix in (".json", ".jsonl", ".yaml"):
        return _without(_data(path, version), LEFT_OUT.get(path.name, set()))
    if suffix in _TEXTS:
        return _sha256(_neutral(path.read_text(encoding="utf-8"), version).encode())
    return _sha256(path.read_bytes())


def _tensors(path: Path, version: str) -> dict[str, Any]:
    """Return a hash of each tensor of a safetensors file, and its metadata."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__", {})
    metadata = {name: text for name, text in metadata.items() if name not in LEFT_OUT["*.safetensors"]}
    tensors = {}
    for name, tensor in header.items():
        first, end = tensor["data_offsets"]
        kind = repr((tensor["dtype"], tensor["shape"])).encode()
        tensors[name] = _sha256(kind + content[start + first : start + end])[:16]
    return {"tensors": tensors, "metadata": _parsed(metadata, version)}


def _data(path: Path, version: str) -> Any:
    text = _neutral(path.read_text(encoding="utf-8"), version)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return OmegaConf.to_container(OmegaConf.create(text)) if path.suffix == ".yaml" else json.loads(text)


def _parsed(texts: dict[str, str], version: str) -> dict[str, Any]:
    """Return texts, those that hold JSON as data."""
    neutral = {name: _neutral(text, version) for name, text in texts.items()}
    return {
        name: _without(json.loads(text), set()) if text[:1] in ("{", "[") else text for name, text in neutral.items()
    }


def _neutral(text: str, version: str) -> str:
    return re.sub(rf"(?<![\d.]){re.escape(version)}(?!\.?\d)", VERSION, text)


def _without(data: Any, keys: set[str]) -> Any:
    if isinstance(data, dict):
        # The version of a clip's record counts up with the keys that it gains; those are listed by themselves.
        left_out = keys | {"schema_version"} if {"mode", "prompt"} <= data.keys() else keys
        return {key: _without(value, keys) for key, value in data.items() if key not in left_out}
    return [_without(value, keys) for value in data] if isinstance(data, list) else data


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
