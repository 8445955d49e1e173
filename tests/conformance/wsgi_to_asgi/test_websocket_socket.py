"""WS-W-3, WS-W-5 to WS-W-9: a library that speaks RFC 6455 over the socket in environ."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.environs import environ_of
from tests.support.fake_asgi_server import (
    Gate,
    answered,
    calling,
    http_scope,
    serving,
    settle,
    websocket_scope,
)
from tests.support.fake_websocket import HTTP_RESPONSE, WebSocketClient
from tests.support.socket_apps import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ServerSocket,
    close_frame,
    frame,
)
from wsgi_asgi_bridge import AppError, ClientDisconnected, ClientStalled

Environ = dict[str, Any]
Work = Callable[[ServerSocket], Any]


class Told(list[Any]):
    """What an app has seen, and the app: it makes the handshake and does this work."""

    def __init__(self, work: Work, *, accepts: bool = True) -> None:
        super().__init__()
        self._work, self._accepts = work, accepts

    def app(self, environ: Environ, start_response: Any) -> list[bytes]:
        connection = ServerSocket(environ)
        if self._accepts:
            connection.accept()
        self.append(self._work(connection))
        return []


def echoing(environ: Environ, start_response: Any) -> Any:
    return ServerSocket(environ).accept().echo()


# --- the handshake


async def test_the_keys_are_there_in_a_websocket_only() -> None:
    """WS-W-2: libraries look for either; simple-websocket takes the first."""
    environ = await environ_of(websocket_scope(**HTTP_RESPONSE))
    assert environ["werkzeug.socket"] is environ["gunicorn.socket"]
    assert {"werkzeug.socket", "gunicorn.socket"}.isdisjoint(await environ_of(http_scope()))


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
async def test_the_head_is_complete_in_whatever_pieces_it_comes(size: int) -> None:
    """WS-W-3: with the frames that were written behind it."""

    def work(connection: ServerSocket) -> None:
        written = connection.head() + frame(TEXT, b"one") + frame(BINARY, b"two")
        for start in range(0, len(written), size):
            connection.sock.sendall(written[start : start + size])

    client = WebSocketClient()
    async with serving(Told(work, accepts=False).app) as bridge:
        await answered(bridge, client)
    assert client.heard == ["one", b"two"]
    assert client.closed_with == (1000, "")


async def test_nothing_goes_out_before_the_head_is_complete() -> None:
    """WS-W-3."""
    entered, gate = Gate(), Gate()

    def work(connection: ServerSocket) -> None:
        head = connection.head()
        connection.sock.send(head[:-1])
        entered.open()
        gate.wait_in_thread()
        connection.sock.send(head[-1:])

    client = WebSocketClient()
    async with serving(Told(work, accepts=False).app) as bridge, calling(bridge, client):
        await entered.wait()
        await settle()
        assert client.messages == []
        gate.open()


async def test_other_headers_of_the_head_go_along() -> None:
    """WS-W-3: those of the handshake itself are the server's."""

    def work(connection: ServerSocket) -> None:
        connection.accept("Set-Cookie: a=1", "Set-Cookie: b=2", "X-Own:  yes ", "Date: today")

    client = WebSocketClient()
    async with serving(Told(work, accepts=False).app) as bridge:
        await answered(bridge, client)
    assert client.messages[0] == {
        "type": "websocket.accept",
        "subprotocol": None,
        "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-own", b"yes")],
    }


async def test_a_subprotocol_that_was_offered() -> None:
    """WS-W-3."""

    def work(connection: ServerSocket) -> None:
        connection.accept("Sec-WebSocket-Protocol: chat")

    client = WebSocketClient(websocket_scope(subprotocols=["superchat", "chat"]))
    async with serving(Told(work, accepts=False).app) as bridge:
        await answered(bridge, client)
    assert client.messages[0] == {
        "type": "websocket.accept",
        "subprotocol": "chat",
        "headers": [],
    }


WRONG_HEADS: dict[str, tuple[Callable[[ServerSocket], bytes], str]] = {
    "a subprotocol that was not offered": (
        lambda connection: connection.head("Sec-WebSocket-Protocol: other"),
        "subprotocol 'other'",
    ),
    "an extension": (
        lambda connection: connection.head("Sec-WebSocket-Extensions: permessage-deflate"),
        "extension",
    ),
    "another status": (lambda connection: connection.head(status="403 Forbidden"), "403"),
    "no HTTP": (lambda connection: b"hello\r\n\r\n", "status line"),
    "a header that is none": (lambda connection: connection.head("no colon"), "no colon"),
    "no end": (lambda connection: b"HTTP/1.1 101 \r\n" + b"x" * 70_000, "no end of a head"),
}


@pytest.mark.parametrize(("head", "words"), WRONG_HEADS.values(), ids=WRONG_HEADS)
async def test_a_head_that_cannot_be_passed_on(head: Any, words: str) -> None:
    """WS-W-3: the app's error, where it was written; the client is not accepted."""

    def work(connection: ServerSocket) -> None:
        connection.sock.send(head(connection))

    client = WebSocketClient(websocket_scope(subprotocols=["chat"], **HTTP_RESPONSE))
    async with serving(Told(work, accepts=False).app) as bridge:
        await client.run(bridge)
        assert bridge.stats().failed == 1
    assert isinstance(client.error, AppError)
    assert words in str(client.error)
    assert client.messages == []


async def test_the_handshake_after_the_client_has_left() -> None:
    """WS-W-7: the write finds it, as with a real connection."""
    entered, gate = Gate(), Gate()

    def work(connection: ServerSocket) -> None:
        entered.open()
        gate.wait_in_thread()
        assert connection.sock.recv(10) == b""
        with pytest.raises(BrokenPipeError):
            connection.accept()

    client, told = WebSocketClient(), Told(work, accepts=False)
    async with serving(told.app) as bridge, calling(bridge, client):
        await entered.wait()
        client.leave()
        await client.until_ended()
        gate.open()
    assert told == [None]
    assert client.error is None


async def test_the_client_leaves_in_the_moment_of_the_handshake() -> None:
    """WS-W-3, WS-W-7: the write of the head has succeeded; what follows finds the end."""
    left = threading.Event()

    def work(connection: ServerSocket) -> Any:
        call = connection.sock._call
        accept = call.accept

        class Slow:
            """The call, whose accept() returns when the client has left."""

            def __getattr__(self, name: str) -> Any:
                return getattr(call, name)

            def accept(self, *args: Any) -> None:
                accept(*args)
                assert left.wait(10)

        connection.sock._call = Slow()
        connection.accept()
        frames = connection.read_all()
        with pytest.raises(BrokenPipeError):
            connection.send("late")
        return frames

    client, told = WebSocketClient(), Told(work, accepts=False)
    async with serving(told.app) as bridge, calling(bridge, client):
        await client.until_accepted()
        client.close(4000, "enough")
        await settle()
        left.set()
    assert told == [[(CLOSE, b"\x0f\xa0enough")]]
    assert client.error is None


# --- messages


MESSAGES: list[str | bytes] = ["text", b"binary", "", b"", "Zürich 💜", "x" * 70_000, b"y" * 300]


@pytest.mark.parametrize("receive_bytes", [1, 100, 4096, 1_000_000])
async def test_messages_both_ways(receive_bytes: int) -> None:
    """WS-W-9: of every length, empty ones too, read in whatever pieces."""
    messages = MESSAGES if receive_bytes > 1 else MESSAGES[:5]

    def app(environ: Environ, start_response: Any) -> Any:
        return ServerSocket(environ, receive_bytes=receive_bytes).accept().echo()

    client = WebSocketClient()
    async with serving(app) as bridge, calling(bridge, client):
        client.say(*messages)
        assert await client.until_heard(len(messages)) == messages
        client.close(4000, "enough")
        await client.until_ended()
        assert bridge.stats().completed == 1


async def test_fragments_are_joined() -> None:
    """WS-W-9: with a ping between them, and cut in the middle of a character."""
    encoded = "Zürich".encode()

    def work(connection: ServerSocket) -> None:
        connection.write(
            frame(TEXT, encoded[:2], last=False),
            frame(PING, b"still there?"),
            frame(CONTINUATION, b"", last=False),
            frame(CONTINUATION, encoded[2:]),
            frame(BINARY, b"1", last=False),
        )
        connection.write(frame(CONTINUATION, b"2"))
        assert connection.read() == (PONG, b"still there?")

    client, told = WebSocketClient(), Told(work)
    async with serving(told.app) as bridge:
        await answered(bridge, client)
    assert client.heard == ["Zürich", b"12"]
    assert told == [None]


WRONG_FRAMES = {
    "text that is not UTF-8": frame(TEXT, b"\xff"),
    "fragments that are not UTF-8": frame(TEXT, b"\xc3", last=False) + frame(CONTINUATION, b"\x28"),
    "a masked frame": b"\x81\x81\0\0\0\0a",
    "an extension's bit": b"\xc1\x01a",
    "an unknown opcode": b"\x83\x00",
    "a continuation of nothing": frame(CONTINUATION, b"a"),
    "a close code that no wire has": close_frame(1006),
    "a close code of one byte": frame(CLOSE, b"a"),
}


@pytest.mark.parametrize("wrong", WRONG_FRAMES.values(), ids=WRONG_FRAMES)
async def test_a_frame_that_cannot_be_passed_on(wrong: bytes) -> None:
    """WS-W-5, WS-W-9: 1011 behind what came before it, and the app's error."""

    def work(connection: ServerSocket) -> None:
        connection.write(frame(TEXT, b"before"), wrong)

    client = WebSocketClient()
    async with serving(Told(work).app) as bridge:
        await client.run(bridge)
        assert bridge.stats().failed == 1
    assert isinstance(client.error, AppError)
    assert client.heard == ["before"]
    assert client.closed_with == (1011, "")


async def test_pings_are_answered_while_the_reader_sleeps() -> None:
    """WS-W-8: in order with what the client says; pongs of the app go nowhere."""
    answered_ping, ponged = threading.Event(), Gate()

    def work(connection: ServerSocket) -> list[Any]:
        frames: list[Any] = []

        def read() -> None:
            frames.append(connection.read())
            answered_ping.set()
            frames.append(connection.read())

        reader = threading.Thread(target=read)
        reader.start()
        connection.write(frame(PONG, b"unasked"), frame(PING, b"one"))
        assert answered_ping.wait(10)
        ponged.open()
        reader.join(10)
        return frames

    client, told = WebSocketClient(), Told(work)
    async with serving(told.app) as bridge, calling(bridge, client):
        await ponged.wait()
        client.say("hello")
    assert told == [[(PONG, b"one"), (TEXT, b"hello")]]
    assert client.heard == []


async def test_writers_of_several_threads() -> None:
    """WS-W-9: simple-websocket writes from any thread, without a lock of its own."""
    threads, each = 4, 25

    def work(connection: ServerSocket) -> None:
        def write(number: int) -> None:
            for text in range(each):
                connection.send(f"{number} {text}")

        writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()

    client = WebSocketClient()
    async with serving(Told(work).app, response_buffer=2000) as bridge:
        await answered(bridge, client)
    for number in range(threads):
        own = [text for text in client.heard if str(text).startswith(f"{number} ")]
        assert own == [f"{number} {text}" for text in range(each)]
    assert len(client.heard) == threads * each


# --- the app closes


@pytest.mark.parametrize(
    ("written", "code", "echo"),
    [
        (close_frame(1000), (1000, ""), (CLOSE, b"\x03\xe8")),
        (close_frame(4000, "enough"), (4000, "enough"), (CLOSE, b"\x0f\xa0enough")),
        (close_frame(1001), (1001, ""), (CLOSE, b"\x03\xe9")),
        (frame(CLOSE), (1000, ""), (CLOSE, b"\x03\xe8")),
    ],
)
async def test_the_app_closes(written: bytes, code: Any, echo: Any) -> None:
    """WS-W-6: code and reason go on, and its library reads the echo and the end."""

    def work(connection: ServerSocket) -> Any:
        connection.write(written)
        frames = connection.read_all()
        assert connection.sock.recv(1) == b""
        return frames

    client, told = WebSocketClient(), Told(work)
    async with serving(told.app) as bridge:
        await answered(bridge, client)
        assert bridge.stats().completed == 1
    assert client.closed_with == code
    assert told == [[echo]]


async def test_a_reader_that_sleeps_when_the_app_closes() -> None:
    """WS-W-6: it would hang, as simple-websocket's thread."""

    def work(connection: ServerSocket) -> Any:
        frames: list[Any] = []
        reader = threading.Thread(target=lambda: frames.extend(connection.read_all()))
        reader.start()
        connection.send("hello")
        connection.close()
        reader.join(10)
        return frames

    client, told = WebSocketClient(), Told(work)
    async with serving(told.app) as bridge:
        await answered(bridge, client)
    assert told == [[(CLOSE, b"\x03\xe8")]]


async def test_what_came_before_the_close_is_read_before_its_echo() -> None:
    """WS-W-6."""
    gate = Gate()

    def work(connection: ServerSocket) -> Any:
        connection.send("hello")
        gate.wait_in_thread()
        connection.close()
        return connection.read_all()

    client, told = WebSocketClient(), Told(work)
    async with serving(told.app) as bridge, calling(bridge, client):
        await client.until_heard(1)
        client.say("before")
        await settle()
        gate.open()
    assert told == [[(TEXT, b"before"), (CLOSE, b"\x03\xe8")]]


@pytest.mark.parametrize("how", ["close", "shutdown", "with"])
async def test_a_socket_that_is_closed_without_a_close_frame(how: str) -> None:
    """WS-W-5: the app has broken off."""

    def work(connection: ServerSocket) -> None:
        connection.send("hello")
        if how == "close":
            connection.sock.close()
            connection.sock.close()
        elif how == "shutdown":
            connection.sock.shutdown(2)
        else:
            with connection.sock:
                pass
        with pytest.raises(OSError, match="closed"):
            connection.send("late")

    client, told = WebSocketClient(), Told(work)
    async with serving(told.app) as bridge:
        await answered(bridge, client)
    assert client.heard == ["hello"]
    assert client.closed_with == (1011, "")
    assert told == [None]


# --- the client closes


@pytest.mark.parametrize(
    ("code", "reason", "last"),
    [
        (1000, "", (CLOSE, b"\x03\xe8")),
        (4000, "enough", (CLOSE, b"\x0f\xa0enough")),
        (1001, None, (CLOSE, b"\x03\xe9")),
        (1005, "", (CLOSE, b"")),
        (None, None, (CLOSE, b"")),
        (1006, "", None),
        (1015, "", None),
    ],
)
async def test_the_client_closes(code: Any, reason: Any, last: Any) -> None:
    """WS-W-7: after what it said before; then the end, and writes find it."""
    gate = Gate()

    def work(connection: ServerSocket) -> Any:
        gate.wait_in_thread()
        frames = connection.read_all()
        connection.write(frame(CLOSE))  # the library's answer
        for written in (frame(TEXT, b"late"), frame(PING)):
            with pytest.raises(BrokenPipeError):
                connection.write(written)
        return frames

    client, told = WebSocketClient(), Told(work)
    async with serving(told.app) as bridge, calling(bridge, client):
        await client.until_accepted()
        client.say("one", b"two")
        client.close(code, reason)
        await settle()
        gate.open()
    assert told == [[(TEXT, b"one"), (BINARY, b"two"), *([last] if last else [])]]
    assert client.error is None


async def test_the_bridge_is_closed() -> None:
    """WS-W-5: the library reads a close frame with 1001, and answers it."""
    client = WebSocketClient()
    async with serving(echoing) as bridge, calling(bridge, client):
        client.say("hello")
        await client.until_heard(1)
        await bridge.aclose()
    assert client.closed_with == (1001, "the server is shutting down")
    assert client.error is None


async def test_a_thread_that_reads_on_after_the_app_has_returned() -> None:
    """WS-W-12."""
    read, done = [], Gate()

    def work(connection: ServerSocket) -> None:
        waiting = threading.Event()

        def stay() -> None:
            waiting.set()
            read.append(connection.sock.recv(4096))
            done.open()

        threading.Thread(target=stay).start()
        waiting.wait()

    client = WebSocketClient()
    async with serving(Told(work).app) as bridge, calling(bridge, client):
        await done.wait()
    assert read == [b""]
    assert client.closed_with == (1000, "")


# --- back-pressure


@pytest.mark.parametrize("own_limit", [0.05, None])
async def test_a_client_that_does_not_read(own_limit: float | None) -> None:
    """WS-W-10: the writer sleeps, up to its own time-out, or `stall_timeout`."""
    given_up = Gate()

    def work(connection: ServerSocket) -> BaseException:
        connection.sock.settimeout(own_limit)
        try:
            while True:
                connection.send(b"x" * 1000)
        except OSError as error:
            given_up.open()
            return error

    client, told = WebSocketClient(reads=1), Told(work)
    options = {"response_buffer": 5000, "stall_timeout": 0.3 if own_limit is None else 60.0}
    async with serving(told.app, **options) as bridge, calling(bridge, client):
        await given_up.wait()
        if own_limit is not None:
            client.read_on()
    if own_limit is None:
        assert isinstance(told[0], ClientStalled | ClientDisconnected)
        assert isinstance(client.error, ClientStalled)
    else:
        assert type(told[0]) is TimeoutError
        assert client.closed_with == (1000, "")


async def test_a_write_waits_though_reads_do_not() -> None:
    """WS-W-10: of a socket with a time-out of 0 too; a part of what was written would be lost."""
    messages = [b"x" * 1000] * 20

    def work(connection: ServerSocket) -> None:
        connection.sock.setblocking(False)
        # In one write: its first frames alone would fill the buffer.
        connection.sock.send(b"".join(frame(BINARY, message) for message in messages))

    client, told = WebSocketClient(reads=1), Told(work)
    async with serving(told.app, response_buffer=5000) as bridge, calling(bridge, client):
        await client.until_accepted()
        client.read_on()
        assert await client.until_heard(20) == messages
    assert client.closed_with == (1000, "")
