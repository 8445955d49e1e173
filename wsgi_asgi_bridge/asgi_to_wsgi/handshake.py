"""The answer to a WebSocket's handshake: a response by the calling thread, or its connection."""

import logging
from collections.abc import Callable
from socket import socket

from .._crossing.calling_thread import CallingThread
from .._crossing.contexts import Changes
from .._crossing.stand_in import take_over
from .._protocol.asgi_response import ASGIResponse
from ..errors import BridgeClosed
from ..typing import Message
from .connection import Connection
from .disconnects import client_disconnected
from .extensions import SentFile
from .runtime import Runtime

__all__ = ["Handshake", "TakeOverError"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")


class TakeOverError(Exception):
    """The connection could not be taken over; the calling thread still waits."""


class Handshake:
    """The loop's half for the `Response` of the calling thread.

    The loop's own, except for what `Response` uses of it. `on_left` is called when the thread has
    left before the end, or is found to have.
    """

    __slots__ = ("_connection", "_on_left", "_runtime", "caller", "changes", "file", "response")

    def __init__(
        self, runtime: Runtime, connection: Connection, on_left: Callable[[], None]
    ) -> None:
        self._runtime = runtime
        self._connection: Connection | None = connection
        self._on_left = on_left
        self.caller: CallingThread = CallingThread(runtime.handle, runtime.settings.response_buffer)
        self.response: ASGIResponse = ASGIResponse("GET")
        self.changes: Changes | None = None
        self.file: SentFile | None = None

    # ------------------------------------------------------------ what Response uses

    def caller_left_in_loop(self) -> None:
        self._on_left()

    def run_elsewhere_from_thread(self, jobs: list[Callable[[], None]]) -> None:
        """There are none: no code of the app runs in this thread."""

    def check_loop_from_thread(self) -> None:
        if not self._runtime.private.thread.is_alive():
            raise BridgeClosed("the private event loop ended while this request was in flight")

    # ------------------------------------------------------------ the loop

    def app_has_ended(self) -> None:
        """Break the cycle: nobody is to be told any more that the thread has left."""
        self._on_left = _nothing

    def refuse(self, status: int) -> None:
        """Answer with an empty response."""
        headers = [(b"content-length", b"0")]
        self.response.accept({"type": "http.response.start", "status": status, "headers": headers})
        self.caller.put_in_loop(b"", last=True)

    async def respond(self, message: Message) -> bool:
        """Send an `http.response.body`; return whether it is the last.

        Raises AppError, and ClientDisconnected if the thread has left.
        """
        part = self.response.accept(message)
        assert part is not None, "it is a part of the body"
        wait = self.caller.put_in_loop(*part)
        if wait:
            await self.caller.wait_for_room_in_loop()
        if wait is None or (wait and self.caller.finished()):
            self._on_left()
            raise client_disconnected()
        return part[1]

    def take_connection(self) -> tuple[socket, bytes]:
        """Take the connection over, and let the thread go with a 101.

        Returns the socket, and what the server has read of it already. Raises TakeOverError, and
        ClientDisconnected if the thread has left.
        """
        try:
            taken = self.caller.hand_over_in_loop(self._take)
        except OSError as exc:
            logger.error("a connection could not be taken over for a WebSocket", exc_info=True)
            raise TakeOverError from exc
        if taken is None:
            self._on_left()
            raise client_disconnected()
        ours, far, read_ahead = taken
        if far is not None:
            self._runtime.released.drain(far)
        return ours, read_ahead

    def _take(self) -> tuple[socket, socket | None, bytes]:
        """Under the lock of the calling thread, which waits: it cannot leave, and its server cannot
        close, before the server has its stand-in (WS-A-3).
        """
        connection = self._connection
        assert connection is not None, "it is taken once"
        read_ahead = connection.take_read_ahead()
        ours, far = take_over(connection.held)
        self._connection = None
        self.response.switch_protocols()
        if connection.far_end_is_closed:
            far.close()
            return ours, None, read_ahead
        return ours, far, read_ahead


def _nothing() -> None: ...
