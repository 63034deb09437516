"""`riffusion prepare audio=DIR out=DIR`: slice captioned audio into a dataset of spectrogram images; `merge` joins parts."""

from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.command import help_text, parse
from riffusion_train.config.compose import compose, config_keys
from riffusion_train.config.prepare import MergeConfig, PrepareConfig
from riffusion_train.runtime.errors import InputError


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    if words and words[0] == "merge":
        _merge(words[1:])
        return
    config = parse("prepare", PrepareConfig, words)
    if config is None:
        return
    from data_prep.pipeline import run

    run(config, words)


def _merge(words: Sequence[str]) -> None:
    if any(word in ("-h", "--help") for word in words):
        print(help_text("prepare merge", MergeConfig, "[PART …] "))
        return
    keys = tuple(f"{key}=" for key in config_keys(MergeConfig))
    folders = [word for word in words if not word.startswith(keys) and (Path(word).is_dir() or "=" not in word)]
    if not any(word.startswith("out=") for word in words):
        raise InputError("name the dataset folder: riffusion prepare merge [PART …] out=DIR")
    config = compose("merge", MergeConfig, [word for word in words if word not in folders])
    from data_prep.engine.array_jobs import run_merge

    run_merge(config, folders)
