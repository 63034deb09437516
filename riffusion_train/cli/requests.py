"""From the arguments of `riffusion sample` to requests, in order."""

import argparse
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from riffusion_train.cli.arguments import NO_PROMPT, read_prompts
from riffusion_train.config.sample import ModeName, SampleConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.audio import AudioRequest
from riffusion_train.sampling.modes.base import Request, SourceFile
from riffusion_train.sampling.modes.extend import ExtendRequest
from riffusion_train.sampling.modes.inpaint import InpaintRequest
from riffusion_train.sampling.modes.long import LongRequest
from riffusion_train.sampling.modes.loop import LoopRequest
from riffusion_train.sampling.modes.morph import MorphRequest
from riffusion_train.sampling.modes.text import TextRequest
from riffusion_train.sampling.modes.walk import WalkRequest

RequestMaker = Callable[[], Request]
"""Makes a request. A source file that cannot be read shows when it is called, so that the rest of a batch goes on."""

_UNITS_S = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def make_requests(flags: argparse.Namespace, config: SampleConfig) -> list[RequestMaker]:
    """Return the makers of all requests: every prompt with every source, seed and guidance.

    Raises:
        InputError: If the arguments contradict each other or say too little.
    """
    prompts = _prompts(flags, config)
    if config.num_variations < 1:
        raise InputError(f"num_variations={config.num_variations}: must be at least 1")
    scales = [1.0] if config.unconditional else config.guidance_scales or [config.guidance_scale]
    variations = config.num_variations
    makers: list[RequestMaker] = []
    for index, prompt in enumerate(prompts):
        for variation, scale in itertools.product(range(variations), scales):
            seed = config.seed + variation + (index * variations if config.vary_seed else 0)
            basis = {"prompt": prompt, "negative_prompt": flags.negative, "seed": seed, "guidance_scale": scale}
            makers += _requests(flags, config, basis)
    return makers


def _prompts(flags: argparse.Namespace, config: SampleConfig) -> list[str]:
    prompts = read_prompts(flags.prompt, flags.prompts)
    if config.mode is ModeName.walk and prompts:
        return [" → ".join(prompts)]
    if prompts and config.unconditional:
        raise InputError("unconditional=true makes clips without a prompt; leave out --prompt or the key")
    if not prompts and (config.unconditional or config.mode is ModeName.morph):
        return [""]
    if not prompts and config.mode is ModeName.long and flags.schedule:
        return [_points(flags.schedule, "--schedule")[0][1]]
    if not prompts:
        raise InputError(NO_PROMPT)
    return prompts


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
        keep_s=tuple(_span(text, "--keep") for text in flags.keep),
        renew_s=tuple(_span(text, "--renew") for text in flags.renew),
        band_hz=_span(flags.band, "--band") if flags.band else None,
        mask=SourceFile.of(flags.mask) if flags.mask else None,
        **basis,
    )
    return _with_strength(request, config)


def _extend(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    request = ExtendRequest(backwards=config.backwards, **basis)
    return _with_duration(request, config)


def _long(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    volume = []
    for time_s, level in _points(flags.volume, "--volume"):
        try:
            volume.append((time_s, float(level)))
        except ValueError:
            raise InputError(f"--volume: '{level}' is not a number from 0 to 1") from None
    schedule = _points(flags.schedule, "--schedule")
    return _with_duration(LongRequest(schedule=schedule, volume=tuple(volume), **basis), config)


def _loop(config: SampleConfig, basis: dict[str, Any]) -> Request:
    request = LoopRequest(bpm=config.bpm, bars=config.bars, beats_per_bar=config.beats_per_bar, **basis)
    return _with_duration(request, config)


def _walk(flags: argparse.Namespace, config: SampleConfig, basis: dict[str, Any]) -> Request:
    from riffusion_train.sampling.seed_images import SEED_IMAGES

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
    duration_s = _seconds(config.duration, f"duration={config.duration}")
    return dataclasses.replace(request, duration_s=duration_s)  # type: ignore[call-arg]


def _seconds(text: str, where: str) -> float:
    """Return a duration or a time in seconds: `90`, `90s`, `1:30`, `3min`, `1h`."""
    if match := re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text.strip()):
        return 3600.0 * int(match[1] or 0) + 60.0 * int(match[2]) + float(match[3])
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|sec|min|m|h|)", text.strip())
    if not match:
        raise InputError(f"{where}: '{text.strip()}' is no time; write 90, 90s, 1:30 or 3min")
    return float(match[1]) * _UNITS_S[match[2]]


def _span(text: str, where: str) -> tuple[float, float]:
    """Return a range of seconds or Hertz, `0-2.5`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*[-–]\s*(\d+(?:\.\d*)?|\.\d+)\s*", text)
    if not match:
        raise InputError(f"{where} {text}: is no range; write START-END, such as 0-2.5")
    return float(match[1]), float(match[2])


def _points(text: str | None, where: str) -> tuple[tuple[float, str], ...]:
    """Return (second, text) of each part of `0s: slow piano | 30s: drums`."""
    points = []
    for part in (text or "").split("|"):
        if part.strip():
            match = re.fullmatch(r"\s*([\d.:]*\d[\d.]*\s*[a-z]*)\s*:\s(.*)", part)
            if not match:
                raise InputError(f"{where}: '{part.strip()}' has no time; write '0s: slow piano | 30s: drums'")
            points.append((_seconds(match[1], where), match[2].strip()))
    return tuple(points)
