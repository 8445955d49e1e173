"""The answer to a WebSocket's handshake: a response by the calling thread, or a WebSocket.

`Handshake` is the loop's half for the thread's `Response`. Its subclasses make the WebSocket: of
the server's connection (connection_handshake.py), or of a WebSocket that a WSGIToASGI around this
bridge has (outer_websocket.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .._crossing.calling_thread import CallingThread
from .._crossing.contexts import Changes
from .._protocol.asgi_response import ASGIResponse
from ..errors import loop_has_ended
from ..typing import Message, StartResponse
from .disconnects import client_disconnected
from .extensions import SentFile
from .runtime import Runtime

__all__ = ["AcceptError", "Ending", "Handshake", "WebSocket"]


class AcceptError(Exception):
    """There can be no WebSocket, though the calling thread still waits for an answer."""


class Ending(Protocol):
    """Whom a WebSocket tells of its end."""

    def has_ended(self, by_close_frame: bool) -> None:
        """The app has its disconnect. Called once."""

    def is_closed(self) -> None:
        """Nothing is left of it. Called once, and last."""


class WebSocket(Protocol):
    """An accepted WebSocket. The loop's own."""

    disconnect: Message | None
    """What `receive()` gives after the messages, once it has ended."""

    async def open(self) -> None:
        """Begin. Raises OSError, and its cancellation; it is closed then."""

    async def receive(self) -> Message: ...

    async def send(self, message: Mapping[str, Any]) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def bridge_closes(self) -> None:
        """Close soon: the bridge is being closed."""

    def abort(self) -> None:
        """Close now."""

    def forget_after_fork(self) -> None: ...


class Handshake(ABC):
    """One handshake. The loop's own, except for what `Response` uses of it."""

    __slots__ = ("_runtime", "caller", "changes", "file", "on_left", "response", "stream")

    keeps_thread: bool
    """Whether the calling thread stays for as long as the WebSocket is open."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.caller: CallingThread = CallingThread(runtime.handle, runtime.settings.response_buffer)
        self.response: ASGIResponse = ASGIResponse("GET")
        self.changes: Changes | None = None
        self.file: SentFile | None = None
        self.stream: None = None
        self.on_left: Callable[[], None] = _nothing
        """Called when the thread has left before the end, or is found to have."""

    # ------------------------------------------------------------ what Response uses

    def caller_left_in_loop(self) -> None:
        self.on_left()

    def run_elsewhere_from_thread(self, jobs: list[Callable[[], None]]) -> None:
        for job in jobs:
            self._runtime.executor.run_in_fallback(job)

    def check_loop_from_thread(self) -> None:
        if not self._runtime.private.thread.is_alive():
            raise loop_has_ended()

    def starting_from_thread(self, start_response: StartResponse) -> StartResponse:
        """`start_response`, with whatever the thread has to do before it."""
        return start_response

    # ------------------------------------------------------------ the loop

    @abstractmethod
    def accept(self, message: Mapping[str, Any], offered: list[str], ending: Ending) -> WebSocket:
        """Make the WebSocket for the app's `websocket.accept`; `open` has to follow.

        `offered`: the client's subprotocols. Raises AppError, ClientDisconnected, and AcceptError
        if the handshake can only be refused.
        """

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
            self.on_left()
            raise client_disconnected()
        return part[1]

    def app_has_ended(self) -> None:
        """Break the cycle: nobody is to be told any more that the thread has left."""
        self.on_left = _nothing

    @abstractmethod
    def let_go(self) -> None:
        """There is no WebSocket, or it is closed."""

    @abstractmethod
    def forget_after_fork(self) -> None:
        """Close the descriptors of this process, a forked child."""


def _nothing() -> None: ...
