"""A connected socket that the loop serves: bytes in by a callback, bytes out with back-pressure.

asyncio has transports for that, and uvloop faster ones; trio gets two tasks. Both keep one promise:

- What is written goes out in order, in the step that writes it if the kernel has room.
- `on_end` is called once when the peer has shut down its sending side, and `on_closed` once when
  the socket is closed, however that came about. Nothing is called after `on_closed`.
- The socket is this object's from its opening on, and closed in the end, also if the loop ends.
"""

import asyncio
import contextvars
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from .loops import LoopEvent, LoopHandle, Timer

__all__ = ["FULL_BYTES", "SocketStream", "StreamCallbacks", "open_socket_stream"]

FULL_BYTES = 65536
"""From so many waiting bytes on, a writer waits until there is room again."""

JOINED_BYTES = 65536
"""Parts of so many bytes at most are copied into one, which takes one system call."""

READ_BYTES = 262144

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class StreamCallbacks(NamedTuple):
    """What the owner wants to know; called in the loop. They raise nothing."""

    on_data: Callable[[bytes], None]
    on_end: Callable[[], None]
    on_closed: Callable[[], None]


class SocketStream(ABC):
    """One connection. The loop's own."""

    def __init__(self, loop: LoopHandle, source: socket.socket, callbacks: StreamCallbacks) -> None:
        self._loop = loop
        self._socket = source
        self._callbacks = callbacks
        self._finishing = False
        self._timer: Timer | None = None
        self._peer_has_ended = False
        self._reading_is_paused = False
        self.closed: bool = False

    @abstractmethod
    def write(self, *parts: bytes) -> None:
        """Send `parts`, as they are; keep what the kernel has no room for. Nothing once closed."""

    @abstractmethod
    def is_full(self) -> bool:
        """Whether so much is kept that `wait_for_room` would wait."""

    @abstractmethod
    async def wait_for_room(self) -> None:
        """Wait while too much is kept; returns at once when closed."""

    @abstractmethod
    def kept_bytes(self) -> int:
        """How many bytes wait for the kernel."""

    @abstractmethod
    def abort(self) -> None:
        """Close the socket soon, whatever waits. The peer sees an end."""

    @abstractmethod
    def _shut_sending_side(self) -> None:
        """Send the end when all is sent."""

    @abstractmethod
    def _close_when_sent(self) -> None: ...

    @abstractmethod
    def _stop_reading(self) -> None: ...

    @abstractmethod
    def _start_reading(self) -> None: ...

    def pause_reading(self) -> None:
        if not (self._reading_is_paused or self._peer_has_ended or self.closed):
            self._reading_is_paused = True
            self._stop_reading()

    def resume_reading(self) -> None:
        if self._reading_is_paused and not self.closed:
            self._reading_is_paused = False
            self._start_reading()

    def reset(self) -> None:
        """The same, but the peer sees a broken connection."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    def close(self) -> None:
        """Send what waits, then close. A reset may follow if the peer has sent anything unread."""
        self._finishing = True
        if not self.closed:
            self._close_when_sent()

    def finish(self, seconds: float, give_up: Callable[[], None] | None = None) -> None:
        """Send what waits and the end, then drop what the peer still sends until its own end.

        To close at once would reset the connection if the peer has sent anything unread, and the
        reset may overtake what was sent. After `seconds` in which nothing was sent it is closed if
        all was sent; else `give_up` is called, by default `abort`.
        """
        if self._finishing or self.closed:
            return
        self._finishing = True
        self.resume_reading()
        if self._peer_has_ended:
            self._close_when_sent()
        else:
            self._shut_sending_side()
        self._give_up_within(seconds, give_up)

    def _give_up_within(self, seconds: float, give_up: Callable[[], None] | None) -> None:
        self._timer = self._loop.call_later(
            seconds, partial(self._give_up, seconds, self.kept_bytes(), give_up)
        )

    def _give_up(
        self, seconds: float, kept_before: int, give_up: Callable[[], None] | None = None
    ) -> None:
        kept = self.kept_bytes()
        if not kept:
            self._close_when_sent()
        elif kept < kept_before:
            self._give_up_within(seconds, give_up)
        else:
            (give_up or self.abort)()

    def _received(self, data: bytes) -> None:
        if not self._finishing:
            self._callbacks.on_data(data)

    def _ended(self) -> None:
        """The peer has shut down its sending side."""
        self._peer_has_ended = True
        if self._finishing:
            self._close_when_sent()
        else:
            self._callbacks.on_end()

    def _was_closed(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        callbacks, self._callbacks = self._callbacks, _NOTHING  # break the cycle with the owner
        callbacks.on_closed()


def _nothing(*_: object) -> None: ...


_NOTHING = StreamCallbacks(_nothing, _nothing, _nothing)


async def open_socket_stream(
    loop: LoopHandle, source: socket.socket, callbacks: StreamCallbacks
) -> SocketStream:
    """Serve a connected, non-blocking socket in the running loop.

    Raises OSError if it is broken already, or its own cancellation; `source` is closed then, or in
    a moment, and no callback follows. A callback may be called before this returns.
    """
    try:
        if source.family != getattr(socket, "AF_UNIX", None):
            # asyncio sets it too, but only if it is told that this is TCP, which not every system
            # tells of a descriptor.
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if loop.backend == "trio":
            return _TrioStream(loop, source, callbacks)
    except BaseException:
        source.close()
        raise
    stream = _AsyncioStream(loop, source, callbacks)
    try:
        # In an empty context: what runs in callbacks belongs to no request.
        task = asyncio.Task(
            loop.loop.connect_accepted_socket(lambda: stream, source),
            loop=loop.loop,
            context=contextvars.Context(),
        )
        await task
    except BaseException:
        stream.discard()
        raise
    return stream


# ---------------------------------------------------------------- asyncio


class _AsyncioStream(asyncio.Protocol, SocketStream):
    def __init__(self, loop: LoopHandle, source: socket.socket, callbacks: StreamCallbacks) -> None:
        super().__init__(loop, source, callbacks)
        self._transport: Any = None
        self._writing_is_paused = False
        self._waiting: list[LoopEvent] = []

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def eof_received(self) -> bool:
        self._ended()
        return True  # the transport stays open until it is closed here

    def pause_writing(self) -> None:
        self._writing_is_paused = True

    def resume_writing(self) -> None:
        self._writing_is_paused = False
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._loop.set_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.resume_writing()
        self._was_closed()

    # What the owner calls

    def discard(self) -> None:
        """Close the socket; nobody has the stream, so nobody is called back.

        A cancellation may come when the loop serves the socket already: then it is the transport's.
        Closed behind its back, the number would stay registered there, and be another's next.
        """
        self._callbacks = _NOTHING
        if self._transport is None:
            self._socket.close()
        else:
            self.abort()

    def write(self, *parts: bytes) -> None:
        if self.closed or self._finishing:
            return
        # Not by writelines(): asyncio of Python 3.12 and 3.13 pauses no writer after it.
        if len(parts) > 1 and sum(map(len, parts)) <= JOINED_BYTES:
            parts = (b"".join(parts),)
        for part in parts:
            self._transport.write(part)

    def is_full(self) -> bool:
        return self._writing_is_paused and not self.closed

    async def wait_for_room(self) -> None:
        while self._writing_is_paused and not self.closed:
            event = self._loop.create_event()
            self._waiting.append(event)
            await event

    def kept_bytes(self) -> int:
        return 0 if self.closed else int(self._transport.get_write_buffer_size())

    def abort(self) -> None:
        self._finishing = True
        if not self.closed:
            self._transport.abort()

    def _shut_sending_side(self) -> None:
        # The transport itself is being closed if the connection broke in this turn.
        with suppress(OSError, RuntimeError):
            self._transport.write_eof()

    def _close_when_sent(self) -> None:
        self._transport.close()

    def _stop_reading(self) -> None:
        self._transport.pause_reading()

    def _start_reading(self) -> None:
        self._transport.resume_reading()


# ---------------------------------------------------------------- trio


class _TrioStream(SocketStream):
    """Both tasks end before the socket is closed, so that trio waits for no closed descriptor."""

    def __init__(self, loop: LoopHandle, source: socket.socket, callbacks: StreamCallbacks) -> None:
        import trio

        super().__init__(loop, source, callbacks)
        self._kept: list[memoryview] = []
        self._kept_size = 0
        self._sends_end = False
        self._closes_when_sent = False
        self._to_send = trio.Event()
        self._room = trio.Event()
        self._reads = trio.Event()
        self._reads.set()
        self._scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._run, context=contextvars.Context())

    async def _run(self) -> None:
        import trio

        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_on)
                    await self._read_on()
        finally:
            self.closed = True
            self._room.set()
            self._socket.close()
            self._was_closed()

    async def _read_on(self) -> None:
        import trio

        while True:
            while not self._reads.is_set():  # paused again as it resumes, perhaps
                await self._reads.wait()
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except OSError:
                self._scope.cancel()
                return
            if not data:
                self._ended()
                return
            self._received(data)
            await trio.lowlevel.checkpoint()

    async def _send_on(self) -> None:
        """Send what `write` could not, the end, and close, as it is asked for."""
        import trio

        try:
            while True:
                while self._kept:
                    await trio.lowlevel.wait_writable(self._socket)
                    self._send_kept()
                if self._sends_end:
                    self._sends_end = False
                    self._socket.shutdown(socket.SHUT_WR)
                if self._closes_when_sent:
                    break
                self._to_send = trio.Event()
                await self._to_send.wait()
        except OSError:
            pass
        self._scope.cancel()

    def _send_kept(self) -> None:
        while self._kept:
            part = self._kept[0]
            try:
                sent = self._socket.send(part)
            except BlockingIOError:
                break
            self._kept_size -= sent
            if sent < len(part):
                self._kept[0] = part[sent:]
                break
            del self._kept[0]
        if self._kept_size < FULL_BYTES // 4:
            self._room.set()

    def write(self, *parts: bytes) -> None:
        import trio

        if self.closed or self._finishing:
            return
        was_empty = not self._kept
        for part in parts:
            self._kept.append(memoryview(part))
            self._kept_size += len(part)
        if was_empty:
            try:
                self._send_kept()
            except OSError:
                self.abort()
                return
        if self._kept:
            self._to_send.set()
            if self._kept_size >= FULL_BYTES and self._room.is_set():
                self._room = trio.Event()

    def is_full(self) -> bool:
        return self._kept_size >= FULL_BYTES and not self.closed

    async def wait_for_room(self) -> None:
        while self._kept_size >= FULL_BYTES and not self.closed:
            await self._room.wait()

    def kept_bytes(self) -> int:
        return self._kept_size

    def abort(self) -> None:
        self._finishing = True
        self._scope.cancel()

    def _shut_sending_side(self) -> None:
        self._sends_end = True
        self._to_send.set()

    def _close_when_sent(self) -> None:
        self._closes_when_sent = True
        self._to_send.set()

    def _stop_reading(self) -> None:
        import trio

        self._reads = trio.Event()

    def _start_reading(self) -> None:
        self._reads.set()
