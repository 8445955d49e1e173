"""A WebSocket through both bridges, either way round, on real servers."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.processes import ServerProcess, answers_http, running_server, shown_on_failure
from tests.support.websocket_clients import answer, close_of, websocket_of
from tests.support.websocket_conformance import CASE_COUNT, failed_cases, verdicts_on
from tests.support.websocket_echoes import MESSAGE_ECHO, NATIVE_ECHO, SOCKET_ECHO
from tests.support.wsgi_servers import by_name

SITES = "tests.support.websockets_behind_both"
UVICORN = (
    *("-m", "uvicorn", f"{SITES}:on_asgi_server", "--host", "{host}", "--port", "{port}"),
    *("--ws", "websockets"),  # the other one fails case 7.1.5 by itself
)
GUNICORN = by_name("gunicorn-gthread").command_for(f"{SITES}:on_wsgi_server")
COMMANDS = {"gunicorn": GUNICORN, "uvicorn": [sys.executable, *UVICORN]}
ECHOES = [("gunicorn", SOCKET_ECHO), ("gunicorn", MESSAGE_ECHO), ("uvicorn", NATIVE_ECHO)]
MESSAGES = ["Zoë 漢字", b"\x00\xff", "", b"", "x" * 1_000_000]
MOST_AT_ONCE = 6


@pytest.fixture(scope="module")
def shared_servers() -> Iterator[dict[str, ServerProcess]]:
    with (
        running_server(COMMANDS["gunicorn"], ready=answers_http("/")) as gunicorn,
        running_server(COMMANDS["uvicorn"], ready=answers_http("/")) as uvicorn,
    ):
        yield {"gunicorn": gunicorn, "uvicorn": uvicorn}


@pytest.fixture(params=ECHOES, ids=lambda echo: echo[0] + echo[1])
def echo(
    request: pytest.FixtureRequest, shared_servers: dict[str, ServerProcess]
) -> Iterator[tuple[ServerProcess, str]]:
    server, path = request.param
    with shown_on_failure(shared_servers[server]):
        yield shared_servers[server], path


def test_messages_come_back(echo: tuple[ServerProcess, str]) -> None:
    """D-5, WS-A-1, WS-W-1: of either kind, empty and large."""
    with websocket_of(*echo, max_size=None) as client:
        for message in MESSAGES:
            client.send(message)
            assert answer(client) == message


def test_several_at_once(echo: tuple[ServerProcess, str]) -> None:
    """D-5, WS-A-4, WS-W-11"""
    with ExitStack() as connections:
        clients = [connections.enter_context(websocket_of(*echo)) for _ in range(MOST_AT_ONCE)]
        for number, client in enumerate(clients):
            client.send(str(number))
        assert [answer(client) for client in clients] == [str(n) for n in range(MOST_AT_ONCE)]


def test_client_that_closes(echo: tuple[ServerProcess, str]) -> None:
    """D-5, WS-A-9, WS-W-7"""
    with websocket_of(*echo) as client:
        client.close(4000, "done")
        assert close_of(client) == (4000, "done")


def test_every_case_of_autobahn_passes(echo: tuple[ServerProcess, str]) -> None:
    """D-5, WS-A-9, WS-W-9"""
    server, path = echo
    verdicts = verdicts_on(f"ws://{server.host}:{server.port}{path}")
    assert len(verdicts) == CASE_COUNT
    assert failed_cases(verdicts) == set()
