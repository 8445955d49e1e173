"""connection.py: where a server's connection is found, and what the server has read too much."""

import io
import socket
import ssl
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fake_wsgi_server import environ_for
from wsgi_asgi_bridge.asgi_to_wsgi.connection import Connection, find_connection

SOCKET_SECONDS = 5.0
EARLY = b"sent too early"
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The server's end, and the client's."""
    servers, clients = socket.socketpair()
    with servers, clients:
        servers.settimeout(SOCKET_SECONDS)
        yield servers, clients


def gunicorn(servers: socket.socket) -> dict[str, Any]:
    unreader = SimpleNamespace(buf=io.BytesIO())
    unreader.buf.write(servers.recv(100, socket.MSG_DONTWAIT))
    body = SimpleNamespace(reader=SimpleNamespace(unreader=unreader))
    return environ_for() | {"gunicorn.socket": servers, "wsgi.input": body}


def buffered(servers: socket.socket) -> io.BufferedReader:
    return servers.makefile("rb")


def werkzeug(servers: socket.socket) -> dict[str, Any]:
    return environ_for() | {"werkzeug.socket": servers, "wsgi.input": buffered(servers)}


def wsgiref(servers: socket.socket) -> dict[str, Any]:
    return environ_for() | {"wsgi.input": buffered(servers)}


def cheroot(servers: socket.socket) -> dict[str, Any]:
    return environ_for() | {"wsgi.input": SimpleNamespace(rfile=buffered(servers))}


SERVERS = [gunicorn, werkzeug, wsgiref, cheroot]


def found(environ: dict[str, Any]) -> Connection:
    connection = find_connection(environ)
    assert connection is not None
    return connection


@pytest.mark.parametrize("server", SERVERS)
def test_the_connection_that_a_server_shows(pair: Pair, server: Any) -> None:
    servers, clients = pair
    clients.sendall(EARLY)
    connection = found(server(servers))
    assert connection.held.number == servers.fileno()
    assert connection.socket is servers
    assert not connection.keeps_thread
    assert connection.far_end_is_closed is (server is gunicorn)
    assert connection.take_read_ahead() == EARLY
    assert connection.take_read_ahead() == b""
    assert servers.gettimeout() == SOCKET_SECONDS


@pytest.mark.parametrize("server", SERVERS[1:])
def test_what_a_buffered_reader_holds_is_read_before_the_rest(pair: Pair, server: Any) -> None:
    servers, clients = pair
    environ = server(servers)
    reader = getattr(environ["wsgi.input"], "rfile", environ["wsgi.input"])
    clients.sendall(b"head\n" + EARLY)
    assert reader.readline() == b"head\n"
    clients.sendall(b" and later")
    connection = found(environ)
    assert connection.take_read_ahead() + servers.recv(100) == EARLY + b" and later"


def test_an_input_that_a_middleware_has_replaced(pair: Pair) -> None:
    """What the server has read is out of sight then; its socket need not be."""
    for key in ("gunicorn.socket", "werkzeug.socket"):
        connection = found(environ_for() | {key: pair[0], "wsgi.input": io.BytesIO(EARLY)})
        assert connection.socket is pair[0]
    assert find_connection(environ_for() | {"wsgi.input": io.BytesIO(EARLY)}) is None


def test_uwsgi_shows_its_descriptor(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    uwsgi = SimpleNamespace(opt={"http-socket": b":80"}, connection_fd=pair[0].fileno)
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)  # type: ignore[arg-type]
    assert find_connection(environ_for()) is None
    environ = environ_for() | {"uwsgi.version": b"2"}
    connection = found(environ)
    assert connection.held.number == pair[0].fileno()
    assert not connection.keeps_thread
    assert connection.take_read_ahead() == b""
    for option in ("https-socket", "fastcgi-socket"):
        uwsgi.opt = {option: b":80"}
        assert find_connection(environ) is None


@pytest.mark.parametrize(
    "other",
    [
        {"SERVER_PROTOCOL": "HTTP/1.0"},
        {"SERVER_PROTOCOL": "HTTP/2"},
        {"asgi.scope": {"type": "http"}},
    ],
    ids=["HTTP/1.0", "HTTP/2", "below a WSGIToASGI"],
)
def test_no_connection_of_another_kind_is_found(pair: Pair, other: dict[str, Any]) -> None:
    assert find_connection(gunicorn_like(pair) | other) is None


def gunicorn_like(pair: Pair) -> dict[str, Any]:
    return environ_for() | {"gunicorn.socket": pair[0]}


def test_servers_that_show_nothing() -> None:
    assert find_connection(environ_for()) is None
    assert find_connection(environ_for() | {"wsgi.input": None}) is None


def test_a_socket_that_is_closed_is_none(pair: Pair) -> None:
    pair[0].close()
    assert find_connection(gunicorn_like(pair)) is None


def test_a_socket_in_memory_is_none() -> None:
    """What a bridge or a test shows under the server's key has no descriptor."""
    assert find_connection(environ_for() | {"werkzeug.socket": object()}) is None


def test_tls_and_wrappers_keep_the_thread(pair: Pair) -> None:
    class Wrapper:
        def fileno(self) -> int:
            return wrapped.fileno()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with context.wrap_socket(pair[0], do_handshake_on_connect=False) as wrapped:
        for connection in (wrapped, Wrapper()):
            assert found(environ_for() | {"gunicorn.socket": connection}).keeps_thread
