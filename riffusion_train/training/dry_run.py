"""`check=true`: build a whole run, do two steps and one save and load, and report what the run would need."""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.train import Resume, TrackerConfig, TrackerName, TrainConfig
from riffusion_train.runtime.provenance import machine
from riffusion_train.training.caches import CacheWork, planned_caches
from riffusion_train.training.checks import check_resumable, check_tracker
from riffusion_train.training.method import make_method
from riffusion_train.training.run import TrainingJob, build_job, start_run
from riffusion_train.training.run_folder import Checkpoints, RunFolder, TrainingState, new_run_path
from riffusion_train.training.throughput import peak_memory_bytes

_STEPS = 2
_ENCODED = 4
_GIB = 2**30


def check_training(config: TrainConfig, arguments: Sequence[str]) -> list[str]:
    """Try out a run in a temporary folder beside its own, which is removed whatever happens.

    Args:
        config: The whole config of the run.
        arguments: The command line's overrides.

    Returns:
        The report, as lines to print; empty on all ranks but the first.

    Raises:
        InputError: For whatever the run itself would refuse before and during its first steps.
    """
    check_tracker(config.tracker)
    run = RunFolder(new_run_path(config))
    check_resumable(run, config)
    with tempfile.TemporaryDirectory(prefix=".check-", dir=_existing_folder(run.path)) as scratch:
        trial = dataclasses.replace(
            config,
            run=str(Path(scratch) / "run"),
            resume=Resume.never,
            logging_steps=1,
            preview=dataclasses.replace(config.preview, every_steps=0),
            tracker=TrackerConfig(name=TrackerName.files),
        )
        distribution, trial_run, folder = start_run(trial)
        # A trial does not encode the whole dataset; a few rows of it are timed below.
        trial.cache_latents = trial.cache_text_embeddings = False
        job = build_job(trial, arguments, distribution, trial_run, folder)
        lines = _try_out(config, job)
    return lines if distribution.is_main else []


def _try_out(config: TrainConfig, job: TrainingJob) -> list[str]:
    missing = _missing_caches(config, job)
    checkpoints = _TimedCheckpoints(job.run.checkpoints, config.checkpoints_total_limit)
    steps = min(_STEPS, config.max_train_steps)  # the run has no slices for more
    trainer = dataclasses.replace(
        job,
        outputs=dataclasses.replace(job.outputs, checkpoints=checkpoints),
        intervals=dataclasses.replace(job.intervals, max_train_steps=steps, checkpointing_steps=steps),
    ).trainer()
    trainer.train()
    start = time.perf_counter()
    trainer.restore()
    load_s = time.perf_counter() - start
    figures = trainer.metrics.last
    step_s = float(figures["step_s"] or 0.0)
    encode_s = {work.title.removeprefix("encode "): _encode_s(work, job.distribution.world_size) for work in missing}
    saves = -(-config.max_train_steps // config.checkpointing_steps)
    whole_s = sum(encode_s.values()) + config.max_train_steps * step_s + saves * checkpoints.save_s
    epochs = config.max_train_steps * job.learning.global_batch_size / len(job.dataset)
    trained = sum(weight.numel() for weight in trainer.parameters)
    return [
        f"model       {job.components.source}: {trained / 1e6:.4g} million trained weights",
        f"dataset     {len(job.dataset)} slices, seen {epochs:.3g} times in {config.max_train_steps} steps of "
        f"{job.learning.global_batch_size}",
        f"two steps   loss {figures['loss']:.4f}; {_rates(figures)}",
        f"memory      {_memory(job.distribution.device)}",
        f"checkpoint  {checkpoints.size / _GIB:.3g} GiB, saved in {checkpoints.save_s:.1f} s, loaded in {load_s:.1f} s; "
        f"{_disk(checkpoints, config)}",
        *_caches(missing),
        f"estimate    {_clock(whole_s)} to finish: "
        + "".join(f"{what} {_clock(seconds)}, " for what, seconds in encode_s.items())
        + f"steps {_clock(config.max_train_steps * step_s)}, checkpoints {_clock(saves * checkpoints.save_s)}",
        "nothing is left on disk; the same command without check=true trains",
    ]


class _TimedCheckpoints(Checkpoints):
    """Checkpoints that measure how long the last took to write, and its size."""

    save_s = 0.0
    size = 0

    def save(self, state: TrainingState) -> Path:
        start = time.perf_counter()
        target = super().save(state)
        self.save_s = time.perf_counter() - start
        self.size = sum(file.stat().st_size for file in target.iterdir())
        return target


def _missing_caches(config: TrainConfig, job: TrainingJob) -> list[CacheWork]:
    """Return the caches that the run would have to fill, after refusing what it would refuse."""
    method = make_method(config)
    works = planned_caches(
        job.components,
        job.dataset,
        job.distribution.device,
        latents=method.caches_latents,
        texts=method.caption_draws() if method.caches_texts else None,
    )
    return [work for work in works if work.cache.rows]


def _encode_s(work: CacheWork, world_size: int) -> float:
    """Return the seconds that all ranks together would need to fill a cache, from a few rows."""
    rows = work.cache.rows[:_ENCODED]
    work.encode(rows[:1])
    start = time.perf_counter()
    work.encode(rows).cpu()
    return (time.perf_counter() - start) / len(rows) * len(work.cache.rows) / world_size


def _caches(missing: Sequence[CacheWork]) -> list[str]:
    if not missing:
        return []
    sizes = [f"{work.cache.num_bytes / _GIB:.2g} GiB of {work.cache.kind.contents}" for work in missing]
    folder = missing[0].cache.path.parent
    free = shutil.disk_usage(_existing_folder(folder)).free
    return [f"caches      {' and '.join(sizes)} in {folder}, where {free / _GIB:.3g} GiB are free"]


def _rates(figures: dict[str, Any]) -> str:
    mfu = "" if figures["mfu_percent"] is None else f", MFU {figures['mfu_percent']:.1f} %"
    return (
        f"{figures['step_s']:.3g} s a step, {figures['images_per_s']:.3g} images/s, "
        f"{figures['audio_s_per_s']:.3g} s of audio/s{mfu}"
    )


def _memory(device: torch.device) -> str:
    peak = peak_memory_bytes(device) / _GIB
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / _GIB
        return f"{peak:.1f} GiB at most of the {total:.1f} GiB of {torch.cuda.get_device_name(device)}"
    return f"{peak:.1f} GiB at most in one process, of {machine()['memory_gib']} GiB"


def _disk(checkpoints: _TimedCheckpoints, config: TrainConfig) -> str:
    needed = checkpoints.size * (config.checkpoints_total_limit + 1)
    free = shutil.disk_usage(checkpoints.folder).free
    need = f"{config.checkpoints_total_limit} kept and one being written need {needed / _GIB:.3g} GiB"
    return f"{need}, {free / _GIB:.3g} GiB are free" + ("" if needed < free else ": TOO LITTLE, free some")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _existing_folder(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())
