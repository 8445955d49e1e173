"""Closes, when the interpreter exits, what is still open."""

import atexit
import os
import threading
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

__all__ = ["Closable", "closed_at_exit"]


class Closable(Protocol):
    def close(self) -> None: ...


class _ClosedAtExit:
    """What of this process is still open.

    `add` holds loops, which are closed when the main thread ends. A forked child also holds those
    of its parent, so that they are not collected, and does not close them, since it shares their
    file descriptors. `add_weakly` does not hold; what is alive is closed at the very end.
    """

    def __init__(self) -> None:
        self._open: set[Closable] = set()
        self._weakly_open: WeakSet[Closable] = WeakSet()
        self._registered = False
        self._registered_early = False
        self._process = os.getpid()
        # Held for a few statements; a signal's handler that closes something re-enters it.
        self._lock = threading.RLock()

    def notice_fork(self) -> None:
        """In a child, before it adds a loop: a thread of the parent may have held the lock."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._lock = threading.RLock()

    def add(self, closable: Closable) -> None:
        """Hold it until it is discarded."""
        with self._lock:
            self._open.add(closable)
            registered, self._registered_early = self._registered_early, True
        if not registered:
            # If Python lets us, before thread pools are shut, since a lifespan's shutdown may use
            # one: when the main thread ends, even if a server still serves in others. A later
            # request starts a new loop.
            register = getattr(threading, "_register_atexit", None)
            if register is not None:
                with suppress(RuntimeError):  # the main thread has ended already
                    register(self._close_held)
        self._register()

    def add_weakly(self, closable: Closable) -> None:
        """Close it at the exit, if it is alive then.

        That is after all other threads have ended, since a server in one of them may still use it.
        """
        with self._lock:
            self._weakly_open.add(closable)
        self._register()

    def _register(self) -> None:
        with self._lock:
            registered, self._registered = self._registered, True
        if not registered:
            atexit.register(self._close_all)

    def discard(self, closable: Closable) -> None:
        with self._lock:
            self._open.discard(closable)

    def _close_held(self) -> None:
        with self._lock:
            still_open = list(self._open)
        for closable in still_open:
            closable.close()

    def _close_all(self) -> None:
        self._close_held()
        with self._lock:
            alive = list(self._weakly_open)
        for closable in alive:
            closable.close()


closed_at_exit = _ClosedAtExit()
