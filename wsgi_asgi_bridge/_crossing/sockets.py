"""What a server's socket shows: whether its peer has closed it, whether it is a plain one, and what
its buffered reader holds.
"""

import select
import socket
import sys
from typing import Any

from .greenlets import unpatched_poll, unpatched_socket_type

__all__ = ["is_plain_socket", "peer_has_closed", "read_buffered"]


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


def is_plain_socket(connection: object) -> bool:
    """Whether what goes through the socket's descriptor is what its owner sends and receives.

    True for a socket of the standard library or of gevent; false for their TLS sockets, which are
    of subclasses, and for all that merely wraps a socket.
    """
    kind = type(connection)
    if kind is socket.socket or kind is unpatched_socket_type():
        return True
    gevents = sys.modules.get("gevent.socket")
    return gevents is not None and kind is gevents.socket


def read_buffered(reader: Any, connection: socket.socket) -> bytes:
    """Take what a BufferedReader of the socket holds, and at most what the socket has ready.

    Never blocks, and leaves the socket's time-out as it was. For the thread that would read it, or
    while that thread cannot.
    """
    before = connection.gettimeout()
    connection.settimeout(0.0)
    try:
        held: bytes = reader.read1(len(reader.peek(1)))
        return held
    except (OSError, ValueError):  # nothing is there, or it is closed
        return b""
    finally:
        connection.settimeout(before)
