"""`riffusion train … check=true`: build a whole run, do two steps and one save and load, and report what the run would need."""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.spectrogram import Channels
from riffusion_train.config.train import Resume, TrackerConfig, TrackerName, TrainConfig
from riffusion_train.dataset.cache import CACHE_DIR, KEY_BYTES
from riffusion_train.runtime.provenance import machine
from riffusion_train.training.caches import CacheWork, cache_options, planned_caches
from riffusion_train.training.checks import check_resumable, check_tracker
from riffusion_train.training.method import make_method
from riffusion_train.training.mirror import check_mirror
from riffusion_train.training.run import TrainingJob, build_job, start_run
from riffusion_train.training.run_folder import (
    Checkpoints,
    RunFolder,
    TrainingState,
    as_begun,
    new_run_path,
)
from riffusion_train.training.tracking import peak_memory_bytes

_STEPS = 2
_ENCODED = 4
"""Slices and captions that are encoded."""
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
    config = as_begun(config)
    run = RunFolder(new_run_path(config))
    check_resumable(run, config)
    check_mirror(config, run)
    with tempfile.TemporaryDirectory(prefix=".check-", dir=_existing_folder(run.path)) as scratch:
        trial = dataclasses.replace(
            config,
            run=str(Path(scratch) / "run"),
            resume=Resume.never,
            mirror=None,
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
        f"checkpoint  {checkpoints.size / _GIB:.3g} GiB, saved in {checkpoints.save_s:.1f} s, loaded in {load_s:.1f} s",
        *_disk_lines(_needs(config, job, checkpoints.size, trained, missing)),
        *_mirror_line(config, job, checkpoints.size, trained, saves),
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
        num_items=config.max_train_steps * job.learning.global_batch_size,
        **cache_options(config),
    )
    return [work for work in works if work.cache.rows]


def _encode_s(work: CacheWork, world_size: int) -> float:
    """Return the seconds that all ranks together would need to fill a cache, from a few rows."""
    rows = work.cache.rows[:_ENCODED]
    work.encode(rows[:1])
    start = time.perf_counter()
    work.encode(rows).cpu()
    return (time.perf_counter() - start) / len(rows) * work.scale * len(work.cache.rows) / world_size


@dataclasses.dataclass(frozen=True)
class _Need:
    """Bytes that a run writes somewhere on this machine, at most."""

    folder: Path
    what: str
    num_bytes: float


def _needs(
    config: TrainConfig, job: TrainingJob, checkpoint_bytes: int, trained: int, missing: Sequence[CacheWork]
) -> list[_Need]:
    """Return everything that a run writes, except for logs."""
    run, data = new_run_path(config).absolute(), job.dataset.folder
    needs = [
        _Need(run, "checkpoints, one of them being written", _num_kept(config) * checkpoint_bytes),
        _Need(run, "final model", _final_bytes(config, job, trained)),
        _Need(run, "previews", _preview_bytes(config, job)),
    ]
    for work in missing:
        needs.append(_Need(work.cache.path.parent, work.cache.kind.contents, work.scale * work.cache.num_bytes))
    if make_method(config).caches_latents:
        folder = cache_options(config)["directory"] or data.path / CACHE_DIR
        needs.append(_Need(folder, "keys", KEY_BYTES * len(job.dataset)))
    for part in data.parts or (data,):
        if part.is_remote:
            held = min(part.cache_bytes, sum(shard["bytes"] for shard in part.stats["shards"]))
            needs.append(_Need(part.path, "row groups", held))
    return [need for need in needs if need.num_bytes]


def _num_kept(config: TrainConfig) -> int:
    """Return how many checkpoints there are at most at any time."""
    return config.checkpoints_total_limit + 1 + config.validation.keep_best


def _final_bytes(config: TrainConfig, job: TrainingJob, trained: int) -> int:
    if config.method.trains_adapters:
        return 4 * trained
    weights = (weight for module in job.components.modules.values() for weight in module.parameters())
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _preview_bytes(config: TrainConfig, job: TrainingJob) -> float:
    """Return the size of all previews as images and 16-bit sound, neither of them compressed."""
    settings, codec = config.preview, job.dataset.folder.spectrogram
    if not settings.every_steps:
        return 0
    prompts = len(settings.prompts) or 2 * settings.num_prompts  # as many trained as held-out captions
    clips = prompts * len(settings.guidance_scales) * max(1, len(settings.step_counts))
    times = -(-config.max_train_steps // settings.every_steps) + settings.base_row
    planes = 1 if codec.channels is Channels.mono else 3
    return times * clips * (2 * planes * codec.clip_s * codec.decode_rate_hz + planes * codec.n_mels * codec.width_px)


def _disk_lines(needs: Sequence[_Need]) -> list[str]:
    """Return what is written to each folder, and whether each disk has space for its folders."""
    folders: dict[Path, list[_Need]] = {}
    disks: dict[int, list[_Need]] = {}
    for need in needs:
        folders.setdefault(need.folder, []).append(need)
        disks.setdefault(_existing_folder(need.folder / "file").stat().st_dev, []).append(need)
    lines = [
        f"disk        {folder}: {', '.join(f'{one.num_bytes / _GIB:.2g} GiB of {one.what}' for one in own)}"
        for folder, own in folders.items()
    ]
    for own in disks.values():
        needed, free = (
            sum(one.num_bytes for one in own),
            shutil.disk_usage(_existing_folder(own[0].folder / "file")).free,
        )
        lines.append(
            f"free        {free / _GIB:.3g} GiB on the disk of {own[0].folder}, where {needed / _GIB:.2g} GiB are needed"
            + ("" if needed < free else ": TOO LITTLE, free some")
        )
    return lines


def _mirror_line(config: TrainConfig, job: TrainingJob, checkpoint_bytes: int, trained: int, saves: int) -> list[str]:
    if config.mirror is None:
        return []
    once = _final_bytes(config, job, trained) + _preview_bytes(config, job)
    held, sent = (count * checkpoint_bytes + once for count in (_num_kept(config), saves))
    return [f"mirror      {config.mirror}: {held / _GIB:.2g} GiB there at most, {sent / _GIB:.2g} GiB uploaded in all"]


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


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _existing_folder(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())
