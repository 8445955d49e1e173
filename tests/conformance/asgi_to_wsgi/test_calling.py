"""A-CALL: how a server calls the bridge, and the bridge the app."""

import functools
import inspect
import threading
from typing import Any
from wsgiref.validate import validator

import anyio
import pytest

from tests.support.fake_wsgi_server import (
    BACKENDS,
    BodyInput,
    Exchange,
    Gate,
    bridged,
    close_bridge,
    echo,
    environ_for,
    finish,
    hello,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    run_script,
    serve,
    start,
    stream,
    upload_environ,
    whole_body,
)
from wsgi_asgi_bridge import ASGIToWSGI

CALLERS = 16


# A-CALL-1


def test_call_is_a_plain_function() -> None:
    """A-CALL-1: servers tell WSGI from ASGI by looking at the callable."""
    for callable_ in (ASGIToWSGI.__call__, ASGIToWSGI(hello)):
        assert not inspect.iscoroutinefunction(callable_)
        assert not inspect.isasyncgenfunction(callable_)
        assert not inspect.isgeneratorfunction(callable_)
    assert not inspect.iscoroutinefunction(ASGIToWSGI(hello).__call__)


def test_call_takes_two_positional_arguments() -> None:
    """A-CALL-1: a server passes environ and start_response by position."""
    inspect.signature(ASGIToWSGI(hello)).bind({}, lambda *_: None)


@on_every_backend
def test_many_threads_call_at_once(backend: dict[str, Any]) -> None:
    """A-CALL-1: as many requests as there are callers are in the app together, each gets its own
    answer.
    """
    arrived: list[str] = []
    all_here = Gate()
    met = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(scope["path"])
        if len(arrived) == CALLERS:
            met.set()
        await all_here.wait()
        await respond(send, scope["path"].encode())

    with bridged(app, backend) as bridge:
        exchanges = [Exchange(bridge, environ_for(f"/{n}")) for n in range(CALLERS)]
        must_happen(met, f"the meeting of {CALLERS} requests in the app")
        all_here.open()
        assert [e.body for e in exchanges] == [f"/{n}".encode() for n in range(CALLERS)]


@on_every_backend
def test_one_thread_calls_again_and_again(backend: dict[str, Any]) -> None:
    """A-CALL-1: nothing of one request is left for the next in the same thread."""
    with bridged(echo, backend) as bridge:
        for n in range(50):
            body = BodyInput(b"%d" % n)
            assert serve(bridge, upload_environ(body, length=body.size)).body == b"%d" % n


# A-CALL-2


@on_every_backend
def test_nothing_starts_at_construction(backend: dict[str, Any]) -> None:
    """A-CALL-2: no thread, loop or lifespan before the first use."""
    made: list[Any] = []
    lifespans: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        lifespans.append(scope["type"])

    def loop_factory() -> Any:
        made.append(None)
        return backend["loop_factory"]()

    options = {"loop_factory": loop_factory} if "loop_factory" in backend else backend
    before = set(threading.enumerate())
    bridge = ASGIToWSGI(app, **options)
    assert set(threading.enumerate()) == before
    assert made == []
    assert lifespans == []
    assert bridge.stats().running is False
    close_bridge(bridge)
    assert lifespans == []


def test_nothing_starts_at_import() -> None:
    """A-CALL-2: a process that imports and builds has one thread and no new file; its signal
    handlers stand.
    """
    script = """
import os, signal, sys, threading, asyncio, concurrent.futures, selectors, socket
async def app(scope, receive, send): ...
open_files = lambda: sorted(os.listdir("/dev/fd"))
before = open_files()
handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
from wsgi_asgi_bridge import ASGIToWSGI
bridge = ASGIToWSGI(app)
assert threading.active_count() == 1, threading.enumerate()
assert open_files() == before, (before, open_files())
assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
print("idle")
"""
    assert run_script(script) == "idle\n"


@on_every_backend
def test_first_use_from_many_threads_starts_one_loop(backend: dict[str, Any]) -> None:
    """A-CALL-2: callers that come first together wait for one start."""
    startups: list[int] = []
    loops: set[Any] = set()
    startup_reached = threading.Event()
    go_on = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            startups.append(threading.get_ident())
            startup_reached.set()
            await go_on.wait()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            loops.add(anyio.lowlevel.current_token())
            await respond(send, b"ok")

    with bridged(app, backend, lifespan="auto") as bridge:
        exchanges = [Exchange(bridge) for _ in range(8)]
        must_happen(startup_reached, "the lifespan's startup")
        go_on.open()
        assert [e.body for e in exchanges] == [b"ok"] * 8
    assert len(startups) == 1
    assert len(loops) == 1


PRE_FORK = """
import os, sys
from tests.support.fake_wsgi_server import BACKENDS, end_this_process_after, respond, serve
from wsgi_asgi_bridge import ASGIToWSGI

end_this_process_after(20)

startups = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        startups.append(os.getpid())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        os.write(1, b"shutdown\\n")
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await respond(send, str(os.getpid()).encode())

bridge = ASGIToWSGI(app, **BACKENDS[%(backend)r])
if %(used_before)r:
    assert serve(bridge).body == str(os.getpid()).encode()
sys.stdout.flush()
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        end_this_process_after(15)
        assert bridge.stats().running is False
        startups.clear()
        for _ in range(3):
            assert serve(bridge).body == str(os.getpid()).encode()
        assert startups == [os.getpid()], startups
        assert bridge.stats().completed == 3, bridge.stats()
        sys.exit(0)
    children.append(child)
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert serve(bridge).body == str(os.getpid()).encode()
assert startups == [os.getpid()], startups
"""


@pytest.mark.parametrize("used_before", [False, True], ids=["preloaded", "used"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_forked_workers_start_their_own_loop(backend: str, used_before: bool) -> None:
    """A-CALL-2: each process runs its lifespan once and ends it at exit, whether the master used
    the bridge or not.
    """
    output = run_script(PRE_FORK % {"backend": backend, "used_before": used_before})
    assert output == "shutdown\n" * 3


# A-CALL-3


async def streamed(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    for n in range(5):
        await stream(send, b"%d" % n)
        await anyio.lowlevel.checkpoint()
    await finish(send)


async def no_content(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, status=204, headers=[])


async def empty_page(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"")


async def unknown_status(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"odd", status=299)


async def many_cookies(scope: Any, receive: Any, send: Any) -> None:
    cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-type", b"text/plain")]
    await respond(send, b"cookies", headers=cookies)


VALIDATED = {
    "hello": (hello, "GET", b"", 200, b"hello"),
    "echo": (echo, "POST", b"x" * 100, 200, b"x" * 100),
    "large echo": (echo, "PUT", b"x" * 300_000, 200, b"x" * 300_000),
    "streamed": (streamed, "GET", b"", 200, b"01234"),
    "head": (empty_page, "HEAD", b"", 200, b""),
    "empty": (empty_page, "GET", b"", 200, b""),
    "204": (no_content, "DELETE", b"", 204, b""),
    "unknown status": (unknown_status, "GET", b"", 299, b"odd"),
    "cookies": (many_cookies, "GET", b"", 200, b"cookies"),
}


@on_every_backend
@pytest.mark.parametrize("case", VALIDATED.values(), ids=VALIDATED)
def test_whole_exchanges_pass_the_validator(backend: dict[str, Any], case: Any) -> None:
    """A-CALL-3: wsgiref.validate finds no fault in an exchange from its call to its close()."""
    app, method, body, status, expected = case
    with bridged(app, backend) as bridge:
        exchange = serve(validator(bridge), environ_for(method=method, body=body))
        assert exchange.body == expected
        assert exchange.status == status
        assert exchange.closed


@pytest.mark.parametrize(
    ("content_length", "status"), [("nonsense", 400), ("", 200)], ids=["refused", "empty"]
)
def test_answers_of_the_bridge_itself_are_sound(content_length: str, status: int) -> None:
    """A-CALL-3: an answer that the bridge makes has the form that the driver asks of every app."""
    with bridged(hello) as bridge:
        exchange = serve(bridge, environ_for() | {"CONTENT_LENGTH": content_length})
        assert exchange.body
        assert exchange.status == status
        assert exchange.header_values("content-type")


@on_every_backend
def test_start_response_is_called_once_by_the_caller(backend: dict[str, Any]) -> None:
    """A-CALL-3: in the calling thread, before the first chunk, and only once."""
    with bridged(streamed, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"01234"
        assert [s.thread for s in exchange.starts] == [exchange.thread.ident]
        assert exchange.starts[0].exc_info is None


def endless(ended: threading.Event) -> Any:
    """An app that streams until it is stopped, and tells when."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await start(send)
            while True:
                await stream(send, b"tick")
        finally:
            ended.set()

    return app


@on_every_backend
def test_close_ends_the_exchange(backend: dict[str, Any]) -> None:
    """A-CALL-3: `close()` in mid-stream ends the app's request, and a second one is harmless."""
    ended = threading.Event()
    with bridged(endless(ended), backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take().startswith(b"tick")
        exchange.hang_up()
        must_happen(ended, "the end of the app")
        assert exchange.error is None
        exchange.result.close()
        assert list(exchange.result) == []


@on_every_backend
def test_close_before_the_first_chunk_ends_the_exchange(backend: dict[str, Any]) -> None:
    """A-CALL-3: a server may close an iterable that it never asked (HEAD, a filter)."""
    ended = threading.Event()
    with bridged(endless(ended), backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        must_happen(exchange.returned, "the iterable")
        exchange.hang_up()
        must_happen(ended, "the end of the app")
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")


class RefusedError(Exception):
    """What a server's start_response raises."""


@on_every_backend
def test_a_start_response_that_raises_ends_the_exchange(backend: dict[str, Any]) -> None:
    """A-CALL-3: the server never gets the iterable that it would have to close."""
    ended = threading.Event()

    def refuse(*args: Any) -> Any:
        raise RefusedError

    with bridged(endless(ended), backend) as bridge:
        with pytest.raises(RefusedError):
            bridge(environ_for(), refuse)
        must_happen(ended, "the end of the app")
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")
        assert bridge.stats().disconnected == 1


@on_every_backend
def test_close_after_the_end_is_harmless(backend: dict[str, Any]) -> None:
    """A-CALL-3: every server closes after the last chunk; the exchange counts as completed once."""
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"one ")
        await gate.wait()
        await finish(send, b"two")

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"one "
        gate.open()
        exchange.run_on()
        assert exchange.body == b"one two"
        assert exchange.closed
        exchange.result.close()
        assert bridge.stats().completed == 1
        assert bridge.stats().disconnected == 0


def test_a_small_response_is_a_list() -> None:
    """A-CALL-3: a response that is whole in its first part lets the server know its length."""
    with bridged(hello) as bridge:
        assert serve(bridge).result == [b"hello"]


# A-CALL-4


class DoubleClass:
    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        body = await whole_body(receive)
        await respond(send, self.scope["path"].encode() + b":" + body)


def double_function(scope: Any) -> Any:
    async def instance(receive: Any, send: Any) -> None:
        await DoubleClass(scope)(receive, send)

    return instance


class SingleInstance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await DoubleClass(scope)(receive, send)

    async def method(self, scope: Any, receive: Any, send: Any) -> None:
        await DoubleClass(scope)(receive, send)

    @staticmethod
    async def static(scope: Any, receive: Any, send: Any) -> None:
        await DoubleClass(scope)(receive, send)


async def with_argument(extra: str, scope: Any, receive: Any, send: Any) -> None:
    await DoubleClass(scope)(receive, send)


CALLABLES = {
    "asgi2 class": DoubleClass,
    "asgi2 function": double_function,
    "asgi3 instance": SingleInstance(),
    "asgi3 method": SingleInstance().method,
    "asgi3 static method": SingleInstance.static,
    "asgi3 partial": functools.partial(with_argument, "extra"),
}


@on_every_backend
@pytest.mark.parametrize("app", CALLABLES.values(), ids=CALLABLES)
def test_every_form_of_asgi_app(backend: dict[str, Any], app: Any) -> None:
    """A-CALL-4: ASGI 2 double callables work like ASGI 3 ones."""
    with bridged(app, backend) as bridge:
        assert serve(bridge, environ_for("/p", method="POST", body=b"body")).body == b"/p:body"


def test_lifespan_of_an_asgi_2_app() -> None:
    """A-CALL-4: the lifespan scope goes the same way."""
    seen: list[str] = []

    class App:
        def __init__(self, scope: Any) -> None:
            self.scope = scope

        async def __call__(self, receive: Any, send: Any) -> None:
            if self.scope["type"] == "http":
                await respond(send, b"ok")
                return
            for kind in ("startup", "shutdown"):
                seen.append((await receive())["type"])
                await send({"type": f"lifespan.{kind}.complete"})

    with bridged(App, lifespan="on") as bridge:
        assert serve(bridge).body == b"ok"
    assert seen == ["lifespan.startup", "lifespan.shutdown"]
