"""How a thread wakes an asyncio loop that is ours: by an eventfd, Linux's counter behind a file
descriptor.

`call_soon_threadsafe` works everywhere and is what other loops are woken by. It writes to a socket
that the loop reads until it is empty, and its callback waits for the loop's next turn; an eventfd
takes one system call each way, and what it wakes for runs in the same turn. That is a third of what
a small request costs.

The race. The descriptor must not be written to once it is closed, since its number may then be
another file's. So both happen under one lock, held for that system call alone; the loop's thread
takes it once, when all is over.

A forked child gets a copy of the descriptor, the parent's counter behind it, and perhaps the lock
as held. It is neither to wait for that nor to wake the parent's loop, so in a child the wakeup is
closed.
"""

import asyncio
import contextvars
import os
import sys
from collections.abc import Callable
from threading import Lock

from .fork import reset_in_child

__all__ = ["EventfdWakeup"]


class EventfdWakeup:
    """One loop's wakeup. Made and closed in the loop's thread, rung in any; rung with one callable
    only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises NotImplementedError, AttributeError or OSError where there is no such thing."""
        if sys.platform != "linux":
            raise NotImplementedError("eventfd is Linux's")
        self._loop = loop
        self._lock = Lock()
        self._callback: Callable[[], None]
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False
        try:
            # In an empty context: what it wakes for belongs to no request.
            contextvars.Context().run(loop.add_reader, self._descriptor, self._on_readable)
        except BaseException:
            os.close(self._descriptor)
            raise
        reset_in_child(self)

    @classmethod
    def create_if_supported(cls, loop: asyncio.AbstractEventLoop) -> "EventfdWakeup | None":
        """None on other systems, in Pythons without `os.eventfd`, and for a loop that watches no
        files.
        """
        try:
            return cls(loop)
        except (NotImplementedError, AttributeError, OSError):
            return None

    def wake(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the loop soon. Raises RuntimeError when the loop is closed."""
        with self._lock:
            if self._closed or self._loop.is_closed():
                raise RuntimeError("the event loop is closed")
            self._callback = callback
            os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Once the loop is closed."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)
                # It refers to whoever rings, and that to this wakeup.
                self._callback = _nothing

    def reset_after_fork(self) -> None:
        """In the child, whose only thread this is."""
        self._lock = Lock()  # another thread of the parent may have held it
        self.close()

    def _on_readable(self) -> None:
        if self._closed:
            return  # the fork came from this very loop: the child turns it, the counter is not its
        # Read before the callback runs: who rings from here on is heard in the loop's next turn.
        # A counter that another has read is no reason to keep the callback waiting: a fork without
        # hooks leaves two that read it.
        try:  # noqa: SIM105  # suppress() costs as much as the reading
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            pass
        self._callback()


def _nothing() -> None: ...
