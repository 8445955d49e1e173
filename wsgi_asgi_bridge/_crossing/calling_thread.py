"""The thread that waits for one exchange in a loop, and runs jobs for it meanwhile.

The loop puts chunks and the end; it posts jobs that must run in this very thread (reading the
request, thread-sensitive code). The thread takes whatever is there, chunks before jobs, so that a
job delays no block. A job waits for one taking of chunks at most.

One lock is held for a few statements; channel.py has its law. The loop takes it by acquire() and
release() for each chunk, since `with` costs twice as much. The calling thread may be the main one,
where Ctrl-C between acquire() and `try` would leave the lock held, so there it is `with`.

The thread finishes once: with the end in its hands, or before it with a reason. From then on jobs
are refused, chunks are dropped, and a task that waits for room is woken.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from threading import Lock, get_ident
from typing import NamedTuple, TypeVar

from .contexts import Changes
from .delegated_work import DelegatedWork
from .loops import LoopEvent, LoopHandle
from .thread_event import ThreadEvent

__all__ = ["CallingThread", "Leftover", "current_calling_thread"]

LEAST_CHUNK_BYTES = 512
"""What even an empty chunk counts for when the loop's other tasks are due."""

Taken = TypeVar("Taken")


class _ExchangeEnd(DelegatedWork):
    """The ends of an exchange other than its last chunk."""

    __slots__ = ("_end_is_held", "_ended", "_error", "_finished", "_parked", "late_error")

    # Set by CallingThread.
    _ended: bool
    """The end was put, or the exchange ended without one."""
    _end_is_held: bool
    """The end was announced, and comes later."""
    _error: BaseException | None
    _finished: bool
    """The thread takes nothing more."""
    _parked: ThreadEvent | None
    """What the waiting thread waits for."""
    late_error: BaseException | None
    """An error after the end; the thread may look once it has taken the end."""

    def hold_end_in_loop(self) -> bool:
        """Announce the end, which is put later: until then the thread runs no jobs.

        The end does not wait for jobs, and after it they run elsewhere. False: the exchange has
        ended already, or the thread has finished.
        """
        with self._lock:
            if self._finished or self._ended:
                return False
            self._end_is_held = True
            return True

    def fail_in_loop(self, error: BaseException) -> bool:
        """End the exchange with `error`, which the thread raises after what was put before. False:
        it has ended already, or the thread has finished.
        """
        with self._lock:
            if self._ended or self._finished:
                return False
            self._ended = True
            self._error = error
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()
        return True

    def untaken_error_from_thread(self) -> BaseException | None:
        """The error of `fail_in_loop` that no thread has raised, after `finish_from_thread`."""
        with self._lock:
            error, self._error = self._error, None
            return error

    def hand_over_in_loop(self, take: Callable[[], Taken]) -> Taken | None:
        """End the exchange with what `take` does and returns; nothing was put before. None: it has
        ended already, or the thread has finished, and `take` was not called.

        `take` runs under the lock and waits for nothing. The thread cannot leave meanwhile, and
        whoever called it cannot go on. It sees the end as soon as it sees what `take` has done:
        `is_over` waits for the lock. What `take` raises is raised here, and nothing has ended.
        """
        with self._lock:
            if self._finished or self._ended:
                return None
            taken = take()
            self._ended = True
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()
        return taken

    def follow_with_error_in_loop(self, error: BaseException) -> bool:
        """Set `late_error`, before the end is put. False: the thread has finished already."""
        with self._lock:
            if self._finished:
                return False
            self.late_error = error
            return True

    def late_error_from_thread(self) -> BaseException | None:
        """`late_error`, for the first thread that asks."""
        with self._lock:
            error, self.late_error = self.late_error, None
            return error


class Leftover(NamedTuple):
    """What a thread that leaves its exchange to the loop has not taken."""

    chunks: list[bytes]
    ended: bool
    """Whether the end was put, with the last of the chunks or with `error`."""
    error: BaseException | None
    jobs: list[Callable[[], None]]


class _EarlyLeave(_ExchangeEnd):
    """A thread that leaves before the end, and the loop that goes on without it.

    The loop offers and never waits for the answer, which may take long: the thread may be in a job
    that itself waits for the loop. Until the thread has left, chunks are put for it as ever. It
    takes them along, under the lock under which they are put, so that the loop gets each once and
    in order.
    """

    __slots__ = ("_chunks", "_held", "_jobs", "_leave_offered", "_putters", "left_early")

    # Set by CallingThread.
    loop: LoopHandle
    _chunks: list[bytes]
    _held: int
    _jobs: list[Callable[[], None]]
    _leave_offered: bool
    _putters: list[LoopEvent]
    left_early: bool
    """Whether it finished so. The loop may read this after it has found the thread finished: both
    are written under one lock.
    """

    def offer_leave_in_loop(self) -> None:
        """Offer the thread to leave: before any chunk or end it takes `([], False)`, once."""
        with self._lock:
            if self._finished:
                return
            self._leave_offered = True
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()

    def leave_from_thread(self) -> Leftover | None:
        """Leave now; the loop goes on with what is left. None: another thread has finished already.

        From then on the thread has finished.
        """
        with self._lock:
            if self._finished:
                return None
            self._finished = self.left_early = True
            left = Leftover(self._chunks, self._ended, self._error, self._jobs)
            self._chunks, self._error, self._jobs = [], None, []
            self._held = 0
            if self._putters:
                self._wake_putters()
        return left

    def _wake_putters(self) -> None:
        """Holding the lock."""
        putters, self._putters = self._putters, []
        self.loop.post(partial(_set_all, self.loop, putters))


class CallingThread(_EarlyLeave):
    """One calling thread and the exchange it waits for.

    `budget`: bytes that may wait for the thread. `stays`: the thread does not finish with the end,
    but goes on with `run_jobs_from_thread` until `release_in_loop`.
    """

    __slots__ = ("_budget", "_job_thread", "_passed_over", "_stays", "_unbroken", "loop")

    def __init__(self, loop: LoopHandle, budget: int, stays: bool = False) -> None:
        self.loop: LoopHandle = loop
        self._lock = Lock()
        self._unfinished = None
        self.changes: Changes | None = None
        self.last_changes: Changes | None = None
        self.reply_line: str | None = None
        self._budget = budget
        self._chunks = []
        self._held = 0
        self._unbroken = 0  # bytes put since the task last waited; the loop's own
        self._jobs = []  # few at a time
        self._job_thread: int | None = None
        """The number of this thread while it runs a job. Written by the thread alone; what a job
        starts in the loop comes after that.
        """
        self._passed_over = 0  # jobs that were waiting when chunks were taken last
        self._end_is_held = False
        self._ended = False
        self._error = None
        self._finished = False
        self._stays = stays
        self._parked = None
        self._putters = []  # an app may send from several tasks
        self._leave_offered = False
        self.left_early: bool = False
        self.late_error: BaseException | None = None

    # ------------------------------------------------------------ the loop

    def put_in_loop(self, chunk: bytes, last: bool) -> bool | None:
        """Put one chunk; `last` ends the exchange with it.

        True: `wait_for_room_in_loop` has to follow. None: the thread has finished, and the chunk is
        dropped.
        """
        self._lock.acquire()
        try:
            if self._finished or self._ended:
                return None
            size = len(chunk)
            if size:
                self._chunks.append(chunk)
                self._held += size
            if last:
                self._ended = True
                wait = False
            else:
                self._unbroken += size + LEAST_CHUNK_BYTES
                wait = self._held > self._budget or self._unbroken > self._budget
            parked = self._parked
            if parked is not None:
                if not size and not last:
                    return wait  # nothing to wake the thread for
                self._parked = None
        finally:
            self._lock.release()
        if parked is not None:
            parked.set()
        return wait

    async def wait_for_room_in_loop(self) -> None:
        """Wait while the budget is spent and the thread has not finished.

        Lets the loop's other tasks run once in a budget although there is room.
        """
        while True:
            with self._lock:
                if self._held <= self._budget or self._finished:
                    break
                event = self.loop.create_event()
                self._putters.append(event)
                self._unbroken = 0
            await event
        if self._unbroken > self._budget:
            # If the thread takes as fast as the app sends, the task never waits for it.
            self._unbroken = 0
            await self.loop.checkpoint()

    def is_full(self) -> bool:
        """Whether more than the budget waits for the thread."""
        with self._lock:
            return self._held > self._budget

    def release_in_loop(self) -> None:
        """The app has ended, so a thread that stays gets no more jobs. Called after the end."""
        with self._lock:
            self._stays = False
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()

    def finished(self) -> bool:
        """Whether the thread has finished. Any thread."""
        with self._lock:
            return self._finished

    def is_over(self) -> bool:
        """Whether the exchange has ended, taken or not, or the thread has left. Any thread."""
        with self._lock:
            return self._ended or self._finished

    def call_in_thread(self, job: Callable[[], None]) -> bool:
        """Run `job` in the calling thread. Any thread. False: that thread has finished.

        `job` raises only what is to end the thread's wait.
        """
        with self._lock:
            if self._finished:
                return False
            self._jobs.append(job)
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()
        return True

    # ------------------------------------------------------------ the thread

    def take_from_thread(
        self, poll_interval: float | None, check_alive: Callable[[], None] | None
    ) -> tuple[list[bytes], bool]:
        """All chunks put so far and whether they are the last; runs jobs until there are any.

        `check_alive` is called each `poll_interval` seconds while nothing happens, and may raise to
        stop waiting. Raises the error of `fail_in_loop`, and what a job raises. With the end the
        thread has finished, and `finish_from_thread` gives its jobs. `([], False)`: another thread
        has finished in this one's place, or this one may leave.
        """
        if self._passed_over:  # written by this thread, or by one that finishes in its place
            self._run_jobs_that_waited()
        while True:
            event: ThreadEvent | None = None
            job: Callable[[], None] | None = None
            with self._lock:
                if self._leave_offered:
                    self._leave_offered = False
                    return [], False
                if self._chunks or self._ended or self._finished:
                    self._passed_over = len(self._jobs)
                    return self._taken()
                if self._jobs and not self._end_is_held:
                    job = self._jobs.pop(0)
                else:
                    event = self._parked = ThreadEvent()
            if job is not None:
                self._run(job)
                del job  # what it refers to is not kept while this thread waits
            elif (
                event is not None
                and not event.wait(poll_interval)
                and self._retract(event)
                and check_alive is not None
            ):
                check_alive()

    def run_jobs_from_thread(self, timeout: float) -> None:
        """After the end: run jobs until the app has ended, or for `timeout` seconds.

        Raises what a job raises. `finish_from_thread` has to follow.
        """
        deadline = time.monotonic() + timeout
        while True:
            event: ThreadEvent | None = None
            job: Callable[[], None] | None = None
            with self._lock:
                if self._finished:
                    return
                if self._jobs:
                    job = self._jobs.pop(0)
                elif not self._stays:
                    return
                else:
                    event = self._parked = ThreadEvent()
            if job is not None:
                self._run(job)
                del job
            elif (
                event is not None
                and not event.wait(max(0.0, deadline - time.monotonic()))
                and self._retract(event)
            ):
                return

    def is_in_job(self) -> bool:
        """Whether the thread runs a job, so that it takes nothing. Any thread."""
        return self._job_thread is not None

    def is_in_job_here(self) -> bool:
        """Whether the thread that asks is this one, in a job; no other has written its number."""
        return self._job_thread == get_ident()

    def finish_from_thread(self) -> list[Callable[[], None]]:
        """End this thread's part in the exchange; give the jobs that it has not run.

        May be called again, and by another thread.
        """
        # Without the lock: once `_finished` is set, under it, nobody adds a job or waits here.
        if self._finished and not self._jobs:
            return []
        with self._lock:
            self._finished = True
            parked, self._parked = self._parked, None
            self._chunks = []
            self._held = 0
            jobs, self._jobs = self._jobs, []
            self._passed_over = 0
            if self._putters:
                self._wake_putters()
        if parked is not None:
            parked.set()  # a server may close in one thread what it iterates in another
        return jobs

    # ------------------------------------------------------------

    def _taken(self) -> tuple[list[bytes], bool]:
        """All chunks; with the end the thread finishes. Holding the lock.

        Then no thread is parked: whoever put the end has set the event.
        """
        chunks, self._chunks = self._chunks, []
        if not chunks and self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback leads to this frame
        self._held = 0
        if self._putters:
            self._wake_putters()
        last = self._ended and self._error is None
        if last and not self._stays:
            self._finished = True
        return chunks, last

    def _run_jobs_that_waited(self) -> None:
        """Run the jobs that the last taking of chunks passed over: an app may stream for ever."""
        while True:
            with self._lock:
                if not self._passed_over or self._end_is_held:
                    return
                self._passed_over -= 1
                job = self._jobs.pop(0)
            self._run(job)
            del job

    def _run(self, job: Callable[[], None]) -> None:
        self._job_thread = get_ident()
        try:
            job()
        finally:
            self._job_thread = None

    def _retract(self, event: ThreadEvent) -> bool:
        """Take `event` back after a time-out. False if it is set just now."""
        with self._lock:
            if self._parked is event:
                self._parked = None
                return True
        event.wait()  # taken out just now, so it is set in a moment
        return False


def _set_all(loop: LoopHandle, events: list[LoopEvent]) -> None:
    for event in events:
        loop.set_event(event)


current_calling_thread: ContextVar[CallingThread] = ContextVar("wsgi_asgi_bridge_calling_thread")
"""In the tasks of an exchange: the thread that waits for it."""
