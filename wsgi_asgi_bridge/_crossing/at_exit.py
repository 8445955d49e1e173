"""What is closed when the interpreter ends, if nobody has closed it before."""

import atexit
import os
import threading
from contextlib import suppress
from typing import Protocol

__all__ = ["Closable", "closed_at_exit"]


class Closable(Protocol):
    def close(self) -> None: ...


class _ClosedAtExit:
    """The loops of this process that have not ended.

    In a forked child also those of its parent: kept, so that they are never collected, and never
    closed, since the child shares what the parent's loops wake up by.
    """

    def __init__(self) -> None:
        self._open: set[Closable] = set()
        self._registered = False
        self._process = os.getpid()
        # Held for a few statements; re-entered by a signal's handler that closes something.
        self._lock = threading.RLock()

    def notice_fork(self) -> None:
        """In a child, before it adds a loop: a thread of the parent may have held the lock."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._lock = threading.RLock()

    def add(self, closable: Closable) -> None:
        with self._lock:
            self._open.add(closable)
            registered, self._registered = self._registered, True
        if not registered:
            # Before thread pools are shut, where Python lets us: a lifespan may use one for its
            # shutdown. That is when the main thread ends, even if a server serves on in others; a
            # request that comes later starts a new loop.
            register = getattr(threading, "_register_atexit", None)
            if register is not None:
                with suppress(RuntimeError):  # the main thread has ended already
                    register(self._close_all)
            atexit.register(self._close_all)

    def discard(self, closable: Closable) -> None:
        with self._lock:
            self._open.discard(closable)

    def _close_all(self) -> None:
        with self._lock:
            still_open = list(self._open)
        for closable in still_open:
            closable.close()


closed_at_exit = _ClosedAtExit()
