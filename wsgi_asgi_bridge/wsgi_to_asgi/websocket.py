"""One WebSocket in its event loop, from top to bottom. The worker's half is in websocket_call.py.

    QUEUED --> IN_APP --> OPEN --> CLOSED        a WebSocket
                    \\--> HEAD_SENT ...           the app's own answer, as in exchange.py

After `websocket.connect` the app runs as for a request. Its thread opens the message port, which is
the handshake, or leaves it unopened and answers. Two tasks serve the port: this exchange's own
sends what the app gives, and `_feed`, from then on the only caller of receive(), puts what the
client sends.

Who ends an open WebSocket, and what follows (WS-W-5 to WS-W-7, WS-W-12):

    the app closes           its close goes out; its library gets the echo; the app's call may go on
    the app returns, raises  what was sent goes out, then 1000 or 1011; an error is raised
    the client closes, or    the app reads what came before, then the end; what was to be sent is
    send() raises            dropped; the exchange ends when the app's call does
    begin_shutdown()         what was sent goes out, then 1001; the app reads the end
    a message is too large   the same with 1009
    send() takes too long,   `finish`: all work of this task ends, the app reads the end
    cancellation, shut_down
"""

import io
import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from .._crossing.contexts import own_context
from .._crossing.loops import BackgroundTask, CancelScope
from .._crossing.message_port import MessagePort
from .._crossing.workers import Job, QueueFull
from .._protocol.carried import OUTER_WEBSOCKET
from .._protocol.close_codes import INTERNAL_ERROR, NO_CLOSE_FRAME, NORMAL, TLS_HANDSHAKE
from .._protocol.environ import environ_from_scope, set_handshake
from ..errors import (
    BadRequest,
    BridgeClosed,
    ClientDisconnected,
    ClientStalled,
    ServerError,
    bridge_shut_down,
    client_disconnected,
    client_reads_nothing,
    connection_closed,
    presentable,
)
from ..typing import Environ
from .app_call import AppCall
from .response import HEAD_SENT, IN_APP, LAST_MESSAGE, WEBSOCKET, Response, nobody
from .runtime import Runtime
from .settings import CLOCK_NOT_STARTED, Settings
from .stats import CLOSED, COMPLETED, DISCONNECTED, FAILED, REJECTED, STALLED, ClientLeft
from .websocket_call import (
    LOST,
    SHUTTING_DOWN,
    End,
    WebSocketCall,
    WebSocketRefused,
)
from .websocket_feed import feed
from .websocket_messages import MessageSocket
from .websocket_socket import MemorySocket

__all__ = ["WebSocketExchange"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

HTTP_RESPONSE = "websocket.http.response"
"""The extension by which a server takes an answer other than the handshake."""

FIRST_SERVER_ERROR = 500

_LOST_CODES = (NO_CLOSE_FRAME, TLS_HANDSHAKE)
"""The server reports by them that no close frame came."""


class WebSocketExchange:
    """One WebSocket, or one handshake that the app or the bridge answers otherwise, in its loop."""

    def __init__(self, runtime: Runtime, scope: Any, receive: Any, send: Any) -> None:
        self._runtime = runtime
        self._scope = scope
        self._receive = receive
        self._send = send
        handle, settings = runtime.handle, runtime.settings
        answer = (
            send if HTTP_RESPONSE in (scope.get("extensions") or {}) else partial(_refuse, send)
        )
        self._response = Response(handle, settings.response_buffer, WEBSOCKET, answer)
        """The app's own answer, or the bridge's; of an open WebSocket only its clock is used."""
        self._port = MessagePort(
            handle,
            in_budget=settings.request_buffer,
            out_budget=settings.response_buffer,
            closed=connection_closed,
            lost=LOST,
        )
        self._cancel_scope: CancelScope | None = None
        self._feeding: BackgroundTask | None = None
        self._call: AppCall | None = None
        self._websocket: WebSocketCall | None = None
        self._job: Job | None = None
        self._outcome: str | None = None
        self._is_counted = False
        self._is_over = False
        self._is_open = False
        """`websocket.accept` was given to the server."""
        self._is_closed = False
        """Nothing may be sent any more: a close went out, or the client has left."""
        self._client_has_left = False
        self._closing: End | None = None
        """What the bridge closes with while the app still runs."""
        self.queued_in_round: int | None = None

    # ------------------------------------------------------------ from the first step to the last

    async def run(self) -> None:
        if (await self._receive())["type"] != "websocket.connect":
            return
        runtime = self._runtime
        runtime.exchanges.add(self)
        if not runtime.ticking:
            runtime.begin_ticking()
        scope = self._cancel_scope = runtime.handle.cancel_scope()
        try:
            with scope:
                call = await self._begin()
                if call is not None:
                    self._feeding = runtime.handle.spawn(self._feed)
                    await self._send_messages()
                    if self._port.was_opened():
                        await self._close(call)
                    else:
                        await self._answer_by(call)
            if scope.reason is None:
                self.finish(COMPLETED)
            elif not isinstance(scope.reason, ClientDisconnected):
                raise scope.reason
        except ClientLeft:
            self.finish(DISCONNECTED, client_disconnected)
        except BaseException as exc:
            was_over = self._is_over
            cancelled = isinstance(exc, runtime.handle.cancelled)
            self.finish(
                DISCONNECTED if cancelled or isinstance(exc, OSError) else FAILED,
                client_disconnected,
            )
            # Once over, the channel raises it in this task; else it is the app's own.
            if not (was_over and isinstance(exc, ClientDisconnected)):
                raise
        finally:
            self._clean_up()

    async def _begin(self) -> AppCall | None:
        """Give the app's call to the pool, or answer."""
        try:
            return self._submit(_environ(self._scope, self._runtime.settings))
        except BadRequest as exc:
            await self._answer(400, str(exc))
        except (QueueFull, BridgeClosed) as exc:
            await self._answer(503, str(exc) or "Too many requests are waiting.")
        except ServerError:
            self._outcome = REJECTED
            raise
        return None

    def _submit(self, environ: Environ) -> AppCall:
        """Raises QueueFull, BridgeClosed."""
        runtime, port = self._runtime, self._port
        binding = runtime.app_binding
        websocket = self._websocket = WebSocketCall(binding.app, port, binding.stall_timeout)
        _add_sockets(environ, self._scope, websocket)
        environ["wsgi_asgi_bridge.client_disconnected"] = port.has_ended
        environ.update(runtime.settings.extra_environ)
        before = own_context()
        call = self._call = websocket.call = AppCall(
            binding._replace(app=websocket),
            environ,
            self._response.out,
            before,
            None,
            self._stall_from_thread,
        )
        job = self._job = partial(before.copy().run, call.run)  # type: ignore[call-arg]
        runtime.submit(job)
        return call

    # ------------------------------------------------------------ messages

    async def _send_messages(self) -> None:
        """Send what the app gives until nothing can follow (WS-W-10)."""
        port, send, response = self._port, self._send, self._response
        budget, unbroken = self._runtime.settings.response_buffer, 0
        while (message := await port.take_in_loop()) is not None:
            if (kind := message["type"]) != "websocket.send":
                self._note_going_out(kind)
            response.waiting_since = CLOCK_NOT_STARTED
            try:
                await send(message)
            except Exception:
                self._send_has_failed()
            response.waiting_since = None
            unbroken += port.taken_size
            if unbroken > budget:  # a send() that never waits would keep the loop
                unbroken = 0
                await self._runtime.handle.checkpoint()

    def _note_going_out(self, kind: str) -> None:
        if kind == "websocket.accept":
            self._is_open = True
            self._runtime.open_websockets += 1
        elif kind == "websocket.close":
            self._note_closed(COMPLETED)

    def _send_has_failed(self) -> None:
        """Inside `except`: a send() that raises OSError has lost its client."""
        if isinstance(sys.exception(), OSError):
            self._client_left(LOST)
        elif not self._client_has_left:
            raise
        else:
            logger.debug("send() raised after the disconnect", exc_info=True)

    async def _feed(self) -> None:
        """Until the client leaves or sends too much (WS-W-7)."""
        handle, settings = self._runtime.handle, self._runtime.settings
        left, end = await feed(handle, self._receive, self._port, settings)
        (self._client_left if left else self._end_by)(end)

    def _note_closed(self, outcome: str) -> None:
        self._is_closed = True
        self._outcome = self._outcome or outcome

    # ------------------------------------------------------------ the app's end

    async def _close(self, call: AppCall) -> None:
        """End an open WebSocket, when its port has ended, and wait for the app's call."""
        if self._closing is not None:
            await self._send_close(*self._closing)
        await self._response.out.wait_finished_in_loop()
        if call.last_changes is not None:
            self._response.mirror(call, call.last_changes)
        websocket, error = self._websocket, call.take_error()
        assert websocket is not None
        try:
            failed = error is not None or websocket.status >= FIRST_SERVER_ERROR
            with nullcontext() if error is None else suppress(Exception):  # Daphne refuses 1011
                await self._send_close(INTERNAL_ERROR if failed else NORMAL, "")
            if error is not None:
                self._outcome = FAILED  # also after a close
                raise presentable(error)
        finally:
            del error  # its traceback leads to this frame

    async def _send_close(self, code: int, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._response.waiting_since = CLOCK_NOT_STARTED
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception:
            self._send_has_failed()
        self._response.waiting_since = None

    async def _answer_by(self, call: AppCall) -> None:
        """The app has made no handshake: send its answer (WS-W-4)."""
        response = self._response
        response.phase = IN_APP
        await response.send(call, _nothing)
        error = call.take_error()
        try:
            if isinstance(error, WebSocketRefused) and response.phase < HEAD_SENT:
                await self._answer(503, str(error))
            elif error is not None and not (
                self._is_over and isinstance(error, ClientDisconnected)
            ):
                self._outcome = FAILED
                raise presentable(error)
        finally:
            del error  # its traceback leads to this frame

    async def _answer(self, status: int, text: str) -> None:
        """The bridge's own answer."""
        self._outcome = REJECTED
        await self._response.answer(status, text, is_head=False)

    # ------------------------------------------------------------ endings

    def _client_left(self, end: End) -> None:
        """The disconnect was received, or a send() has failed."""
        if self._client_has_left:
            return
        self._client_has_left = True
        self._port.end_in_loop(end, drop=True)
        if self._port.was_opened():
            self._note_closed(DISCONNECTED if end[0] in _LOST_CODES else COMPLETED)
        elif self._response.phase < LAST_MESSAGE:
            self.finish(DISCONNECTED, client_disconnected)

    def _end_by(self, end: End) -> None:
        """The bridge closes: the app reads the end, and finds it when it sends."""
        self._closing = end
        self._port.end_in_loop(end)
        if self._port.was_opened() and not self._is_closed:
            self._outcome = self._outcome or (CLOSED if end is SHUTTING_DOWN else REJECTED)

    def begin_shutdown(self) -> None:
        """The bridge is being closed; a WebSocket ends by itself only when it is told (WS-W-5)."""
        if not self._is_over:
            self._end_by(SHUTTING_DOWN)

    def finish(self, outcome: str, reason: Callable[[], Exception] | None = None) -> None:
        """End the exchange, in its loop; the first call decides. See Exchange.finish."""
        if self._is_over:
            return
        self._is_over = True
        self._outcome = self._outcome or outcome
        if reason is None:
            return
        self._count()  # now: a send() that hangs may hold this task
        if self._job is not None:
            self._runtime.withdraw(self._job)
        self._port.end_in_loop(SHUTTING_DOWN if outcome is CLOSED else LOST, drop=True)
        self._response.out.break_in_loop(reason)
        if self._cancel_scope is not None:
            self._cancel_scope.cancel(reason())

    def shut_down(self) -> None:
        self.finish(CLOSED, bridge_shut_down)

    def watch_unless_begun(self) -> None:
        """`_feed` watches from the start."""

    def tick(self, now: float) -> None:
        """Check how long the server's send() takes (WS-W-10)."""
        since = self._response.waiting_since
        if since is None or self._is_over:
            return
        if since is CLOCK_NOT_STARTED:
            self._response.waiting_since = now
        elif self._client_has_left:
            self.finish(DISCONNECTED, client_disconnected)
        elif since <= now - self._runtime.settings.stall_timeout:
            self.finish(STALLED, self._reads_nothing)

    def _stall_from_thread(self) -> None:
        self._runtime.handle.post(partial(self.finish, STALLED, self._reads_nothing))

    def _reads_nothing(self) -> ClientStalled:
        return client_reads_nothing(self._runtime.settings.stall_timeout)

    def _count(self) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._runtime.counts.add(self._outcome or FAILED)

    def _clean_up(self) -> None:
        runtime = self._runtime
        runtime.exchanges.discard(self)
        self._count()
        if self._is_open:
            runtime.open_websockets -= 1
        if self._feeding is not None:
            self._feeding.cancel()
        if self._call is not None and self._response.out.finished():
            self._call.log_unraised_error()
        # Break the cycles by way of environ, sockets and errors: all is freed without a gc.
        if self._cancel_scope is not None:
            self._cancel_scope.reason = None
        if self._websocket is not None:
            self._websocket.call = None
        self._call = self._job = self._cancel_scope = self._feeding = self._websocket = None
        self._receive = self._send = self._response.send_message = nobody
        self._response.mirror_of_app = None


def _environ(scope: Any, settings: Settings) -> Environ:
    """Raises BadRequest, ServerError."""
    environ = environ_from_scope(
        scope, settings.template, max_header_repeats=settings.max_header_repeats
    )
    set_handshake(environ, scope.get("subprotocols") or ())
    environ["wsgi.input"] = io.BytesIO()
    environ.setdefault("wsgi.errors", sys.stderr)
    return environ


def _add_sockets(environ: Environ, scope: Any, websocket: WebSocketCall) -> None:
    """What libraries look for (WS-W-2); simple-websocket takes the first of the sockets."""
    environ["werkzeug.socket"] = environ["gunicorn.socket"] = MemorySocket(
        websocket, scope.get("subprotocols") or (), scope.get("client"), scope.get("server")
    )
    environ["wsgi.websocket"] = MessageSocket(websocket, environ)
    environ[OUTER_WEBSOCKET] = websocket
    environ["wsgi.websocket_version"] = "13"


async def _refuse(send: Any, message: Any) -> None:
    """A send() for an answer that the server cannot carry: the handshake is refused, with 403."""
    if message["type"] == WEBSOCKET[0]:
        await send({"type": "websocket.close", "code": NORMAL, "reason": ""})


def _nothing() -> None: ...
