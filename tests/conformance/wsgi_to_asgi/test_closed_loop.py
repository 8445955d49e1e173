"""A loop that was closed with its tasks in mid-flight: the workers of their requests end."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    TrackedBody,
    http_scope,
    post_scope,
    websocket_scope,
)
from wsgi_asgi_bridge import BridgeClosed, WSGIToASGI
from wsgi_asgi_bridge._crossing import loop_to_thread, message_port

PAUSE_SECONDS = 0.005
BLOCK = b"x" * 1000


class Server:
    """A loop that serves one request and is closed as soon as the first chunk is sent."""

    def __init__(self, *, reads: bool) -> None:
        self._reads = reads
        self._first = asyncio.Event()

    async def _receive(self) -> Any:
        await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self._first.set()
            if not self._reads:
                await asyncio.Event().wait()

    async def until_first_chunk(self, bridge: Any) -> "asyncio.Task[None]":
        task = asyncio.create_task(bridge(http_scope(), self._receive, self._send))
        await asyncio.wait_for(self._first.wait(), DEADLINE_SECONDS)
        return task


@contextmanager
def left_with_its_tasks() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop to be closed in the block; its tasks are kept until then, and end in silence."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(RuntimeError):  # the loop is closed, as was meant
                task.get_coro().close()  # type: ignore[union-attr]


def stream(kind: str, over: threading.Event) -> Iterator[bytes]:
    """Chunks for ever; those of any but the "full" kind never fill the buffer."""
    yield BLOCK
    pause = threading.Event()
    for _ in range(int(DEADLINE_SECONDS / PAUSE_SECONDS)):
        if kind != "full":
            pause.wait(PAUSE_SECONDS)
        yield b"" if kind == "empty" else b"x" if kind == "small" else BLOCK
    over.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize("reads", [True, False], ids=["idle", "in send()"])
@pytest.mark.parametrize("kind", ["small", "empty", "full"])
def test_worker_of_a_stream_ends_after_its_loop(kind: str, reads: bool) -> None:
    """W-FLOW-6, W-OUT-11: at its next chunk, be it empty, and not at the next `stall_timeout`."""
    over = threading.Event()
    body = TrackedBody(stream(kind, over))

    def app(environ: Any, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])
        return body

    bridge = WSGIToASGI(app, response_buffer=100 * len(BLOCK), shutdown_timeout=DEADLINE_SECONDS)
    with left_with_its_tasks() as loop:
        task = loop.run_until_complete(Server(reads=reads).until_first_chunk(bridge))
        loop.close()
        body.closed.wait_in_thread()
        over.set()
        bridge.close()
        assert not task.done()
    assert body.closes == 1
    assert bridge.stats().busy == 0


def test_worker_that_reads_ends_after_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-FLOW-6: long before `stall_timeout`, so that the bridge closes and the process exits."""
    monkeypatch.setattr(loop_to_thread, "CLOSED_LOOP_SECONDS", PAUSE_SECONDS)
    reading, raised = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read(1) == b"x"
        reading.set()
        with pytest.raises(BridgeClosed):
            environ["wsgi.input"].read()
        raised.set()
        return []

    bridge = WSGIToASGI(app, small_body=0, shutdown_timeout=DEADLINE_SECONDS)
    messages = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def until_it_reads() -> "asyncio.Task[None]":
        task = asyncio.create_task(bridge(post_scope(2), receive, receive))
        await asyncio.to_thread(reading.wait, DEADLINE_SECONDS)
        return task

    with left_with_its_tasks() as loop:
        task = loop.run_until_complete(until_it_reads())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert raised.wait(DEADLINE_SECONDS)
        bridge.close()
        assert not task.done()
    assert bridge.stats().threads == 0


@pytest.mark.parametrize("kind", ["receives", "sends", "is full"])
def test_worker_of_a_websocket_ends_after_its_loop(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-W-12: it finds the end, whatever it does then."""
    monkeypatch.setattr(message_port, "CLOSED_LOOP_SECONDS", PAUSE_SECONDS)
    told: list[Any] = []
    over = threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send("hello")
        pause = threading.Event()
        try:
            while kind != "receives":
                websocket.send(BLOCK if kind == "is full" else b"x")
                pause.wait(PAUSE_SECONDS if kind == "sends" else 0)
            told.append(websocket.receive())
        except BrokenPipeError:
            told.append("closed")
        over.set()
        return []

    async def until_heard() -> "asyncio.Task[None]":
        heard = asyncio.Event()
        connect = [{"type": "websocket.connect"}]

        async def receive() -> Any:
            if not connect:
                await asyncio.Event().wait()
            return connect.pop()

        async def send(message: Any) -> None:
            if message["type"] == "websocket.send":
                heard.set()
                if kind == "is full":
                    await asyncio.Event().wait()

        task = asyncio.create_task(bridge(websocket_scope(), receive, send))
        await asyncio.wait_for(heard.wait(), DEADLINE_SECONDS)
        return task

    bridge = WSGIToASGI(app, response_buffer=20 * len(BLOCK), shutdown_timeout=DEADLINE_SECONDS)
    with left_with_its_tasks() as loop:
        task = loop.run_until_complete(until_heard())
        loop.close()
        assert over.wait(DEADLINE_SECONDS)
        del task
    bridge.close()
    assert told == [None if kind == "receives" else "closed"]
