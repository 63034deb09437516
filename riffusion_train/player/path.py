"""The way through prompts and seeds that a session takes: which clip comes next.

As in the original Riffusion, a prompt alone walks from seed to seed; a prompt that was queued is reached in `clips` steps
from the one that plays, while the noise stands still.
"""

import dataclasses
import itertools
from typing import Any

from riffusion_train.player.settings import ClipSpec, Settings
from riffusion_train.runtime.errors import InputError

_MOST_PAST = 50
_NEAR = 1e-4


@dataclasses.dataclass
class Station:
    """A prompt on the way.

    Attributes:
        id: Its name.
        prompt: Its text.
        from_segment: The first segment in which it can be heard; of one that waits, a forecast.
    """

    id: str
    prompt: str
    from_segment: int | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One clip of the way.

    Attributes:
        spec: The clip.
        share: Settings that restore the moment, but for the clip before it.
    """

    spec: ClipSpec
    share: Settings


class PathPlanner:
    """Plans the clips of a session, one by one.

    Args:
        settings: What the session begins with; at `prompt_to` and `alpha` it begins in the middle of a transition.
        most_waiting: Prompts that may wait.
    """

    def __init__(self, settings: Settings, *, most_waiting: int = 20) -> None:
        self.settings = settings
        self._most_waiting = most_waiting
        self._ids = map(str, itertools.count(1))
        self._place = settings.place
        self._alpha = settings.alpha
        self._past: list[Station] = [self._station(settings.prompt, 0)]
        self._waiting: list[Station] = []
        self._target: Station | None = None
        self._jump: float | None = None  # where the noise goes with the next clip, when somebody asked for it
        if settings.prompt_to is not None and settings.prompt_to != settings.prompt:
            self._target = self._station(settings.prompt_to, 0)
            self._past.append(self._target)
        self.index = 0
        """The segment that is planned next."""

    def next(self) -> Step:
        """Return the next clip and move on."""
        if self.index:
            self._advance()
        self.index += 1
        return self.here()

    def here(self) -> Step:
        """Return the clip that was planned last."""
        settings = self.settings
        to = self._target.prompt if self._target is not None else settings.prompt
        alpha = self._alpha if self._target is not None else 0.0
        shown = {field.name: getattr(settings, field.name) for field in dataclasses.fields(ClipSpec)}
        spec = ClipSpec(**{**shown, "prompt_to": to, "alpha": alpha, "place": self._place})
        return Step(spec, dataclasses.replace(settings, prompt_to=to, alpha=alpha, place=self._place, before=None))

    def change(self, settings: Settings) -> None:
        """Take other settings from the next clip on; the prompt stays, which is changed by `queue` alone."""
        if (settings.seed, settings.place) != (self.settings.seed, self.settings.place):
            self._jump = settings.place if settings.place != self.settings.place else 0.0
        self.settings = dataclasses.replace(settings, prompt=self.settings.prompt)

    def queue(self, prompt: str) -> Station:
        """Let a prompt follow the others.

        Raises:
            InputError: If there are too many already, or there is nothing in it.
        """
        if not prompt:
            raise InputError("prompt: is empty; write what you want to hear next")
        if len(self._waiting) >= self._most_waiting:
            raise InputError(f"prompt: {self._most_waiting} are waiting already; remove one or wait")
        station = self._station(prompt, None)
        self._waiting.append(station)
        return station

    def remove(self, id: str) -> None:
        """Take a prompt that waits off the queue.

        Raises:
            InputError: If it does not wait.
        """
        self._waiting.remove(self._find(id))

    def put_first(self, id: str) -> None:
        """Let a prompt be the next one; errors as of `remove`."""
        station = self._find(id)
        self._waiting.remove(station)
        self._waiting.insert(0, station)

    def stations(self, playing: int) -> list[dict[str, Any]]:
        """Return the prompts of past, present and future.

        Args:
            playing: The segment that is heard.
        """
        self._forecast()
        begun = [station for station in self._past if (station.from_segment or 0) <= playing]
        current = begun[-1] if begun else self._past[0]
        rows, is_past, is_next = [], True, True
        for station in [*self._past, *self._waiting]:
            if station is current:
                state, is_past = "playing", False
            elif is_past:
                state = "past"
            else:
                state, is_next = ("next" if is_next else "waiting"), False
            rows.append({**dataclasses.asdict(station), "state": state})
        return rows

    @property
    def next_effect(self) -> int:
        """The segment from which a change is heard."""
        return self.index

    def _advance(self) -> None:
        """Go one step: on the way to a prompt, or else from noise to noise."""
        clips = self.settings.clips
        if self._target is None and self._waiting:
            self._set_out(self._waiting.pop(0))
        if self._jump is not None:
            self._place, self._jump = self._jump, None
        elif self._target is None:
            self._place = _snapped(self._place + 1 / clips)
        if self._target is not None:
            self._alpha = min(_snapped(self._alpha + 1 / clips), 1.0)
            if self._alpha == 1.0:
                self.settings = dataclasses.replace(self.settings, prompt=self._target.prompt)
                self._target, self._alpha = None, 0.0

    def _set_out(self, station: Station) -> None:
        station.from_segment = self.index
        self._target, self._alpha = station, 0.0
        self._past = [*self._past, station][-_MOST_PAST:]

    def _forecast(self) -> None:
        """Say when each prompt that waits would be heard, if nothing else changes."""
        clips = self.settings.clips
        left = 0 if self._target is None else round((1 - self._alpha) * clips)
        for place, station in enumerate(self._waiting):
            station.from_segment = self.index + left + place * clips

    def _find(self, id: str) -> Station:
        for station in self._waiting:
            if station.id == id:
                return station
        raise InputError("no prompt of that id waits; it may be playing already")

    def _station(self, prompt: str, from_segment: int | None) -> Station:
        return Station(next(self._ids), prompt, from_segment)


def _snapped(value: float) -> float:
    """Return a value of few digits, so that it comes back the same from a link; whole where it nearly is."""
    return float(round(value)) if abs(value - round(value)) < _NEAR else round(value, 6)
