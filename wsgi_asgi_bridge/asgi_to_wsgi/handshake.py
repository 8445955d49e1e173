"""The answer to a WebSocket's handshake: a response by the calling thread, or its connection.

A connection that cannot be taken over, for example one with TLS, stays with the thread. The thread
then carries the bytes between it and a socket pair of the loop (WS-A-2). In the end its server gets
a stand-in all the same, to write its 101 to.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from socket import SHUT_RDWR, socket, socketpair
from typing import Any

from .._crossing.calling_thread import CallingThread
from .._crossing.carrying import carry, forget_tls
from .._crossing.contexts import Changes
from .._crossing.stand_in import close_in_child, take_over
from .._protocol.asgi_response import ASGIResponse
from ..errors import BridgeClosed
from ..typing import Message, StartResponse
from .connection import Connection
from .disconnects import client_disconnected
from .extensions import SentFile
from .runtime import Runtime

__all__ = ["Handshake", "TakeOverError"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

LOOP_CHECK_SECONDS = 1.0
"""How often a thread that carries bytes checks that the loop is alive."""


class TakeOverError(Exception):
    """The connection could not be taken over; the calling thread still waits."""


class Handshake:
    """The loop's half for the `Response` of the calling thread.

    The loop's own, except for what `Response` uses of it. `on_left` is called when the thread has
    left before the end, or is found to have.
    """

    __slots__ = (
        "_carried",
        "_connection",
        "_on_left",
        "_runtime",
        "caller",
        "changes",
        "file",
        "response",
        "stream",
    )

    def __init__(
        self, runtime: Runtime, connection: Connection, on_left: Callable[[], None]
    ) -> None:
        self._runtime = runtime
        self._connection = connection
        self._carried: socket | None = None
        """The thread's end of the pair, if it stays."""
        self._on_left = on_left
        self.caller: CallingThread = CallingThread(runtime.handle, runtime.settings.response_buffer)
        self.response: ASGIResponse = ASGIResponse("GET")
        self.changes: Changes | None = None
        self.file: SentFile | None = None
        self.stream: None = None

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
        read_ahead = connection.take_read_ahead()
        if connection.keeps_thread:
            ours, self._carried = socketpair()
            ours.setblocking(False)
            far = None
        else:
            ours, far = self._taken_over()
        self.response.switch_protocols()
        return ours, far, read_ahead

    def _taken_over(self) -> tuple[socket, socket | None]:
        """Ours, and the far end of the stand-in if it is to be drained (WS-A-6)."""
        ours, far = take_over(self._connection.held)
        if not self._connection.far_end_is_closed:
            return ours, far
        far.close()
        return ours, None

    def forget_after_fork(self) -> None:
        if self._carried is not None:
            close_in_child(self._carried)

    # ------------------------------------------------------------ the calling thread

    def starting_from_thread(self, start_response: StartResponse) -> StartResponse:
        """`start_response` for a connection that keeps the thread: before it, bytes are carried."""

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if self._carried is not None:
                self._carry_from_thread(self._carried)
            return start_response(status, headers, exc_info)

        return start

    def _carry_from_thread(self, inner: socket) -> None:
        connection = self._connection
        with connection.opened() as client:
            before = client.gettimeout()
            carry(client, inner, LOOP_CHECK_SECONDS, self.check_loop_from_thread)
            try:
                ours, far = self._taken_over()
            except OSError:
                logger.error("a WebSocket's server could be given no stand-in", exc_info=True)
                return
            with ours, suppress(OSError):
                ours.shutdown(SHUT_RDWR)
            forget_tls(client)
            client.settimeout(before)
        if far is not None and not self._runtime.handle.post(
            partial(self._runtime.released.drain, far)
        ):
            far.close()


def _nothing() -> None: ...
