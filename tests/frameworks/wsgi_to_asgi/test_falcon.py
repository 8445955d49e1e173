"""A WSGI app in falcon's own ASGI test client, which sends what no server does."""

from typing import Any

import anyio
import falcon
import pytest
from falcon import testing

from tests.frameworks.gates import WAIT_SECONDS
from tests.support.fake_wsgi_server import InThread
from wsgi_asgi_bridge import WSGIToASGI


@pytest.fixture
def anyio_backend() -> str:
    """falcon's test client knows asyncio only."""
    return "asyncio"


class Hello:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.text = "hello from falcon"

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        response.data = request.bounded_stream.read()


def falcon_app() -> Any:
    app = falcon.App()
    app.add_route("/", Hello())
    return app


async def test_falcons_conductor_runs_lifespan_and_requests() -> None:
    """W-LIFE-1: it sends a lifespan message of a type that nobody knows, between startup and
    shutdown.
    """
    bridge = WSGIToASGI(falcon_app())
    with anyio.fail_after(WAIT_SECONDS):
        await _conducted(bridge)
    assert bridge.stats().threads == 0


async def _conducted(bridge: WSGIToASGI) -> None:
    async with testing.ASGIConductor(bridge) as conductor:
        assert (await conductor.simulate_get("/")).text == "hello from falcon"
        assert bridge.stats().threads >= 1
        answer = await conductor.simulate_post("/", body=b"sent by falcon")
        assert answer.content == b"sent by falcon"


def test_falcons_test_client() -> None:
    """W-LIFE-1: a lifespan around each request, with that message in it."""
    client = testing.TestClient(WSGIToASGI(falcon_app()))

    def requests() -> list[bytes]:
        sent = client.simulate_post("/", body=b"sent by falcon")
        return [client.simulate_get("/").content, sent.content]

    # In a thread, since the client itself waits without a bound.
    for _ in range(2):
        assert InThread(requests).result() == [b"hello from falcon", b"sent by falcon"]
