"""A WebSocket of the server's own connection, which the loop takes over.

A connection that cannot be taken over, for example one with TLS, stays with the thread. The thread
then carries the bytes between it and a socket pair of the loop (WS-A-2). In the end its server gets
a stand-in all the same, to write its 101 to.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from socket import SHUT_RDWR, socket, socketpair
from typing import Any

from .._crossing.carrying import carry, forget_tls
from .._crossing.stand_in import close_in_child, take_over
from .._protocol.websocket_session import WebSocketSession
from ..typing import StartResponse
from .connection import Connection
from .disconnects import client_disconnected
from .handshake import AcceptError, Ending, Handshake
from .open_websocket import OpenWebSocket
from .runtime import Runtime

__all__ = ["ConnectionHandshake"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

LOOP_CHECK_SECONDS = 1.0
"""How often a thread that carries bytes checks that the loop is alive."""


class ConnectionHandshake(Handshake):
    """The loop's own, except for what `Response` uses and the methods named `_from_thread`."""

    __slots__ = ("_carried", "_connection", "_session", "keeps_thread")

    def __init__(self, connection: Connection, session: WebSocketSession, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._connection = connection
        self._session = session
        self.keeps_thread: bool = connection.keeps_thread
        self._carried: socket | None = None
        """The thread's end of the pair, if it stays."""

    def accept(
        self, message: Mapping[str, Any], offered: list[str], ending: Ending
    ) -> OpenWebSocket:
        head = self._session.accept(message, offered)
        try:
            taken = self.caller.hand_over_in_loop(self._take)
        except OSError as exc:
            logger.error("a connection could not be taken over for a WebSocket", exc_info=True)
            raise AcceptError from exc
        if taken is None:
            self.on_left()
            raise client_disconnected()
        ours, far, read_ahead = taken
        runtime = self._runtime
        if far is not None:
            runtime.released.drain(far)
        return OpenWebSocket(
            self._session, runtime.handle, runtime.settings, ending, (ours, head, read_ahead)
        )

    def let_go(self) -> None:
        self._session.let_go()

    def _take(self) -> tuple[socket, socket | None, bytes]:
        """Under the lock of the calling thread, which waits: it cannot leave, and its server cannot
        close, before the server has its stand-in (WS-A-3).
        """
        if self.keeps_thread:
            ours, self._carried = socketpair()
            ours.setblocking(False)
            far = None
        else:
            ours, far = self._taken_over()
        self.response.switch_protocols()
        # Last: if nothing was taken over, what the server has read is still its own. Without it,
        # its next request would begin in the middle of what the client has sent.
        return ours, far, self._connection.take_read_ahead()

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
