"""The thread pool.

Guarantees. A job runs once, in one thread, or is withdrawn before any thread took it. At most
`limit` threads that are not detached run jobs. No job waits while fewer do.

A wake-up is most of what a hand-off costs, so at most one is in flight: the woken thread wakes the
next one, before it begins its own job, if jobs still wait. A thread that ends a job takes the next
one without a wait. Idle threads are a stack, since the caches of the last one are warm.

The race. `submit` and a thread that finds no job both hold the pool's lock: either the thread sees
the job, or `submit` sees the thread among the idle ones. Whoever wakes a thread takes it off that
stack under the lock and sets its event once after; see thread_event.py.

Detached threads. A thread that waits for its client is detached, and so is one whose response has
been streaming for `stream_after` seconds, or is sure to: up to `max_detached`, so that others start
in their place (W-FLOW-8). With a limit of one none is, since that app must not run twice at once.
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
"""An idle thread ends after this long; it costs little to keep and about 100 us to start."""


class Admission(Enum):
    """What a job waits for that was just submitted."""

    STARTING = "a thread is free or being started"
    QUEUED = "jobs that were submitted before and have not begun"
    SATURATED = "every thread runs a job"


_STARTING, _QUEUED, _SATURATED = Admission
"""Looking a member up costs as much as a call on Python 3.11."""


class QueueFull(Exception):
    """`max_queued` jobs are waiting."""


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
        self.event: ThreadEvent = ThreadEvent()
        self.bound_to: object = None
        """What the thread was last bound to; for the jobs alone."""
        # The rest belongs to the pool's lock.
        self.busy: bool = False
        self.counted: bool = False
        self.job_number: int = 0
        self.streaming_since: float = 0.0
        self.stays_detached: bool = False

    def mark_streaming(self, *, detach: bool = False) -> bool:
        """The job streams its response: detach the thread after `stream_after` seconds, or now.

        It then stays detached until the job ends. False if it counts, though the pool has threads
        for other jobs.
        """
        return self._pool._mark_streaming(self, detach)

    @contextmanager
    def detached(self) -> Generator[None]:
        """Around a wait for the client: the thread does not count in `limit` meanwhile."""
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
        # The lock guards all below, for a few statements at a time, so that a loop may take it. A
        # worker takes it by acquire() and release(), half the price of `with`, which a main thread
        # needs for Ctrl-C between acquire() and `try`. A signal's handler may re-enter it.
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

        Raises QueueFull, and BridgeClosed once `drain` was called or if no thread can be started.
        """
        wake = None
        with self._lock:
            if self._closing:
                raise BridgeClosed("the bridge is shutting down and takes no new requests")
            ahead = len(self._jobs)
            # A thread is being started for each of the first `limit` jobs.
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
        """Take back a job that no thread has taken yet. False if one has."""
        with self._lock:
            if job not in self._jobs:
                return False
            del self._jobs[job]
            return True

    def detach_streams(self) -> None:
        """Detach the threads that have been streaming for `stream_after`; called every round."""
        with self._lock:
            since = self._clock() - self._stream_after
            for worker in self._streams:
                if worker.streaming_since <= since:
                    worker.stays_detached = True
                    self._detach_worker(worker)
            wake = self._next_to_wake()  # also if a thread could not be started before
        if wake is not None:
            wake()

    def drain(self, on_drained: Callable[[], None]) -> None:
        """Take no new jobs, run the queued ones, then end all threads.

        The last of them calls `on_drained`.
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
        """Drop the queued jobs, after `drain`; those that run go on."""
        with self._lock:
            self._jobs.clear()

    def drained(self) -> bool:
        """Whether `drain` was called and every thread has ended.

        Without the lock: the main thread asks while it closes, and a signal's handler that closes
        too would wait for threads that need the lock.
        """
        return self._closing and not self._threads

    def counts(self) -> PoolCounts:
        """Any thread; a signal's handler may see a change of its own thread half made."""
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
            job = None  # the request is freed before this thread waits
            job = self._next_job(worker, woken=False)
        self._report_drained()

    def _next_job(self, worker: Worker, *, woken: bool) -> Job | None:
        """Wait for the next job. None: the thread is to end."""
        while True:
            job = wake = None
            self._lock.acquire()
            try:
                if woken:
                    self._waking = False
                else:
                    # In one step with taking the next job, since another thread would be started
                    # in between.
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
        """Holding the lock: the job has ended, and with it what was recorded for it."""
        if worker.counted:
            self._counted -= 1
        else:
            self._detached -= 1
        worker.busy = worker.counted = False
        if worker in self._streams:
            self._streams.remove(worker)
            worker.stays_detached = False

    def _retire(self, worker: Worker) -> bool:
        """After an idle wait: True if the thread may end, False if it is woken just now."""
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                self._threads -= 1
                return True
        worker.event.wait()  # taken out just now, so it is set in a moment
        return False

    # ------------------------------------------------------------ waking

    def _next_to_wake(self) -> Callable[[], None] | None:
        """Holding the lock: a call, to make without it, that wakes a thread for the queued jobs."""
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
        """Start a thread. If the system gives none, the jobs wait for another, or the next try."""
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
        """Call `on_drained` if no thread is left in a pool that is closing."""
        callbacks: list[Callable[[], None]] = []
        with self._lock:
            if self._closing and not self._threads:
                callbacks, self._on_drained = self._on_drained, callbacks
        for callback in callbacks:
            callback()

    def _has_no_threads(self) -> bool:
        with self._lock:
            return not self._threads

    # ------------------------------------------------------------ detached threads

    def _mark_streaming(self, worker: Worker, detach: bool) -> bool:
        since = self._clock()
        if detach:
            since -= self._stream_after  # if too many are detached now: in the next round
        wake = None
        with self._lock:
            # A thread of the app's own may call this after the job has ended.
            if not worker.busy:
                return False
            if worker not in self._streams or since < worker.streaming_since:
                worker.streaming_since = since
                self._streams.add(worker)
            if detach:
                worker.stays_detached = True
                self._detach_worker(worker)
                wake = self._next_to_wake()
            shared = worker.counted and self._limit > 1
        if wake is not None:
            wake()
        return not shared

    def _detach(self, worker: Worker) -> int | None:
        """The number of the job in which the worker was detached, None if it was not."""
        with self._lock:
            if not (worker.busy and self._detach_worker(worker)):
                return None
            detached_in = worker.job_number
            wake = self._next_to_wake()
        if wake is not None:
            wake()
        return detached_in

    def _reattach(self, worker: Worker, detached_in: int | None) -> None:
        # A thread of the app's own may come back after the job has ended: hence the number. The
        # count may exceed the limit here, and new jobs wait: an app that had to wait for others in
        # the middle of its response could wait for ever.
        with self._lock:
            same_job = worker.busy and worker.job_number == detached_in
            if same_job and not worker.counted and not worker.stays_detached:
                worker.counted = True
                self._counted += 1
                self._detached -= 1

    def _detach_worker(self, worker: Worker) -> bool:
        """Holding the lock. False if it is detached already, or no more may be."""
        if not worker.counted or self._detached >= self._max_detached:
            return False
        worker.counted = False
        self._counted -= 1
        self._detached += 1
        return True
