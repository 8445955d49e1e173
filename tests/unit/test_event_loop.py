"""event_loop.py: one event loop in a thread of its own."""

import asyncio
import logging
import queue
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import trio
import uvloop

from tests.support.interleaving import TINY_SECONDS, WAIT_SECONDS, Blocking, ended, must_happen
from wsgi_asgi_bridge._crossing.event_loop import PrivateLoop, default_loop_factory
from wsgi_asgi_bridge._crossing.eventfd_wakeup import EventfdWakeup
from wsgi_asgi_bridge._crossing.loops import BackgroundTask, running_loop

NAME = "wsgi_asgi_bridge-loop"
LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio", "loop_factory": None},
    "uvloop": {"backend": "asyncio", "loop_factory": uvloop.new_event_loop},
    "trio": {"backend": "trio", "loop_factory": None},
}
on_asyncio_loops = pytest.mark.parametrize("private", ["asyncio", "uvloop"], indirect=True)


@pytest.fixture(params=LOOPS)
def private(request: pytest.FixtureRequest) -> Iterator[PrivateLoop]:
    private = PrivateLoop.started(**LOOPS[request.param], name=NAME)
    yield private
    assert private.stop(WAIT_SECONDS)


def seen_in_loop(private: PrivateLoop, look: Callable[[], object]) -> Any:
    """What `look` gives in the loop's thread."""
    seen: queue.SimpleQueue[object] = queue.SimpleQueue()
    assert private.handle.post(lambda: seen.put(look()))
    return seen.get(timeout=WAIT_SECONDS)


class Task:
    """A task of the private loop that says how it begins and how it ends."""

    def __init__(self, private: PrivateLoop) -> None:
        self._private = private
        self.began = threading.Event()
        self.ended = threading.Event()
        self.ending: BaseException | None = None
        self._companion: BackgroundTask | None = None

    def spawn(self) -> "Task":
        def spawn_in_loop() -> None:
            self._companion = self._private.handle.spawn(self._run)

        assert self._private.handle.post(spawn_in_loop)
        return self

    async def _run(self) -> None:
        try:
            self.began.set()
            await self.work()
        except BaseException as error:
            self.ending = error
            raise
        finally:
            self.ended.set()

    async def work(self) -> None:
        await self._private.handle.create_event()


# --- started


@pytest.mark.skipif(sys.platform != "linux", reason="eventfd is Linux's")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_its_posts_ring_a_bell(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else counts wake-ups counts calls of call_soon_threadsafe as well."""
    rung: list[object] = []
    ring = EventfdWakeup.wake

    def counting(wakeup: EventfdWakeup, callback: Callable[[], None]) -> None:
        rung.append(callback)
        ring(wakeup, callback)

    monkeypatch.setattr(EventfdWakeup, "wake", counting)
    watched = PrivateLoop.started(**LOOPS[loop], name=NAME)
    try:
        assert seen_in_loop(watched, threading.current_thread) is watched.thread
        assert len(rung) == 1
    finally:
        assert watched.stop(WAIT_SECONDS)


def test_it_runs_in_a_named_daemon_thread(private: PrivateLoop) -> None:
    assert private.thread.name == NAME
    assert private.thread.daemon
    assert seen_in_loop(private, threading.current_thread) is private.thread
    assert seen_in_loop(private, running_loop) is private.handle.loop


@pytest.mark.parametrize(
    ("factory", "kind"),
    [(asyncio.SelectorEventLoop, asyncio.SelectorEventLoop), (uvloop.new_event_loop, uvloop.Loop)],
)
def test_the_factory_makes_the_loop(factory: Any, kind: type) -> None:
    """A-LOOP-1."""
    private = PrivateLoop.started(backend="asyncio", loop_factory=factory, name=NAME)
    assert isinstance(private.handle.loop, kind)
    assert private.stop(WAIT_SECONDS)


def test_trio_is_trio() -> None:
    """A-LOOP-1."""
    private = PrivateLoop.started(backend="trio", loop_factory=None, name=NAME)
    assert isinstance(private.handle.loop, trio.lowlevel.TrioToken)
    assert private.stop(WAIT_SECONDS)


def test_uvloop_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A-LOOP-1."""
    assert default_loop_factory() is uvloop.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert default_loop_factory() is None


def test_a_factory_that_raises_is_an_error_of_the_start() -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise ZeroDivisionError("no loop today")

    with pytest.raises(ZeroDivisionError, match="no loop today"):
        ended(lambda: PrivateLoop.started(backend="asyncio", loop_factory=broken, name=NAME))
    assert not [thread for thread in threading.enumerate() if thread.name == NAME]


def test_a_backend_that_is_not_there_is_an_error_of_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ImportError):
        ended(lambda: PrivateLoop.started(backend="trio", loop_factory=None, name=NAME))


# --- tasks


def test_tasks_run_beside_each_other(private: PrivateLoop) -> None:
    """A-LOOP-1: one waits, the other goes on."""
    waiting = Task(private).spawn()
    must_happen(waiting.began)

    class Quick(Task):
        async def work(self) -> None: ...

    must_happen(Quick(private).spawn().ended)
    assert not waiting.ended.is_set()


def test_tasks_that_are_spawned_one_after_the_other_all_run(private: PrivateLoop) -> None:
    """A-LOOP-1: from many threads at once."""
    tasks = [Task(private) for _ in range(40)]
    for thread in [Blocking(lambda start=start: spawn_all(tasks[start::4])) for start in range(4)]:
        thread.result()
    for task in tasks:
        must_happen(task.began)


def spawn_all(tasks: list[Task]) -> None:
    for task in tasks:
        task.spawn()


# --- SystemExit and KeyboardInterrupt


@on_asyncio_loops
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_that_tries_to_end_the_process_ends_itself_only(
    private: PrivateLoop, logged: "Logged", error: type[BaseException]
) -> None:
    """A-LOOP-5."""
    bystander = Task(private).spawn()
    must_happen(bystander.began)

    async def end_the_process() -> None:
        raise error

    tasks: list[asyncio.Task[None]] = []
    seen_in_loop(private, lambda: tasks.append(create_task(private, end_the_process())))
    record = logged.records.get(timeout=WAIT_SECONDS)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is error
    again = Task(private).spawn()
    must_happen(again.began)
    assert not bystander.ended.is_set()
    assert logged.records.empty()
    # Asked for, or asyncio says at its end that nobody did.
    assert isinstance(tasks[0].exception(), error)


class Logged(logging.Handler):
    """What the package logs, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.put(record)


@pytest.fixture
def logged() -> Iterator[Logged]:
    logged = Logged()
    logger = logging.getLogger("wsgi_asgi_bridge")
    logger.addHandler(logged)
    yield logged
    logger.removeHandler(logged)


def create_task(private: PrivateLoop, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    task: asyncio.Task[None] = private.handle.loop.create_task(work)
    return task


@on_asyncio_loops
def test_a_stop_in_the_same_step_as_a_system_exit_still_stops(private: PrivateLoop) -> None:
    """A-LOOP-5."""
    tasks: list[asyncio.Task[None]] = []

    async def end_the_process() -> None:
        private._stop()
        raise SystemExit

    private.handle.post(lambda: tasks.append(create_task(private, end_the_process())))
    private.thread.join(WAIT_SECONDS)
    assert not private.thread.is_alive()
    assert isinstance(tasks[0].exception(), SystemExit)


@on_asyncio_loops
def test_task_that_tries_to_end_process_as_loop_stops_ends_loop(
    private: PrivateLoop, logged: "Logged"
) -> None:
    """A-LOOP-5: it is reported, and the thread ends all the same."""

    async def stubborn() -> None:
        try:
            await private.handle.create_event()
        except asyncio.CancelledError:
            raise SystemExit from None

    tasks: list[asyncio.Task[None]] = []
    seen_in_loop(private, lambda: tasks.append(create_task(private, stubborn())))
    seen_in_loop(private, lambda: None)
    assert private.stop(WAIT_SECONDS)
    assert isinstance(tasks[0].exception(), SystemExit)
    assert logged.records.get(timeout=WAIT_SECONDS).levelno == logging.CRITICAL
    assert private.handle.post(lambda: None) is False


# --- stopped


def test_stop_cancels_what_runs_and_ends_the_thread(private: PrivateLoop) -> None:
    """A-OUT-5."""
    task = Task(private).spawn()
    must_happen(task.began)
    cancelled = private.handle.cancelled
    assert private.stop(WAIT_SECONDS) is True
    assert not private.thread.is_alive()
    assert isinstance(task.ending, cancelled)


def test_stop_may_be_called_again(private: PrivateLoop) -> None:
    assert private.stop(WAIT_SECONDS) is True
    assert private.stop(WAIT_SECONDS) is True


def test_a_post_after_the_stop_is_refused(private: PrivateLoop) -> None:
    private.stop(WAIT_SECONDS)
    assert private.handle.post(lambda: None) is False


def test_stop_says_when_the_loop_does_not_end_in_time(private: PrivateLoop) -> None:
    """An app that blocks the loop holds it up; the caller is told and may go on."""
    blocking, may_end = threading.Event(), threading.Event()

    def block() -> None:
        blocking.set()
        must_happen(may_end)

    private.handle.post(block)
    must_happen(blocking)
    assert private.stop(TINY_SECONDS) is False
    may_end.set()
    private.thread.join(WAIT_SECONDS)
    assert not private.thread.is_alive()


def test_a_task_may_clean_up_asynchronously_while_the_loop_stops(private: PrivateLoop) -> None:
    """A-OUT-5: clean-up that waits a turn of the loop still gets it."""
    cleaned_up: list[str] = []

    class Careful(Task):
        async def work(self) -> None:
            try:
                await super().work()
            finally:
                if private.handle.backend == "trio":
                    with trio.CancelScope(shield=True):
                        await private.handle.checkpoint()
                else:
                    await private.handle.checkpoint()
                cleaned_up.append("done")

    must_happen(Careful(private).spawn().began)
    assert private.stop(WAIT_SECONDS)
    assert cleaned_up == ["done"]
