"""sockets.py: whether the peer of a connected socket is still there."""

import os
import select
import socket
from collections.abc import Iterator

import pytest

from wsgi_asgi_bridge._crossing.sockets import peer_has_closed

SOCKET_SECONDS = 5.0
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Our end and the peer's."""
    ours, peers = socket.socketpair() if request.param == "unix" else tcp_pair()
    with ours, peers:
        ours.settimeout(SOCKET_SECONDS)
        yield ours, peers


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peers = socket.create_connection(listener.getsockname(), timeout=SOCKET_SECONDS)
        ours, _ = listener.accept()
    return ours, peers


@pytest.fixture(params=["poll", "select"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Linux, and the systems without POLLRDHUP."""
    if request.param == "select":
        monkeypatch.delattr(select, "POLLRDHUP")
    how: str = request.param
    return how


def must_close(connection: socket.socket) -> None:
    """Wait until the peer's ending has arrived; on loopback that is now."""
    readable, _, _ = select.select([connection], [], [], SOCKET_SECONDS)
    assert readable


def test_a_silent_peer_is_there(pair: Pair) -> None:
    """A-IN-3."""
    assert peer_has_closed(pair[0]) is False


def test_a_peer_that_closed_is_gone(pair: Pair) -> None:
    """A-IN-3."""
    pair[1].close()
    must_close(pair[0])
    assert peer_has_closed(pair[0]) is True


def test_peer_that_shut_its_sending_side_down_is_taken_for_gone(pair: Pair) -> None:
    """A-IN-3: as servers take it."""
    pair[1].shutdown(socket.SHUT_WR)
    must_close(pair[0])
    assert peer_has_closed(pair[0]) is True


def test_what_the_peer_has_sent_is_not_read(pair: Pair) -> None:
    """A-IN-3: a pipelined request, or the rest of a body, stays the server's."""
    pair[1].sendall(b"GET / HTTP/1.1\r\n")
    must_close(pair[0])
    for _ in range(3):
        assert peer_has_closed(pair[0]) is False
    assert pair[0].recv(100) == b"GET / HTTP/1.1\r\n"


def test_a_socket_that_the_server_has_closed_has_no_peer(pair: Pair) -> None:
    pair[0].close()
    assert peer_has_closed(pair[0]) is True


def test_a_descriptor_that_is_no_socket_any_more_has_no_peer(pair: Pair, system: str) -> None:
    """The server closed it under our feet and the number was not used again."""
    descriptor = os.dup(pair[0].fileno())
    os.close(descriptor)

    class Stale:
        def fileno(self) -> int:
            return descriptor

    gone = peer_has_closed(Stale())  # type: ignore[arg-type]
    # poll() reports a closed descriptor as POLLNVAL, which is asked for by nobody and reported
    # always.
    assert gone is True


def test_a_socket_that_refuses_to_peek_is_asked_all_the_same(pair: Pair) -> None:
    """A-IN-3: `ssl.SSLSocket.recv` takes no flags."""

    class Encrypted(socket.socket):
        def recv(self, *args: int) -> bytes:
            raise ValueError("non-zero flags not allowed in calls to recv()")

    with Encrypted(fileno=os.dup(pair[0].fileno())) as ours:
        pair[1].sendall(b"x")
        must_close(ours)
        assert peer_has_closed(ours) is False
        pair[0].recv(1)
        pair[1].close()
        must_close(ours)
        assert peer_has_closed(ours) is True


def test_asking_leaves_no_descriptor_open(pair: Pair) -> None:
    pair[1].sendall(b"x")
    must_close(pair[0])
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        peer_has_closed(pair[0])
    assert set(os.listdir("/proc/self/fd")) == before


def test_asking_does_not_make_the_servers_socket_non_blocking(pair: Pair) -> None:
    """A default time-out of the process belongs to new sockets, not to the one that the server set
    up.
    """
    ours = pair[0]
    ours.setblocking(True)
    pair[1].sendall(b"x")
    must_close(ours)
    socket.setdefaulttimeout(SOCKET_SECONDS)
    try:
        peer_has_closed(ours)
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(ours.fileno())


def test_a_descriptor_that_select_cannot_take_is_not_gone(
    pair: Pair, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-IN-3: nothing is known; the next write will tell."""

    def too_high(*args: object) -> None:
        raise ValueError("filedescriptor out of range in select()")

    monkeypatch.setattr(select, "select", too_high)
    assert peer_has_closed(pair[0]) is False
