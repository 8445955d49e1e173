"""One interface to an event loop, for asyncio (and uvloop) and for trio.

An event is awaited once in the loop and set once, from the loop. A background task runs beside the
task that spawned it. A cancel scope ends one block of a task without cancelling the task itself.

Everything here runs in the loop's own thread, save `post` and `refuse_wait_in_loop` of a handle.
"""

import asyncio
import contextvars
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from .callback_queue import CallbackQueue
from .eventfd_wakeup import EventfdWakeup

__all__ = [
    "BackgroundTask",
    "Broken",
    "CancelScope",
    "LoopEvent",
    "LoopHandle",
    "Timer",
    "WaitInLoop",
    "Work",
    "running_loop",
    "running_loop_handle",
]

Broken = Callable[[], Exception]
"""Makes the exception that says why the other side has gone; a new one for each raise."""
LoopEvent = Awaitable[None]
Work = Callable[[], Coroutine[Any, Any, None]]


class BackgroundTask(Protocol):
    """A task beside the one that spawned it; its owner cancels it and never awaits it.

    asyncio's own tasks fit.
    """

    def cancel(self) -> object: ...


class Timer(Protocol):
    """A call that is due later; once cancelled it keeps nothing alive."""

    def cancel(self) -> object: ...


class CancelScope(ABC):
    """`with handle.cancel_scope() as scope:` a block that `scope.cancel(reason)` ends early.

    Then `scope.reason` is set. Only what the block awaits is cancelled. A cancellation from outside
    passes through. To cancel it after the block does nothing.
    """

    reason: BaseException | None = None

    @abstractmethod
    def cancel(self, reason: BaseException) -> None: ...

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool: ...


class WaitInLoop(RuntimeError):
    """A call would wait for the event loop in that loop's own thread."""


class LoopHandle(ABC):
    """One running event loop."""

    backend: ClassVar[str]
    loop: Any
    """asyncio's loop object or trio's token; identifies the loop."""
    thread_id: int
    """`threading.get_ident()` of the thread that ran the loop when the handle was made."""
    cancelled: type[BaseException]
    post: Callable[[Callable[[], None]], bool]
    """`CallbackQueue.post`: run a callback in this loop, from any thread; False if it is closed."""
    post_at_any_moment: Callable[[Callable[[], None]], bool]
    """The same for a signal's handler that waits for the callback."""
    is_closed: Callable[[], bool]
    """Whether the loop was closed, with whatever tasks it had. Any thread."""
    is_stopped: Callable[[], bool]
    """Whether the loop does not run: it was closed, or left with its tasks in it. Any thread."""
    create_event: Callable[[], LoopEvent]
    cancel_scope: Callable[[], CancelScope]
    checkpoint: Callable[[], Awaitable[None]]
    """Let the loop's other tasks run once."""

    @staticmethod
    @abstractmethod
    def set_event(event: Any) -> None: ...

    @abstractmethod
    def spawn(self, work: Work, context: contextvars.Context | None = None) -> BackgroundTask:
        """Run `work` as a task in `context`, a copy of the current one if None.

        `work` raises nothing but its own cancellation. The caller keeps a reference to the task.
        """

    @abstractmethod
    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after so many seconds, unless the timer is cancelled before."""

    def refuse_wait_in_loop(self, call: str) -> None:
        """Raise WaitInLoop in the loop's own thread. Any thread, before `call` begins to wait."""
        # Both are compared: gevent shows the running loop to every greenlet, each with a number of
        # its own, and the number of a thread that has ended is given to another.
        if threading.get_ident() != self.thread_id:
            return
        try:
            here = running_loop()
        except (RuntimeError, ImportError):  # none runs, and trio need not be installed
            return
        if here is self.loop:
            raise WaitInLoop(
                f"{call} would wait for the client in the thread of the event loop that serves it, "
                "which would stop every request; call it in a thread, for example by "
                "await asyncio.to_thread(...)"
            )


# ---------------------------------------------------------------- asyncio


class _AsyncioCancelScope(CancelScope):
    __slots__ = ("_before", "_inside", "_task", "reason")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        assert task is not None, "a cancel scope is made inside a task"
        self._task = task
        self._before = task.cancelling()
        self._inside = False
        self.reason = None

    def cancel(self, reason: BaseException) -> None:
        # Runs in the loop's thread, so between two steps of the task: the task is either inside the
        # block or outside, and cancel() takes effect at its next step.
        if self._inside and self.reason is None:
            self.reason = reason
            self._task.cancel()

    def __enter__(self) -> Self:
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self._inside = False
        if self.reason is None:
            return False
        # As asyncio.timeout counts: what is left over are cancellations from outside.
        others = self._task.uncancel() > self._before
        return kind is asyncio.CancelledError and not others


class _AsyncioHandle(LoopHandle):
    backend = "asyncio"
    cancelled = asyncio.CancelledError

    def __init__(self, wakeup: EventfdWakeup | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.loop: asyncio.AbstractEventLoop = loop
        self.thread_id = threading.get_ident()
        self.is_closed = loop.is_closed
        self.is_stopped = lambda: not loop.is_running()
        call_soon_threadsafe = loop.call_soon_threadsafe
        # An empty context: no contextvar of the poster leaks into the loop, and none is copied.
        empty = contextvars.Context()

        def wake(drain: Callable[[], None]) -> None:  # partial() would make a dict each time
            call_soon_threadsafe(drain, context=empty)

        queue = CallbackQueue(wake if wakeup is None else wakeup.wake, is_closed=loop.is_closed)
        self.post = queue.post
        self.post_at_any_moment = queue.post_at_any_moment
        self.create_event = loop.create_future
        self.cancel_scope = partial(_AsyncioCancelScope, loop)
        self.checkpoint = partial(asyncio.sleep, 0)

    @staticmethod
    def set_event(event: "asyncio.Future[None]") -> None:
        if not event.done():  # the awaiting task may have been cancelled meanwhile
            event.set_result(None)

    def spawn(self, work: Work, context: contextvars.Context | None = None) -> BackgroundTask:
        # Without create_task, whose task factory may run the first step at once, inside the step of
        # the task that spawns.
        return asyncio.Task(work(), loop=self.loop, context=context)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self.loop.call_later(seconds, callback, context=contextvars.Context())


# ---------------------------------------------------------------- trio


class _TrioEvent:
    __slots__ = ("event",)

    def __init__(self) -> None:
        import trio

        self.event = trio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        return self.event.wait().__await__()


class _TrioCancelScope(CancelScope):
    __slots__ = ("_inside", "_scope", "reason")

    def __init__(self) -> None:
        import trio

        self._scope = trio.CancelScope()
        self._inside = False
        self.reason = None

    def cancel(self, reason: BaseException) -> None:
        if self._inside and self.reason is None:
            self.reason = reason
            self._scope.cancel()

    def __enter__(self) -> Self:
        self._inside = True
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self._inside = False
        return bool(self._scope.__exit__(kind, exc, tb))


class _TrioHandle(LoopHandle):
    backend = "trio"

    def __init__(self) -> None:
        import trio

        token = trio.lowlevel.current_trio_token()
        self.loop = token
        self.thread_id = threading.get_ident()
        self.cancelled = trio.Cancelled
        # A run of trio ends all of its tasks before itself.
        self.is_closed = self.is_stopped = _never
        queue = CallbackQueue(token.run_sync_soon)
        self.post = queue.post
        self.post_at_any_moment = queue.post_at_any_moment
        self.create_event = _TrioEvent
        self.cancel_scope = _TrioCancelScope
        self.checkpoint = trio.lowlevel.checkpoint

    @staticmethod
    def set_event(event: _TrioEvent) -> None:
        event.event.set()

    def spawn(self, work: Work, context: contextvars.Context | None = None) -> BackgroundTask:
        import trio

        # A system task, since no nursery is open; trio cancels it at the end of its run.
        scope = trio.CancelScope()

        async def scoped() -> None:
            with scope:
                await work()

        trio.lowlevel.spawn_system_task(
            scoped, context=contextvars.copy_context() if context is None else context
        )
        return scope

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        import trio

        scope = trio.CancelScope()

        async def later() -> None:
            with scope:
                await trio.sleep(seconds)
                callback()

        trio.lowlevel.spawn_system_task(later)
        return scope


def _never() -> bool:
    return False


def running_loop() -> Any:
    """asyncio's running loop, else trio's token: identifies the loop that this thread runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    import trio

    return trio.lowlevel.current_trio_token()


def running_loop_handle(wakeup: EventfdWakeup | None = None) -> LoopHandle:
    """A new handle of the loop that this thread runs; an asyncio loop is woken by `wakeup`."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _TrioHandle()
    return _AsyncioHandle(wakeup)
