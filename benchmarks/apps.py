"""The cases of the in-process parts: a WSGI and an ASGI app, and the right answer."""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PART_BYTES = 65536

StartResponse = Callable[..., Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HELLO = b"Hello, world!\n"
SMALL_CHUNK = b"x" * 99 + b"\n"
LARGE_CHUNK = bytes(range(256)) * (PART_BYTES // 256)


@dataclass(frozen=True)
class Case:
    """One kind of request: what is sent, who answers, and what the answer must be."""

    name: str
    wsgi: Callable[..., Iterable[bytes]]
    asgi: Callable[..., Awaitable[None]]
    expected_length: int
    expected_crc: int
    floor: str  # "whole", "stream" or "upload": which bare hand-off this is compared with
    blocks: Callable[[], Iterable[bytes]] = tuple  # what a stream is made of
    method: str = "GET"
    part: bytes = b""  # the request body is this part, so many times
    parts: int = 0

    @property
    def request_length(self) -> int:
        return len(self.part) * self.parts

    @property
    def length_under_load(self) -> int:
        """The answer's length when the app is not asked to look at the bytes."""
        if self.floor != "upload":
            return self.expected_length
        return len(upload_answer(self.request_length, None))


# Whole answers


def wsgi_hello(environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
    return [HELLO]


ASGI_HELLO_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(HELLO))],
}


async def asgi_hello(scope: Message, receive: Receive, send: Send) -> None:
    await send(ASGI_HELLO_START)
    await send({"type": "http.response.body", "body": HELLO})


def wsgi_echo(environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi_echo(scope: Message, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# Streams


def wsgi_stream_of(blocks: Callable[[], Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def stream(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield from blocks()

    return stream


def asgi_stream_of(blocks: Callable[[], Iterable[bytes]]) -> Callable[..., Awaitable[None]]:
    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for block in blocks():
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return stream


# Uploads: counted when timed; with `?crc` the bytes are looked at too


def upload_answer(length: int, crc: int | None) -> bytes:
    return b"%d" % length if crc is None else b"%d %08x" % (length, crc)


def answer_after(blocks: Iterable[bytes], with_crc: bool) -> bytes:
    length, crc = 0, 0
    for block in blocks:
        length += len(block)
        if with_crc:
            crc = zlib.crc32(block, crc)
    return upload_answer(length, crc if with_crc else None)


def input_blocks(environ: dict[str, Any]) -> Iterator[bytes]:
    """What a careful PEP 3333 app does: never read past CONTENT_LENGTH."""
    read, left = environ["wsgi.input"].read, int(environ["CONTENT_LENGTH"])
    while left:
        block = read(min(PART_BYTES, left))
        if not block:
            return
        left -= len(block)
        yield block


def wsgi_upload(environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    body = answer_after(input_blocks(environ), environ["QUERY_STRING"] == "crc")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi_upload(scope: Message, receive: Receive, send: Send) -> None:
    length, crc, with_crc, more = 0, 0, scope["query_string"] == b"crc", True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        if with_crc:
            crc = zlib.crc32(message.get("body", b""), crc)
        more = message.get("more_body", False)
    body = upload_answer(length, crc if with_crc else None)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# The cases


def whole_case(name: str, wsgi: Any, asgi: Any, answer: bytes, **request: Any) -> Case:
    return Case(name, wsgi, asgi, len(answer), zlib.crc32(answer), "whole", **request)


def stream_case(name: str, count: int, chunk: bytes) -> Case:
    def blocks() -> Iterator[bytes]:
        for _ in range(count):
            yield chunk

    wsgi, asgi = wsgi_stream_of(blocks), asgi_stream_of(blocks)
    crc = zlib.crc32(chunk * count)
    return Case(name, wsgi, asgi, count * len(chunk), crc, "stream", blocks)


def upload_case(mebibytes: int) -> Case:
    parts = mebibytes * 1024 * 1024 // PART_BYTES
    length, crc = 0, 0
    for _ in range(parts):
        length, crc = length + PART_BYTES, zlib.crc32(LARGE_CHUNK, crc)
    answer = upload_answer(length, crc)
    return Case(
        f"upload {mebibytes} MiB",
        wsgi_upload,
        asgi_upload,
        len(answer),
        zlib.crc32(answer),
        "upload",
        method="POST",
        part=LARGE_CHUNK,
        parts=parts,
    )


def hello_case() -> Case:
    return whole_case("hello", wsgi_hello, asgi_hello, HELLO)


def post_case() -> Case:
    form = b"0123456789abcdef" * 64
    return whole_case("POST 1 KiB", wsgi_echo, asgi_echo, form, method="POST", part=form, parts=1)


def small_chunks_case() -> Case:
    return stream_case("1,000 x 100 B", 1000, SMALL_CHUNK)


def large_chunks_case() -> Case:
    return stream_case("256 x 64 KiB", 256, LARGE_CHUNK)


def in_process_cases(hello_loads: Sequence[int], mebibytes: int) -> list[tuple[Case, int]]:
    """What both directions are measured by, each with how many requests are under way at once."""
    others = [
        post_case(),
        small_chunks_case(),
        large_chunks_case(),
        upload_case(mebibytes),
    ]
    return [(hello_case(), load) for load in hello_loads] + [(case, 1) for case in others]


# Streams that note when each chunk left the app (for the latency of one chunk)


class StampedStream:
    """Chunks that are far apart, and the clock's reading right before each is given away."""

    CHUNK = b"data: tick\n\n"

    def __init__(self, count: int, pause: float) -> None:
        self.count = count
        self.pause = pause
        self.left_app: list[float] = []

    def blocks(self) -> Iterator[bytes]:
        for _ in range(self.count):
            time.sleep(self.pause)
            self.left_app.append(time.perf_counter())
            yield self.CHUNK

    def wsgi(self, environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield from self.blocks()

    async def asgi(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(self.count):
            await asyncio.sleep(self.pause)
            self.left_app.append(time.perf_counter())
            await send({"type": "http.response.body", "body": self.CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
