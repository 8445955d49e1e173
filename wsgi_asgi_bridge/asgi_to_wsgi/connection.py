"""The server's connection behind an environ, and what the server has read from it past the head.

WSGI has no word for it. A server shows it in a place of its own:

| server                         | connection                   | read past the head           |
|--------------------------------|------------------------------|------------------------------|
| gunicorn                       | `gunicorn.socket`            | `wsgi.input.reader.unreader` |
| werkzeug                       | `werkzeug.socket`            | `wsgi.input`, if buffered    |
| wsgiref, others on http.server | `wsgi.input.raw._sock`       | `wsgi.input`                 |
| cheroot, gevent.pywsgi         | `wsgi.input.rfile.raw._sock` | `wsgi.input.rfile`           |
| uWSGI                          | `uwsgi.connection_fd()`      | not shown                    |

For other servers there is none. A client that waits for the answer to its request, as it has to
before it speaks another protocol, has sent nothing past the head.
"""

import io
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .._crossing.sockets import is_plain_socket, read_buffered
from .._crossing.stand_in import HeldDescriptor, held_descriptor
from ..typing import Environ

__all__ = ["Connection", "find_connection"]

UWSGI_OPAQUE = ("https-socket", "ssl-socket", "suwsgi-socket", "fastcgi-socket", "scgi-socket")
"""uWSGI's options for sockets with a layer of its own between the connection and the client."""


class Connection:
    """The connection of one request, as its server shows it. Made by `find_connection`."""

    __slots__ = ("_read_ahead", "far_end_is_closed", "held", "keeps_thread", "socket")

    def __init__(
        self,
        held: HeldDescriptor,
        read_ahead: Callable[[], bytes],
        connection: Any = None,
        far_end_is_closed: bool = False,
    ) -> None:
        self.held: HeldDescriptor = held
        """For `take_over`, unless the thread is kept."""
        self.socket: Any = connection
        """The server's socket object; None if it has none."""
        self.far_end_is_closed: bool = far_end_is_closed
        """Whether the far end of the stand-in is to be closed at once, not drained.

        gunicorn passes over the EPIPE of its next write, and would otherwise keep the stand-in for
        a further request.
        """
        self.keeps_thread: bool = connection is not None and not is_plain_socket(connection)
        """Whether the thread stays (WS-A-2): something of the server, such as TLS, is between the
        descriptor and the client, so no stand-in can take its place. Also set by who wants it so.
        """
        self._read_ahead = read_ahead

    def opened(self) -> AbstractContextManager[Any]:
        """The server's socket, for a thread that is kept."""
        if self.socket is not None:
            return nullcontext(self.socket)
        return socket.socket(fileno=os.dup(self.held.number))

    def take_read_ahead(self) -> bytes:
        """Take what the server has read past the request's head.

        Never blocks. In the calling thread, or while that cannot read.
        """
        return self._read_ahead()


def find_connection(environ: Environ) -> Connection | None:
    """Return the connection of an HTTP/1.1 request if its server shows it, else None.

    In the calling thread. Changes nothing.
    """
    # gunicorn shows the one connection of all requests if it is one of HTTP/2. Below a WSGIToASGI
    # the calling thread is not the server's.
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1" or "asgi.scope" in environ:
        return None
    source = environ.get("wsgi.input")
    if (connection := environ.get("gunicorn.socket")) is not None:
        return _of_socket(connection, _GunicornReadAhead(source), far_end_is_closed=True)
    if (connection := environ.get("werkzeug.socket")) is not None:
        return _of_socket(connection, _BufferedReadAhead(source, connection))
    for reader in (source, getattr(source, "rfile", None)):
        connection = getattr(getattr(reader, "raw", None), "_sock", None)
        if connection is not None:
            return _of_socket(connection, _BufferedReadAhead(reader, connection))
    if "uwsgi.version" in environ and (uwsgi := sys.modules.get("uwsgi")) is not None:
        return _of_uwsgi(uwsgi)
    return None


def _of_socket(
    connection: Any, read_ahead: Callable[[], bytes], *, far_end_is_closed: bool = False
) -> Connection | None:
    fileno = getattr(connection, "fileno", None)
    held = held_descriptor(fileno()) if fileno is not None else None
    if held is None:
        return None
    return Connection(held, read_ahead, connection, far_end_is_closed)


def _of_uwsgi(uwsgi: Any) -> Connection | None:
    if any(option in uwsgi.opt for option in UWSGI_OPAQUE):
        return None
    held = held_descriptor(uwsgi.connection_fd())
    return Connection(held, bytes) if held is not None else None


class _GunicornReadAhead:
    """gunicorn's parser keeps in a BytesIO what it has read too much."""

    def __init__(self, source: Any) -> None:
        reader = getattr(source, "reader", None)
        # That of a chunked body has it by way of its request.
        owner = reader if hasattr(reader, "unreader") else getattr(reader, "req", None)
        self._unreader = getattr(owner, "unreader", None)

    def __call__(self) -> bytes:
        unreader = self._unreader
        if unreader is None:
            return b""
        held: bytes = unreader.buf.getvalue()
        unreader.buf = io.BytesIO()
        return held


class _BufferedReadAhead:
    def __init__(self, reader: Any, connection: Any) -> None:
        self._reader = reader
        self._connection = connection

    def __call__(self) -> bytes:
        if not (hasattr(self._reader, "peek") and hasattr(self._reader, "read1")):
            return b""
        return read_buffered(self._reader, self._connection)
