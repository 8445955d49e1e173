"""One request over a real connection to a small WSGI server of this process, and its thread.

werkzeug's server answers in chunks, wsgiref's up to the close. Both call the app as on their own
listening socket; here the test gives them the connection, and sees when their thread is free.
"""

import http.client
import socket
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import werkzeug.serving

from tests.support.fake_wsgi_server import DEADLINE_SECONDS, must_happen

App = Callable[..., Any]
HOST = "127.0.0.1"
SERVERS = ("werkzeug", "wsgiref")
CHUNKED, UNTIL_CLOSE = SERVERS


class _QuietWerkzeug(werkzeug.serving.WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None: ...


class _QuietWsgiref(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@contextmanager
def _server(name: str, app: App) -> Iterator[Any]:
    make: Any = werkzeug.serving.make_server
    kind: Any = {"request_handler": _QuietWerkzeug, "threaded": True}
    if name == UNTIL_CLOSE:
        make = wsgiref.simple_server.make_server
        kind = {"handler_class": _QuietWsgiref}
    with make(HOST, 0, app, **kind) as server:
        server.handle_error = lambda *_: None
        yield server


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection that can be reset, which those of a socketpair cannot."""
    with socket.create_server((HOST, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    return accepted, client


class ServedConnection:
    """A client's connection, and the server's thread that answers one request on it."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._accepted, self.client = tcp_pair()
        self.client.settimeout(DEADLINE_SECONDS)
        self.thread = threading.Thread(target=self._serve, name="driver: server", daemon=True)
        self.is_free = threading.Event()
        """Set when the server's thread has done all it does for this request."""
        self.response = http.client.HTTPResponse(self.client)
        self.thread.start()

    def _serve(self) -> None:
        try:
            address = self._accepted.getsockname()
            socketserver.BaseServer.finish_request(self._server, self._accepted, address)
        except OSError:
            pass  # as a server that logs it
        finally:
            self._server.shutdown_request(self._accepted)
            self.is_free.set()

    def ask(
        self, target: str = "/", *, method: str = "GET", version: str = "1.1", body: bytes = b""
    ) -> None:
        """A body is JSON, for those who ask."""
        kind = "Content-Type: application/json\r\n"
        framing = f"{kind}Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {target} HTTP/{version}\r\nHost: example.org\r\n{framing}\r\n"
        self.client.sendall(head.encode() + body)

    def read_head(self) -> http.client.HTTPResponse:
        self.response.begin()
        return self.response

    def read_exactly(self, size: int) -> bytes:
        """The next bytes of the body, without its framing."""
        return self.response.read(size)

    def read_rest(self) -> bytes:
        """The body to its end; http.client raises if it is cut."""
        return self.response.read()

    def read_raw(self) -> bytes:
        """All bytes to the connection's end, as they are."""
        got = bytearray()
        while data := self.client.recv(1_000_000):
            got += data
        return bytes(got)

    def thread_is_free(self) -> None:
        must_happen(self.is_free, "the end of the server's thread")

    def close(self) -> None:
        self.response.close()
        self.client.close()


@contextmanager
def served(app: App, server: str = CHUNKED) -> Iterator[ServedConnection]:
    """A connection to a server; in the end its thread is free, and its sockets are closed."""
    with _server(server, app) as made:
        connection = ServedConnection(made)
        try:
            yield connection
        finally:
            connection.close()
            connection.thread_is_free()
            connection.thread.join(DEADLINE_SECONDS)
