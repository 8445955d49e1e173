"""W-CALL-2, W-LIFE-1: how an app reaches the server's loop, and several loops at once."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from asgiref.sync import async_to_sync, sync_to_async

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    TrackedBody,
    answered,
    app_returning,
    calling,
    fetched,
    plain_app,
    post_scope,
    serving,
)
from wsgi_asgi_bridge import WSGIToASGI

# --- the loop the app came from (async_to_sync, anyio.from_thread)


async def test_async_to_sync_runs_on_the_servers_loop(anyio_backend_name: str) -> None:
    """W-CALL-2: asgiref's async_to_sync in the call and in a step runs on the loop of the server
    (asyncio only).
    """
    if anyio_backend_name != "asyncio":
        return await _async_to_sync_still_works()

    async def running_loop() -> Any:
        return asyncio.get_running_loop()

    seen: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        seen.append(async_to_sync(running_loop)())
        start_response("200 OK", [])
        yield b"x"
        seen.append(async_to_sync(running_loop)())

    await fetched(app)
    assert seen == [asyncio.get_running_loop()] * 2
    return None


async def _async_to_sync_still_works() -> None:
    """asgiref knows asyncio only: under trio it runs a loop of its own, and nothing hangs."""

    async def answer() -> bytes:
        await asyncio.sleep(0)
        return b"answer"

    client = await fetched(app_returning(lambda environ: [async_to_sync(answer)()]))
    assert client.body == b"answer"


async def test_thread_sensitive_code_comes_back_to_the_worker() -> None:
    """W-CALL-2: sync_to_async inside async_to_sync runs in the app's own thread (Django's ORM in
    async views).
    """

    async def view() -> int:
        return await sync_to_async(threading.get_ident)()

    threads: list[tuple[int, int]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        threads.append((threading.get_ident(), async_to_sync(view)()))
        return plain_app(environ, start_response)

    await fetched(app)
    assert threads[0][0] == threads[0][1]


async def test_from_thread_run_uses_the_servers_loop() -> None:
    """W-CALL-2: anyio.from_thread works in the call, in a step and in close(), on every backend."""
    loop_thread = threading.get_ident()
    seen: list[int] = []

    async def note_thread() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(threading.get_ident())

    def app(environ: dict[str, Any], start_response: Any) -> TrackedBody:
        def chunks() -> Iterator[bytes]:
            yield b"x"
            anyio.from_thread.run(note_thread)

        anyio.from_thread.run(note_thread)
        anyio.from_thread.run_sync(lambda: seen.append(threading.get_ident()))
        start_response("200 OK", [])
        return TrackedBody(chunks(), on_close=lambda: anyio.from_thread.run(note_thread))

    await fetched(app)
    assert seen == [loop_thread] * 4


async def test_object_of_the_async_half_is_usable_from_the_app() -> None:
    """W-CALL-2: an anyio stream made in the ASGI half takes what the WSGI half sends, on the same
    loop.
    """
    sender, receiver = anyio.create_memory_object_stream[bytes](0)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        anyio.from_thread.run(sender.send, b"over the bridge")
        return plain_app(environ, start_response)

    async with sender, receiver, serving(app) as bridge, calling(bridge, Client()):
        assert await receiver.receive() == b"over the bridge"


# --- several loops of one process at once

LOOPS: list[tuple[str, dict[str, Any]]] = [
    ("asyncio", {"use_uvloop": False}),
    ("asyncio", {"use_uvloop": True}),
    ("trio", {}),
    ("asyncio", {"use_uvloop": False}),
]
RUNS_EACH = 8


def test_several_loops_share_a_bridge() -> None:
    """W-LIFE-1: four loops in four threads, all in flight at once on one bridge, each answered on
    its own loop; the end of a loop neither loses nor doubles a count.
    """
    meeting = threading.Barrier(len(LOOPS), timeout=DEADLINE_SECONDS)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        meeting.wait()
        start_response("200 OK", [])
        yield environ["wsgi.input"].read()
        meeting.wait()
        yield b" in %d" % anyio.from_thread.run_sync(threading.get_ident)

    async def one_request(name: bytes) -> Client:
        return await answered(bridge, Client(post_scope(None), [name[:1], name[1:]]))

    def serve(index: int) -> tuple[bytes, bytes]:
        backend, options = LOOPS[index]
        bodies = [
            anyio.run(one_request, b"loop%d" % index, backend=backend, backend_options=options).body
            for _ in range(RUNS_EACH)
        ]
        assert len(set(bodies)) == 1
        return bodies[0], b"loop%d in %d" % (index, threading.get_ident())

    bridge = WSGIToASGI(app, workers=len(LOOPS), shutdown_timeout=5)
    try:
        with concurrent.futures.ThreadPoolExecutor(len(LOOPS)) as pool:
            for body, expected in pool.map(serve, range(len(LOOPS))):
                assert body == expected
    finally:
        bridge.close()
    assert bridge.stats().completed == RUNS_EACH * len(LOOPS)
