"""The generation loop: what is computed next, in one thread for segments and single clips, and in one for changes."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from riffusion_train.player.clips import ClipMaker, capacity
from riffusion_train.player.session import Session, Timeouts
from riffusion_train.player.settings import Limits, Settings
from riffusion_train.runtime.errors import InputError

LOG = logging.getLogger("riffusion.player")
RETRY_AFTER_S = 5.0
"""When those who wait are told to ask again."""
_TICKET_S = 2 * RETRY_AFTER_S + 2.0
"""A ticket that was not asked for in this time, twice the usual one, lapses: whoever held it has left."""
_MAX_TICKETS = 1000
_CHECK_S = 1.0
_MAX_LARGE = 2

Result = TypeVar("Result")


class FullError(Exception):
    """No further stream can play now.

    Args:
        position: Position in the waiting line, from 1.
        ticket: What keeps that position.
    """

    def __init__(self, position: int, ticket: str) -> None:
        super().__init__(
            "all streams that this machine can play are taken; try again in a few seconds to keep your position"
        )
        self.position = position
        self.ticket = ticket


class BusyError(Exception):
    """Too many requests wait already."""


class _StoppedError(BusyError):
    """Raised between two denoising steps when the player ends."""


class _SupersededError(Exception):
    """Raised between two denoising steps of a segment when a change is more urgent."""


@dataclasses.dataclass
class _Job:
    work: Callable[[], Any]
    done: "asyncio.Future[Any]"


class GenerationLoop:
    """Plays sessions. Everything but the computing itself runs on one event loop, so nothing needs a lock.

    Args:
        maker: Makes clips.
        limits: How much clients may send and ask for.
        timeouts: How long streams are kept.
        max_streams: How many play at once; None derives it from the measured speed.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        maker: ClipMaker,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        max_streams: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.maker = maker
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.sessions: dict[str, Session] = {}
        self.sockets: collections.Counter[str] = collections.Counter()
        """Open sockets of each address."""
        self.messages = self.malformed = 0
        """Messages of all listeners so far, and those among them that broke the rules."""
        self.uploads: collections.OrderedDict[str, str] = collections.OrderedDict()
        """Names of the uploads that are kept, by id, the oldest first."""
        self.segments_made = self.turns_made = 0
        self.stopping = False
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self.large = asyncio.Semaphore(_MAX_LARGE)
        """Held by what takes much memory for a moment: reading uploads, writing recordings."""
        self._max_streams = max_streams
        self._clock = clock
        self._jobs: collections.deque[_Job] = collections.deque()
        self._tickets: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._wake = asyncio.Event()
        self._turn_wake = asyncio.Event()
        self._turns_waiting = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="generation")
        self._turn_pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="changes")
        self._begin_s = clock()

    @property
    def real_time_factor(self) -> float:
        """Seconds that a second of audio takes to make, with the default number of steps."""
        return self.maker.cost.of(self.maker.default_steps) / self.maker.segment_s

    @property
    def capacity(self) -> int:
        """Streams that can play at once."""
        return capacity(self.real_time_factor) if self._max_streams is None else self._max_streams

    async def run(self) -> None:
        """Work until cancelled."""
        self.event_loop = asyncio.get_running_loop()
        checks = [asyncio.create_task(self._check_regularly()), asyncio.create_task(self._make_turns())]
        try:
            while True:
                if not await self._work_once():
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            for check in checks:
                check.cancel()
            self.stopping = True
            for session in self.sessions.values():
                session.close("the player was stopped")
            for job in self._jobs:
                job.done.cancel()
            for pool in (self._pool, self._turn_pool):
                pool.shutdown(wait=True, cancel_futures=True)

    def wake(self) -> None:
        """Look for work: something has changed."""
        self._turns_waiting = sum(one.wants_turn or one.turning for one in self.sessions.values())
        if self._turns_waiting:
            self._turn_wake.set()
        self._wake.set()

    def report(self, done: int, steps: int) -> None:
        """Stop computing between two steps when the player ends."""
        if self.stopping:
            raise _StoppedError("the player is stopping")

    # Sessions, and the line of those that wait to begin.

    def open(self, settings: Settings, ticket: str | None = None) -> Session:
        """Begin a stream.

        Raises:
            FullError: If no further one can play, or others have waited longer.
        """
        position = self._position(ticket)
        if position == 1 and len(self.sessions) >= self.capacity:
            self._end_abandoned()
        if len(self.sessions) + position > self.capacity:
            ticket = ticket if ticket in self._tickets else secrets.token_urlsafe(9)
            assert ticket is not None
            if len(self._tickets) < _MAX_TICKETS or ticket in self._tickets:
                self._tickets[ticket] = self._clock()
            raise FullError(position, ticket)
        self._tickets.pop(ticket or "", None)
        session = Session(settings, self.maker, self._clock, self.timeouts, max_waiting=self.limits.queue)
        self.sessions[session.id] = session
        return session

    def check(self) -> None:
        """End the streams that nobody hears, and drop the tickets of those who no longer ask."""
        for session in list(self.sessions.values()):
            session.check()
            if session.closed is not None:
                del self.sessions[session.id]
        self._drop_tickets()
        self.wake()

    def _end_abandoned(self) -> None:
        """End the stream without listeners for the longest time, if that is long enough when another one waits."""
        abandoned = max(self.sessions.values(), key=lambda one: one.alone_s, default=None)
        if abandoned is not None and abandoned.alone_s >= self.timeouts.yield_s:
            abandoned.close("nobody listened, and somebody waited")
            del self.sessions[abandoned.id]

    def _position(self, ticket: str | None) -> int:
        """Return the position in the line, from 1, of a ticket, or of somebody without one."""
        self._drop_tickets()
        tickets = list(self._tickets)
        return tickets.index(ticket) + 1 if ticket in self._tickets and ticket is not None else len(tickets) + 1

    def _drop_tickets(self) -> None:
        now_s = self._clock()
        for ticket in [ticket for ticket, seen_s in self._tickets.items() if now_s - seen_s > _TICKET_S]:
            del self._tickets[ticket]

    async def _check_regularly(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            self.check()

    # Work.

    async def submit(self, work: Callable[[], Result], *, first: bool = False) -> Result:
        """Run a piece of work between two segments, in the thread that computes.

        Args:
            work: What to do.
            first: Whether it goes before all others; for short work.

        Raises:
            BusyError: If too many wait already.
        """
        if len(self._jobs) >= self.limits.clip_requests:
            raise BusyError(f"{len(self._jobs)} requests are waiting already; try again in a few seconds")
        job = _Job(work, asyncio.get_running_loop().create_future())
        (self._jobs.appendleft if first else self._jobs.append)(job)
        self.wake()
        return await job.done

    async def add_upload(self, name: str, wav: np.ndarray) -> str:
        """Keep audio, (channels, samples) at the codec's rate, as a seed image, and return its id.

        Raises:
            BusyError: If too many requests wait already.
        """
        id = secrets.token_urlsafe(9)
        await self.submit(functools.partial(self.maker.keep_upload, id, wav), first=True)
        self.uploads[id] = name
        while len(self.uploads) > self.limits.uploads:
            oldest, _ = self.uploads.popitem(last=False)
            self.maker.forget_upload(oldest)
        return id

    def has_upload(self, id: str) -> bool:
        """Whether there is an upload with that id."""
        return id in self.uploads

    async def _work_once(self) -> bool:
        """Do what is most urgent; return whether there was anything to do."""
        waiting = sorted((one for one in self.sessions.values() if one.needs_segment), key=lambda one: one.buffered_s)
        urgent = bool(waiting) and waiting[0].buffered_s < self.maker.segment_s
        if self._jobs and not urgent:
            await self._do_job(self._jobs.popleft())
            return True
        if waiting:
            await self._make_segment(waiting[0])
            return True
        return False

    async def _make_segment(self, session: Session) -> None:
        streams = sum(1 for one in self.sessions.values() if one.listeners)
        expected_s = self.maker.cost.of(self.maker.default_steps)

        def report(done: int, steps: int) -> None:
            self.report(done, steps)
            if session.wants_turn or session.turning or (self._turns_waiting and session.buffered_s > 2 * expected_s):
                raise _SupersededError

        with self._closing_at_faults(session):
            clip, rewinds = session.plan(streams), session.rewinds
            try:
                making = asyncio.get_running_loop().run_in_executor(self._pool, session.make, clip, report)
                made = await making
            except _SupersededError:
                if session.rewinds == rewinds:
                    session.discard()
                return
            if session.closed is None and session.rewinds == rewinds:
                session.publish(made)
                self.segments_made += 1

    async def _make_turns(self) -> None:
        """Make the changes that are asked for, those of the stream that waits for the longest time first."""
        while True:
            waiting = [one for one in self.sessions.values() if one.wants_turn and one.closed is None]
            if not waiting:
                self._turn_wake.clear()
                await self._turn_wake.wait()
                continue
            session = min(waiting, key=lambda one: one.asked_turn_s)
            with self._closing_at_faults(session):
                await self._make_turn(session)
            session.turning = False
            self.wake()

    async def _make_turn(self, session: Session) -> None:
        planned = session.plan_turn()
        if planned is None:
            return
        making = asyncio.get_running_loop().run_in_executor(self._turn_pool, session.make_turn, planned, self.report)
        made = await making
        if made is None:
            session.discard(planned)
            if session.buffered_s > 2 * session.delay_s:
                session.ask_for_turn()  # it took longer than expected, which is known now
        elif session.closed is None:
            session.publish_turn(made)
            self.turns_made += 1

    @contextlib.contextmanager
    def _closing_at_faults(self, session: Session) -> Iterator[None]:
        """Close a session whose music cannot be made; a fault in one stream must not silence the others."""
        try:
            yield
        except _StoppedError:
            pass
        except InputError as error:
            session.close(str(error))
        except Exception:
            LOG.exception("a segment could not be made")
            session.close("internal error of the player; see its log")

    async def _do_job(self, job: _Job) -> None:
        def work() -> Any:
            with self.maker.model_lock:
                return job.work()

        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except Exception as error:
            if not job.done.done():
                job.done.set_exception(error)
            return
        if not job.done.done():
            job.done.set_result(result)

    # What is counted.

    @contextlib.contextmanager
    def count_socket(self, address: str) -> Iterator[None]:
        """Count a socket of an address while it is open."""
        self.sockets[address] += 1
        try:
            yield
        finally:
            self.sockets[address] -= 1
            if not self.sockets[address]:
                del self.sockets[address]

    def count_message(self) -> None:
        """Count a message of a listener."""
        self.messages += 1

    def count_malformed(self) -> None:
        """Count a message that broke the rules."""
        self.malformed += 1

    def metrics(self) -> dict[str, Any]:
        """Return figures about the running player."""
        self._drop_tickets()
        return {
            "sessions": len(self.sessions),
            "listeners": sum(len(one.listeners) for one in self.sessions.values()),
            "capacity": self.capacity,
            "waiting": len(self._tickets),
            "real_time_factor": round(self.real_time_factor, 4),
            "step_s": round(self.maker.cost.step_s, 5),
            "rest_s": round(self.maker.cost.rest_s, 5),
            "segments_made": self.segments_made,
            "changes_made": self.turns_made,
            "change_s": round(self.maker.turn_cost.of(self.maker.default_steps), 4),
            "ring_bytes": sum(one.buffer.bytes for one in self.sessions.values()),
            "jobs_waiting": len(self._jobs),
            "messages": self.messages,
            "malformed_messages": self.malformed,
            "uploads": len(self.uploads),
            "uptime_s": round(self._clock() - self._begin_s, 1),
        }
