"""Wakes a private asyncio loop by an eventfd, a Linux counter behind a file descriptor.

Other loops are woken by `call_soon_threadsafe`: it writes to a socket that the loop reads until it
is empty, and the callback runs in the loop's next turn. An eventfd takes one system call each way,
and the callback runs in the same turn. That saves a third of a small request.

The race. The descriptor must not be written to once it is closed, since another file may then have
its number. So whoever writes holds a reference to the object that owns the descriptor, and the end
of its last reference closes it. There is no lock: a signal's handler that has interrupted a wake-up
may wait for the end of the loop.

A wake-up that comes between the end of the loop and `close` is heard by nobody.

A forked child shares the counter with its parent. It must not wake the parent's loop, so in a child
the wakeup is closed.
"""

import asyncio
import contextvars
import os
import sys
from collections.abc import Callable

from .fork import reset_in_child

__all__ = ["EventfdWakeup"]


class EventfdWakeup:
    """One loop's wakeup. Made and closed in the loop's thread; `wake` in any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises NotImplementedError, AttributeError or OSError if it is not supported."""
        if sys.platform != "linux":
            raise NotImplementedError("eventfd exists on Linux only")
        self._loop = loop
        self._callback: Callable[[], None]
        counter = _Counter(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        # In an empty context: the callback belongs to no request.
        contextvars.Context().run(loop.add_reader, counter.descriptor, self._on_readable)
        self._counter: _Counter | None = counter
        """None once it is closed."""
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
        counter = self._counter  # this reference keeps the descriptor open
        if counter is None or self._loop.is_closed():
            raise RuntimeError("the event loop is closed")
        self._callback = callback
        os.eventfd_write(counter.descriptor, 1)
        if self._counter is None:  # closed meanwhile, perhaps before the callback was stored
            self._callback = _nothing

    def close(self) -> None:
        """Close the descriptor, once the loop is closed, and after the wake-ups under way."""
        self._counter = None
        # Break the cycle with the queue whose method the callback is.
        self._callback = _nothing

    def reset_after_fork(self) -> None:
        """In the child, whose only thread this is."""
        self.close()

    def _on_readable(self) -> None:
        counter = self._counter
        if counter is None:
            return  # forked inside this loop: the child still runs it, the counter is the parent's
        # Read before the callback: a wake-up from here on comes in the loop's next turn. After a
        # fork without hooks two processes read the counter, and the callback runs in both.
        try:  # noqa: SIM105  # suppress() costs as much as the reading
            os.eventfd_read(counter.descriptor)
        except BlockingIOError:
            pass
        self._callback()


class _Counter:
    """Owns an eventfd, and closes it when nobody refers to this any more."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def _nothing() -> None: ...
