"""Clients of a WebSocket: `websockets` over HTTP/1.1, and the same frames over HTTP/2.

    with connected(address, "/message/echo") as client:
        client.send("hello")
        client.recv(timeout=5)

Over HTTP/2 a stream stands for the connection (RFC 8441): `Http2WebSocket` has as much of the API
of `websockets.sync.client.ClientConnection` as the tests need, and raises the same exceptions.
"""

import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.settings
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import CloseCode, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN, Protocol, Side
from websockets.sync.client import ClientConnection, connect

from tests.support.raw_http import READ_BYTES

WAIT_SECONDS = 20.0
"""For anything that a test waits for."""


def open_by_http1(
    address: tuple[str, int], target: str, subprotocols: Sequence[str] = ()
) -> ClientConnection:
    """Raises InvalidStatus with the response, if the server refuses."""
    host, port = address
    connection = connect(
        f"ws://{host}:{port}{target}",
        subprotocols=[*subprotocols] or None,  # type: ignore[list-item]
        compression=None,
        max_size=None,
        open_timeout=WAIT_SECONDS,
        close_timeout=WAIT_SECONDS,
        proxy=None,
    )
    return connection.__enter__()  # `with` uses what websockets 17.1 demands


class Http2WebSocket:
    """One WebSocket on an HTTP/2 connection of its own, in cleartext."""

    def __init__(
        self, address: tuple[str, int], target: str, subprotocols: Sequence[str] = ()
    ) -> None:
        self.subprotocol: str | None = None
        self._frames = Protocol(Side.CLIENT, state=OPEN, max_size=None)
        self._waiting: deque[Any] = deque()
        self._pongs: set[bytes] = set()
        self._fragments: list[bytes] = []
        self._is_text = False
        self.response: Response | None = None
        self._body = b""
        self._has_ended = False
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self._state = h2.connection.H2Connection(config)
        self.socket = socket.create_connection(address, WAIT_SECONDS)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._state.initiate_connection()
            self._flush()
            while not self._state.remote_settings.enable_connect_protocol:
                self._read()
            self._ask(address, target, subprotocols)
        except BaseException:
            self.socket.close()
            raise

    def _ask(self, address: tuple[str, int], target: str, subprotocols: Sequence[str]) -> None:
        self._stream = self._state.get_next_available_stream_id()
        headers = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", f"{address[0]}:{address[1]}"),
            (":path", target),
            ("sec-websocket-version", "13"),
        ]
        if subprotocols:
            headers.append(("sec-websocket-protocol", ", ".join(subprotocols)))
        self._state.send_headers(self._stream, headers)
        self._flush()
        while self.response is None:
            self._read()
        if self.response.status_code != 200:
            while not self._has_ended:
                self._read()
            self.response.body = self._body
            raise InvalidStatus(self.response)
        self.subprotocol = self.response.headers.get("sec-websocket-protocol")

    # ------------------------------------------------------------ as websockets' client

    def send(self, message: str | bytes | Iterable[str]) -> None:
        if self._frames.close_rcvd is not None:
            raise self._closed()
        if isinstance(message, str):
            self._frames.send_text(message.encode())
        elif isinstance(message, bytes):
            self._frames.send_binary(message)
        else:
            parts = [part.encode() for part in message]
            self._frames.send_text(parts[0], fin=False)
            for part in parts[1:]:
                self._frames.send_continuation(part, fin=False)
            self._frames.send_continuation(b"", fin=True)
        self._send_frames()

    def recv(self, timeout: float | None = None) -> str | bytes:
        self.socket.settimeout(timeout)
        while not self._waiting:
            if self._has_ended or self._frames.close_rcvd is not None:
                raise self._closed()
            self._read()
        message: str | bytes = self._waiting.popleft()
        return message

    def ping(self, data: bytes) -> "Http2WebSocket":
        self._frames.send_ping(data)
        self._send_frames()
        while data not in self._pongs:
            self._read()
        return self

    def wait(self, timeout: float | None = None) -> bool:
        """What `ping` gives waits here; it has waited by itself."""
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        try:
            if self._frames.close_sent is None and not self._has_ended:
                self._frames.send_close(code, reason)
                self._send_frames()
            while self._frames.close_rcvd is None and not self._has_ended:
                self._read()
        except ConnectionError:
            self._has_ended = True
        finally:
            self.socket.close()

    @property
    def close_code(self) -> int | None:
        received = self._frames.close_rcvd
        if received is not None:
            return received.code
        return CloseCode.ABNORMAL_CLOSURE if self._has_ended else None

    @property
    def close_reason(self) -> str | None:
        received = self._frames.close_rcvd
        if received is not None:
            return received.reason
        return "" if self._has_ended else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ the stream

    def _closed(self) -> ConnectionClosed:
        frames = self._frames
        is_both = frames.close_rcvd is not None and frames.close_sent is not None
        return ConnectionClosedError(
            frames.close_rcvd, frames.close_sent, True if is_both else None
        )

    def _send_frames(self) -> None:
        for data in self._frames.data_to_send():
            rest = memoryview(data)
            while rest:
                window = self._state.local_flow_control_window(self._stream)
                if window <= 0:
                    self._read()
                    continue
                size = min(window, self._state.max_outbound_frame_size, len(rest))
                self._state.send_data(self._stream, bytes(rest[:size]))
                rest = rest[size:]
                self._flush()

    def _flush(self) -> None:
        self.socket.sendall(self._state.data_to_send())

    def _read(self) -> None:
        data = self.socket.recv(READ_BYTES)
        if not data:
            self._has_ended = True
            self._frames.receive_eof()
            return
        for event in self._state.receive_data(data):
            self._take(event)
        self._flush()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            headers = Headers([(str(name), str(value)) for name, value in event.headers])
            self.response = Response(int(headers.pop(":status")), "", headers)
        elif isinstance(event, h2.events.DataReceived):
            self._state.acknowledge_received_data(event.flow_controlled_length, self._stream)
            if self.response is None or self.response.status_code != 200:
                self._body += event.data
            else:
                self._frames.receive_data(event.data)
                self._take_frames()
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self._has_ended = True
            self._frames.receive_eof()

    def _take_frames(self) -> None:
        for frame in self._frames.events_received():
            if frame.opcode is Opcode.PONG:
                self._pongs.add(bytes(frame.data))
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._fragments.append(bytes(frame.data))
                if frame.fin:
                    whole = b"".join(self._fragments)
                    self._fragments = []
                    self._waiting.append(whole.decode() if self._is_text else whole)
        if not self._has_ended:
            self._send_frames()


WebSocketClient = ClientConnection | Http2WebSocket


def end_of(client: WebSocketClient) -> tuple[int | None, str | None]:
    """The code and reason with which the server closes, after what it has still sent."""
    try:
        while True:
            client.recv(WAIT_SECONDS)
    except ConnectionClosed:
        return client.close_code, client.close_reason


def kill(client: WebSocketClient) -> None:
    """End the connection without a close frame, as the end of the client's process does."""
    client.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
    client.socket.close()
