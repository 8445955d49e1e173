"""What the servers of the memory and hostile parts import.

`benchmarks.stress_apps:KIND__BRIDGE__THREADS`: KIND is `wsgi` or `asgi`; both answer the same
paths. `/census` tells the tasks of the event loop; for a bridged WSGI app it is
answered beside the bridge, so it works when all threads are taken; a native one has none.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from .apps import HELLO, LARGE_CHUNK, PART_BYTES, wsgi_hello
from .peers import ASGI_TO_WSGI, WSGI_TO_ASGI

STREAMS = frozenset({"/download", "/events", "/endless"})
TICK = b"data: tick\n\n"
TICK_SECONDS = 0.05
SLOW_APP_SECONDS = 0.001

PARTS_PER_MEBIBYTE = 1024 * 1024 // PART_BYTES


def fresh_chunk(number: int) -> bytes:
    """A new object each time: one that is given again and again takes no memory where it waits."""
    return b"%016d" % number + LARGE_CHUNK[16:]


# WSGI


def wsgi_blocks(path: str, query: str) -> Iterator[bytes]:
    if path == "/download":
        for number in range(int(query) * PARTS_PER_MEBIBYTE):
            yield fresh_chunk(number)
    elif path == "/events":
        while True:
            yield TICK
            time.sleep(TICK_SECONDS)
    else:
        while True:
            yield fresh_chunk(0)


def read_all(environ: dict[str, Any], pause: float) -> int:
    read, left, length = environ["wsgi.input"].read, int(environ["CONTENT_LENGTH"]), 0
    while left > length:
        block = read(min(PART_BYTES, left - length))
        if not block:
            break
        length += len(block)
        if pause:
            time.sleep(pause)
    return length


def wsgi_app(environ: dict[str, Any], start_response: Any) -> Any:
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/upload":
        body = b"%d\n" % read_all(environ, SLOW_APP_SECONDS if query == "slow" else 0.0)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]
    if path == "/hello":
        return wsgi_hello(environ, start_response)
    if path not in STREAMS:
        start_response("404 Not Found", [("Content-Length", "0")])
        return []
    start_response("200 OK", [("Content-Type", "text/plain")])
    return wsgi_blocks(path, query)


def with_census(app: Any) -> Any:
    async def beside(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/census":
            await answer(send, census())
        else:
            await app(scope, receive, send)

    return beside


def census() -> bytes:
    return json.dumps({"tasks": len(asyncio.all_tasks())}).encode()


# ASGI


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def asgi_blocks(path: str, query: str) -> AsyncIterator[bytes]:
    if path == "/download":
        for number in range(int(query) * PARTS_PER_MEBIBYTE):
            yield fresh_chunk(number)
    elif path == "/events":
        while True:
            yield TICK
            await asyncio.sleep(TICK_SECONDS)
    else:
        while True:
            yield fresh_chunk(0)


async def receive_all(receive: Any, pause: float) -> int:
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
        if pause:
            await asyncio.sleep(pause)
    return length


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    path, query = scope["path"], scope["query_string"].decode()
    if path == "/hello":
        await answer(send, HELLO)
    elif path == "/census":
        await answer(send, census())
    elif path == "/upload":
        length = await receive_all(receive, SLOW_APP_SECONDS if query == "slow" else 0.0)
        await answer(send, b"%d\n" % length)
    elif path not in STREAMS:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    else:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for block in asgi_blocks(path, query):
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def __getattr__(name: str) -> Any:
    kind, _, rest = name.partition("__")
    bridge, _, threads = rest.partition("__")
    if kind == "wsgi":
        if bridge == "native":
            return wsgi_app
        return with_census(WSGI_TO_ASGI[bridge](wsgi_app, threads=int(threads)).call)
    if kind == "asgi":
        return asgi_app if bridge == "native" else ASGI_TO_WSGI[bridge](asgi_app).call
    raise AttributeError(name)
