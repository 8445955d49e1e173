"""The sites of the stress part of the benchmarks: WSGI on uvicorn, Starlette on gunicorn.

Paths say how the app behaves, `?LENGTH&SIZE` what is in the body: a pattern of which the client
knows each byte. `/census` says what is in the process, and what the bridge has counted.
"""

import asyncio
import gc
import json
import os
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import count, repeat
from random import Random
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

SETTINGS = "STRESS_SETTINGS"  # in the environment: the bridge's arguments, as JSON
PATTERN = Random(0).randbytes(65521)  # a prime: no part of a long body looks like its neighbours
READ_BYTES = 65536
PAUSES = {"/polls": 0.002, "/for-ever": 0.002}  # seconds after each block
SLOW_SECONDS = 0.001


class DeliberateError(Exception):
    """What `/fails` raises."""


def pattern(length: int) -> bytes:
    return (PATTERN * (length // len(PATTERN) + 1))[:length]


def digest(length: int, crc: int) -> bytes:
    return b"%d %08x" % (length, crc)


def blocks_of(query: str) -> Iterator[bytes]:
    length, size = map(int, query.split("&"))
    body = pattern(length)
    return (body[start : start + size] for start in range(0, length, size))


def polling(query: str) -> Iterator[bytes]:
    for block in blocks_of(query):
        yield from (b"", b"", block)


def failing(query: str) -> Iterator[bytes]:
    yield from blocks_of(query)
    raise DeliberateError


STREAMS: dict[str, Callable[[str], Iterable[bytes]]] = {
    "/streams": blocks_of,
    "/declares": blocks_of,
    "/polls": polling,
    "/fails": failing,
    "/for-ever": lambda query: repeat(b""),
}


def wsgi_site(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path, query, read = environ["PATH_INFO"], environ["QUERY_STRING"], environ["wsgi.input"].read
    body = None
    if path == "/uploads":
        length = crc = 0
        while block := read(READ_BYTES):
            length, crc = length + len(block), zlib.crc32(block, crc)
            time.sleep(SLOW_SECONDS if query == "slow" else 0)
        body = [digest(length, crc)]
    if path == "/fails" and query[0] == "0":
        raise DeliberateError
    headers = [("Content-Type", "application/octet-stream")]
    if path == "/declares":
        headers.append(("Content-Length", query.partition("&")[0]))
    write = start_response("200 OK", headers)
    if path == "/writes":
        for block in blocks_of(query):
            write(block)
        return []
    if path == "/mirrors":
        return iter(lambda: read(READ_BYTES), b"")
    if path == "/lists":
        return [*blocks_of(query)]
    return body or ([b"refused"] if path == "/refuses" else paused(path, STREAMS[path](query)))


def paused(path: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield block
        if path in PAUSES:
            time.sleep(PAUSES[path])


async def asgi_site(scope: Any, receive: Any, send: Any) -> None:
    path, query = scope["path"], scope["query_string"].decode()
    headers = [(b"content-type", b"application/octet-stream")]
    if path == "/fails" and query[0] == "0":
        raise DeliberateError
    if path == "/declares":
        headers.append((b"content-length", query.partition("&")[0].encode()))
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    body = b""
    if path == "/uploads":
        length = crc = 0
        async for block in received(receive):
            length, crc = length + len(block), zlib.crc32(block, crc)
            await asyncio.sleep(SLOW_SECONDS if query == "slow" else 0)
        body = digest(length, crc)
    await send(start)
    if path == "/mirrors":
        async for block in received(receive):
            await send({"type": "http.response.body", "body": block, "more_body": True})
    for block in STREAMS.get(path, lambda query: ())(query):
        await send({"type": "http.response.body", "body": block, "more_body": True})
        if path in PAUSES:
            await asyncio.sleep(PAUSES[path])
    if path in ("/lists", "/writes"):
        body = b"".join(blocks_of(query))
    if path == "/refuses":
        body = b"refused"
    if path == "/census":
        body = census.taken()
    await send({"type": "http.response.body", "body": body})


async def received(receive: Any) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DeliberateError("the client left")
        yield message.get("body", b"")
        more = message.get("more_body", False)


class Census:
    """Counts the requests that reach the bridge, and says what is in this process."""

    def __init__(self) -> None:
        self.bridge: Any = None
        self.numbers = count()  # a step is atomic, that of `+= 1` is not

    def taken(self) -> bytes:
        gc.collect()
        kinds = (type(thing) for thing in gc.get_objects())
        ours = Counter(k.__name__ for k in kinds if "wsgi_asgi_bridge" in str(k.__module__))
        here = {"tasks": len(asyncio.all_tasks()), "python threads": threading.active_count()}
        here |= {f"objects of {name}": number for name, number in ours.items()}
        for what, folder in (("threads", "task"), ("descriptors", "fd")):
            here[what] = len(os.listdir(f"/proc/self/{folder}"))
        begun, stats = int(repr(self.numbers)[6:-1]), asdict(self.bridge.stats())
        return json.dumps({"here": here, "begun": begun, "stats": stats}).encode()


census = Census()


def wsgi_on_asgi(settings: dict[str, Any]) -> Any:
    """The census is taken beside the bridge."""
    bridge = census.bridge = WSGIToASGI(wsgi_site, **settings)

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        beside = scope["type"] == "http" and scope["path"] == "/census"
        if scope["type"] == "http" and not beside:
            next(census.numbers)
        await (asgi_site if beside else bridge)(scope, receive, send)

    return counted


def asgi_on_wsgi(settings: dict[str, Any], *middleware: Middleware) -> Any:
    """The census is a request like any other."""

    async def view(request: Request) -> StreamingResponse:
        async def blocks() -> AsyncIterator[bytes]:
            for block in blocks_of(request.url.query):
                yield block

        return StreamingResponse(blocks())

    routes = [Route("/streams", view), Mount("/", asgi_site)]
    plain, other = Starlette(routes=routes), Starlette(routes=routes, middleware=middleware)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        # On every server, Starlette's middleware ends the stream of an app that raised as if whole.
        await (plain if scope.get("path") == "/fails" else other)(scope, receive, send)

    bridge = census.bridge = ASGIToWSGI(app, **settings)

    def counted(environ: Any, start_response: Any) -> Any:
        next(census.numbers)
        return bridge(environ, start_response)

    return counted


async def passes_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


def __getattr__(name: str) -> Any:
    """`wsgi`, `starlette`, or `middleware`: Starlette's base class for it, which streams anew."""
    if name not in ("wsgi", "starlette", "middleware"):
        raise AttributeError(name)
    settings = json.loads(os.environ[SETTINGS])
    if name == "wsgi":
        return wsgi_on_asgi(settings)
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=passes_on)] * (name == "middleware")
    return asgi_on_wsgi(settings, *middleware)
