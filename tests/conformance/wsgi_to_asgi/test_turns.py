"""W-FLOW-7, WS-W-10: however small the pieces are in which a client sends, and however large
`request_buffer` is, the loop's other tasks have their turn.

They are counted, for a server whose `receive()` never waits while it has a message.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_asgi_server import Client, answered, post_scope, serving
from tests.support.fake_websocket import WebSocketClient
from wsgi_asgi_bridge.wsgi_to_asgi.settings import TURN_BYTES

Environ = dict[str, Any]

COUNT = 10_000
PIECES_A_TURN = TURN_BYTES // 256 + 1
TURNS = 2
"""trio's tasks take turns in any order, so one may have two between two of another."""


class EagerClient(Client):
    async def receive(self) -> dict[str, Any]:
        if self._inbox:
            self.receive_calls += 1
            return self._inbox.popleft()
        return await super().receive()


class EagerWebSocketClient(WebSocketClient):
    async def receive(self) -> dict[str, Any]:
        if not (self.accepted and self._inbox):
            return await super().receive()
        self.receive_calls += 1
        message = self._inbox.popleft()
        if not self._inbox:
            self.close(1000)
        return message


async def most_at_once(app: Callable[..., Any], client: Client) -> int:
    """How many messages of the client were received between two turns of another task."""
    counts = [0]

    async def take_turns() -> None:
        while not client.ended:
            counts.append(client.receive_calls)
            await anyio.lowlevel.checkpoint()
        counts.append(client.receive_calls)

    async with (
        serving(app, request_buffer=64 * 2**20) as bridge,
        anyio.create_task_group() as group,
    ):
        group.start_soon(take_turns)
        await answered(bridge, client)
    return max(after - before for before, after in pairwise(counts))


@pytest.mark.parametrize("size", [1, 10], ids=["collected", "streamed"])
async def test_a_body_in_tiny_pieces_leaves_the_loop_to_others(size: int) -> None:
    """W-FLOW-7."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    client = EagerClient(post_scope(COUNT * size), [b"x" * size] * COUNT)
    assert await most_at_once(app, client) <= TURNS * PIECES_A_TURN
    assert client.body == b"x" * (COUNT * size)


async def test_tiny_messages_leave_the_loop_to_others() -> None:
    """WS-W-10."""
    received: list[str] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        while (message := websocket.receive()) is not None:
            received.append(message)
        return []

    client = EagerWebSocketClient()
    messages = [str(number) for number in range(COUNT)]
    client.say(*messages)
    assert await most_at_once(app, client) <= TURNS * PIECES_A_TURN
    assert received == messages
