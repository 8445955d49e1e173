"""A WSGI server's thread and a raw client on one real connection, for WebSockets.

The server behaves like one of those whose connection an app can find: it reads the head, calls the
app, writes the response to its own socket, and goes on to the next request on it. The client sends
and reads frames as bytes.
"""

import base64
import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

from tests.support.fake_wsgi_server import DEADLINE_SECONDS, environ_for, fail_with_stacks

KEY = base64.b64encode(b"sixteen bytes...").decode()
ACCEPT = "FlYPPSB53TTF16oKOkJqU84hNz0="
MASK = b"\x01\x02\x03\x04"

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

UPGRADE = {
    "Host": "example.org",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


class Frame(NamedTuple):
    opcode: int
    payload: bytes = b""
    fin: bool = True

    def masked(self) -> bytes:
        """As a client sends it."""
        first = self.opcode | (0x80 if self.fin else 0)
        size = len(self.payload)
        if size < 126:
            head = struct.pack("!BB", first, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", first, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", first, 0x80 | 127, size)
        repeated = MASK * (size // 4 + 1)
        masked = int.from_bytes(self.payload, "big") ^ int.from_bytes(repeated[:size], "big")
        return head + MASK + masked.to_bytes(size, "big")


def close_frame(code: int, reason: str = "") -> Frame:
    return Frame(CLOSE, struct.pack("!H", code) + reason.encode())


class Head(NamedTuple):
    status: int
    headers: dict[str, str]


class Client:
    """The client's end. Reads have a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(DEADLINE_SECONDS)
        self._reader = connection.makefile("rb")

    def read_head(self) -> Head:
        lines = []
        while line := self._read(self._reader.readline).decode("latin-1").strip():
            lines.append(line)
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return Head(int(lines[0].split()[1]), headers)

    def must_be_accepted(self) -> Head:
        head = self.read_head()
        assert head.status == 101, head
        return head

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(frame.masked() for frame in frames))

    def read(self) -> Frame | None:
        """The next frame; None at the end."""
        head = self._read(lambda: self._reader.read(2))
        if not head:
            return None
        size = head[1]
        if size == 126:
            (size,) = struct.unpack("!H", self._reader.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._reader.read(8))
        assert size < 1 << 40
        return Frame(head[0] & 0x0F, self._read(lambda: self._reader.read(size)), head[0] >= 0x80)

    def read_rest(self) -> bytes:
        return self._read(self._reader.read)

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except TimeoutError:
            fail_with_stacks("a read of the client")
            raise

    def say_goodbye(self, code: int = 1000) -> None:
        """The closing handshake, up to the end of the connection."""
        self.send(close_frame(code))
        assert self.read() == close_frame(code)
        assert self.read() is None
        self.close()

    def say_goodbye_among_pings(self, code: int = 1000) -> None:
        """The same with a server that may send pings."""
        self.send(close_frame(code))
        while (frame := self.read()) == Frame(PING):
            pass
        assert frame == close_frame(code)
        assert self.read() is None
        self.close()

    def reset(self) -> None:
        """Break the connection."""
        if self.socket.family != socket.AF_UNIX:
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


class Server:
    """One connection in a thread of a server, and what became of its request."""

    def __init__(self, app: Any, connection: socket.socket, style: str, environ: Any) -> None:
        self._app, self._connection, self._style, self._extra = app, connection, style, environ
        self._reader: Any = None
        self.environ: dict[str, Any] = {}
        self.status = ""
        self.written = b""
        """What it has written to its own descriptor."""
        self.error: BaseException | None = None
        self.next_request: bytes | None = None
        """What it read where a further request would be."""
        self.number = connection.fileno()
        self.thread = threading.Thread(target=self._serve, name="driver: server", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self._one_request()
            self.next_request = self._connection.recv(65536)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.error = self.error or error
        finally:
            if self._reader is not None:
                self._reader.close()
            self._connection.close()

    def _one_request(self) -> None:
        self.environ = self._environ(self._style) | self._extra
        try:
            result = self._app(self.environ, self._start_response)
            try:
                self._write(self._head())
                for chunk in result:
                    self._write(chunk)
            finally:
                getattr(result, "close", lambda: None)()
        except BrokenPipeError:  # which servers pass over
            raise
        except BaseException as error:
            self.error = error
            if not self.written:
                self._write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")

    def _start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        self.status, self._headers = status, headers

    def _head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status}", "Server: fake"]
        lines += [f"{name}: {value}" for name, value in self._headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _write(self, data: bytes) -> None:
        self.written += data
        self._connection.sendall(data)

    def _environ(self, style: str) -> dict[str, Any]:
        if style == "gunicorn":
            head, rest = self._read_too_much()
            unreader = SimpleNamespace(buf=io.BytesIO())
            unreader.buf.write(rest)
            source: Any = SimpleNamespace(reader=SimpleNamespace(unreader=unreader))
            extra: dict[str, Any] = {"gunicorn.socket": self._connection, "wsgi.input": source}
        else:
            source = self._reader = self._connection.makefile("rb")
            head = b""
            while (line := source.readline()) not in (b"\r\n", b""):
                head += line
            extra = {"wsgi.input": SimpleNamespace(rfile=source) if style == "cheroot" else source}
            if style == "werkzeug":
                extra["werkzeug.socket"] = self._connection
        lines = head.decode("latin-1").split("\r\n")
        method, target, version = lines[0].split()
        headers = tuple(
            (name, value.strip())
            for name, colon, value in (line.partition(":") for line in lines[1:])
            if colon
        )
        environ = environ_for(target, method=method, headers=headers, version=version)
        return environ | extra

    def _read_too_much(self) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data and (more := self._connection.recv(8192)):
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def finish(self) -> "Server":
        """Wait until the thread has ended and the server has closed its descriptor."""
        self.thread.join(DEADLINE_SECONDS)
        if self.thread.is_alive():
            fail_with_stacks("the end of the server's thread")
        return self


STYLES = ("gunicorn", "werkzeug", "wsgiref", "cheroot")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


class Connected(NamedTuple):
    client: Client
    server: Server


def connect(
    app: Any,
    *,
    style: str = "gunicorn",
    target: str = "/",
    headers: dict[str, str | None] | None = None,
    early: bytes = b"",
    environ: dict[str, Any] | None = None,
    tcp: bool = False,
    method: str = "GET",
    version: str = "HTTP/1.1",
) -> Connected:
    """A client that has sent its handshake, and the server that got it.

    `headers` are beside those of UPGRADE; None leaves one out. `early` comes right after the head.
    """
    servers, clients = tcp_pair() if tcp else socket.socketpair()
    servers.settimeout(DEADLINE_SECONDS)
    client = Client(clients)
    sent = {k: v for k, v in {**UPGRADE, **(headers or {})}.items() if v is not None}
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in sent.items())]
    clients.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + early)
    return Connected(client, Server(app, servers, style, environ or {}))


@contextmanager
def connected(app: Any, **how: Any) -> Iterator[Client]:
    """An accepted WebSocket, whose server's thread has ended."""
    client, server = connect(app, **how)
    try:
        client.must_be_accepted()
        server.finish()
        assert server.error is None
        assert server.status == "101 Switching Protocols"
        yield client
    finally:
        client.close()
