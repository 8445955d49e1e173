"""Wakes a private asyncio loop by an eventfd, a Linux counter behind a file descriptor.

Other loops are woken by `call_soon_threadsafe`: it writes to a socket that the loop reads until it
is empty, and the callback runs in the loop's next turn. An eventfd takes one system call each way,
and the callback runs in the same turn. That saves a third of a small request.

The race. The descriptor must not be written to once it is closed, since another file may then have
its number. So both happen under one lock, held for that system call alone; the loop's thread takes
it once, when it closes.

A forked child shares the counter with its parent, and may find the lock held. It must not wake the
parent's loop, so in a child the wakeup is closed, with a new lock.
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
    """One loop's wakeup. Made and closed in the loop's thread; `wake` in any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises NotImplementedError, AttributeError or OSError if it is not supported."""
        if sys.platform != "linux":
            raise NotImplementedError("eventfd exists on Linux only")
        self._loop = loop
        self._lock = Lock()
        self._callback: Callable[[], None]
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False
        try:
            # In an empty context: the callback belongs to no request.
            contextvars.Context().run(loop.add_reader, self._descriptor, self._on_readable)
        except BaseException:
            os.close(self._descriptor)
            raise
        reset_in_child(self)

    @classmethod
    def create_if_supported(cls, loop: asyncio.AbstractEventLoop) -> "EventfdWakeup | None":
        """None on other systems, without `os.eventfd`, and for a loop without `add_reader`."""
        try:
            return cls(loop)
        except (NotImplementedError, AttributeError, OSError):
            return None

    def wake(self, callback: Callable[[], None]) -> None:
        """Run `callback`, the same each time, in the loop soon. RuntimeError if it is closed."""
        with self._lock:
            if self._closed or self._loop.is_closed():
                raise RuntimeError("the event loop is closed")
            self._callback = callback
            os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Close the descriptor, once the loop is closed."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)
                # Break the cycle with the queue whose method the callback is.
                self._callback = _nothing

    def reset_after_fork(self) -> None:
        """In the child, whose only thread this is."""
        self._lock = Lock()  # another thread of the parent may have held it
        self.close()

    def _on_readable(self) -> None:
        if self._closed:
            return  # forked inside this loop: the child still runs it, the counter is the parent's
        # Read before the callback: a wake-up from here on comes in the loop's next turn. After a
        # fork without hooks two processes read the counter, and the callback runs in both.
        try:  # noqa: SIM105  # suppress() costs as much as the reading
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            pass
        self._callback()


def _nothing() -> None: ...
