"""Run `riffusion sample`: load the model, make clip by clip, save them, and say what failed."""

import argparse
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.cli.loaded import load_sampler
from riffusion_train.cli.sample.picking import pick_and_extend
from riffusion_train.cli.sample.wanted import Asked, asked_for
from riffusion_train.config.sample import ModeName, SampleConfig, sampler_options
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.sampling.clip import Clip, ClipRecord, StreamedClip, load_record
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.base import Request
from riffusion_train.sampling.modes.extend import ExtendRequest
from riffusion_train.sampling.modes.text import TextRequest
from riffusion_train.sampling.pipeline import best_device
from riffusion_train.sampling.sampler import Sampler

_STEM_LENGTH = 40


def run(flags: argparse.Namespace, model: str | None, config: SampleConfig, given: Mapping[str, Any]) -> None:
    """Make what the words ask for.

    Raises:
        InputError: If nothing, or not all of it, can be made.
    """
    asked: list[Asked]
    settings = None
    loras = list(flags.lora)
    if flags.again:
        settings = load_record(Path(flags.again).expanduser())
        settings.check(flags.again, given)
        request = settings.request
        asked = [lambda: request]
        config = _as_before(config, settings)
        model, loras = model or settings.sampler.model, loras or list(settings.sampler.loras)
    else:
        if model is None:
            raise InputError("no model: riffusion sample MODEL --prompt TEXT out=DIR")
        asked = asked_for(flags, config)
    requests, failed = _resolved(asked)
    sampler = load_sampler(model, loras, config.num_threads, **sampler_options(config))
    if settings is not None:
        sampler.check(settings, flags.again)
    out = Path(config.out).expanduser()
    if config.pick and config.mode is ModeName.extend and settings is None:
        for request in requests:
            assert isinstance(request, ExtendRequest)
            pick_and_extend(sampler, request, out / _stem(0, request), config.pick, config.format.value)
        return
    made = 0
    with ProgressReport("sample", len(requests)) as progress:
        for place, result in _made(sampler, requests, config.batch_size, progress):
            if isinstance(result, InputError):
                failed.append(str(result))
            else:
                result.save(out / _stem(place, requests[place]), config.format.value)
                made += 1
            progress.update(place + 1)
    if failed and not made and len(failed) == 1:
        raise InputError(failed[0])
    print(f"sampled: {made} clips in {out}")
    if failed:
        raise InputError(f"{len(failed)} of {made + len(failed)} clips failed: {'; '.join(failed)}")


def _resolved(asked: Sequence[Asked]) -> tuple[list[Request], list[str]]:
    """Return the requests, and why the others cannot be made."""
    requests, failed = [], []
    for make in asked:
        try:
            requests.append(make())
        except InputError as error:
            failed.append(str(error))
    if not requests:
        raise InputError(failed[0] if len(failed) == 1 else f"nothing can be made: {'; '.join(failed)}")
    return requests, failed


def _made(
    sampler: Sampler, requests: Sequence[Request], batch_size: int, progress: ProgressReport
) -> Iterator[tuple[int, Clip | StreamedClip | InputError]]:
    """Yield each request's place with its clip, or with what is wrong with it."""
    if all(isinstance(request, TextRequest) for request in requests):
        yield from enumerate(sampler.make_all(requests, batch_size=batch_size, report=_step_report(progress)))
        return
    for place, request in enumerate(requests):
        try:
            yield place, sampler.make(request, _step_report(progress))
        except InputError as error:
            yield place, error


def _step_report(progress: ProgressReport) -> StepReport:
    """Return what shows the steps of a clip beside the clips that are done."""
    return lambda step, steps: progress.update(progress.done, f"step {step} of {steps}") if step < steps else None


def _as_before(config: SampleConfig, settings: ClipRecord) -> SampleConfig:
    """Return the config with everything that decides the sound taken from a clip that was made before."""
    before = settings.sampler
    return dataclasses.replace(
        config,
        mode=ModeName(settings.request.mode),
        num_inference_steps=before.num_inference_steps,
        scheduler=before.scheduler,
        quality=before.quality,
        dtype=before.dtype,
        target_lufs=before.target_lufs,
        unet_batch_size=before.unet_batch_size,
        channels_last=before.channels_last,
        compile=before.compile,
        attention_slicing=before.attention_slicing,
        device=config.device or (before.device if before.device in ("cpu", best_device()) else None),
    )


def _stem(index: int, request: Request) -> str:
    """Return a file name that says what is inside: number, start of the prompt, seed."""
    words = re.sub(r"[^\w]+", "-", request.prompt.lower()).strip("-")[:_STEM_LENGTH].strip("-")
    return f"{index:04d}-{words or 'empty'}-seed{request.seed}"
