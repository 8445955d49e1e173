"""W-FLOW-6: the server cancels the task of a request."""

import asyncio
from collections.abc import Callable, Iterator
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
    calling,
    plain_app,
    post_scope,
    serving,
)
from tests.support.routed import routed
from wsgi_asgi_bridge import ClientDisconnected

Environ = dict[str, Any]
BLOCK = b"x" * 1000
GONE = "wsgi_asgi_bridge.client_disconnected"


# --- W-FLOW-6


def held_app(where: str, entered: Gate, gate: Gate, body: TrackedBody) -> Callable[..., Any]:
    """An app that is held where its name says: by the client (`reads`, `writes`), or by the
    gate.
    """

    def app(environ: Environ, start_response: Any) -> Any:
        if where == "reads":
            entered.open()
            environ["wsgi.input"].read()
        if where == "computes":
            entered.open()
            gate.wait_in_thread()
        start_response("200 OK", [])
        return body

    return app


@pytest.mark.parametrize("where", ["reads", "computes", "writes"])
async def test_cancelled_task_frees_the_thread(where: str) -> None:
    """W-FLOW-6: the cancellation goes through at once; the only worker serves the next request."""
    entered, gate = Gate(), Gate()
    body = TrackedBody(iter(lambda: BLOCK, b""))
    app = routed(held=held_app(where, entered, gate, body))
    client = Client(post_scope(None, path="/held"), [b"some"], body_ends=False, reads=1)
    async with serving(app, workers=1, response_buffer=2000) as bridge:
        async with calling(bridge, client):
            if where == "writes":
                await client.until(lambda c: c.blocked_in_send and c.started)
            else:
                await entered.wait()
            client.cancel()
        assert client.cancel_scope.cancelled_caught
        gate.open()
        assert (await answered(bridge)).body == b"hello"
        if where != "reads":
            await body.closed.wait()
    assert bridge.stats().in_flight == 0
    assert body.closes == (where != "reads")


@pytest.mark.parametrize("where", ["reads", "computes", "writes"])
async def test_task_cancelled_by_asyncio_itself(where: str, anyio_backend_name: str) -> None:
    """W-FLOW-6: `task.cancel()`, once and no more, as uvicorn and asyncio.timeout do it."""
    if anyio_backend_name == "trio":
        return  # trio has cancel scopes only; the test above is its test
    entered, gate = Gate(), Gate()
    body = TrackedBody(iter(lambda: BLOCK, b""))
    app = routed(held=held_app(where, entered, gate, body))
    client = Client(post_scope(None, path="/held"), [b"some"], body_ends=False, reads=1)
    async with serving(app, workers=1, response_buffer=2000) as bridge:
        task = asyncio.create_task(bridge(client.scope, client.receive, client.send))  # type: ignore[arg-type]
        if where == "writes":
            await client.until(lambda c: c.blocked_in_send and c.started)
        else:
            await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, DEADLINE_SECONDS)
        gate.open()
        assert (await answered(bridge)).body == b"hello"


async def test_cancelling_does_not_swallow_the_apps_error(caplog: pytest.LogCaptureFixture) -> None:
    """W-FLOW-6, W-CALL-3: nobody raises it any more, so it is logged."""
    left = Gate()

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        def chunks() -> Iterator[bytes]:
            yield b"first"
            raise ValueError("the app's own")

        start_response("200 OK", [])
        return TrackedBody(chunks(), on_close=left.open)

    client = Client(reads=1)
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.started and c.blocked_in_send)
        await left.wait()
        with anyio.fail_after(DEADLINE_SECONDS):
            while bridge.stats().busy:  # noqa: ASYNC110  # no event tells of it
                await anyio.sleep(0.001)
        client.cancel()
        await client.until_ended()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "the app's own"
    ]


async def test_cancelled_task_whose_worker_has_left_is_counted() -> None:
    """W-FLOW-6: the response was on its way, its thread free."""
    client = Client(reads=1)
    async with serving(plain_app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.started and c.blocked_in_send)
        client.cancel()
        await client.until_ended()
        assert bridge.stats().disconnected == 1
    assert not client.complete


async def test_cancelled_app_sees_a_disconnect() -> None:
    """W-FLOW-6: write() and `client_disconnected()` say the same as after a disconnect."""
    entered, gate = Gate(), Gate()
    seen: list[object] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        entered.open()
        gate.wait_in_thread()
        seen.append(environ[GONE]())
        try:
            write(b"x")
        except OSError as error:
            seen.append(type(error))
        return []

    client = Client()
    async with serving(app) as bridge:
        async with calling(bridge, client):
            await entered.wait()
            client.cancel()
        gate.open()
    assert seen == [True, ClientDisconnected]
