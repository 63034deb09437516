"""One stream: its prompts, its segments and the changes of what is not heard yet, its listeners, and when it ends."""

import asyncio
import dataclasses
import hmac
import math
import secrets
import threading
from collections.abc import Callable
from typing import Any

from riffusion_train.player.clips import ClipMaker, StepController
from riffusion_train.player.prompts import PlannedClip, PromptQueue
from riffusion_train.player.segments import Segment, SegmentBuffer, encode_png, to_pcm
from riffusion_train.player.settings import MAX_TURNS, MOMENT, Settings
from riffusion_train.player.takes import Grid, Left, Made, PlannedTurn, Redrawn, Take, begin, redraw, restore, turn
from riffusion_train.sampling.denoise import StepReport

LOOKAHEAD_SEGMENTS = 3
"""Segments are made at most so far ahead of what is heard."""
GUARD_S = 0.15
"""What is played this soon is not changed any more: a change must reach the loudspeaker before it is due."""
_TURN_S = 0.4
"""A change that takes longer to make is made in fewer steps, but in half of a segment's at least."""
_EARLY = 0.8
"""A change is drawn for the moment after this share of the time that it usually takes; it is heard when it is ready."""


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
        self.paused = False
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

    def turn_to(self, index: int) -> None:
        """Get a segment that replaces what was sent before it, whether one was asked for or not."""
        if self.next_index >= index:
            self.next_index, self.credit = index, max(self.credit, 1)
        self.wake.set()

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
        self._opening = settings
        self._grid = Grid.of(maker)
        self._newest: Made | None = None
        self._known: dict[int, Made] = {}
        """What is not heard yet, by the index of the segment."""
        self.rewinds = 0
        """How often what was planned was thrown away; a segment that was planned before is not heard."""
        self._lock = threading.Lock()
        self.changes = 0
        """Changes that were made while it played."""
        self.wants_turn = self.turning = self.paused = False
        """Whether a change was asked for, whether one is being made, and whether nobody plays."""
        self.asked_turn_s = 0.0
        """When the change was asked for."""
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
    def heard_sample(self) -> int:
        """The sample that the foremost listener should hear by now, at most the end of what is made."""
        sample, reported_s = self._played
        passed_s = 0.0 if self.paused else self._clock() - reported_s
        return min(sample + round(passed_s * self._rate_hz), self.buffer.end_sample)

    @property
    def playing_index(self) -> int:
        """The segment that the foremost listener hears."""
        playing = self.buffer.at(self.played_sample)
        return max(self.buffer.next_index - 1, 0) if playing is None else playing.index

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
            and not (self.wants_turn or self.turning)
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
        return PlannedClip(clip.spec.model_copy(update=change), clip.share.model_copy(update=change), clip.progress)

    def make(self, clip: PlannedClip, report: StepReport | None = None) -> Made:
        """Make a segment; this takes a while and may run in another thread, one call after the other."""
        with self._lock:  # a change may be published meanwhile
            newest, changes, index = self._newest, self.changes, self.buffer.next_index
        if newest is None:
            moment = {name: getattr(self._opening, name) for name in MOMENT if name not in ("prompt_to", "alpha")}
            take = restore(self._maker, clip.share.model_copy(update=moment), report)
            return self._made(take, clip, -take.begin, index, changes)
        phase = (newest.take.spec.phase + newest.take.end // self._grid.column_samples) % self._grid.width
        spec = clip.spec.model_copy(update={"phase": phase})
        take = begin(self._maker, spec, Left(newest.take, newest.take.end), report)
        return self._made(take, clip, newest.start_sample + newest.take.end, index, changes)

    def publish(self, made: Made) -> None:
        """Give a segment to all listeners."""
        segment = made.segment
        if not len(self.buffer) or self.buffered_s == 0:
            # Playback had run dry, or begins; it continues from here.
            self._played = (self.played_sample, self._clock())
        with self._lock:
            self.buffer.append(segment)
            self._note(made)
        for listener in self.listeners:
            listener.wake.set()
        self.send_queue()

    def discard(self, turn: PlannedTurn | None = None) -> None:
        """Throw away what was planned after the newest segment; what a change was to do is asked for again."""
        self.rewinds += 1
        if turn is not None:
            self.prompts.rewind(turn.made.progress, turn.made.segment.index + 1)
        if self._newest is not None:
            self.prompts.rewind(self._newest.progress, self.buffer.next_index)

    # Changing what is not heard yet.

    def ask_for_turn(self) -> None:
        """Let what is not heard yet be made again, with the settings as they are now."""
        if len(self.buffer):
            if not self.wants_turn:
                self.asked_turn_s = self._clock()
            self.wants_turn = True

    @property
    def delay_s(self) -> float:
        """Seconds until a change is heard."""
        return self._turn_s + GUARD_S

    @property
    def next_change(self) -> int | None:
        """The number of the change that was asked for and is not begun; None where there is none."""
        return self.changes + 1 + self.turning if self.wants_turn else None

    @property
    def takes_effect_at(self) -> int:
        """The first segment that is made with the settings as they are now, as far as it is known."""
        if not self.wants_turn:
            return self.prompts.next_index
        made = self._made_at(self.heard_sample + round((_EARLY * self._turn_s + GUARD_S) * self._rate_hz))
        return self.buffer.next_index if made is None else made.segment.index + 1

    def begins_now(self) -> bool:
        """Whether the prompt that was added last can begin at once."""
        return bool(self._known) and self.prompts.begins_after(self._known[min(self._known)].progress)

    @property
    def _turn_s(self) -> float:
        """Seconds that a change usually takes to make."""
        settings = self.prompts.settings
        steps = self._turn_steps(settings.num_inference_steps, settings.strength)
        return self._maker.turn_cost.of(int(steps * settings.strength + 1e-6))

    def _turn_steps(self, requested: int, strength: float) -> int:
        """Return the steps of a change, of which the strength is the share that is taken."""
        usual = self._step_controller.limited(requested)
        in_time = int(self._maker.turn_cost.steps_within(_TURN_S) / max(strength, 1 / usual))
        return min(usual, max(in_time, math.ceil(usual / 2)))

    def plan_turn(self) -> PlannedTurn | None:
        """Return the change that was asked for; None if it is heard best from the next segment on."""
        self.wants_turn = False
        aim = self.heard_sample + round((_EARLY * self._turn_s + GUARD_S) * self._rate_hz)
        made = self._made_at(aim)
        anew = made is not None and len(made.take.turns) >= MAX_TURNS
        if made is None or anew:
            # The log of the clip is long enough: another clip begins where this one is left, at a column of latents.
            whole_s = self._maker.cost.of(self.prompts.settings.num_inference_steps)
            aim = self.heard_sample + round((whole_s + GUARD_S) * self._rate_hz) + self._grid.column_samples
            made = self._made_at(aim) if anew else None
        if made is None:
            self.discard()
            return None
        index = made.segment.index + 1
        self.rewinds += 1
        self.prompts.rewind(made.progress, index)
        planned = self.prompts.turn()
        phase = made.take.spec.phase
        column = self._grid.column_of(made.take, aim - made.start_sample)
        if anew:
            column = max(column, made.take.begin // self._grid.column_samples + 1)  # a part of the segment is left
            phase = (phase + column) % self._grid.width
        change = {"num_inference_steps": self._turn_steps(planned.spec.num_inference_steps, planned.spec.strength)}
        spec = planned.spec.model_copy(update={**change, "phase": phase})
        self.turning = True
        planned = PlannedClip(spec, planned.share.model_copy(update=change), planned.progress)
        return PlannedTurn(made, planned, column, anew)

    def make_turn(self, planned: PlannedTurn, report: StepReport | None = None) -> Made | None:
        """Make a change; None where it took so long that what it was to change was heard already."""
        made, clip = planned.made, planned.clip
        index, changes = made.segment.index + 1, self.changes + 1
        if planned.anew:
            left = planned.column * self._grid.column_samples
            take = begin(self._maker, clip.spec, Left(made.take, left), report)
            start_sample = made.start_sample + left
            return None if start_sample < self._soonest() else self._made(take, clip, start_sample, index, changes)
        redrawn = redraw(self._maker, made.take, clip.spec, planned.column, report)
        sample = self._sample_of(redrawn, made)
        if sample is None:
            return None
        return self._made(turn(self._maker, redrawn, sample), clip, made.start_sample, index, changes)

    def publish_turn(self, made: Made) -> None:
        """Give a change to all listeners, instead of what was made from its first sample on."""
        segment = made.segment
        config = self._maker.sampler.codec.config
        with self._lock:
            self.buffer.truncate(segment.start_sample, config.num_channels, config.hop_length, self._maker.mark)
            self.buffer.append(segment)
            self._known = {}  # nothing is changed before the last change any more
            self.changes = segment.change
            self._note(made)
        for listener in self.listeners:
            listener.turn_to(segment.index)
        self.send_queue()

    def _made_at(self, sample: int) -> Made | None:
        """Return the segment in which a change can be heard from about a sample on; None if it is not made yet."""
        grid = self._grid
        for _, made in sorted(self._known.items()):
            take, relative = made.take, sample - made.start_sample
            if relative > grid.last_sample(take):
                continue
            if len(take.turns) < MAX_TURNS or relative >= grid.first_sample(take):
                return made
            return None
        return None

    def _sample_of(self, redrawn: Redrawn, made: Made) -> int | None:
        """Return the sample of the take from which a change is heard, at a column of the image; None if it is too late."""
        grid = self._grid
        soonest = self._soonest() - made.start_sample
        first = max(redrawn.column * grid.column_samples, soonest, grid.first_sample(made.take))
        sample = -(-first // grid.hop) * grid.hop
        return sample if sample <= grid.last_sample(made.take) else None

    def _soonest(self) -> int:
        """The first sample that can still be changed."""
        return self.heard_sample + round(GUARD_S * self._rate_hz)

    def _made(self, take: Take, clip: PlannedClip, start_sample: int, index: int, changes: int) -> Made:
        """Cut the newest part of a take into a segment.

        Args:
            take: The take.
            clip: How it was planned.
            start_sample: Where the take begins in the stream.
            index: Of the segment.
            changes: Changes that were made so far.
        """
        maker, hop = self._maker, self._grid.hop
        samples = take.end - take.begin
        wav = take.heard.between(take.begin, take.end)
        first = take.begin // hop - take.column * self._grid.scale
        image = take.drawn[:, first : first + samples // hop]
        share = clip.share.model_copy(update=take.moment())
        segment = Segment(
            index, start_sample + take.begin, samples, to_pcm(wav), encode_png(image, maker.mark), take.spec,
            share, changes,
        )  # fmt: skip
        return Made(segment, take, start_sample, clip.progress)

    def _note(self, made: Made) -> None:
        """Remember what segments that are not heard yet are cut from."""
        self._newest = made
        self._known[made.segment.index] = made
        self._known = {index: one for index, one in self._known.items() if index >= self.playing_index}

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

    def update_credit(self, listener: Listener, ahead: int, played_sample: int, *, paused: bool = False) -> None:
        """Note how many segments a listener asks for, how far it has played, and whether it is paused."""
        listener.credit, listener.paused = ahead, paused
        listener.played_sample = max(min(played_sample, self.buffer.end_sample), 0)
        self.paused = all(one.paused for one in self.listeners)
        self.note_position(listener.played_sample)
        if self.playing_index != self._announced_index:
            self._announced_index = self.playing_index
            self.send_queue()
        listener.wake.set()

    def note_position(self, sample: int) -> None:
        """Note the sample that a listener hears."""
        if sample >= self._played[0]:
            self._played = (min(sample, self.buffer.end_sample), self._clock())

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
