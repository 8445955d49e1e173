"""calling_thread_executor.py: thread-sensitive code runs in the thread that waits for it."""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import uvloop
from asgiref.current_thread_executor import CurrentThreadExecutor
from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext, sync_to_async

from tests.support.interleaving import WAIT_SECONDS, Blocking, must_happen, soon_in_this_loop
from wsgi_asgi_bridge._crossing import calling_thread_executor
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread, current_calling_thread
from wsgi_asgi_bridge._crossing.calling_thread_executor import (
    CallingThreadExecutor,
    call_from_task,
    waits_for_this_task,
)
from wsgi_asgi_bridge._crossing.loops import running_loop_handle

NAME = "wsgi_asgi_bridge-unit"
Work = Callable[[], Coroutine[Any, Any, Any]]

on_asyncio_loops = pytest.mark.parametrize(
    "run",
    [asyncio.SelectorEventLoop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
    indirect=True,
)
"""asgiref knows no other loops."""


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Work], Any]]:
    """Runs a coroutine function in a loop, for a bounded time."""
    with asyncio.Runner(loop_factory=request.param) as runner:

        def run(work: Work) -> Any:
            async def bounded() -> Any:
                return await asyncio.wait_for(work(), WAIT_SECONDS)

            # Django's test clients leave variables of asgiref set in this thread's context.
            return runner.run(bounded(), context=contextvars.Context())

        yield run


@pytest.fixture
def executor() -> Iterator[CallingThreadExecutor]:
    executor = CallingThreadExecutor(NAME, backend="asyncio")
    yield executor
    executor.close()


def current_thread() -> Coroutine[Any, Any, threading.Thread]:
    """The thread that this task's thread-sensitive code runs in."""
    find: Any = sync_to_async(threading.current_thread, thread_sensitive=True)
    found: Coroutine[Any, Any, threading.Thread] = find()
    return found


class Request:
    """A calling thread that waits in `caller` for the end of its exchange. Made in the loop."""

    def __init__(self) -> None:
        self.caller = CallingThread(running_loop_handle(), 100)
        self._waiting = Blocking(lambda: self.caller.take_from_thread(None, None))
        self.thread = self._waiting.thread

    def end(self) -> None:
        self.caller.put_in_loop(b"", last=True)
        self._waiting.result()

    def leave(self) -> None:
        self.end()
        self.caller.finish_from_thread()


@contextlib.contextmanager
def request() -> Iterator[Request]:
    made = Request()
    yield made
    made.end()


async def enter(executor: CallingThreadExecutor, caller: CallingThread) -> None:
    if not executor.entered_in_loop(caller):
        await executor.enter_own_in_loop()


@on_asyncio_loops
def test_thread_sensitive_code_runs_in_the_calling_thread(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4."""

    async def app() -> None:
        with request() as ours:
            await enter(executor, ours.caller)
            assert await current_thread() is ours.thread
            assert await asyncio.create_task(current_thread()) is ours.thread

    run(app)


@on_asyncio_loops
def test_each_request_has_its_own_thread(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4: through one executor, at the same time."""

    async def app(ours: Request) -> None:
        await enter(executor, ours.caller)
        for _ in range(5):
            assert await current_thread() is ours.thread
            await asyncio.sleep(0)

    async def several() -> None:
        with request() as first, request() as second, request() as third:
            await asyncio.gather(app(first), app(second), app(third))

    run(several)


@on_asyncio_loops
def test_what_one_request_enters_no_other_task_sees(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-3: a context variable that is set in a task ends with it."""

    async def app(ours: Request) -> None:
        await enter(executor, ours.caller)

    async def outside() -> None:
        with request() as ours:
            await asyncio.create_task(app(ours))
            assert SyncToAsync.thread_sensitive_context.get(None) is None
            assert await current_thread() is not ours.thread

    run(outside)


@on_asyncio_loops
def test_a_caller_inside_asgirefs_code_gets_its_own_executor(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4: what the caller's context holds would otherwise win over the shared executor."""

    async def app() -> None:
        with request() as ours:
            async with ThreadSensitiveContext():
                await enter(executor, ours.caller)
                assert await current_thread() is ours.thread
                assert await asyncio.create_task(current_thread()) is ours.thread

    run(app)


@on_asyncio_loops
def test_a_caller_below_async_to_sync_keeps_its_code_from_above(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4: the thread above waits for something else, perhaps for this very request."""

    async def app() -> None:
        with request() as ours, ThreadPoolExecutor(1) as above:
            AsyncToSync.executors.current = above  # as `async_to_sync` leaves it in the context
            await enter(executor, ours.caller)
            assert await current_thread() is ours.thread
            assert await asyncio.create_task(current_thread()) is ours.thread

    run(app)


@on_asyncio_loops
def test_a_job_goes_past_a_thread_that_waits_no_more(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4: a task may outlive the `async_to_sync` that has started it, while its thread runs
    another job.
    """

    async def app() -> None:
        with request() as ours:
            await enter(executor, ours.caller)
            ran, go_on, done = asyncio.Event(), threading.Event(), threading.Event()
            ours.caller.call_in_thread(partial(_in_job, soon_in_this_loop(), ran.set, go_on))
            await ran.wait()
            AsyncToSync.executors.current = ended = CurrentThreadExecutor(None)
            over: Future[None] = Future()
            over.set_result(None)
            ended.run_until_future(over)
            assert waits_for_this_task(ours.caller)
            assert call_from_task(ours.caller, done.set)
            go_on.set()
            await asyncio.to_thread(must_happen, done)

    run(app)


@on_asyncio_loops
def test_a_job_is_passed_on_by_another_thread_that_waits(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4: code in a thread of the app's own reads while the calling thread runs a job."""

    async def app() -> None:
        with request() as ours, ThreadPoolExecutor(1) as other:
            await enter(executor, ours.caller)
            ran, go_on, done = asyncio.Event(), threading.Event(), threading.Event()
            ours.caller.call_in_thread(partial(_in_job, soon_in_this_loop(), ran.set, go_on))
            await ran.wait()
            AsyncToSync.executors.current = other
            threads: list[threading.Thread] = []

            def job() -> None:
                threads.append(threading.current_thread())
                done.set()

            assert call_from_task(ours.caller, job)
            await asyncio.to_thread(other.submit(go_on.set).result)
            await asyncio.to_thread(must_happen, done)
            assert threads == [ours.thread]

    run(app)


def _in_job(soon: Callable[[Any], object], tell: Callable[[], None], go_on: Any) -> None:
    soon(tell)
    must_happen(go_on)


@on_asyncio_loops
def test_a_job_waits_for_no_thread_above_its_caller(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4: the caller itself may be below `async_to_sync`, and waits for this request."""

    async def app() -> None:
        with request() as ours:
            await enter(executor, ours.caller)
            AsyncToSync.executors.current = Unused()
            done = threading.Event()
            assert call_from_task(ours.caller, done.set)
            await asyncio.to_thread(must_happen, done)

    run(app)


class Unused:
    def submit(self, *_: object) -> None:
        raise AssertionError("it waits for something else")


@on_asyncio_loops
def test_results_and_errors_come_back(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4."""

    def broken() -> None:
        raise LookupError("in the thread")

    async def app() -> None:
        with request() as ours:
            await enter(executor, ours.caller)
            doubled: Any = sync_to_async(lambda number: 2 * number)
            assert await doubled(21) == 42
            failing: Any = sync_to_async(broken)
            with pytest.raises(LookupError, match="in the thread"):
                await failing()

    run(app)


# --- a caller that has left


@on_asyncio_loops
def test_once_the_caller_has_left_a_thread_takes_its_place(
    executor: CallingThreadExecutor, run: Callable[[Work], Any]
) -> None:
    """A-LOOP-4, A-OUT-5: background work goes on, and still one piece at a time."""

    async def app() -> None:
        ours = Request()
        await enter(executor, ours.caller)
        ours.leave()
        threads = {await current_thread() for _ in range(3)}
        assert len(threads) == 1
        (thread,) = threads
        assert thread is not ours.thread
        assert thread.name.startswith(NAME)

    run(app)


def test_no_thread_is_started_for_callers_that_stay(executor: CallingThreadExecutor) -> None:
    """A-CALL-2."""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


def test_jobs_without_a_caller_run_in_order_and_one_at_a_time(
    executor: CallingThreadExecutor,
) -> None:
    """A-LOOP-4."""
    order: list[int] = []
    over = threading.Event()
    for number in range(20):
        executor.run_in_fallback(lambda number=number: order.append(number))
    executor.run_in_fallback(over.set)
    must_happen(over)
    assert order == list(range(20))


def test_after_the_close_a_job_is_dropped_and_starts_no_thread(
    executor: CallingThreadExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    executor.close()
    with caplog.at_level(logging.DEBUG, "wsgi_asgi_bridge"):
        executor.run_in_fallback(lambda: ran.append("job"))
    assert "dropped" in caplog.text
    assert ran == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]
    executor.close()


@on_asyncio_loops
def test_the_close_leaves_nothing_in_asgirefs_table(run: Callable[[Work], Any]) -> None:
    """A-OUT-5: a process that opens and closes bridges does not grow by what they used."""
    executor = CallingThreadExecutor(NAME, backend="asyncio")

    def entries() -> int:
        # The table is weak: entries of other tests leave it whenever the collector comes.
        executors = list(SyncToAsync.context_to_thread_executor.values())
        return executors.count(executor._executor)

    async def app() -> None:
        with request() as ours:
            await enter(executor, ours.caller)
            await current_thread()

    run(app)
    assert entries() == 1
    executor.close()
    assert entries() == 0
    executor.close()


def test_the_close_ends_the_thread_after_the_job_at_hand(executor: CallingThreadExecutor) -> None:
    """A-OUT-5."""
    threads: list[threading.Thread] = []
    started, may_end = threading.Event(), threading.Event()
    ran: list[str] = []

    def first() -> None:
        threads.append(threading.current_thread())
        started.set()
        must_happen(may_end)

    executor.run_in_fallback(first)
    executor.run_in_fallback(lambda: ran.append("second"))
    must_happen(started)
    executor.close()
    may_end.set()
    threads[0].join(WAIT_SECONDS)
    assert not threads[0].is_alive()
    assert ran == []


def test_at_the_end_of_the_interpreter_a_job_is_dropped(
    executor: CallingThreadExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`ThreadPoolExecutor.submit` raises then, in any thread."""

    def refuse(*args: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(calling_thread_executor.ThreadPoolExecutor, "submit", refuse)
    with caplog.at_level(logging.DEBUG, "wsgi_asgi_bridge"):
        executor.run_in_fallback(lambda: None)
    assert "dropped" in caplog.text


# --- the executor that asgiref is given


class LeftCaller:
    """A caller that takes no jobs any more."""

    def call_in_thread(self, job: Callable[[], None]) -> bool:
        return False


def submitted(executor: CallingThreadExecutor, call: Callable[[], object]) -> "Future[Any]":
    context = contextvars.copy_context()
    context.run(current_calling_thread.set, LeftCaller())  # type: ignore[arg-type]
    future: Future[Any] = context.run(executor._executor.submit, call)
    return future


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_the_code_raises_is_the_futures(
    executor: CallingThreadExecutor, error: type[BaseException]
) -> None:
    """A-LOOP-5: nothing escapes into the thread that runs it."""

    def broken() -> None:
        raise error

    assert isinstance(submitted(executor, broken).exception(WAIT_SECONDS), error)
    assert submitted(executor, lambda: "still there").result(WAIT_SECONDS) == "still there"


def test_a_stop_iteration_is_an_error_that_can_be_awaited(executor: CallingThreadExecutor) -> None:
    """asyncio takes none in a future: whoever awaits it would wait for ever."""

    def broken() -> None:
        raise StopIteration("the app's")

    error = submitted(executor, broken).exception(WAIT_SECONDS)
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


def test_code_that_was_cancelled_before_it_began_does_not_run(
    executor: CallingThreadExecutor,
) -> None:
    ran: list[str] = []
    started, may_end, over = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        must_happen(may_end)

    submitted(executor, first)
    must_happen(started)
    cancelled = submitted(executor, lambda: ran.append("cancelled"))
    assert cancelled.cancel()
    submitted(executor, over.set)
    may_end.set()
    must_happen(over)
    assert ran == []


# --- what is taken from asgiref


def test_entering_a_context_of_asgiref_awaits_nothing() -> None:
    """The executor is made by a thread, without a loop."""

    async def awaits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="awaits something on entering"):
        calling_thread_executor._run_to_end(awaits())
