"""The loop's half of a WebSocket: the app's task, its handshake, and how it ends.

    state        is left by the app's
    CONNECTING   first receive(), which gives websocket.connect
    HANDSHAKE    websocket.accept, websocket.close or websocket.http.response.start
    ACCEPTING    waiting until the loop serves the connection
    OPEN         websocket.close
    RESPONDING   last websocket.http.response.body
    ENDED        -

The calling thread waits as for a response. A refusal goes through it, and so through the server.
On `websocket.accept` the loop takes the connection over while the thread waits (stand_in.py), and
the thread returns a 101, which the server writes to the stand-in. `accept` never waits for
that thread, and runs nothing in it (WS-A-4).

The disconnect may come in any state: from the thread, which notices it in the handshake, or from
the connection. `_finish` counts the request, once.
"""

import contextvars
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from .._crossing.contexts import own_context
from .._crossing.loops import BackgroundTask, LoopEvent
from .._protocol.close_codes import INTERNAL_ERROR, NO_CLOSE_FRAME, NORMAL
from .._protocol.websocket_session import checked_close
from .._protocol.websocket_upgrade import websocket_scope
from ..errors import AppError, ClientDisconnected, bridge_closing, bridge_shut_down, presentable
from ..typing import Environ, Message
from .disconnects import client_disconnected, is_consequence
from .handshake import AcceptError, Handshake, WebSocket
from .released import WEBSOCKET
from .runtime import Runtime

__all__ = ["WebSocketTask"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

App = Callable[..., Any]


class State(Enum):
    """See the module's table; the values complete the sentence of an AppError."""

    CONNECTING = "before it received websocket.connect"
    HANDSHAKE = "in the handshake"
    ACCEPTING = "while websocket.accept is under way"
    OPEN = "after websocket.accept"
    RESPONDING = "in the middle of a response"
    ENDED = "after it has closed the WebSocket"


_CONNECTING: Final = State.CONNECTING
_HANDSHAKE: Final = State.HANDSHAKE
_ACCEPTING: Final = State.ACCEPTING
_OPEN: Final = State.OPEN
_RESPONDING: Final = State.RESPONDING
_ENDED: Final = State.ENDED

COMPLETED = "completed"
DISCONNECTED = "disconnected"
FAILED = "failed"
CLOSED = "closed"
REJECTED = "rejected"
"""The names of the counters."""

RESPONSE_START = "websocket.http.response.start"
RESPONSE_BODY = "websocket.http.response.body"

FORBIDDEN = 403
UNAVAILABLE = 503


class WebSocketTask:
    """One WebSocket in the private loop.

    The loop's own, except for the construction.
    """

    kind: str = WEBSOCKET

    __slots__ = (
        "_accepted",
        "_app",
        "_bridge",
        "_context",
        "_counted",
        "_disconnect",
        "_end_code",
        "_is_connected",
        "_is_over",
        "_open",
        "_receivers",
        "_runtime",
        "_scope",
        "_state",
        "_task",
        "handshake",
    )

    def __init__(
        self,
        app: App,
        runtime: Runtime,
        environ: Environ,
        handshake: Handshake,
        bridge: object,
    ) -> None:
        settings = runtime.settings
        self._app = app
        self._runtime = runtime
        self._bridge = bridge  # a reference: it is not collected while a WebSocket is open
        self.handshake: Handshake = handshake
        handshake.on_left = self._caller_left
        self._scope = websocket_scope(environ, settings.root_path, runtime.state)
        self._context = own_context()
        self._task: BackgroundTask | None = None
        self._state = _CONNECTING
        self._counted = False
        self._is_over = False
        """Whether the app has ended."""
        self._end_code = NORMAL
        self._is_connected = False
        """Whether the connection has been taken over, and is not closed yet."""
        self._accepted: WebSocket | None = None
        self._open: WebSocket | None = None
        """The same, once the loop serves it."""
        self._disconnect: Message | None = None
        """What `receive()` gives if the connection is not opened."""
        self._receivers: list[LoopEvent] = []

    # ------------------------------------------------------------ the task

    def begin_in_loop(self) -> None:
        runtime = self._runtime
        if not runtime.takes_requests:
            self._finish(REJECTED)
            self.handshake.caller.fail_in_loop(bridge_closing())
        elif not runtime.released.reserve(self, limited=not self.handshake.keeps_thread):
            self._finish(REJECTED)
            self._refuse(UNAVAILABLE)
        else:
            runtime.in_flight.add(self)
            self._task = runtime.handle.spawn(self.run, self._context)

    async def run(self) -> None:
        """All of the app's work, as one task in the caller's context (A-LOOP-3).

        Lets nothing escape but trio's cancellation.
        """
        error: BaseException | None = None
        runtime = self._runtime
        try:
            if not runtime.executor.entered_in_loop(runtime.nobody):
                await runtime.executor.enter_own_in_loop()
            await self._app(self._scope, self._receive, self._send)
        except BaseException as exc:  # SystemExit too: it ends its request, not the loop (A-LOOP-5)
            error = exc
        try:
            self._app_ended(error)
            if runtime.handle.backend == "trio" and isinstance(error, runtime.handle.cancelled):
                raise error
        finally:
            # Break the cycles, as AppTask does.
            del error
            self.handshake.app_has_ended()
            self._task = None
            self._context = _NO_CONTEXT

    def _app_ended(self, error: BaseException | None) -> None:
        self._is_over = True
        state, opened = self._state, self._open
        if self._has_disconnect():
            if error is not None and not self._is_of_disconnect(error):
                logger.error("the app raised after its WebSocket had ended", exc_info=error)
        elif opened is not None or state is _ACCEPTING:
            self._finish(COMPLETED if error is None else FAILED)
            if error is not None:
                logger.error("the app raised in a WebSocket", exc_info=error)
                self._end_code = INTERNAL_ERROR
            if opened is not None:
                opened.close(self._end_code, "")
        else:
            self._finish(FAILED)
            if error is None:
                error = AppError(f"the app returned {state.value}, without an answer")
            self.handshake.caller.fail_in_loop(presentable(error))
        self._check_over()

    def _has_disconnect(self) -> bool:
        """Whether the app gets, or will get, a disconnect."""
        opened = self._open
        return self._disconnect is not None or (opened is not None and bool(opened.disconnect))

    def _is_of_disconnect(self, error: BaseException) -> bool:
        """Frameworks have exceptions of their own for it, such as Starlette's."""
        causes = (ClientDisconnected, self._runtime.handle.cancelled)
        return is_consequence(error, causes) or "Disconnect" in type(error).__name__

    def _check_over(self) -> None:
        """End the request if the app has ended and the connection is closed."""
        if not self._is_connected:
            self.handshake.let_go()
            self._runtime.released.discard(self)
            if self._is_over:
                self._runtime.ended_in_loop(self)

    def _finish(self, outcome: str) -> None:
        """Count the request, unless it is counted."""
        if not self._counted:
            self._counted = True
            self._runtime.counts.add(outcome)

    # ------------------------------------------------------------ receive and send

    async def _receive(self) -> Message:
        if self._state is _CONNECTING:
            self._state = _HANDSHAKE
            return {"type": "websocket.connect"}
        while self._open is None:
            if self._disconnect is not None:
                return self._disconnect
            event = self._runtime.handle.create_event()
            self._receivers.append(event)
            try:
                await event
            finally:
                self._receivers.remove(event)
        return await self._open.receive()

    async def _send(self, message: Mapping[str, Any]) -> None:
        kind = message.get("type") if isinstance(message, Mapping) else None
        state = self._state
        if kind == "websocket.send" and state is _OPEN and self._open is not None:
            await self._open.send(message)
        elif self._has_disconnect() and state is not _ENDED:
            if kind != "websocket.close":  # there is nothing left to do
                raise client_disconnected()
        elif self._open is not None and kind == "websocket.close" and state is _OPEN:
            self._open.close(*checked_close(message))
            self._state = _ENDED
        elif kind == "websocket.accept" and (state is _CONNECTING or state is _HANDSHAKE):
            await self._accept(message)
        elif kind == "websocket.close" and (state is _CONNECTING or state is _HANDSHAKE):
            self._finish(COMPLETED)
            self._refuse(FORBIDDEN)
        elif kind == RESPONSE_START and (state is _CONNECTING or state is _HANDSHAKE):
            self.handshake.response.accept({**message, "type": "http.response.start"})
            self._state = _RESPONDING
        elif kind == RESPONSE_BODY and state is _RESPONDING:
            if await self.handshake.respond({**message, "type": "http.response.body"}):
                self._finish(COMPLETED)
                self._has_answered()
        else:
            raise AppError(
                f"the app sent {kind!r} {state.value}, where the ASGI spec does not allow it"
            )

    # ------------------------------------------------------------ the answer

    async def _accept(self, message: Mapping[str, Any]) -> None:
        runtime = self._runtime
        try:
            opened = self.handshake.accept(message, self._scope["subprotocols"], self)
        except AcceptError as exc:
            self._finish(FAILED)
            self._refuse(UNAVAILABLE)
            raise client_disconnected() from exc
        self._accepted = opened
        self._state = _ACCEPTING
        self._is_connected = True
        if not self.handshake.keeps_thread:
            runtime.released.took_over(self)
        try:
            await opened.open()
        except BaseException as exc:
            self._finish(DISCONNECTED)
            self._set_disconnect()
            self.is_closed()
            if isinstance(exc, OSError):
                raise client_disconnected() from exc
            raise
        self._state = _OPEN
        self._open = opened
        self._wake_receivers()
        if not runtime.takes_requests:
            self.bridge_closes_in_loop()
        elif self._is_over:  # it was accepted by a task that the app has left behind
            opened.close(self._end_code, "")

    def _refuse(self, status: int) -> None:
        """Answer with an empty response of the bridge."""
        self.handshake.refuse(status)
        self._has_answered()

    def _has_answered(self) -> None:
        """The WebSocket was refused, and nothing is left to be sent."""
        self._state = _ENDED
        self._set_disconnect()
        self._check_over()

    # ------------------------------------------------------------ the end

    def has_ended(self, by_close_frame: bool) -> None:
        """The open WebSocket gives the app its disconnect from now on."""
        self._finish(COMPLETED if by_close_frame else DISCONNECTED)

    def is_closed(self) -> None:
        """The connection that was taken over is closed."""
        self._is_connected = False
        self._check_over()

    def _set_disconnect(self) -> None:
        """Let `receive()` give a disconnect: the connection is not, or never, opened."""
        self._disconnect = {"type": "websocket.disconnect", "code": NO_CLOSE_FRAME, "reason": ""}
        self._wake_receivers()

    def _wake_receivers(self) -> None:
        for event in self._receivers:
            self._runtime.handle.set_event(event)

    def _caller_left(self) -> None:
        """The calling thread has left before the end, or is about to: the client has."""
        if not self._has_disconnect() and not self._is_connected:
            self._finish(DISCONNECTED)
            self._set_disconnect()

    def bridge_closes_in_loop(self) -> None:
        """Send 1012, first of all (WS-A-9); a handshake under way is broken off."""
        if self._open is not None:
            if self._open.disconnect is None:
                self._finish(CLOSED)
            self._open.bridge_closes()
        elif self._state is _CONNECTING or self._state is _HANDSHAKE:
            self._finish(CLOSED)
            self.handshake.caller.fail_in_loop(bridge_shut_down())
            self._set_disconnect()

    def shut_down_in_loop(self) -> None:
        """End the app and the connection: the bridge has waited long enough."""
        self.handshake.caller.fail_in_loop(bridge_shut_down())
        if self._task is not None:
            self._task.cancel()
        self._finish(CLOSED)
        if self._open is not None:
            self._open.abort()

    def forget_after_fork(self) -> None:
        self.handshake.forget_after_fork()
        if self._accepted is not None:
            self._accepted.forget_after_fork()


_NO_CONTEXT = contextvars.Context()
