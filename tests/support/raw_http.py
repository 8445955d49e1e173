"""HTTP/1.1 clients over a raw socket, for what no HTTP library will do.

A slow, chunked, or cut upload, a reader that never reads, a close in mid-stream, bytes that arrive
one by one: the pieces are the methods of `Connection`, and the caller decides when each happens.

    with Connection(server.address) as client:
        client.send_head("POST", "/upload", content_length=10)
        client.send_body(b"12345")          # and now: nothing, or close(), or reset()

Every wait is bounded by the connection's `timeout` and fails with `TimeoutError`.
"""

import http.client
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

TIMEOUT_SECONDS = 20.0
READ_BYTES = 262_144
SMALL_RECEIVE_BUFFER_BYTES = 4_096

Headers = Sequence[tuple[str, str]]


class CutResponseError(ConnectionError):
    """The connection ended before the response was whole: what a broken response looks like."""


@dataclass
class Response:
    """A whole response; header names are lower-case, in their order, repeats kept."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of the header `name` (lower-case), repeats joined with `, `."""
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None

    @property
    def text(self) -> str:
        return self.body.decode()


class Client(ABC):
    """What clients of every HTTP version can do: one request after the other, in pieces."""

    @abstractmethod
    def send_head(
        self,
        method: str,
        target: str | bytes,
        headers: Headers = (),
        *,
        content_length: int | None = None,
        chunked: bool = False,
    ) -> None:
        """Send a request's head; `content_length` or `chunked` says that a body follows."""

    @abstractmethod
    def send_body(self, data: bytes, *, end: bool = False) -> None:
        """Send a part of the body, framed as the head declared it; its end as well with `end`."""

    @abstractmethod
    def read_head(self) -> Response:
        """Wait for the response's status and headers."""

    @abstractmethod
    def read_body(self, limit: int = READ_BYTES) -> bytes:
        """Up to `limit` bytes of the body, as soon as some are there; b"" at its end."""

    @abstractmethod
    def set_timeout(self, seconds: float) -> None:
        """Bound every later wait by `seconds`."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, as a client that quits does."""

    @abstractmethod
    def reset(self) -> None:
        """Break off what is in flight, without a farewell."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send_body_parts(self, parts: Iterable[bytes]) -> None:
        """Send the whole body and its end."""
        for part in parts:
            self.send_body(part)
        self.send_body(b"", end=True)

    def read_body_exactly(self, size: int) -> bytes:
        """The next `size` bytes of the body."""
        data = bytearray()
        while len(data) < size:
            part = self.read_body(size - len(data))
            if not part:
                raise CutResponseError(f"the body ended {size - len(data)} bytes early")
            data += part
        return bytes(data)

    def read_response(self) -> Response:
        """The whole response, or `CutResponseError`."""
        response = self.read_head()
        body = bytearray()
        while part := self.read_body():
            body += part
        response.body = bytes(body)
        return response

    def request(
        self,
        method: str,
        target: str | bytes,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Response:
        """A whole request with its whole response."""
        self.send_head(method, target, headers, content_length=None if body is None else len(body))
        if body:
            self.send_body(body, end=True)
        return self.read_response()

    def get(self, target: str | bytes, headers: Headers = ()) -> Response:
        return self.request("GET", target, headers)


def connected_socket(
    address: tuple[str, int], timeout: float, receive_buffer: int | None
) -> socket.socket:
    """A small `receive_buffer` makes the kernel on this side take little of what is not read."""
    connection = socket.socket()
    try:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(timeout)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass
class Connection(Client):
    """One HTTP/1.1 connection; requests on it one after the other."""

    address: tuple[str, int]
    timeout: float = TIMEOUT_SECONDS
    receive_buffer: int | None = None
    _socket: socket.socket = field(init=False)
    _method: str = field(init=False, default="GET")
    _is_chunked: bool = field(init=False, default=False)
    _response: http.client.HTTPResponse | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._socket = connected_socket(self.address, self.timeout, self.receive_buffer)

    # Sending

    def send(self, data: bytes) -> None:
        """Send these very bytes."""
        self._socket.sendall(data)

    def send_piecewise(self, data: bytes, size: int = 1) -> None:
        """Send `data` in packets of `size` bytes, as a slow link delivers it."""
        for start in range(0, len(data), size):
            self._socket.sendall(data[start : start + size])

    def send_head(
        self,
        method: str,
        target: str | bytes,
        headers: Headers = (),
        *,
        content_length: int | None = None,
        chunked: bool = False,
    ) -> None:
        self._method = method
        self._is_chunked = chunked
        self._forget_response()
        framing = body_framing(content_length=content_length, chunked=chunked)
        host = ("host", f"{self.address[0]}:{self.address[1]}")
        self.send(request_head(method, target, [host, *framing, *headers]))

    def send_body(self, data: bytes, *, end: bool = False) -> None:
        if not self._is_chunked:
            self._socket.sendall(data)
            return
        self._socket.sendall((chunk(data) if data else b"") + (LAST_CHUNK if end else b""))

    # Reading

    def receive_until(self, mark: bytes) -> bytes:
        """Raw bytes up to and with `mark`, not one more: for interim answers such as 100."""
        received = bytearray()
        while not received.endswith(mark):
            byte = self._socket.recv(1)
            if not byte:
                raise CutResponseError(f"the connection ended after {bytes(received)!r}")
            received += byte
        return bytes(received)

    def receive_exactly(self, size: int) -> bytes:
        """The next `size` raw bytes."""
        received = bytearray()
        while len(received) < size:
            part = self._socket.recv(size - len(received))
            if not part:
                raise CutResponseError(f"the connection ended {size - len(received)} bytes early")
            received += part
        return bytes(received)

    def read_head(self) -> Response:
        self._response = http.client.HTTPResponse(self._socket, method=self._method)
        try:
            self._response.begin()
        except ConnectionError as error:
            raise CutResponseError("the connection ended before the head") from error
        except http.client.HTTPException as error:
            raise CutResponseError(f"no head of a response: {error!r}") from error
        headers = [(name.lower(), value) for name, value in self._response.getheaders()]
        return Response(self._response.status, headers)

    def read_body(self, limit: int = READ_BYTES) -> bytes:
        assert self._response is not None, "read_head() comes first"
        try:
            data = self._response.read1(limit)
        except (http.client.IncompleteRead, ConnectionError) as error:
            raise CutResponseError("the connection ended within the body") from error
        if not data and self._response.length:
            raise CutResponseError(f"the body lacks {self._response.length} bytes")
        return data

    # Ending

    def set_timeout(self, seconds: float) -> None:
        self.timeout = seconds
        self._socket.settimeout(seconds)

    def end_sending(self) -> None:
        """Close this side only (FIN): the server reads the end and can still answer."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both sides, as a closed tab does. Unread bytes make the kernel send RST."""
        self._forget_response()
        self._socket.close()

    def reset(self) -> None:
        """Close with RST, as a crashed client or a stateful firewall does."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def is_closed_by_server(self, timeout: float) -> bool:
        """True once the server has ended the connection, False if it has not within `timeout`."""
        self._socket.settimeout(timeout)
        try:
            while self._socket.recv(READ_BYTES):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        finally:
            self._socket.settimeout(self.timeout)
        return True

    def _forget_response(self) -> None:
        """Let go of the response's file; the socket stays open in the kernel while it lives."""
        if self._response is not None:
            self._response.close()
            self._response = None


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def request_head(method: str, target: str | bytes, headers: Headers) -> bytes:
    """A request's head as it goes on the wire; a bytes target may hold any byte."""
    target = target if isinstance(target, bytes) else target.encode("ascii")
    lines = [f"{name}: {value}".encode("latin-1") for name, value in headers]
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method.encode(), target), *lines, b"", b""])


def body_framing(*, content_length: int | None, chunked: bool) -> Headers:
    """The header that tells the server where the body ends, if there is a body."""
    if chunked:
        return [("transfer-encoding", "chunked")]
    if content_length is not None:
        return [("content-length", str(content_length))]
    return []
