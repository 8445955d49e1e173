"""The response of one request in the loop: what the worker gives, and the bridge's own answers."""

from collections.abc import Callable
from typing import Any

from .._crossing.channel import ThreadToLoop
from .._crossing.contexts import Changes, ContextMirror
from .._crossing.loops import LoopHandle
from .._protocol.blocks import SPLIT_BYTES, blocks
from ..errors import BridgeError, client_disconnected
from .app_call import AppCall
from .early_messages import EarlyMessages
from .settings import CLOCK_NOT_STARTED
from .stats import ClientLeft

__all__ = [
    "BODY_SENT",
    "COLLECTING",
    "HEAD_SENT",
    "HTTP",
    "IN_APP",
    "LAST_MESSAGE",
    "QUEUED",
    "WEBSOCKET",
    "Response",
    "nobody",
]

COLLECTING, QUEUED, IN_APP, HEAD_SENT, LAST_MESSAGE, BODY_SENT = range(6)
"""The phases of a request; see exchange.py."""

HTTP = ("http.response.start", "http.response.body")
WEBSOCKET = ("websocket.http.response.start", "websocket.http.response.body")

RETRY_AFTER_SECONDS = 1
"""The Retry-After of a 503: a pool that works at all has a shorter queue a second later."""

_END = b""
"""What is left to send when the body has no more bytes: its end. No block is empty."""


class Response:
    """The response of one request, and how far the request has come by it.

    `types` are the ASGI messages of head and body, HTTP or WEBSOCKET. Everything here runs in the
    task of the request. `send` and `answer` raise ClientLeft if the server's send() raises OSError.
    """

    __slots__ = (
        "_budget",
        "_handle",
        "_types",
        "mirror_of_app",
        "out",
        "phase",
        "progress_is_hidden",
        "send_message",
        "waiting_since",
    )

    def __init__(self, handle: LoopHandle, budget: int, types: tuple[str, str], send: Any) -> None:
        self._handle = handle
        self._budget = budget
        self._types = types
        self.send_message: Any = send
        self.out: ThreadToLoop = ThreadToLoop(handle, budget)
        """The body on its way out of the worker."""
        self.phase: int = COLLECTING
        self.waiting_since: float | None = None
        """The start of the send() that is pending: the client is waited for."""
        self.progress_is_hidden: bool = False
        """The pending send() sends a whole file: what the client has read of it is not seen."""
        self.mirror_of_app: ContextMirror | None = None
        """Sets in this context what the app's thread has set in its own."""

    async def send(self, call: AppCall, begin_watching: Callable[[], None]) -> None:
        """Send what the worker gives, until it has left or has given an error."""
        out, send = self.out, self.send_message
        chunks, ended = out.taken_in_loop() or await out.take_in_loop()
        try:
            if (
                ended
                and len(chunks) == 1
                and len(chunks[0]) <= SPLIT_BYTES
                and call.error is None
                and call.early is None
            ):
                # The common case, inline: the checks of longer bodies are not needed.
                assert call.head is not None, "a body has a head before it"
                start, body_part = self._types
                status, headers = call.head
                self.phase = HEAD_SENT
                if call.changes is not None:
                    self.mirror(call, call.changes)
                self.waiting_since = CLOCK_NOT_STARTED
                await send({"type": start, "status": status, "headers": headers})
                if call.last_changes is not None:
                    self.mirror(call, call.last_changes)
                self.phase = LAST_MESSAGE
                self.waiting_since = CLOCK_NOT_STARTED
                await send({"type": body_part, "body": chunks[0], "more_body": False})
                self.waiting_since = None
                self.phase = BODY_SENT
            else:
                await self._send_pieces(call, chunks, ended, begin_watching)
        except OSError as exc:
            # send() may be another bridge's, and its error one of this package's as well: only an
            # exchange that is over already has raised it here.
            if isinstance(exc, BridgeError) and out.broken():
                raise
            raise ClientLeft from exc
        if not out.finished_at_take:
            await out.wait_finished_in_loop()
        if call.last_changes is not None:
            self.mirror(call, call.last_changes)

    async def _send_pieces(
        self, call: AppCall, chunks: list[bytes], ended: bool, begin_watching: Callable[[], None]
    ) -> None:
        """Send a body that comes in pieces, `chunks` first, up to its end or the app's error."""
        out, send, (start, body_part) = self.out, self.send_message, self._types
        unbroken = 0  # bytes since the loop's other tasks could run
        while True:
            whole = ended and call.error is None and call.file is None
            head = call.head  # before the messages: see `_send_early`
            if call.early is not None:
                await self._send_early(call.early)
            if self.phase < HEAD_SENT and head is not None:
                self.phase = HEAD_SENT
                if call.changes is not None:
                    self.mirror(call, call.changes)
                self.waiting_since = CLOCK_NOT_STARTED
                await send({"type": start, "status": head[0], "headers": head[1]})
            if ended and call.last_changes is not None:
                self.mirror(call, call.last_changes)
            sent, pieces = 0, blocks(chunks)
            piece = next(pieces, _END)
            while piece or whole:
                following = next(pieces, _END)  # a message says whether it is the last
                more = not whole or following is not _END
                if not more:
                    self.phase = LAST_MESSAGE
                self.waiting_since = CLOCK_NOT_STARTED
                await send({"type": body_part, "body": piece, "more_body": more})
                if not more:
                    self.phase = BODY_SENT
                    break
                if not ended:
                    out.release_in_loop(len(piece))
                sent += len(piece)
                piece = following
                if sent > self._budget:  # only of a body given whole
                    unbroken = sent = 0
                    self.waiting_since = None
                    await self._handle.checkpoint()
            self.waiting_since = None
            if ended:
                if call.file is not None:
                    await self._send_file(call, begin_watching)
                return
            begin_watching()
            unbroken += sent
            if unbroken > self._budget:
                unbroken = 0
                await self._handle.checkpoint()
            chunks, ended = out.taken_in_loop() or await out.take_in_loop()

    async def _send_early(self, early: EarlyMessages) -> None:
        """Send what goes before the head.

        Whoever has seen the head before this call finds all that the worker has given before it.
        """
        for message in early.taken_in_loop():
            if self.phase < HEAD_SENT:  # another thread of the app may have been late
                self.waiting_since = CLOCK_NOT_STARTED
                await self.send_message(message)
                self.waiting_since = None

    async def _send_file(self, call: AppCall, begin_watching: Callable[[], None]) -> None:
        """Let the server send a file by itself (W-OUT-10)."""
        file, call.file = call.file, None  # it is closed with the last reference
        assert file is not None
        self.progress_is_hidden = file.path is not None
        unbroken = 0
        for message, size in file.messages():
            if not message.get("more_body", False):
                self.phase = LAST_MESSAGE
            self.waiting_since = CLOCK_NOT_STARTED
            await self.send_message(message)
            self.waiting_since = None
            if self.phase == LAST_MESSAGE:
                break
            begin_watching()
            unbroken += size
            if unbroken > self._budget:
                unbroken = 0
                await self._handle.checkpoint()
        self.phase = BODY_SENT

    def mirror(self, call: AppCall, changes: Changes) -> None:
        """Set in the context of the ASGI task what the app has set in its own, and let a WSGI
        server's thread that waits for both bridges do so too.
        """
        if self.mirror_of_app is None:
            self.mirror_of_app = ContextMirror()
        self.mirror_of_app.apply(changes)
        if call.caller is not None:
            call.caller.changes = changes

    async def answer(self, status: int, text: str, *, is_head: bool) -> None:
        """The bridge's own answer; the app has not begun its own."""
        start, body_part = self._types
        body = text.encode("utf-8", "replace") + b"\n"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        if status == 503:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
        self.phase = HEAD_SENT
        self.waiting_since = CLOCK_NOT_STARTED
        try:
            await self.send_message({"type": start, "status": status, "headers": headers})
            self.phase = LAST_MESSAGE
            body = b"" if is_head else body
            await self.send_message({"type": body_part, "body": body, "more_body": False})
        except OSError as exc:
            raise ClientLeft from exc


async def nobody(*_: object) -> Any:
    """A server's `receive` and `send` once the exchange is over."""
    raise client_disconnected()
