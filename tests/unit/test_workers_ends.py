"""workers.py: the end of the pool, threads that cannot be started, and the lock."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    ended,
    interrupted_lock,
    must_happen,
    signals_spare_locks,
)
from tests.support.worker_pools import NAME, Clock, Pools, QuickJob
from wsgi_asgi_bridge.errors import BridgeClosed

# --- the end of the pool


def test_drain_runs_what_is_queued_ends_threads_and_says_so_once(pools: Pools) -> None:
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


def test_a_drain_while_a_thread_is_pending_waits_for_it(pools: Pools) -> None:
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


def test_without_any_thread_submit_raises_and_nothing_is_queued(
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


def test_a_refused_next_thread_is_no_failure_of_the_workers_job(
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


# --- the lock


@signals_spare_locks
def test_ctrl_c_in_a_submit_leaves_the_lock_free(pools: Pools) -> None:
    """W-CALL-3: a loop may run in the main thread."""
    pool, real = pools()
    pool._lock = lock = interrupted_lock()
    with pytest.raises(KeyboardInterrupt):
        pool.submit(lambda worker: None)
    pool._lock = real  # type: ignore[assignment]
    assert not lock.locked()


def test_lock_is_free_while_a_job_runs_and_while_a_thread_sleeps(pools: Pools) -> None:
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
