"""From the arguments of `riffusion sample` to requests, in order."""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from riffusion_train.cli.arguments import parse_range, parse_schedule, parse_seconds, read_all_prompts, read_prompts
from riffusion_train.config.denoising import USUAL
from riffusion_train.config.sample import ModeName, SampleConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import Request, SourceFile, TextRequest
from riffusion_train.sampling.modes.edit import AudioRequest, ExtendRequest, InpaintRequest
from riffusion_train.sampling.modes.long import LongRequest, LoopRequest
from riffusion_train.sampling.modes.walk import MorphRequest, WalkRequest

RequestMaker = Callable[[], Request]
"""Makes a request. A source file that cannot be read shows when it is called, so that the rest of a batch goes on."""


def make_requests(flags: argparse.Namespace, config: SampleConfig) -> list[RequestMaker]:
    """Return the makers of all requests: every prompt with every source, seed and guidance, the usual one where none is given.

    Raises:
        InputError: If the arguments contradict each other or say too little.
    """
    prompts = read_all_prompts(flags, config)
    usual = USUAL["guidance_scale"] if config.guidance_scale is None else config.guidance_scale
    scales = [1.0] if config.unconditional else config.guidance_scales or [usual]
    variations = config.num_variations
    makers: list[RequestMaker] = []
    for index, prompt in enumerate(prompts):
        for variation, scale in itertools.product(range(variations), scales):
            seed = config.seed + variation + (index * variations if config.vary_seed else 0)
            basis = {"prompt": prompt, "negative_prompt": flags.negative, "seed": seed, "guidance_scale": scale}
            makers += _requests(flags, config, basis)
    return makers


def _requests(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Iterator[RequestMaker]:
    mode = config.mode
    if mode is ModeName.text:
        yield lambda: TextRequest(**basis)
    elif mode is ModeName.long:
        yield lambda: _long(flags, config, basis)
    elif mode is ModeName.loop:
        yield lambda: _loop(config, basis)
    elif mode is ModeName.walk:
        yield lambda: _walk(flags, config, basis)
    elif mode is ModeName.morph:
        for step in range(config.steps):
            yield functools.partial(_morph, flags, step / max(config.steps - 1, 1), basis)
    else:
        make = {ModeName.audio: _audio, ModeName.inpaint: _inpaint, ModeName.extend: _extend}[mode]
        for path in flags.audio:
            yield functools.partial(_of_source, make, path, flags, config, basis)


def _of_source(
    make: Callable[..., Request], path: str, flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]
) -> Request:
    return make(flags, config, {**basis, "source": SourceFile.of(path)})


def _morph(flags: argparse.Namespace, share: float, basis: dict[str, Any]) -> Request:
    source, target = (SourceFile.of(path) for path in flags.audio)
    return MorphRequest(source=source, target=target, share=share, **basis)


def _audio(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    request = AudioRequest(prompt_end=flags.prompt_end, **basis)
    return _with_strength(request, config)


def _inpaint(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    if not (flags.keep or flags.renew or flags.band or flags.mask):
        raise InputError("mode=inpaint needs --keep, --renew, --band or --mask, which say what to make anew")
    request = InpaintRequest(
        keep_s=tuple(parse_range(text, "--keep") for text in flags.keep),
        renew_s=tuple(parse_range(text, "--renew") for text in flags.renew),
        band_hz=parse_range(flags.band, "--band") if flags.band else None,
        mask=SourceFile.of(flags.mask) if flags.mask else None,
        **basis,
    )
    return _with_strength(request, config)


def _extend(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    request = ExtendRequest(backwards=config.backwards, **basis)
    return _with_duration(request, config)


def _long(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    volume = []
    for time_s, level in parse_schedule(flags.volume, "--volume"):
        try:
            volume.append((time_s, float(level)))
        except ValueError:
            raise InputError(f"--volume: '{level}' is not a number from 0 to 1") from None
    schedule = parse_schedule(flags.schedule, "--schedule")
    return _with_duration(LongRequest(schedule=schedule, volume=tuple(volume), **basis), config)


def _loop(config: SampleConfig, basis: dict[str, Any]) -> Request:
    request = LoopRequest(bpm=config.bpm, bars=config.bars, beats_per_bar=config.beats_per_bar, **basis)
    return _with_duration(request, config)


def _walk(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    from riffusion_train.sampling.sources import SEED_IMAGES

    is_built_in = config.seed_image is None or config.seed_image in SEED_IMAGES
    request = WalkRequest(
        prompts=tuple(read_prompts(flags.prompt, flags.prompts)),
        clips=config.clips,
        seed_image=config.seed_image if is_built_in else None,
        seed_file=None if is_built_in or config.seed_image is None else SourceFile.of(config.seed_image),
        strength_end=config.strength_end,
        guidance_end=config.guidance_end,
        alpha_power=config.alpha_power,
        **basis,
    )
    return _with_strength(request, config)


def _with_strength(request: Request, config: SampleConfig) -> Request:
    return request if config.strength is None else dataclasses.replace(request, strength=config.strength)  # type: ignore[call-arg]


def _with_duration(request: Request, config: SampleConfig) -> Request:
    if config.duration is None:
        return request
    duration_s = parse_seconds(config.duration, f"duration={config.duration}")
    return dataclasses.replace(request, duration_s=duration_s)  # type: ignore[call-arg]
