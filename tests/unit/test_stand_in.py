"""stand_in.py: a connection that is taken over, and what its owner has instead."""

import contextvars
import os
import resource
import socket
from collections.abc import Iterator
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_wsgi_server import open_files
from wsgi_asgi_bridge._crossing.loops import running_loop_handle
from wsgi_asgi_bridge._crossing.stand_in import (
    LEAST_NUMBER,
    Handover,
    HeldDescriptor,
    drain,
    held_descriptor,
    receive_some,
    take_over,
)

SOCKET_SECONDS = 5.0
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The owner's end of a connection, and the client's."""
    if request.param == "unix":
        owners, clients = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            clients = socket.create_connection(listener.getsockname())
            owners, _ = listener.accept()
    with owners, clients:
        owners.settimeout(SOCKET_SECONDS)
        clients.settimeout(SOCKET_SECONDS)
        yield owners, clients


def held(owners: socket.socket) -> HeldDescriptor:
    found = held_descriptor(owners.fileno())
    assert found is not None
    return found


def taken(owners: socket.socket) -> Pair:
    """Ours and far, with deadlines."""
    ours, far = take_over(held(owners))
    ours.settimeout(SOCKET_SECONDS)
    far.settimeout(SOCKET_SECONDS)
    return ours, far


def test_what_the_owner_does_reaches_the_stand_in_only(pair: Pair) -> None:
    owners, clients = pair
    ours, far = taken(owners)
    with ours, far:
        number = owners.fileno()
        assert owners.recv(10) == b""  # the end
        owners.sendall(b"the owner's")
        owners.shutdown(socket.SHUT_RDWR)
        assert owners.fileno() == number
        owners.close()
        assert (far.recv(100), far.recv(100)) == (b"the owner's", b"")
        clients.sendall(b"to the loop")
        assert ours.recv(100) == b"to the loop"
        ours.sendall(b"to the client")
        assert clients.recv(100) == b"to the client"


def test_ours_is_the_only_descriptor_of_the_connection(pair: Pair) -> None:
    owners, clients = pair
    ours, far = taken(owners)
    with far:
        ours.close()
        assert clients.recv(10) == b""


def test_both_are_returned_non_blocking_and_not_inherited(pair: Pair) -> None:
    ours, far = take_over(held(pair[0]))
    with ours, far:
        assert not ours.getblocking()
        assert not far.getblocking()
        assert not os.get_blocking(ours.fileno())
        assert not any(map(os.get_inheritable, (ours.fileno(), far.fileno(), pair[0].fileno())))


@pytest.mark.parametrize("blocking", [True, False])
def test_the_stand_in_blocks_if_the_owners_descriptor_did(pair: Pair, blocking: bool) -> None:
    """An owner that has a way of its own to wait would be blocked by the kernel instead."""
    os.set_blocking(pair[0].fileno(), blocking)
    ours, far = take_over(held(pair[0]))
    with ours, far:
        assert os.get_blocking(pair[0].fileno()) is blocking


def test_ours_has_a_high_number(pair: Pair) -> None:
    ours, far = take_over(held(pair[0]))
    with ours, far:
        assert ours.fileno() >= LEAST_NUMBER


def test_ours_has_a_low_number_where_the_system_allows_no_high_ones(pair: Pair) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_NUMBER, limits[1]))
    try:
        ours, far = taken(pair[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with ours, far:
        assert ours.fileno() < LEAST_NUMBER
        ours.sendall(b"to the client")
        assert pair[1].recv(100) == b"to the client"


def test_a_number_that_is_another_connections_by_now_is_left_alone(pair: Pair) -> None:
    owners, _ = pair
    noted = held(owners)
    others, peers = socket.socketpair()
    with peers:
        os.dup2(others.fileno(), owners.fileno())  # the owner closed it; another got the number
        others.close()
        files = open_files()
        with pytest.raises(OSError, match="closed by its owner"):
            take_over(noted)
        assert open_files() == files
        owners.sendall(b"still the other's")
        assert peers.recv(100) == b"still the other's"


def test_a_number_that_is_closed_by_now(pair: Pair) -> None:
    noted = held(pair[0])
    pair[0].close()
    files = open_files()
    with pytest.raises(OSError, match="Bad file descriptor"):
        take_over(noted)
    assert open_files() == files
    assert held_descriptor(noted.number) is None
    assert held_descriptor(-1) is None


def test_without_a_further_descriptor_nothing_is_replaced(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> Pair:
        raise OSError(24, "Too many open files")

    owners, clients = pair
    monkeypatch.setattr(socket, "socketpair", none_left)
    files = open_files()
    with pytest.raises(OSError, match="Too many open files"):
        take_over(held(owners))
    assert open_files() == files
    owners.sendall(b"still the owner's")
    assert clients.recv(100) == b"still the owner's"


async def test_what_the_owner_writes_is_drained_to_its_end(pair: Pair) -> None:
    """Also more than the kernel holds: an owner that is blocked in a write would wait for ever."""
    owners, _ = pair
    loop = running_loop_handle()
    ours, far = take_over(held(owners))
    over = anyio.Event()

    async def drained() -> None:
        await drain(loop, far)
        over.set()

    task = loop.spawn(drained, contextvars.Context())
    with ours:
        await anyio.to_thread.run_sync(owners.sendall, bytes(4_000_000))
        assert far.fileno() >= 0
        owners.close()
        with anyio.fail_after(SOCKET_SECONDS):
            await over.wait()
    assert far.fileno() == -1
    del task


async def test_a_cancelled_drain_closes_the_far_end(pair: Pair) -> None:
    loop = running_loop_handle()
    ours, far = take_over(held(pair[0]))
    with ours:
        task = loop.spawn(partial(drain, loop, far), contextvars.Context())
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        with anyio.fail_after(SOCKET_SECONDS):
            while far.fileno() >= 0:
                await anyio.lowlevel.checkpoint()


async def test_the_far_end_gives_what_the_owner_writes(pair: Pair) -> None:
    loop = running_loop_handle()
    ours, far = take_over(held(pair[0]))
    with ours, far, anyio.fail_after(SOCKET_SECONDS):
        async with anyio.create_task_group() as tasks:
            got: list[bytes] = []

            async def receive() -> None:
                got.append(await receive_some(loop, far))

            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            pair[0].sendall(b"a head")
        assert got == [b"a head"]
        pair[0].close()
        assert await receive_some(loop, far) == b""


def test_a_handover_has_one_owner() -> None:
    """R-1: the loop's or the thread's, whoever is first; the other gets nothing to close."""
    ours, far = socket.socketpair()
    handover = Handover(ours, far)
    assert handover.taken() == (ours, far)
    assert not handover.closed()
    assert ours.fileno() >= 0
    handover = Handover(ours, far)
    assert handover.closed()
    assert handover.taken() is None
    assert (ours.fileno(), far.fileno()) == (-1, -1)
