"""An HTTP/2 client in cleartext (prior knowledge) over a raw socket, by hand on the h2 package.

One stream at a time; the pieces are those of `raw_http.Client`. What is not read by `read_body` is
not acknowledged, so that the server's flow-control window stays spent: that is how a reader that
never reads looks in HTTP/2.
"""

import socket
from collections import deque
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.support.raw_http import (
    READ_BYTES,
    TIMEOUT_SECONDS,
    Client,
    CutResponseError,
    Headers,
    Response,
    connected_socket,
)


@dataclass
class Http2Connection(Client):
    """One HTTP/2 connection with one stream at a time."""

    address: tuple[str, int]
    timeout: float = TIMEOUT_SECONDS
    receive_buffer: int | None = None
    _socket: socket.socket = field(init=False)
    _state: h2.connection.H2Connection = field(init=False)
    _stream: int = field(init=False, default=0)
    _head: Response | None = field(init=False, default=None)
    _parts: deque[tuple[bytes, int]] = field(init=False, default_factory=deque)
    _has_ended: bool = field(init=False, default=False)
    _cut: str = field(init=False, default="")
    _interim: deque[Response] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self._state = h2.connection.H2Connection(config)
        self._socket = connected_socket(self.address, self.timeout, self.receive_buffer)
        try:
            self._state.initiate_connection()
            self._flush()
        except BaseException:
            self._socket.close()
            raise

    def send_head(
        self,
        method: str,
        target: str | bytes,
        headers: Headers = (),
        *,
        content_length: int | None = None,
        chunked: bool = False,
    ) -> None:
        """`chunked` here is a body without a declared length, as HTTP/2 frames every body."""
        has_body = chunked or bool(content_length)
        declared = [] if content_length is None else [("content-length", str(content_length))]
        pseudo = [
            (":method", method),
            (":scheme", "http"),
            (":authority", f"{self.address[0]}:{self.address[1]}"),
            (":path", target),
        ]
        self._stream = self._state.get_next_available_stream_id()
        self._head, self._has_ended, self._cut = None, False, ""
        self._parts.clear()
        self._state.send_headers(
            self._stream, [*pseudo, *declared, *headers], end_stream=not has_body
        )
        self._flush()

    def send_body(self, data: bytes, *, end: bool = False) -> None:
        rest = memoryview(data)
        while rest:
            size = min(self._window(), self._state.max_outbound_frame_size, len(rest))
            self._state.send_data(self._stream, bytes(rest[:size]))
            rest = rest[size:]
            self._flush()
        if end:
            self._state.end_stream(self._stream)
            self._flush()

    def read_interim(self) -> Response:
        """Wait for the next interim response (1xx)."""
        while not self._interim:
            if self._cut or self._head is not None:
                raise CutResponseError(f"{self._cut or 'the head came'} before an interim response")
            self._receive()
        return self._interim.popleft()

    def read_head(self) -> Response:
        while self._head is None:
            if self._cut:
                raise CutResponseError(f"{self._cut} before the head")
            self._receive()
        return self._head

    def read_body(self, limit: int = READ_BYTES) -> bytes:
        while not self._parts:
            if self._has_ended:
                return b""
            if self._cut:
                raise CutResponseError(f"{self._cut} within the body")
            self._receive()
        data, flow_controlled = self._parts.popleft()
        if len(data) > limit:
            self._parts.appendleft((data[limit:], flow_controlled))
            return data[:limit]
        if flow_controlled:
            self._state.acknowledge_received_data(flow_controlled, self._stream)
            self._answer()
        return data

    def set_timeout(self, seconds: float) -> None:
        self.timeout = seconds
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """End the stream only (RST_STREAM), as a browser does for a closed tab."""
        self._state.reset_stream(self._stream, h2.errors.ErrorCodes.CANCEL)
        self._flush()

    def _window(self) -> int:
        """What the server lets us send now; waits until that is something."""
        while (window := self._state.local_flow_control_window(self._stream)) <= 0:
            if self._cut or self._has_ended:
                raise CutResponseError(self._cut or "the response ended within the upload")
            self._receive()
        return window

    def _flush(self) -> None:
        self._socket.sendall(self._state.data_to_send())

    def _answer(self) -> None:
        """Send what reading calls for; a server that has gone cuts the response."""
        try:
            self._flush()
        except ConnectionError as error:
            self._cut = self._cut or repr(error)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except ConnectionError as error:
            self._cut = repr(error)
            return
        if not data:
            self._cut = "the connection ended"
            return
        for event in self._state.receive_data(data):
            self._take(event)
        self._answer()

    def _take(self, event: h2.events.Event) -> None:
        if getattr(event, "stream_id", self._stream) not in (0, self._stream):
            return
        if isinstance(event, h2.events.ResponseReceived):
            self._head = _response(event)
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self._interim.append(_response(event))
        elif isinstance(event, h2.events.DataReceived):
            self._parts.append((event.data, event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamEnded):
            self._has_ended = True
        elif isinstance(event, h2.events.StreamReset):
            self._cut = f"the stream was reset (code {event.error_code})"
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._cut = self._cut or f"the server said goodbye (code {event.error_code})"


def _response(
    event: h2.events.ResponseReceived | h2.events.InformationalResponseReceived,
) -> Response:
    pairs = [(str(name), str(value)) for name, value in event.headers]
    status = int(dict(pairs)[":status"])
    return Response(status, [pair for pair in pairs if pair[0] != ":status"])
