"""How many denoising steps there is time for, and how many streams one machine can play."""

import math

_MARGIN_S = 0.4
_SLOWEST_SHARE = 0.8
"""Share of the time that playing sessions may take up together."""
_RELAXED_SEGMENTS = 1.5
_STEPS_UP = 2
_LEAST_STEP_S = 1e-6


class Governor:
    """Lowers the steps of a stream before it runs dry, and raises them again when there is time.

    Args:
        segment_s: Seconds that one clip plays.
        fewest_steps: It goes no lower.
    """

    def __init__(self, segment_s: float, *, fewest_steps: int = 4) -> None:
        self._segment_s = segment_s
        self._fewest = fewest_steps
        self._steps: int | None = None
        self.behind = False
        """Whether the next segment is not expected in time even with the fewest steps."""

    def steps(self, wanted: int, buffered_s: float, step_s: float, rest_s: float) -> int:
        """Return the steps of the next segment.

        Args:
            wanted: What the listener asked for; it is never more.
            buffered_s: Seconds that can be played before the next segment is missed.
            step_s: What a step takes, with the turns of other streams in between.
            rest_s: What all else takes.
        """
        last = wanted if self._steps is None else min(self._steps, wanted)
        room = self._room(buffered_s, step_s, rest_s)
        relaxed = buffered_s >= _RELAXED_SEGMENTS * self._segment_s
        # What is raised must also last: a segment must not take longer than it plays.
        lasting = self._room(self._segment_s + _MARGIN_S, step_s, rest_s)
        raised = min(last + _STEPS_UP, max(lasting, last)) if relaxed else last
        fewest = min(self._fewest, wanted)
        self.behind = room < fewest
        self._steps = max(min(raised, room, wanted), fewest)
        return self._steps

    def _room(self, time_s: float, step_s: float, rest_s: float) -> int:
        """Return the steps that fit into a time, with a margin."""
        left_s = time_s - _MARGIN_S - rest_s
        return math.floor(max(left_s, 0.0) / max(step_s, _LEAST_STEP_S))


def capacity(real_time_factor: float) -> int:
    """Return how many streams can play at once: at least one, which may have to take fewer steps.

    Args:
        real_time_factor: Seconds that a second of sound takes to make.
    """
    return max(1, math.floor(_SLOWEST_SHARE / real_time_factor)) if real_time_factor > 0 else 1
