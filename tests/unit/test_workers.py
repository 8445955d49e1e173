"""workers.py: the thread pool, each guarantee at the top of that file a test or more.

Races are forced: the pool's lock is a LyingLock, and what the other side does is scripted to the
step of a worker (`_next_job`, `_leave_idle`) at which it does it.
"""

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    Blocking,
    must_happen,
)
from tests.support.worker_pools import NAME, Pools, QuickJob
from wsgi_asgi_bridge._crossing.thread_event import ThreadEvent
from wsgi_asgi_bridge._crossing.workers import (
    IDLE_SECONDS,
    Admission,
    QueueFull,
    Worker,
)

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
def test_withdrawal_as_thread_takes_the_job_is_told_the_truth(pools: Pools, place: str) -> None:
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
def test_job_that_lets_exception_escape_does_not_end_its_thread(
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
def test_a_job_between_two_of_a_thread_starts_no_other_thread(pools: Pools, place: str) -> None:
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


def test_thread_that_finishes_takes_next_job_without_sleeping(
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


def test_no_second_thread_is_started_while_one_is_pending(pools: Pools) -> None:
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


def test_thread_that_takes_job_itself_leaves_wake_up_in_flight(
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


def test_idle_time_is_long_against_what_starting_a_thread_costs() -> None:
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
def test_drain_that_meets_the_end_of_an_idle_thread_is_told_once(pools: Pools, place: str) -> None:
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
