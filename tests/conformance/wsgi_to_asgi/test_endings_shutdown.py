"""The Endings table for WSGIToASGI, one test a row: shutdown, cancellation, forks."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvloop

from tests.support.ending_apps import Ending, computing, endless, row, two_chunks
from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Lifespan,
    answered,
    calling,
    http_scope,
    post_scope,
    settle,
)
from wsgi_asgi_bridge import BridgeClosed, WSGIToASGI

Environ = dict[str, Any]
BLOCK = b"x" * 1000
GONE = "wsgi_asgi_bridge.client_disconnected"


# --- shutdown, cancellation


@asynccontextmanager
async def closed_by(how: str, bridge: WSGIToASGI) -> AsyncIterator[None]:
    """Shut the bridge down in this way meanwhile, and see that it comes to its end."""

    async def shut_down() -> None:
        if how == "aclose":
            await bridge.aclose()
        elif how == "close":
            await anyio.to_thread.run_sync(bridge.close)
        else:
            assert (await lifespan.shutdown()).startswith("lifespan.shutdown.")

    lifespan = Lifespan()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            if how == "lifespan":
                group.start_soon(lifespan.run, bridge)
                await lifespan.startup()
            group.start_soon(shut_down)
            yield


SHUTDOWNS = pytest.mark.parametrize("how", ["aclose", "close", "lifespan"])


@SHUTDOWNS
async def test_buffer_full_at_shutdown(how: str) -> None:
    """W-LIFE-1, row 8: the client reads nothing: after `shutdown_timeout` the worker is woken and
    its iterable closed.
    """
    ending, client = Ending(endless), Client(reads=1)
    async with (
        row(ending, response_buffer=2000, shutdown_timeout=0.1) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.blocked_in_send and c.started)
        async with closed_by(how, bridge):
            await ending.until_closed()
            await client.until_ended()
    assert isinstance(client.error, BridgeClosed)
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert not client.complete


async def test_a_request_that_is_over_is_not_answered_by_the_bridge() -> None:
    """W-LIFE-1, W-STAT-1: it is broken off in the very step in which its body turns out short."""

    class Cut(Client):
        async def receive(self) -> Any:
            message = await super().receive()
            runtimes, _ = bridge._known
            runtimes[0].shut_down()
            return message

    client = Cut(post_scope(10), [b"short"])
    async with row(Ending(two_chunks)) as bridge:
        await client.run(bridge)
    assert isinstance(client.error, BridgeClosed)
    assert client.send_calls == 0
    assert (bridge.stats().closed, bridge.stats().rejected) == (1, 0)


@pytest.mark.parametrize("where", ["reads", "computes", "writes"])
@pytest.mark.parametrize("how", ["scope", "task.cancel()"])
async def test_task_is_cancelled(where: str, how: str, anyio_backend_name: str) -> None:
    """W-FLOW-6, row 9: as a disconnect; the cancellation is not swallowed and does not wait for the
    worker.
    """
    chunks = {"reads": two_chunks, "computes": computing, "writes": endless}[where]
    ending = Ending(chunks, reads=where == "reads")
    client = Client(post_scope(None), [b"some"], body_ends=where != "reads", reads=1)
    async with row(ending, response_buffer=2000) as bridge:
        async with anyio.create_task_group() as group:
            if how == "scope" or anyio_backend_name == "trio":
                group.start_soon(client.run, bridge)
                cancel: Callable[[], Any] = client.cancel
            else:
                task = asyncio.create_task(_cancelled(bridge, client))
                cancel = task.cancel
            if where == "writes":
                await client.until(lambda c: c.blocked_in_send and c.started)
            else:
                await ending.entered.wait()
            cancel()
            await client.until_ended()
        ending.gate.open()
        await ending.until_closed()
    assert ending.closes == 1
    assert ending.gone_at_close == [True]
    assert not client.complete


async def _cancelled(bridge: WSGIToASGI, client: Client) -> None:
    """Call the bridge as a plain task does; only a CancelledError may come out."""
    with pytest.raises(asyncio.CancelledError):
        await bridge(client.scope, client.receive, client.send)  # type: ignore[arg-type]
    client.ended = True
    client.read_on(0)


@pytest.mark.parametrize("reason", ["Content-Length", "HEAD"])
async def test_iterable_is_closed_early(reason: str) -> None:
    """W-OUT-6, row 10: nothing more of it is wanted: the response is whole and close() sees the
    client there.
    """
    headers = [("Content-Length", "1500")] if reason == "Content-Length" else []
    ending = Ending(endless, headers=headers)
    async with row(ending) as bridge:
        client = await answered(bridge, Client(http_scope("HEAD" if reason == "HEAD" else "GET")))
    assert client.complete
    assert len(client.body) == (1500 if headers else 0)
    assert (ending.closes, ending.gone_at_close) == (1, [False])


@SHUTDOWNS
async def test_pool_is_shut_down_in_mid_flight(how: str) -> None:
    """W-LIFE-1, row 11: an app that ends in time is answered whole, and the queue behind it is."""
    ending = Ending(computing)
    client, queued = Client(), Client(http_scope(path="/other"))
    async with row(ending, workers=1) as bridge, calling(bridge, client, queued):
        await ending.entered.wait()
        await settle()
        async with closed_by(how, bridge):
            await settle()
            assert not client.ended
            ending.gate.open()
    assert client.complete
    assert queued.body == b"hello"
    assert (ending.closes, ending.gone_at_close) == (1, [False])


@SHUTDOWNS
async def test_pool_is_shut_down_and_the_app_does_not_end(how: str) -> None:
    """W-LIFE-1, row 11: past `shutdown_timeout` the request is broken off; the thread ends at the
    app's next step.
    """
    ending, client = Ending(computing), Client()
    async with row(ending, shutdown_timeout=0.1) as bridge:
        async with calling(bridge, client):
            await ending.entered.wait()
            async with closed_by(how, bridge):
                await client.until_ended()
        ending.gate.open()
        await ending.until_closed()
    assert isinstance(client.error, BridgeClosed)
    assert (ending.closes, ending.gone_at_close) == (1, [True])


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("where", ["reads", "computes", "writes", "queue"])
def test_loop_is_closed_in_mid_flight(where: str, loop_factory: Any) -> None:
    """W-FLOW-6, row 11: a loop that was stopped and closed under its requests: the workers end,
    close() runs.
    """
    chunks = {"reads": two_chunks, "writes": endless}.get(where, computing)
    ending = Ending(chunks, reads=where == "reads")
    bridge = WSGIToASGI(
        ending, workers=1, response_buffer=2000, stall_timeout=0.2, shutdown_timeout=0.5
    )

    async def begin() -> None:
        client = Client(post_scope(None), [b"some"], body_ends=where != "reads", reads=1)
        tasks.append(asyncio.create_task(client.run(bridge)))
        if where == "writes":
            await client.until(lambda c: c.blocked_in_send and c.started)
        else:
            await asyncio.to_thread(ending.entered.wait_in_thread)
        if where == "queue":
            tasks.append(asyncio.create_task(Client().run(bridge)))
            await settle()

    tasks: list[asyncio.Task[None]] = []
    loop = loop_factory()
    loop.run_until_complete(begin())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    ending.gate.open()
    assert ending.body is not None
    ending.body.closed.wait_in_thread()
    bridge.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    tasks.clear()
    gc.collect()
    assert ending.closes == 1
    assert bridge.stats().threads == 0


# --- fork


def _exit_code_of(pid: int) -> int:
    """The child's exit code; a child that hangs is killed and fails the test."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the forked child hung")


def _forked(child: Callable[[], None]) -> int:
    """Run `child` in a fork of this process and return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads and fork
        pid = os.fork()
    if pid:
        return _exit_code_of(pid)
    code = 1
    try:
        child()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("asyncio", {"use_uvloop": False}),
        ("asyncio", {"use_uvloop": True}),
        ("trio", {}),
    ],
    ids=["asyncio", "uvloop", "trio"],
)
def test_fork_in_mid_flight(backend: str, options: dict[str, Any]) -> None:
    """W-LIFE-1, row 12: the child has neither request nor thread of its parent and serves anew; the
    parent goes on.
    """
    ending = Ending(computing)
    bridge = WSGIToASGI(ending, workers=2, shutdown_timeout=5)
    clients: list[Client] = []

    async def one_request() -> None:
        clients.append(Client())
        await answered(bridge, clients[0])

    async def other_request() -> bytes:
        return (await answered(bridge, Client(http_scope(path="/other")))).body

    def child() -> None:
        stats = bridge.stats()
        assert (stats.threads, stats.in_flight, stats.busy) == (0, 0, 0), stats
        bridge.close()
        assert anyio.run(other_request, backend=backend, backend_options=options) == b"hello"
        bridge.close()
        assert bridge.stats().threads == 0
        assert ending.closes == 0

    def serve() -> None:
        anyio.run(one_request, backend=backend, backend_options=options)

    server = threading.Thread(target=serve)
    server.start()
    try:
        ending.entered.wait_in_thread()
        assert _forked(child) == 0
    finally:
        ending.gate.open()
        server.join(DEADLINE_SECONDS)
        bridge.close()
    assert not server.is_alive()
    assert clients[0].complete
    assert (ending.closes, ending.gone_at_close) == (1, [False])
