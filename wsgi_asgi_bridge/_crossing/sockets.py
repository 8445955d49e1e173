"""Whether the peer of a connected socket is still there, asked without reading what it may have
sent.
"""

import select
import socket
import sys

from .greenlets import unpatched_poll

__all__ = ["peer_has_closed"]


def peer_has_closed(connection: socket.socket) -> bool:
    """True once the peer has closed, or shut down its sending side: servers take both for the end.

    Never blocks.
    """
    try:
        descriptor = connection.fileno()
        if descriptor < 0:
            return True
        # Only Linux tells it apart from data that waits unread.
        if sys.platform == "linux" and hasattr(select, "POLLRDHUP"):
            poll = unpatched_poll()()
            poll.register(descriptor, select.POLLRDHUP)
            return bool(poll.poll(0))
        readable, _, _ = select.select([descriptor], [], [], 0)
        if not readable:
            return False
        # Past the methods of a socket that speaks TLS: those refuse to peek. The data is there, so
        # it does not block.
        return socket.socket.recv(connection, 1, socket.MSG_PEEK) == b""
    except OSError:
        return True
    except (TypeError, ValueError):
        # Not a socket of Python's, or a descriptor above 1023, which select() does not know: the
        # next write will tell.
        return False
