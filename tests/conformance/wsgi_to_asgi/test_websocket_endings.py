"""WS-W-5, WS-W-7, WS-W-12: the endings of a WebSocket, by whom and with which code.

After each, no thread, task or file is left, the pool counts nothing, and nobody refers to the port.
"""

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Gate,
    Lifespan,
    calling,
    settle,
)
from tests.support.fake_websocket import WebSocketClient, echoing
from tests.support.websocket_endings import AppsOwnError, Ports, counted, ended_by, row, taken_error
from wsgi_asgi_bridge import BridgeClosed, WSGIToASGI

Environ = dict[str, Any]
App = Callable[[Environ, Any], Any]


# --- the app ends it


def _returns(websocket: Any) -> None:
    websocket.send("hello")


def _raises(websocket: Any) -> None:
    websocket.send("hello")
    raise AppsOwnError


def _closes(websocket: Any) -> None:
    websocket.send("hello")
    websocket.close(4000, "enough")


def _closes_without_a_reason(websocket: Any) -> None:
    websocket.send("hello")
    websocket.close()


def _closes_by_a_code_that_no_wire_has(websocket: Any) -> None:
    websocket.send("hello")
    websocket.close(1006, "lost")


def _closes_with_a_long_reason(websocket: Any) -> None:
    websocket.send("hello")
    websocket.close(1000, "ü" * 100)


def _closes_and_raises(websocket: Any) -> None:
    websocket.send("hello")
    websocket.close(4000, "enough")
    raise AppsOwnError


def _raises_before_it_has_sent(websocket: Any) -> None:
    websocket._accept()
    raise AppsOwnError


BY_THE_APP = [
    (_returns, (1000, ""), None),
    (_raises, (1011, ""), AppsOwnError),
    (_closes, (4000, "enough"), None),
    (_closes_without_a_reason, (1000, ""), None),
    (_closes_by_a_code_that_no_wire_has, (1011, "lost"), None),
    (_closes_with_a_long_reason, (1000, "ü" * 61), None),
    (_closes_and_raises, (4000, "enough"), AppsOwnError),
    (_raises_before_it_has_sent, (1011, ""), AppsOwnError),
]


@pytest.mark.parametrize(("ends", "code", "error"), BY_THE_APP)
async def test_the_app_ends_it(ports: Ports, ends: Any, code: Any, error: Any) -> None:
    """WS-W-5: what was sent goes out before the close; an error is raised as it is."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        ends(environ["wsgi.websocket"])
        return []

    client = await ended_by(app, ports, code, error)
    assert client.heard == ([] if ends is _raises_before_it_has_sent else ["hello"])


@pytest.mark.parametrize(
    ("status", "code"),
    [("200 OK", 1000), ("404 Not Found", 1000), ("500 Oops", 1011), ("599", 1011)],
)
async def test_the_ignored_status_of_an_error_page(ports: Ports, status: str, code: int) -> None:
    """WS-W-5: frameworks answer by it when a view has raised."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("hello")
        start_response(status, [("Content-Type", "text/html")])
        return [b"a page"]

    client = WebSocketClient()
    async with row(app, ports) as bridge:
        await client.run(bridge)
    assert client.closed_with == (code, "")
    assert client.error is None


async def test_the_app_goes_on_after_its_close(ports: Ports) -> None:
    """WS-W-5: the close goes out at once; the exchange ends with the app's call."""
    gate = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].close(4000, "enough")
        gate.wait_in_thread()
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        assert await client.until_closed() == (4000, "enough")
        await settle()
        assert not client.ended
        assert bridge.stats().in_flight == 1
        gate.open()


# --- the client ends it


@pytest.mark.parametrize(
    ("code", "counter"),
    [
        *((code, "completed") for code in (1000, 1001, 1011, 4000, None)),
        *((code, "disconnected") for code in (1006, 1015)),
    ],
)
async def test_the_client_closes(ports: Ports, code: int | None, counter: str) -> None:
    """WS-W-7: what it said before is received first; nothing is sent any more."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        while (message := websocket.receive()) is not None:
            told.append(message)
        try:
            environ["wsgi.websocket"].send("late")
        except BrokenPipeError as error:
            told.append(type(error).__name__)
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        await client.until_accepted()
        client.say("one", "two")
        client.close(code)
        await client.until_ended()
        assert counted(bridge) == {counter: 1}
    assert told == ["one", "two", "BrokenPipeError"]
    assert client.kinds == ["websocket.accept"]
    assert client.error is None


async def test_the_client_vanishes_while_the_app_waits(ports: Ports) -> None:
    """WS-W-7."""
    client = WebSocketClient()
    async with row(echoing, ports) as bridge, calling(bridge, client):
        client.say("one")
        await client.until_heard(1)
        client.leave()
        await client.until_ended()
        assert counted(bridge) == {"disconnected": 1}
    assert client.error is None


@pytest.mark.parametrize("raised", [BrokenPipeError, ConnectionResetError, OSError])
async def test_a_send_that_raises(ports: Ports, raised: type[OSError]) -> None:
    """WS-W-7: the client is gone; the app finds it when it sends or receives."""
    client = WebSocketClient(send_fails_at=2, send_error=raised)
    async with row(echoing, ports) as bridge, calling(bridge, client):
        client.say("one", "two")
        await client.until_ended()
        assert counted(bridge) == {"disconnected": 1}
    assert client.heard == ["one"]
    assert client.error is None


async def test_a_send_that_raises_for_another_reason(ports: Ports) -> None:
    """WS-W-7: a server's refusal of a message is no disconnect: it is raised."""
    client = WebSocketClient(send_fails_at=2, send_error=RuntimeError)  # type: ignore[arg-type]
    async with row(echoing, ports) as bridge, calling(bridge, client):
        client.say("one", "two")
        await client.until_ended()
        assert counted(bridge) == {"failed": 1}
        assert isinstance(taken_error(client), RuntimeError)


async def test_a_send_that_refuses_the_close_of_an_app_that_raised(ports: Ports) -> None:
    """WS-W-5: Daphne refuses 1011; the app's error is raised all the same, and closes there."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("hello")
        raise AppsOwnError

    client = WebSocketClient(send_fails_at=2, send_error=RuntimeError)  # type: ignore[arg-type]
    async with row(app, ports) as bridge:
        await client.run(bridge)
        assert counted(bridge) == {"failed": 1}
        assert isinstance(taken_error(client), AppsOwnError)


async def test_a_receive_that_raises(ports: Ports) -> None:
    """WS-W-7: taken for a disconnect."""
    client = WebSocketClient()
    receive = client.receive

    async def failing() -> Any:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            raise RuntimeError("the server's own")
        return message

    client.receive = failing  # type: ignore[method-assign]
    async with row(echoing, ports) as bridge, calling(bridge, client):
        client.say("one")
        await client.until_heard(1)
        client.leave()
        await client.until_ended()
        assert counted(bridge) == {"disconnected": 1}
    client.receive = None  # type: ignore[method-assign, assignment]
    assert client.error is None


async def test_an_error_of_the_app_after_the_client_has_left(ports: Ports) -> None:
    """WS-W-5: it is raised all the same; an OSError is what sockets end by."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        while websocket.receive() is not None:
            pass
        raise OSError("dead") if environ["PATH_INFO"] == "/" else AppsOwnError

    for path, error in (("/", None), ("/own", AppsOwnError)):
        client = WebSocketClient()
        client.scope["path"], client.scope["raw_path"] = path, path.encode()
        async with row(app, ports) as bridge, calling(bridge, client):
            await client.until_accepted()
            client.close()
            await client.until_ended()
            assert counted(bridge) == {"failed" if error else "completed": 1}
            assert type(taken_error(client)) is (error or type(None))


async def test_the_client_leaves_while_its_handshake_waits(ports: Ports) -> None:
    """WS-W-1, W-FLOW-4: one that waits for a thread never takes one."""
    entered, gate, calls = Gate(), Gate(), []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        calls.append(1)
        entered.open()
        gate.wait_in_thread()
        environ["wsgi.websocket"].close()
        return []

    first, second = WebSocketClient(), WebSocketClient()
    async with row(app, ports, workers=1) as bridge, calling(bridge, first):
        await entered.wait()
        async with calling(bridge, second):
            await second.until(lambda client: client.waiting_in_receive)
            second.leave()
        assert counted(bridge) == {"disconnected": 1}
        gate.open()
    assert (calls, second.messages, second.error) == ([1], [], None)


async def test_the_client_leaves_before_the_app_accepts(ports: Ports) -> None:
    """WS-W-7: the app's first use finds the end."""
    entered, gate, told = Gate(), Gate(), []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        told.append(environ["wsgi.websocket"].receive())
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        await entered.wait()
        client.leave()
        await client.until_ended()
        assert counted(bridge) == {"disconnected": 1}
        gate.open()
    assert told == [None]
    assert (client.messages, client.error) == ([], None)


# --- the buffers are full


def sending_until_refused(told: list[str]) -> App:
    """The app sends for ever, and tells what it is refused by."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            while True:
                environ["wsgi.websocket"].send(b"x" * 1000)
        except BrokenPipeError as error:
            told.append(type(error).__name__)
        return []

    return app


async def test_the_client_leaves_while_a_sender_waits(ports: Ports) -> None:
    """WS-W-7, WS-W-10: the sender is freed at once."""
    told: list[str] = []
    client = WebSocketClient(reads=1)
    async with (
        row(sending_until_refused(told), ports, response_buffer=100_000) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda client: client.blocked_in_send and client.accepted)
        await settle()
        client.leave()
        await client.until_ended()
        assert counted(bridge) == {"disconnected": 1}
    assert len(told) == 1
    assert client.error is None
    assert client.send_calls < 10, "what was to be sent is dropped"


async def test_the_client_leaves_while_a_send_hangs(ports: Ports) -> None:
    """WS-W-7, WS-W-10: it is no stall then, and the server need not return from it."""
    hangs = anyio.Event()

    class Hanging(WebSocketClient):
        async def send(self, message: Any) -> None:
            if message["type"] == "websocket.send":
                hangs.set()
                await anyio.sleep_forever()
            await super().send(message)

    client = Hanging()
    async with (
        row(sending_until_refused([]), ports, stall_timeout=60.0) as bridge,
        calling(bridge, client),
    ):
        await hangs.wait()
        client.leave()
        await client.until_ended()
        assert counted(bridge) == {"disconnected": 1}
    assert client.error is None


async def test_the_client_leaves_while_what_it_said_waits(ports: Ports) -> None:
    """WS-W-7, WS-W-10: the app receives all of it, then the end."""
    entered, gate, told = Gate(), Gate(), []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send("hello")
        entered.open()
        gate.wait_in_thread()
        while (message := websocket.receive()) is not None:
            told.append(message)
        return []

    client = WebSocketClient()
    async with row(app, ports, request_buffer=5000) as bridge, calling(bridge, client):
        await entered.wait()
        client.say(*([b"x" * 1000] * 20))
        client.close()
        await settle()
        gate.open()
    assert len(told) == 20
    assert client.error is None


async def test_the_app_returns_while_what_was_said_waits(ports: Ports) -> None:
    """WS-W-5, WS-W-10: it is dropped; the feeding task ends."""
    entered, gate = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("hello")
        entered.open()
        gate.wait_in_thread()
        return []

    client = WebSocketClient()
    async with row(app, ports, request_buffer=5000) as bridge, calling(bridge, client):
        await entered.wait()
        client.say(*([b"x" * 1000] * 20))
        await settle()
        gate.open()
    assert client.closed_with == (1000, "")


# --- the bridge ends it


@pytest.mark.parametrize("how", ["close", "aclose", "lifespan"])
async def test_shutdown(ports: Ports, how: str) -> None:
    """WS-W-5: 1001 at the start, after what was sent; the app reads the end and returns."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        while (message := websocket.receive()) is not None:
            websocket.send(message)
        told.append("the end")
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        client.say("one")
        await client.until_heard(1)
        assert bridge.stats().websockets == 1
        await _shut_down(bridge, how)
        await client.until_ended()
        assert counted(bridge) == {"closed": 1}
        assert told == ["the end"]
    assert client.closed_with == (1001, "the server is shutting down")
    assert client.error is None


async def _shut_down(bridge: WSGIToASGI, how: str) -> None:
    if how == "close":
        await anyio.to_thread.run_sync(bridge.close)
    elif how == "aclose":
        await bridge.aclose()
    else:
        lifespan = Lifespan()
        async with anyio.create_task_group() as group:
            group.start_soon(lifespan.run, bridge)
            assert await lifespan.startup() == "lifespan.startup.complete"
            assert await lifespan.shutdown() == "lifespan.shutdown.complete"


async def test_shutdown_with_an_app_that_does_not_end(ports: Ports) -> None:
    """WS-W-5: 1001 is sent at the start; after `shutdown_timeout` the server gets BridgeClosed."""
    gate, accepted = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("hello")
        accepted.open()
        gate.wait_in_thread()
        return []

    client = WebSocketClient()
    async with row(app, ports, shutdown_timeout=0.1) as bridge:
        async with calling(bridge, client):
            await accepted.wait()
            async with anyio.create_task_group() as group:
                group.start_soon(bridge.aclose)
                assert await client.until_closed() == (1001, "the server is shutting down")
                await client.until_ended()
                assert counted(bridge) == {"closed": 1}
        gate.open()
        assert isinstance(taken_error(client), BridgeClosed)
        with anyio.fail_after(DEADLINE_SECONDS):
            while bridge.stats().threads:  # noqa: ASYNC110  # no event tells of its end
                await anyio.sleep(0.002)


async def test_shutdown_while_a_sender_waits(ports: Ports) -> None:
    """WS-W-5, WS-W-10: the sender is freed, what it had put before goes out, then 1001."""
    told: list[str] = []
    client = WebSocketClient(reads=1)
    async with (
        row(sending_until_refused(told), ports, response_buffer=5000) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda client: client.blocked_in_send and client.accepted)
        await settle()
        async with anyio.create_task_group() as group:
            group.start_soon(bridge.aclose)
            await settle()
            client.read_on()
    assert len(told) == 1
    assert client.heard
    assert client.closed_with == (1001, "the server is shutting down")


async def test_shutdown_before_the_handshake(ports: Ports) -> None:
    """WS-W-5: the app's handshake comes too late and is answered 503."""
    entered, gate = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        environ["wsgi.websocket"].send("hello")
        return []

    client = WebSocketClient()
    client.scope["extensions"] = {"websocket.http.response": {}}
    async with row(app, ports) as bridge, calling(bridge, client):
        await entered.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(bridge.aclose)
            await settle()
            gate.open()
        await client.until_ended()
        assert counted(bridge) == {"rejected": 1}
    assert client.status == 503
    assert client.error is None


@pytest.mark.parametrize("where", ["receiving", "sending", "computing", "before the handshake"])
async def test_the_server_cancels_the_task(ports: Ports, where: str) -> None:
    """W-FLOW-6: the app's thread is freed as by a disconnect."""
    entered, gate, told = Gate(), Gate(), []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        if where == "before the handshake":
            entered.open()
            gate.wait_in_thread()
        try:
            websocket.send("hello")
            entered.open()
            if where == "computing":
                gate.wait_in_thread()
            while where == "sending":
                websocket.send("x" * 1000)
            told.append(websocket.receive())
        except BrokenPipeError as error:
            told.append(type(error).__name__)
        return []

    client = WebSocketClient(reads=2 if where == "sending" else float("inf"))
    async with row(app, ports, response_buffer=5000) as bridge:
        async with calling(bridge, client):
            await entered.wait()
            if where == "sending":
                await client.until(lambda client: client.blocked_in_send and client.heard)
            await settle()
            client.cancel()
            await client.until_ended()
            assert counted(bridge) == {"disconnected": 1}
            gate.open()
        client.error = None
    expected = "BrokenPipeError" if where in ("sending", "before the handshake") else None
    assert told == [expected]
    assert client.closed_with is None


# --- after the end


async def test_a_thread_of_the_app_that_still_holds_the_websocket(ports: Ports) -> None:
    """WS-W-12: it reads the end, and finds it when it sends."""
    told: list[Any] = []
    left = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send("hello")
        waiting = threading.Event()

        def stay() -> None:
            waiting.set()
            told.append(websocket.receive())
            try:
                websocket._call.send("late")
            except BrokenPipeError:
                told.append(True)
            left.open()

        threading.Thread(target=stay).start()
        waiting.wait()
        return []

    client = WebSocketClient()
    async with row(app, ports) as bridge, calling(bridge, client):
        await left.wait()
    assert told == [None, True]
    assert client.closed_with == (1000, "")
