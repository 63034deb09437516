"""Write a model or its adapters in one of the formats, whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from riffusion_train.config.export import ExportDtype, ExportFormat, LoraLayout
from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.lazy import LazyModel
from riffusion_train.model.lora import LORA_FILE, Lora, write_diffusers_lora, write_kohya_lora
from riffusion_train.model.single_file import write_single_file
from riffusion_train.runtime.errors import InputError

DTYPES = {ExportDtype.fp32: torch.float32, ExportDtype.fp16: torch.float16, ExportDtype.bf16: torch.bfloat16}


def is_file(kind: ExportFormat, layout: LoraLayout) -> bool:
    """Say whether a format is one file rather than a folder."""
    return kind is ExportFormat.single_file or (kind is ExportFormat.lora and layout is LoraLayout.kohya)


def check_target(out: Path, kind: ExportFormat, layout: LoraLayout) -> None:
    """Refuse a target that is there or has the wrong name.

    Raises:
        InputError: If `out` exists, or is named as a file where a folder is written or the other way round.
    """
    if out.exists():
        raise InputError(f"out={out}: exists already; choose another name or remove it")
    wants_file = is_file(kind, layout)
    if wants_file != (out.suffix == ".safetensors"):
        mend = "end its name in .safetensors" if wants_file else "give a folder's name"
        raise InputError(f"out={out}: format={kind.name} writes a {'file' if wants_file else 'folder'}; {mend}")


@contextlib.contextmanager
def written_beside(out: Path) -> Iterator[Path]:
    """Give a path to write a folder or file to, which becomes `out` at the end, and is taken away on an error."""
    made = [parent for parent in (out.parent, *out.parent.parents) if not parent.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}")
    _remove(partial)
    try:
        yield partial
        partial.rename(out)
    except BaseException:
        _remove(partial)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def write_product(
    path: Path,
    kind: ExportFormat,
    *,
    model: LazyModel | None,
    lora: Lora | None,
    layout: LoraLayout,
    dtype: ExportDtype,
    metadata: Mapping[str, str],
) -> None:
    """Write one format.

    Args:
        path: The folder or file.
        kind: The format.
        model: The whole model; needed by all formats but `lora`.
        lora: The adapters; needed by `lora`.
        layout: The layout of the adapters.
        dtype: The kind of number.
        metadata: Text for the header of a single file or of adapters.
    """
    number = DTYPES[dtype]
    if kind is not ExportFormat.lora:
        assert model is not None
        if kind is ExportFormat.diffusers:
            write_model(path, model, dtype=number)
        else:
            write_single_file(path, model, dtype=number, metadata=metadata)
        return
    assert lora is not None
    if layout is LoraLayout.kohya:
        write_kohya_lora(path, lora, dtype=number, extra=metadata)
        return
    path.mkdir(parents=True)
    write_diffusers_lora(path / LORA_FILE, lora, dtype=number, extra=metadata)
    if lora.spectrogram is not None:
        write_spectrogram(path, lora.spectrogram)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
