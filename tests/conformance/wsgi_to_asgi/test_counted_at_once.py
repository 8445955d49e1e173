"""W-STAT-1: a request that is broken off is counted then, however long its task goes on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import Client, TrackedBody, app_returning, calling, serving
from wsgi_asgi_bridge import WSGIToASGI

COUNTERS = ("completed", "rejected", "disconnected", "stalled", "failed", "closed")
STALL_SECONDS = 0.15


class HeldClient(Client):
    """Of a server whose `send` of a body waits for `let_go` and cannot be cancelled, as hypercorn's
    on trio.
    """

    def __init__(self) -> None:
        super().__init__()
        self.let_go = anyio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        if self.started:
            with anyio.CancelScope(shield=True):
                await self.let_go.wait()
        await super().send(message)


def counted(bridge: WSGIToASGI) -> dict[str, int]:
    counts = dataclasses.asdict(bridge.stats())
    return {name: counts[name] for name in COUNTERS if counts[name]}


async def leave(bridge: WSGIToASGI, client: Client) -> None:
    client.leave()


async def close(bridge: WSGIToASGI, client: Client) -> None:
    await bridge.aclose()


async def read_nothing(bridge: WSGIToASGI, client: Client) -> None:
    pass


@pytest.mark.parametrize("anyio_backend", ["trio"])  # where a task can be shielded
@pytest.mark.parametrize(
    ("end", "counter", "options"),
    [
        (leave, "disconnected", {}),
        (close, "closed", {"shutdown_timeout": 0.05}),
        (read_nothing, "stalled", {"stall_timeout": STALL_SECONDS}),
    ],
)
async def test_request_whose_send_cannot_be_cancelled(
    anyio_backend: str, end: Callable[..., Any], counter: str, options: dict[str, Any]
) -> None:
    """By the time that its thread is free; it is in flight until the server lets go of it."""
    body = TrackedBody([bytes(100_000)] * 20)
    client = HeldClient()
    async with serving(app_returning(body), **options) as bridge, calling(bridge, client):
        try:
            await client.until(lambda client: client.started)
            await end(bridge, client)
            await body.closed.wait()
            assert counted(bridge) == {counter: 1}
            assert bridge.stats().in_flight == 1
        finally:
            client.let_go.set()
        await client.until_ended()
        assert counted(bridge) == {counter: 1}
        assert bridge.stats().in_flight == 0
