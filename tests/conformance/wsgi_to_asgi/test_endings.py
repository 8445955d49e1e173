"""The Endings table for WSGIToASGI, one test a row: the app ends, or its client leaves.

Each checks that close() ran exactly once (or, where the app never ran, never), what it saw, and
that afterwards no thread, task or file of the bridge is left.
"""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.ending_apps import Ending, computing, endless, row, two_chunks
from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    TrackedBody,
    answered,
    calling,
    nothing_left,
    post_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import ClientDisconnected, WSGIToASGI
from wsgi_asgi_bridge._crossing.channel import LoopToThread

Environ = dict[str, Any]
BLOCK = b"x" * 1000
GONE = "wsgi_asgi_bridge.client_disconnected"


class AppsOwnError(Exception):
    """What an app raises on its own account."""


# --- the app ends


async def test_app_returns() -> None:
    """W-OUT-5, row 1: the response is whole, close() sees the client still there."""
    ending = Ending(two_chunks)
    async with row(ending) as bridge:
        client = await answered(bridge)
    assert (client.body, client.complete) == (b"onetwo", True)
    assert (ending.closes, ending.gone_at_close) == (1, [False])


@pytest.mark.parametrize("empty_chunks", [0, 2])
async def test_app_raises_before_the_headers(empty_chunks: int) -> None:
    """W-OUT-5, row 2: the server gets the exception and no message; close() runs."""
    error = AppsOwnError()

    def failing(ending: Ending) -> Iterator[bytes]:
        yield from [b""] * empty_chunks
        raise error

    ending, client = Ending(failing), Client()
    async with row(ending) as bridge:
        await client.run(bridge)
    assert client.error is error
    assert client.messages == []
    assert ending.closes == 1


async def test_app_raises_after_the_headers() -> None:
    """W-OUT-5, row 3: the response stays cut; close() runs."""
    error = AppsOwnError()

    def failing(ending: Ending) -> Iterator[bytes]:
        yield b"part"
        raise error

    ending, client = Ending(failing), Client()
    async with row(ending) as bridge:
        await client.run(bridge)
    assert client.error is error
    assert not client.complete
    assert ending.closes == 1


async def test_app_raises_what_a_client_that_left_would_raise() -> None:
    """W-OUT-5, W-CALL-3, row 2: nobody has left, so it is the app's own error and travels out."""
    error = ClientDisconnected("another client, of the app's own")

    def failing(ending: Ending) -> Iterator[bytes]:
        raise error
        yield b""

    ending, client = Ending(failing), Client()
    async with row(ending) as bridge:
        await client.run(bridge)
        assert (bridge.stats().failed, bridge.stats().disconnected) == (1, 0)
    assert client.error is error
    assert (ending.closes, ending.gone_at_close) == (1, [False])


async def test_app_raises_in_close_as_well() -> None:
    """W-OUT-5, rows 2 and 3: an exception of the iteration and one of close(): one close(), and the
    server gets one of them.
    """
    first, second = AppsOwnError("in the iteration"), AppsOwnError("in close")

    def fail(error: Exception) -> Any:
        raise error

    body = TrackedBody((fail(first) for _ in "x"), on_close=lambda: fail(second))

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])
        return body

    client = Client()
    async with nothing_left(), serving(app, stream_after=0.05) as bridge:
        await client.run(bridge)
    assert client.error in (first, second)
    assert body.closes == 1
    assert not client.complete


# --- the client leaves


async def test_an_app_whose_reading_raises_can_ask_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-FLOW-3: the app is told that its client is gone no later than by the error; without a GIL
    it may ask before the loop takes its next step.
    """
    reading, over = Gate(), Gate()
    environs: list[Environ] = []
    told: list[bool] = []
    break_body = LoopToThread.break_in_loop

    def ask_and_break(body: LoopToThread, reason: Any) -> None:
        told.append(environs[0][GONE]())
        break_body(body, reason)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environs.append(environ)
        reading.open()
        try:
            environ["wsgi.input"].read()
        finally:
            over.open()
        raise AssertionError("the body was cut")

    monkeypatch.setattr(LoopToThread, "break_in_loop", ask_and_break)
    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with row(app) as bridge, calling(bridge, client):
        await reading.wait()
        client.leave()
        await over.wait()
    assert told[0]


async def test_client_leaves_while_the_app_reads() -> None:
    """W-OUT-5, row 4: the pump wakes the reader with ClientDisconnected; close() sees it gone;
    nothing is raised.
    """
    ending = Ending(two_chunks, reads=True)
    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with row(ending) as bridge, calling(bridge, client):
        await ending.entered.wait()
        client.leave()
        await ending.until_closed()
    assert [type(error) for error in ending.errors] == [ClientDisconnected]
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert client.error is None


async def test_client_leaves_while_the_app_computes() -> None:
    """W-OUT-5, row 5: the app learns it at its next step at the latest; the call does not wait for
    it.
    """

    def polling(ending: Ending) -> Iterator[bytes]:
        yield b"first"
        yield from computing(ending)

    ending, client = Ending(polling), Client()
    async with row(ending) as bridge:
        async with calling(bridge, client):
            await ending.entered.wait()
            client.leave()
        ending.gate.open()
        await ending.until_closed()
        assert bridge.stats().disconnected == 1
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert client.error is None
    assert ending.body is not None
    assert ending.body.steps == 2


async def test_client_leaves_before_the_first_byte() -> None:
    """W-OUT-5, row 5: a server that drops what is sent to a client that is gone does not hide it
    from a slow app, which is stopped at its next step.
    """
    ending, client = Ending(computing), Client()
    async with row(ending) as bridge, calling(bridge, client):
        await ending.entered.wait()
        client.leave()
        await client.until_ended()
        ending.gate.open()
        await ending.until_closed()
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert ending.body is not None
    assert ending.body.steps == 1
    assert client.error is None
    assert client.messages == []


@pytest.mark.parametrize("raises", [False, True], ids=["send is silent", "send raises"])
async def test_client_leaves_while_the_app_writes(raises: bool) -> None:
    """W-OUT-5, row 6: a worker that waits for room is woken; close() sees the client gone."""
    ending, client = Ending(endless), Client(reads=1, raises_when_gone=raises)
    async with row(ending, response_buffer=2000) as bridge, calling(bridge, client):
        await client.until(lambda c: c.blocked_in_send and c.started)
        client.leave()
        await ending.until_closed()
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert client.error is None
    assert not client.complete


@pytest.mark.parametrize("how", ["leave", "cancel"])
async def test_client_leaves_the_queue(how: str) -> None:
    """W-FLOW-4, row 7: the app is never called for it, so there is nothing to close; it leaves at
    once.
    """
    ending = Ending(computing)
    first, waiting = Client(), Client()
    async with row(ending, workers=1) as bridge, calling(bridge, first):
        await ending.entered.wait()
        async with calling(bridge, waiting):
            await settle()
            assert bridge.stats().queued == 1
            getattr(waiting, how)()
        assert bridge.stats().queued == 0
        ending.gate.open()
    assert (ending.calls, ending.closes) == (1, 1)
    assert waiting.error is None
    assert waiting.messages == []


# --- memory


class Witness:
    """Dies with the environ that holds it."""


@pytest.mark.parametrize("how", ["returns", "returns a list", "raises", "leaves", "is cancelled"])
async def test_request_is_forgotten(how: str) -> None:
    """W-OUT-5, all rows: after its end nobody holds the environ, though the bridge and its idle
    worker live on.
    """
    entered, gate = Gate(), Gate()
    references: list[weakref.ref[Any]] = []

    def app(environ: Environ, start_response: Any) -> Any:
        witness = environ["test.witness"] = Witness()
        references.append(weakref.ref(witness))
        del witness
        start_response("200 OK", [])
        if how == "returns a list":
            return [b"x"]
        return chunks(environ)

    def chunks(environ: Environ) -> Iterator[bytes]:
        yield b"x"
        if how == "raises":
            raise AppsOwnError
        if how in ("leaves", "is cancelled"):
            entered.open()
            gate.wait_in_thread()
            yield b"y"

    async with serving(app) as bridge:
        await _one_ending(bridge, how, entered, gate)
        await _all_workers_idle(bridge)
        gc.collect()
        assert references[0]() is None


async def _one_ending(bridge: WSGIToASGI, how: str, entered: Gate, gate: Gate) -> None:
    client = Client()
    async with calling(bridge, client):
        if how in ("leaves", "is cancelled"):
            await entered.wait()
            client.leave() if how == "leaves" else client.cancel()
            await settle()
            gate.open()


async def _all_workers_idle(bridge: WSGIToASGI) -> None:
    with anyio.fail_after(DEADLINE_SECONDS):
        while bridge.stats().idle < bridge.stats().threads:  # noqa: ASYNC110
            await anyio.sleep(0.002)
