"""W-LIFE-2: after `close()`, `aclose()` or a lifespan's shutdown has returned, the next request
starts a new pool, whatever is still stuck in the old one.
"""

from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    Lifespan,
    answered,
    calling,
    http_scope,
    plain_app,
    serving,
    settle,
)
from wsgi_asgi_bridge import BridgeClosed, WSGIToASGI

Environ = dict[str, Any]


class StuckApp:
    """Its requests to `/stuck` notice nothing until they are let go."""

    def __init__(self) -> None:
        self.entered, self.gate = Gate(), Gate()
        self.paths: list[str] = []

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        self.paths.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/stuck":
            self.entered.open()
            self.gate.wait_in_thread()
        return plain_app(environ, start_response)


async def close(bridge: WSGIToASGI) -> None:
    await anyio.to_thread.run_sync(bridge.close)


async def lifespan(bridge: WSGIToASGI) -> None:
    server = Lifespan()
    async with anyio.create_task_group() as group:
        group.start_soon(server.run, bridge)
        await server.startup()
        assert await server.shutdown() == "lifespan.shutdown.complete"


async def all_threads_ended(bridge: WSGIToASGI) -> None:
    """Those of closed pools end at the app's next step; no event tells of it."""
    await bridge.aclose()
    with anyio.fail_after(DEADLINE_SECONDS):
        while bridge.stats().threads:  # noqa: ASYNC110
            await anyio.sleep(0.002)


ENDINGS = pytest.mark.parametrize("end", [close, WSGIToASGI.aclose, lifespan])


@ENDINGS
async def test_next_request_is_answered(end: Any) -> None:
    app, stuck = StuckApp(), Client(http_scope(path="/stuck"))
    async with serving(app, workers=1, shutdown_timeout=0.05) as bridge, calling(bridge, stuck):
        await app.entered.wait()
        await end(bridge)
        for _ in range(2):
            assert (await answered(bridge)).body == b"hello"
        stats = bridge.stats()
        app.gate.open()
    assert isinstance(stuck.error, BridgeClosed)
    # The stuck thread is still seen.
    assert (stats.threads, stats.busy + stats.idle, stats.completed) == (2, 2, 2)
    await all_threads_ended(bridge)


@ENDINGS
async def test_what_waited_behind_it_never_begins(end: Any) -> None:
    """Neither in the old pool, which it was queued in, nor in the new one."""
    app, stuck = StuckApp(), Client(http_scope(path="/stuck"))
    queued = [Client(http_scope(path=f"/queued/{number}")) for number in range(3)]
    async with serving(app, workers=1, shutdown_timeout=0.05) as bridge:
        async with calling(bridge, stuck):
            await app.entered.wait()
            async with calling(bridge, *queued):
                await settle()
                await end(bridge)
            await answered(bridge, Client(http_scope(path="/later")))
            app.gate.open()
        await all_threads_ended(bridge)
    assert app.paths == ["/stuck", "/later"]
    assert all(isinstance(client.error, BridgeClosed) for client in queued)
    assert (bridge.stats().closed, bridge.stats().completed) == (4, 1)


async def test_two_closers_and_many_rounds() -> None:
    """Each round leaves its stuck thread behind; none of them is lost or kept."""
    rounds = 3
    apps = [StuckApp() for _ in range(rounds)]
    stuck = [Client(http_scope(path="/stuck")) for _ in range(rounds)]
    async with (
        serving(plain_app, workers=1, shutdown_timeout=0.05) as bridge,
        anyio.create_task_group() as group,
    ):
        for app, client in zip(apps, stuck, strict=True):
            bridge.app = app
            group.start_soon(client.run, bridge)
            await app.entered.wait()
            async with anyio.create_task_group() as closers:
                closers.start_soon(bridge.aclose)
                closers.start_soon(close, bridge)
        assert bridge.stats().threads == rounds
        assert (await answered(bridge)).body == b"hello"
        for app in apps:
            app.gate.open()
    await all_threads_ended(bridge)
    assert bridge.stats().closed == rounds


async def test_what_waited_in_a_loop_that_is_held_up_never_begins() -> None:
    """That loop does not learn of the end before the stuck thread is free for the next."""
    app, stuck = StuckApp(), Client(http_scope(path="/stuck"))
    held_up, go_on = Gate(), Gate()
    errors: list[BaseException | None] = []

    async def other_loop() -> None:
        queued = Client(http_scope(path="/queued"))
        async with calling(bridge, queued):
            await settle()
            held_up.open()
            go_on.wait_in_thread()
        errors.append(queued.error)

    async with serving(app, workers=1, shutdown_timeout=0.05) as bridge, calling(bridge, stuck):
        await app.entered.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, anyio.run, other_loop)
            await held_up.wait()
            await bridge.aclose()
            app.gate.open()
            await all_threads_ended(bridge)
            go_on.open()
    assert app.paths == ["/stuck"]
    assert [type(error) for error in errors] == [BridgeClosed]
