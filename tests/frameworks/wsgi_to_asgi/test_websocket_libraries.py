"""Libraries that take the WebSocket from the environ, on uvicorn, with real clients."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import socketio
from websockets.sync.client import ClientConnection

from tests.support.asgi_servers import UVICORN, AsgiServer, Served, waited_for
from tests.support.asgi_websocket_clients import WAIT_SECONDS, end_of, kill, open_by_http1
from tests.support.processes import ServerProcess, running_server, shown_on_failure

APP = "tests.frameworks.websocket_libraries:served"
CODE, REASON = 4001, "asked to"
SERVER = AsgiServer("uvicorn", (*UVICORN, "--ws", "websockets-sansio"), root_path_options=())
ECHOES = [
    "/flask-sock",
    "/django",
    "/bottle",
    "/falcon",
    "/pyramid",
    "/bottle-websocket",
    "/flask-sockets",
    "/eventlet",
    "/websockets-sync",
]
READERS = ("simple_websocket", "recv_events")
"""In the names of the threads that libraries start for a connection."""

IMPORT_SECONDS = 60.0


@pytest.fixture(scope="module")
def process() -> Iterator[ServerProcess]:
    command = [sys.executable, "-W", "ignore", *SERVER.command_for(APP)[1:]]
    # Without its resolver: eventlet imports that, and with it trio, on top of its own sockets.
    env = {"EVENTLET_NO_GREENDNS": "yes"}
    with running_server(command, ready_seconds=IMPORT_SECONDS, env=env) as process:
        yield process


@pytest.fixture
def served(process: ServerProcess) -> Iterator[Served]:
    """After each test no WebSocket is open, and no thread of a library is left."""
    with shown_on_failure(process):
        served = Served(SERVER, process)
        yield served
        served.wait_until_idle()
        waited_for(
            lambda: json.loads(served.get("/live").body),
            lambda names: not any(mark in name for name in names for mark in READERS),
            "end of the libraries' threads",
        )


@contextmanager
def connected(served: Served, target: str) -> Iterator[ClientConnection]:
    with open_by_http1(served.process.address, target) as client:
        yield client


@pytest.mark.parametrize("library", ECHOES)
def test_echo(served: Served, library: str) -> None:
    """Text, binary, what is not ASCII, and what no library reads at once."""
    with connected(served, f"{library}/") as client:
        for message in ("hello", b"\x00\xff", "caf\xe9 \u20ac \U0001f40d", "x" * 200_000):
            client.send(message)
            assert client.recv(WAIT_SECONDS) == message


@pytest.mark.parametrize("library", ECHOES)
def test_library_closes(served: Served, library: str) -> None:
    """WS-W-6: with its code and reason."""
    with connected(served, f"{library}/") as client:
        client.send("close")
        assert end_of(client) == (CODE, REASON)


@pytest.mark.parametrize("library", ECHOES)
def test_app_raises(served: Served, library: str) -> None:
    """WS-W-5: by the library or the bridge; a framework that makes a page of it, too."""
    with connected(served, f"{library}/") as client:
        client.send("raise")
        code, _ = end_of(client)
    assert code == 1011


@pytest.mark.parametrize("library", ECHOES)
def test_client_closes(served: Served, library: str) -> None:
    """WS-W-7: the app's call ends by itself."""
    with connected(served, f"{library}/") as client:
        client.send("hello")
        assert client.recv(WAIT_SECONDS) == "hello"
        client.close(4000, "enough")
        assert client.close_code == 4000


@pytest.mark.parametrize("library", ECHOES)
def test_client_is_killed(served: Served, library: str) -> None:
    with connected(served, f"{library}/") as client:
        client.send("hello")
        assert client.recv(WAIT_SECONDS) == "hello"
        kill(client)


def test_page_beside(served: Served) -> None:
    assert served.get("/flask-sock/page").text == "a page beside"


# --- Flask-SocketIO

TRANSPORTS = [["polling"], ["websocket"], ["polling", "websocket"]]


@contextmanager
def socketio_client(served: Served, transports: list[str]) -> Iterator[socketio.Client]:
    client = socketio.Client(reconnection=False)
    client.connect(
        served.process.url,
        socketio_path="/sio/socket.io",
        transports=transports,
        wait_timeout=int(WAIT_SECONDS),
    )
    try:
        yield client
    finally:
        if client.connected:  # else it disconnects by itself, and waits 30 s if both do
            client.disconnect()
        client.wait()


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
def test_socketio_events(served: Served, transports: list[str]) -> None:
    """Text, JSON and binary, each acknowledged; with both transports, after the upgrade."""
    with socketio_client(served, transports) as client:
        assert client.transport() == transports[-1]
        for data in ("hello", {"a": [1, "caf\xe9"]}, b"\x00\xff" * 5000):
            assert client.call("say", data, timeout=WAIT_SECONDS) == data


def test_socketio_rooms(served: Served) -> None:
    """What is told to a room reaches all in it, by whatever transport, and nobody else."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socketio_client(served, names)) for names in TRANSPORTS]
        told: list[list[Any]] = [[] for _ in clients]
        arrived = [threading.Event() for _ in clients]
        for place, client in enumerate(clients):

            def on_told(data: Any, place: int = place) -> None:
                told[place].append(data)
                arrived[place].set()

            client.on("told", on_told)
        for client in clients[1:]:
            assert client.call("enter", "attic", timeout=WAIT_SECONDS) == "entered"
        clients[0].emit("tell", ("attic", b"creak"))
        for event in arrived[1:]:
            assert event.wait(WAIT_SECONDS)
        # Events of one client are handled in their order, so this would come later.
        assert clients[0].call("say", "done", timeout=WAIT_SECONDS) == "done"
        assert told == [[], [b"creak"], [b"creak"]]


def test_socketio_server_disconnects(served: Served) -> None:
    with socketio_client(served, ["websocket"]) as client:
        left = threading.Event()
        client.on("disconnect", lambda *_: left.set())
        client.emit("leave")
        assert left.wait(WAIT_SECONDS)
