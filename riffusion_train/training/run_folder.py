"""The run folder: what a training run leaves on disk, and whether a new start may go on in it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.config.compose import config_keys, load_saved, write_config
from riffusion_train.config.spectrogram import SpectrogramConfig, write_spectrogram
from riffusion_train.config.train import Resume, TrainConfig
from riffusion_train.runtime.errors import InputError

_FREE_TO_CHANGE = (
    "check",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "dataloader_num_workers",
    "gradient_accumulation_steps",  # the global batch is compared instead, see Checkpoints
    "logging_steps",
    "name",
    "num_threads",
    "preview.",
    "resume",
    "run",
    "tracker.",
    "train_batch_size",
    "validation.",
)
"""Keys that do not change what is learned, so that a resumed run may have other values."""


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.overrides_file = path / "overrides.jsonl"
        self.manifest_file = path / "manifest.json"
        self.metrics_file = path / "metrics.jsonl"
        self.previews = path / "previews"
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"

    def start(
        self, config: TrainConfig, words: Sequence[str], manifest: dict[str, Any], spectrogram: SpectrogramConfig
    ) -> None:
        """Write what a start leaves: config, manifest and codec once, the command line every time. Rank 0 only."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config_file.exists():
            write_spectrogram(self.path, spectrogram)
            self.manifest_file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            write_config(self.config_file, config)  # last: what says that the folder is a run
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "overrides": list(words)}
        with self.overrides_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_config(self) -> TrainConfig:
        """Return the config that the run was started with.

        Raises:
            InputError: If this is no run folder.
        """
        if not self.config_file.is_file():
            raise InputError(f"{self.path}: not a run folder (no config.yaml); give the folder that train wrote")
        return load_saved(self.config_file, TrainConfig)


def new_run_path(config: TrainConfig) -> Path:
    """Return the folder of a run: what the config says, or a new name from the date."""
    if config.run is not None:
        return Path(config.run).expanduser()
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.name}"


def check_resumable(run: RunFolder, config: TrainConfig) -> None:
    """Refuse a run folder that holds something this start must not go on with.

    Raises:
        InputError: If the folder holds a run and `resume` is not `auto`, or if the two configs would train differently;
            the message names the keys.
    """
    if not run.path.exists() or not any(run.path.iterdir()):
        return
    if not run.config_file.is_file():
        raise InputError(f"run={run.path}: the folder holds files that are not a run; choose another")
    if config.resume is not Resume.auto:
        raise InputError(f"run={run.path}: a run is there; resume=auto goes on with it, or choose another folder")
    before, now = config_values(run.read_config()), config_values(config)
    changed = [key for key in now if before[key] != now[key] and not key.startswith(_FREE_TO_CHANGE)]
    if changed:
        differences = ", ".join(f"{key} was {before[key]}, now {now[key]}" for key in changed)
        raise InputError(f"run={run.path}: cannot go on with other settings: {differences}")


def check_same_start(run: RunFolder, manifest: dict[str, Any]) -> None:
    """Refuse to go on with a run that was started from another model or dataset than this start has.

    Args:
        run: The run folder, which may hold nothing yet.
        manifest: What this start would write.

    Raises:
        InputError: If a fingerprint differs from the run's own; the message names what.
    """
    if not run.manifest_file.is_file():
        return
    before = json.loads(run.manifest_file.read_text(encoding="utf-8"))
    known, found = before["base_model"]["fingerprints"], manifest["base_model"]["fingerprints"]
    changed = [part for part in known if known[part] != found.get(part)]
    if changed:
        raise InputError(
            f"run={run.path}: was started from another model than {manifest['base_model']['source']} ({', '.join(changed)} "
            "differ); give the one it was started from, or another run folder"
        )
    if before["dataset"]["fingerprint"] != manifest["dataset"]["fingerprint"]:
        raise InputError(
            f"run={run.path}: was started on another dataset than {manifest['dataset']['path']} holds now; give the one it "
            "was started on, or another run folder"
        )


def config_values(config: Any) -> dict[str, Any]:
    """Return every leaf of a config by its dotted key."""
    values: dict[str, Any] = {}
    for key in config_keys(type(config)):
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        values[key] = value
    return values
