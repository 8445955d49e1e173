"""The Endings table for an ASGI app under a WSGI server: one test a row.

Each row tells who wakes whom, what `close()` sees, and that no thread, task, socket or file
is left.
"""

import asyncio
import errno
import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_wsgi_server import (
    BACKENDS,
    Exchange,
    Gate,
    GeneratedInput,
    InThread,
    Message,
    bridged,
    close_bridge,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    open_files,
    respond,
    run_script,
    serve,
    start,
    stream,
    turn_the_loop,
    upload_environ,
    whole_body,
)
from wsgi_asgi_bridge import AppError, ASGIToWSGI, BridgeClosed, ClientDisconnected, asgi_to_wsgi
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread

pytestmark = on_every_backend

BUFFER = 16_384


class Watched:
    """An app that notes how each request ended, and answers "/tasks" with the tasks of its loop."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.ends: list[BaseException | None] = []
        self.ended = threading.Event()
        self.inside = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/tasks":
            await respond(send, b"%d" % len(anyio.get_running_tasks()))
        elif scope["path"] == "/turn":
            await respond(send, b"turned")
        else:
            await self.run(receive, send)

    async def run(self, receive: Any, send: Any) -> None:
        try:
            await self.body(self, receive, send)
            self.ends.append(None)
        except BaseException as error:
            self.ends.append(error)
            raise
        finally:
            self.ended.set()


def running_tasks(bridge: ASGIToWSGI) -> int:
    return int(serve(bridge, environ_for("/tasks")).body)


@contextmanager
def nothing_left(app: Watched, backend: dict[str, Any], **options: Any) -> Iterator[ASGIToWSGI]:
    """A bridge that leaves no task after the body, and no thread, socket or file after its
    `close()`.
    """
    with bridged(app, backend) as first:  # what a first use of the loop opens for good is open now
        running_tasks(first)
    gc.collect()
    files, threads = open_files(), set(threading.enumerate())
    with bridged(app, backend, **options) as bridge:
        tasks = running_tasks(bridge)
        yield bridge
        if bridge.stats().running:
            must_become(lambda: bridge.stats().in_flight == 0, "the end of every exchange")
            must_become(lambda: running_tasks(bridge) == tasks, "the end of every task")
    must_become(
        lambda: not [t for t in set(threading.enumerate()) - threads if "driver" not in t.name],
        "the end of every thread",
    )
    gc.collect()
    assert open_files() == files


def test_app_returns(backend: dict[str, Any]) -> None:
    """Ending: app returns. The last message ends the iterable, `close()` sees an ended exchange."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await whole_body(receive)
        await start(send)
        await stream(send, b"one ")
        await anyio.lowlevel.checkpoint()
        await finish(send, b"two")

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        exchange = serve(bridge, environ_for(method="POST", body=b"x"))
        assert exchange.body == b"one two"
        must_happen(app.ended, "the end of the app")
    assert app.ends == [None]


class MarkedError(Exception):
    """An exception of the app."""


def test_app_raises_before_the_headers(backend: dict[str, Any]) -> None:
    """Ending: app raises before the headers. The caller is woken by the error itself."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await anyio.lowlevel.checkpoint()
        raise MarkedError("before")

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is app.ends[0]
        assert exchange.starts == []


def test_app_raises_after_the_headers(backend: dict[str, Any]) -> None:
    """Ending: app raises after. The iteration raises, so the server breaks the connection."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        await anyio.lowlevel.checkpoint()
        raise MarkedError("after")

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is app.ends[0]
        assert (exchange.error_phase, exchange.complete) == ("iterate", False)
        assert b"".join(exchange.chunks) == b"part"


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


def test_buffer_full_at_shutdown(backend: dict[str, Any]) -> None:
    """Ending: buffer full at shutdown. `close()` wakes the app; the server's next step raises, the
    body is not whole.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        while True:
            await stream(send, b"x" * BUFFER)

    app = Watched(body)
    with nothing_left(app, backend, response_buffer=BUFFER, shutdown_timeout=0.1) as bridge:
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        turn_the_loop(bridge)
        close_bridge(bridge)
        assert app.ended.is_set()
        exchange.run_on()
        assert isinstance(exchange.raised(), BridgeClosed)
        assert not exchange.complete
    assert app.ends != [None]


def test_asgi_task_cancelled(backend: dict[str, Any]) -> None:
    """Ending: ASGI task cancelled. The caller is woken by the cancellation and sees an error, not
    an end.
    """
    cancels: list[Any] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        with anyio.CancelScope() as scope:
            task = None if backend.get("backend") == "trio" else asyncio.current_task()
            # trio cancels scopes only; its app then returns in mid-stream.
            cancels.append((task or scope).cancel)
            cancels.append(anyio.lowlevel.current_token())
            app.inside.set()
            await anyio.sleep_forever()

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        exchange = Exchange(bridge)
        exchange.wait_for_size(4)
        must_happen(app.inside, "the app in mid-stream")
        cancel, token = cancels
        anyio.from_thread.run_sync(cancel, token=token)
        assert isinstance(exchange.raised(), AppError)
        assert not exchange.complete
    assert len(app.ends) == 1


def test_iterable_closed_early(backend: dict[str, Any]) -> None:
    """Ending: WSGI iterable closed early. `close()` returns without waiting for an app that
    lingers.
    """
    linger = Gate()

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        assert await receive() == {"type": "http.disconnect"}
        app.inside.set()
        await linger.wait()

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"part"
        exchange.hang_up()
        must_happen(app.inside, "the disconnect")
        assert app.ends == []
        linger.open()
        must_happen(app.ended, "the end of the app")
    assert app.ends == [None]
    assert exchange.error is None


@pytest.mark.parametrize("phase", ["before the headers", "in mid-stream", "while it reads"])
def test_loop_shut_down_in_mid_flight(backend: dict[str, Any], phase: str) -> None:
    """Ending: loop shut down in mid-flight. `close()` cancels the app and wakes the caller with
    BridgeClosed.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        if phase == "in mid-stream":
            await start(send)
            await stream(send, b"part")
        app.inside.set()
        if phase == "while it reads":
            await whole_body(receive)
            await receive()
        await anyio.sleep_forever()

    app = Watched(body)
    with nothing_left(app, backend, shutdown_timeout=0.1) as bridge:
        exchange = Exchange(bridge)
        must_happen(app.inside, "the app's call")
        close_bridge(bridge)
        assert isinstance(exchange.raised(), BridgeClosed)
        assert not exchange.complete
        assert app.ended.is_set()
    assert app.ends != [None]


def test_cancelled_apps_clean_up_before_the_lifespan_ends(backend: dict[str, Any]) -> None:
    """Ending: loop shut down in mid-flight. What a cancelled app still uses is there meanwhile."""
    log: list[str] = []
    inside = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan_with(receive, send, lambda: log.append("shutdown"))
            return
        inside.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(1000):
                    await anyio.lowlevel.checkpoint()
            log.append("cleaned up")

    with bridged(app, backend, lifespan="on", shutdown_timeout=0.1) as bridge:
        exchange = Exchange(bridge)
        must_happen(inside, "the app's call")
        close_bridge(bridge)
        assert isinstance(exchange.raised(), BridgeClosed)
    assert log == ["cleaned up", "shutdown"]


def test_lifespan_does_not_wait_for_ever_for_cancelled_apps(
    backend: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending: loop shut down in mid-flight. An app that cleans up for longer than CANCEL_SECONDS
    finds the lifespan ended.
    """
    monkeypatch.setattr(asgi_to_wsgi, "CANCEL_SECONDS", 0.01)
    inside = threading.Event()
    is_shut: list[anyio.Event] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            is_shut.append(anyio.Event())
            await lifespan_with(receive, send, is_shut[0].set)
            return
        inside.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await is_shut[0].wait()

    with bridged(app, backend, lifespan="on", shutdown_timeout=0.1) as bridge:
        exchange = Exchange(bridge)
        must_happen(inside, "the app's call")
        close_bridge(bridge)
        assert isinstance(exchange.raised(), BridgeClosed)
    assert is_shut[0].is_set()


async def lifespan_with(receive: Any, send: Any, shutdown: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    shutdown()
    await send({"type": "lifespan.shutdown.complete"})


def test_loop_shut_down_lets_requests_end(backend: dict[str, Any]) -> None:
    """Ending: loop shut down in mid-flight. What ends within `shutdown_timeout` ends well."""
    go_on = Gate()

    async def body(app: Watched, receive: Any, send: Any) -> None:
        app.inside.set()
        await go_on.wait()
        await respond(send, b"in time")

    app = Watched(body)
    with nothing_left(app, backend, shutdown_timeout=30.0) as bridge:
        exchange = Exchange(bridge)
        must_happen(app.inside, "the app's call")
        closing = InThread(bridge.close, "bridge.close()")
        assert not closing.done.wait(0.05)
        go_on.open()
        assert exchange.body == b"in time"
        closing.result()
    assert app.ends == [None]


FORK = """
import os, sys, threading
from tests.support.fake_wsgi_server import *
from wsgi_asgi_bridge import ASGIToWSGI
import anyio

end_this_process_after(25)
STATE = %(state)r
# A fork while another thread imports would leave the child a locked module: import all now.
anyio.run(anyio.sleep, 0, backend=BACKENDS[%(backend)r].get("backend", "asyncio"))
inside = threading.Event()
go_on = Gate()
startups = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        startups.append(os.getpid())
        if STATE == "in startup" and os.getpid() == parent:
            inside.set()
            await go_on.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        os.write(1, b"shutdown\\n")
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/held":
        await start(send)
        await stream(send, b"one ")
        inside.set()
        await go_on.wait()
        await stream(send, b"two ")
        await anyio.sleep(0.01)
        await finish(send, b"three")
    elif scope["path"] == "/thread":
        def block():
            inside.set()
            go_on.wait_in_thread()
        await anyio.to_thread.run_sync(block)
        await respond(send, b"one two three")
    else:
        await anyio.sleep(0.001)
        await respond(send, str(os.getpid()).encode())

parent = os.getpid()
bridge = ASGIToWSGI(app, **BACKENDS[%(backend)r])
me = lambda: str(os.getpid()).encode()
paths = {"in the app": "/held", "in a thread": "/thread", "in startup": "/"}
held = Exchange(bridge, environ_for(paths[STATE]))
assert inside.wait(10)
if STATE == "in the app":
    held.wait_for_size(4)

child = os.fork()
if child == 0:
    end_this_process_after(15)
    startups.clear()
    stats = bridge.stats()
    assert (stats.running, stats.in_flight, stats.background) == (False, 0, 0), stats
    for exchange in [Exchange(bridge) for _ in range(4)]:
        assert exchange.body == me()
    assert startups == [os.getpid()], startups
    ours = [t.name for t in threading.enumerate() if t.name.startswith("wsgi_asgi_bridge")]
    assert len(ours) <= 1, ours
    bridge.close()
    assert threading.active_count() == 1, threading.enumerate()
    assert serve(bridge).body == me()
    sys.exit(0)

if STATE != "in startup":
    assert serve(bridge).body == me()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
if STATE != "in startup":
    assert serve(bridge).body == me()
go_on.open()
assert held.body == (me() if STATE == "in startup" else b"one two three"), held.chunks
assert serve(bridge).body == me()
assert startups == [os.getpid()], startups
bridge.close()
"""


@pytest.mark.parametrize("state", ["in the app", "in a thread", "in startup"])
def test_fork_in_mid_flight(backend: dict[str, Any], state: str) -> None:
    """Ending: fork in mid-flight. The child starts clean and ends by itself; the parent's request
    goes on.
    """
    name = next(name for name, options in BACKENDS.items() if options is backend)
    output = run_script(FORK % {"state": state, "backend": name}, timeout=40)
    assert output == "shutdown\n" * 3


FORK_IN_THE_CALLING_THREAD = """
import logging, os, sys, threading
from tests.support.fake_wsgi_server import *
from wsgi_asgi_bridge import ASGIToWSGI
import anyio

logging.basicConfig(stream=sys.stdout)
end_this_process_after(25)
anyio.run(anyio.sleep, 0, backend=BACKENDS[%(backend)r].get("backend", "asyncio"))
go_on = Gate()

async def app(scope, receive, send):
    await start(send)
    await stream(send, b"one ")
    await go_on.wait()
    await stream(send, b"two ")
    await finish(send, b"three")

def forked_while(step):
    # Another thread posts to the loop, and stands at `step` while this one forks.
    inside, on = threading.Event(), threading.Event()
    def hold():
        with step:
            inside.set()
            on.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if child:
        on.set()
        thread.join()
    return child

bridge = ASGIToWSGI(app, lifespan="off", **BACKENDS[%(backend)r])
body = bridge(environ_for("/"), lambda status, headers, exc_info=None: None)
assert next(body) == b"one "
bell = getattr(bridge._side.handle.post.__self__._wake, "__self__", None)
child = forked_while(getattr(bell, "_lock", threading.Lock()))
if child == 0:
    end_this_process_after(10)
    body.close()  # as a server does when SystemExit ends the child
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
go_on.open()
assert b"".join(body) == b"two three"
bridge.close()
"""


def test_fork_in_the_thread_that_iterates(backend: dict[str, Any]) -> None:
    """Ending: fork in mid-flight. A child that closes its copy of the response waits for nobody and
    is not heard in the parent.
    """
    name = next(name for name, options in BACKENDS.items() if options is backend)
    assert run_script(FORK_IN_THE_CALLING_THREAD % {"backend": name}, timeout=40) == ""
