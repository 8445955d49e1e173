"""The WebSockets of ASGI frameworks on gunicorn gthread: they work as on any ASGI server."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.asgi_sites import RunningSite, running_site
from tests.support.processes import shown_on_failure
from tests.support.websocket_clients import answer, close_of, refusal, websocket
from tests.support.wsgi_servers import THREADS, by_name

SITE = "tests.frameworks.websockets_site:site"
CODES_OF_AN_ERROR = {
    "fastapi": 1011,
    "starlette": 1011,
    "quart": 1000,  # its own, on every server
    "litestar": 4500,  # its own
    "channels": 1011,
}
SUBPROTOCOL = "chat"


@pytest.fixture(scope="module")
def shared_site() -> Iterator[RunningSite]:
    with running_site(by_name("gunicorn-gthread"), SITE) as site:
        yield site


@pytest.fixture
def site(shared_site: RunningSite) -> Iterator[RunningSite]:
    with shown_on_failure(shared_site.process):
        yield shared_site


@pytest.fixture(params=CODES_OF_AN_ERROR)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_messages_come_back(site: RunningSite, framework: str) -> None:
    """WS-A-1, WS-A-12"""
    with websocket(site, f"/{framework}/echo", subprotocols=[SUBPROTOCOL]) as client:
        assert client.subprotocol == SUBPROTOCOL
        assert json.loads(answer(client)) == {"hello": f"from {framework}"}
        for text in ("Zoë 漢字", "x" * 100_000, "last"):
            client.send(text)
            assert answer(client) == text


def test_more_than_the_server_has_threads(site: RunningSite, framework: str) -> None:
    """WS-A-8"""
    target, many = f"/{framework}/echo", THREADS + 2
    with ExitStack() as connections:
        clients = [
            connections.enter_context(websocket(site, target, subprotocols=[SUBPROTOCOL]))
            for _ in range(many)
        ]
        for number, client in enumerate(clients):
            answer(client)
            client.send(str(number))
        assert [answer(client) for client in clients] == [str(n) for n in range(many)]


def test_refusal_and_a_code_of_its_own(site: RunningSite, framework: str) -> None:
    """WS-A-1, WS-A-9"""
    assert refusal(site, f"/{framework}/guarded").status == 403
    with websocket(site, f"/{framework}/guarded?token=right") as client:
        assert close_of(client) == (4000, "let in")


def test_error_after_the_handshake(site: RunningSite, framework: str) -> None:
    """WS-A-9: the framework's own code, else 1011."""
    with websocket(site, f"/{framework}/broken") as client:
        client.send("now")
        assert close_of(client)[0] == CODES_OF_AN_ERROR[framework]


def test_sync_consumers_of_channels(site: RunningSite) -> None:
    """WS-A-4: group_send reaches all of them, each in the one thread for sync code."""
    with ExitStack() as connections:
        members = [
            connections.enter_context(websocket(site, "/channels/room")) for _ in range(THREADS + 2)
        ]
        members[0].send("hello")
        heard = [answer(member) for member in members]
        assert heard == ["hello in one thread"] * len(members)
