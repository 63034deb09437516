"""The modes: a request each, and the function that makes it."""

from collections.abc import Callable
from typing import Any

from riffusion_train.sampling.modes import base, edit, long, walk
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, StreamData
from riffusion_train.sampling.pipeline import Pipeline

MODES: dict[type[Request], Callable[[Pipeline, Any, ModeOptions], ClipData | StreamData]] = {
    edit.AudioRequest: edit.make_audio,
    edit.InpaintRequest: edit.make_inpaint,
    edit.ExtendRequest: edit.make_extend,
    long.LongRequest: long.make_long,
    long.LoopRequest: long.make_loop,
    walk.WalkRequest: walk.make_walk,
    walk.MorphRequest: walk.make_morph,
}
"""What makes the requests of each mode except text, whose requests are made in batches."""

_ALL: tuple[type[Request], ...] = (base.TextRequest, *MODES)

REQUESTS = {kind.mode: kind for kind in _ALL}
"""The requests by the name of their mode."""
