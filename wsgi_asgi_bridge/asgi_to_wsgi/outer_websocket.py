"""A WebSocket of a WSGIToASGI around this bridge, passed on message by message (D-5).

The outer bridge has the connection in its own loop, and a port through which threads send and
receive. The private loop is such a thread here:

- receive: the port tells, in any thread, that a message or the end has come. The app's `receive()`
  then takes it without a wait.
- send: a message that the port has room for is put without a wait. For one that has to wait, the
  calling thread does so, which stays until the end.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from .._crossing.calling_thread import CallingThread
from .._crossing.loops import LoopEvent
from .._protocol.close_codes import NO_CLOSE_FRAME, SERVICE_RESTART
from .._protocol.websocket_session import checked_accept, payload_of
from ..typing import Headers, Message
from .disconnects import client_disconnected
from .handshake import AcceptError, Ending, Handshake
from .runtime import Runtime

__all__ = ["OuterHandshake"]


UNBROKEN_MESSAGES = 256
"""What the app may receive before the loop's other tasks have their turn."""


class OuterPort(Protocol):
    """What is used of the outer bridge's message port. Any thread."""

    def receive_from_thread(self, timeout: float | None = None) -> Any:
        """The next message, None at the end; TimeoutError after `timeout`."""

    def end(self) -> Any:
        """The code and the reason; None before the end."""

    def observe(self, observer: Callable[[], None] | None) -> None:
        """Call `observer`, in any thread, after each message that came and after the end."""


class OuterCall(Protocol):
    """What is used of the outer bridge's WebSocketCall, by any thread.

    `accept` and `send` raise ConnectionError after the end.
    """

    @property
    def port(self) -> OuterPort: ...

    def accept(self, subprotocol: str | None = None, headers: Headers | None = None) -> None: ...

    def send(self, payload: str | bytes, timeout: float | None = None) -> bool:
        """False after `timeout` seconds without room."""
        ...

    def close(self, code: int, reason: str) -> bool: ...


class OuterHandshake(Handshake):
    """Accepts by the outer bridge's handshake; refuses by its thread, as any."""

    __slots__ = ("_call",)

    keeps_thread = True

    def __init__(self, call: OuterCall, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._call = call

    def accept(
        self, message: Mapping[str, Any], offered: list[str], ending: Ending
    ) -> "OuterWebSocket":
        subprotocol, headers = checked_accept(message, offered)
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        try:
            self._call.accept(subprotocol, raw)
        except ConnectionRefusedError as exc:  # the outer bridge has no thread for it
            raise AcceptError from exc
        except ConnectionError as exc:
            self.on_left()
            raise client_disconnected() from exc
        self.response.switch_protocols()  # the outer bridge passes over it
        return OuterWebSocket(self._call, self._runtime, self.caller, ending)

    def let_go(self) -> None: ...

    def forget_after_fork(self) -> None: ...


class OuterWebSocket:
    """An accepted one. The loop's own, save `_note_from_any_thread`."""

    def __init__(
        self, call: OuterCall, runtime: Runtime, caller: CallingThread, ending: Ending
    ) -> None:
        self._call = call
        self._port = call.port
        self._loop = runtime.handle
        self._caller = caller
        self._ending: Ending | None = ending
        """None once it knows of the end, to break the cycle."""
        self._receivers: list[LoopEvent] = []
        self._unbroken = 0
        self.disconnect: Message | None = None

    async def open(self) -> None:
        self._port.observe(self._note_from_any_thread)
        self._note()

    def _note_from_any_thread(self) -> None:
        self._loop.post(self._note)

    def _note(self) -> None:
        """A message may have come, or the end."""
        end = self._port.end()
        if end is not None and self.disconnect is None:
            code, reason = end
            self.disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
            self._port.observe(None)
            self._caller.put_in_loop(b"", last=True)
            ending, self._ending = self._ending, None
            if ending is not None:
                ending.has_ended(code != NO_CLOSE_FRAME)
                ending.is_closed()
        for event in self._receivers:
            self._loop.set_event(event)

    async def receive(self) -> Message:
        while True:
            if self._unbroken == UNBROKEN_MESSAGES:
                self._unbroken = 0
                await self._loop.checkpoint()
            try:
                payload = self._port.receive_from_thread(0)
            except TimeoutError:
                event = self._loop.create_event()
                self._receivers.append(event)
                try:
                    await event
                finally:
                    self._receivers.remove(event)
                continue
            if payload is not None:
                self._unbroken += 1
                kind = "text" if isinstance(payload, str) else "bytes"
                return {"type": "websocket.receive", kind: payload}
            self._note()
            assert self.disconnect is not None, "the port has ended"
            return self.disconnect

    async def send(self, message: Mapping[str, Any]) -> None:
        payload = payload_of(message)
        if self.disconnect is not None:
            raise client_disconnected()
        try:
            if not self._call.send(payload, 0):
                await self._send_by_thread(payload)
        except ConnectionError as exc:
            raise client_disconnected() from exc
        await self._loop.checkpoint()

    async def _send_by_thread(self, payload: str | bytes) -> None:
        """Wait for room in the calling thread. Raises what the outer bridge raises."""
        sent = self._loop.create_event()
        errors: list[BaseException] = []

        def send() -> None:
            try:
                self._call.send(payload)
            except Exception as exc:
                errors.append(exc)
            self._loop.post(partial(self._loop.set_event, sent))

        if not self._caller.call_in_thread(send):
            raise client_disconnected()
        await sent
        if errors:
            raise errors[0]

    def close(self, code: int, reason: str) -> None:
        self._call.close(code, reason)
        self._note()

    def bridge_closes(self) -> None:
        self.close(SERVICE_RESTART, "")

    def abort(self) -> None:
        self.bridge_closes()

    def forget_after_fork(self) -> None:
        """The descriptor is the outer server's."""
