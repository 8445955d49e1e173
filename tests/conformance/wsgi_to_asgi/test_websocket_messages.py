"""WS-W-10 and `wsgi.websocket`: messages both ways, and what waits when one side does not read."""

import logging
import threading
from typing import Any

import pytest

from tests.support.fake_asgi_server import (
    Gate,
    answered,
    calling,
    serving,
    settle,
    tick,
    websocket_scope,
)
from tests.support.fake_websocket import WebSocketClient, echoing
from wsgi_asgi_bridge import ClientStalled, WSGIToASGI
from wsgi_asgi_bridge.wsgi_to_asgi.websocket_call import MESSAGE_BYTES

Environ = dict[str, Any]

MESSAGES: list[str | bytes] = [
    "text",
    b"binary",
    "",
    b"",
    "Zürich 💜",
    bytes(range(256)),
    "x" * 1_000_000,
    b"y" * 1_000_000,
]


async def test_messages_come_back_as_they_were_sent() -> None:
    """WS-W-10: text and binary, empty and large, in order."""
    client = WebSocketClient()
    async with serving(echoing) as bridge, calling(bridge, client):
        client.say(*MESSAGES)
        assert await client.until_heard(len(MESSAGES)) == MESSAGES
        client.close()
        await client.until_ended()
        assert bridge.stats().completed == 1


# --- gevent-websocket's API


async def test_the_attributes_of_a_handshake() -> None:
    """WS-W-2."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        told.extend((websocket.path, websocket.origin, websocket.protocol, websocket.version))
        told.append(websocket.closed)
        websocket.send("hello")
        websocket.close()
        told.append(websocket.closed)
        return []

    scope = websocket_scope("/chat", subprotocols=["a", "b"])
    scope["headers"].append((b"origin", b"http://example.test"))
    client = WebSocketClient(scope)
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert told == ["/chat", "http://example.test", "a, b", "13", False, True]


@pytest.mark.parametrize(
    ("sent", "options", "heard"),
    [
        ("text", {}, "text"),
        (b"binary", {}, b"binary"),
        (bytearray(b"binary"), {}, b"binary"),
        (memoryview(b"binary"), {}, b"binary"),
        ("text", {"binary": False}, "text"),
        ("Zürich".encode(), {"binary": False}, "Zürich"),
        (bytearray(b"text"), {"binary": False}, "text"),
        (5, {"binary": False}, "5"),
    ],
)
async def test_what_send_takes(sent: Any, options: Any, heard: Any) -> None:
    """WS-W-4."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send(sent, **options)
        return []

    client = WebSocketClient()
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert client.heard == [heard]


async def test_text_that_cannot_be_sent_is_the_apps_error() -> None:
    """WS-W-5: it is raised where it was made, and the server never sees it."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        for text in ("\ud800", b"\xff"):
            try:
                websocket.send(text, binary=False)
            except UnicodeError as error:
                told.append(type(error))
        websocket.send("still there")
        return []

    client = WebSocketClient()
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert told == [UnicodeEncodeError, UnicodeDecodeError]
    assert client.heard == ["still there"]


async def test_frames_by_their_opcode() -> None:
    """WS-W-4: send_frame() of text, binary and close; a ping is the server's own affair."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send_frame("text", websocket.OPCODE_TEXT)
        websocket.send_frame(b"binary", websocket.OPCODE_BINARY)
        websocket.send_frame(b"", websocket.OPCODE_PING)
        websocket.send_frame("bye", websocket.OPCODE_CLOSE)
        return []

    client = WebSocketClient()
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert client.heard == ["text", b"binary"]
    assert client.closed_with == (1000, "bye")


async def test_what_is_received() -> None:
    """WS-W-7: `str`, `bytearray`, None at the end, and an OSError after it."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        for _ in range(3):
            told.append(websocket.receive())
        told.append(websocket.closed)
        for call in (websocket.receive, lambda: websocket.send("late")):
            with pytest.raises(OSError, match=r"closed|dead"):
                call()
        websocket.close()
        return []

    client = WebSocketClient()
    async with serving(app) as bridge, calling(bridge, client):
        await client.until_accepted()
        client.say("text", b"binary")
        client.close()
    assert told == ["text", b"binary", None, True]
    assert type(told[1]) is bytearray
    assert client.error is None


async def test_many_threads_of_the_app_send_and_receive() -> None:
    """WS-W-10: no message is lost or doubled."""
    threads, each = 4, 25

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send("hello")

        def work() -> None:
            for _ in range(each):
                websocket.send(websocket.receive())

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return []

    client = WebSocketClient()
    async with serving(app) as bridge, calling(bridge, client):
        await client.until_heard(1)
        client.say(*(str(number) for number in range(threads * each)))
        await client.until_closed()
    heard = client.heard[1:]
    assert sorted(heard, key=int) == [str(number) for number in range(threads * each)]


# --- back-pressure


async def test_a_client_that_does_not_read_holds_the_sender() -> None:
    """WS-W-10: no more than `response_buffer` waits, then the app's thread sleeps."""
    size, budget = 1000, 10 * (1000 + MESSAGE_BYTES)
    sent: list[int] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        for number in range(100):
            environ["wsgi.websocket"].send(b"x" * size)
            sent.append(number)
        return []

    client = WebSocketClient(reads=1)  # the handshake
    async with serving(app, response_buffer=budget) as bridge, calling(bridge, client):
        await client.until(lambda client: client.blocked_in_send and client.accepted)
        while len(sent) < 10:
            await settle()
        await settle()
        assert len(sent) == 10
        client.read_on()
        await client.until_closed()
    assert len(client.heard) == 100


async def test_a_client_that_reads_nothing_is_given_up(caplog: Any) -> None:
    """WS-W-10: after `stall_timeout` the sender is freed, and the server gets ClientStalled."""
    told: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            while True:
                environ["wsgi.websocket"].send(b"x" * 1000)
        except OSError as error:
            told.append(error)
        return []

    client = WebSocketClient(reads=1)
    async with serving(app, response_buffer=5000, stall_timeout=0.2) as bridge:
        async with calling(bridge, client):
            await client.until_ended()
        assert bridge.stats().stalled == 1
        assert isinstance(client.error, ClientStalled)
    assert isinstance(told[0], ClientStalled | BrokenPipeError)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_silence_is_no_stall() -> None:
    """WS-W-10: only a send() that takes too long is one."""
    client = WebSocketClient()
    async with serving(echoing) as bridge, calling(bridge, client):
        client.say("one")
        await client.until_heard(1)
        await settle()
        tick(bridge, 0.0, 1000.0)
        await settle()
        client.say("two")
        assert await client.until_heard(2) == ["one", "two"]
        client.close()
    assert client.error is None


async def test_an_app_that_does_not_receive_holds_the_client() -> None:
    """WS-W-10: no more than `request_buffer` waits, then receive() is not called."""
    size, budget = 1000, 10 * (1000 + MESSAGE_BYTES)
    entered, gate = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send("hello")
        entered.open()
        gate.wait_in_thread()
        return echoing(environ, start_response)

    client = WebSocketClient()
    async with serving(app, request_buffer=budget) as bridge, calling(bridge, client):
        await entered.wait()
        before = client.receive_calls
        client.say(*([b"x" * size] * 100))
        await settle()
        assert not client.waiting_in_receive
        assert client.receive_calls - before in (9, 10)  # the first may have been waiting
        gate.open()
        await client.until_heard(101)
        client.close()


@pytest.mark.parametrize("direction", ["in", "out"])
async def test_the_loop_gets_its_turn_after_each_budget(direction: str) -> None:
    """WS-W-10, W-FLOW-7: also if the server's receive() and send() never wait."""
    count, budget = 1000, 10 * MESSAGE_BYTES
    messages: list[Any] = []
    said: list[Any] = [{"type": "websocket.connect"}]
    said += [{"type": "websocket.receive", "text": ""}] * (count if direction == "in" else 0)
    said += [{"type": "websocket.disconnect", "code": 1000}] * (direction == "in")
    turns: list[int] = []
    done = Gate()

    async def receive() -> Any:
        if not said:
            await done.wait()
        return said.pop(0)

    async def send(message: Any) -> None:
        messages.append(message)

    def receiving(environ: Environ, start_response: Any) -> list[bytes]:
        while environ["wsgi.websocket"].receive() is not None:
            pass
        return []

    def sending(environ: Environ, start_response: Any) -> list[bytes]:
        for _ in range(count):
            environ["wsgi.websocket"].send("")
        return []

    app = receiving if direction == "in" else sending
    async with serving(app, request_buffer=budget, response_buffer=budget) as bridge:
        original = bridge._runtime().handle.checkpoint

        async def counting() -> None:
            turns.append(1)
            await original()

        bridge._runtime().handle.checkpoint = counting
        await bridge(websocket_scope(), receive, send)
        done.open()
    assert len(turns) >= count // 11 - 1


# --- the size of a message


LIMITS = [
    pytest.param(b"x" * 100, True, id="binary at the limit"),
    pytest.param(b"x" * 101, False, id="binary above it"),
    pytest.param("x" * 100, True, id="text at the limit"),
    pytest.param("x" * 101, False, id="text above it"),
    pytest.param("ü" * 50, True, id="text of as many bytes"),
    pytest.param("ü" * 51, False, id="text of more bytes"),
    pytest.param("💜" * 25, True, id="wide text of as many bytes"),
]


@pytest.mark.parametrize(("payload", "fits"), LIMITS)
async def test_a_message_above_the_limit_closes_the_websocket(payload: Any, fits: bool) -> None:
    """WS-W-10: `max_message_size`, in bytes; the app reads what came before, then the end."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        while (message := websocket.receive()) is not None:
            told.append(message)
            websocket.send("got it")
        return []

    client = WebSocketClient()
    async with serving(app, max_message_size=100) as bridge, calling(bridge, client):
        client.say("before", payload)
        if fits:
            await client.until_heard(2)
            client.close()
        else:
            await client.until_closed()
            await client.until_ended()
            assert bridge.stats().rejected == 1
    assert client.error is None
    assert told == (["before", payload] if fits else ["before"])
    if not fits:
        assert client.closed_with == (1009, "a message may have 100 bytes")


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_limit_that_makes_no_sense(limit: Any, error: type[Exception]) -> None:
    """WS-W-10."""
    with pytest.raises(error, match="max_message_size"):
        WSGIToASGI(echoing, max_message_size=limit)
