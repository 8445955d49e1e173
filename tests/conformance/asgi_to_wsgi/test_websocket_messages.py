"""WS-A-9, WS-A-11, WS-A-13: messages, their limits, and how long a silent client is waited for."""

import struct
import threading
import zlib
from contextlib import suppress
from typing import Any

import anyio
import pytest

from tests.support.fake_wsgi_server import (
    Gate,
    bridged,
    must_become,
    must_happen,
    on_every_backend,
    turn_the_loop,
    with_turns,
)
from tests.support.websocket_apps_in_process import (
    accept,
    disconnect,
    echo,
    receive_message,
    send_message,
)
from tests.support.websocket_wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    close_frame,
    connected,
)
from wsgi_asgi_bridge import AppError, ClientDisconnected
from wsgi_asgi_bridge._crossing.socket_stream import READ_BYTES
from wsgi_asgi_bridge._protocol import websocket_session
from wsgi_asgi_bridge.asgi_to_wsgi import open_websocket

Message = dict[str, Any]

pytestmark = on_every_backend


class Noting:
    """An app that notes what it receives, up to the disconnect."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.ended = threading.Event()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        while not self.received or self.received[-1]["type"] == "websocket.receive":
            self.received.append(await receive())
        assert await receive() == self.received[-1]  # it repeats
        self.ended.set()


# From the client


MESSAGES = {
    "text": ([Frame(TEXT, "h\xe9llo".encode())], ["h\xe9llo"]),
    "bytes": ([Frame(BINARY, b"\0\xff")], [b"\0\xff"]),
    "empty": ([Frame(TEXT), Frame(BINARY)], ["", b""]),
    "long": (
        [Frame(BINARY, b"x" * 70_000), Frame(TEXT, b"y" * 70_000)],
        [b"x" * 70_000, "y" * 70_000],
    ),
    "fragments": (
        [Frame(TEXT, b"a\xc3", False), Frame(PING, b"p"), Frame(CONT, b"\xa9", False), Frame(CONT)],
        ["a\xe9"],
    ),
    "fragments of bytes": ([Frame(BINARY, b"a", False), Frame(CONT, b"b")], [b"ab"]),
    "fragments, then a text": (
        [Frame(TEXT, b"a", False), Frame(CONT, b"b"), Frame(TEXT, b"c")],
        ["ab", "c"],
    ),
}


@pytest.mark.parametrize(("frames", "messages"), MESSAGES.values(), ids=MESSAGES)
def test_messages(backend: Message, frames: list[Frame], messages: list[str | bytes]) -> None:
    """WS-A-11: fragments are joined as they come; empty messages are messages."""
    app = Noting()
    with bridged(app, backend) as bridge, connected(bridge) as client:
        client.send(*frames, close_frame(1000))
        must_happen(app.ended, "the disconnect")
    assert app.received == [*map(receive_message, messages), disconnect(1000)]


def test_a_message_byte_by_byte(backend: Message) -> None:
    """WS-A-11."""
    app = Noting()
    with bridged(app, backend) as bridge, connected(bridge) as client:
        for byte in Frame(TEXT, "h\xe9".encode()).masked():
            client.socket.sendall(bytes([byte]))
        client.say_goodbye()
        must_happen(app.ended, "the disconnect")
    assert app.received == [receive_message("h\xe9"), disconnect(1000)]


def test_pings_of_the_client_are_answered(backend: Message) -> None:
    """WS-A-13: also while the app does nothing."""
    gate = Gate()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await gate.wait()

    with bridged(app, backend) as bridge, connected(bridge) as client:
        client.send(Frame(PING, b"are you there?"))
        assert client.read() == Frame(PONG, b"are you there?")
        gate.open()


ENDS = {
    "a code and a reason": (close_frame(4001, "b\xe9cause"), disconnect(4001, "b\xe9cause")),
    "an empty close frame": (Frame(CLOSE), disconnect(1005)),
    "between fragments": (close_frame(1001), disconnect(1001)),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_clients_close_frame(backend: Message, how: str) -> None:
    """WS-A-9: its code and reason; it is echoed, and the connection ends."""
    frame, expected = ENDS[how]
    app = Noting()
    with bridged(app, backend) as bridge, connected(bridge) as client:
        if how == "between fragments":  # legal (RFC 6455 5.4)
            client.send(Frame(TEXT, b"half", fin=False))
        client.send(frame)
        assert client.read() == frame
        assert client.read() is None
        client.close()
        must_happen(app.ended, "the disconnect")
        must_become(lambda: bridge.stats().completed == 1, "the count")
    assert app.received == [expected]


FAULTS = {
    "text that is not UTF-8": ([Frame(TEXT, b"a\xff")], 1007),
    "in the middle of fragments": ([Frame(TEXT, b"a\xff", fin=False)], 1007),
    "text that ends too early": ([Frame(TEXT, b"\xc3", fin=False), Frame(CONT)], 1007),
    "a message that is too large": ([Frame(BINARY, bytes(1001))], 1009),
    "fragments that are too large": (
        [Frame(BINARY, bytes(600), False), Frame(CONT, bytes(600))],
        1009,
    ),
    "a stray continuation": ([Frame(CONT, b"a")], 1002),
    "an opcode that is not known": ([Frame(3, b"a")], 1002),
    "a close code that may not be sent": ([close_frame(1005)], 1002),
}


@pytest.mark.parametrize(("frames", "code"), FAULTS.values(), ids=FAULTS)
def test_what_a_client_does_wrong(backend: Message, frames: list[Frame], code: int) -> None:
    """WS-A-9: the client and the app get the code; messages before it arrive."""
    app = Noting()
    with bridged(app, backend, max_message_size=1000) as bridge, connected(bridge) as client:
        client.send(Frame(TEXT, b"before"), *frames)
        closed = client.read()
        assert closed is not None
        assert (closed.opcode, closed.payload[:2]) == (CLOSE, struct.pack("!H", code))
        assert client.read() is None
        client.close()
        must_happen(app.ended, "the disconnect")
        must_become(lambda: bridge.stats().disconnected == 1, "the count")
    assert app.received[0] == receive_message("before")
    assert [message["code"] for message in app.received[1:]] == [code]


@pytest.mark.parametrize("how", ["closed", "half-closed", "reset"])
def test_a_client_that_vanishes(backend: Message, how: str) -> None:
    """WS-A-9: 1006."""
    app = Noting()
    with bridged(app, backend) as bridge, connected(bridge, tcp=True) as client:
        client.send(Frame(TEXT, b"before"))
        must_become(lambda: len(app.received) == 1, "the message")
        if how == "half-closed":
            client.socket.shutdown(1)
            assert client.read() is None
        elif how == "reset":
            client.reset()
        client.close()
        must_happen(app.ended, "the disconnect")
        must_become(lambda: bridge.stats().disconnected == 1, "the count")
    assert app.received == [receive_message("before"), disconnect(1006)]


# To the client


@pytest.mark.parametrize("message", [b"\0\xff", "h\xe9llo", "", b"", b"x" * 300_000], ids=len)
def test_what_the_app_sends(backend: Message, message: str | bytes) -> None:
    """WS-A-9: and then 1000, since the app returns."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send(send_message(message))

    data = message.encode() if isinstance(message, str) else message
    with bridged(app, backend) as bridge, connected(bridge) as client:
        assert client.read() == Frame(TEXT if isinstance(message, str) else BINARY, data)
        assert client.read() == close_frame(1000)
        must_become(lambda: bridge.stats().completed == 1, "the count")
        client.send(close_frame(1000))
        assert client.read() is None


ILLEGAL_WHEN_OPEN = [
    {"type": "websocket.accept"},
    {"type": "websocket.send"},
    {"type": "websocket.send", "text": None, "bytes": None},
    {"type": "websocket.send", "text": b"bytes"},
    {"type": "websocket.send", "bytes": "text"},
    {"type": "websocket.send", "text": "\ud800"},
    {"type": "websocket.close", "code": 1005},
    {"type": "websocket.close", "code": 99},
    {"type": "websocket.close", "code": "1000"},
    {"type": "websocket.close", "code": 1000, "reason": "x" * 124},
    {"type": "websocket.close", "code": 1000, "reason": b"bytes"},
    {"type": "websocket.http.response.start", "status": 200},
    {"type": "unknown"},
]


def test_illegal_messages_of_the_app(backend: Message) -> None:
    """WS-A-12: they raise out of `send()`, and change nothing."""
    errors: list[BaseException] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for message in ILLEGAL_WHEN_OPEN:
            try:
                await send(message)
            except AppError as error:
                errors.append(error)
        await send(send_message("still open"))

    with bridged(app, backend) as bridge, connected(bridge) as client:
        assert client.read() == Frame(TEXT, b"still open")
        assert client.read() == close_frame(1000)
    assert len(errors) == len(ILLEGAL_WHEN_OPEN)


def test_the_apps_close(backend: Message) -> None:
    """WS-A-9, WS-A-12: its code and reason; after it the app may send nothing more."""
    outcome: list[Any] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 4000, "reason": "done"})
        outcome.append(await receive())
        for message in (send_message("more"), {"type": "websocket.close"}):
            try:
                await send(message)
            except AppError as error:
                outcome.append(str(error))

    with bridged(app, backend) as bridge, connected(bridge) as client:
        assert client.read() == close_frame(4000, "done")
        client.send(Frame(TEXT, b"crossed"), close_frame(4000, "done"))
        assert client.read() is None
        must_become(lambda: bridge.stats().completed == 1, "the count")
    assert outcome[0] == disconnect(4000, "done")
    assert ["after it has closed the WebSocket" in text for text in outcome[1:]] == [True, True]


def test_sends_after_the_disconnect_raise(backend: Message) -> None:
    """WS-A-12: an OSError; a close is too late and does nothing."""
    outcome: list[Any] = []
    over = threading.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        outcome.append(await receive())
        try:
            await send(send_message("late"))
        except OSError as error:
            outcome.append(type(error))
        outcome.append(await send({"type": "websocket.close"}))
        outcome.append(await receive())
        over.set()

    with bridged(app, backend) as bridge, connected(bridge) as client:
        client.say_goodbye(4000)
        must_happen(over, "the end of the app")
    assert outcome == [disconnect(4000), ClientDisconnected, None, disconnect(4000)]


# Flow control


def test_reading_pauses_while_the_app_receives_nothing(backend: Message) -> None:
    """WS-A-11: the client is held up, and all of it arrives in order in the end."""
    gate, app = Gate(), Noting()

    async def slow(scope: Message, receive: Any, send: Any) -> None:
        async def gated() -> Message:
            if app.received:
                await gate.wait()
            return await receive()

        async def first() -> Message:
            return await receive() if not app.received else await gated()

        await app(scope, first, send)

    def send_all() -> None:
        for number in range(256):
            client.send(Frame(BINARY, bytes([number]) * 65_536))
        client.send(close_frame(1000))
        sent.set()

    sent = threading.Event()
    with bridged(with_turns(slow), backend) as bridge, connected(bridge) as client:
        sender = threading.Thread(target=send_all, name="driver: sender")
        sender.start()
        must_become(lambda: len(app.received) == 1, "the first message")
        (task,) = bridge._runtime.in_flight
        must_become(lambda: task._open._paused, "the pause")
        turn_the_loop(bridge, times=50)
        unread = task._open._session._engine.reader.buffer
        waiting = len(unread) + task._open._inbox_bytes
        assert waiting < 2 * READ_BYTES
        assert not sent.is_set()
        gate.open()
        must_happen(sent, "the end of sending")
        sender.join()
        must_happen(app.ended, "the disconnect")
    assert [message.get("bytes") for message in app.received[:-1]] == [
        bytes([number]) * 65_536 for number in range(256)
    ]


def test_a_close_is_answered_though_the_app_received_nothing(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-10, WS-A-11: the client's close frame is behind messages that nobody will receive."""
    monkeypatch.setattr(open_websocket, "CLOSE_SECONDS", 60.0)
    gate = Gate()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await gate.wait()

    with bridged(app, backend) as bridge, connected(bridge) as client:
        client.send(*[Frame(BINARY, bytes(20_000))] * 20)
        (task,) = bridge._runtime.in_flight
        must_become(lambda: task._open is not None and task._open._paused, "the pause")
        gate.open()
        assert client.read() == close_frame(1000)
        client.send(close_frame(1000))
        assert client.read() is None


def test_a_close_is_answered_though_pongs_wait_behind_a_message(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-10, WS-A-11: it is read once the client has taken the pongs, though the app has left a
    message.
    """
    monkeypatch.setattr(open_websocket, "CLOSE_SECONDS", 60.0)
    gate = Gate()
    count, payload = 8_000, b"p" * 125

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await gate.wait()

    def send_all() -> None:
        client.send(Frame(TEXT, b"never received"))
        client.socket.sendall(Frame(PING, payload).masked() * count)
        client.send(close_frame(1000))

    with bridged(app, backend) as bridge, connected(bridge) as client:
        sender = threading.Thread(target=send_all, name="driver: sender")
        sender.start()
        (task,) = bridge._runtime.in_flight
        must_become(lambda: task._open is not None and task._open._answers is not None, "the wait")
        gate.open()
        must_become(lambda: task._open.disconnect is not None, "the close")
        frames = client.read_rest()
        sender.join()
    assert frames.count(b"\x88\x02\x03\xe8") == 1


def test_send_waits_for_a_client_that_does_not_read(backend: Message) -> None:
    """WS-A-11: the app is held up, and goes on as the client reads; others have their turn."""
    sent: list[int] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for number in range(256):
            await send(send_message(bytes([number]) * 65_536))
            sent.append(number)

    with bridged(with_turns(app), backend) as bridge, connected(bridge) as client:
        turn_the_loop(bridge, times=50)
        assert len(sent) < 128
        for number in range(256):
            assert client.read() == Frame(BINARY, bytes([number]) * 65_536)
        assert client.read() == close_frame(1000)


def test_a_client_that_pings_and_does_not_read_is_held_up(backend: Message) -> None:
    """WS-A-11: pongs wait within bounds; all are sent when it reads."""
    count = 8_000
    payload = b"p" * 125
    app = Noting()

    def send_all() -> None:
        client.socket.sendall(Frame(PING, payload).masked() * count)
        client.send(close_frame(1000))

    with bridged(with_turns(app), backend) as bridge, connected(bridge) as client:
        sender = threading.Thread(target=send_all, name="driver: sender")
        sender.start()
        (task,) = bridge._runtime.in_flight
        must_become(lambda: task._open is not None and task._open._paused, "the pause")
        turn_the_loop(bridge, times=50)
        assert task._open._stream.kept_bytes() < 2 * READ_BYTES
        assert sender.is_alive()
        pongs = b"\x8a\x7d" + payload
        assert client.read_rest() == pongs * count + b"\x88\x02\x03\xe8"
        sender.join()
        must_happen(app.ended, "the disconnect")


def test_a_waiting_send_ends_with_the_connection(backend: Message) -> None:
    """WS-A-11, WS-A-12."""
    errors: list[type[BaseException]] = []
    over = threading.Event()
    sent: list[int] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        try:
            while True:
                await send(send_message(bytes(65_536)))
                sent.append(1)
        except OSError as error:
            errors.append(type(error))
        over.set()

    with bridged(with_turns(app), backend) as bridge, connected(bridge, tcp=True) as client:
        turn_the_loop(bridge, times=50)
        assert not over.is_set()
        (task,) = [each for each in bridge._runtime.in_flight if hasattr(each, "_open")]
        must_become(task._open._stream.is_full, "the wait")
        before = len(sent)
        client.reset()
        must_happen(over, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count")
    assert errors == [ClientDisconnected]
    assert len(sent) == before


@pytest.mark.parametrize("size", [0, 100])
def test_an_app_that_only_sends_does_not_starve_others(backend: Message, size: int) -> None:
    """WS-A-11: `send()` gives the loop's other tasks a turn, though it waits for no room; after so
    many empty messages too.
    """
    counts: list[int] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        async def other() -> None:
            counts.append(count)

        await accept(receive, send)
        count = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            while not counts:
                await send(send_message(bytes(size)))
                count += 1

    with bridged(app, backend) as bridge, connected(bridge) as client:
        while (frame := client.read()) == Frame(BINARY, bytes(size)):
            pass
        assert frame == close_frame(1000)
    unbroken = open_websocket.UNBROKEN_BYTES // (size + open_websocket.LEAST_MESSAGE_BYTES)
    assert counts[0] <= 2 * (unbroken + 1)  # trio wakes the two in either order


# Compression


DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-12)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compressed(opcode: int, data: bytes) -> bytes:
    whole = bytearray(Frame(opcode, deflated(data)).masked())
    whole[0] |= 0x40  # RSV1
    return bytes(whole)


@pytest.mark.parametrize("compression", [True, False])
def test_compression_is_an_option(backend: Message, compression: bool) -> None:
    """WS-A-13: permessage-deflate, unless it is turned off or the client does not offer it."""
    with bridged(echo, backend, websocket_compression=compression) as bridge:
        with connected(bridge, headers=DEFLATE) as client:
            if compression:
                client.socket.sendall(compressed(TEXT, b"hello" * 100))
                head = client.socket.recv(1)
                assert head == bytes([0xC1])
            else:
                client.send(Frame(TEXT, b"hello"))
                assert client.read() == Frame(TEXT, b"hello")
        with connected(bridge) as client:
            client.send(Frame(TEXT, b"plain"))
            assert client.read() == Frame(TEXT, b"plain")


def test_the_size_limit_is_that_of_what_is_inflated(backend: Message) -> None:
    """WS-A-9: 1009."""
    app = Noting()
    with (
        bridged(app, backend, max_message_size=100_000) as bridge,
        connected(bridge, headers=DEFLATE) as client,
    ):
        client.socket.sendall(compressed(BINARY, bytes(100_001)))
        must_happen(app.ended, "the disconnect")
    assert [message["code"] for message in app.received] == [1009]


def test_compressed_messages_are_inflated_a_few_at_a_time(backend: Message) -> None:
    """WS-A-11: what waits for the app is bounded by what it is inflated to."""
    gate = Gate()
    most = 0
    count = 2000
    app = Noting()

    async def slow(scope: Message, receive: Any, send: Any) -> None:
        async def first() -> Message:
            if app.received:
                await gate.wait()
            return await receive()

        await app(scope, first, send)

    receive_data = open_websocket.OpenWebSocket._read

    def read(self: Any) -> None:
        nonlocal most
        receive_data(self)
        most = max(most, self._inbox_bytes)

    block = compressed(BINARY, bytes(50_000))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(open_websocket.OpenWebSocket, "_read", read)
        with (
            bridged(with_turns(slow), backend) as bridge,
            connected(bridge, headers=DEFLATE) as client,
        ):
            data = block * count + close_frame(1000).masked()
            sender = threading.Thread(target=client.socket.sendall, args=(data,), name="driver")
            sender.start()
            must_become(lambda: len(app.received) == 1, "the first message")
            turn_the_loop(bridge, times=20)
            gate.open()
            must_happen(app.ended, "the disconnect")
            sender.join()
    assert len(app.received) == count + 1
    assert most < open_websocket.INBOX_BYTES + websocket_session.PORTION_BYTES + 50_000


# Pings


def test_a_client_that_answers_pings_stays(backend: Message) -> None:
    """WS-A-13: the next ping is due after `ping_interval`, however long an answer may take."""
    with (
        bridged(echo, backend, ping_interval=0.01, ping_timeout=3600.0) as bridge,
        connected(bridge) as client,
    ):
        for _ in range(3):
            ping = client.read()
            assert ping is not None
            assert ping.opcode == PING
            client.send(Frame(PONG, ping.payload))
        client.say_goodbye_among_pings()


@pytest.mark.parametrize(("interval", "timeout"), [(0.01, 0.01), (0.01, 0.02), (0.02, 0.01)])
def test_a_client_that_answers_no_ping_is_gone(
    backend: Message, interval: float, timeout: float
) -> None:
    """WS-A-13, WS-A-9: 1006 for the app; the client, if it is there, gets 1011. There is one ping
    that is not answered.
    """
    app = Noting()
    with (
        bridged(app, backend, ping_interval=interval, ping_timeout=timeout) as bridge,
        connected(bridge) as client,
    ):
        assert client.read() == Frame(PING)
        closed = client.read()
        assert closed is not None
        assert (closed.opcode, closed.payload[:2]) == (CLOSE, struct.pack("!H", 1011))
        must_happen(app.ended, "the disconnect")
        must_become(lambda: bridge.stats().disconnected == 1, "the count")
    assert app.received == [disconnect(1006, "no answer to a ping")]


def test_a_client_that_reads_no_pongs_is_gone(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-13: nothing of it is read while its pongs wait, so nothing is heard either."""
    monkeypatch.setattr(open_websocket, "CLOSE_SECONDS", 0.01)
    app = Noting()

    def send_all() -> None:
        with suppress(OSError):
            client.socket.sendall(Frame(PING, b"p" * 125).masked() * 8_000)

    with (
        bridged(app, backend, ping_interval=0.01, ping_timeout=0.01) as bridge,
        connected(bridge) as client,
    ):
        sender = threading.Thread(target=send_all, name="driver: sender")
        sender.start()
        must_happen(app.ended, "the disconnect")
        sender.join()
    assert app.received == [disconnect(1006, "no answer to a ping")]


def test_a_client_that_is_not_read_cannot_answer(backend: Message) -> None:
    """WS-A-13: while the app receives nothing and reading pauses, no pong is missed."""
    gate, app = Gate(), Noting()

    async def slow(scope: Message, receive: Any, send: Any) -> None:
        async def first() -> Message:
            if app.received:
                await gate.wait()
            return await receive()

        await app(scope, first, send)

    with (
        bridged(slow, backend, ping_interval=0.01, ping_timeout=0.01) as bridge,
        connected(bridge) as client,
    ):
        client.send(*[Frame(BINARY, bytes(5_000))] * 40)
        for _ in range(5):
            assert client.read() == Frame(PING)
        gate.open()
        must_become(lambda: len(app.received) >= 40, "the messages")
    must_happen(app.ended, "the disconnect")


def test_pings_can_be_turned_off(backend: Message) -> None:
    """WS-A-13: `ping_interval=None` sends none, `ping_timeout=None` waits for ever."""
    with (
        bridged(echo, backend, ping_interval=None, ping_timeout=0.01) as bridge,
        connected(bridge) as client,
    ):
        client.send(Frame(TEXT, b"a"))
        assert client.read() == Frame(TEXT, b"a")
        client.say_goodbye()
    with (
        bridged(echo, backend, ping_interval=0.01, ping_timeout=None) as bridge,
        connected(bridge) as client,
    ):
        assert [client.read() for _ in range(5)] == [Frame(PING)] * 5
