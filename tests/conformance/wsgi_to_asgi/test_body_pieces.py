"""W-IN-4, W-FLOW-2: a request's body in empty and in tiny pieces."""

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    Message,
    Scope,
    answered,
    app_returning,
    calling,
    http_scope,
    plain_app,
    post_scope,
    serving,
)

Environ = dict[str, Any]
GONE = "wsgi_asgi_bridge.client_disconnected"


# --- the disconnect behind a body that nobody reads


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ends", [True, False], ids=["ended", "unended"])
async def test_empty_parts_do_not_hide_the_disconnect(method: str, ends: bool) -> None:
    """W-FLOW-2: a request without a body may still have empty parts before its end (HTTP/2 sends
    empty frames), more of them than there are stray messages.
    """
    seen, over = Gate(), list[bool]()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        while not (environ[GONE]() or over):
            time.sleep(0.005)
        if not over:
            seen.open()

    scope = http_scope(method, headers=[(b"content-length", b"0")])
    client = Client(scope, [b""] * 20, body_ends=ends)
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body.startswith(b"first"))
        client.leave()
        try:
            await seen.wait()
        finally:
            over.append(True)
    assert client.error is None


# --- small and empty parts in memory


class Dribbling(Client):
    """A client of as many small parts as wanted, none of which is kept here."""

    def __init__(self, scope: Scope, part: bytes, count: int) -> None:
        super().__init__(scope, body_ends=False)
        self.part = part
        self.left = count
        self.taken = Gate()

    async def receive(self) -> Message:
        if not self.left:
            self.taken.open()
            return await super().receive()
        self.left -= 1
        await anyio.lowlevel.checkpoint()
        return {"type": "http.request", "body": bytes(bytearray(self.part)), "more_body": True}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # of memory there is only one kind
@pytest.mark.parametrize("part", [b"", b"xx"], ids=["empty", "small"])
@pytest.mark.parametrize("how", ["collected", "undeclared", "streamed"])
async def test_small_parts_cost_little_more_than_their_bytes(
    anyio_backend: str, how: str, part: bytes
) -> None:
    """W-IN-4: 20 kB in pieces of two bytes cost 0.8 MB where they were collected; empty ones had no
    bound at all.
    """

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            entered.open()
            head = environ["wsgi.input"].read(1 if part and how == "streamed" else 0)
            gate.wait_in_thread()
            assert len(head + environ["wsgi.input"].read()) == 20_001
        return plain_app(environ, start_response)

    gate, entered = Gate(), Gate()
    scope = post_scope(None if how == "undeclared" else 20_001)
    client = Dribbling(scope, part, 10_000)
    options = {"small_body": 0} if how == "streamed" else {}
    async with serving(app, **options) as bridge:
        await answered(bridge, Client())  # what is made once for all is not counted
        tracemalloc.start()
        try:
            async with calling(bridge, client):
                if how == "streamed":
                    await entered.wait()
                await client.taken.wait()
                held, _ = tracemalloc.get_traced_memory()
                client.feed(b"." * (20_001 - 10_000 * len(part)), last=True)
                gate.open()
        finally:
            tracemalloc.stop()
    assert client.status == 200
    assert held < 150_000


@pytest.mark.parametrize("length", [10, 100_000, None], ids=["collected", "streamed", "undeclared"])
async def test_empty_parts_are_no_progress(length: int | None) -> None:
    """W-IN-4, W-IN-7: a client that sends nothing but empty frames has stalled, at any rate."""
    app = lambda environ, start_response: [environ["wsgi.input"].read()]  # noqa: E731
    client = Client(post_scope(length), [b"some"], body_ends=False)
    options = {"stall_timeout": 0.2, "min_upload_rate": 0}
    async with serving(app, **options) as bridge, calling(bridge, client):
        for _ in range(100):
            await anyio.sleep(0.02)
            client.feed(b"")
            if client.complete:
                break
        assert client.status == 408
        assert bridge.stats().stalled == 1


@pytest.mark.parametrize("length", [10, 100_000], ids=["collected", "streamed"])
async def test_empty_parts_do_not_keep_the_loop(length: int) -> None:
    """W-IN-4, W-FLOW-7: a server that has many of them at once does not wait between them."""

    class Flooding(Client):
        turned = False

        async def receive(self) -> Message:
            if self.turned or self.receive_calls > 100_000:
                return await super().receive()
            self.receive_calls += 1
            return {"type": "http.request", "body": b"", "more_body": True}

    async def turn() -> None:
        while not client.receive_calls:
            await anyio.lowlevel.checkpoint()
        turned_after.append(client.receive_calls)
        client.turned = True

    turned_after: list[int] = []
    client = Flooding(post_scope(length), [b"x" * length])
    app = app_returning(lambda environ: [b"%d" % len(environ["wsgi.input"].read())])
    async with serving(app) as bridge, anyio.create_task_group() as group:
        group.start_soon(turn)
        await answered(bridge, client)
        client.leave()
    assert client.body == b"%d" % length
    assert turned_after[0] < 10_000
