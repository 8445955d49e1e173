"""workers.py: the threads that do not count, since they stream or wait for their client."""

from typing import Any

import pytest

from tests.support.worker_pools import Clock, HeldJob, Pools, QuickJob
from wsgi_asgi_bridge._crossing.workers import (
    Admission,
    QueueFull,
    Worker,
    WorkerPool,
)

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


def test_threads_that_came_back_take_nothing_from_the_queue(pools: Pools) -> None:
    """W-FLOW-4: `max_queued` jobs may wait, also while more threads than the limit count."""
    pool, _ = pools(limit=2, max_queued=2)
    away = pools.running(pool, 2)
    backs = [job.go_away() for job in away]
    pools.running(pool, 2)
    for job, back in zip(away, backs, strict=True):
        back.set()
        job.must_be_back()
    assert [pool.submit(QuickJob()) for _ in range(2)] == [Admission.SATURATED] * 2
    with pytest.raises(QueueFull):
        pool.submit(QuickJob())


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


def test_error_during_wait_brings_the_thread_back_into_the_count(pools: Pools) -> None:
    pool, _ = pools(limit=2)
    (held,) = pools.running(pool, 1)

    def raise_while_away(worker: Worker) -> None:
        with pytest.raises(ConnectionError), worker.detached():
            raise ConnectionError

    held.do(raise_while_away)
    assert pool.counts().detached == 0
    assert pool._counted == 1


def test_apps_own_thread_that_wakes_up_too_late_changes_no_count(pools: Pools) -> None:
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


def test_an_apps_thread_that_wakes_a_job_later_changes_no_count(pools: Pools) -> None:
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


def test_a_long_stream_does_not_count_again_after_a_read(pools: Pools) -> None:
    """W-FLOW-8: before and after the wait it streams."""
    pool, clock, stream, _ = streaming(pools)
    clock.now += 2
    pool.detach_streams()
    back = stream.go_away()
    back.set()
    stream.must_be_back()
    assert (pool.counts().detached, pool._counted) == (1, 1)


def test_a_stream_that_becomes_long_then_does_not_count_again(
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


def test_a_stream_beyond_max_detached_counts_until_there_is_room(pools: Pools) -> None:
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


def test_an_event_stream_is_detached_as_soon_as_there_is_room(pools: Pools) -> None:
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


def test_fifty_streams_leave_a_pool_of_two_its_two_threads(pools: Pools) -> None:
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
