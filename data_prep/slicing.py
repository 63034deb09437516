"""Where the windows of a track lie."""

from typing import NamedTuple


class Window(NamedTuple):
    """A stretch of a track, in samples."""

    start: int
    length: int
    """At most one clip; a shorter window is filled up with silence."""


def fixed_windows(num_samples: int, clip_samples: int, stride_samples: int, shortest_samples: int) -> list[Window]:
    """Return windows at every multiple of the stride.

    All are full but perhaps the last one: it is there if the full ones leave audio uncovered and the stretch from the next
    multiple of the stride to the end has at least `shortest_samples`. With `shortest_samples >= clip_samples` all windows
    are full.
    """
    windows = []
    start = 0
    while start + clip_samples <= num_samples:
        windows.append(Window(start, clip_samples))
        start += stride_samples
    covered = windows[-1].start + clip_samples if windows else 0
    rest = num_samples - start
    if covered < num_samples and rest >= max(1, shortest_samples):
        windows.append(Window(start, rest))
    return windows
