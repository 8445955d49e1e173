"""The thread pool.

Guarantees. A job runs once, in one thread, or is withdrawn before any thread took it. At most
`limit` threads that count run jobs. A job that waits while a thread that counts could be had does
not go on waiting.

Waking a thread is what a hand-off costs, so at most one wake-up is in flight: the woken thread,
before it begins its own job, wakes the next one if jobs are still waiting. A thread that finishes
takes the next job without sleeping. Idle threads are a stack: the one that slept last is the one
whose caches are warm.

The race. Submit and the thread that finds no work both hold the pool's lock: either the thread sees
the job, or submit sees the thread among the idle ones. A thread is taken off that stack by whoever
wakes it, under the lock, and its event is opened once after; see thread_event.py.

Threads that do not count. A thread that waits for its client, and one whose response has been
streaming for `stream_after` seconds or is sure to, are detached from the count, up to
`max_detached` of them, so that others may start in their place (W-FLOW-8). With a limit of one none
ever leaves: that app was promised that it is alone.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from ..errors import BridgeClosed
from .thread_event import ThreadEvent

__all__ = ["IDLE_SECONDS", "Admission", "Job", "PoolCounts", "QueueFull", "Worker", "WorkerPool"]

logger = logging.getLogger("wsgi_asgi_bridge")

IDLE_SECONDS = 30.0
"""An idle thread ends after this long; one costs next to nothing to keep and about 100 us to
start.
"""


class Admission(Enum):
    """How long a job just submitted has to wait."""

    STARTING = (
        "for nothing: a thread is there or on its way, unless a busy one comes back to the count"
    )
    QUEUED = "for jobs that were submitted before and have not begun"
    SATURATED = "for an app: every thread runs one"


_STARTING, _QUEUED, _SATURATED = Admission
"""By themselves: in 3.11 a member that is looked up costs as much as a call."""


class QueueFull(Exception):
    """`max_queued` jobs wait already."""


class Worker:
    """One pool thread, as the job that it runs sees it."""

    __slots__ = (
        "_pool",
        "bound_to",
        "busy",
        "counted",
        "event",
        "job_number",
        "stays_detached",
        "streaming_since",
    )

    def __init__(self, pool: "WorkerPool") -> None:
        self._pool = pool
        self.event = ThreadEvent()
        self.bound_to: object = None
        """What the thread was last bound to; the job's own to use."""
        # The rest belongs to the pool's lock.
        self.busy = False
        self.counted = False
        self.job_number = 0
        self.streaming_since = 0.0
        self.stays_detached = False

    def mark_streaming(self, *, detach: bool = False) -> None:
        """From now on the job streams its response; `stream_after` seconds later its thread leaves
        the count, or `detach`.
        """
        self._pool._mark_streaming(self, detach)

    @contextmanager
    def detached(self) -> Generator[None]:
        """Around a wait for the client: meanwhile this thread does not count."""
        detached_in = self._pool._detach(self)
        try:
            yield
        finally:
            self._pool._reattach(self, detached_in)


Job = Callable[[Worker], None]


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """Threads and jobs at one instant."""

    threads: int
    idle: int
    busy: int
    detached: int
    queued: int


class WorkerPool:
    """Threads that start as needed and end when idle, or when the pool is closed and drained."""

    def __init__(
        self,
        *,
        limit: int,
        max_queued: int,
        max_detached: int,
        stream_after: float,
        name: str,
        clock: Callable[[], float] = time.monotonic,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._limit = limit
        self._max_queued = max_queued
        self._max_detached = max_detached if limit > 1 else 0
        self._stream_after = stream_after
        self._name = name
        self._clock = clock
        self._idle_seconds = idle_seconds
        # All below belongs to the lock, which is held for a few statements at a time: a loop may
        # take it. Where each worker passes, it is taken by acquire() and release(): half the price
        # of `with`. A loop may run in the main thread, where Ctrl-C between acquire() and `try`
        # would leave the lock held. A signal's handler that asks for counts() re-enters it.
        self._lock = threading.RLock()
        self._jobs: OrderedDict[Job, None] = OrderedDict()
        self._idle: list[Worker] = []
        self._streams: set[Worker] = set()
        self._counted = 0
        self._detached = 0
        self._threads = 0
        self._started = 0
        self._waking = False
        self._closing = False
        self._on_drained: list[Callable[[], None]] = []

    # ------------------------------------------------------------ the loop's side (any thread)

    def submit(self, job: Job) -> Admission:
        """Queue `job`.

        Raises QueueFull, and BridgeClosed once `drain` was called or when no thread can be had at
        all.
        """
        wake = None
        with self._lock:
            if self._closing:
                raise BridgeClosed("the bridge is shutting down and takes no new requests")
            ahead = len(self._jobs)
            # The first `limit` jobs are not queued for long: a thread is on its way for each of
            # them.
            free = self._limit - self._counted
            if ahead >= self._max_queued and ahead >= self._max_queued + free:
                raise QueueFull
            self._jobs[job] = None
            if free > 0 and not self._waking:
                wake = self._next_to_wake()
        if wake is not None:
            wake()
            if self._has_no_threads() and self.withdraw(job):
                raise BridgeClosed("no thread could be started to run this request")
        if free <= 0:
            return _SATURATED
        return _STARTING if ahead < free else _QUEUED

    def has_queued(self, job: Job) -> bool:
        """Whether no thread has taken the job yet."""
        with self._lock:
            return job in self._jobs

    def withdraw(self, job: Job) -> bool:
        """Take a job back that no thread has taken yet. False when one has."""
        with self._lock:
            if job not in self._jobs:
                return False
            del self._jobs[job]
            return True

    def detach_streams(self) -> None:
        """Let the threads leave the count whose responses have been streaming for long; call it now
        and then.
        """
        with self._lock:
            since = self._clock() - self._stream_after
            for worker in self._streams:
                if worker.streaming_since <= since:
                    worker.stays_detached = True
                    self._detach_worker(worker)
            wake = self._next_to_wake()  # also where a thread could not be started before
        if wake is not None:
            wake()

    def drain(self, on_drained: Callable[[], None]) -> None:
        """Take no new jobs, run the queued ones, then end all threads; `on_drained` is called by
        the last of them.
        """
        with self._lock:
            self._closing = True
            idle, self._idle = self._idle, []
            ended = not self._threads
            if not ended:
                self._on_drained.append(on_drained)
        for worker in idle:
            worker.event.set()
        if ended:
            on_drained()

    def drop_queued(self) -> None:
        """Begin no more jobs; `drain` was called, and nobody waits for them any longer."""
        with self._lock:
            self._jobs.clear()

    def drained(self) -> bool:
        """Whether `drain` was called and every thread has ended.

        Without the lock, since who closes asks in the main thread: a signal's handler that
        interrupts it and closes as well would wait for threads that need the lock.
        """
        return self._closing and not self._threads

    def counts(self) -> PoolCounts:
        """Any thread, also in a signal's handler, which may find one of its own thread's changes
        half made.
        """
        with self._lock:
            return PoolCounts(
                threads=self._threads,
                idle=len(self._idle),
                busy=self._counted + self._detached,
                detached=self._detached,
                queued=len(self._jobs),
            )

    # ------------------------------------------------------------ the worker's side

    def _work(self, worker: Worker) -> None:
        job = self._next_job(worker, woken=True)
        while job is not None:
            try:
                job(worker)
            except BaseException:
                logger.critical(
                    "a job let an exception escape: a bug in wsgi_asgi_bridge", exc_info=True
                )
            job = None  # the request is freed before this thread sleeps
            job = self._next_job(worker, woken=False)
        self._report_drained()

    def _next_job(self, worker: Worker, *, woken: bool) -> Job | None:
        """The next job, asleep until there is one. None: the thread is to end."""
        while True:
            job = wake = None
            self._lock.acquire()
            try:
                if woken:
                    self._waking = False
                else:
                    # In one step with taking the next job: in between, the count would say that a
                    # thread is missing.
                    self._end_job(worker)
                if self._jobs and self._counted < self._limit:
                    job, _ = self._jobs.popitem(last=False)
                    self._counted += 1
                    worker.busy = worker.counted = True
                    worker.job_number += 1
                elif self._closing:
                    self._threads -= 1
                    return None
                else:
                    self._idle.append(worker)
                if self._jobs and not self._waking:
                    wake = self._next_to_wake()
            finally:
                self._lock.release()
            if wake is not None:
                wake()
            if job is not None:
                return job
            if not worker.event.wait(self._idle_seconds) and self._retire(worker):
                return None
            woken = True

    def _end_job(self, worker: Worker) -> None:
        """Holding the lock: close the books on the job that is over."""
        if worker.counted:
            self._counted -= 1
        else:
            self._detached -= 1
        worker.busy = worker.counted = False
        if worker in self._streams:
            self._streams.remove(worker)
            worker.stays_detached = False

    def _retire(self, worker: Worker) -> bool:
        """After a long sleep: True when the thread may end, False when it was woken just now."""
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                self._threads -= 1
                return True
        worker.event.wait()  # its opening is on its way
        return False

    # ------------------------------------------------------------ waking

    def _next_to_wake(self) -> Callable[[], None] | None:
        """Holding the lock: who is to be woken for the waiting jobs, as a call to make without the
        lock.
        """
        if not self._jobs or self._waking or self._counted >= self._limit:
            return None
        self._waking = True
        if self._idle:
            return self._idle.pop().event.set
        self._threads += 1
        self._started += 1
        number = self._started
        return lambda: self._start(number)

    def _start(self, number: int) -> None:
        """Start a thread.

        Where the system gives none, the jobs wait for another thread, or for the next attempt.
        """
        worker = Worker(self)
        try:
            # An isolated sub-interpreter does not even construct a daemon thread.
            threading.Thread(
                target=self._work, args=(worker,), name=f"{self._name}-{number}", daemon=True
            ).start()
        except Exception as exc:
            with self._lock:
                self._waking = False
                self._threads -= 1
                running = self._threads
            logger.error("no worker thread could be started (%r); %d are running", exc, running)
            self._report_drained()

    def _report_drained(self) -> None:
        """If this was the last thread of a pool that is closing."""
        callbacks: list[Callable[[], None]] = []
        with self._lock:
            if self._closing and not self._threads:
                callbacks, self._on_drained = self._on_drained, callbacks
        for callback in callbacks:
            callback()

    def _has_no_threads(self) -> bool:
        with self._lock:
            return not self._threads

    # ------------------------------------------------------------ who counts

    def _mark_streaming(self, worker: Worker, detach: bool) -> None:
        since = self._clock()
        if detach:
            since -= self._stream_after  # where too many are detached now: with the next round
        wake = None
        with self._lock:
            # An app may begin in a thread of its own, after the job is over.
            if not worker.busy:
                return
            if worker not in self._streams or since < worker.streaming_since:
                worker.streaming_since = since
                self._streams.add(worker)
            if detach:
                worker.stays_detached = True
                self._detach_worker(worker)
                wake = self._next_to_wake()
        if wake is not None:
            wake()

    def _detach(self, worker: Worker) -> int | None:
        """The number of the job that the worker left the count in, None when it did not leave."""
        with self._lock:
            if not (worker.busy and self._detach_worker(worker)):
                return None
            detached_in = worker.job_number
            wake = self._next_to_wake()
        if wake is not None:
            wake()
        return detached_in

    def _reattach(self, worker: Worker, detached_in: int | None) -> None:
        # An app may wait for its client in a thread of its own, which wakes up after the job is
        # over: then the books are closed. Without asking whether there is room: the app is in the
        # middle of its response, and making it wait for other requests could make it wait for ever.
        # New jobs wait until the count is below the limit.
        with self._lock:
            same_job = worker.busy and worker.job_number == detached_in
            if same_job and not worker.counted and not worker.stays_detached:
                worker.counted = True
                self._counted += 1
                self._detached -= 1

    def _detach_worker(self, worker: Worker) -> bool:
        """Holding the lock. False when the worker does not count, or has to."""
        if not worker.counted or self._detached >= self._max_detached:
            return False
        worker.counted = False
        self._counted -= 1
        self._detached += 1
        return True
