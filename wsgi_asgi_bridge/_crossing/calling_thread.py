"""The thread that waits for one exchange in a loop, and works for it meanwhile.

The loop puts chunks and the end; it posts jobs that must run in this very thread (reading the
request, thread-sensitive code). The thread takes whatever is there, chunks first, so that no block
is delayed by a job; a job lets one taking of chunks go before it.

One lock, held for a few statements. The loop takes it by acquire() and release() for each chunk,
since `with` costs twice as much; the calling thread may be the main one, where a signal between
acquire() and `try` would leave the lock held. The thread waits for an event that it has put into
the shared state under the lock. Whoever changes the state takes the event out under the same lock
and sets it after. See thread_event.py and channel.py.

The thread leaves once and for good: with the end in its hands, or before it with a reason. From
then on jobs are refused and chunks are dropped, and the loop is told by one callback.

Where the loop passes the exchange on to yet another thread, a worker of a bridge behind this one,
that thread tells here what it does for the caller: that it has begun, that it is done, and what it
has set in its context.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from threading import Lock

from .contexts import Changes
from .loops import LoopEvent, LoopHandle
from .thread_event import ThreadEvent

__all__ = ["CallingThread", "current_calling_thread"]

LEAST_CHUNK_BYTES = 512
"""What even an empty chunk counts for, when it is asked how long an app has kept the loop."""


class CallingThread:
    """One calling thread and the exchange it waits for.

    `budget`: bytes that may wait for the thread. `stays`: the thread does not leave with the end,
    but goes on with `run_jobs_from_thread` until `release_in_loop`.
    """

    __slots__ = (
        "_budget",
        "_chunks",
        "_ended",
        "_ending",
        "_error",
        "_finished",
        "_held",
        "_jobs",
        "_lock",
        "_parked",
        "_passed_over",
        "_putters",
        "_stays",
        "_unbroken",
        "_unfinished",
        "changes",
        "last_changes",
        "late_error",
        "loop",
        "remark",
    )

    def __init__(self, loop: LoopHandle, budget: int, stays: bool = False) -> None:
        self.loop = loop
        self._budget = budget
        self._lock = Lock()
        self._chunks: list[bytes] = []
        self._held = 0
        self._unbroken = 0  # bytes put since the task slept last; the loop's own
        self._jobs: list[Callable[[], None]] = []  # few at a time
        self._passed_over = 0  # jobs that were waiting when chunks were taken last
        self._ending = False
        self._ended = False
        self._error: BaseException | None = None
        self._finished = False
        self._stays = stays
        self._parked: ThreadEvent | None = None
        self._putters: list[LoopEvent] = []  # an app may send from several tasks
        self._unfinished: list[tuple[ThreadEvent, Callable[[], bool]]] = []
        self.changes: Changes | None = None
        """What another thread, which works for the app, set in its context, for this one to repeat;
        written before the chunk that it belongs to is put, and never changed in itself.
        """
        self.last_changes: Changes | None = None
        """The same at the end of that work, which `wait_for_work_from_thread` waits for."""
        self.remark: str | None = None
        """What the thread that works for the app said of its response; written before that is put
        into the channel, from which the loop takes it.
        """
        self.late_error: BaseException | None = None
        """What follows the end; the thread may look once it has taken that."""

    # ------------------------------------------------------------ the loop

    def put_in_loop(self, chunk: bytes, last: bool) -> bool | None:
        """Hand one chunk over; `last` ends the exchange with it.

        True when `wait_for_room_in_loop` has to follow. None when nobody takes it: the thread has
        left.
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
                    return wait  # that is nothing to wake the thread for
                self._parked = None
        finally:
            self._lock.release()
        if parked is not None:
            parked.set()
        return wait

    def hold_end_in_loop(self) -> bool:
        """The end stands and is put later. Until then the thread runs no jobs: how long they take
        is not for the end to wait for, and after it they run elsewhere.

        False when nobody takes it: the exchange has ended already, or the thread has left.
        """
        with self._lock:
            if self._finished or self._ended:
                return False
            self._ending = True
            return True

    async def wait_for_room_in_loop(self) -> None:
        """Sleep while the budget is spent and the thread is there.

        Now and then, let others run although there is room.
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
            # A thread that takes as fast as the app sends would otherwise let it keep the loop for
            # itself.
            self._unbroken = 0
            await self.loop.checkpoint()

    def fail_in_loop(self, error: BaseException) -> None:
        """End the exchange without its end: once it has taken what waits, the thread raises
        `error`.
        """
        with self._lock:
            if self._ended or self._finished:
                return
            self._ended = True
            self._error = error
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()

    def follow_with_error_in_loop(self, error: BaseException) -> bool:
        """`error` comes after the end, which is put next. False when the thread has left already.

        Who leaves from now on finds it, with the end or without, in `late_error_from_thread`.
        """
        with self._lock:
            if self._finished:
                return False
            self.late_error = error
            return True

    def release_in_loop(self) -> None:
        """The app is over: a thread that stays has no more jobs to expect.

        Comes after the end or the error, with which nobody is parked but in `run_jobs_from_thread`.
        """
        with self._lock:
            self._stays = False
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()

    def finished(self) -> bool:
        """Whether the thread has left. Any thread."""
        with self._lock:
            return self._finished

    def is_over(self) -> bool:
        """Whether the exchange has ended, taken or not, or the thread has left. Any thread."""
        with self._lock:
            return self._ended or self._finished

    def call_in_thread(self, job: Callable[[], None]) -> bool:
        """Run `job` in the calling thread; it raises nothing but what is to end that thread's wait.

        Any thread. False when that thread has left.
        """
        with self._lock:
            if self._finished:
                return False
            self._jobs.append(job)
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()
        return True

    # ------------------------------------------------------------ a thread that works for the app

    def begin_work(self, matters: Callable[[], bool]) -> ThreadEvent:
        """A thread begins to work for this exchange that its caller would have done itself without
        a loop in between; it opens the event when that is done.

        `matters`, in the calling thread: whether the exchange had it to wait for. One that has
        ended without it has given it up, or never needed it.
        """
        event = ThreadEvent()
        with self._lock:
            self._unfinished.append((event, matters))
        return event

    # ------------------------------------------------------------ the thread

    def has_unfinished_work(self) -> bool:
        return bool(self._unfinished)

    def wait_for_work_from_thread(
        self, poll_interval: float, check_alive: Callable[[], None]
    ) -> None:
        """After the end: sleep until the work is done that was begun and still matters.

        `check_alive` as in `take_from_thread`.
        """
        while True:
            with self._lock:
                if not self._unfinished:
                    return
                event, matters = self._unfinished.pop()
            while matters() and not event.wait(poll_interval):
                check_alive()

    def take_from_thread(
        self, poll_interval: float | None, check_alive: Callable[[], None] | None
    ) -> tuple[list[bytes], bool]:
        """All chunks that wait and whether they are the last; runs jobs until there are any.

        `check_alive` is called each `poll_interval` seconds while nothing happens. It may raise to
        stop waiting.
        Raises the error of `fail_in_loop`, and what a job raises. Gives nothing, and no end, when
        another thread has left in this one's place. With the end the thread has left; its jobs are
        still `finish_from_thread`'s to give.
        """
        if self._passed_over:  # written by this thread, or by one that leaves in its place
            self._run_jobs_that_waited()
        while True:
            event: ThreadEvent | None = None
            job: Callable[[], None] | None = None
            with self._lock:
                if self._chunks or self._ended or self._finished:
                    self._passed_over = len(self._jobs)
                    return self._taken()
                if self._jobs and not self._ending:
                    job = self._jobs.pop(0)
                else:
                    event = self._parked = ThreadEvent()
            if job is not None:
                job()
                del job  # what it refers to is not kept while this thread sleeps
            elif (
                event is not None
                and not event.wait(poll_interval)
                and self._retract(event)
                and check_alive is not None
            ):
                check_alive()

    def run_jobs_from_thread(self, timeout: float) -> None:
        """After the end: run jobs, as they come, until the app is over or `timeout` seconds are.

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
                job()
                del job
            elif (
                event is not None
                and not event.wait(max(0.0, deadline - time.monotonic()))
                and self._retract(event)
            ):
                return

    def late_error_from_thread(self) -> BaseException | None:
        """What followed the end, for one to raise it, whichever thread comes first."""
        with self._lock:
            error, self.late_error = self.late_error, None
            return error

    def finish_from_thread(self) -> list[Callable[[], None]]:
        """This thread serves the exchange no longer.

        Gives the jobs that it has not run. May be called again.
        """
        # Without the lock: once this is set, under it, nobody adds a job, and nobody sleeps here.
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
        """Holding the lock.

        With the end the thread leaves. Nobody sleeps any more then who would have to be woken:
        whoever set the end has opened the event, and from then on none is parked.
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
        """Run the jobs that chunks went before the last time: an app that streams without a pause
        must not keep them waiting.
        """
        while True:
            with self._lock:
                if not self._passed_over or self._ending:
                    return
                self._passed_over -= 1
                job = self._jobs.pop(0)
            job()
            del job

    def _wake_putters(self) -> None:
        """Holding the lock."""
        putters, self._putters = self._putters, []
        self.loop.post(partial(self._set_all, putters))

    def _set_all(self, events: list[LoopEvent]) -> None:
        for event in events:
            self.loop.set_event(event)

    def _retract(self, event: ThreadEvent) -> bool:
        """After a wait that nobody ended. False when somebody ends it just now."""
        with self._lock:
            if self._parked is event:
                self._parked = None
                return True
        event.wait()  # taken out just now: its opening is on its way
        return False


current_calling_thread: ContextVar[CallingThread] = ContextVar("wsgi_asgi_bridge_caller")
"""In the tasks of an exchange: the thread that waits for it."""
