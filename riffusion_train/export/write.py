"""Write the model of a run, or any other model, in a format that others read: `riffusion export` and `import`."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.denoising import RecommendedConfig, recommended_data
from riffusion_train.config.model import ExportDtype, ExportFormat, ExportWeights, LoraLayout, ModelConfig, ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset, write_spectrogram
from riffusion_train.export.card import Card, Form, card_of, imported_card
from riffusion_train.export.summary import (
    Imported,
    imported_metadata,
    metadata,
    read_scores,
    scores_of_run,
    summarise,
    write_summary,
)
from riffusion_train.model.detect import UNETS
from riffusion_train.model.loading import (
    file_kind,
    is_lora,
    make_components,
    open_model,
    open_with_base,
    write_model_files,
)
from riffusion_train.model.lora import Lora, merge_lora, read_lora
from riffusion_train.model.single_file import ldm_config
from riffusion_train.model.weights import LazyModel
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically, written_beside
from riffusion_train.runtime.hub import check_repository, looks_like_hub_id, push
from riffusion_train.training.run_model import FINAL, RunModel, open_run_model


def export_run(
    run: Path,
    out: Path,
    *,
    base: str | None = None,
    kind: ExportFormat = ExportFormat.diffusers,
    checkpoint: str = FINAL,
    weights: ExportWeights = ExportWeights.ema,
    dtype: ExportDtype = ExportDtype.fp32,
    layout: LoraLayout = LoraLayout.kohya,
    author: str | None = None,
    licence: str | None = None,
    notes: Path | None = None,
    prompts: Path | None = None,
    scores: Path | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
    recommended: RecommendedConfig | None = None,
) -> RunModel:
    """Write the model of a run to `out`; the adapters of a LoRA run are merged unless asked for alone.

    Args:
        run: The run folder, or one of its checkpoints.
        out: The folder or file to write; it appears complete or not at all.
        base: Where the run's base model is now, if it was moved.
        kind: The format.
        checkpoint: A step, `final`, `newest`, `best` or `judged`.
        weights: EMA or raw.
        dtype: The number format of the weights.
        layout: The layout of adapters.
        author: Who made the model; the user of `push_to_hub` where none is given.
        licence: The hub's name of the licence of weights that descend from no others.
        notes: A text file in Markdown for the card.
        prompts: A text file with prompts that the model understands, one a line; None is what its base suggests.
        scores: A `scores.json` for the card; None takes those of the run, if `evaluate run` has scored this checkpoint.
        push_to_hub: A repository to upload to as well.
        private: Whether a new repository is private.
        endpoint: The hub's address.
        recommended: How the model is best sampled; it is written into the model, and sampler and player go by it. What the base
            recommends stands where nothing is given.

    Returns:
        What was exported.

    Raises:
        InputError: If the run or the target cannot be used; nothing is left behind then.
    """
    check_target(out, kind, layout)
    recommended_data(recommended or RecommendedConfig())  # refuses what cannot be used before the run is opened
    if push_to_hub is not None:
        check_repository(push_to_hub)
    model = open_run_model(run, checkpoint, weights, base)
    if kind is ExportFormat.lora and model.lora is None:
        raise InputError(
            f"run={run}: method={model.config.method.name.value} trains no adapters; choose another format"
        )
    author = author or (push_to_hub.partition("/")[0] if push_to_hub else None)
    files = _Files(out, kind, layout, dtype)
    if push_to_hub is None:
        files.check_card(scores=scores, notes=notes)
    text = "" if notes is None else _read_text("notes", notes)
    lines = [] if prompts is None else [line.strip() for line in _read_text("prompts", prompts).splitlines()]
    sampling = recommended_data(recommended or RecommendedConfig(), model.base.skeleton.sampling)
    measured = scores_of_run(model) if scores is None else read_scores(scores)
    summary = summarise(model, None if measured is None else measured.values(), sampling, licence, lines)
    card = card_of(model, summary, files.form(push_to_hub), measured, text)
    texts = metadata(summary, model, kind, title=out.stem, author=author)
    with written_beside(out, parents=True) as partial:
        files.write(partial, None if kind is ExportFormat.lora else model.whole(), model.lora, texts)
        if not files.single:
            write_summary(partial, summary)
            card.write(partial)
    if push_to_hub is not None and not files.single:
        push(out, push_to_hub, private=private, endpoint=endpoint)
    elif push_to_hub is not None:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".upload-") as staging:
            _stage_file(Path(staging), files, model.base, card)
            push(Path(staging), push_to_hub, private=private, endpoint=endpoint)
    return model


def _stage_file(staging: Path, files: "_Files", model: LazyModel, card: Card) -> None:
    """Put a model's one file into a folder to upload, with its codec, its card and its YAML."""
    codec, out = model.skeleton.spectrogram, files.out
    if codec is not None:
        write_spectrogram(staging, codec)
    card.write(staging)
    for path in (out, out.with_suffix(".yaml")):
        if path == out or files.has_yaml(model):
            os.link(path, staging / path.name)


def _read_text(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{key}={path}: cannot be read; name a text file in UTF-8") from None


def import_model(
    source: str,
    out: Path,
    *,
    kind: ExportFormat = ExportFormat.diffusers,
    dtype: ExportDtype = ExportDtype.fp32,
    base: str | None = None,
    revision: str | None = None,
    lora_scale: float = 1.0,
    layout: LoraLayout = LoraLayout.kohya,
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
        model, what = _open_whole(source, base, revision, allow_pickle=allow_pickle)
    if model is not None:
        model = _with_codec(model, (lora and lora.spectrogram) or preset, override=lora is not None)
    files = _Files(out, kind, layout, dtype)
    about = Imported(
        source, what.partition(",")[0], base, lora_scale, model.skeleton if model is not None else None, lora
    )
    with written_beside(out, parents=True) as partial:
        files.write(partial, model, lora, imported_metadata(about, kind, title=out.stem))
        if not files.single:
            imported_card(about, files.form(None)).write(partial)
    return what


def _open_whole(source: str, base: str | None, revision: str | None, *, allow_pickle: bool) -> tuple[LazyModel, str]:
    """Open a whole model, or a UNet alone that `base` completes; return it with what was read."""
    path = Path(source).expanduser()
    if base is not None and file_kind(path) in UNETS:
        return open_with_base(path, open_model(base, revision)), f"a UNet, completed from {base}"
    if base is not None and not path.exists() and looks_like_hub_id(source):
        raise InputError(f"base={base}: {source} is read from the hub as a whole model; of a LoRA there, give its file")
    model = open_model(source, None if base else revision, allow_pickle=allow_pickle)
    if base is not None:
        raise InputError(f"base={base}: {source} is a whole model and needs no base")
    return model, "a whole model"


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


@dataclasses.dataclass(frozen=True)
class _Files:
    """What is written to `out`, in which format."""

    out: Path
    kind: ExportFormat
    layout: LoraLayout
    dtype: ExportDtype

    @property
    def single(self) -> bool:
        """Whether it is one file rather than a folder."""
        return self.out.suffix == ".safetensors"

    def check_card(self, **texts: Path | None) -> None:
        """Refuse texts for the card where there is none.

        Raises:
            InputError: Naming the first of them.
        """
        key, path = next(((key, path) for key, path in texts.items() if path is not None), (None, None))
        if key is not None and self.single:
            raise InputError(
                f"{key}={path}: goes onto the model card, and out={self.out} is one file without a card; name a folder"
            )

    def form(self, repository: str | None) -> Form:
        """Return what a card says of the format."""
        name = repository if repository and not self.single else self.out.name
        inside = f"{self.out.name}.safetensors" if self.kind is ExportFormat.lora and self._in_folder else None
        return Form(name, self.kind, self.out.name if self.single else inside)

    def has_yaml(self, model: LazyModel) -> bool:
        """Whether a config in YAML goes beside the file."""
        return self.kind is ExportFormat.single_file and ldm_config(model.skeleton) is not None

    def write(self, path: Path, model: LazyModel | None, lora: Lora | None, texts: Mapping[str, str]) -> None:
        """Write everything but card and summary to `path`, which becomes `out`; a YAML goes straight beside `out`."""
        if self.kind is ExportFormat.lora and self.layout is LoraLayout.kohya:
            texts = {**texts, "ss_output_name": self.out.stem if self.single else self.out.name}
        options: Any = {"model": model, "lora": lora, "layout": self.layout, "dtype": self.dtype, "metadata": texts}
        if self.kind is ExportFormat.lora and self._in_folder:
            path.mkdir()
            write_model_files(path / f"{self.out.name}.safetensors", self.kind, **options)
            if lora is not None and lora.spectrogram is not None:
                write_spectrogram(path, lora.spectrogram)
            return
        config = ldm_config(model.skeleton) if model is not None and self.kind is ExportFormat.single_file else None
        beside = self.out.with_suffix(".yaml")
        if config is not None and beside.exists():
            raise InputError(
                f"{beside}: exists already, and A1111 and Forge would read it with {self.out.name}; remove it"
            )
        write_model_files(path, self.kind, **options)
        if config is not None:
            write_atomically(beside, config)

    @property
    def _in_folder(self) -> bool:
        return self.layout is LoraLayout.kohya and not self.single


def check_target(out: Path, kind: ExportFormat, layout: LoraLayout) -> None:
    """Refuse a target that exists or has the wrong kind of name.

    Raises:
        InputError: If `out` exists, is named like a file for a format that is a folder, or the other way round.
    """
    if out.exists():
        raise InputError(f"out={out}: exists already; choose another name or remove it")
    if kind is ExportFormat.lora and layout is LoraLayout.kohya:
        return  # one file, or a folder around it
    writes_file = kind is ExportFormat.single_file
    if writes_file != (out.suffix == ".safetensors"):
        fix = "end its name in .safetensors" if writes_file else "give the name of a folder"
        shown = f"{kind.name} layout={layout.name}" if kind is ExportFormat.lora else kind.name
        raise InputError(f"out={out}: format={shown} writes a {'file' if writes_file else 'folder'}; {fix}")
