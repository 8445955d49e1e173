"""W-FLOW-8: an event stream leaves the pool's count with its first chunk, others do not."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    calling,
    http_scope,
    plain_app,
    serving,
    settle,
)

Environ = dict[str, Any]
NEVER_SECONDS = 3600.0
STREAMS = 6


class Streams:
    """`/0`, `/1` ... are streams of one content type, open until the gate is; and `/hello`."""

    def __init__(self, content_type: str, first: list[bytes]) -> None:
        self.content_type = content_type
        self.first = first
        self.begun = [Gate() for _ in range(STREAMS)]
        self.gate = Gate()

    def __call__(self, environ: Environ, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/hello":
            return plain_app(environ, start_response)
        start_response("200 OK", [("X-First", "1"), ("Content-Type", self.content_type)])
        return self._events(int(environ["PATH_INFO"][1:]))

    def clients(self, count: int) -> list[Client]:
        return [Client(http_scope(path=f"/{number}")) for number in range(count)]

    def _events(self, number: int) -> Iterator[bytes]:
        yield from self.first
        self.begun[number].open()
        self.gate.wait_in_thread()
        yield b"data: last\n\n"


@pytest.mark.parametrize("first", [[b"data: 1\n\n"], [b""]], ids=["an event", "an empty chunk"])
@pytest.mark.parametrize(
    "content_type",
    ["text/event-stream", "Text/Event-Stream; charset=utf-8", "text/event-stream ;charset=utf-8"],
)
async def test_event_stream_leaves_the_count_with_its_first_chunk(
    content_type: str, first: list[bytes]
) -> None:
    """W-FLOW-8: six streams on two workers all begin and leave both to others, whatever
    `stream_after` is.
    """
    app = Streams(content_type, first)
    clients, other = app.clients(STREAMS), Client(http_scope(path="/hello"))
    async with (
        serving(app, workers=2, stream_after=NEVER_SECONDS) as bridge,
        calling(bridge, *clients),
    ):
        for begun in app.begun:
            await begun.wait()
        async with calling(bridge, other):
            pass
        assert other.body == b"hello"
        assert bridge.stats().streaming == STREAMS
        app.gate.open()
    assert all(client.body.endswith(b"data: last\n\n") for client in clients)
    assert bridge.stats().streaming == 0


@pytest.mark.parametrize("content_type", ["text/event-streams", "text/plain", ""])
async def test_other_streams_count_until_they_are_long(content_type: str) -> None:
    """W-FLOW-8."""
    app = Streams(content_type, [b"data: 1\n\n"])
    clients, other = app.clients(2), Client(http_scope(path="/hello"))
    async with (
        serving(app, workers=2, stream_after=NEVER_SECONDS) as bridge,
        calling(bridge, *clients),
    ):
        for client in clients:
            await client.until(lambda c: c.body)
        async with calling(bridge, other):
            await settle()
            assert (bridge.stats().streaming, bridge.stats().queued) == (0, 1)
            app.gate.open()
    assert other.body == b"hello"
