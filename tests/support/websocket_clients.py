"""WebSocket clients of a running site: the package `websockets`, and one over a raw socket."""

from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from tests.support.asgi_sites import RunningSite
from tests.support.processes import ServerProcess
from tests.support.raw_http import Connection, Headers, Response

ANSWER_SECONDS = 10.0
HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
ACCEPT_OF_THAT_KEY = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def websocket(site: RunningSite, target: str, scheme: str = "ws", **options: Any) -> Any:
    """An open connection, a context manager; `options` are those of `websockets`.

    It answers pings and sends none.
    """
    return websocket_of(site.process, target, scheme, **options)


def websocket_of(process: ServerProcess, target: str, scheme: str = "ws", **options: Any) -> Any:
    given = {"proxy": None, "ping_interval": None, "open_timeout": ANSWER_SECONDS, **options}
    return connect(f"{scheme}://{process.host}:{process.port}{target}", **given)


def refusal(site: RunningSite, target: str, **changes: str) -> Response:
    """The answer to a handshake that is refused, on a connection of its own."""
    with site.connect() as client:
        client.send_head("GET", target, handshake(**changes))
        response = client.read_response()
        assert response.status >= 400, response
        return response


def answer(client: ClientConnection) -> Any:
    """The next message, which must come."""
    return client.recv(ANSWER_SECONDS)


def close_of(client: ClientConnection) -> tuple[int, str]:
    """Wait until the server closes; the code and the reason of its close frame."""
    try:
        while True:
            client.recv(ANSWER_SECONDS)
    except ConnectionClosed as closed:
        received = closed.rcvd
    assert received is not None, "the connection ended without a close frame"
    return received.code, received.reason


def frame(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    """A frame as a client sends it."""
    return Frame(opcode, data, fin).serialize(mask=True)


def frame_of_server(opcode: Opcode, data: bytes) -> bytes:
    return Frame(opcode, data).serialize(mask=False)


def handshake(**changes: str) -> Headers:
    """The headers of a handshake; a name with underscores replaces a value, "" leaves it out."""
    changed = HANDSHAKE | {name.replace("_", "-"): value for name, value in changes.items()}
    return [(name, value) for name, value in changed.items() if value]


def handshake_head(site: RunningSite, target: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", f"host: {site.process.host}:{site.process.port}"]
    lines += [f"{name}: {value}" for name, value in handshake()]
    return "\r\n".join([*lines, "", ""]).encode()


def upgraded(site: RunningSite, target: str, then: bytes = b"") -> Connection:
    """A raw connection whose handshake is over; `then` follows the handshake in one packet.

    Every byte from here on is up to who uses it.
    """
    client = site.connect()
    client.send(handshake_head(site, target) + then)
    head = client.receive_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert ACCEPT_OF_THAT_KEY in head, head
    return client
