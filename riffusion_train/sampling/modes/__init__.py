"""One module a mode: each makes a clip of a request."""

from collections.abc import Callable
from typing import Any

from riffusion_train.sampling.modes import audio, extend, inpaint, long, loop, morph, walk

MODES: dict[str, Callable[..., Any]] = {
    "audio": audio.make,
    "inpaint": inpaint.make,
    "extend": extend.make,
    "long": long.make,
    "loop": loop.make,
    "walk": walk.make,
    "morph": morph.make,
}
"""What makes a request of each mode but text, whose requests are taken in batches."""
