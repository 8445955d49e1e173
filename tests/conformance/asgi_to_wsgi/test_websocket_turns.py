"""WS-A-11: however much a client sends at once, the loop's other tasks have their turn."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_wsgi_server import bridged, must_happen, on_every_backend
from tests.support.websocket_apps_in_process import accept, disconnect
from tests.support.websocket_wire import (
    BINARY,
    CONT,
    PING,
    PONG,
    Client,
    Frame,
    close_frame,
    connect,
    connected,
)
from wsgi_asgi_bridge._protocol import websocket_session
from wsgi_asgi_bridge.asgi_to_wsgi import open_websocket

Message = dict[str, Any]

pytestmark = on_every_backend

COUNT = 3_000

FRAMES_A_TURN = websocket_session.PORTION_BYTES // websocket_session.LEAST_FRAME_BYTES
MESSAGES_A_TURN = FRAMES_A_TURN + open_websocket.INBOX_MESSAGES
TURNS = 2
"""trio runs the tasks of one turn in any order, so between two steps of a task there may be two."""


class Counted:
    """An app that receives to the end, and what was counted between two turns of its other task."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.ended = threading.Event()
        self.frames = self.most_frames = self.most_messages = 0
        self._frames = self._messages = 0

    def count_frame(self) -> None:
        self.frames += 1
        self._frames += 1

    async def _turn(self) -> None:
        while True:
            self.most_frames = max(self.most_frames, self._frames)
            self.most_messages = max(self.most_messages, len(self.received) - self._messages)
            self._frames, self._messages = 0, len(self.received)
            await anyio.lowlevel.checkpoint()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        async with anyio.create_task_group() as group:
            group.start_soon(self._turn)
            while not self.received or self.received[-1]["type"] == "websocket.receive":
                self.received.append(await receive())
            group.cancel_scope.cancel()
        self.ended.set()


@contextmanager
def sending(client: Client, data: bytes) -> Iterator[None]:
    """`data` and a close frame go out; what comes back is read meanwhile."""
    data += close_frame(1000).masked()
    sender = threading.Thread(target=client.socket.sendall, args=(data,), name="driver: sender")
    reader = threading.Thread(target=client.read_rest, name="driver: reader")
    sender.start()
    reader.start()
    yield
    sender.join()
    reader.join()


NUMBERS = [struct.pack("!I", number) for number in range(COUNT // 2)]

FLOODS = {
    "empty messages": (Frame(BINARY).masked() * COUNT, [b""] * COUNT),
    "pings": (Frame(PING).masked() * COUNT, []),
    "pongs": (Frame(PONG).masked() * COUNT, []),
    "messages among pings": (
        b"".join(Frame(BINARY, number).masked() + Frame(PING).masked() for number in NUMBERS),
        NUMBERS,
    ),
    "fragments": (
        Frame(BINARY, fin=False).masked()
        + Frame(CONT, b"x", fin=False).masked() * (COUNT - 2)
        + Frame(CONT).masked(),
        [b"x" * (COUNT - 2)],
    ),
}


@pytest.mark.parametrize(("flood", "messages"), FLOODS.values(), ids=FLOODS)
def test_a_flood_of_tiny_frames_is_taken_in_portions(
    backend: Message, flood: bytes, messages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-11: every frame, in order, and no more of them in one turn than make a portion."""
    app = Counted()
    package = websocket_session._package()
    assert package is not None
    receive_frame = package.engine.recv_frame

    def recv_frame(self: Any, frame: Any) -> None:
        app.count_frame()
        receive_frame(self, frame)

    monkeypatch.setattr(package.engine, "recv_frame", recv_frame)
    with (
        bridged(app, backend) as bridge,
        connected(bridge) as client,
        sending(client, flood),
    ):
        must_happen(app.ended, "the disconnect")
    assert app.frames == COUNT + 1
    assert app.most_frames <= TURNS * FRAMES_A_TURN
    assert app.most_messages <= TURNS * MESSAGES_A_TURN
    assert [message.get("bytes") for message in app.received[:-1]] == messages
    assert app.received[-1] == disconnect(1000)


def test_an_end_behind_a_flood_is_not_taken_before_it(backend: Message) -> None:
    """WS-A-11, WS-A-5: the client does not wait for the handshake's answer, and half-closes."""
    app = Counted()
    flood = b"".join(Frame(BINARY, number).masked() for number in NUMBERS)
    with bridged(app, backend) as bridge:
        client, server = connect(bridge, early=flood + close_frame(1000).masked())
        client.socket.shutdown(socket.SHUT_WR)
        client.must_be_accepted()
        assert client.read_rest() == b"\x88\x02\x03\xe8"
        server.finish()
        must_happen(app.ended, "the disconnect")
        client.close()
    assert [message.get("bytes") for message in app.received[:-1]] == NUMBERS
    assert app.received[-1] == disconnect(1000)
