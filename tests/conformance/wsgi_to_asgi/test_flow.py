"""W-FLOW-1, 5 and 7: back-pressure, clients that stall, and the loop that stays free for others."""

import io
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    TrackedBody,
    answered,
    app_returning,
    calling,
    fetched,
    plain_app,
    post_scope,
    serving,
    settle,
    tick,
)
from tests.support.routed import client_of, routed
from wsgi_asgi_bridge import ClientStalled
from wsgi_asgi_bridge._protocol.blocks import SPLIT_BYTES

Environ = dict[str, Any]
BLOCK = b"x" * 1000
STALL_SECONDS = 0.15


# --- W-FLOW-1


@pytest.mark.parametrize("how", ["yield", "write"])
async def test_slow_client_bounds_what_waits(how: str) -> None:
    """W-FLOW-1: at most `response_buffer` bytes and the block in hand, at every moment of the
    response.
    """
    client = Client(reads=1)
    produced, excess, overshoot = 0, [0], Gate()

    def blocks() -> Iterator[bytes]:
        nonlocal produced
        for _ in range(200):
            produced += len(BLOCK)
            excess.append(produced - client.body_bytes)
            if excess[-1] > 10_000 + len(BLOCK):
                overshoot.open()
            yield BLOCK

    def app(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if how == "yield":
            return blocks()
        for block in blocks():
            write(block)
        return []

    async with serving(app, response_buffer=10_000) as bridge, calling(bridge, client):
        await client.until(lambda c: c.blocked_in_send and c.started)
        assert await overshoot.stays_shut()
        while not client.complete:
            seen = len(client.messages)
            client.read_on(1)
            await client.until(lambda c, seen=seen: len(c.messages) > seen)  # type: ignore[misc]
    assert client.body == BLOCK * 200
    assert not overshoot, f"{max(excess)} bytes waited"


async def test_block_larger_than_the_buffer_passes() -> None:
    """W-FLOW-1: a single block over `response_buffer` is sent, not waited for for ever."""
    blocks = [b"a" * 50_000, b"b" * 50_000]
    async with serving(app_returning(lambda e: iter(blocks)), response_buffer=1000) as bridge:
        assert (await answered(bridge)).body == b"".join(blocks)


@pytest.mark.parametrize("kind", [list, tuple])
async def test_body_given_whole_frees_its_thread(kind: Any) -> None:
    """W-FLOW-1: twenty clients that read nothing of a list of 5 MB leave the only worker free."""
    body = kind([b"x" * 1_000_000] * 5)
    app = routed(large=app_returning(body))
    slow = [client_of("/large", reads=0) for _ in range(20)]
    async with serving(app, workers=1) as bridge, calling(bridge, *slow):
        for client in slow:
            await client.until(lambda c: c.blocked_in_send)
        assert (await answered(bridge)).body == b"hello"
        assert bridge.stats().threads == 1
        for client in slow:
            client.read_on()
    assert {len(client.body) for client in slow} == {5_000_000}


# --- W-FLOW-5


@pytest.mark.parametrize("how", ["yield", "write", "list"])
@pytest.mark.parametrize("reads", [0, 1])
async def test_client_that_stops_reading_is_given_up(how: str, reads: int) -> None:
    """W-FLOW-5: after `stall_timeout` the request is aborted with ClientStalled and the thread is
    free.
    """
    body = TrackedBody(iter(lambda: BLOCK, b""))

    def streaming(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if how == "list":
            return [BLOCK] * 100
        try:
            while how == "write":
                write(BLOCK)
        except OSError:
            pass
        return body

    client = client_of("/stream", reads=reads)
    async with serving(
        routed(stream=streaming), workers=1, response_buffer=5000, stall_timeout=STALL_SECONDS
    ) as bridge:
        with anyio.fail_after(DEADLINE_SECONDS):
            await client.run(bridge)
        if how != "list":
            await body.closed.wait()
        assert (await answered(bridge)).body == b"hello"
        assert bridge.stats().stalled == 1
    assert isinstance(client.error, ClientStalled)
    assert not client.complete
    assert body.closes == (how != "list")


async def test_client_is_never_given_up_early() -> None:
    """W-FLOW-5, W-IN-7: `stall_timeout` is the least that a client has, whatever else is going
    on.
    """
    gate, entered = Gate(), Gate()
    timeout = 0.2

    def hold(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    patience = []
    async with (
        serving(routed(hold=hold), stall_timeout=timeout) as bridge,
        calling(bridge, client_of("/hold")),
    ):
        await entered.wait()
        for pause, client in (
            (0.03, Client(reads=0)),
            (0.04, Client(post_scope(10), [b"some"], body_ends=False)),
            (0.03, Client(reads=1)),
        ):
            await anyio.sleep(pause)
            begin = anyio.current_time()
            await client.run(bridge)
            patience.append(anyio.current_time() - begin)
        gate.open()
        assert bridge.stats().stalled == len(patience)
    assert min(patience) >= timeout, patience


async def test_late_tick_gives_nobody_up_early() -> None:
    """W-FLOW-5, W-IN-7: a loop that was held up for longer than `stall_timeout` has not waited for
    its clients meanwhile.
    """
    entered, gate = Gate(), Gate()
    timeout = 0.2

    def hold(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    client = Client(post_scope(10), [b"some"], body_ends=False)
    async with (
        serving(routed(hold=hold), stall_timeout=timeout) as bridge,
        calling(bridge, client_of("/hold")),
    ):
        await entered.wait()
        time.sleep(2 * timeout)  # noqa: ASYNC251  # holds the loop up, and the tick with it
        begin = anyio.current_time()
        await client.run(bridge)
        patience = anyio.current_time() - begin
        gate.open()
    assert patience >= timeout
    assert client.status == 408


async def test_loop_that_is_held_up_gives_nobody_up() -> None:
    """W-FLOW-5, W-IN-7: what a client did meanwhile is seen before its time is up."""
    timeout = 0.4
    client = Client(post_scope(10), [b"some"], body_ends=False)
    async with (
        serving(plain_app, stall_timeout=timeout) as bridge,
        calling(bridge, client),
    ):
        await anyio.sleep(timeout / 3)  # a tick has seen it wait
        time.sleep(2 * timeout)  # noqa: ASYNC251  # holds the loop up, and the tick with it
        await settle()
        client.feed(b"thing!", last=True)
    assert (client.status, client.body) == (200, b"hello")


async def test_silent_stream_is_not_a_stalled_client() -> None:
    """W-FLOW-5: a stream with nothing to say for longer than `stall_timeout` goes on."""
    gate = Gate()

    def chunks() -> Iterator[bytes]:
        yield b"first "
        gate.wait_in_thread()
        yield b"last"

    client = Client()
    app = app_returning(lambda e: chunks())
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"first ")
        tick(bridge, 0.0, 1000.0)
        await settle()
        gate.open()
    assert client.body == b"first last"


# --- W-FLOW-7


class HeldBody(TrackedBody):
    """A body that is held at one of its steps."""

    def __init__(self, where: str, hold: Callable[[], None]) -> None:
        super().__init__([b"a", b"b"])
        self._where, self._hold = where, hold

    def __iter__(self) -> Iterator[bytes]:
        self._hold_at("iter")
        return self

    def __next__(self) -> bytes:
        self._hold_at("next")
        return super().__next__()

    def close(self) -> None:
        self._hold_at("close")
        super().close()

    def _hold_at(self, step: str) -> None:
        if self._where == step:
            self._hold()


@pytest.mark.parametrize("where", ["call", "iter", "next", "close", "file", "list close"])
@pytest.mark.parametrize("then", ["goes on", "leaves", "is cancelled", "bridge is closed"])
async def test_loop_runs_while_the_app_holds_its_thread(where: str, then: str) -> None:
    """W-FLOW-7: wherever the app hangs, the loop serves, counts, cancels and closes; only it lets
    the app go on.
    """
    entered, gate = Gate(), Gate()

    def hold() -> None:
        entered.open()
        gate.wait_in_thread()

    class HeldFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            hold()
            return super().read(size)

    class HeldList(list[bytes]):
        def close(self) -> None:
            hold()

    def held(environ: Environ, start_response: Any) -> Any:
        if where == "call":
            hold()
        start_response("200 OK", [])
        if where == "file":
            return environ["wsgi.file_wrapper"](HeldFile(b"ab"))
        return HeldList([b"a", b"b"]) if where == "list close" else HeldBody(where, hold)

    client = client_of("/held")
    async with (
        serving(routed(held=held), workers=2) as bridge,
        anyio.create_task_group() as group,
        calling(bridge, client),
    ):
        await entered.wait()
        assert (await answered(bridge)).body == b"hello"
        assert bridge.stats().threads == 2
        if then == "leaves":
            client.leave()
        elif then == "is cancelled":
            client.cancel()
        elif then == "bridge is closed":
            group.start_soon(bridge.aclose)
        await settle()
        bridge.stats()
        gate.open()
    assert bridge.stats().in_flight == 0


class EagerClient(Client):
    """A server whose receive() and send() never wait; each gives the worker time to be ahead."""

    async def send(self, message: dict[str, Any]) -> None:
        time.sleep(0.0002)  # noqa: ASYNC251, the loop is busy and the worker is not
        self.messages.append(message)
        self.body_bytes += len(message.get("body", b""))
        self._notify()

    async def receive(self) -> dict[str, Any]:
        if self._inbox:
            time.sleep(0.0002)  # noqa: ASYNC251
            message = self._inbox.popleft()
            self.fed_bytes_taken += len(message["body"])
            self._notify()
            return message
        return await super().receive()


@pytest.mark.parametrize("direction", ["download", "upload"])
async def test_busy_exchange_leaves_the_loop_to_others(direction: str) -> None:
    """W-FLOW-7: a long transfer with a server that never waits does not keep the loop for
    itself.
    """
    block, blocks = b"x" * 65536, 400

    def transfer(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [])
        if direction == "download":
            return (block for _ in range(blocks))
        while environ["wsgi.input"].read(len(block)):
            pass
        return [b"done"]

    body = [block] * blocks if direction == "upload" else [b""]
    client = EagerClient(post_scope(None, path="/transfer"), body)
    app = routed(transfer=transfer)
    async with (
        serving(app, request_buffer=10 * 65536, response_buffer=10 * 65536) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.body_bytes + c.fed_bytes_taken)
        other = await answered(bridge)
        moved = client.body_bytes + client.fed_bytes_taken
    assert other.body == b"hello"
    assert moved < blocks * len(block), "the other request was answered after the transfer"


class CountedChunk(bytes):
    """Counts the pieces that are cut out of it."""

    cuts = 0

    def __getitem__(self, key: Any) -> Any:
        self.cuts += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("how", ["one chunk", "many chunks", "small chunks", "yielded"])
async def test_large_body_leaves_the_loop_to_others(how: str) -> None:
    """W-FLOW-7: after `response_buffer` bytes at most that a server takes without waiting, other
    tasks have their turn, for a body given whole too.
    """
    budget, size = 2**20, 2**25
    bodies = {
        "one chunk": [b"x" * size],
        "many chunks": [b"x" * 2**16] * (size // 2**16),
        "small chunks": [b"x" * 2**8] * (size // 2**8),
        "yielded": iter([b"x" * size]),
    }
    turns: list[int] = []
    client = EagerClient()

    async def take_turns() -> None:
        while not client.ended:
            turns.append(client.body_bytes)
            await anyio.lowlevel.checkpoint()
        turns.append(client.body_bytes)

    async with (
        serving(app_returning(lambda environ: bodies[how]), response_buffer=budget) as bridge,
        anyio.create_task_group() as group,
    ):
        group.start_soon(take_turns)
        await answered(bridge, client)
    assert client.body_bytes == size
    # Trio's tasks take turns in any order, so one may have two turns between those of another.
    longest = max(after - before for before, after in pairwise(turns))
    assert longest <= 2 * (budget + SPLIT_BYTES)


@pytest.mark.parametrize("kind", [list, iter])
async def test_huge_chunk_is_cut_as_it_goes(kind: Any) -> None:
    """W-FLOW-7: not at one go, while the loop waits and as many bytes again are taken."""
    chunk = CountedChunk(40 * SPLIT_BYTES)
    cuts: list[int] = []

    class NotingClient(Client):
        async def send(self, message: dict[str, Any]) -> None:
            cuts.append(chunk.cuts)
            await super().send(message)

    client = await fetched(app_returning(lambda environ: kind([chunk])), NotingClient())
    assert client.body == chunk
    sent = range(len(cuts) - 1)
    assert all(count <= number + 2 for number, count in zip(sent, cuts[1:], strict=True))
