"""A raw HTTP/1.1 client on asyncio: every byte and every pause is up to who uses it."""

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.support.processes import HOST

READ_BYTES = 65536


class CutError(Exception):
    """The connection ended before the answer did, or what came is no HTTP."""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


def head(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {HOST}", *lines, "", ""]).encode()


@asynccontextmanager
async def connected(
    port: int, receive_buffer: int = READ_BYTES, reset: bool = False
) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    """A connection, which ends without ado: by a FIN or a RST. `receive_buffer`: bytes."""
    client = socket.socket()
    if receive_buffer < READ_BYTES:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        client.connect((HOST, port))  # loopback: the kernel accepts at once
        reader, writer = await asyncio.open_connection(sock=client, limit=receive_buffer)
    except BaseException:
        client.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_head(reader: StreamReader) -> tuple[int, dict[str, str]]:
    """The next head, which may be an interim one. Raises CutError."""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines if line)
    except (EOFError, ConnectionError, ValueError, IndexError) as error:
        raise CutError(f"no head: {error!r}") from error


async def read_body(
    reader: StreamReader, method: str, status: int, headers: Mapping[str, str]
) -> AsyncIterator[bytes]:
    """The body as it comes, to its end. Raises CutError where that does not come."""
    try:
        if method == "HEAD" or status in (204, 304):
            return
        chunked = headers.get("transfer-encoding") == "chunked"
        left = None if chunked else int(headers["content-length"])
        while left != 0:
            if left is None:
                left = int(await reader.readuntil(b"\r\n"), 16)
                more = left > 0
            while left:
                block = await reader.read(min(left, READ_BYTES))
                if not block:
                    raise EOFError(f"{left} bytes are missing")
                yield block
                left -= len(block)
            if chunked:
                await reader.readexactly(2)
                left = None if more else 0
    except (EOFError, ConnectionError, ValueError, KeyError) as error:
        raise CutError(f"no end: {error!r}") from error


async def read_answer(reader: StreamReader) -> Answer:
    """The answer to a GET or a POST, whole. Raises CutError."""
    status, headers = await read_head(reader)
    blocks = [block async for block in read_body(reader, "GET", status, headers)]
    return Answer(status, headers, b"".join(blocks))


async def get(port: int, target: str, seconds: float) -> Answer:
    """One answer over a connection of its own. Raises CutError or OSError, as is TimeoutError."""
    async with asyncio.timeout(seconds), connected(port) as (reader, writer):
        writer.write(head("GET", target, "Connection: close"))
        return await read_answer(reader)


async def many(visit: Callable[[int], Awaitable[Any]], count: int, at_once: int, port: int) -> None:
    """So many visits to the port. Raises what one of them raises."""

    async def lane() -> None:
        for _ in range(count // at_once):
            await visit(port)

    await asyncio.gather(*[lane() for _ in range(at_once)])
