"""One stream: its prompt queue, its buffer, its listeners, how many denoising steps there is time for, and when it ends."""

import asyncio
import dataclasses
import hmac
import math
import secrets
from collections.abc import Callable
from typing import Any

from riffusion_train.player.clips import ClipMaker
from riffusion_train.player.prompts import PromptQueue, Step
from riffusion_train.player.segments import Segment, SegmentBuffer, crossfade, encode_png, to_pcm
from riffusion_train.player.settings import ClipSpec, Settings
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.walk import crossfade_columns, crossfade_images

_MARGIN_S = 0.4
_SLOWEST_SHARE = 0.8
"""Share of the time that playing sessions may take up together."""
_RELAXED_SEGMENTS = 1.5
_STEPS_UP = 2
_LEAST_STEP_S = 1e-6


class StepController:
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


LOOKAHEAD_SEGMENTS = 3
"""A stream is made no further ahead of the ear."""


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long a stream is kept.

    Attributes:
        alone_s: Seconds without a listener.
        yield_s: The same where somebody else waits for a place.
        idle_s: Seconds without a sign of life of anybody, after which it is asked for.
        answer_s: Seconds that the answer is waited for.
        ring_s: Seconds of the past that are kept.
        ring_bytes: Memory that they may take.
    """

    alone_s: float = 30.0
    yield_s: float = 3.0
    idle_s: float = 600.0
    answer_s: float = 60.0
    ring_s: float = 300.0
    ring_bytes: int = 96 * 2**20


class Listener:
    """One socket's place in a stream. It holds a pointer into the ring, never segments of its own.

    Args:
        pointer: The segment it gets next.
    """

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        self.credit = 0
        self.played_sample = 0
        self.discontinuity = pointer > 0
        self.outbox: list[dict[str, Any]] = []
        """Words for it that are not segments."""
        self.wake = asyncio.Event()

    def tell(self, message: dict[str, Any]) -> None:
        """Leave a word; of one kind only the last is kept, so that a slow listener costs no memory."""
        self.outbox = [one for one in self.outbox if one["type"] != message["type"]] + [message]
        self.wake.set()


class Session:
    """One stream.

    Args:
        settings: What it begins with.
        maker: Makes its clips.
        clock: Seconds that pass.
        patience: How long it is kept.
        most_waiting: Prompts that may wait.
    """

    def __init__(
        self,
        settings: Settings,
        maker: ClipMaker,
        clock: Callable[[], float],
        patience: Timeouts,
        *,
        most_waiting: int = 20,
    ) -> None:
        self.id = secrets.token_urlsafe(9)
        self.token = secrets.token_urlsafe(24)
        self.path = PromptQueue(settings, most_waiting=most_waiting)
        self.listeners: set[Listener] = set()
        self.governor = StepController(maker.segment_s)
        self.closed: str | None = None
        """Why it has ended."""
        self._maker = maker
        self._clock = clock
        self._patience = patience
        rate_hz = maker.sampler.codec.rate_hz
        self._rate_hz = rate_hz
        self.ring = SegmentBuffer(round(patience.ring_s * rate_hz), patience.ring_bytes)
        self._before: ClipSpec | None = settings.before
        self._played = (0, clock())  # a sample, and when it was heard
        self._last_sign_s = self._alone_since_s = clock()
        self._asked_s: float | None = None
        self._behind = False
        self._told_playing = 0

    @property
    def segment_samples(self) -> int:
        """Samples of a segment."""
        return self._maker.segment_samples

    @property
    def played_sample(self) -> int:
        """The sample that the foremost listener hears."""
        return min(self._played[0], self.ring.end_sample)

    @property
    def playing_index(self) -> int:
        """The segment that the foremost listener hears."""
        return min(self.played_sample // self.segment_samples, max(self.ring.next_index - 1, 0))

    @property
    def buffered_s(self) -> float:
        """Seconds that can be played before the next segment is missed, as if nobody had paused."""
        sample, heard_s = self._played
        now = sample + (self._clock() - heard_s) * self._rate_hz
        return max(self.ring.end_sample - now, 0.0) / self._rate_hz

    @property
    def alone_s(self) -> float:
        """Seconds that nobody has listened; 0 while somebody does."""
        return 0.0 if self.listeners else self._clock() - self._alone_since_s

    def authorised(self, token: str | None) -> bool:
        """Whether a token is the owner's."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def join(self) -> Listener:
        """Let somebody listen, from what the others hear."""
        listener = Listener(self.playing_index if len(self.ring) else 0)
        self.listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Let a listener go."""
        self.listeners.discard(listener)
        if not self.listeners:
            self._alone_since_s = self._clock()

    def sign_of_life(self) -> None:
        """Somebody is there."""
        self._last_sign_s = self._clock()
        self._asked_s = None

    def take_credit(self, listener: Listener, ahead: int, played_sample: int) -> None:
        """Hear from a listener how many segments it wants and how far it is."""
        listener.credit = ahead
        listener.played_sample = max(min(played_sample, self.ring.end_sample), 0)
        if listener.played_sample >= self._played[0]:
            self._played = (listener.played_sample, self._clock())
        if self.playing_index != self._told_playing:
            self._told_playing = self.playing_index
            self.tell_queue()
        listener.wake.set()

    def next_for(self, listener: Listener) -> Segment | None:
        """Return what a listener gets now, and move its pointer; one that fell off the ring goes to the live edge."""
        if listener.credit < 1 or not len(self.ring):
            return None
        if listener.pointer < self.ring.first_index:
            listener.pointer = max(self.playing_index, self.ring.first_index)
            listener.discontinuity = True
        segment = self.ring.get(listener.pointer)
        if segment is not None:
            listener.pointer += 1
            listener.credit -= 1
        return segment

    @property
    def wants(self) -> bool:
        """Whether somebody waits for a segment that is not made, no further ahead than is allowed."""
        ahead = self.ring.end_sample - self.played_sample
        return (
            self.closed is None
            and ahead < LOOKAHEAD_SEGMENTS * self.segment_samples
            and any(one.credit > 0 and one.pointer >= self.ring.next_index for one in self.listeners)
        )

    def plan(self, streams: int) -> Step:
        """Return the next clip, with as many steps as there is time for.

        Args:
            streams: Streams that take turns.
        """
        step = self.path.next()
        wanted, cost = step.spec.num_inference_steps, self._maker.cost
        if self.ring.next_index == 0:
            return step  # nothing plays yet that could break off
        free = step.spec.seed_image is None and step.spec.seed_upload is None
        share = 1.0 if free else step.spec.strength
        steps = self.governor.steps(
            wanted, self.buffered_s, share * cost.step_s * max(streams, 1), cost.rest_s * max(streams, 1)
        )
        self._tell_behind(self.governor.behind, steps)
        return Step(
            dataclasses.replace(step.spec, num_inference_steps=steps),
            dataclasses.replace(step.share, num_inference_steps=steps),
        )

    def make(self, step: Step, report: StepReport | None = None) -> Segment:
        """Make a segment; this takes its time and may run in another thread, one call after the other."""
        maker, config = self._maker, self._maker.sampler.codec.config
        before = maker.loop(self._before, report) if self._before is not None else None
        loop = maker.loop(step.spec, report)
        crossing = crossfade_columns(loop.picture) * config.hop_length
        wav = crossfade(None if before is None else before.wav, loop.wav, crossing, config.rate_hz)
        picture = loop.picture if before is None else crossfade_images(before.picture, loop.picture)
        share = dataclasses.replace(step.share, before=self._before)
        self._before = step.spec
        index = self.ring.next_index
        png = encode_png(picture)
        return Segment(index, self.ring.end_sample, wav.shape[1], to_pcm(wav), png, step.spec, share)

    def publish(self, segment: Segment) -> None:
        """Give a segment to all who listen."""
        if len(self.ring) and self.buffered_s == 0:
            # The sound stood still; it goes on from here.
            self._played = (self.played_sample, self._clock())
        self.ring.append(segment)
        for listener in self.listeners:
            listener.wake.set()
        self.tell_queue()

    def queue(self) -> list[dict[str, Any]]:
        """Return the prompts as a page shows them."""
        return self.path.stations(self.playing_index)

    def tell_queue(self) -> None:
        """Tell all listeners how the queue stands."""
        self._tell({"type": "queue", "queue": self.queue()})

    def look_after(self) -> None:
        """Ask whether anybody is there, or end, when it is time."""
        now = self._clock()
        if self.closed is not None:
            return
        if not self.listeners and self.alone_s >= self._patience.alone_s:
            self.close("nobody listened")
        elif self._asked_s is not None and now - self._asked_s >= self._patience.answer_s:
            self.close("nobody answered")
        elif self._asked_s is None and now - self._last_sign_s >= self._patience.idle_s:
            self._asked_s = now
            self._tell({"type": "idle"})

    def close(self, why: str) -> None:
        """End the stream and say why."""
        self.closed = why
        self._tell({"type": "gone", "why": why})

    def _tell(self, message: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.tell(message)

    def _tell_behind(self, behind: bool, steps: int) -> None:
        if behind != self._behind:
            self._behind = behind
            self._tell({"type": "behind", "behind": behind, "steps": steps})
