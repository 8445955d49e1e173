"""Servers that are told to end while a hundred WebSockets are open."""

from contextlib import ExitStack

import pytest

from tests.support.asgi_websocket_clients import WAIT_SECONDS, end_of
from tests.support.asgi_websocket_servers import (
    SERVERS,
    Ability,
    ServedWebSockets,
    WebSocketServer,
)
from tests.support.processes import running_server, shown_on_failure

OBSERVED = "tests.support.wsgi_websocket_apps:observed"
SOCKETS = 100
EXIT_SECONDS = 20.0
"""For a process on a busy machine; most need a fifth of a second, after their graceful time-out."""


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in SERVERS])
def test_sigterm_with_a_hundred_open_websockets(row: WebSocketServer) -> None:
    """WS-W-5, WS-W-12: each client hears the end, each app is told, and the process ends."""
    with (
        running_server(row.server.command_for(OBSERVED)) as process,
        shown_on_failure(process),
        ExitStack() as stack,
    ):
        served = ServedWebSockets(row.server, process, row)
        targets = [
            f"/{'socket' if number % 2 else 'message'}/echo?id={number}"
            for number in range(SOCKETS)
        ]
        clients = [stack.enter_context(served.open(target)) for target in targets]
        for client in clients:
            client.send("here")
            assert client.recv(WAIT_SECONDS) == "here"
        assert served.stats()["websockets"] == SOCKETS
        process.terminate()
        assert {end_of(client)[0] for client in clients} == {row.code_at_shutdown}
        process.wait(EXIT_SECONDS)
        if served.has(Ability.TELLS_APPS_AT_SHUTDOWN):
            assert process.output().count(": closed") == SOCKETS
