"""The apps that are measured: a WSGI and an ASGI one that answer the same paths, and frameworks'.

A server imports `benchmarks.sites:APP__BRIDGE__THREADS`: APP is one of `APPS`, BRIDGE a name of the
tables in peers.py, `floor`, or `native` for the app itself.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count, repeat
from random import Random
from typing import Any

from .floor import floor_asgi_to_wsgi, floor_wsgi_to_asgi
from .peers import ASGI_TO_WSGI, FLOOR, WSGI_TO_ASGI

HELLO = b"Hello, world!\n"
BLOCK = Random(0).randbytes(65536)
MEBIBYTE_BLOCKS = 16
TICK = b"data: tick\n\n"
TICK_SECONDS = 0.05
SLOW_SECONDS = 0.001  # a slow app's pause between two blocks of an upload
SLEEP_SECONDS = 0.005
TYPE, EVENTS_TYPE = "text/plain", "text/event-stream"


def equal(query: str) -> Iterator[bytes]:
    """`?COUNT&SIZE`"""
    number, size = map(int, query.split("&"))
    return repeat(BLOCK[:size], number)


def fresh(query: str) -> Iterator[bytes]:
    """`?MEBIBYTES`, or no end: new blocks, as one given again takes no memory where it waits."""
    for number in count() if not query else range(int(query) * MEBIBYTE_BLOCKS):
        yield b"%016d" % number + BLOCK[16:]


STREAMS = {"/stream": equal, "/download": fresh, "/events": lambda query: repeat(TICK)}


def answer_to_upload(length: int, crc: int = 0) -> bytes:
    """With `?crc` the app has looked at the bytes."""
    return b"%d %08x\n" % (length, crc)


def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if websocket := environ.get("wsgi.websocket"):
        while (message := websocket.receive()) is not None:
            websocket.send(message)
        return []
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path in STREAMS:
        is_events = path == "/events"
        start_response("200 OK", [("Content-Type", EVENTS_TYPE if is_events else TYPE)])
        return ticking(query) if is_events else STREAMS[path](query)
    if path == "/hello":
        body = HELLO
    elif path == "/echo":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    else:
        body = wsgi_upload(environ, query)
    start_response("200 OK", [("Content-Type", TYPE), ("Content-Length", str(len(body)))])
    return [body]


def ticking(query: str) -> Iterator[bytes]:
    for block in STREAMS["/events"](query):
        yield block
        time.sleep(TICK_SECONDS)


def wsgi_upload(environ: dict[str, Any], query: str) -> bytes:
    """What a careful PEP 3333 app does: never read past CONTENT_LENGTH."""
    read, left, length, crc = environ["wsgi.input"].read, int(environ["CONTENT_LENGTH"]), 0, 0
    while length < left and (block := read(min(len(BLOCK), left - length))):
        length += len(block)
        if query == "crc":
            crc = zlib.crc32(block, crc)
        elif query == "slow":
            time.sleep(SLOW_SECONDS)
    return answer_to_upload(length, crc)


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        return
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    path, query = scope["path"], scope["query_string"].decode()
    headers = [(b"content-type", (EVENTS_TYPE if path == "/events" else TYPE).encode())]
    if path not in STREAMS:
        body = HELLO if path == "/hello" else await asgi_read(path, query, receive)
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for block in STREAMS[path](query):
        await send({"type": "http.response.body", "body": block, "more_body": True})
        if path == "/events":
            await asyncio.sleep(TICK_SECONDS)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def asgi_read(path: str, query: str, receive: Any) -> bytes:
    body, length, crc, more = b"", 0, 0, True
    while more:
        message = await receive()
        block, more = message.get("body", b""), message.get("more_body", False)
        length += len(block)
        if path == "/echo":
            body += block
        elif query == "crc":
            crc = zlib.crc32(block, crc)
        elif query == "slow":
            await asyncio.sleep(SLOW_SECONDS)
    return body if path == "/echo" else answer_to_upload(length, crc)


# Frameworks: each server imports only its own


def flask() -> Any:
    from flask import Flask
    from flask_sock import Sock

    def echo(websocket: Any) -> None:
        while True:
            websocket.send(websocket.receive())

    app = Flask(__name__)
    app.get("/hello")(lambda: HELLO)
    app.get("/sleep", endpoint="sleep")(lambda: time.sleep(SLEEP_SECONDS) or HELLO)
    Sock(app).route("/echo")(echo)
    return app


def fastapi() -> Any:
    from fastapi import FastAPI

    async def hello() -> dict[str, str]:
        return {"message": HELLO.decode()}

    app = FastAPI()
    app.get("/hello")(hello)
    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def blocks(query: str) -> AsyncIterator[bytes]:
        for block in equal(query):
            yield block

    async def view(request: Request) -> StreamingResponse:
        return StreamingResponse(blocks(request.url.query), media_type="text/event-stream")

    return Starlette(routes=[Route("/stream", view)])


APPS = {"wsgi": lambda: wsgi_app, "flask": flask}
APPS |= {"asgi": lambda: asgi_app, "fastapi": fastapi, "starlette": starlette}


def __getattr__(name: str) -> Any:
    kind, bridge, threads, *_ = [*name.split("__"), "", ""]
    if kind not in APPS:
        raise AttributeError(name)
    app = APPS[kind]()
    if bridge == "native":
        return app
    if kind in ("wsgi", "flask"):
        return {**WSGI_TO_ASGI, FLOOR: floor_wsgi_to_asgi}[bridge](app, threads=int(threads)).call
    return {**ASGI_TO_WSGI, FLOOR: floor_asgi_to_wsgi}[bridge](app).call
