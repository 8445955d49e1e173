"""Starts the private loop of a bridge, once in each process, and forgets it in a forked child."""

import os
import threading
from typing import Any

from .._crossing.at_exit import closed_at_exit
from .._crossing.event_loop import PrivateLoop
from ..errors import BridgeClosed
from .runtime import Runtime, RuntimeStart
from .settings import Settings

__all__ = ["RuntimeStarter", "in_the_loops_own_thread"]


class RuntimeStarter:
    """The part of a bridge that has its runtime. Its methods may be called in any thread."""

    _app: Any
    _settings: Settings

    def _begin(self) -> None:
        """The state that a forked child does not share with its parent."""
        self._lock = threading.RLock()
        """Held for a few statements, none of which waits; a signal's handler may re-enter it."""
        self._start: RuntimeStart | None = None
        """Set while the loop starts: one thread starts it, the others wait for that."""
        self._runtime: Runtime | None = None
        self._private: PrivateLoop | None = None
        """The loop that was started last; set before its lifespan's startup."""
        self._process = os.getpid()
        self._counting = threading.Lock()
        self._rejected = 0
        """Requests that were refused in their own thread; `_counting` guards its writers."""

    def reset_after_fork(self) -> None:
        """Forget the parent's loop; the child starts its own on first use.

        Called by the fork itself (A-CALL-2).
        """
        closed_at_exit.notice_fork()
        if self._runtime is not None:
            self._runtime.abandon()
        self._begin()

    def _notice_fork(self) -> None:
        """Call `reset_after_fork` in a child of a server that forks without Python's hooks, as
        uWSGI does by default.
        """
        process = os.getpid()
        if self._process != process:
            # The bridge's own lock may have been held in the parent. setdefault is one step: all
            # threads get one lock.
            with _after_fork.setdefault(process, threading.Lock()):
                if self._process != process:
                    self.reset_after_fork()

    def _running_runtime(self, waits: str) -> Runtime:
        """Return the runtime, started if there is none.

        Raises RuntimeError in the loop's own thread, whose work `waits`, a name, would wait for.
        """
        if self._process != os.getpid():
            self._notice_fork()
        # Without a lock: `_private` and its `thread_id` were written before the app's first step in
        # the loop, so the loop's thread reads its own id here. No other thread reads its own id.
        if (private := self._private) is not None and private.thread_id == threading.get_ident():
            raise in_the_loops_own_thread(waits)
        # Without the lock: a runtime is stored here only once it is started, and an attribute is
        # read in one step.
        runtime = self._runtime
        if runtime is None or runtime.private.ended:
            runtime = self._started_runtime(waits)
        if runtime.refusal is not None:
            raise BridgeClosed(runtime.refusal)
        return runtime

    def _started_runtime(self, waits: str) -> Runtime:
        """Start the loop, or wait for the thread that does."""
        own = RuntimeStart()
        while True:
            try:
                with self._lock:
                    if (runtime := self._runtime) is not None and not runtime.private.ended:
                        return runtime
                    if (others := self._start) is None:
                        self._start = own
                if others is None:
                    return self._start_runtime(own)
            finally:
                if self._start is own:
                    self._start = None
                    own.over.set()
            if others.thread_id == threading.get_ident():
                raise RuntimeError(
                    f"{waits} waits for the private loop, whose start this thread is in the middle "
                    "of; a signal's handler cannot wait for what it has interrupted"
                )
            others.over.wait()

    def _start_runtime(self, start: RuntimeStart) -> Runtime:
        runtime = Runtime(self._app, self._settings)
        start.runtime = runtime
        self._private = runtime.private
        runtime.startup(self, start)
        self._runtime = runtime
        return runtime


def in_the_loops_own_thread(waits: str) -> RuntimeError:
    return RuntimeError(
        f"{waits} waits for the private loop, and this is that loop's own thread, which would wait "
        "for itself; call from another thread, for example by asyncio.to_thread()"
    )


_after_fork: dict[int, threading.Lock] = {}
"""By process id: the lock under which one thread resets the bridges of a forked child."""
