"""socket_stream.py: one promise for asyncio, uvloop and trio, over real sockets."""

import asyncio
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import uvloop

from wsgi_asgi_bridge._crossing.event_loop import LoopFactory
from wsgi_asgi_bridge._crossing.loops import running_loop_handle
from wsgi_asgi_bridge._crossing.socket_stream import (
    FULL_BYTES,
    SocketStream,
    StreamCallbacks,
    open_socket_stream,
)

DEADLINE_SECONDS = 10.0
LONG_SECONDS = 60.0
TINY_SECONDS = 0.001
LARGE = bytes(range(256)) * 16_384  # 4 MiB, more than the kernel holds


def open_sockets() -> int:
    """Without the loop's other files: libuv keeps one of its own from the first close on."""
    numbers = os.listdir("/dev/fd")
    return sum(is_socket(int(number)) for number in numbers)


def is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


async def becomes(condition: Callable[[], bool]) -> None:
    """Wait for a state that nobody announces."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.002)


@dataclass
class Seen:
    """What a stream has called back."""

    data: bytearray = field(default_factory=bytearray)
    calls: list[str] = field(default_factory=list)

    def received(self, data: bytes) -> None:
        assert data
        assert "closed" not in self.calls
        self.data += data

    def callbacks(self) -> StreamCallbacks:
        return StreamCallbacks(
            self.received, lambda: self.calls.append("end"), lambda: self.calls.append("closed")
        )


@dataclass
class Connection:
    stream: SocketStream
    seen: Seen
    client: socket.socket

    async def client_reads_to_its_end(self) -> bytes:
        def read() -> bytes:
            got = bytearray()
            while data := self.client.recv(1_000_000):
                got += data
            return bytes(got)

        return await anyio.to_thread.run_sync(read)

    async def is_closed(self) -> None:
        await becomes(lambda: self.seen.calls.count("closed") == 1)
        assert self.stream.closed


@pytest.fixture(params=["unix", "tcp"])
async def connection(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A stream and its peer; both are closed in the end, and nothing is left open."""
    await anyio.to_thread.run_sync(int)  # the thread, and what the loop opens for it, stays
    sockets = open_sockets()
    if request.param == "unix":
        ours, client = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    client.settimeout(DEADLINE_SECONDS)
    ours.setblocking(False)
    seen = Seen()
    with client:
        stream = await open_socket_stream(running_loop_handle(), ours, seen.callbacks())
        made = Connection(stream, seen, client)
        try:
            yield made
        finally:
            stream.abort()
            await made.is_closed()
    await becomes(lambda: open_sockets() == sockets)


async def test_bytes_go_both_ways(connection: Connection) -> None:
    connection.stream.write(b"a", b"b", b"c")
    connection.stream.write(b"d")
    assert connection.client.recv(100) == b"abcd"  # blocks the loop: it has sent them
    connection.client.sendall(b"to the loop")
    await becomes(lambda: connection.seen.data == b"to the loop")
    assert connection.seen.calls == []


async def test_a_writer_waits_for_a_slow_reader(connection: Connection) -> None:
    connection.stream.write(b"first ")
    with anyio.fail_after(DEADLINE_SECONDS):
        await connection.stream.wait_for_room()
    connection.stream.write(LARGE)
    assert connection.stream.kept_bytes() > FULL_BYTES
    waited = anyio.Event()

    async def write_on() -> None:
        await connection.stream.wait_for_room()
        waited.set()
        connection.stream.write(b" last")
        connection.stream.finish(LONG_SECONDS)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_on)
            tasks.start_soon(connection.stream.wait_for_room)
            await anyio.wait_all_tasks_blocked()
            assert not waited.is_set()
            assert await connection.client_reads_to_its_end() == b"first " + LARGE + b" last"
    assert connection.stream.kept_bytes() == 0


async def test_a_wait_for_room_can_be_cancelled(connection: Connection) -> None:
    connection.stream.write(LARGE)
    with anyio.move_on_after(TINY_SECONDS) as scope:
        await connection.stream.wait_for_room()
    assert scope.cancelled_caught
    connection.stream.finish(LONG_SECONDS)
    assert await connection.client_reads_to_its_end() == LARGE


async def test_the_peers_end_is_announced_once_and_writing_goes_on(connection: Connection) -> None:
    connection.client.sendall(b"all")
    connection.client.shutdown(socket.SHUT_WR)
    await becomes(lambda: connection.seen.calls == ["end"])
    assert connection.seen.data == b"all"
    connection.stream.pause_reading()
    connection.stream.resume_reading()
    connection.stream.write(b"still read")
    connection.stream.finish(LONG_SECONDS)
    assert await connection.client_reads_to_its_end() == b"still read"
    await connection.is_closed()
    assert connection.seen.calls == ["end", "closed"]


async def test_finish_drops_what_still_comes_and_waits_for_the_peers_end(
    connection: Connection,
) -> None:
    connection.stream.write(LARGE)
    connection.stream.finish(LONG_SECONDS)
    connection.stream.finish(LONG_SECONDS)
    connection.stream.write(b"too late")
    connection.client.sendall(b"nobody reads this")
    assert await connection.client_reads_to_its_end() == LARGE
    assert not connection.stream.closed
    connection.client.sendall(b"nor this")
    connection.client.close()
    await connection.is_closed()
    assert connection.seen.data == b""
    assert connection.seen.calls == ["closed"]


async def test_finish_reads_on_after_a_pause(connection: Connection) -> None:
    connection.stream.pause_reading()
    connection.client.sendall(bytes(100_000))
    connection.client.close()
    await anyio.wait_all_tasks_blocked()
    connection.stream.finish(LONG_SECONDS)
    await connection.is_closed()


async def test_finish_closes_a_connection_whose_peer_never_ends(connection: Connection) -> None:
    connection.stream.write(b"all")
    connection.stream.finish(TINY_SECONDS)
    assert await connection.client_reads_to_its_end() == b"all"
    await connection.is_closed()


async def test_finish_gives_up_a_peer_that_reads_nothing(connection: Connection) -> None:
    connection.stream.write(LARGE)
    connection.stream.finish(TINY_SECONDS)
    await connection.is_closed()
    assert len(await connection.client_reads_to_its_end()) < len(LARGE)


async def test_finish_waits_for_a_peer_that_reads_slowly(connection: Connection) -> None:
    connection.stream.write(LARGE)
    connection.stream.finish(LONG_SECONDS)
    kept = connection.stream.kept_bytes()
    connection.stream._give_up(LONG_SECONDS, kept + 1)
    await anyio.wait_all_tasks_blocked()
    assert not connection.stream.closed
    connection.stream._give_up(LONG_SECONDS, kept)
    await connection.is_closed()


async def test_an_abort_is_an_end_for_the_peer(connection: Connection) -> None:
    connection.stream.write(b"part")
    connection.stream.abort()
    connection.stream.abort()
    assert await connection.client_reads_to_its_end() == b"part"
    await connection.is_closed()
    connection.stream.write(b"dropped")
    connection.stream.finish(LONG_SECONDS)
    connection.stream.pause_reading()
    connection.stream.resume_reading()
    await connection.stream.wait_for_room()


async def test_a_reset_is_no_end_for_the_peer(connection: Connection) -> None:
    connection.stream.reset()
    await connection.is_closed()
    if connection.client.family == socket.AF_INET:
        with pytest.raises(ConnectionResetError):
            await connection.client_reads_to_its_end()


async def test_an_abort_wakes_who_waits_for_room(connection: Connection) -> None:
    connection.stream.write(LARGE)
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.stream.wait_for_room)
            await anyio.wait_all_tasks_blocked()
            connection.stream.abort()


async def test_a_peer_that_resets_closes_the_socket(connection: Connection) -> None:
    linger = struct.pack("ii", 1, 0)
    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.stream.write(LARGE)
    connection.client.close()
    await connection.is_closed()


async def test_a_peer_that_has_left_is_noticed_by_writing(connection: Connection) -> None:
    connection.stream.pause_reading()
    connection.client.close()
    with anyio.fail_after(DEADLINE_SECONDS):
        while not connection.stream.closed:
            connection.stream.write(b"x" * 1000)
            await anyio.lowlevel.checkpoint()
    await connection.is_closed()


async def test_reading_pauses(connection: Connection) -> None:
    connection.stream.pause_reading()
    connection.stream.pause_reading()
    connection.client.sendall(b"later")
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert connection.seen.data == b""
    connection.stream.resume_reading()
    connection.stream.resume_reading()
    await becomes(lambda: connection.seen.data == b"later")


async def test_a_pause_behind_the_end_announces_it_once(connection: Connection) -> None:
    """Whoever reads on after a pause would find the end again."""
    connection.client.shutdown(socket.SHUT_WR)
    await becomes(lambda: connection.seen.calls == ["end"])
    connection.stream.pause_reading()
    connection.stream.resume_reading()
    for _ in range(5):
        await anyio.wait_all_tasks_blocked()
    assert connection.seen.calls == ["end"]


async def test_small_parts_are_not_held_back(connection: Connection) -> None:
    if connection.client.family == socket.AF_INET:
        assert connection.stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_an_opening_that_is_cancelled_closes_the_socket() -> None:
    ours, client = socket.socketpair()
    ours.setblocking(False)
    seen = Seen()
    with client, ours:
        client.settimeout(DEADLINE_SECONDS)
        with anyio.CancelScope() as scope:
            scope.cancel()
            stream = await open_socket_stream(running_loop_handle(), ours, seen.callbacks())
            stream.abort()  # trio has nothing to wait for
        await becomes(lambda: ours.fileno() < 0)
        assert client.recv(1) == b""


@pytest.mark.parametrize("turns", range(1, 8))
@pytest.mark.parametrize(
    "factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_an_opening_is_cancelled_after_any_turn(factory: LoopFactory, turns: int) -> None:
    """WS-A-3: also when the loop serves the socket already, but the task has not gone on. The loop
    forgets the number, so that another connection may have it.
    """

    async def main() -> None:
        ours, client = socket.socketpair()
        number = ours.fileno()
        with client:
            opening = asyncio.create_task(opened(ours, Seen()))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            with suppress(asyncio.CancelledError):
                (await opening).abort()
            assert await received_by(client) == b""
        again, client = socket.socketpair()
        os.dup2(again.fileno(), number)
        if again.fileno() != number:
            again.close()
            again = socket.socket(fileno=number)
        with client:
            stream = await opened(again, Seen())
            stream.write(b"another connection")
            assert await received_by(client) == b"another connection"
            stream.abort()
            assert await received_by(client) == b""

    async def opened(source: socket.socket, seen: Seen) -> SocketStream:
        source.setblocking(False)
        return await open_socket_stream(running_loop_handle(), source, seen.callbacks())

    async def received_by(client: socket.socket) -> bytes:
        client.setblocking(False)
        receiving = asyncio.get_running_loop().sock_recv(client, 100)
        return await asyncio.wait_for(receiving, DEADLINE_SECONDS)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
