"""Write the model of a run, or any other model, in a format that others read: `riffusion export` and `import`."""

import dataclasses
import os
import tempfile
from pathlib import Path

import torch

from riffusion_train.config.export import ExportDtype, ExportFormat, ExportWeights, LoraLayout, is_file
from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset, write_spectrogram
from riffusion_train.export.card import write_card
from riffusion_train.export.summary import metadata, summarise, write_summary
from riffusion_train.model.detect import LORA_DIFFUSERS, LORA_KOHYA, detect_file
from riffusion_train.model.lazy import LazyModel
from riffusion_train.model.loading import make_components, open_model, write_model_files
from riffusion_train.model.lora import LORA_FILE, Lora, merge_lora, read_lora
from riffusion_train.model.safetensors_io import open_tensors
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import written_beside
from riffusion_train.runtime.hub import check_repository, push
from riffusion_train.training.run_model import FINAL, RunModel, open_run_model

_TORCH_DTYPES = {ExportDtype.fp32: torch.float32, ExportDtype.fp16: torch.float16, ExportDtype.bf16: torch.bfloat16}


def export_run(
    run: Path,
    out: Path,
    *,
    base: str | None = None,
    kind: ExportFormat = ExportFormat.diffusers,
    checkpoint: str = FINAL,
    weights: ExportWeights = ExportWeights.ema,
    dtype: ExportDtype = ExportDtype.fp32,
    layout: LoraLayout = LoraLayout.diffusers,
    push_to_hub: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
) -> RunModel:
    """Write the model of a run to `out`; the adapters of a LoRA run are merged unless asked for alone.

    Args:
        run: The run folder, or one of its checkpoints.
        out: The folder or file to write; it appears complete or not at all.
        base: Where the run's base model is now, if it was moved.
        kind: The format.
        checkpoint: A step, `final` or `newest`.
        weights: EMA or raw.
        dtype: The number format of the weights.
        layout: The layout of adapters.
        push_to_hub: A repository to upload to as well.
        private: Whether a new repository is private.
        endpoint: The hub's address.

    Returns:
        What was exported.

    Raises:
        InputError: If the run or the target cannot be used; nothing is left behind then.
    """
    check_target(out, kind, layout)
    if push_to_hub is not None:
        check_repository(push_to_hub)
    model = open_run_model(run, checkpoint, weights, base)
    if kind is ExportFormat.lora and model.lora is None:
        raise InputError(
            f"run={run}: method={model.config.method.name.value} trains no adapters; choose another format"
        )
    summary = summarise(model)
    single = is_file(kind, layout)
    with written_beside(out, parents=True) as partial:
        write_model_files(
            partial,
            kind,
            model=None if kind is ExportFormat.lora else model.whole(),
            lora=model.lora,
            layout=layout,
            dtype=dtype,
            metadata=metadata(summary, model, kind, out.stem),
        )
        if not single:
            write_summary(partial, summary)
            write_card(partial, model, summary, kind, layout, name=push_to_hub or out.name)
    if push_to_hub is not None and not single:
        push(out, push_to_hub, private=private, endpoint=endpoint)
    elif push_to_hub is not None:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".upload-") as staging:
            codec = model.base.skeleton.spectrogram
            if codec is not None:
                write_spectrogram(Path(staging), codec)
            write_card(Path(staging), model, summary, kind, layout, name=out.name)
            os.link(out, Path(staging) / out.name)
            push(Path(staging), push_to_hub, private=private, endpoint=endpoint)
    return model


def import_model(
    source: str,
    out: Path,
    *,
    kind: ExportFormat = ExportFormat.diffusers,
    dtype: ExportDtype = ExportDtype.fp32,
    base: str | None = None,
    revision: str | None = None,
    lora_scale: float = 1.0,
    layout: LoraLayout = LoraLayout.diffusers,
    codec: str | None = None,
    allow_pickle: bool = False,
) -> str:
    """Read a model or a LoRA and write it to `out`.

    Args:
        source: A diffusers folder, a single file, a hub id, or a LoRA's file or folder.
        out: The folder or file to write.
        kind: The format to write.
        dtype: The number format of the weights.
        base: With a LoRA, the model to merge it into.
        revision: Revision of a hub id.
        lora_scale: How much of the LoRA.
        layout: The layout of adapters to write.
        codec: Preset for a model that does not name its codec.
        allow_pickle: Whether `.ckpt` and `.bin` files are read.

    Returns:
        What was read, as a text.

    Raises:
        InputError: If something does not fit; nothing is left behind then.
    """
    check_target(out, kind, layout)
    preset = None if codec is None else load_preset(codec)
    model, lora = None, None
    if is_lora(source):
        lora, model = _open_lora(source, kind, base, revision, lora_scale)
        lora = dataclasses.replace(lora, spectrogram=lora.spectrogram or preset)
        what = f"a LoRA of {len(lora.layers)} layers" + ("" if model is None else f", merged into {base}")
    else:
        if kind is ExportFormat.lora:
            raise InputError(f"{source}: a whole model holds no adapters; use format=diffusers or single_file")
        if base is not None:
            raise InputError(f"base={base}: {source} is a whole model and needs no base")
        model = open_model(source, revision, allow_pickle=allow_pickle)
        what = "a whole model"
    if model is not None:
        model = _with_codec(model, (lora and lora.spectrogram) or preset, override=lora is not None)
    with written_beside(out, parents=True) as partial:
        write_model_files(partial, kind, model=model, lora=lora, layout=layout, dtype=dtype, metadata={})
    return what


def is_lora(source: str) -> bool:
    """Return whether a path holds adapters."""
    path = Path(source).expanduser()
    if path.is_dir():
        return (path / LORA_FILE).is_file()
    if not (path.is_file() and path.suffix == ".safetensors"):
        return False
    tensors, _ = open_tensors(path)
    return detect_file({name: tensor.shape for name, tensor in tensors.items()}) in (LORA_KOHYA, LORA_DIFFUSERS)


def _open_lora(
    source: str, kind: ExportFormat, base: str | None, revision: str | None, scale: float
) -> tuple[Lora, LazyModel | None]:
    path = Path(source).expanduser()
    if base is None:
        if kind is not ExportFormat.lora:
            raise InputError(f"{source}: a LoRA is no whole model; give base=MODEL to merge it, or use format=lora")
        with torch.device("meta"):
            sd15 = make_components(ModelConfig(name=ModelName.random), seed=0)
        return read_lora(path, sd15.modules), None
    model = open_model(base, revision)
    lora = read_lora(path, model.skeleton.modules, base)
    return lora, None if kind is ExportFormat.lora else merge_lora(model, lora, scale)


def _with_codec(model: LazyModel, codec: SpectrogramConfig | None, *, override: bool) -> LazyModel:
    """Set the codec of a model that names none, or of one whose images a LoRA has changed."""
    if codec is None or (model.skeleton.spectrogram is not None and not override):
        return model
    return dataclasses.replace(model, skeleton=dataclasses.replace(model.skeleton, spectrogram=codec))


def check_target(out: Path, kind: ExportFormat, layout: LoraLayout) -> None:
    """Refuse a target that exists or has the wrong kind of name.

    Raises:
        InputError: If `out` exists, is named like a file for a format that is a folder, or the other way round.
    """
    if out.exists():
        raise InputError(f"out={out}: exists already; choose another name or remove it")
    writes_file = is_file(kind, layout)
    if writes_file != (out.suffix == ".safetensors"):
        fix = "end its name in .safetensors" if writes_file else "give the name of a folder"
        raise InputError(f"out={out}: format={kind.name} writes a {'file' if writes_file else 'folder'}; {fix}")
