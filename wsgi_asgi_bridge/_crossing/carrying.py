"""A thread that carries bytes between a connection and a socket of the loop.

For a connection that cannot be taken over: with TLS, what goes through its descriptor is not what
its owner sends and receives. The thread waits in the kernel, and holds at most one block each way.

Either end may come first. Each is passed on once what came before it has been: the client's as a
shutdown of the inner socket, the loop's as one of the connection. After the loop's end the client
has `LINGER_SECONDS` to close, and what it still sends is dropped; a connection that is closed with
unread bytes is reset, and the reset may eat what was sent last. A client that, after the loop's
end, takes nothing for `STUCK_SECONDS` is left: no one else would notice it, and it would keep the
thread.
"""

import selectors
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .sockets import peer_has_closed

__all__ = ["carry", "forget_tls"]

BLOCK_BYTES = 262144
LINGER_SECONDS = 2.0
STUCK_SECONDS = 10.0

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Way:
    """One direction: a block that was read and is not yet written."""

    def __init__(self, source: Any, target: Any) -> None:
        self._source = source
        self._target = target
        self.waiting = b""
        self.source_ended = False
        self.is_over = False
        """Whether the end has been passed on, or the target takes no more."""

    def move(self, pass_on_end: Callable[[], None]) -> bool:
        """Read and write what is possible now; return whether anything was."""
        moved = False
        if not self.waiting and not self.source_ended:
            try:
                self.waiting = self._source.recv(BLOCK_BYTES)
                self.source_ended = not self.waiting
                moved = True
            except _WOULD_BLOCK:
                pass
            except (OSError, ValueError):  # broken, or closed
                self.source_ended = moved = True
        if self.waiting:
            try:
                self.waiting = self.waiting[self._target.send(self.waiting) :]
                moved = True
            except _WOULD_BLOCK:
                pass
            except (OSError, ValueError):
                self.waiting = b""
                self.source_ended = self.is_over = moved = True
        if self.source_ended and not self.waiting and not self.is_over:
            self.is_over = True
            pass_on_end()
        return moved


def carry(
    connection: Any, inner: socket.socket, interval: float, check_alive: Callable[[], None]
) -> None:
    """Carry bytes both ways until both have ended; close `inner`.

    `connection` has the methods of a socket. `check_alive` is called each `interval` seconds in
    which nothing comes, and may raise. What the client does raises nothing.
    """
    connection.setblocking(False)
    inner.setblocking(False)
    up, down = _Way(connection, inner), _Way(inner, connection)
    ends = (connection, up, down), (inner, down, up)
    deadline: float | None = None
    taken_at = time.monotonic()
    try:
        with selectors.DefaultSelector() as selector:
            while not (up.is_over and down.is_over):
                moved = down.move(lambda: _end_connection(connection))
                now = time.monotonic()
                if moved or not down.waiting:
                    taken_at = now
                elif now >= taken_at + STUCK_SECONDS and peer_has_closed(inner):
                    return
                moved = up.move(lambda: _shut_down(inner)) or moved
                if down.is_over and deadline is None:
                    deadline = time.monotonic() + LINGER_SECONDS
                seconds = interval
                if deadline is not None:
                    seconds = min(interval, deadline - time.monotonic())
                if seconds <= 0:
                    return
                came = moved or _wait(selector, *ends, seconds=seconds)
                if not came and deadline is None:
                    check_alive()
    finally:
        with suppress(OSError):
            inner.shutdown(socket.SHUT_RDWR)
        inner.close()


def _wait(selector: selectors.BaseSelector, *ends: tuple[Any, _Way, _Way], seconds: float) -> bool:
    """Wait until a block can move. False after `seconds`.

    `ends`: each socket, what is read from it and what is written to it.
    """
    for end, reads, writes in ends:
        events = 0
        if not reads.waiting and not reads.source_ended:
            events |= selectors.EVENT_READ
        if writes.waiting:
            events |= selectors.EVENT_WRITE
        if end.fileno() in selector.get_map():
            selector.unregister(end)
        if events:
            selector.register(end, events)
    return bool(selector.select(seconds))


def _shut_down(plain: socket.socket) -> None:
    with suppress(OSError):
        plain.shutdown(socket.SHUT_WR)


def _end_connection(connection: Any) -> None:
    """Send the end: TLS' own, and that of the connection below it."""
    with suppress(OSError, ValueError, AttributeError):
        connection.unwrap()  # sends it; the client's own is not waited for
    with suppress(OSError):
        if isinstance(connection, socket.socket):
            socket.socket.shutdown(connection, socket.SHUT_WR)
        else:
            connection.shutdown(socket.SHUT_WR)


def forget_tls(connection: Any) -> None:
    """After `carry`, and once the connection has a stand-in: TLS has ended, and would raise when
    the owner sends. What it sends goes to nobody, so it need not be encrypted.
    """
    if getattr(connection, "_sslobj", None) is not None:
        connection._sslobj = None
