"""The modes: each module holds a request and the function that makes it."""

from collections.abc import Callable
from typing import Any

from riffusion_train.sampling.modes import audio, extend, inpaint, long, loop, morph, text, walk
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, StreamData
from riffusion_train.sampling.pipeline import Pipeline

MODES: dict[type[Request], Callable[[Pipeline, Any, ModeOptions], ClipData | StreamData]] = {
    audio.AudioRequest: audio.make,
    inpaint.InpaintRequest: inpaint.make,
    extend.ExtendRequest: extend.make,
    long.LongRequest: long.make,
    loop.LoopRequest: loop.make,
    walk.WalkRequest: walk.make,
    morph.MorphRequest: morph.make,
}
"""What makes the requests of each mode except text, whose requests are made in batches."""

_ALL: tuple[type[Request], ...] = (text.TextRequest, *MODES)

REQUESTS = {kind.mode: kind for kind in _ALL}
"""The requests by the name of their mode."""
