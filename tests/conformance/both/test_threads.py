"""Both bridges in one process: who waits for whom, with as few threads as can be."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from tests.support.both import asgi_behind_both, like, wsgi_behind_both
from tests.support.fake_asgi_server import Client, answered, calling, http_scope, plain_app, serving
from tests.support.fake_wsgi_server import (
    BACKENDS,
    Backend,
    Exchange,
    bridged,
    environ_for,
    finish,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
)
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

CALLERS = 16

here = sync_to_async(threading.get_ident, thread_sensitive=True)


async def running_loop() -> Any:
    return asyncio.get_running_loop()


# --- a WSGI app behind both


@on_every_backend
@pytest.mark.parametrize("workers", [1, 2, 40])
def test_as_many_callers_as_you_like_share_a_pool_of_any_size(
    backend: Backend, workers: int
) -> None:
    """W-FLOW-4, A-CALL-1: every caller is answered, in turn."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"<"
        yield environ["wsgi.input"].read()
        yield b">"

    with wsgi_behind_both(app, backend, workers=workers) as both:
        exchanges = [
            Exchange(both, environ_for(method="POST", body=b"%d" % number))
            for number in range(CALLERS)
        ]
        bodies = [exchange.body for exchange in exchanges]
    assert bodies == [b"<%d>" % number for number in range(CALLERS)]


@on_asyncio_backends
def test_async_to_sync_of_every_caller_runs_on_the_outer_loop(backend: Backend) -> None:
    """W-CALL-2: with one thread for sixteen callers, before the response and in mid-stream; the
    thread-sensitive code below it comes back to the worker.
    """
    loops: list[Any] = []

    async def view() -> tuple[Any, int]:
        return asyncio.get_running_loop(), await here()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        mine = threading.get_ident()
        loop, thread = async_to_sync(view)()
        loops.append(loop)
        assert thread == mine
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one "
        loop, thread = async_to_sync(view)()
        loops.append(loop)
        assert thread == mine
        yield b"two"

    with wsgi_behind_both(app, backend, workers=1) as both:
        exchanges = [Exchange(both) for _ in range(CALLERS)]
        assert {exchange.body for exchange in exchanges} == {b"one two"}
    assert len(loops) == 2 * CALLERS
    assert len(set(loops)) == 1


@on_every_backend
def test_from_thread_run_of_every_caller_runs_on_the_outer_loop(backend: Backend) -> None:
    tokens: list[Any] = []

    async def token() -> Any:
        await anyio.lowlevel.checkpoint()
        return anyio.lowlevel.current_token().native_token

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        tokens.append(anyio.from_thread.run(token))
        return plain_app(environ, start_response)

    with wsgi_behind_both(app, backend, workers=1) as both:
        exchanges = [Exchange(both) for _ in range(CALLERS)]
        assert {exchange.body for exchange in exchanges} == {b"hello"}
    assert len(tokens) == CALLERS
    assert len(set(tokens)) == 1


# --- an ASGI app behind both


@pytest.mark.parametrize("workers", [1, 40])
async def test_as_many_clients_as_you_like_reach_the_async_app(
    anyio_backend: Any, workers: int
) -> None:
    """A-CALL-1, W-FLOW-4."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"<")
        await anyio.lowlevel.checkpoint()
        await finish(send, scope["path"].encode() + b">")

    async with asgi_behind_both(app, like(anyio_backend), workers=workers) as both:
        clients = [Client(http_scope(path=f"/{number}")) for number in range(CALLERS)]
        async with calling(both, *clients):
            pass
    assert [client.body for client in clients] == [b"</%d>" % number for number in range(CALLERS)]


async def test_thread_sensitive_code_runs_on_the_outer_bridges_worker(
    anyio_backend: Any, anyio_backend_name: str
) -> None:
    """A-LOOP-4: with one worker for sixteen requests."""
    if anyio_backend_name == "trio":
        private: Backend = {}
    else:
        private = like(anyio_backend)
    threads: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        threads.append(await here())
        await start(send)
        await stream(send, b"1")
        threads.append(await here())
        await finish(send, b"2")

    async with asgi_behind_both(app, private, workers=1) as both:
        clients = [Client() for _ in range(CALLERS)]
        async with calling(both, *clients):
            pass
    assert {client.body for client in clients} == {b"12"}
    assert len(threads) == 2 * CALLERS
    assert len(set(threads)) == 1


async def test_a_worker_belongs_to_its_own_loop_after_an_async_app(
    anyio_backend_name: str,
) -> None:
    """A-LOOP-4: what asgiref notes of the private loop in the calling thread is gone with the call
    that it was noted for.
    """
    if anyio_backend_name == "trio":
        return  # async_to_sync has no part in trio's loop

    async def uses_the_thread(scope: Any, receive: Any, send: Any) -> None:
        await here()
        await respond(send, b"async half")

    with bridged(uses_the_thread) as async_half:

        def site(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/async":
                body = b"".join(async_half(environ, start_response))
                loops.append(async_to_sync(running_loop)())
                return [body]
            loops.append(async_to_sync(running_loop)())
            return plain_app(environ, start_response)

        loops: list[Any] = []
        async with serving(site, workers=1) as bridge:
            for path in ("/sync", "/async", "/sync"):
                await answered(bridge, Client(http_scope(path=path)))
    assert loops == [asyncio.get_running_loop()] * 3


# --- deeper


@on_asyncio_backends
def test_three_bridges_deep(backend: Backend) -> None:
    """An async app behind ASGIToWSGI, WSGIToASGI and ASGIToWSGI, one worker, sixteen callers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await here()
        await respond(send, scope["path"].encode())

    with (
        bridged(app, backend) as innermost,
        wsgi_behind_both(innermost, backend, workers=1) as triple,
    ):
        exchanges = [Exchange(triple, environ_for(f"/{number}")) for number in range(CALLERS)]
        assert [exchange.body for exchange in exchanges] == [
            b"/%d" % number for number in range(CALLERS)
        ]


async def test_three_bridges_deep_the_other_way(anyio_backend: Any) -> None:
    """A WSGI app behind WSGIToASGI, ASGIToWSGI and WSGIToASGI, one worker each, sixteen clients."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"<"
        yield environ["PATH_INFO"].encode() + b">"

    async with (
        serving(app, workers=1) as innermost,
        asgi_behind_both(innermost, like(anyio_backend), workers=1) as triple,
    ):
        clients = [Client(http_scope(path=f"/{number}")) for number in range(CALLERS)]
        async with calling(triple, *clients):
            pass
        # The innermost pool lived in the private loop; it has to end there or in a thread.
        await anyio.to_thread.run_sync(innermost.close)
    assert [client.body for client in clients] == [b"</%d>" % number for number in range(CALLERS)]


# --- starting and ending


def test_the_outer_bridge_starts_and_ends_the_inner_one() -> None:
    """W-LIFE-1, A-LOOP-2: closing the outer bridge drains the inner one's pool."""
    inner = WSGIToASGI(plain_app, shutdown_timeout=5.0)
    with ASGIToWSGI(inner, lifespan="on", shutdown_timeout=5.0, **BACKENDS["asyncio"]) as outer:
        assert serve(outer).body == b"hello"
        assert inner.stats().threads == 1
    assert inner.stats().threads == 0


@on_every_backend
def test_closing_waits_for_the_inner_app(backend: Backend) -> None:
    """A-OUT-5, W-LIFE-1: a request in flight is answered before the outer bridge has closed."""
    begun, go_on, closing = threading.Event(), threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        begun.set()
        must_happen(go_on, "the closing of the bridge")
        return plain_app(environ, start_response)

    def close() -> None:
        closing.set()
        outer.close()

    inner = WSGIToASGI(app, shutdown_timeout=5.0)
    outer = ASGIToWSGI(inner, lifespan="on", shutdown_timeout=5.0, **backend)
    exchange = Exchange(outer)
    must_happen(begun, "the call of the app")
    closer = threading.Thread(target=close)
    closer.start()
    must_happen(closing, "the start of closing")
    go_on.set()
    assert exchange.body == b"hello"
    closer.join(10)
    assert not closer.is_alive()
    assert inner.stats().threads == 0
