"""One stream: its prompts, its segments, its listeners, and when it ends."""

import asyncio
import dataclasses
import hmac
import secrets
from collections.abc import Callable
from typing import Any

from riffusion_train.player.clips import ClipMaker, StepController
from riffusion_train.player.prompts import PlannedClip, PromptQueue
from riffusion_train.player.segments import Segment, SegmentBuffer, crossfade, encode_png, to_pcm
from riffusion_train.player.settings import ClipSpec, Settings
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.walk import crossfade_columns, crossfade_images

LOOKAHEAD_SEGMENTS = 3
"""Segments are made at most so far ahead of what is heard."""


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long a stream, and what it has played, is kept.

    Attributes:
        alone_s: Seconds without a listener.
        yield_s: The same where another stream waits to begin.
        idle_s: Seconds without activity of any listener, after which all are asked whether they are there.
        answer_s: Seconds to wait for an answer.
        buffer_s: Seconds of played audio that are kept.
        buffer_bytes: Memory that they may take.
    """

    alone_s: float = 30.0
    yield_s: float = 3.0
    idle_s: float = 600.0
    answer_s: float = 60.0
    buffer_s: float = 300.0
    buffer_bytes: int = 96 * 2**20


class Listener:
    """One socket of a stream. It holds the index of a segment in the buffer, never segments of its own.

    Args:
        next_index: The segment it gets next.
    """

    def __init__(self, next_index: int) -> None:
        self.next_index = next_index
        self.credit = 0
        """Segments that it asked for and has not got yet."""
        self.played_sample = 0
        self.discontinuity = next_index > 0
        """Whether its next segment does not follow the one it got before."""
        self.outbox: list[dict[str, Any]] = []
        """Messages for it other than segments."""
        self.wake = asyncio.Event()

    def send(self, message: dict[str, Any]) -> None:
        """Add a message; only the newest of each type is kept, so that a slow listener costs no memory."""
        self.outbox = [one for one in self.outbox if one["type"] != message["type"]] + [message]
        self.wake.set()

    def take_messages(self) -> list[dict[str, Any]]:
        """Return the messages, and keep none."""
        messages, self.outbox = self.outbox, []
        return messages

    def take_discontinuity(self) -> bool:
        """Return whether the segment it just got is out of order; the next one will not be."""
        discontinuity, self.discontinuity = self.discontinuity, False
        return discontinuity


class Session:
    """One stream.

    Args:
        settings: What it begins with.
        maker: Makes its clips.
        clock: Monotonic time in seconds.
        timeouts: How long it is kept.
        max_waiting: Prompts that may wait.
    """

    def __init__(
        self,
        settings: Settings,
        maker: ClipMaker,
        clock: Callable[[], float],
        timeouts: Timeouts,
        *,
        max_waiting: int = 20,
    ) -> None:
        self.id = secrets.token_urlsafe(9)
        self.token = secrets.token_urlsafe(24)
        self.prompts = PromptQueue(settings, max_waiting=max_waiting)
        self.listeners: set[Listener] = set()
        self.closed: str | None = None
        """Why it has ended; None while it plays."""
        self._maker = maker
        self._clock = clock
        self._timeouts = timeouts
        self._rate_hz = maker.sampler.codec.rate_hz
        self.buffer = SegmentBuffer(round(timeouts.buffer_s * self._rate_hz), timeouts.buffer_bytes)
        self._step_controller = StepController(maker.segment_s)
        self._previous: ClipSpec | None = settings.before
        self._played = (0, clock())  # the sample that is heard, and when that was reported
        self._last_activity_s = self._alone_since_s = clock()
        self._asked_s: float | None = None
        self._behind = False
        self._announced_index = 0

    def authorised(self, token: str | None) -> bool:
        """Whether a token is the owner's."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    # Where the stream is.

    @property
    def segment_samples(self) -> int:
        """Samples of a segment."""
        return self._maker.segment_samples

    @property
    def played_sample(self) -> int:
        """The sample that the foremost listener hears."""
        return min(self._played[0], self.buffer.end_sample)

    @property
    def playing_index(self) -> int:
        """The segment that the foremost listener hears."""
        return min(self.played_sample // self.segment_samples, max(self.buffer.next_index - 1, 0))

    @property
    def buffered_s(self) -> float:
        """Seconds that can be played before the next segment is missed, if nobody pauses."""
        sample, reported_s = self._played
        now = sample + (self._clock() - reported_s) * self._rate_hz
        return max(self.buffer.end_sample - now, 0.0) / self._rate_hz

    @property
    def alone_s(self) -> float:
        """Seconds that nobody has listened; 0 while somebody does."""
        return 0.0 if self.listeners else self._clock() - self._alone_since_s

    @property
    def needs_segment(self) -> bool:
        """Whether a listener waits for a segment that is not made yet, within the lookahead."""
        ahead = self.buffer.end_sample - self.played_sample
        return (
            self.closed is None
            and ahead < LOOKAHEAD_SEGMENTS * self.segment_samples
            and any(one.credit > 0 and one.next_index >= self.buffer.next_index for one in self.listeners)
        )

    # Making segments.

    def plan(self, streams: int) -> PlannedClip:
        """Return the next clip, with as many steps as there is time for.

        Args:
            streams: Streams that take turns.
        """
        clip = self.prompts.next()
        requested, cost = clip.spec.num_inference_steps, self._maker.cost
        if self.buffer.next_index == 0:
            return clip  # nothing plays yet that could be interrupted
        has_seed_image = clip.spec.seed_image is not None or clip.spec.seed_upload is not None
        share_of_steps = clip.spec.strength if has_seed_image else 1.0
        turns = max(streams, 1)
        steps = self._step_controller.steps(
            requested, self.buffered_s, share_of_steps * cost.step_s * turns, cost.rest_s * turns
        )
        self._send_behind(self._step_controller.behind, steps)
        change = {"num_inference_steps": steps}
        return PlannedClip(clip.spec.model_copy(update=change), clip.share.model_copy(update=change))

    def make(self, clip: PlannedClip, report: StepReport | None = None) -> Segment:
        """Make a segment; this takes a while and may run in another thread, one call after the other."""
        maker, config = self._maker, self._maker.sampler.codec.config
        previous = maker.make(self._previous, report) if self._previous is not None else None
        current = maker.make(clip.spec, report)
        length = crossfade_columns(current.image) * config.hop_length
        wav = crossfade(None if previous is None else previous.wav, current.wav, length, config.rate_hz)
        image = current.image if previous is None else crossfade_images(previous.image, current.image)
        share = clip.share.model_copy(update={"before": self._previous})
        self._previous = clip.spec
        start_sample, mark = self.buffer.end_sample, maker.sampler.mark
        return Segment(
            self.buffer.next_index, start_sample, wav.shape[1], to_pcm(wav), encode_png(image, mark), clip.spec, share
        )

    def publish(self, segment: Segment) -> None:
        """Give a segment to all listeners."""
        if len(self.buffer) and self.buffered_s == 0:
            # Playback had run dry; it continues from here.
            self._played = (self.played_sample, self._clock())
        self.buffer.append(segment)
        for listener in self.listeners:
            listener.wake.set()
        self.send_queue()

    # Listeners.

    def add_listener(self) -> Listener:
        """Return a new listener, who begins with what the others hear."""
        listener = Listener(self.playing_index if len(self.buffer) else 0)
        self.listeners.add(listener)
        return listener

    def remove_listener(self, listener: Listener) -> None:
        """Remove a listener."""
        self.listeners.discard(listener)
        if not self.listeners:
            self._alone_since_s = self._clock()

    def update_credit(self, listener: Listener, ahead: int, played_sample: int) -> None:
        """Note how many segments a listener asks for and how far it has played."""
        listener.credit = ahead
        listener.played_sample = max(min(played_sample, self.buffer.end_sample), 0)
        if listener.played_sample >= self._played[0]:
            self._played = (listener.played_sample, self._clock())
        if self.playing_index != self._announced_index:
            self._announced_index = self.playing_index
            self.send_queue()
        listener.wake.set()

    def next_for(self, listener: Listener) -> Segment | None:
        """Return what a listener gets now; one whose next segment was dropped goes on with what the others hear."""
        if listener.credit < 1 or not len(self.buffer):
            return None
        if listener.next_index < self.buffer.first_index:
            listener.next_index = max(self.playing_index, self.buffer.first_index)
            listener.discontinuity = True
        segment = self.buffer.get(listener.next_index)
        if segment is not None:
            listener.next_index += 1
            listener.credit -= 1
        return segment

    def queue(self) -> list[dict[str, Any]]:
        """Return the prompts as a page shows them."""
        return self.prompts.rows(self.playing_index)

    def send_queue(self) -> None:
        """Send the prompts to all listeners."""
        self._send({"type": "queue", "queue": self.queue()})

    # The end.

    def note_activity(self) -> None:
        """Note that somebody is there."""
        self._last_activity_s = self._clock()
        self._asked_s = None

    def check(self) -> None:
        """Ask whether anybody is there, or end the stream, when it is time."""
        now_s = self._clock()
        if self.closed is not None:
            return
        if not self.listeners and self.alone_s >= self._timeouts.alone_s:
            self.close("nobody listened")
        elif self._asked_s is not None and now_s - self._asked_s >= self._timeouts.answer_s:
            self.close("nobody answered")
        elif self._asked_s is None and now_s - self._last_activity_s >= self._timeouts.idle_s:
            self._asked_s = now_s
            self._send({"type": "idle"})

    def close(self, why: str) -> None:
        """End the stream and say why."""
        self.closed = why
        self._send({"type": "gone", "why": why})

    def _send(self, message: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.send(message)

    def _send_behind(self, behind: bool, steps: int) -> None:
        if behind != self._behind:
            self._behind = behind
            self._send({"type": "behind", "behind": behind, "steps": steps})
