"""A WebSocket that the loop serves: its messages, its pings and its end, over one socket.

    OPEN      messages go both ways
    CLOSING   a close frame has been sent or the client has closed; what comes is dropped (WS-A-10)
    CLOSED    the socket is closed

The app has its disconnect from CLOSING on, after the messages that came before it.
"""

import contextvars
import socket
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._crossing.loops import BackgroundTask, LoopEvent, LoopHandle, Timer
from .._crossing.socket_stream import SocketStream, StreamCallbacks, open_socket_stream
from .._crossing.stand_in import close_in_child
from .._protocol.close_codes import SERVICE_RESTART
from .._protocol.websocket_session import Close, WebSocketSession
from ..typing import Message
from .disconnects import client_disconnected
from .handshake import Ending
from .settings import Settings

__all__ = ["OpenWebSocket"]

CLOSE_SECONDS = 10.0
"""How long a client may take to answer a close frame, and to close the connection after that."""
SHUTDOWN_SECONDS = 1.0
"""The same while the bridge is being closed."""
INBOX_BYTES = 65536
INBOX_MESSAGES = 32
"""What waits for the app before no more is read (WS-A-11)."""
UNBROKEN_BYTES = 262144
"""What the app may send before the loop's other tasks have their turn."""
LEAST_MESSAGE_BYTES = 512


class OpenWebSocket:
    """One connection. The loop's own.

    `opening`: our socket, the head of the 101, and what the server has read of the socket already.
    Nobody is told of the end before `open` has sent the head.
    """

    __slots__ = (
        "_answers",
        "_ending",
        "_eof",
        "_heard",
        "_inbox",
        "_inbox_bytes",
        "_is_open",
        "_loop",
        "_opening",
        "_paused",
        "_receivers",
        "_session",
        "_settings",
        "_source",
        "_stream",
        "_timer",
        "_turn_is_due",
        "_unbroken",
        "disconnect",
    )

    def __init__(
        self,
        session: WebSocketSession,
        loop: LoopHandle,
        settings: Settings,
        ending: Ending,
        opening: tuple[socket.socket, bytes, bytes],
    ) -> None:
        self._session = session
        self._loop = loop
        self._settings = settings
        self._ending: Ending | None = ending
        """None once it knows of the end, to break the cycle."""
        self._opening: tuple[socket.socket, bytes, bytes] | None = opening
        self._source = opening[0]
        self._stream: SocketStream
        self._is_open = False
        self._eof = False
        """Whether the client's end has come; what came before it may not be taken yet."""
        self._inbox: deque[tuple[Message, int]] = deque()
        self._inbox_bytes = 0
        self._paused = True
        """Whether no more is read for now."""
        self._turn_is_due = False
        """Whether that is until the loop's next turn, since more has come than is taken in one."""
        self._answers: BackgroundTask | None = None
        """Waits until answers to pings are sent, if the client does not read them."""
        self._heard = False
        """Whether anything has come since the last ping."""
        self._receivers: list[LoopEvent] = []
        self._unbroken = 0
        self._timer: Timer | None = None
        self.disconnect: Message | None = None
        """What `receive()` gives after the messages, once it has ended."""

    async def open(self) -> None:
        """Serve the socket, send the head and take what had come before.

        After the head is written the task goes on without a wait: a client that has seen it finds
        an app that has seen it too (WS-A-5). Raises OSError, and its cancellation; the socket is
        closed then.
        """
        opening, self._opening = self._opening, None
        assert opening is not None, "it is opened once"
        source, head, read_ahead = opening
        self._session.feed(read_ahead)
        callbacks = StreamCallbacks(self._on_data, self._on_eof, self._on_lost)
        self._stream = await open_socket_stream(self._loop, source, callbacks)
        self._is_open = True
        self._stream.write(head)
        self._read_on()
        if self._stream.closed:
            self._on_lost()
        elif self._settings.ping_interval is not None and self.disconnect is None:
            self._call_later(self._settings.ping_interval, self._ping)

    # ------------------------------------------------------------ from the client

    def _on_data(self, data: bytes) -> None:
        self._heard = True
        self._session.feed(data)
        if not self._paused:
            self._read()

    def _read_on(self) -> None:
        """Read again, unless something else holds that up."""
        if self._answers is None and not self._turn_is_due:
            if self._session.has_more:
                self._read_in_next_turn()
            else:
                self._resume()

    def _resume(self) -> None:
        self._paused = False
        self._stream.resume_reading()
        self._read()

    def _read(self) -> None:
        """Take a portion of what has come; the rest follows turn by turn of the loop, until enough
        messages wait for the app (WS-A-11).
        """
        messages = self._session.receive()
        if messages and self.disconnect is None:
            self._inbox += messages
            self._inbox_bytes += sum(size for _, size in messages)
            self._wake_receivers()
            if self._inbox_bytes > INBOX_BYTES or len(self._inbox) > INBOX_MESSAGES:
                self._pause()
        self._flush()
        if self._answers is None and self._stream.is_full():
            self._pause()
            self._answers = self._loop.spawn(self._send_answers, contextvars.Context())
        if not self._paused:
            if self._session.has_more:
                self._read_in_next_turn()
            elif self._eof:
                self._on_eof()

    def _read_in_next_turn(self) -> None:
        self._pause()  # so that an app that receives without a wait gets no more either
        self._turn_is_due = True
        self._loop.post(self._take_turn)

    def _take_turn(self) -> None:
        self._turn_is_due = False
        if self._answers is None and not self._stream.closed:
            self._resume()

    def _pause(self) -> None:
        self._paused = True
        self._stream.pause_reading()

    async def _send_answers(self) -> None:
        """Wait until the client reads: more pings of it would only make more pongs wait."""
        await self._stream.wait_for_room()
        self._answers = None
        # After the end the client's close frame is waited for, whatever the app has left.
        if not self._stream.closed and (not self._inbox or self.disconnect is not None):
            self._read_on()

    def _on_eof(self) -> None:
        """The client has shut down its sending side."""
        self._eof = True
        if not self._paused:
            self._session.receive_end()
            self._flush()
            self._stream.finish(CLOSE_SECONDS)

    def _on_lost(self) -> None:
        """The socket is closed."""
        if not self._is_open:
            return
        self._session.receive_end()
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.is_closed()

    async def receive(self) -> Message:
        """The app's `receive()`; any number of its tasks may wait here."""
        while True:
            if self._inbox:
                message, size = self._inbox.popleft()
                self._inbox_bytes -= size
                if self._paused and not self._inbox:
                    self._read_on()
                return message
            if self.disconnect is not None:
                return self.disconnect
            event = self._loop.create_event()
            self._receivers.append(event)
            try:
                await event
            finally:
                self._receivers.remove(event)

    def _wake_receivers(self) -> None:
        for event in self._receivers:
            self._loop.set_event(event)

    # ------------------------------------------------------------ to the client

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send the app's `websocket.send`; wait while the client reads nothing (WS-A-11).

        Raises AppError, and ClientDisconnected after the end.
        """
        if self.disconnect is not None:
            raise client_disconnected()
        size = self._session.send(message)
        self._flush()
        self._unbroken += size + LEAST_MESSAGE_BYTES
        if self._unbroken > UNBROKEN_BYTES:
            self._unbroken = 0
            await self._loop.checkpoint()
        if self._stream.is_full():
            await self._stream.wait_for_room()
        if self._stream.closed:
            raise client_disconnected()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and give the client time to answer."""
        if self.disconnect is None:
            self._session.close(code, reason)
            self._flush()
            self._close_within(CLOSE_SECONDS)

    def bridge_closes(self) -> None:
        """Tell the client, and do not wait for long."""
        self.close(SERVICE_RESTART, "")
        self._close_within(SHUTDOWN_SECONDS)

    def abort(self) -> None:
        self._stream.abort()

    def forget_after_fork(self) -> None:
        close_in_child(self._source)  # of the stream too, once there is one

    def _flush(self) -> None:
        """Send what the session has to say."""
        chunks, last = self._session.take_output()
        if chunks:
            self._stream.write(*chunks)
        if self._session.end is not None:
            self._end(self._session.end)
        if last:
            self._stream.finish(CLOSE_SECONDS)

    def _end(self, end: Close) -> None:
        """Let the app know that it has ended."""
        if self.disconnect is not None:
            return
        self.disconnect = {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}
        self._wake_receivers()
        if self._ending is not None:
            self._ending.has_ended(not self._session.failed)
        if self._paused:  # the client's close frame may be behind what waits for the app
            self._read_on()

    # ------------------------------------------------------------ time

    def _close_within(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stream.closed:
            self._call_later(seconds, self._stream.abort)

    def _ping(self) -> None:
        """Ask for a sign of life (WS-A-13)."""
        if self.disconnect is not None:
            return
        self._heard = False
        self._session.ping()
        self._flush()
        interval, timeout = self._settings.ping_interval, self._settings.ping_timeout
        assert interval is not None
        if timeout is None:
            self._call_later(interval, self._ping)
        elif interval <= timeout:
            self._call_later(interval, partial(self._ping_if_heard, timeout - interval))
        else:
            self._call_later(timeout, partial(self._give_up_unless_heard, interval - timeout))

    def _is_alive(self) -> bool:
        """Whatever comes is a sign of life: a pong may be stuck behind a long message. While the
        app does not receive, nothing is read and nothing can be heard.
        """
        return self._heard or (self._paused and self._answers is None)

    def _ping_if_heard(self, patience: float) -> None:
        """The next ping is due, but if nothing has come the last one has `patience` seconds yet."""
        if self._is_alive():
            self._ping()
        else:
            self._call_later(patience, partial(self._give_up_unless_heard, 0.0))

    def _give_up_unless_heard(self, until_next: float) -> None:
        """The time for an answer is over; the next ping is due in `until_next` seconds."""
        if self.disconnect is not None:
            return
        if self._is_alive():
            self._call_later(until_next, self._ping)
        else:
            self._session.give_up("no answer to a ping")
            self._flush()

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(seconds, callback)
