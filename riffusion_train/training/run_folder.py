"""The run folder: what a training run keeps on disk, its checkpoints above all."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from riffusion_train.config.compose import config_keys, load_saved, write_config
from riffusion_train.config.spectrogram import SpectrogramConfig, write_spectrogram
from riffusion_train.config.train import CacheDtype, TrainConfig
from riffusion_train.dataset.store import split_sources
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import json_text, refuse_url, remove_partials, write_json, written_beside
from riffusion_train.runtime.hub import MODELS

RUN_FILE = "config.yaml"
"""A folder with this file is a run."""
CHECKPOINT_DIR = "checkpoints"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_SCHEMA = 1
STATE_FILE = "state.json"
_TENSOR_FILES = ("trained", "ema", "optimizer")
_ADVERSARY = "adversary"
"""The tensor file that only the checkpoints of a run with an adversary have."""
_DAMAGED_PREFIX = "damaged-"
BEST_FILE = "best.json"
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)
"""What reading a damaged file raises."""


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / RUN_FILE
        self.overrides_file = path / "overrides.jsonl"
        self.manifest_file = path / "manifest.json"
        self.metrics_file = path / METRICS_FILE
        self.previews = path / "previews"
        self.scores = path / "scores"
        self.checkpoints = path / CHECKPOINT_DIR
        self.final = path / "final"

    def start(
        self, config: TrainConfig, arguments: Sequence[str], manifest: dict[str, Any], spectrogram: SpectrogramConfig
    ) -> None:
        """Write what each start leaves: the codec once, what the manifest says of the first start, and the newest config.

        Of a finished run that goes on, the model steps aside, since the run is unfinished again.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.final.is_dir():
            step = Checkpoints(self.checkpoints, config.checkpoints_total_limit).steps()[-1].name.removeprefix("step-")
            kept = self.final.with_name(f"final-{step}")
            if kept.exists():  # of the same step, from a run that ended early twice
                shutil.rmtree(kept)
            self.final.rename(kept)
            print(
                f"note: {self.path} goes on to step {config.max_train_steps}; the model that it ended with is kept in {kept}"
            )
        is_first = not self.config_file.exists()
        if is_first:
            write_spectrogram(self.path, spectrogram)
        else:
            manifest = self._moved(manifest)
        if is_first or manifest != self.read_manifest():
            write_json(self.manifest_file, manifest, ascii_only=True)
        config = _with_whole_paths(config)
        if is_first or config != self.read_config():
            write_config(self.config_file, config)  # last, since it says that the folder is a run
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        append_line(self.overrides_file, {"time": now, "overrides": list(arguments)})

    def newest_step(self) -> int:
        """Return the step of the newest checkpoint, 0 where there is none."""
        steps = Checkpoints(self.checkpoints, 1).steps()
        return step_of(steps[-1]) if steps else 0

    def is_finished(self, config: TrainConfig) -> bool:
        """Whether the run has reached its end, and `config` does not ask for a later one."""
        return self.final.is_dir() and config.max_train_steps <= self.read_config().max_train_steps

    def _moved(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest of the first start, with the places where dataset and base model are now."""
        first = self.read_manifest()
        first["dataset"]["path"] = manifest["dataset"]["path"]
        first["base_model"]["source"] = manifest["base_model"]["source"]
        return first

    def read_config(self) -> TrainConfig:
        """Return the config that the run was started with.

        Raises:
            InputError: If this is no run folder.
        """
        if not self.config_file.is_file():
            raise InputError(f"{self.path}: not a run folder (no config.yaml); give the folder that train wrote")
        return load_saved(self.config_file, TrainConfig)

    def read_manifest(self) -> dict[str, Any]:
        """Return what the run was started from: dataset, base model, versions.

        Raises:
            InputError: If there is no manifest, or it is damaged.
        """
        if not self.manifest_file.exists():
            raise InputError(f"run={self.path}: has no manifest.json; the run never started")
        try:
            manifest: dict[str, Any] = json.loads(self.manifest_file.read_text(encoding="utf-8"))
            fingerprints = [manifest["dataset"]["fingerprint"], *manifest["base_model"]["fingerprints"].values()]
            if not all(isinstance(one, str) for one in (*fingerprints, manifest["base_model"]["source"])):
                raise TypeError("its fingerprints are not texts")
        except _READ_ERRORS as error:
            raise InputError(
                f"{self.manifest_file}: is damaged ({_one_line(error)}); copy it from another run of the same model and "
                "dataset, or start a new run folder"
            ) from None
        return manifest


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Report a file of a run that is a folder, or the other way round, in one line; other errors pass.

    Raises:
        InputError: Naming the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENOENT):
            raise
        where = error.filename if isinstance(error.filename, str) else path
        raise InputError(
            f"{where}: cannot be used ({os.strerror(error.errno).lower()}); move it away and run the same command again"
        ) from error


def whole_path(source: str) -> str:
    """Return the absolute path of a file or folder, which holds wherever a later command is started; names and hub ids stay."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() and source not in MODELS else source


def _with_whole_paths(config: TrainConfig) -> TrainConfig:
    path, base = (place and whole_path(place) for place in (config.model.path, config.model.base))
    model = dataclasses.replace(config.model, path=path, base=base)
    sources = [whole_path(source) for source in split_sources(config.dataset)]
    dataset = sources[0] if len(sources) == 1 else f"[{','.join(sources)}]"
    return dataclasses.replace(config, dataset=dataset, model=model)


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append a JSON object to a file of lines.

    Raises:
        InputError: If there is a folder in its place.
    """
    with reporting(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(values)) + "\n")


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON objects of a file of lines, such as `metrics.jsonl`, and how many of its lines cannot be read.

    A last line without an end is one that was being written when the process was killed: it is left out, and not counted.
    """
    rows: list[dict[str, Any]] = []
    with reporting(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    for line in whole:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows, len(whole) - len(rows)


def new_run_path(config: TrainConfig) -> Path:
    """Return the folder of a run: what the config says, or a new name from the date.

    Raises:
        InputError: If the config gives a URL.
    """
    if config.run is not None:
        refuse_url("run=", config.run, "give a folder, and the store with mirror=")
        return Path(config.run).expanduser()
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.name}"


def as_begun(config: TrainConfig) -> TrainConfig:
    """Return a config in which what was left open is as its run was begun with, where there is one.

    Caches store numbers as before: in fp16, or in fp32 if the key did not exist yet. What the UNet predicts was said by every
    run of earlier versions, and is the model's own where neither says it.

    Raises:
        InputError: If the config of the run that is there cannot be read.
    """
    run = RunFolder(new_run_path(config))
    if not run.config_file.is_file():
        return dataclasses.replace(config, cache_dtype=config.cache_dtype or CacheDtype.fp16)
    begun = run.read_config()
    objective, before = config.objective, begun.objective
    if objective.prediction_type is None:
        objective = dataclasses.replace(objective, prediction_type=before.prediction_type)
    if objective.rescale_betas_zero_snr is None:
        objective = dataclasses.replace(objective, rescale_betas_zero_snr=before.rescale_betas_zero_snr)
    cache_dtype = config.cache_dtype or begun.cache_dtype or CacheDtype.fp32
    return dataclasses.replace(config, cache_dtype=cache_dtype, objective=objective)


def config_values(config: Any) -> dict[str, Any]:
    """Return every leaf of a config by its dotted key."""
    values: dict[str, Any] = {}
    for key in config_keys(type(config)):
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        values[key] = value
    return values


@dataclasses.dataclass
class TrainingState:
    """What must be restored for a run to continue as if it had never stopped. Random numbers need no state."""

    step: int
    """Optimizer steps done."""
    trained: dict[str, Tensor]
    """The trained weights by name, fp32."""
    ema: dict[str, Tensor]
    """Their moving average; empty where none is kept."""
    optimizer: dict[str, Tensor]
    """The optimizer's tensors, as `<weight>.<moment>`."""
    scalars: dict[str, Any]
    """The optimizer's groups, the schedule, the scaler, the EMA's count: plain JSON data."""
    global_batch_size: int
    """Slices in one optimizer step; a resumed run must have the same."""
    adversary: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Weights and moments of the adversary; empty where there is none."""


class Checkpoints:
    """The `checkpoints/` folder of a run. Only one rank writes; every rank may read.

    `state.json` holds the XXH3 hash of every file of its checkpoint, its own included; those of version 0.1.0 hold none.
    """

    def __init__(self, folder: Path, total_limit: int) -> None:
        self.folder = folder
        self.total_limit = total_limit

    def steps(self) -> list[Path]:
        """Return the folders of whole checkpoints, oldest first."""
        return [path for path in self._entries() if path.is_dir()]

    def save(self, state: TrainingState) -> Path:
        """Write a checkpoint; those beyond the limit are removed only after it is complete.

        Raises:
            InputError: If there is a file in the place of the folder.
        """
        target = self.folder / step_name(state.step)
        with reporting(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_partials()
            with written_beside(target, sync=True, replace=True) as partial:
                partial.mkdir()
                files = (*_TENSOR_FILES, _ADVERSARY) if state.adversary else _TENSOR_FILES
                for name in files:
                    save_file(_separate(getattr(state, name)), partial / f"{name}.safetensors")
                data = {
                    "schema_version": CHECKPOINT_SCHEMA,
                    "step": state.step,
                    "global_batch_size": state.global_batch_size,
                    "scalars": state.scalars,
                    "hashes": {f"{name}.safetensors": _hash_file(partial / f"{name}.safetensors") for name in files},
                }
                write_json(partial / STATE_FILE, {**data, "hash": _hash_data(data)}, ascii_only=True)
            self._rotate()
        return target

    def best(self) -> Path | None:
        """Return the checkpoint that `keep_best` chose; None where there is none.

        Raises:
            InputError: If the file that names it is damaged.
        """
        file = self.folder / BEST_FILE
        if not file.exists():
            return None
        try:
            folder = self.folder / step_name(json.loads(file.read_text(encoding="utf-8"))["step"])
        except _READ_ERRORS as error:
            raise InputError(
                f"{file}: is damaged ({_one_line(error)}); delete it, or write into it the step of the best checkpoint as "
                '{"step": 500}'
            ) from None
        return folder if folder.is_dir() else None

    def keep_best(self, step: int) -> None:
        """Keep the checkpoint of a step beyond the limit, instead of the one that was kept before."""
        write_json(self.folder / BEST_FILE, {"step": step}, indent=None, sync=True)
        self._rotate()

    def set_aside(self, damaged: Iterable[Path]) -> None:
        """Rename damaged checkpoints, so that the steps they were for can be saved again."""
        for path in damaged:
            target = path.with_name(_DAMAGED_PREFIX + path.name)
            _delete(target)
            path.rename(target)

    def load_newest(
        self, use: Callable[[TrainingState], None] = lambda state: None
    ) -> tuple[TrainingState | None, dict[Path, str]]:
        """Read the newest checkpoint that proves whole.

        Args:
            use: Called with its state; where it raises `ValueError`, the state is taken for damaged.

        Returns:
            The state, or None where there is no checkpoint; and the damaged checkpoints that were skipped, with what is wrong.

        Raises:
            InputError: If a checkpoint is of a newer schema, or if there are checkpoints and none can be read.
        """
        damaged: dict[Path, str] = {}
        for path in reversed(self._entries()):
            try:
                state = self._load(path)
                use(state)
                return state, damaged
            except _READ_ERRORS as error:
                damaged[path] = _one_line(error)
        if damaged:
            reason = next(iter(damaged.values()))
            raise InputError(
                f"{self.folder}: none of its {len(damaged)} checkpoints can be read (the newest: {reason}); start a new run "
                "folder"
            )
        return None, damaged

    def _load(self, folder: Path) -> TrainingState:
        if not folder.is_dir():
            raise ValueError("it is not a folder")
        data = _verified(folder)
        for key in ("step", "global_batch_size"):
            if type(data[key]) is not int:
                raise ValueError(f"the {key} in {STATE_FILE} is {data[key]!r}")
        if data["step"] != step_of(folder):
            raise ValueError(f"{STATE_FILE} is of step {data['step']}")
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in _TENSOR_FILES}
        adversary = folder / f"{_ADVERSARY}.safetensors"
        return TrainingState(
            step=data["step"],
            trained=tensors["trained"],
            ema=tensors["ema"],
            optimizer=tensors["optimizer"],
            scalars=data["scalars"],
            global_batch_size=data["global_batch_size"],
            adversary=load_file(adversary) if adversary.is_file() else {},
        )

    def _entries(self) -> list[Path]:
        """Return whatever has the name of a checkpoint, oldest first."""
        found = [path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
        return sorted(found, key=step_of)

    def _rotate(self) -> None:
        """Remove the checkpoints beyond the limit. Each is renamed first, so that none is ever half removed under its name."""
        best = self.best()
        for old in self.steps()[: -self.total_limit]:
            if old != best:
                _delete(old.rename(self.folder / f".{old.name}.old.partial"))

    def _remove_partials(self) -> None:
        """Remove what killed runs left half written, those of version 0.1.0 too."""
        remove_partials(self.folder)
        for path in self.folder.glob(".partial-*"):
            _delete(path)


def require_whole(folder: Path) -> None:
    """Refuse a checkpoint whose files are not those that were written.

    Raises:
        InputError: Naming the checkpoint and what is wrong.
    """
    try:
        _verified(folder)
    except _READ_ERRORS as error:
        raise InputError(f"{folder}: is damaged ({_one_line(error)}); take another checkpoint=") from None


def _verified(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's `state.json` after comparing every file with its hash.

    Raises:
        InputError: If the checkpoint is of a newer schema.
    """
    data: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    if data["schema_version"] > CHECKPOINT_SCHEMA:
        raise InputError(
            f"{folder}: written by a newer riffusion-train (checkpoint schema {data['schema_version']}, this one knows "
            f"{CHECKPOINT_SCHEMA}); pip install --upgrade riffusion-train"
        )
    if "hashes" not in data and "hash" not in data:  # of version 0.1.0
        return data
    if _hash_data({key: value for key, value in data.items() if key != "hash"}) != data["hash"]:
        raise ValueError(f"{STATE_FILE} is not what was written")
    for name, digest in data["hashes"].items():
        if _hash_file(folder / name) != digest:
            raise ValueError(f"{name} is not what was written")
    return data


def _hash_file(path: Path) -> str:
    """Return the XXH3 hash of a file: 128 bits, in hexadecimal."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_data(data: Mapping[str, Any]) -> str:
    """Return the XXH3 hash of plain data, the same before it is written as JSON and after it is read."""
    plain = json.loads(json_text(data, indent=None))  # keys are texts from here on, as they are after reading
    return xxhash.xxh3_128_hexdigest(json_text(plain, indent=None, ascii_only=True, sort_keys=True).encode())


def _one_line(error: BaseException) -> str:
    """Return the type and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def step_name(step: int) -> str:
    """Return the name of the folder of a step's checkpoint or previews, `step-000500`."""
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint's or preview's folder, `step-000500`."""
    return int(folder.name.removeprefix("step-"))


def _delete(path: Path) -> None:
    """Delete a folder, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, none sharing memory with another: bitsandbytes has one table for all weights."""
    seen: set[int] = set()
    separate = {}
    for key, tensor in tensors.items():
        plain = tensor.detach().contiguous().cpu()
        separate[key] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return separate
