"""A descriptor for select() that is readable while a message port can be read.

The race. Every change of what can be read is followed by `update`, in whatever thread. Updates take
turns under one lock, and each looks at the state as it is then. So the update after the last change
leaves the descriptor as it has to be.
"""

import socket
from threading import Lock
from weakref import ref

from .message_port import MessagePort

__all__ = ["Readiness"]


class Readiness:
    """The descriptor of one port. Any thread.

    `has_bytes`: something that was taken out of the port waits to be read; whoever sets it calls
    `update` after.
    """

    def __init__(self, port: MessagePort, has_bytes: bool) -> None:
        self.has_bytes: bool = has_bytes
        self._port = ref(port)  # the port refers to this
        self._lock = Lock()
        self._is_set = False
        self._closed = False
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        port.observe(self.update)

    def fileno(self) -> int:
        return self._near.fileno()

    def update(self) -> None:
        """Make the descriptor readable, or not."""
        with self._lock:
            port = self._port()
            is_set = self.has_bytes or port is None or port.is_readable()
            if self._closed or is_set == self._is_set:
                return
            self._is_set = is_set
            if is_set:
                self._far.send(b"\0")
            else:
                self._near.recv(1)

    def close(self) -> None:
        if (port := self._port()) is not None:
            port.observe(None)
        with self._lock:
            self._closed = True
            self._near.close()
            self._far.close()

    def __del__(self) -> None:
        # Not by the sockets' own end, which warns.
        if hasattr(self, "_far"):
            self._near.close()
            self._far.close()
