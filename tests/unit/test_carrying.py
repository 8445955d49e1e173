"""carrying.py: a thread that carries bytes between a connection and a socket of the loop."""

import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.interleaving import Blocking
from wsgi_asgi_bridge._crossing import carrying
from wsgi_asgi_bridge._crossing.carrying import carry

SOCKET_SECONDS = 5.0
BLOCK = bytes(range(256)) * 16384  # more than the kernel holds


class Ends(NamedTuple):
    clients: socket.socket
    loops: socket.socket
    carrying: Blocking[None]


def never() -> None:
    raise AssertionError("the loop is alive")


@pytest.fixture(params=["a socket", "a wrapper"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """The client's end and the loop's, with a thread between them."""
    connection, clients = socket.socketpair()
    inner, loops = socket.socketpair()
    for end in (clients, loops):
        end.settimeout(SOCKET_SECONDS)
    client: Any = connection if request.param == "a socket" else Wrapper(connection)
    with connection, clients, inner, loops:
        thread = Blocking(lambda: carry(client, inner, 60.0, never))
        yield Ends(clients, loops, thread)
        clients.close()
        loops.close()
        thread.result()
        assert inner.fileno() == -1
        assert connection.fileno() >= 0, "it is its server's to close"


class Wrapper:
    """Something with the methods of a socket."""

    def __init__(self, connection: socket.socket) -> None:
        for name in ("recv", "send", "fileno", "setblocking", "shutdown"):
            setattr(self, name, getattr(connection, name))


def received(source: socket.socket, size: int) -> bytes:
    parts = []
    while size and (part := source.recv(min(size, 65536))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def test_bytes_go_both_ways(ends: Ends) -> None:
    """WS-A-2."""
    ends.clients.sendall(b"up")
    assert ends.loops.recv(10) == b"up"
    ends.loops.sendall(b"down")
    assert ends.clients.recv(10) == b"down"


def test_more_than_the_kernel_holds_goes_both_ways_at_once(ends: Ends) -> None:
    """WS-A-2: one side that does not read holds up only what is sent to it."""
    sending = [Blocking(lambda end=end: end.sendall(BLOCK)) for end in (ends.clients, ends.loops)]
    assert received(ends.clients, len(BLOCK)) == BLOCK
    assert received(ends.loops, len(BLOCK)) == BLOCK
    for each in sending:
        each.result()


def test_the_clients_end_is_passed_on_after_its_bytes(ends: Ends) -> None:
    """WS-A-9: what the loop still sends reaches a client that has shut its sending side."""
    ends.clients.sendall(b"last")
    ends.clients.shutdown(socket.SHUT_WR)
    assert (ends.loops.recv(10), ends.loops.recv(10)) == (b"last", b"")
    ends.loops.sendall(b"answer")
    ends.loops.close()
    assert (ends.clients.recv(10), ends.clients.recv(10)) == (b"answer", b"")
    ends.carrying.result()


def test_the_loops_end_is_passed_on_after_its_bytes(ends: Ends) -> None:
    """WS-A-10: and what the client still sends is read, until it closes."""
    ends.loops.sendall(b"last")
    ends.loops.shutdown(socket.SHUT_WR)
    assert (ends.clients.recv(10), ends.clients.recv(10)) == (b"last", b"")
    ends.clients.sendall(b"late")
    assert ends.loops.recv(10) == b"late"
    ends.clients.close()
    ends.carrying.result()
    assert ends.loops.recv(10) == b""


def test_a_client_that_does_not_close_is_left_after_a_while(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-10."""
    monkeypatch.setattr(carrying, "LINGER_SECONDS", 0.01)
    ends.loops.close()
    assert ends.clients.recv(10) == b""
    ends.carrying.result()


@pytest.mark.parametrize("client_sends", [False, True])
def test_a_client_that_reads_nothing_is_left_after_the_loops_end(
    monkeypatch: pytest.MonkeyPatch, client_sends: bool
) -> None:
    """WS-A-10: the loop has aborted the connection, and its bytes wait for the client."""
    monkeypatch.setattr(carrying, "STUCK_SECONDS", 0.0)
    connection, clients = socket.socketpair()
    inner, loops = socket.socketpair()
    with connection, clients, inner, loops:
        thread = Blocking(lambda: carry(connection, inner, 0.001, lambda: None))
        loops.settimeout(0.2)
        with pytest.raises(TimeoutError):  # the client is full, and so is the thread
            loops.sendall(BLOCK)
        assert not thread.done()
        if client_sends:
            clients.sendall(b"x")
        loops.close()
        thread.result()
        assert inner.fileno() == -1


def test_the_check_that_the_loop_is_alive_ends_it() -> None:
    """WS-A-2: the thread never waits for a loop that has ended."""

    class EndedError(Exception):
        pass

    def ended() -> None:
        raise EndedError

    connection, clients = socket.socketpair()
    inner, loops = socket.socketpair()
    with connection, clients, inner, loops:
        thread = Blocking(lambda: carry(connection, inner, 0.001, ended))
        with pytest.raises(EndedError):
            thread.result()
        assert inner.fileno() == -1
        assert loops.recv(10) == b""


def test_it_waits_in_the_kernel(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """WS-A-2: not in a loop that turns."""
    moves: list[int] = []
    move = carrying._Way.move

    def counted(self: Any, pass_on_end: Any) -> bool:
        moves.append(threading.get_ident())
        return move(self, pass_on_end)

    monkeypatch.setattr(carrying._Way, "move", counted)
    for _ in range(10):
        ends.clients.sendall(b"x")
        assert ends.loops.recv(1) == b"x"
    assert len(moves) <= 10 * 6
