"""The Endings table for an ASGI app under a WSGI server: the rows of a client that leaves."""

import errno
import socket
import threading
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    GeneratedInput,
    InThread,
    Message,
    environ_for,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
    turn_the_loop,
    upload_environ,
    whole_body,
)
from tests.support.watched_apps import Watched, nothing_left
from wsgi_asgi_bridge import ClientDisconnected
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread

pytestmark = on_every_backend

BUFFER = 16_384


class MarkedError(Exception):
    """An exception of the app."""


CUTS = {"reset": ConnectionResetError("reset by peer"), "ends early": None}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("started", [False, True], ids=["before the headers", "in mid-stream"])
def test_client_leaves_while_the_app_reads(
    backend: dict[str, Any],
    cut: Exception | None,
    started: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ending: client leaves while the app reads. The caller's failing read wakes the app with a
    disconnect; an app that then returns is not to blame, and the server hears that its client left.
    """
    seen: list[Message] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        if started:
            await start(send)
            await stream(send, b"part")
        while not seen or seen[-1]["type"] == "http.request":
            seen.append(await receive())

    app = Watched(body)
    upload = GeneratedInput(4 * BUFFER, error=cut)
    with nothing_left(app, backend, request_buffer=BUFFER) as bridge:
        exchange = serve(bridge, upload_environ(upload, length=10 * BUFFER))
        raised = exchange.raised()
        assert isinstance(raised, ClientDisconnected)
        assert raised.errno == errno.EPIPE
        assert exchange.error_phase == ("iterate" if started else "call")
        must_happen(app.ended, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
        assert bridge.stats().failed == 0
    assert seen[-1] == {"type": "http.disconnect"}
    assert sum(len(m["body"]) for m in seen[:-1]) <= 4 * BUFFER
    assert caplog.records == []


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("known", [False, True], ids=["its own error", "of a cancellation"])
def test_client_leaves_and_the_app_raises_of_it(
    backend: dict[str, Any], cut: Exception | None, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Ending: client leaves while the app reads. What the app raises then counts as a disconnect
    too, and is logged unless it came of one.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass
        raise MarkedError("cut") from (ClientDisconnected() if known else None)

    app = Watched(body)
    upload = GeneratedInput(4 * BUFFER, error=cut)
    with nothing_left(app, backend, request_buffer=BUFFER) as bridge:
        exchange = serve(bridge, upload_environ(upload, length=10 * BUFFER))
        assert isinstance(exchange.raised(), ClientDisconnected)
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
        assert bridge.stats().failed == 0
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == ([] if known else app.ends)


def test_client_leaves_while_an_app_reads_that_does_not_listen(backend: dict[str, Any]) -> None:
    """Ending: client leaves while the app reads. One that has given up its `receive()`, and is
    silent in mid-stream, is ended all the same.
    """
    reading, fail = Gate(), Gate()

    def read() -> None:
        reading.open()
        fail.wait_in_thread()

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await reading.wait()
            tasks.cancel_scope.cancel()
        app.inside.set()
        await anyio.sleep_forever()

    app = Watched(body)
    upload = GeneratedInput(0, error=ConnectionResetError("reset by peer"), before_read=read)
    with nothing_left(app, backend, request_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, upload_environ(upload, length=10 * BUFFER))
        must_happen(app.inside, "the app's silence")
        fail.open()
        assert isinstance(exchange.raised(), ClientDisconnected)
        must_happen(app.ended, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")


def test_client_leaves_as_the_app_reads_but_the_answer_is_whole(backend: dict[str, Any]) -> None:
    """Ending: client leaves while the app reads. What had been answered by then goes to the
    server.
    """
    reading, answered = Gate(), Gate()

    def read() -> None:
        reading.open()
        answered.wait_in_thread()

    async def body(app: Watched, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await reading.wait()
            await respond(send, b"denied", status=401)

    app = Watched(body)
    upload = GeneratedInput(0, error=ConnectionResetError("reset by peer"), before_read=read)
    with nothing_left(app, backend, request_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, upload_environ(upload, length=10 * BUFFER))
        must_happen(app.ended, "the end of the app")
        answered.open()
        assert (exchange.body, exchange.status) == (b"denied", 401)
        assert bridge.stats().completed == 2  # with the one that counted the tasks
        assert (bridge.stats().disconnected, bridge.stats().failed) == (0, 0)


def test_client_leaves_while_the_app_computes(backend: dict[str, Any]) -> None:
    """Ending: client leaves while the app computes. The app hears of it at its next step: `send()`
    raises.
    """
    go_on = Gate()

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await whole_body(receive)
        app.inside.set()
        await go_on.wait()
        await start(send)
        while True:
            await stream(send, b"part")

    app = Watched(body)
    left = threading.Event()
    environ = environ_for() | {"waitress.client_disconnected": left.is_set}
    with nothing_left(app, backend, disconnect_poll=0.01) as bridge:
        exchange = Exchange(bridge, environ)
        must_happen(app.inside, "the app's computation")
        left.set()
        must_become(
            lambda: bridge.stats().disconnected == 1 or exchange.returned.is_set(), "the disconnect"
        )
        go_on.open()
        exchange.finish()
        must_happen(app.ended, "the end of the app")
    assert isinstance(app.ends[0], ClientDisconnected)


@pytest.mark.parametrize("how", ["closed", "noticed"])
def test_client_leaves_while_the_app_is_silent(backend: dict[str, Any], how: str) -> None:
    """Ending: client leaves while the app computes in mid-stream and listens to nothing. It is
    ended all the same.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        app.inside.set()
        await anyio.sleep_forever()

    app = Watched(body)
    left = threading.Event()
    environ = environ_for() | {"waitress.client_disconnected": left.is_set}
    with nothing_left(app, backend, disconnect_poll=0.01) as bridge:
        exchange = Exchange(bridge, environ, hold=how == "closed")
        if how == "closed":
            assert exchange.take() == b"part"
        must_happen(app.inside, "the app's silence")
        left.set()
        exchange.hang_up()
        must_happen(app.ended, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
    assert not exchange.complete


def test_client_leaves_while_the_app_is_silent_after_a_poll(backend: dict[str, Any]) -> None:
    """Ending: client leaves while the app computes in mid-stream, and has asked for the disconnect
    before. A `receive()` that was cancelled listens no longer, so the app is ended as well.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        await whole_body(receive)
        with anyio.CancelScope() as poll:
            poll.cancel()
            await receive()
        app.inside.set()
        await anyio.sleep_forever()

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"part"
        must_happen(app.inside, "the app's silence")
        exchange.hang_up()
        must_happen(app.ended, "the end of the app")
    assert not exchange.complete


@pytest.mark.parametrize("first", ["the iteration", "close()"])
def test_closed_in_one_thread_and_iterated_in_another(
    backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Ending: WSGI iterable closed early, in a thread of its own. A silent app is told, whichever
    of the two threads goes on first once the closing one has left the exchange for both.
    """
    left_for_both, iterated = threading.Event(), threading.Event()
    leave = CallingThread.finish_from_thread

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        app.inside.set()
        await anyio.sleep_forever()

    def finish_and_look_who_is_first(caller: CallingThread) -> list[Any]:
        jobs = leave(caller)
        left_for_both.set()
        if first == "the iteration":
            must_happen(iterated, "the end of the iteration")
        return jobs

    def iterate(result: Any) -> list[bytes]:
        try:
            return list(result)
        finally:
            iterated.set()

    app = Watched(body)
    with nothing_left(app, backend, disconnect_poll=60.0) as bridge:
        result: Any = bridge(environ_for(), lambda *_: lambda data: None)
        assert next(result) == b"part"
        must_happen(app.inside, "the app's silence")
        iterating = InThread(lambda: iterate(result), "the iteration")
        must_become(
            lambda: result._caller._parked is not None, "the sleep of the thread that iterates"
        )
        monkeypatch.setattr(CallingThread, "finish_from_thread", finish_and_look_who_is_first)
        InThread(result.close, "close()").result()
        assert left_for_both.is_set()
        assert iterating.result() == []
        monkeypatch.undo()
        must_happen(app.ended, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")


def test_client_leaves_while_the_app_writes(backend: dict[str, Any]) -> None:
    """Ending: client leaves while the app writes. `close()` wakes the waiting `send()`."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        while True:
            await stream(send, b"x" * BUFFER)

    app = Watched(body)
    with nothing_left(app, backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, hold=True)
        exchange.take_until(3 * BUFFER)
        turn_the_loop(bridge)
        assert app.ends == []
        exchange.hang_up()
        must_happen(app.ended, "the end of the app")
        assert exchange.error is None
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
    assert isinstance(app.ends[0], ClientDisconnected)


def test_client_leaves_while_the_request_waits_for_the_loop(backend: dict[str, Any]) -> None:
    """Ending: client leaves while it waits in the queue (the loop is busy). The app meets a
    disconnect, or never runs.
    """
    blocked, release = threading.Event(), threading.Event()
    seen: list[Message] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        if not blocked.is_set():
            blocked.set()
            release.wait(10)
            await respond(send, b"blocked")
            return
        await whole_body(receive)
        seen.append(await receive())

    app = Watched(body)
    with nothing_left(app, backend, disconnect_poll=0.01) as bridge:
        client, server = socket.socketpair()
        with client, server:
            blocking = Exchange(bridge)
            must_happen(blocked, "the busy loop")
            waiting = Exchange(bridge, environ_for() | {"gunicorn.socket": server})
            client.close()
            release.set()
            assert blocking.body == b"blocked"
            waiting.finish()
    assert seen in ([], [{"type": "http.disconnect"}])
