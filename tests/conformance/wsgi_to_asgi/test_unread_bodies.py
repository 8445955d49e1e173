"""W-IN-8: a body that the app has left unread holds up neither its response nor its error.

Hypercorn keeps ten parts of a request's body in a queue. While that is full, its last `send()` and
its own answer to an error wait, and the client that still sends its body waits with them.
"""

from collections.abc import Iterable
from typing import Any

import pytest

from tests.support.fake_asgi_server import Client, Message, answered, post_scope, serving

Environ = dict[str, Any]
PART = b"x" * 4000
PARTS = 20


class QueueingServer(Client):
    """A server that ends a response once the app has taken what came of the body.

    As with asyncio's queue, `receive()` gives what is there without letting other tasks run.
    """

    async def receive(self) -> Message:
        if not self._inbox:
            return await super().receive()
        message = self._inbox.popleft()
        self.fed_bytes_taken += len(message["body"])
        self._notify()
        return message

    async def send(self, message: Message) -> None:
        if self._is_final(message):
            await self.until(lambda client: not client._inbox)
        await super().send(message)


def refused() -> QueueingServer:
    """A client whose body is larger than what is received before the app reads."""
    return QueueingServer(post_scope(PARTS * len(PART)), [PART] * PARTS)


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "iterator"])
async def test_last_message_waits_for_no_reader(kind: type) -> None:
    """W-IN-8: the app refuses the upload without reading it."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("413 Content Too Large", [("Content-Length", "2")])
        return kind([b"no"])

    client = refused()
    async with serving(app, small_body=1000, stream_after=0.05) as bridge:
        await answered(bridge, client)
        assert (client.status, client.body) == (413, b"no")
        assert client.fed_bytes_taken == PARTS * len(PART)
        assert bridge.stats().completed == 1


async def test_error_comes_behind_what_the_server_has() -> None:
    """W-IN-8: the server answers it with an empty queue."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise LookupError("before its response")

    client = refused()
    async with serving(app, small_body=1000) as bridge:
        with pytest.raises(LookupError):
            await answered(bridge, client)
        assert client.fed_bytes_taken == PARTS * len(PART)
        assert bridge.stats().failed == 1
