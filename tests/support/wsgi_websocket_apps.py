"""WSGI apps that speak WebSocket, each by either face: `/socket/NAME` and `/message/NAME`.

`socket` is simple-websocket on the socket in the environ, as Flask-Sock uses it. `message` is
`wsgi.websocket`, gevent-websocket's API. A request with `?id=TOKEN` leaves how it ended in the
journal under that token; other paths are those of `wsgi_apps`.
"""

import base64
import hashlib
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import simple_websocket
from wsproto.events import Ping

from tests.support import wsgi_apps
from tests.support.bridged_wsgi import WORKERS, Observed
from tests.support.wsgi_apps import Environ, StartResponse, query_of, record
from wsgi_asgi_bridge import WSGIToASGI

MIB = 1024 * 1024
MAX_MESSAGE_BYTES = 2 * MIB
SUBPROTOCOL = "chat.v2"
FAREWELL = "that is all"
REFUSAL = b"members only\n"
WELCOME = "welcome"
COOKIE = "room=7; Path=/"
GREETING = "sent with the head"
PONGS = 3


class WebSocket(Protocol):
    """What both faces have in common."""

    def receive(self) -> str | bytes | None:
        """The next message; None at the end."""

    def send(self, message: str | bytes) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    end: str
    """How it ended, as far as the app's library tells."""


class SocketFace:
    """By simple-websocket, which also tells the client's code and reason."""

    def __init__(self, environ: Environ) -> None:
        self._websocket = simple_websocket.Server.accept(environ, subprotocols=SUBPROTOCOL)
        self.end = "open"

    def receive(self) -> str | bytes | None:
        try:
            message: str | bytes = self._websocket.receive()
        except simple_websocket.ConnectionClosed as closed:
            self.end = f"closed {int(closed.reason)} {closed.message or ''}".strip()
            return None
        return message

    def send(self, message: str | bytes) -> None:
        self._websocket.send(message)

    def close(self, code: int, reason: str) -> None:
        self._websocket.close(code, reason)


class MessageFace:
    def __init__(self, environ: Environ) -> None:
        self._websocket = environ["wsgi.websocket"]
        self.end = "open"

    def receive(self) -> str | bytes | None:
        message = self._websocket.receive()
        if message is None:
            self.end = "closed"
        return message if message is None or isinstance(message, str) else bytes(message)

    def send(self, message: str | bytes) -> None:
        self._websocket.send(message)

    def close(self, code: int, reason: str) -> None:
        self._websocket.close(code, reason)


# Apps


def echo(websocket: WebSocket, environ: Environ) -> None:
    while (message := websocket.receive()) is not None:
        websocket.send(message)


def closes(websocket: WebSocket, environ: Environ) -> None:
    """After the first message, with `?code=` and `?reason=`."""
    websocket.receive()
    query = query_of(environ)
    websocket.close(int(query["code"]), query.get("reason", ""))


def says_farewell(websocket: WebSocket, environ: Environ) -> None:
    """Returns with a message on its way, and without a close."""
    websocket.receive()
    websocket.send(FAREWELL)


def raises(websocket: WebSocket, environ: Environ) -> None:
    websocket.receive()
    raise RuntimeError("told to fail")


def talks_for_ever(websocket: WebSocket, environ: Environ) -> None:
    """Sends until it cannot; the client never reads."""
    websocket.receive()
    try:
        while True:
            websocket.send("x" * 65_536)
    except (OSError, simple_websocket.ConnectionClosed):
        websocket.end = "send raised"


def chat(websocket: WebSocket, environ: Environ) -> None:
    """Each is welcomed; whatever one of `?room=` says then, all of it hear."""
    room = _rooms.setdefault(query_of(environ)["room"], Room())
    room.join(websocket)
    try:
        while (message := websocket.receive()) is not None:
            room.say(message)
    finally:
        room.leave(websocket)


class Room:
    """Its lock keeps one order of messages for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: list[WebSocket] = []

    def join(self, member: WebSocket) -> None:
        with self._lock:
            self._members.append(member)
            member.send(WELCOME)

    def say(self, message: str | bytes) -> None:
        with self._lock:
            for member in self._members:
                member.send(message)

    def leave(self, member: WebSocket) -> None:
        with self._lock:
            self._members.remove(member)


_rooms: dict[str, Room] = {}

# Apps that are given the environ


def refuses(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An answer in place of the handshake."""
    start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("X-Realm", "chat")])
    return [REFUSAL]


def by_hand(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A head with a cookie, written in pieces, the last of them with a frame behind it."""
    connection = environ["gunicorn.socket"]
    key = environ["HTTP_SEC_WEBSOCKET_KEY"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnec")
    connection.sendall(f"tion: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n".encode())
    frame = bytes([0x81, len(GREETING)]) + GREETING.encode()
    connection.sendall(f"Set-Cookie: {COOKIE}\r\n\r\n".encode() + frame)
    connection.sendall(b"\x88\x02\x03\xe8")
    while connection.recv(4096):  # the client's close, then the end
        pass
    connection.close()
    return []


class CountingServer(simple_websocket.Server):
    """Counts the pongs; the first is none, but the constructor's."""

    pongs = -1

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "pong_received" and value:
            self.pongs += 1


def pings(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Says when `PONGS` pings were answered. With a `ping_interval` the library's thread waits by
    `select()`; the pings come from here, since its own are a matter of time.
    """
    websocket = CountingServer(environ, ping_interval=3600)
    for _ in range(PONGS):
        websocket.sock.send(websocket.ws.send(Ping(b"are you there")))
    while websocket.pongs < PONGS:
        websocket.receive(timeout=0.01)
    websocket.send(f"{PONGS} pongs")
    websocket.close()
    return []


# All of them in one

FACES: dict[str, Callable[[Environ], WebSocket]] = {"socket": SocketFace, "message": MessageFace}
PLAIN_APPS: dict[str, wsgi_apps.App] = {"by_hand": by_hand, "pings": pings, "refuses": refuses}
APPS: dict[str, Callable[[WebSocket, Environ], None]] = {
    "chat": chat,
    "closes": closes,
    "echo": echo,
    "raises": raises,
    "says_farewell": says_farewell,
    "talks_for_ever": talks_for_ever,
}


def by_face(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    _, face, *rest = environ["PATH_INFO"].split("/")
    if face in PLAIN_APPS:
        return PLAIN_APPS[face](environ, start_response)
    if face not in FACES:
        return wsgi_apps.by_name(environ, start_response)
    websocket = FACES[face](environ)
    try:
        APPS[rest[0]](websocket, environ)
    finally:
        record(environ, websocket.end)
    return []


def bridge(**options: Any) -> WSGIToASGI:
    return WSGIToASGI(by_face, workers=WORKERS, max_message_size=MAX_MESSAGE_BYTES, **options)


observed = Observed(bridge())
