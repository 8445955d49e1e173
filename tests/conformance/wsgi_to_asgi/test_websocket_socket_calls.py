"""WS-W-9: the socket in environ has the calls that libraries make on a real one."""

import errno
import select
import selectors
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fake_asgi_server import (
    Gate,
    answered,
    calling,
    nothing_left,
    open_files,
    serving,
    websocket_scope,
)
from tests.support.fake_websocket import WebSocketClient
from tests.support.socket_apps import CLOSE, TEXT, ServerSocket, frame

Environ = dict[str, Any]
FRAME = bytes([0x80 | TEXT, 0x80 | 5, 0, 0, 0, 0]) + b"hello"
"""As a client sends it, with a key of zeros."""


async def said(
    work: Callable[[Any, Gate], Any], *messages: str | bytes, scope: Any = None
) -> tuple[Any, WebSocketClient]:
    """What `work` on the socket gives; the messages are said once the gate that it gets is open."""
    told: list[Any] = []
    ready = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sock = ServerSocket(environ).accept().sock
        told.append(work(sock, ready))
        return []

    client = WebSocketClient(scope)
    async with serving(app) as bridge, calling(bridge, client):
        await ready.wait()
        client.say(*messages)
    assert client.error is None
    return told[0], client


async def test_reads_of_every_size() -> None:
    def work(sock: Any, ready: Gate) -> Any:
        ready.open()
        buffer = bytearray(4)
        return sock.recv(1), sock.recv(6), sock.recv_into(buffer), bytes(buffer), sock.recv(99)

    told, _ = await said(work, "hello", "again")
    again = FRAME[:6] + b"again"
    assert told == (FRAME[:1], FRAME[1:7], 4, FRAME[7:11], again)


async def test_a_look_ahead() -> None:
    def work(sock: Any, ready: Gate) -> Any:
        ready.open()
        return sock.recv(2, socket.MSG_PEEK), sock.recv(99, socket.MSG_PEEK), sock.recv(99)

    told, _ = await said(work, "hello")
    assert told == (FRAME[:2], FRAME, FRAME)


async def test_time_outs() -> None:
    def work(sock: Any, ready: Gate) -> Any:
        assert (sock.gettimeout(), sock.timeout, sock.getblocking()) == (None, None, True)
        sock.settimeout(0.01)
        assert (sock.gettimeout(), sock.timeout, sock.getblocking()) == (0.01, 0.01, True)
        with pytest.raises(TimeoutError):
            sock.recv(99)
        sock.setblocking(False)
        assert (sock.gettimeout(), sock.getblocking()) == (0, False)
        with pytest.raises(BlockingIOError):
            sock.recv(99)
        sock.setblocking(True)
        with pytest.raises(BlockingIOError):
            sock.recv(99, socket.MSG_DONTWAIT)
        ready.open()
        return sock.recv(99)

    told, _ = await said(work, "hello")
    assert told == FRAME


@pytest.mark.parametrize(
    ("peer", "own", "names"),
    [
        (("127.0.0.1", 50000), ("127.0.0.1", 8000), (("127.0.0.1", 50000), ("127.0.0.1", 8000))),
        (None, ("/run/socket", None), (("", 0), "/run/socket")),
        (["::1", 5], ["::1", 8000], (("::1", 5), ("::1", 8000))),
    ],
)
async def test_names_and_options(peer: Any, own: Any, names: Any) -> None:
    def work(sock: Any, ready: Gate) -> Any:
        ready.open()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)
        for call in (sock.detach, sock.dup):
            with pytest.raises(OSError, match="no descriptor"):
                call()
        return sock.getpeername(), sock.getsockname()

    told, _ = await said(work, scope=websocket_scope(client=peer, server=own))
    assert told == names


async def test_a_closed_socket() -> None:
    """WS-W-5: as a real one."""

    def work(sock: Any, ready: Gate) -> Any:
        ready.open()
        sock.shutdown(socket.SHUT_RD)
        sock.send(frame(CLOSE))
        sock.close()
        assert sock.fileno() == -1
        for call in (lambda: sock.recv(1), lambda: sock.send(b""), lambda: sock.shutdown(2)):
            with pytest.raises(OSError, match="closed") as caught:
                call()
            assert caught.value.errno == errno.EBADF

    _, client = await said(work)
    assert client.closed_with == (1000, "")


# --- select


def readable(sock: Any, seconds: float = 0) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


async def test_a_selector_sees_what_can_be_read() -> None:
    """WS-W-8: simple-websocket selects if it has a `ping_interval`."""

    def work(sock: Any, ready: Gate) -> Any:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            assert selector.select(0) == []
            ready.open()
            assert selector.select(10)
            assert sock.recv(3) == FRAME[:3]
            assert selector.select(0), "the rest of the frame waits"
            assert sock.recv(99) == FRAME[3:]
            assert sock.recv(99, socket.MSG_PEEK)[-5:] == b"again"
            assert selector.select(0)
            assert sock.recv(99)[-5:] == b"again"
            assert selector.select(10)
            assert sock.recv(99)[-5:] == b"whole"
            assert selector.select(0) == []
            sock.send(frame(CLOSE))
            assert selector.select(10)
            assert sock.recv(99)
            assert sock.recv(99) == b""
            assert selector.select(0), "the end stays readable"

    await said(work, "hello", "again", "whole")


async def test_a_selector_sees_what_was_there_before_it() -> None:
    """WS-W-9."""

    def work(sock: Any, ready: Gate) -> Any:
        ready.open()
        assert sock.recv(3) == FRAME[:3]
        assert readable(sock)
        assert sock.recv(99) == FRAME[3:]
        assert not readable(sock)

    await said(work, "hello")


@pytest.mark.parametrize("closes", [True, False])
async def test_a_descriptor_is_there_only_if_it_is_asked_for(closes: bool) -> None:
    """WS-W-9: two for a socket that is selected on, none for others; none is left."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sock = ServerSocket(environ).accept().sock
        before = open_files().keys()
        sock.settimeout(0.001)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert open_files().keys() == before
        number = sock.fileno()
        assert sock.fileno() == number
        assert len(open_files().keys() - before) == 2
        if closes:
            sock.close()
            assert open_files().keys() == before
        return []

    async with nothing_left(), serving(app) as bridge:
        await answered(bridge, WebSocketClient())
