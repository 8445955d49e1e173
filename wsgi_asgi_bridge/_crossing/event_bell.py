"""How a thread wakes an asyncio loop that is ours: by an eventfd, Linux's counter behind a file
descriptor.

`call_soon_threadsafe` works everywhere and is what other loops are woken by. It writes to a socket
that the loop reads until it is empty, and its callback waits for the loop's next turn; an eventfd
takes one system call each way, and what it wakes for runs in the same turn. That is a third of what
a small request costs.

The race. The descriptor must not be written to once it is closed, since its number may then be
another file's. So both happen under one lock, held for that system call alone; the loop's thread
takes it once, when all is over.
"""

import asyncio
import contextvars
import os
import sys
from collections.abc import Callable
from threading import Lock

__all__ = ["EventBell"]


class EventBell:
    """One loop's bell. Made and closed in the loop's thread, rung in any; rung with one callable
    only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises NotImplementedError or OSError where there is no such thing."""
        if sys.platform != "linux":
            raise NotImplementedError("eventfd is Linux's")
        self._loop = loop
        self._lock = Lock()
        self._callback: Callable[[], None]
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False
        try:
            # In an empty context: what it wakes for belongs to no request.
            contextvars.Context().run(loop.add_reader, self._descriptor, self._answer)
        except BaseException:
            os.close(self._descriptor)
            raise

    @classmethod
    def where_there_is_one(cls, loop: asyncio.AbstractEventLoop) -> "EventBell | None":
        """None on other systems, and for a loop that watches no files."""
        try:
            return cls(loop)
        except (NotImplementedError, OSError):
            return None

    def ring(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the loop soon. Raises RuntimeError when the loop is closed."""
        self._callback = callback
        with self._lock:
            if self._closed or self._loop.is_closed():
                raise RuntimeError("the event loop is closed")
            os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Once the loop is closed."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)

    def _answer(self) -> None:
        # Read before the callback runs: who rings from here on is heard in the loop's next turn.
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return  # a forked child has read it
        self._callback()
