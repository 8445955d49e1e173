"""WS-A-3, R-3: connections of all kinds, at once and broken off anywhere, are never mixed up."""

import contextlib
import json
import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.asgi_sites import ANSWER_SECONDS, RunningSite, site_fixture
from tests.support.mixed_site import EVENTS
from tests.support.websocket_wire import BINARY, UPGRADE, Client, Frame, close_frame
from tests.support.witness import became_true
from tests.support.wsgi_servers import WEBSOCKET_SERVERS

CLIENTS = 240
AT_ONCE = 12
SMALL_PAUSE = 0.005
OPEN_FOR_GOOD = 4
"""What a server may open with its first requests, beside their connections."""


site = site_fixture(WEBSOCKET_SERVERS, "tests.support.mixed_site:site")


def test_clients_of_all_kinds_at_once(site: RunningSite) -> None:
    """WS-A-3, R-3: each gets what is its own, and nothing is left of any."""
    for seed in range(len(KINDS)):
        meet(site, seed)
    before = holds(site)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda seed: meet(site, seed), range(CLIENTS)))

    def nothing_is_left() -> bool:
        now = holds(site)
        assert now["failed"] == 0
        return (
            now["released_websockets"] == now["released_event_streams"] == 0
            and now["in_flight"] == 1  # the request that asks
            and now["files"] <= before["files"] + OPEN_FOR_GOOD
        )

    assert became_true(nothing_is_left, ANSWER_SECONDS), holds(site)


def holds(site: RunningSite) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(site.get("/holds").body)
    return held


def meet(site: RunningSite, seed: int) -> None:
    """One client. What it does follows from its number."""
    rng = random.Random(seed)
    mark = f"{rng.getrandbits(64):016x}".encode()
    with socket.create_connection(site.process.address, timeout=ANSWER_SECONDS) as connection:
        KINDS[seed % len(KINDS)](connection, mark, rng)


def requests(connection: socket.socket, mark: bytes, rng: random.Random) -> None:
    connection.sendall(b"GET /?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % mark)
    head, body = read_all(connection)
    assert b" 200 " in head[:16]
    assert body.count(mark) == 1


def listens(connection: socket.socket, mark: bytes, rng: random.Random) -> None:
    connection.sendall(b"GET /events?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % mark)
    head, body = read_all(connection)
    assert b" 200 " in head[:16]
    assert body.count(b"data: " + mark) == EVENTS


def listens_and_resets(connection: socket.socket, mark: bytes, rng: random.Random) -> None:
    connection.sendall(b"GET /events?%s HTTP/1.1\r\nHost: x\r\n\r\n" % mark)
    reset(connection, rng)


def speaks(connection: socket.socket, mark: bytes, rng: random.Random) -> None:
    client = upgraded(connection, b"/", mark)
    talk(client, mark, rng)
    client.send(close_frame(1000))
    assert client.read() == close_frame(1000)
    assert client.read() is None
    client.close()


def speaks_and_resets(connection: socket.socket, mark: bytes, rng: random.Random) -> None:
    client = upgraded(connection, b"/", mark)
    talk(client, mark, rng)
    connection.sendall(Frame(BINARY, bytes(100)).masked()[:20])
    reset(connection, rng)
    client.close()


def is_refused(connection: socket.socket, mark: bytes, rng: random.Random) -> None:
    send_handshake(connection, b"/refuses", mark)
    client = Client(connection)
    assert client.read_head().status == 403
    client.close()


def resets_in_the_handshake(connection: socket.socket, mark: bytes, rng: random.Random) -> None:
    send_handshake(connection, b"/", mark)
    reset(connection, rng)


KINDS: list[Callable[[socket.socket, bytes, random.Random], None]] = [
    requests,
    speaks,
    resets_in_the_handshake,
    listens,
    requests,
    speaks_and_resets,
    listens_and_resets,
    is_refused,
]


def send_handshake(connection: socket.socket, path: bytes, mark: bytes) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items()).encode()
    connection.sendall(b"GET %s?%s HTTP/1.1\r\n%s\r\n" % (path, mark, headers))


def upgraded(connection: socket.socket, path: bytes, mark: bytes) -> Client:
    send_handshake(connection, path, mark)
    client = Client(connection)
    client.must_be_accepted()
    return client


def talk(client: Client, mark: bytes, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 5)):
        message = rng.randbytes(rng.choice([0, 5, 200, 70_000]))
        client.send(Frame(BINARY, message))
        assert client.read() == Frame(BINARY, mark + message)


def read_all(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while part := connection.recv(65_536):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def reset(connection: socket.socket, rng: random.Random) -> None:
    """Break the connection, at once or a moment later."""
    if rng.random() < 0.5:
        connection.settimeout(rng.random() * SMALL_PAUSE)
        with contextlib.suppress(OSError):
            connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
