"""The Endings table for an ASGI app under a WSGI server: one test a row.

Each row tells who wakes whom, what `close()` sees, and that no thread, task, socket or file
is left. The rows of a client that leaves stand in test_endings_client.py.
"""

import asyncio
import threading
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
    InThread,
    bridged,
    close_bridge,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    run_script,
    serve,
    start,
    stream,
    turn_the_loop,
    whole_body,
)
from tests.support.watched_apps import Watched, nothing_left
from wsgi_asgi_bridge import AppError, BridgeClosed
from wsgi_asgi_bridge.asgi_to_wsgi import runtime

pytestmark = on_every_backend

BUFFER = 16_384


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


def test_a_close_that_was_interrupted_is_done_by_the_next(backend: dict[str, Any]) -> None:
    """A-LOOP-2: Ctrl-C in a close() that waits leaves a loop for the next one to end."""

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await finish(send)

    with bridged(app, backend) as bridge:
        serve(bridge)
        runtime: Any = bridge._runtime
        runtime._wait = interrupted
        with pytest.raises(KeyboardInterrupt):
            bridge.close()
        del runtime._wait
        assert runtime.private.thread.is_alive()
        bridge.close()
        assert not runtime.private.thread.is_alive()


def test_an_app_that_receives_is_cancelled_at_the_shutdown(backend: dict[str, Any]) -> None:
    """A-OUT-5: where it is, and not with a disconnect that it could go on after."""
    inside = threading.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        inside.set()
        try:
            seen.append(await receive())
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    with bridged(app, backend, shutdown_timeout=0.05) as bridge:
        exchange = Exchange(bridge)
        must_happen(inside, "the app's second receive()")
        bridge.close()
        assert isinstance(exchange.raised(), BridgeClosed)
    assert seen == ["http.request", "cancelled"]


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
    monkeypatch.setattr(runtime, "CANCEL_SECONDS", 0.01)
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
        runtime: Any = bridge._runtime
        closing = InThread(bridge.close, "bridge.close()")
        must_become(lambda: not runtime.takes_requests, "the beginning of close()")
        assert not closing.done.is_set()
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
bell = getattr(bridge._runtime.handle.post.__self__._wake, "__self__", None)
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
