"""WS-W-5 to WS-W-7, WS-W-12: the endings of a WebSocket whose library uses the socket.

Also in the middle of a message, which the message API does not know. Nothing is left after them.
"""

import select
import threading
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import Gate, calling, settle
from tests.support.fake_websocket import WebSocketClient
from tests.support.socket_apps import (
    BINARY,
    CLOSE,
    CONTINUATION,
    TEXT,
    ServerSocket,
    close_frame,
    frame,
)
from tests.support.websocket_endings import AppsOwnError, Ports, counted, ended_by, row
from wsgi_asgi_bridge import AppError

Environ = dict[str, Any]


def echoing(environ: Environ, start_response: Any) -> Any:
    return ServerSocket(environ).accept().echo()


# --- the app ends it


def _returns(connection: ServerSocket) -> None:
    connection.send("hello")


def _raises(connection: ServerSocket) -> None:
    connection.send("hello")
    raise AppsOwnError


def _leaves_gunicorn(connection: ServerSocket) -> None:
    connection.send("hello")
    connection.close(4000, "enough")
    raise StopIteration


def _closes_and_waits_for_the_echo(connection: ServerSocket) -> None:
    connection.send("hello")
    connection.close(4000, "enough")
    assert connection.read_all() == [(CLOSE, b"\x0f\xa0enough")]
    connection.sock.close()


def _closes_the_socket(connection: ServerSocket) -> None:
    connection.send("hello")
    connection.sock.close()


def _returns_inside_a_fragmented_message(connection: ServerSocket) -> None:
    connection.write(frame(TEXT, b"hello"), frame(TEXT, b"half", last=False))


def _returns_inside_a_frame(connection: ServerSocket) -> None:
    connection.write(frame(TEXT, b"hello"), frame(TEXT, b"half")[:-1])


def _closes_inside_a_fragmented_message(connection: ServerSocket) -> None:
    connection.write(
        frame(TEXT, b"hello"), frame(BINARY, b"half", last=False), close_frame(4000, "enough")
    )


def _writes_a_wrong_frame_and_goes_on(connection: ServerSocket) -> None:
    connection.send("hello")
    found = []  # not by pytest.raises, which keeps what it has caught
    for written in (frame(CONTINUATION, b"of nothing"), frame(TEXT, b"late")):
        try:
            connection.write(written)
        except (AppError, BrokenPipeError) as error:
            found.append(isinstance(error, AppError))
    assert found == [True, False]


BY_THE_APP = [
    (_returns, (1000, ""), None),
    (_raises, (1011, ""), AppsOwnError),
    (_leaves_gunicorn, (4000, "enough"), None),
    (_closes_and_waits_for_the_echo, (4000, "enough"), None),
    (_closes_the_socket, (1011, ""), None),
    (_returns_inside_a_fragmented_message, (1000, ""), None),
    (_returns_inside_a_frame, (1000, ""), None),
    (_closes_inside_a_fragmented_message, (4000, "enough"), None),
    (_writes_a_wrong_frame_and_goes_on, (1011, ""), None),
]


@pytest.mark.parametrize(("ends", "code", "error"), BY_THE_APP)
async def test_the_app_ends_it(ports: Ports, ends: Any, code: Any, error: Any) -> None:
    """WS-W-5, WS-W-6: whole messages go out before the close, a part of one does not."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        ends(ServerSocket(environ).accept())
        return []

    client = await ended_by(app, ports, code, error)
    assert client.heard == ["hello"]


# --- the client ends it


@pytest.mark.parametrize("code", [1000, 1006])
@pytest.mark.parametrize("part", [b"", frame(TEXT, b"half", last=False), frame(TEXT, b"half")[:-1]])
async def test_the_client_leaves_in_the_middle_of_a_message(
    ports: Ports, part: bytes, code: int
) -> None:
    """WS-W-7: of what the app writes, and of what it reads."""
    written, gate, told = Gate(), Gate(), []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        connection = ServerSocket(environ).accept()
        sock = connection.sock
        if part:
            sock.send(part)
        written.open()
        first = sock.recv(3)
        gate.wait_in_thread()
        rest = b""
        while data := sock.recv(4):
            rest += data
        told.append(first + rest)
        try:
            sock.send(frame(CONTINUATION, b"late"))
        except BrokenPipeError:
            told.append(True)
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        await written.wait()
        await client.until_accepted()
        client.say("hello")
        client.close(code)
        await settle()
        gate.open()
        await client.until_ended()
        assert counted(bridge) == {"completed" if code == 1000 else "disconnected": 1}
    last = b"" if code == 1006 else bytes([0x80 | CLOSE, 0x80 | 2, 0, 0, 0, 0]) + b"\x03\xe8"
    assert told == [bytes([0x80 | TEXT, 0x80 | 5, 0, 0, 0, 0]) + b"hello" + last, True]
    assert client.error is None


async def test_the_client_leaves_while_a_writer_waits(ports: Ports) -> None:
    """WS-W-7, WS-W-10: the writer is freed at once."""
    told: list[bool] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        connection = ServerSocket(environ).accept()
        try:
            while True:
                connection.send(b"x" * 1000)
        except BrokenPipeError:
            told.append(True)
        return []

    client = WebSocketClient(reads=1)
    async with row(app, ports, response_buffer=5000) as bridge, calling(bridge, client):
        await client.until(lambda client: client.blocked_in_send and client.accepted)
        await settle()
        client.leave()
        await client.until_ended()
        assert counted(bridge) == {"disconnected": 1}
    assert told == [True]


# --- the bridge ends it


@pytest.mark.parametrize("selects", [True, False])
async def test_shutdown(ports: Ports, selects: bool) -> None:
    """WS-W-5: the library reads 1001 and answers it; a descriptor for select() goes too."""

    def app(environ: Environ, start_response: Any) -> Any:
        if selects:
            assert environ["werkzeug.socket"].fileno() >= 0
        return echoing(environ, start_response)

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        client.say("hello")
        await client.until_heard(1)
        await bridge.aclose()
        await client.until_ended()
        assert counted(bridge) == {"closed": 1}
    assert client.closed_with == (1001, "the server is shutting down")


async def test_the_server_cancels_the_task(ports: Ports) -> None:
    """W-FLOW-6: the library reads the end of the stream, without a close frame."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        connection = ServerSocket(environ).accept()
        told.append(connection.read_all())
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge:
        async with calling(bridge, client):
            client.say("hello")
            await client.until(lambda client: client.receive_calls == 2)  # it has been received
            client.cancel()
            await client.until_ended()
            assert counted(bridge) == {"disconnected": 1}
        client.error = None
    assert told == [[(TEXT, b"hello")]]


# --- after the end


async def test_a_selector_of_a_thread_that_stays(ports: Ports) -> None:
    """WS-W-12: it finds the socket readable, and the end."""
    told: list[Any] = []
    done = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sock = ServerSocket(environ).accept().sock
        selecting = threading.Event()

        def stay() -> None:
            assert select.select([sock], [], [], 0)[0] == []
            selecting.set()
            told.append(len(select.select([sock], [], [], 10)[0]))
            told.append(sock.recv(10))
            sock.close()
            done.open()

        threading.Thread(target=stay).start()
        assert selecting.wait(10)
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        await done.wait()
        with anyio.fail_after(5):
            await client.until_ended()
    assert told == [1, b""]
    assert client.closed_with == (1000, "")
