"""The connections that one private loop has taken over from the server: how many, and their end."""

import contextvars
from functools import partial
from socket import socket
from typing import Protocol

from .._crossing.loops import BackgroundTask, LoopHandle
from .._crossing.stand_in import close_in_child, drain

__all__ = ["EVENT_STREAM", "WEBSOCKET", "Released", "ReleasedConnections"]

WEBSOCKET = "websocket"
EVENT_STREAM = "event stream"
"""What a released connection carries."""


_KEPT, _RESERVED, _TAKEN = "keeps its thread", "may be taken over", "is taken over"


class Released(Protocol):
    """What the runtime uses of a connection without a thread, or one that is about to be so."""

    kind: str
    """WEBSOCKET or EVENT_STREAM."""

    def bridge_closes_in_loop(self) -> None:
        """End soon: the bridge is being closed. Called first of all, and once."""

    def forget_after_fork(self) -> None:
        """Close the descriptors of this process, a forked child: the connection is its parent's."""


class ReleasedConnections:
    """Those of one runtime. The loop's own, save `count`, and `forget_after_fork` in a child."""

    def __init__(self, loop: LoopHandle, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._connections: dict[Released, str] = {}
        self._reserved = 0
        self._counts = {WEBSOCKET: 0, EVENT_STREAM: 0}
        self._far_ends: dict[socket, BackgroundTask] = {}

    def count(self, kind: str) -> int:
        """How many there are. Any thread."""
        return self._counts[kind]

    def reserve(self, connection: Released, *, limited: bool = True) -> bool:
        """Make room for a connection that may be taken over. False: there are `max_released`.

        Not `limited`: it keeps its thread, and is only to be told of the bridge's end.
        """
        if limited:
            if self._reserved >= self._limit:
                return False
            self._reserved += 1
        self._connections[connection] = _RESERVED if limited else _KEPT
        return True

    def took_over(self, connection: Released) -> None:
        """`connection`, for which there is room, has been taken over."""
        self._connections[connection] = _TAKEN
        self._counts[connection.kind] += 1

    def discard(self, connection: Released) -> None:
        """`connection` is closed, or is not to be taken over. May be called again."""
        state = self._connections.pop(connection, _KEPT)
        if state is not _KEPT:
            self._reserved -= 1
        if state is _TAKEN:
            self._counts[connection.kind] -= 1

    def bridge_closes(self) -> None:
        for connection in list(self._connections):
            connection.bridge_closes_in_loop()

    def drain(self, far: socket) -> None:
        """Read what the server writes to its stand-in, until it closes that."""
        self._far_ends[far] = self._loop.spawn(partial(self._drained, far), contextvars.Context())

    async def _drained(self, far: socket) -> None:
        try:
            await drain(self._loop, far)
        finally:
            self._far_ends.pop(far, None)

    def end(self) -> None:
        """Close what the loop, which has ended, has left. Any thread."""
        for far in list(self._far_ends):
            far.close()

    def forget_after_fork(self) -> None:
        """Close the child's descriptors: an end that the parent sends reaches the client only if no
        other process has the connection open.
        """
        for connection in list(self._connections):
            connection.forget_after_fork()
        for far in list(self._far_ends):
            close_in_child(far)
