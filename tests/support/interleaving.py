"""Forced interleavings: a lock that lets the other side act, and a loop that is turned by hand.

Two sides that meet under one lock can only come between each other where that lock is taken or
given back. `LyingLock` stands in for it and, at such a moment, runs what the other side does; so
one thread plays both sides, and every schedule is chosen, none is hoped for. `HandTurnedLoop` is
the event loop for tests of that kind.

Whatever may block runs in a `Blocking` thread and has `WAIT_SECONDS` to end.
"""

import sys
import threading
from _thread import interrupt_main
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
import pytest
from anyio.lowlevel import current_token

from wsgi_asgi_bridge._crossing.loops import WaitInLoop

T = TypeVar("T")

WAIT_SECONDS = 5.0
"""Nothing here takes a hundredth of it: a wait that reaches it waits for ever."""

TINY_SECONDS = 0.001
"""A time-out that is meant to run out."""


class LyingLock:
    """A lock that runs scripted actions before it is taken, or before or after it is given back.

    The actions run in the thread that uses the lock, which stands still meanwhile. What they do to
    the lock themselves triggers nothing. `step` is the name of the function that uses the lock;
    None stands for any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._lies: list[_Lie] = []
        self._counting = threading.Lock()
        self._acting = threading.local()

    def before(self, step: str | None, action: Callable[[], object], *, nth: int = 1) -> None:
        """Run `action` when `step` is about to take the lock for the nth time from now."""
        self._lies.append(_Lie("before", step, nth, action))

    def after(self, step: str | None, action: Callable[[], object], *, nth: int = 1) -> None:
        """Run `action` when `step` has just given the lock back for the nth time from now."""
        self._lies.append(_Lie("after", step, nth, action))

    def holding(self, step: str | None, action: Callable[[], object], *, nth: int = 1) -> None:
        """Run `action`, which must not wait for the lock, when `step` is about to give it back."""
        self._lies.append(_Lie("holding", step, nth, action))

    @property
    def told(self) -> bool:
        """Whether every scripted moment came; a test that does not ask may have tested nothing."""
        return not self._lies

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a state that is guarded by this lock; looked at each time that the lock is given
        back.
        """
        with self._changed:
            if not self._changed.wait_for(condition, WAIT_SECONDS):
                raise AssertionError(f"not reached within {WAIT_SECONDS} s")

    # What threading.Lock offers

    def acquire(self, blocking: bool = True) -> bool:
        self._arrive("before", sys._getframe(1))
        return self._taken(blocking)

    def release(self) -> None:
        self._arrive("holding", sys._getframe(1))
        self._given_back()
        self._arrive("after", sys._getframe(1))

    def __enter__(self) -> Self:
        self._arrive("before", sys._getframe(1))
        self._taken(True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._arrive("holding", sys._getframe(1))
        self._given_back()
        self._arrive("after", sys._getframe(1))

    def _taken(self, blocking: bool) -> bool:
        if not blocking:
            return self._lock.acquire(blocking=False)
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise AssertionError("the lock is held by somebody who never gives it back")
        return True

    def _given_back(self) -> None:
        self._lock.release()
        with self._changed:
            self._changed.notify_all()

    def _arrive(self, phase: str, frame: FrameType) -> None:
        if not self._lies or getattr(self._acting, "now", False):
            return
        with self._counting:
            due = [lie for lie in self._lies if lie.comes_true(phase, frame.f_code.co_name)]
            for lie in due:
                self._lies.remove(lie)
        self._acting.now = True
        try:
            for lie in due:
                lie.action()
        finally:
            self._acting.now = False


class _Lie:
    def __init__(
        self, phase: str, step: str | None, nth: int, action: Callable[[], object]
    ) -> None:
        self._phase = phase
        self._step = step
        self._left = nth
        self.action = action

    def comes_true(self, phase: str, step: str) -> bool:
        if phase != self._phase or self._step not in (None, step):
            return False
        self._left -= 1
        return self._left == 0


def interrupted_lock() -> Any:
    """A lock that Ctrl-C meets as soon as it is taken, once; for the main thread.

    All that it does is done by C functions, after which the interpreter looks for signals as it
    does after those of a real lock, and not before.
    """
    real = threading.Lock()
    real.acquire()

    class Interrupted:
        acquire = __enter__ = staticmethod(interrupt_main)
        release = staticmethod(real.release)
        __exit__ = staticmethod(real.__exit__)
        locked = staticmethod(real.locked)

    return Interrupted()


signals_spare_locks = pytest.mark.xfail(
    sys.version_info >= (3, 14),
    strict=True,
    reason="CPython 3.14 looks for signals between a lock's __enter__ and the body of its `with`",
)
"""For tests that `interrupted_lock` is free after Ctrl-C. No Python code can keep that on 3.14."""


# ---------------------------------------------------------------- a loop turned by hand


class HandGate:
    """A gate that lets its task go on when the loop is turned after it was opened."""

    def __init__(self) -> None:
        self.opened = False

    def __await__(self) -> Generator[None, None, None]:
        while not self.opened:
            yield


class HandCheckpoint:
    """One wait that is over when its task goes on."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class HandTurnedLoop:
    """Stands in for a LoopHandle: posts wait until `turn`.

    The threads in `own_threads` are taken for the loop's own.
    """

    backend = "asyncio"

    def __init__(self) -> None:
        self.own_threads: set[int] = set()
        self.posts: deque[Callable[[], None]] = deque()
        self.post_count = 0
        self.checkpoint_count = 0
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def post(self, callback: Callable[[], None]) -> bool:
        self.post_count += 1
        if self.closed:
            return False
        self.posts.append(callback)
        return True

    def create_event(self) -> HandGate:
        return HandGate()

    def set_event(self, gate: HandGate) -> None:
        gate.opened = True

    def checkpoint(self) -> "HandCheckpoint":
        self.checkpoint_count += 1
        return HandCheckpoint()

    def refuse_wait_in_loop(self, call: str) -> None:
        if threading.get_ident() in self.own_threads:
            raise WaitInLoop(call)

    def turn(self) -> None:
        """Run what has been posted."""
        while self.posts:
            self.posts.popleft()()


class HandTask(Generic[T]):
    """A coroutine that goes on when the test says so."""

    def __init__(self, coroutine: Coroutine[Any, None, T]) -> None:
        self._coroutine = coroutine
        self._outcome: Future[T] = Future()

    def step(self) -> bool:
        """Go on to the next wait; True when the coroutine is over."""
        if not self._outcome.done():
            try:
                self._coroutine.send(None)
            except StopIteration as stop:
                self._outcome.set_result(stop.value)
            except Exception as error:
                self._outcome.set_exception(error)
        return self._outcome.done()

    def result(self) -> T:
        assert self._outcome.done(), "the task still waits"
        return self._outcome.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._coroutine.close()


def stepped(coroutine: Coroutine[Any, None, T]) -> T:
    """The result of a coroutine that has nothing to wait for; fails when it waits."""
    with HandTask(coroutine) as task:
        task.step()
        return task.result()


# ---------------------------------------------------------------- threads


class Blocking(Generic[T]):
    """A call that may block, in a daemon thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._outcome: Future[T] = Future()
        self.thread = threading.Thread(target=self._run, name="blocking-call", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            result = self._call()
        except BaseException as error:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(result)

    def done(self) -> bool:
        return self._outcome.done()

    def result(self) -> T:
        """What the call gave or raised; fails when it has not ended in time."""
        try:
            return self._outcome.result(WAIT_SECONDS)
        except TimeoutError:
            if self._outcome.done():
                raise  # the call's own
            raise AssertionError(f"the call still blocks after {WAIT_SECONDS} s") from None

    async def result_in_loop(self) -> T:
        """`result` without blocking the loop."""
        over = anyio.Event()
        wake = soon_in_this_loop()
        self._outcome.add_done_callback(lambda _: wake(over.set))
        with anyio.fail_after(WAIT_SECONDS):
            await over.wait()
        return self.result()


async def next_turn() -> None:
    """Until everything that was scheduled before has run."""
    turned = anyio.Event()
    soon_in_this_loop()(turned.set)
    with anyio.fail_after(WAIT_SECONDS):
        await turned.wait()


def soon_in_this_loop() -> Callable[[Callable[[], object]], object]:
    """The running loop's own way to schedule a callback from any thread."""
    token: Any = current_token().native_token
    if hasattr(token, "run_sync_soon"):
        run_sync_soon: Callable[[Callable[[], object]], object] = token.run_sync_soon
        return run_sync_soon
    call_soon_threadsafe: Callable[[Callable[[], object]], object] = token.call_soon_threadsafe
    return call_soon_threadsafe


def lying(owner: Any) -> LyingLock:
    """The lock of a channel or of a calling thread, replaced by one that can be scripted."""
    owner._lock = lock = LyingLock()
    return lock


def ended(call: Callable[[], T]) -> T:
    """What a call gives that may block; fails when it does not end."""
    return Blocking(call).result()


def must_happen(event: threading.Event) -> None:
    """Wait for `event`, or fail."""
    if not event.wait(WAIT_SECONDS):
        raise AssertionError(f"did not happen within {WAIT_SECONDS} s")
