"""Checks whether the peer of a socket has closed it, without reading what it has sent."""

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
        # Only Linux shows it while data waits unread.
        if sys.platform == "linux" and hasattr(select, "POLLRDHUP"):
            poll = unpatched_poll()()
            poll.register(descriptor, select.POLLRDHUP)
            return bool(poll.poll(0))
        readable, _, _ = select.select([descriptor], [], [], 0)
        if not readable:
            return False
        # By the plain socket's method, since TLS sockets refuse to peek. It is readable, so this
        # does not block.
        return socket.socket.recv(connection, 1, socket.MSG_PEEK) == b""
    except OSError:
        return True
    except (TypeError, ValueError):
        # Not a Python socket, or a descriptor above 1023, which select() does not take: the next
        # write fails if the peer has gone.
        return False
