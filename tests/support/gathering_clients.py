"""Clients of `gathering`, a thousand in one loop: they open, get a tick, and see how it ends."""

from asyncio import StreamReader, StreamWriter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from tests.support import async_http as http
from tests.support.gathering import EVENTS, SOCKET, TICK

KEY = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
UPGRADE = http.head("GET", SOCKET, "Connection: Upgrade", "Upgrade: websocket", *KEY)
HEADS = {SOCKET: UPGRADE, EVENTS: http.head("GET", EVENTS)}
CLOSE = b"\x88\x02\x03\xf4"  # 1012, service restart
CLOSE_BACK = b"\x88\x82\0\0\0\0\x03\xf4"


@dataclass
class Member:
    """One of them, at `path`: SOCKET or EVENTS."""

    path: str
    reader: StreamReader
    writer: StreamWriter

    @classmethod
    async def joined(cls, path: str, port: int, ending: AsyncExitStack) -> Self:
        """One that is there, until `ending` ends. Raises CutError."""
        reader, writer = await ending.enter_async_context(http.connected(port))
        writer.write(HEADS[path])
        await http.read_head(reader)
        return cls(path, reader, writer)

    async def hears_tick(self) -> None:
        """Raises EOFError if none comes."""
        await self.reader.readuntil(TICK)

    async def is_dismissed(self) -> bool:
        """Whether the server ends it as it should: by a close frame, or without the last chunk."""
        try:
            if self.path == EVENTS:
                return await self.reader.read() == b"\r\n"  # of the last tick
            await self.reader.readuntil(CLOSE)
            self.writer.write(CLOSE_BACK)
        except (ConnectionError, EOFError):
            return False
        finally:
            self.writer.close()
        return True
