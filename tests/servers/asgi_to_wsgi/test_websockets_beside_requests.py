"""WebSockets, event streams and ordinary requests on one worker: nobody gets another's bytes."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import pytest
from websockets.frames import Opcode

from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.raw_http import Connection
from tests.support.websocket_clients import (
    ANSWER_SECONDS,
    frame,
    frame_of_server,
    handshake_head,
    upgraded,
)
from tests.support.witness import became_true
from tests.support.wsgi_servers import KEEP_ALIVE, WEBSOCKET_SERVERS

SITE = "tests.support.bridged_websockets:default"
LANES = 4
ROUNDS = 40
CLOSED = frame(Opcode.CLOSE, b"\x03\xe8")


def leaves(client: Connection) -> None:
    client.close()


def resets(client: Connection) -> None:
    client.reset()


def says_goodbye(client: Connection) -> None:
    """The whole of the closing handshake."""
    client.send(CLOSED)
    assert client.receive_until(b"\x03\xe8") == frame_of_server(Opcode.CLOSE, b"\x03\xe8")
    client.end_sending()
    assert client.is_closed_by_server(ANSWER_SECONDS)


def leaves_with_a_request(client: Connection) -> None:
    """What would be an HTTP request, if a server read it."""
    client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
    client.close()


ENDS: tuple[Callable[[Connection], None], ...] = (
    leaves,
    resets,
    says_goodbye,
    leaves_with_a_request,
)


site = site_fixture(WEBSOCKET_SERVERS, SITE)


def websocket_after_websocket(site: RunningSite, lane: int) -> None:
    """Each gets its own two messages back, and then ends in another way."""
    for number, end in zip(range(ROUNDS), cycle(ENDS), strict=False):
        with upgraded(site, "/echo") as client:
            for word in ("first", "second"):
                own = f"{lane}-{number}-{word};".encode()
                client.send(frame(Opcode.TEXT, own))
                assert client.receive_until(b";") == frame_of_server(Opcode.TEXT, own)
            end(client)


def request_after_request(site: RunningSite, lane: int) -> None:
    """Each gets its own answer, on one connection if the server keeps it."""
    keeps = site.server.can(KEEP_ALIVE)
    client = site.connect()
    try:
        for number in range(ROUNDS):
            own = f"lane={lane}&number={number}"
            response = client.get(f"/echoes_request?{own}")
            assert (response.status, json.loads(response.body)["query"]) == (200, own)
            if not keeps or response.header("connection") == "close":
                client.close()
                client = site.connect()
    finally:
        client.close()


def stream_after_stream(site: RunningSite, lane: int) -> None:
    """Each gets its own three events."""
    for number in range(ROUNDS):
        own = f"lane={lane}&number={number}"
        with site.connect() as client:
            response = client.get(f"/echoes_as_events?{own}")
            assert (response.status, response.text) == (200, f"data: {own}\n\n" * 3)


WORKS = (websocket_after_websocket, request_after_request, stream_after_stream)


def test_handshake_after_another_request(site: RunningSite) -> None:
    """WS-A-2: on one connection, with both in one packet."""
    if not site.server.can(KEEP_ALIVE):
        pytest.skip(site.server.lacks[KEEP_ALIVE])
    hello = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
    with site.connect() as client:
        client.send(hello)
        assert client.receive_until(b"Hello, world!").startswith(b"HTTP/1.1 200 ")
        client.send(hello + handshake_head(site, "/echo"))
        assert client.receive_until(b"Hello, world!").startswith(b"HTTP/1.1 200 ")
        assert client.receive_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        client.send(frame(Opcode.TEXT, b"late"))
        assert client.receive_until(b"late") == frame_of_server(Opcode.TEXT, b"late")


def test_nobody_gets_the_bytes_of_another(site: RunningSite) -> None:
    """WS-A-2, WS-A-3, R-3: descriptors are taken over and their numbers used again all the time."""
    with ThreadPoolExecutor(len(WORKS) * LANES) as pool:
        lanes = [pool.submit(work, site, lane) for lane in range(LANES) for work in WORKS]
        for lane in lanes:
            lane.result()

    def held() -> int:
        return int(json.loads(site.get("/sends_counts").body)["released_websockets"])

    assert became_true(lambda: held() == 0, ANSWER_SECONDS)
