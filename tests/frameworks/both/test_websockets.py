"""A Flask-Sock app on gunicorn: as it is, and behind both bridges."""

import contextlib
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.processes import ServerProcess, running_server
from tests.support.wsgi_servers import SERVERS

GTHREAD = next(server for server in SERVERS if server.name == "gunicorn-gthread")
ROWS = {
    "as it is": ("flask_app", {}, "socket"),
    "behind both": ("both", {}, "socket"),
    "behind both, with a middleware": ("with_middleware", {}, "MemorySocket"),
    "behind both, without websockets": ("both", {"WEBSOCKETS_HIDDEN": "1"}, "socket"),
}
"""The app, the environment, and the type of the socket that it finds."""


@contextlib.contextmanager
def served(app: str, env: dict[str, str]) -> Iterator[ServerProcess]:
    command = GTHREAD.command_for(f"tests.support.both_websockets:{app}")
    with running_server(command, env=env) as server:
        yield server


@pytest.mark.parametrize(("app", "env", "found"), ROWS.values(), ids=ROWS)
def test_flask_sock_on_gunicorn(app: str, env: dict[str, str], found: str) -> None:
    """D-4, D-5: the app finds gunicorn's own socket, and its way to leave gunicorn is no error.
    Behind an ASGI middleware it finds that of the inner bridge.
    """
    with served(app, env) as server:
        for code in (1000, 4000):
            with connect(f"ws://{server.host}:{server.port}/echo", compression=None) as client:
                assert client.recv(5) == found
                for message in ("text", b"binary", "", "x" * 100_000):
                    client.send(message)
                    assert client.recv(5) == message
                client.close(code)
            with pytest.raises(ConnectionClosed):
                client.recv(5)
        output = server.output()
    assert "Traceback" not in output, output
    assert "ERROR" not in output.upper(), output
