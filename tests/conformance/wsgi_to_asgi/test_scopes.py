"""W-LIFE: lifespan, and scopes that nobody knows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    app_returning,
    calling,
    http_scope,
    nothing_left,
    plain_app,
    serving,
    settle,
)
from wsgi_asgi_bridge import BridgeClosed, ServerError, WSGIToASGI

Environ = dict[str, Any]


@asynccontextmanager
async def lifespan_of(bridge: Any, state: dict[str, Any] | None = None) -> AsyncIterator[Lifespan]:
    """A lifespan that was started; its test asks for the shutdown."""
    lifespan = Lifespan(state)
    async with anyio.create_task_group() as group:
        group.start_soon(lifespan.run, bridge)
        assert await lifespan.startup() == "lifespan.startup.complete"
        try:
            yield lifespan
        except BaseException:
            group.cancel_scope.cancel()
            raise


def held_app(entered: Gate, gate: Gate) -> Any:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/held":
            entered.open()
            gate.wait_in_thread()
        return plain_app(environ, start_response)

    return app


# --- lifespan


async def test_lifespan_from_startup_to_shutdown() -> None:
    """W-LIFE-1: startup and shutdown are answered, requests between are served, no thread is
    left.
    """
    async with nothing_left():
        bridge = WSGIToASGI(plain_app)
        async with lifespan_of(bridge) as lifespan:
            assert (await answered(bridge)).body == b"hello"
            assert bridge.stats().threads >= 1
            assert await lifespan.shutdown() == "lifespan.shutdown.complete"
            assert bridge.stats().threads == 0
        assert [m["type"] for m in lifespan.messages] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]


async def test_shutdown_waits_for_requests_in_flight() -> None:
    """W-LIFE-1: shutdown drains: what runs and what waits for a thread has its thread before the
    shutdown is complete.
    """
    entered, gate = Gate(), Gate()
    clients = [Client(http_scope(path="/held")) for _ in range(3)]
    bridge = WSGIToASGI(held_app(entered, gate), workers=1, shutdown_timeout=DEADLINE_SECONDS)
    async with lifespan_of(bridge) as lifespan, calling(bridge, *clients):
        await entered.wait()
        await settle()
        async with anyio.create_task_group() as group:
            group.start_soon(lifespan.shutdown)
            await settle()
            assert len(lifespan.messages) == 1
            gate.open()
        assert bridge.stats().threads == 0
    assert [client.body for client in clients] == [b"hello"] * 3


async def test_shutdown_waits_no_longer_than_its_timeout() -> None:
    """W-LIFE-1: an app that hangs does not hang the shutdown; its request is broken off, its thread
    ends with its step.
    """
    entered, gate = Gate(), Gate()
    client = Client(http_scope(path="/held"))
    bridge = WSGIToASGI(held_app(entered, gate), shutdown_timeout=0.1)
    async with lifespan_of(bridge) as lifespan, calling(bridge, client):
        await entered.wait()
        assert (await lifespan.shutdown()).startswith("lifespan.shutdown.")
        await client.until_ended()
        gate.open()
    assert isinstance(client.error, BridgeClosed)
    assert not client.complete


async def test_request_during_the_drain_is_refused() -> None:
    """W-LIFE-1: who comes while the pool drains is told so, by a 503 or BridgeClosed, and never
    hangs.
    """
    entered, gate = Gate(), Gate()
    held, late = Client(http_scope(path="/held")), Client()
    bridge = WSGIToASGI(held_app(entered, gate), shutdown_timeout=DEADLINE_SECONDS)
    async with calling(bridge, held):
        await entered.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(bridge.aclose)
            await settle()
            with anyio.fail_after(DEADLINE_SECONDS):
                await late.run(bridge)
            gate.open()
    assert isinstance(late.error, BridgeClosed) or late.status == 503
    assert held.body == b"hello"


async def test_state_reaches_the_app() -> None:
    """W-LIFE-1: the lifespan's `state`, as the server copies it into each scope, is in
    `asgi.scope`.
    """
    seen: list[Any] = []
    state: dict[str, Any] = {"pool": object()}

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        seen.append(environ["asgi.scope"]["state"]["pool"])
        return plain_app(environ, start_response)

    bridge = WSGIToASGI(app)
    async with lifespan_of(bridge, state) as lifespan:
        await answered(bridge, Client(http_scope(state=state.copy())))
        await lifespan.shutdown()
    assert seen == [state["pool"]]


async def test_lifespan_may_come_again() -> None:
    """W-LIFE-1: a test client starts and stops one app many times; each time it serves."""
    bridge = WSGIToASGI(plain_app)
    for _ in range(3):
        async with lifespan_of(bridge) as lifespan:
            assert (await answered(bridge)).body == b"hello"
            assert await lifespan.shutdown() == "lifespan.shutdown.complete"
        assert bridge.stats().threads == 0


async def test_shutdown_of_one_server_leaves_the_other() -> None:
    """W-LIFE-1: two servers share the bridge; the first shutdown does not stop the second's
    requests.
    """
    bridge = WSGIToASGI(plain_app)
    async with lifespan_of(bridge) as first, lifespan_of(bridge) as second:
        await answered(bridge)
        assert await first.shutdown() == "lifespan.shutdown.complete"
        assert (await answered(bridge)).body == b"hello"
        assert await second.shutdown() == "lifespan.shutdown.complete"
    assert bridge.stats().threads == 0


async def test_server_without_lifespan() -> None:
    """W-LIFE-1: nothing but requests; aclose() ends the threads, and doing it twice is no error."""
    async with nothing_left():
        bridge = WSGIToASGI(plain_app)
        assert (await answered(bridge)).body == b"hello"
        await bridge.aclose()
        await bridge.aclose()
        await anyio.to_thread.run_sync(bridge.close)
        assert bridge.stats().threads == 0


async def test_bridge_that_served_nothing_closes_at_once() -> None:
    """W-LIFE-1: neither lifespan without requests nor aclose() without a pool waits for
    anything.
    """
    bridge = WSGIToASGI(plain_app, shutdown_timeout=3600)
    with anyio.fail_after(DEADLINE_SECONDS):
        await bridge.aclose()
        async with lifespan_of(bridge) as lifespan:
            await lifespan.shutdown()
    bridge.close()


async def test_cancelled_lifespan_leaves_nothing() -> None:
    """W-LIFE-1: a server that cancels the lifespan task instead of asking for the shutdown."""
    async with nothing_left():
        bridge = WSGIToASGI(plain_app)
        async with anyio.create_task_group() as group, lifespan_of(bridge):
            await answered(bridge)
            group.cancel_scope.cancel()
        await bridge.aclose()


async def test_cancelled_lifespan_does_not_count_on() -> None:
    """W-LIFE-1: after a lifespan that was cancelled, the next shutdown ends the threads all the
    same.
    """
    bridge = WSGIToASGI(plain_app)
    async with anyio.create_task_group() as group, lifespan_of(bridge):
        await answered(bridge)
        group.cancel_scope.cancel()
    async with lifespan_of(bridge) as lifespan:
        await answered(bridge)
        assert await lifespan.shutdown() == "lifespan.shutdown.complete"
    threads = bridge.stats().threads
    await bridge.aclose()
    assert threads == 0


async def _lifespan_given(bridge: Any, *kinds: str) -> list[str]:
    """What the app answers to these messages."""
    given = [{"type": kind} for kind in kinds]
    answers: list[str] = []

    async def receive() -> Any:
        return given.pop(0)

    async def send(message: Any) -> None:
        answers.append(message["type"])

    await bridge({"type": "lifespan"}, receive, send)
    return answers


async def test_lifespan_messages_of_unknown_type_are_passed_over() -> None:
    """W-LIFE-1."""
    kinds = ("lifespan.new", "lifespan.startup", "lifespan.new", "other", "lifespan.shutdown")
    assert await _lifespan_given(WSGIToASGI(plain_app), *kinds) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@pytest.mark.parametrize("kinds", [["lifespan.shutdown"], ["lifespan.startup"] * 2], ids=repr)
async def test_lifespan_messages_out_of_order(kinds: list[str]) -> None:
    """W-LIFE-1: the server's error, which names both."""
    bridge = WSGIToASGI(plain_app)
    with pytest.raises(ServerError, match=rf"{kinds[-1]!r} came, expected 'lifespan\."):
        await _lifespan_given(bridge, *kinds)
    await bridge.aclose()


async def test_mounted_under_a_router_that_keeps_lifespan_to_itself() -> None:
    """W-LIFE-1, W-ENV-2: a mount adds its prefix to `root_path` and sends no lifespan."""
    seen: list[tuple[str, str]] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        seen.append((environ["SCRIPT_NAME"], environ["PATH_INFO"]))
        return plain_app(environ, start_response)

    async def mount(scope: Any, receive: Any, send: Any) -> None:
        await bridge({**scope, "root_path": scope["root_path"] + "/legacy"}, receive, send)

    async with serving(app) as bridge:
        await answered(mount, Client(http_scope(path="/legacy/users")))
    assert seen == [("/legacy", "/users")]


# --- the rest


@pytest.mark.parametrize("kind", ["pubsub", "", "HTTP", "http.request", None])
async def test_unknown_scope_type_raises(kind: Any) -> None:
    """W-LIFE-1: a ServerError that names the type; receive and send are left alone."""
    client = Client({"type": kind})
    async with serving(app_returning([b"x"])) as bridge:
        await client.run(bridge)
    assert isinstance(client.error, ServerError)
    assert repr(kind) in str(client.error)
    assert client.receive_calls == client.send_calls == 0
