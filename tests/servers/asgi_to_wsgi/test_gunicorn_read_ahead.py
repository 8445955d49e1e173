"""What gunicorn's own parser has read too much is found, whichever of its readers the body has."""

import socket

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from tests.support.fake_wsgi_server import environ_for
from wsgi_asgi_bridge.asgi_to_wsgi.connection import find_connection

EARLY = b"sent too early"


@pytest.mark.parametrize(
    "request_and_body",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ],
    ids=["no body", "length", "chunked"],
)
def test_what_gunicorn_has_read_behind_a_body(request_and_body: bytes) -> None:
    """R-4"""
    servers, clients = socket.socketpair()
    with servers, clients:
        clients.sendall(request_and_body + EARLY)
        request = next(RequestParser(Config(), servers, ("127.0.0.1", 1)))
        assert request.body.read() in (b"", b"a")
        environ = environ_for() | {"gunicorn.socket": servers, "wsgi.input": request.body}
        connection = find_connection(environ)
        assert connection is not None
        assert connection.take_read_ahead() == EARLY
        assert request.unreader.buf.getvalue() == b""
