"""What is closed when the interpreter ends, if nobody has closed it before."""

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

    Held, and closed when the main thread ends: loops. In a forked child also those of its parent:
    kept, so that they are never collected, and never closed, since the child shares what the
    parent's loops wake up by.

    Not held, and closed at the very end: what needs no closing once it is collected.
    """

    def __init__(self) -> None:
        self._open: set[Closable] = set()
        self._unheld: WeakSet[Closable] = WeakSet()
        self._registered = False
        self._registered_early = False
        self._process = os.getpid()
        # Held for a few statements; re-entered by a signal's handler that closes something.
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
            # Before thread pools are shut, where Python lets us: a lifespan may use one for its
            # shutdown. That is when the main thread ends, even if a server serves on in others; a
            # request that comes later starts a new loop.
            register = getattr(threading, "_register_atexit", None)
            if register is not None:
                with suppress(RuntimeError):  # the main thread has ended already
                    register(self._close_held)
        self._register()

    def add_unheld(self, closable: Closable) -> None:
        """Close it at the exit if it is alive then.

        Not when the main thread ends: a server in another thread may serve on with it, and Python
        waits for such threads first.
        """
        with self._lock:
            self._unheld.add(closable)
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
            alive = list(self._unheld)
        for closable in alive:
            closable.close()


closed_at_exit = _ClosedAtExit()
