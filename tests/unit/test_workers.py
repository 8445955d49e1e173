"""workers.py: the thread pool, each guarantee at the top of that file a test or more.

Races are forced: the pool's lock is a LyingLock, and what the other side does is scripted to the
step of a worker (`_next_job`, `_retire`) at which it does it.
"""

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    Blocking,
    LyingLock,
    ended,
    interrupted_lock,
    must_happen,
)
from wsgi_asgi_bridge._crossing.thread_event import ThreadEvent
from wsgi_asgi_bridge._crossing.workers import (
    IDLE_SECONDS,
    Admission,
    QueueFull,
    Worker,
    WorkerPool,
)
from wsgi_asgi_bridge.errors import BridgeClosed

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


@pytest.fixture
def pools() -> Iterator[Pools]:
    pools = Pools()
    yield pools
    pools.end()


# --- a job runs once, in one thread, or is withdrawn before any thread took it


def test_nothing_is_started_before_the_first_job(pools: Pools) -> None:
    """A pool costs nothing until it is used."""
    pool, _ = pools()
    assert pool.counts().threads == 0


def test_a_job_runs_in_a_named_daemon_thread_of_the_pool(pools: Pools) -> None:
    pool, _ = pools()
    job = QuickJob()
    assert pool.submit(job) is Admission.STARTING
    job.must_run()
    assert job.thread is not None
    assert job.thread.name == f"{NAME}-1"
    assert job.thread.daemon


def test_every_job_of_every_submitter_runs_once(pools: Pools) -> None:
    pool, lock = pools(limit=4, max_queued=1000)
    jobs = [QuickJob() for _ in range(300)]

    def submit(part: list[QuickJob]) -> None:
        for job in part:
            pool.submit(job)

    submitters = [Blocking(lambda start=start: submit(jobs[start::3])) for start in range(3)]
    for submitter in submitters:
        submitter.result()
    for job in jobs:
        job.must_run()
    lock.wait_until(lambda: pool.counts().busy == 0)
    assert [job.runs for job in jobs] == [1] * len(jobs)


def test_jobs_are_taken_in_the_order_in_which_they_came(pools: Pools) -> None:
    pool, _ = pools(limit=1)
    (held,) = pools.running(pool, 1)
    order: list[int] = []
    for number in range(5):
        pool.submit(lambda worker, number=number: order.append(number))
    last = QuickJob()
    pool.submit(last)
    held.let_go()
    last.must_run()
    assert order == [0, 1, 2, 3, 4]


def test_a_job_that_waits_can_be_withdrawn_and_never_runs(pools: Pools) -> None:
    """W-FLOW-4: a request whose client leaves while it waits never takes a thread."""
    pool, lock = pools(limit=1)
    (held,) = pools.running(pool, 1)
    withdrawn, next_one = QuickJob(), QuickJob()
    pool.submit(withdrawn)
    pool.submit(next_one)
    assert pool.withdraw(withdrawn) is True
    assert pool.withdraw(withdrawn) is False
    assert pool.counts().queued == 1
    held.let_go()
    next_one.must_run()
    lock.wait_until(lambda: pool.counts().idle == 1)
    assert withdrawn.runs == 0


def test_a_job_that_a_thread_has_taken_cannot_be_withdrawn(pools: Pools) -> None:
    pool, _ = pools()
    (held,) = pools.running(pool, 1)
    assert pool.withdraw(held) is False


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_withdrawal_as_the_thread_takes_the_job_is_told_the_truth(
    pools: Pools, place: str
) -> None:
    pool, lock = pools()
    job = QuickJob()
    withdrawn: list[bool] = []
    getattr(lock, place)("_next_job", lambda: withdrawn.append(pool.withdraw(job)))
    pool.submit(job)
    lock.wait_until(lambda: pool.counts().idle == 1)
    assert lock.told
    assert withdrawn == [place == "before"]
    assert job.runs == (0 if withdrawn[0] else 1)
    after = QuickJob()  # the wake-up that found nothing has left no trace
    pool.submit(after)
    after.must_run()


def test_a_job_is_freed_before_its_thread_sleeps(pools: Pools) -> None:
    """An idle thread keeps no request alive."""
    pool, lock = pools()
    job = QuickJob()
    kept = weakref.ref(job)
    pool.submit(job)
    job.must_run()
    lock.wait_until(lambda: pool.counts().idle == 1)
    del job
    assert kept() is None


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_job_that_lets_an_exception_escape_does_not_end_its_thread(
    pools: Pools, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """W-CALL-3."""
    pool, lock = pools(limit=1)

    def broken(worker: Worker) -> None:
        raise error

    after = QuickJob()
    pool.submit(broken)
    pool.submit(after)
    after.must_run()
    lock.wait_until(lambda: pool.counts().busy == 0)
    assert pool.counts().threads == 1
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.exc_info is not None
    assert record.exc_info[0] is error


# --- at most `limit` threads that count run jobs


def test_jobs_beyond_the_limit_wait_for_a_thread(pools: Pools) -> None:
    """W-FLOW-4."""
    pool, lock = pools(limit=3)
    first = pools.running(pool, 3)
    rest = pools.held(2)
    for job in rest:
        assert pool.submit(job) is Admission.SATURATED
    counts = pool.counts()
    assert (counts.threads, counts.busy, counts.queued) == (3, 3, 2)
    assert not any(job.started() for job in rest)
    first[0].let_go()
    rest[0].must_start()
    assert not rest[1].started()
    first[1].let_go()
    rest[1].must_start()
    lock.wait_until(lambda: pool.counts().busy == 3)
    assert pool.counts().threads == 3


def test_submit_tells_how_long_the_job_has_to_wait(pools: Pools) -> None:
    """W-FLOW-4: who waits for an app to end is watched, lest its client leaves meanwhile."""
    pool, lock = pools(limit=2)
    may_begin = threading.Event()
    lock.before("_next_job", lambda: must_happen(may_begin))
    jobs = pools.held(4)
    prospects = [pool.submit(job) for job in jobs[:3]]
    assert prospects == [Admission.STARTING, Admission.STARTING, Admission.QUEUED]
    assert [pool.has_queued(job) for job in jobs] == [True, True, True, False]
    may_begin.set()
    for job in jobs[:2]:
        job.must_start()
        assert not pool.has_queued(job)
    assert pool.has_queued(jobs[2])
    assert pool.submit(jobs[3]) is Admission.SATURATED


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_job_that_comes_between_two_jobs_of_a_thread_starts_no_thread_beyond_the_limit(
    pools: Pools, place: str
) -> None:
    """W-FLOW-4: `workers` threads at most; between two jobs of its own a thread is one as well."""
    pool, lock = pools(limit=1)
    second = QuickJob()
    getattr(lock, place)("_next_job", lambda: pool.submit(second), nth=2)
    pool.submit(QuickJob())
    second.must_run()
    lock.wait_until(lambda: pool.counts().busy == 0)
    assert lock.told
    assert pool.counts().threads == 1


# --- the queue


def test_the_queue_has_an_end(pools: Pools) -> None:
    """W-FLOW-4."""
    pool, _ = pools(limit=1, max_queued=2)
    (held,) = pools.running(pool, 1)
    waiting = [QuickJob(), QuickJob()]
    for job in waiting:
        pool.submit(job)
    refused = QuickJob()
    with pytest.raises(QueueFull):
        pool.submit(refused)
    assert pool.withdraw(refused) is False
    pool.withdraw(waiting[0])
    instead = QuickJob()
    pool.submit(instead)
    held.let_go()
    instead.must_run()
    assert refused.runs == 0


def test_without_a_queue_the_first_jobs_are_taken_all_the_same(pools: Pools) -> None:
    """W-FLOW-4: `max_queued=0` refuses those for whom no thread is on its way, and nobody else."""
    pool, lock = pools(limit=2, max_queued=0)
    may_begin = threading.Event()
    lock.before("_next_job", lambda: must_happen(may_begin))
    first, second = pools.held(2)
    pool.submit(first)
    pool.submit(second)
    with pytest.raises(QueueFull):
        pool.submit(QuickJob())
    may_begin.set()
    first.must_start()
    second.must_start()
    with pytest.raises(QueueFull):
        pool.submit(QuickJob())


# --- a job that waits while a thread could be had does not go on waiting


@pytest.mark.parametrize(
    ("place", "nth"),
    [
        pytest.param("before", 1, id="before the new thread looks for work"),
        pytest.param("after", 1, id="as the new thread begins its job"),
        pytest.param("before", 2, id="before the thread looks for more"),
        pytest.param("after", 2, id="as the thread falls asleep"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2])
def test_a_job_that_comes_at_any_moment_of_a_threads_life_runs(
    pools: Pools, limit: int, place: str, nth: int
) -> None:
    pool, lock = pools(limit=limit)
    first, second = QuickJob(), QuickJob()
    getattr(lock, place)("_next_job", lambda: pool.submit(second), nth=nth)
    pool.submit(first)
    second.must_run()
    first.must_run()
    assert lock.told
    lock.wait_until(lambda: pool.counts().busy == 0)
    assert (first.runs, second.runs) == (1, 1)
    assert pool.counts().queued == 0
    assert pool.counts().threads <= limit


def test_threads_are_started_until_every_job_has_one(pools: Pools) -> None:
    pool, _ = pools(limit=5)
    for job in (jobs := pools.held(5)):
        pool.submit(job)
    for job in jobs:
        job.must_start()
    assert pool.counts().threads == 5


def test_an_idle_thread_is_taken_before_a_new_one_is_started(pools: Pools) -> None:
    pool, lock = pools(limit=5)
    (thread,) = pools.with_idle(pool, lock, 1)
    for _ in range(3):
        job = QuickJob()
        pool.submit(job)
        job.must_run()
        assert job.thread is thread
        lock.wait_until(lambda: pool.counts().idle == 1)
    assert pool.counts().threads == 1


def test_the_thread_that_slept_last_is_woken_first(pools: Pools) -> None:
    pool, lock = pools(limit=3)
    threads = pools.with_idle(pool, lock, 3)
    jobs = pools.held(3)
    for job in jobs:
        pool.submit(job)
        job.must_start()
    assert [job.thread for job in jobs] == threads[::-1]


def test_a_thread_that_finishes_takes_the_next_job_without_sleeping(
    pools: Pools, slow_gates: "SlowGates"
) -> None:
    pool, _ = pools(limit=1)
    (held,) = pools.running(pool, 1)
    waiting = [QuickJob() for _ in range(3)]
    for job in waiting:
        pool.submit(job)
    held.let_go()
    for job in waiting:
        job.must_run()
        assert job.thread is held.thread
    assert slow_gates.openings.empty()


# --- at most one wake-up is in flight


class SlowGates:
    """Gates whose opening takes until the test lets it happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.openings: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._slow = True

        class SlowGate(ThreadEvent):
            def __init__(gate) -> None:  # noqa: N805
                super().__init__()
                really_open = gate.set
                gate.set = lambda: self._opening(really_open)

        monkeypatch.setattr("wsgi_asgi_bridge._crossing.workers.ThreadEvent", SlowGate)

    def _opening(self, really_open: Callable[[], None]) -> None:
        if self._slow:
            self.openings.put(really_open)
        else:
            really_open()

    def let_one_happen(self) -> None:
        self.openings.get(timeout=WAIT_SECONDS)()

    def be_quick(self) -> None:
        self._slow = False
        while not self.openings.empty():
            self.openings.get()()


@pytest.fixture
def slow_gates(monkeypatch: pytest.MonkeyPatch, pools: Pools) -> Iterator[SlowGates]:
    gates = SlowGates(monkeypatch)
    yield gates
    gates.be_quick()


def test_the_woken_thread_wakes_the_next_one(pools: Pools, slow_gates: SlowGates) -> None:
    pool, lock = pools(limit=3)
    pools.with_idle(pool, lock, 3)
    jobs = pools.held(3)
    for job in jobs:
        pool.submit(job)
    for _ in jobs:
        assert slow_gates.openings.qsize() == 1, "one wake-up in flight, whatever is submitted"
        slow_gates.let_one_happen()
        lock.wait_until(lambda: not pool._waking or slow_gates.openings.qsize() == 1)
    for job in jobs:
        job.must_start()
    assert slow_gates.openings.empty()


def test_no_second_thread_is_started_while_one_is_on_its_way(pools: Pools) -> None:
    pool, lock = pools(limit=5)
    may_begin = threading.Event()
    lock.before("_next_job", lambda: must_happen(may_begin))
    jobs = pools.held(5)
    for job in jobs:
        pool.submit(job)
    assert pool.counts().threads == 1
    may_begin.set()
    for job in jobs:
        job.must_start()
    assert pool.counts().threads == 5


def test_a_busy_thread_may_take_the_job_that_a_wake_up_was_for(
    pools: Pools, slow_gates: SlowGates
) -> None:
    """The woken thread finds nothing and sleeps again; the next job wakes one again."""
    pool, lock = pools(limit=2)
    first, second = pools.running(pool, 2)
    second.let_go()
    lock.wait_until(lambda: pool.counts().idle == 1)
    job = QuickJob()
    pool.submit(job)  # a wake-up for the idle thread is on its way
    first.let_go()
    job.must_run()
    assert job.thread is first.thread
    slow_gates.let_one_happen()
    lock.wait_until(lambda: pool.counts().idle == 2)
    slow_gates.be_quick()
    after = QuickJob()
    pool.submit(after)
    after.must_run()


def test_a_thread_that_takes_the_job_itself_leaves_the_wake_up_in_flight(
    pools: Pools, slow_gates: SlowGates
) -> None:
    """What comes meanwhile is for the thread that is being woken, and wakes no second one."""
    pool, lock = pools(limit=3)
    (busy,) = pools.running(pool, 1)
    pools.with_idle(pool, lock, 2)
    pool.submit(first := QuickJob())
    busy.let_go()
    first.must_run()
    lock.wait_until(lambda: pool.counts().idle == 2)
    assert first.thread is busy.thread
    pool.submit(second := QuickJob())
    assert slow_gates.openings.qsize() == 1
    slow_gates.let_one_happen()
    second.must_run()


# --- idle threads end


def test_the_idle_time_is_long_against_what_starting_a_thread_costs() -> None:
    assert IDLE_SECONDS >= 1


def test_an_idle_thread_ends_and_the_next_job_starts_a_new_one(pools: Pools) -> None:
    pool, lock = pools(idle_seconds=TINY_SECONDS)
    first, second = QuickJob(), QuickJob()
    pool.submit(first)
    lock.wait_until(lambda: pool.counts().threads == 0)
    assert pool.counts().idle == 0
    pool.submit(second)
    second.must_run()
    assert second.thread is not None
    assert second.thread.name == f"{NAME}-2"


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_job_that_meets_the_end_of_an_idle_thread_runs_once(pools: Pools, place: str) -> None:
    """The wake-up and the time-out at once: either this thread takes the job or a new one does."""
    pool, lock = pools(idle_seconds=TINY_SECONDS)
    first, second = QuickJob(), QuickJob()
    getattr(lock, place)("_retire", lambda: pool.submit(second))
    pool.submit(first)
    second.must_run()
    assert lock.told
    assert (second.thread is first.thread) == (place == "before")
    lock.wait_until(lambda: pool.counts().threads == 0)
    assert second.runs == 1
    assert pool.counts().idle == 0
    pool.submit(third := QuickJob())
    third.must_run()


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_drain_that_meets_the_end_of_an_idle_thread_is_told_once(
    pools: Pools, place: str
) -> None:
    pool, lock = pools(idle_seconds=TINY_SECONDS)
    drained = threading.Event()
    calls: list[int] = []

    def on_drained() -> None:
        calls.append(1)
        drained.set()

    getattr(lock, place)("_retire", lambda: pool.drain(on_drained))
    pool.submit(QuickJob())
    must_happen(drained)
    assert lock.told
    assert pool.drained()
    assert calls == [1]


# --- the end of the pool


def test_a_drain_runs_what_is_queued_ends_the_threads_and_says_so_once(pools: Pools) -> None:
    """W-LIFE-1."""
    pool, lock = pools(limit=2)
    pools.with_idle(pool, lock, 1)
    running = pools.running(pool, 2)
    queued = [QuickJob() for _ in range(3)]
    for job in queued:
        pool.submit(job)
    drained: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    pool.drain(lambda: drained.put(threading.current_thread()))
    assert not pool.drained()
    assert drained.empty()
    for held in running:
        held.let_go()
    by = drained.get(timeout=WAIT_SECONDS)
    assert by in {held.thread for held in running}
    assert [job.runs for job in queued] == [1, 1, 1]
    assert pool.drained()
    assert pool.counts().threads == 0
    assert drained.empty()


def test_threads_that_end_at_once_report_the_drain_once(pools: Pools) -> None:
    """W-LIFE-1: told twice, a gate breaks its law and an Event hides it."""
    pool, lock = pools(limit=2)
    threads = pools.with_idle(pool, lock, 2)
    both_ended = threading.Event()
    # The first one that ends stands still until the second one has ended as well.
    lock.after("_next_job", lambda: must_happen(both_ended), nth=1)
    lock.after("_next_job", both_ended.set, nth=2)
    calls: list[threading.Thread] = []
    pool.drain(lambda: calls.append(threading.current_thread()))
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert lock.told
    assert len(calls) == 1


def test_a_drain_ends_idle_threads(pools: Pools) -> None:
    pool, lock = pools(limit=3)
    threads = pools.with_idle(pool, lock, 3)
    drained = threading.Event()
    pool.drain(drained.set)
    must_happen(drained)
    for thread in threads:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def test_a_pool_that_drains_takes_no_jobs(pools: Pools) -> None:
    pool, _ = pools()
    pools.running(pool, 1)
    pool.drain(lambda: None)
    job = QuickJob()
    with pytest.raises(BridgeClosed):
        pool.submit(job)
    assert pool.withdraw(job) is False


def test_a_pool_without_threads_is_drained_at_once(pools: Pools) -> None:
    pool, _ = pools()
    calls: list[str] = []
    pool.drain(lambda: calls.append("drained"))
    assert calls == ["drained"]
    assert pool.drained()
    pool.drain(lambda: calls.append("again"))
    assert calls == ["drained", "again"]


def test_everyone_who_drains_is_told(pools: Pools) -> None:
    pool, _ = pools()
    (held,) = pools.running(pool, 1)
    first, second = threading.Event(), threading.Event()
    pool.drain(first.set)
    pool.drain(second.set)
    held.let_go()
    must_happen(first)
    must_happen(second)


def test_a_withdrawn_job_does_not_run_in_the_drain(pools: Pools) -> None:
    pool, _ = pools(limit=1)
    (held,) = pools.running(pool, 1)
    job = QuickJob()
    pool.submit(job)
    drained = threading.Event()
    pool.drain(drained.set)
    assert pool.withdraw(job)
    held.let_go()
    must_happen(drained)
    assert job.runs == 0


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_drain_between_two_jobs_ends_the_thread(pools: Pools, place: str) -> None:
    """W-LIFE-1."""
    pool, lock = pools()
    drained = threading.Event()
    getattr(lock, place)("_next_job", lambda: pool.drain(drained.set), nth=2)
    pool.submit(QuickJob())
    must_happen(drained)
    assert lock.told


def test_a_drain_while_a_thread_is_on_its_way_waits_for_it(pools: Pools) -> None:
    pool, lock = pools()
    drained = threading.Event()
    job = QuickJob()
    lock.before("_next_job", lambda: pool.drain(drained.set))
    pool.submit(job)
    must_happen(drained)
    assert job.runs == 1


# --- a thread that cannot be started


class Refusal:
    """The system gives no more threads, while `on`: at the constructor, as an isolated
    sub-interpreter does, or at `start()`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception) -> None:
        self.on = True
        self.meanwhile: Callable[[], object] = lambda: None
        really = getattr(threading.Thread, step)

        def refused(thread: threading.Thread, *arguments: Any, **options: Any) -> None:
            name = options["name"] if step == "__init__" and "name" in options else ""
            if self.on and (name or getattr(thread, "_name", "")).startswith(NAME):
                self.meanwhile()
                raise error
            really(thread, *arguments, **options)

        monkeypatch.setattr(threading.Thread, step, refused)


@pytest.fixture(
    params=[
        pytest.param(("start", RuntimeError("can't start new thread")), id="start"),
        pytest.param(("start", MemoryError()), id="no memory"),
        pytest.param(
            ("__init__", RuntimeError("daemon threads are disabled in this (sub)interpreter")),
            id="constructor",
        ),
    ]
)
def refusal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Refusal:
    return Refusal(monkeypatch, *request.param)


def test_without_any_thread_the_submitter_is_told_and_nothing_is_queued(
    pools: Pools, refusal: Refusal
) -> None:
    pool, _ = pools()
    job = QuickJob()
    for _ in range(2):
        with pytest.raises(BridgeClosed, match="no thread could be started"):
            pool.submit(job)
        assert pool.counts().queued == 0
        assert pool.counts().threads == 0
    refusal.on = False
    after = QuickJob()
    pool.submit(after)
    after.must_run()
    assert job.runs == 0


def test_with_a_thread_at_work_the_job_waits_for_that_one(
    pools: Pools, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    pool, _ = pools(limit=3)
    refusal.on = False
    (held,) = pools.running(pool, 1)
    refusal.on = True
    job = QuickJob()
    pool.submit(job)
    assert pool.counts().queued == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    held.let_go()
    job.must_run()
    assert job.thread is held.thread


def test_the_next_job_asks_for_a_thread_again(pools: Pools, refusal: Refusal) -> None:
    pool, _ = pools(limit=3)
    refusal.on = False
    pools.running(pool, 1)
    refusal.on = True
    first = QuickJob()
    pool.submit(first)
    refusal.on = False
    second = QuickJob()
    pool.submit(second)
    first.must_run()
    second.must_run()


def test_a_refusal_to_a_worker_that_wants_the_next_thread_is_no_failure_of_its_job(
    pools: Pools, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    pool, lock = pools(limit=2)
    refusal.on = False
    may_begin = threading.Event()
    lock.before("_next_job", lambda: must_happen(may_begin))
    first, second = QuickJob(), QuickJob()
    pool.submit(first)
    pool.submit(second)
    refusal.on = True
    may_begin.set()
    first.must_run()
    second.must_run()
    assert second.thread is first.thread
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_job_without_any_thread_gets_one_at_the_next_attempt(
    pools: Pools, refusal: Refusal
) -> None:
    """It was accepted while the thread that was refused then seemed to be on its way."""
    pool, _ = pools(limit=2)
    second = QuickJob()
    refusal.meanwhile = lambda: pool.submit(second)
    with pytest.raises(BridgeClosed):
        pool.submit(QuickJob())
    assert pool.counts().queued == 1
    refusal.on = False
    pool.detach_streams()
    second.must_run()


def test_a_drain_that_meets_a_refused_thread_is_told(pools: Pools, refusal: Refusal) -> None:
    """W-LIFE-1: the thread that was being started counted as one to wait for, and is none."""
    pool, _ = pools()
    drained = threading.Event()
    refusal.meanwhile = lambda: pool.drain(drained.set)
    with pytest.raises(BridgeClosed):
        pool.submit(QuickJob())
    assert pool.drained()
    assert drained.is_set(), "close() waits for a thread that was never started"


def test_a_job_that_no_thread_will_take_is_refused(pools: Pools, refusal: Refusal) -> None:
    """The one thread there is has decided to end, and no other can be had: nobody is left to take
    the job.
    """
    pool, lock = pools(idle_seconds=TINY_SECONDS)
    refusal.on = False
    job = QuickJob()
    outcome: queue.SimpleQueue[str] = queue.SimpleQueue()

    def submit() -> None:
        refusal.on = True
        try:
            pool.submit(job)
        except BridgeClosed:
            outcome.put("refused")
        else:
            outcome.put("accepted, and will never run")

    lock.after("_retire", submit)
    pool.submit(QuickJob())
    assert outcome.get(timeout=WAIT_SECONDS) == "refused"
    assert pool.counts().queued == 0


# --- threads that do not count


def test_a_thread_that_waits_for_its_client_lets_another_start(pools: Pools) -> None:
    """W-FLOW-8."""
    pool, lock = pools(limit=2)
    first, _ = pools.running(pool, 2)
    waiting = pools.held()[0]
    assert pool.submit(waiting) is Admission.SATURATED
    back = first.go_away()
    waiting.must_start()
    counts = pool.counts()
    assert (counts.threads, counts.busy, counts.detached) == (3, 3, 1)
    back.set()
    first.must_be_back()
    lock.wait_until(lambda: pool.counts().detached == 0)


def test_a_thread_that_comes_back_does_not_wait_but_new_jobs_do(pools: Pools) -> None:
    """W-FLOW-8: the count is over the limit for a while, and no job is taken until it is below."""
    pool, _ = pools(limit=2)
    first, second = pools.running(pool, 2)
    third = pools.held()[0]
    pool.submit(third)
    back = first.go_away()
    third.must_start()
    back.set()
    first.must_be_back()
    assert pool.counts().detached == 0
    fourth = pools.held()[0]
    assert pool.submit(fourth) is Admission.SATURATED
    second.let_go()
    first.do(lambda worker: None)
    third.do(lambda worker: None)
    assert not fourth.started()
    third.let_go()
    fourth.must_start()


def test_with_a_limit_of_one_no_other_job_ever_runs_beside(pools: Pools) -> None:
    """W-ENV-7, W-FLOW-8: the app was told `wsgi.multithread` False."""
    clock = Clock()
    pool, _ = pools(limit=1, clock=clock)
    (held,) = pools.running(pool, 1)
    held.do(lambda worker: worker.mark_streaming())
    waiting = pools.held()[0]
    pool.submit(waiting)
    back = held.go_away()
    clock.now += 1000
    pool.detach_streams()
    counts = pool.counts()
    assert (counts.threads, counts.detached, counts.queued) == (1, 0, 1)
    back.set()
    held.must_be_back()
    held.let_go()
    waiting.must_start()


def test_no_more_than_max_detached_threads_are_detached(pools: Pools) -> None:
    """W-FLOW-8: `max_streams`."""
    pool, _ = pools(limit=2, max_detached=1)
    first, second = pools.running(pool, 2)
    third, fourth = pools.held(2)
    pool.submit(third)
    pool.submit(fourth)
    backs = [first.go_away(), second.go_away()]
    third.must_start()
    assert pool.counts().detached == 1
    assert pool.counts().queued == 1
    for back in backs:
        back.set()
    first.must_be_back()
    second.must_be_back()
    assert pool.counts().detached == 0
    assert not fourth.started()
    for job in (first, second):
        job.let_go()
    fourth.must_start()


def test_an_error_during_the_wait_brings_the_thread_back_into_the_count(pools: Pools) -> None:
    pool, _ = pools(limit=2)
    (held,) = pools.running(pool, 1)

    def raise_while_away(worker: Worker) -> None:
        with pytest.raises(ConnectionError), worker.detached():
            raise ConnectionError

    held.do(raise_while_away)
    assert pool.counts().detached == 0
    assert pool._counted == 1


def test_an_apps_own_thread_that_wakes_up_too_late_changes_no_count(pools: Pools) -> None:
    """W-FLOW-8: it waited for the client, in a thread of the app, for a job that is over since."""
    pool, lock = pools(limit=2)
    first, _ = pools.running(pool, 2)
    stray: list[Any] = []
    first.do(lambda worker: stray.append(worker.detached()))
    (away,) = stray
    away.__enter__()
    assert (pool.counts().detached, pool._counted) == (1, 1)
    first.let_go()
    lock.wait_until(lambda: pool.counts().idle == 1)
    away.__exit__(None, None, None)
    assert (pool.counts().detached, pool._counted) == (0, 1)
    (third,) = pools.running(pool, 1)
    assert third.thread is first.thread
    assert (pool.counts().detached, pool._counted) == (0, 2)


def test_an_apps_own_thread_that_wakes_up_in_the_next_job_changes_no_count(pools: Pools) -> None:
    """W-FLOW-8."""
    pool, lock = pools(limit=2)
    (first,) = pools.running(pool, 1)
    stray: list[Any] = []
    first.do(lambda worker: stray.append(worker.detached()))
    (away,) = stray
    away.__enter__()
    first.let_go()
    lock.wait_until(lambda: pool.counts().idle == 1)
    (next_one,) = pools.running(pool, 1)
    back = next_one.go_away()
    assert (pool.counts().detached, pool._counted) == (1, 0)
    away.__exit__(None, None, None)
    assert (pool.counts().detached, pool._counted) == (1, 0)
    back.set()
    next_one.must_be_back()
    assert (pool.counts().detached, pool._counted) == (0, 1)


def streaming(pools: Pools, **options: Any) -> tuple[WorkerPool, Clock, HeldJob, HeldJob]:
    """A pool of two: one job that has begun to stream, one that has not, and none to spare."""
    clock = Clock()
    pool, _ = pools(**({"limit": 2, "clock": clock} | options))
    stream, other = pools.running(pool, 2)
    stream.do(lambda worker: worker.mark_streaming())
    return pool, clock, stream, other


def test_a_long_stream_is_detached_once_it_is_long(pools: Pools) -> None:
    """W-FLOW-8: `stream_after`, by the pool's clock and not before."""
    pool, clock, _, _ = streaming(pools, stream_after=1.0)
    waiting = pools.held()[0]
    pool.submit(waiting)
    clock.now += 0.99
    pool.detach_streams()
    assert pool.counts().detached == 0
    assert not waiting.started()
    clock.now += 0.01
    pool.detach_streams()
    waiting.must_start()
    assert pool.counts().detached == 1
    pool.detach_streams()
    assert pool.counts().detached == 1


def test_a_job_that_does_not_stream_counts_however_long_it_takes(pools: Pools) -> None:
    """W-FLOW-8."""
    clock = Clock()
    pool, _ = pools(limit=2, clock=clock)
    pools.running(pool, 2)
    clock.now += 1000
    pool.detach_streams()
    assert (pool.counts().detached, pool._counted) == (0, 2)


def test_a_long_stream_does_not_count_again_when_its_client_has_read(pools: Pools) -> None:
    """W-FLOW-8: before and after the wait it streams."""
    pool, clock, stream, _ = streaming(pools)
    clock.now += 2
    pool.detach_streams()
    back = stream.go_away()
    back.set()
    stream.must_be_back()
    assert (pool.counts().detached, pool._counted) == (1, 1)


def test_a_stream_that_becomes_long_while_its_client_reads_does_not_count_again(
    pools: Pools,
) -> None:
    """W-FLOW-8."""
    pool, clock, stream, _ = streaming(pools)
    back = stream.go_away()
    clock.now += 2
    pool.detach_streams()
    back.set()
    stream.must_be_back()
    assert (pool.counts().detached, pool._counted) == (1, 1)


def test_a_long_stream_beyond_max_detached_counts_until_there_is_room(pools: Pools) -> None:
    """W-FLOW-8."""
    pool, clock, stream, other = streaming(pools, max_detached=1)
    other.do(lambda worker: worker.mark_streaming())
    clock.now += 2
    pool.detach_streams()
    assert (pool.counts().detached, pool._counted) == (1, 1)
    stream.let_go()
    other.do(lambda worker: None)
    pool._lock.wait_until(lambda: pool.counts().busy == 1)  # type: ignore[attr-defined]
    pool.detach_streams()
    assert (pool.counts().detached, pool._counted) == (1, 0)


def test_a_stream_that_is_long_by_its_nature_is_detached_at_once(pools: Pools) -> None:
    """W-FLOW-8: an event stream; no round of the clock is needed, and the next job has a thread."""
    pool, _, stream, other = streaming(pools, stream_after=1000.0)
    waiting = pools.held()[0]
    pool.submit(waiting)
    assert pool.counts().detached == 0
    stream.do(lambda worker: worker.mark_streaming(detach=True))
    waiting.must_start()
    assert (pool.counts().detached, pool._counted) == (1, 2)
    back = stream.go_away()
    back.set()
    stream.must_be_back()
    assert (pool.counts().detached, pool._counted) == (1, 2)
    other.let_go()


def test_an_event_stream_beyond_max_detached_is_detached_as_soon_as_it_may(pools: Pools) -> None:
    """W-FLOW-8, `max_streams`: with the next round after another has ended."""
    pool, _, stream, other = streaming(pools, max_detached=1, stream_after=1000.0)
    stream.do(lambda worker: worker.mark_streaming(detach=True))
    other.do(lambda worker: worker.mark_streaming(detach=True))
    assert (pool.counts().detached, pool._counted) == (1, 1)
    stream.let_go()
    pool._lock.wait_until(lambda: pool.counts().busy == 1)  # type: ignore[attr-defined]
    pool.detach_streams()
    assert (pool.counts().detached, pool._counted) == (1, 0)


def test_a_stream_that_begins_twice_has_begun_the_first_time(pools: Pools) -> None:
    """W-FLOW-8, W-OUT-11: with an empty chunk, and again with the first bytes."""
    pool, clock, stream, _ = streaming(pools, stream_after=1.0)
    clock.now += 1
    stream.do(lambda worker: worker.mark_streaming())
    pool.detach_streams()
    assert pool.counts().detached == 1


def test_the_next_job_of_a_thread_that_streamed_counts_again(pools: Pools) -> None:
    """W-FLOW-8."""
    pool, clock, stream, _ = streaming(pools)
    clock.now += 2
    pool.detach_streams()
    waiting = pools.held(2)
    for job in waiting:
        pool.submit(job)
    waiting[0].must_start()
    stream.let_go()
    pool._lock.wait_until(lambda: pool.counts().detached == 0)  # type: ignore[attr-defined]
    assert not waiting[1].started()
    clock.now += 1000
    pool.detach_streams()
    assert (pool.counts().detached, pool._counted) == (0, 2)


def test_nothing_of_a_long_stream_is_left_with_its_thread(pools: Pools) -> None:
    """W-FLOW-8: the thread's next job is neither long nor streaming, and counts after each wait."""
    pool, clock, stream, other = streaming(pools)
    lock: Any = pool._lock
    clock.now += 2
    pool.detach_streams()
    other.let_go()
    lock.wait_until(lambda: pool.counts().idle == 1)
    stream.let_go()
    lock.wait_until(lambda: pool.counts().idle == 2)
    (after,) = pools.running(pool, 1)
    assert after.thread is stream.thread
    clock.now += 1000
    pool.detach_streams()
    assert (pool.counts().detached, pool._counted) == (0, 1)
    back = after.go_away()
    assert (pool.counts().detached, pool._counted) == (1, 0)
    back.set()
    after.must_be_back()
    assert (pool.counts().detached, pool._counted) == (0, 1)


def test_a_stream_that_begins_after_its_job_is_over_is_none(pools: Pools) -> None:
    """W-FLOW-8: an app's own thread may be late. The next job of that thread counts all the same,
    and a thread that ends is not kept.
    """
    clock = Clock()
    pool, lock = pools(limit=2, clock=clock)
    (held,) = pools.running(pool, 1)
    workers: list[Worker] = []
    held.do(workers.append)
    held.let_go()
    lock.wait_until(lambda: pool.counts().idle == 1)
    workers.pop().mark_streaming()
    assert not pool._streams
    (after,) = pools.running(pool, 1)
    assert after.thread is held.thread
    clock.now += 1000
    pool.detach_streams()
    assert (pool.counts().detached, pool._counted) == (0, 1)


@pytest.mark.parametrize("how", ["away", "long stream"])
def test_all_books_are_closed_when_everything_is_over(pools: Pools, how: str) -> None:
    pool, clock, stream, other = streaming(pools)
    lock = pool._lock
    if how == "away":
        back = stream.go_away()
        back.set()
        stream.must_be_back()
    else:
        clock.now += 2
        pool.detach_streams()
    stream.let_go()
    other.let_go()
    lock.wait_until(lambda: pool.counts().idle == 2)  # type: ignore[attr-defined]
    counts = pool.counts()
    assert (counts.busy, counts.detached, counts.queued, pool._counted) == (0, 0, 0, 0)


def test_fifty_streams_leave_a_pool_of_two_two_threads_for_requests(pools: Pools) -> None:
    """W-FLOW-8."""
    clock = Clock()
    pool, _ = pools(limit=2, clock=clock)
    for _ in range(25):
        for stream in pools.running(pool, 2):
            stream.do(lambda worker: worker.mark_streaming())
        clock.now += 2
        pool.detach_streams()
    assert pool.counts().detached == 50
    pools.running(pool, 2)
    assert pool.submit(pools.held()[0]) is Admission.SATURATED
    assert pool.counts().queued == 1


# --- the lock


def test_ctrl_c_in_a_submit_leaves_the_lock_free(pools: Pools) -> None:
    """W-CALL-3: a loop may run in the main thread."""
    pool, real = pools()
    pool._lock = lock = interrupted_lock()
    with pytest.raises(KeyboardInterrupt):
        pool.submit(lambda worker: None)
    pool._lock = real  # type: ignore[assignment]
    assert not lock.locked()


def test_the_lock_is_free_while_a_job_runs_and_while_a_thread_sleeps(pools: Pools) -> None:
    """W-FLOW-7: the loop may take it."""
    pool, lock = pools()
    pools.running(pool, 1)
    assert ended(lambda: lock.acquire(blocking=False))
    lock.release()


@pytest.mark.parametrize("step", ["submit", "drain", "detach_streams"])
def test_nobody_is_woken_or_called_while_the_lock_is_held(pools: Pools, step: str) -> None:
    """W-FLOW-7: a wake-up is made after the lock is given back, so that the woken thread finds it
    free.
    """
    pool, lock = pools(limit=2, clock=(clock := Clock()))
    pools.with_idle(pool, lock, 1)
    free: list[bool] = []

    def note() -> None:
        taken = lock.acquire(blocking=False)
        free.append(taken)
        if taken:
            lock.release()

    worker = pool._idle[0]
    really_open = worker.event.set

    def noted_open() -> None:
        note()
        really_open()

    worker.event.set = noted_open
    if step == "submit":
        pool.submit(job := QuickJob())
        job.must_run()
    elif step == "drain":
        drained = threading.Event()
        pool.drain(drained.set)
        must_happen(drained)
    else:
        pools.running(pool, 2)
        clock.now += 2
        pool.detach_streams()
    assert free
    assert all(free)


def test_queued_jobs_that_are_dropped_never_run(pools: Pools) -> None:
    """W-LIFE-2: those that are still behind a stuck one when nobody waits for them any longer."""
    pool, _ = pools(limit=1)
    (held,) = pools.running(pool, 1)
    queued = QuickJob()
    pool.submit(queued)
    drained = threading.Event()
    pool.drain(drained.set)
    pool.drop_queued()
    assert pool.counts().queued == 0
    held.let_go()
    must_happen(drained)
    assert queued.runs == 0
