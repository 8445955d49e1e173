"""Jobs that a test holds, and thread pools whose lock can lie."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from tests.support.interleaving import (
    WAIT_SECONDS,
    LyingLock,
    must_happen,
)
from wsgi_asgi_bridge._crossing.workers import (
    Worker,
    WorkerPool,
)

NAME = "wsgi_asgi_bridge-unit"


class HeldJob:
    """A job that runs until it is let go; meanwhile it does what the test asks for."""

    def __init__(self) -> None:
        self.runs = 0
        self.thread: threading.Thread | None = None
        self._started = threading.Event()
        self._asked: queue.SimpleQueue[Callable[[Worker], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def __call__(self, worker: Worker) -> None:
        self.runs += 1
        self.thread = threading.current_thread()
        self._started.set()
        while (what := self._asked.get(timeout=WAIT_SECONDS)) is not None:
            self._answers.put(what(worker))

    def started(self) -> bool:
        return self._started.is_set()

    def must_start(self) -> None:
        must_happen(self._started)

    def do(self, what: Callable[[Worker], object]) -> None:
        """Have the job do something, and wait until it has."""
        self._asked.put(what)
        self._answers.get(timeout=WAIT_SECONDS)

    def let_go(self) -> None:
        self._asked.put(None)

    def go_away(self) -> threading.Event:
        """Have the job wait for its client, until the event that is given back is set."""
        back, gone = threading.Event(), threading.Event()

        def away(worker: Worker) -> None:
            with worker.detached():
                gone.set()
                must_happen(back)

        self._asked.put(away)
        must_happen(gone)
        return back

    def must_be_back(self) -> None:
        self._answers.get(timeout=WAIT_SECONDS)


class QuickJob:
    """A job that notes that it ran."""

    def __init__(self) -> None:
        self.runs = 0
        self.thread: threading.Thread | None = None
        self._ran = threading.Event()

    def __call__(self, worker: Worker) -> None:
        self.runs += 1
        self.thread = threading.current_thread()
        self._ran.set()

    def must_run(self) -> None:
        must_happen(self._ran)


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Pools:
    """Makes pools whose lock can lie, and ends them."""

    def __init__(self) -> None:
        self._pools: list[WorkerPool] = []
        self._held: list[HeldJob] = []

    def __call__(self, **options: Any) -> tuple[WorkerPool, LyingLock]:
        settings: dict[str, Any] = {
            "limit": 2,
            "max_queued": 100,
            "max_detached": 100,
            "stream_after": 1.0,
            "name": NAME,
        }
        pool = WorkerPool(**(settings | options))
        pool._lock = lock = LyingLock()  # type: ignore[assignment]
        self._pools.append(pool)
        return pool, lock

    def held(self, count: int = 1) -> list[HeldJob]:
        jobs = [HeldJob() for _ in range(count)]
        self._held += jobs
        return jobs

    def running(self, pool: WorkerPool, count: int) -> list[HeldJob]:
        """`count` held jobs that have started."""
        jobs = self.held(count)
        for job in jobs:
            pool.submit(job)
        for job in jobs:
            job.must_start()
        return jobs

    def with_idle(self, pool: WorkerPool, lock: LyingLock, count: int) -> list[threading.Thread]:
        """Let `count` threads fall asleep, one after the other; in that order."""
        threads: list[threading.Thread] = []
        for idle, job in enumerate(self.running(pool, count), 1):
            job.let_go()
            lock.wait_until(lambda idle=idle: pool.counts().idle == idle)
            assert job.thread is not None
            threads.append(job.thread)
        return threads

    def end(self) -> None:
        for job in self._held:
            job.let_go()
        for pool in self._pools:
            if not pool.drained():
                drained = threading.Event()
                pool.drain(drained.set)
                must_happen(drained)
