"""The generation loop: one thread that computes, and which session is served next."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from riffusion_train.player.clips import ClipMaker
from riffusion_train.player.session import Session, Timeouts, capacity
from riffusion_train.player.settings import Limits, Settings, SettingsReader
from riffusion_train.runtime.errors import InputError

LOG = logging.getLogger("riffusion.player")
_TICKET_S = 30.0
_MOST_TICKETS = 1000
_LOOK_S = 1.0
_MOST_LARGE = 2

Result = TypeVar("Result")


class FullError(Exception):
    """No further stream can play now.

    Args:
        position: Place in the line, from 1.
        ticket: What keeps the place.
    """

    def __init__(self, position: int, ticket: str) -> None:
        super().__init__("all streams this machine can play are taken; try again in a few seconds to keep your place")
        self.position = position
        self.ticket = ticket


class BusyError(Exception):
    """Too much waits already."""


class _StoppedError(BusyError):
    """Raised between two denoising steps when the player ends."""


@dataclasses.dataclass
class _Job:
    work: Callable[[], Any]
    done: "asyncio.Future[Any]"


class GenerationLoop:
    """Plays sessions. All methods but the computing itself run on one event loop, so nothing needs a lock.

    Args:
        maker: Makes clips.
        limits: How much is taken from outside.
        patience: How long streams are kept.
        most_streams: How many play at once; None leaves it to what the machine can do.
        clock: Seconds that pass.
    """

    def __init__(
        self,
        maker: ClipMaker,
        *,
        limits: Limits | None = None,
        patience: Timeouts | None = None,
        most_streams: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.maker = maker
        self.limits = limits or Limits()
        self.patience = patience or Timeouts()
        self.sessions: dict[str, Session] = {}
        self.sockets: collections.Counter[str] = collections.Counter()
        self.messages = self.malformed = 0
        """Messages of all listeners so far, and those among them that broke the rules."""
        self.uploads: collections.OrderedDict[str, str] = collections.OrderedDict()
        self.reader = SettingsReader(self.limits, self.uploads.__contains__)
        self.segments_made = 0
        self.stopping = False
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop on which it works."""
        self._most_streams = most_streams
        self._clock = clock
        self.large = asyncio.Semaphore(_MOST_LARGE)
        """Held by what takes much memory for a moment: reading uploads, writing recordings."""
        self._jobs: collections.deque[_Job] = collections.deque()
        self._tickets: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._wake = asyncio.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="studio")
        self._begun_s = clock()

    @property
    def real_time_factor(self) -> float:
        """Seconds that a second of sound takes to make, at the usual number of steps."""
        return self.maker.cost.of(self.maker.default_steps) / self.maker.segment_s

    @property
    def capacity(self) -> int:
        """Streams that can play at once."""
        return capacity(self.real_time_factor) if self._most_streams is None else self._most_streams

    def open(self, settings: Settings, ticket: str | None = None) -> Session:
        """Let a stream begin.

        Raises:
            FullError: If no further one can play, or others wait longer.
        """
        position = self._position(ticket)
        if position == 1 and len(self.sessions) >= self.capacity:
            self._make_room()
        if len(self.sessions) + position > self.capacity:
            ticket = ticket if ticket in self._tickets else secrets.token_urlsafe(9)
            assert ticket is not None
            if len(self._tickets) < _MOST_TICKETS or ticket in self._tickets:
                self._tickets[ticket] = self._clock()
            raise FullError(position, ticket)
        self._tickets.pop(ticket or "", None)
        session = Session(settings, self.maker, self._clock, self.patience, most_waiting=self.limits.queue)
        self.sessions[session.id] = session
        return session

    def wake(self) -> None:
        """Something has changed that may need work."""
        self._wake.set()

    async def do(self, work: Callable[[], Result], *, jumps: bool = False) -> Result:
        """Run a piece of work between two segments, in the thread that computes.

        Args:
            work: What to do.
            jumps: Whether it is short, and goes before all others.

        Raises:
            BusyError: If too much waits already.
        """
        if len(self._jobs) >= self.limits.clip_requests:
            raise BusyError(f"{len(self._jobs)} requests wait already; try again in a few seconds")
        job = _Job(work, asyncio.get_running_loop().create_future())
        (self._jobs.appendleft if jumps else self._jobs.append)(job)
        self.wake()
        return await job.done

    async def run(self) -> None:
        """Work until cancelled."""
        self.loop = asyncio.get_running_loop()
        look = asyncio.create_task(self._look_after())
        try:
            while True:
                if not await self._work_once():
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            look.cancel()
            self.stopping = True
            for session in self.sessions.values():
                session.close("the player was stopped")
            for job in self._jobs:
                job.done.cancel()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def report(self, done: int, steps: int) -> None:
        """Stop computing between two steps when the player ends."""
        if self.stopping:
            raise _StoppedError("the player ends")

    def metrics(self) -> dict[str, Any]:
        """Return how the player does."""
        return {
            "sessions": len(self.sessions),
            "listeners": sum(len(one.listeners) for one in self.sessions.values()),
            "capacity": self.capacity,
            "waiting": len(self._tickets),
            "real_time_factor": round(self.real_time_factor, 4),
            "step_s": round(self.maker.cost.step_s, 5),
            "rest_s": round(self.maker.cost.rest_s, 5),
            "segments_made": self.segments_made,
            "ring_bytes": sum(one.ring.bytes for one in self.sessions.values()),
            "jobs_waiting": len(self._jobs),
            "messages": self.messages,
            "malformed_messages": self.malformed,
            "uploads": len(self.uploads),
            "uptime_s": round(self._clock() - self._begun_s, 1),
        }

    async def _work_once(self) -> bool:
        """Do what is most urgent; return whether there was anything."""
        waiting = sorted((one for one in self.sessions.values() if one.wants), key=lambda one: one.buffered_s)
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
        try:
            step = session.plan(streams)
            making = asyncio.get_running_loop().run_in_executor(self._pool, session.make, step, self.report)
            segment = await making
            if session.closed is None:
                session.publish(segment)
                self.segments_made += 1
        except _StoppedError:
            return
        except InputError as error:
            session.close(str(error))
        except Exception:
            # One stream's fault must not silence the others.
            LOG.exception("a segment could not be made")
            session.close("a fault of the player; its log says more")

    async def _do_job(self, job: _Job) -> None:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, job.work)
        except Exception as error:
            if not job.done.done():
                job.done.set_exception(error)
            return
        if not job.done.done():
            job.done.set_result(result)

    async def _look_after(self) -> None:
        """End what nobody hears, once a second."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look_after()

    def look_after(self) -> None:
        """End the streams that nobody hears, and drop those from the line who have gone."""
        for session in list(self.sessions.values()):
            session.look_after()
            if session.closed is not None:
                del self.sessions[session.id]
        self._drop_tickets()
        self.wake()

    def _make_room(self) -> None:
        """End the stream that has gone unheard for longest, if it is long enough for one that somebody waits for."""
        left = max(self.sessions.values(), key=lambda one: one.alone_s, default=None)
        if left is not None and left.alone_s >= self.patience.yield_s:
            left.close("nobody listened, and somebody waited")
            del self.sessions[left.id]

    def _position(self, ticket: str | None) -> int:
        """Return the place in the line, from 1, of a ticket, or of somebody without one."""
        self._drop_tickets()
        tickets = list(self._tickets)
        return tickets.index(ticket) + 1 if ticket in self._tickets and ticket is not None else len(tickets) + 1

    def _drop_tickets(self) -> None:
        now = self._clock()
        for ticket in [ticket for ticket, seen_s in self._tickets.items() if now - seen_s > _TICKET_S]:
            del self._tickets[ticket]
