"""docs/coming_from.md: what it says of WSGI apps on ASGI servers is tried out,
on the other adapters as well as on WSGIToASGI.
"""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio.from_thread
import pytest
from asgiref.sync import async_to_sync

from tests.support import coming_from
from tests.support.coming_from import Claim
from tests.support.coming_from_wsgi import (
    ADAPTERS,
    AT_ONCE,
    MUST_COME_SECONDS,
    MUST_NOT_COME_SECONDS,
    PART,
    Environ,
    Exchange,
    Message,
    Scope,
    environ_has,
    environ_of,
    exchanged,
    http_scope,
    patience,
    upload_scope,
    yes,
)
from tests.support.processes import PROJECT_ROOT

# ---------------------------------------------------------------- threads and streams


def requests_at_once(factory: Any, expected: str) -> str:
    release = threading.Event()
    running = 0
    changed = threading.Condition()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        nonlocal running
        with changed:
            running += 1
            changed.notify_all()
        release.wait(2 * MUST_COME_SECONDS)
        start_response("200 OK", [])
        return [b"ok"]

    def count() -> None:
        with changed:
            changed.wait_for(lambda: running >= int(expected), MUST_COME_SECONDS)
            changed.wait_for(lambda: running > int(expected), MUST_NOT_COME_SECONDS)
            counted.append(running)
        release.set()

    counted: list[int] = []
    counter = threading.Thread(target=count)
    counter.start()
    try:
        exchanged(factory, app, *(Exchange() for _ in range(AT_ONCE)))
    finally:
        counter.join()
    return str(counted[0])


def app_begins_before_the_body_is_there(factory: Any, expected: str) -> str:
    begun, first = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        begun.set()
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"ok"]

    def hold_back() -> None:
        if begun.wait(patience(expected == "yes")):
            first.set()

    exchange = Exchange(upload_scope(), (PART, PART), before_last_part=hold_back)
    assert exchanged(factory, app, exchange).status == 200
    return yes(first.is_set())


def body_that_breaks_off(factory: Any, _: str) -> str:
    read: list[bytes] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        read.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"ok"]

    exchanged(factory, app, Exchange(upload_scope(), (PART,), body_ends=False))
    assert read in ([], [PART])
    return "looks whole" if read else "raises"


def slow_client_holds_the_app_back(factory: Any, expected: str) -> str:
    finished, early = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(2000):
            yield b"x" * 1024
        finished.set()

    first = threading.Event()

    def be_slow_once() -> None:
        if not first.is_set():
            first.set()
            if finished.wait(patience(expected == "no")):
                early.set()

    exchange = exchanged(factory, app, Exchange(on_body=be_slow_once))
    assert len(exchange.body) == 2000 * 1024
    return yes(not early.is_set())


def client_that_leaves_ends_the_app(factory: Any, expected: str) -> str:
    ended, stop = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while not stop.is_set():
                yield b"x" * 1024
                time.sleep(0.01)
        finally:
            ended.set()

    def wait_for_the_end() -> None:
        ended.wait(patience(expected == "yes"))
        stopped_by_itself.append(ended.is_set())
        stop.set()

    stopped_by_itself: list[bool] = []
    watcher = threading.Thread(target=wait_for_the_end)
    watcher.start()
    try:
        exchanged(factory, app, Exchange(leaves=True))
    finally:
        watcher.join()
    return yes(stopped_by_itself[0])


# ---------------------------------------------------------------- PEP 3333


def close_is_called(factory: Any, _: str) -> str:
    closed = threading.Event()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"ok"])

        def close(self) -> None:
            closed.set()

    def app(environ: Environ, start_response: Any) -> Body:
        start_response("200 OK", [])
        return Body()

    exchanged(factory, app, Exchange())
    return yes(closed.is_set())


def write_works(factory: Any, _: str) -> str:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"written")
        return []

    return yes(exchanged(factory, app, Exchange()).body == b"written")


def late_error_can_become_a_500(factory: Any, _: str) -> str:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        raise LookupError("after start_response")

    exchange = exchanged(factory, app, Exchange())
    assert isinstance(exchange.error, LookupError)
    return yes(not exchange.messages)


def answered_error_is_raised_again(factory: Any, _: str) -> str:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            raise LookupError("the app has a page for this")
        except LookupError:
            start_response("500 Sorry", [], sys.exc_info())
        return [b"sorry"]

    exchange = exchanged(factory, app, Exchange())
    assert (exchange.status, exchange.body) == (500, b"sorry")
    return yes(isinstance(exchange.error, LookupError))


def excess_is_cut(factory: Any, _: str) -> str:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        return [b"abc", b"def"]

    return yes(exchanged(factory, app, Exchange()).body == b"abc")


def length_of_a_list_is_added(factory: Any, _: str) -> str:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"abc"]

    return yes(exchanged(factory, app, Exchange()).headers.get(b"content-length") == b"3")


def latin_1_header(factory: Any, _: str) -> str:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-City", "Z\xfcrich")])
        return [b"ok"]

    exchange = exchanged(factory, app, Exchange())
    return "raises" if exchange.error else exchange.headers[b"x-city"].decode("latin-1")


# ---------------------------------------------------------------- environ


def two_cookie_headers(factory: Any, _: str) -> str:
    headers = [(b"host", b"example.org"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    return f"`{environ_of(factory, headers=headers)['HTTP_COOKIE']}`"


def header_with_underscore(factory: Any, _: str) -> str:
    headers = [(b"host", b"example.org"), (b"x_user", b"root")]
    return yes("HTTP_X_USER" in environ_of(factory, headers=headers))


def query_beyond_ascii(factory: Any, _: str) -> str:
    environ = environ_of(factory, query_string=b"city=Z\xfcrich")
    return "raises" if not environ else f"`{environ['QUERY_STRING']}`"


def path_that_only_looks_mounted(factory: Any, _: str) -> str:
    environ = environ_of(factory, path="/apifoo", raw_path=b"/apifoo", root_path="/api")
    return f"`{environ['PATH_INFO']}`"


def byte_in_a_path(factory: Any, _: str) -> str:
    environ = environ_of(factory, path="/caf\ufffd", raw_path=b"/caf%E9")
    return yes(environ["PATH_INFO"] == "/caf\xe9")


# ---------------------------------------------------------------- other scopes, other loops


def messages_or_error(factory: Any, scope: Scope, inbox: list[Message], app: Any) -> list[str]:
    """The types of the messages that the adapter sends; `raises` alone if it raises."""
    sent: list[str] = []

    async def receive() -> Message:
        if not inbox:
            await asyncio.Event().wait()
        return inbox.pop(0)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    adapter = factory(app)
    try:
        asyncio.run(adapter(scope, receive, send))
    except Exception:
        return ["raises"]
    finally:
        getattr(adapter, "close", lambda: None)()
    return sent


def lifespan_scope(factory: Any, _: str) -> str:
    inbox = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    sent = messages_or_error(factory, scope, inbox, lambda *_: [])
    return "answered" if sent[-1] == "lifespan.shutdown.complete" else sent[0]


def websocket_scope(factory: Any, _: str) -> str:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("hello")
        return []

    scope = http_scope(type="websocket", scheme="ws", subprotocols=[])
    sent = messages_or_error(factory, scope, [{"type": "websocket.connect"}], app)
    return {"websocket.accept": "opened", "websocket.close": "refused"}.get(sent[0], sent[0])


def context_variables_arrive(factory: Any, _: str) -> str:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")
    seen: list[str] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        seen.append(name.get())
        start_response("200 OK", [])
        return [b"ok"]

    exchanged(factory, app, Exchange(), first=lambda: name.set("ada"))
    return yes(seen == ["ada"])


async def running_loop() -> object:
    return asyncio.get_running_loop()


def loop_reached_by(call: Callable[[], object]) -> coming_from.Probe:
    def probe(factory: Any, _: str) -> str:
        reached: list[object] = []

        def app(environ: Environ, start_response: Any) -> list[bytes]:
            try:
                reached.append(call())
            except RuntimeError:  # anyio: this thread belongs to no loop
                reached.append(None)
            start_response("200 OK", [])
            return [b"ok"]

        def note() -> None:
            reached.append(asyncio.get_running_loop())

        exchanged(factory, app, Exchange(), first=note)
        servers, apps = reached
        return yes(servers is apps)

    return probe


TRIO_PROGRAM = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
import trio
from tests.support.coming_from_wsgi import ADAPTERS, http_scope

# Whoever waits for an asyncio loop that does not run would wait for ever.
threading.Timer(float(sys.argv[2]), lambda: os._exit(1)).start()

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]

async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

sent = []
async def send(message):
    sent.append(message.get("body", b""))

trio.run(ADAPTERS[sys.argv[1]][1](app), http_scope(), receive, send)
os._exit(0 if b"".join(sent) == b"ok" else 1)
"""


def runs_on_trio(factory: Any, expected: str) -> str:
    """In a process of its own, since some of them leave threads behind that wait for ever."""
    (name,) = [name for name, (_, made_by) in ADAPTERS.items() if made_by is factory]
    seconds = MUST_COME_SECONDS if expected == "yes" else 1.0
    ended = subprocess.run(
        [sys.executable, "-c", TRIO_PROGRAM, name, str(seconds)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        timeout=5 * MUST_COME_SECONDS,
    )
    return yes(ended.returncode == 0)


PROBES: dict[str, coming_from.Probe] = {
    "Requests that run at once": requests_at_once,
    "The app begins before a large body has arrived": app_begins_before_the_body_is_there,
    "A request body that breaks off": body_that_breaks_off,
    "A slow client holds the app back": slow_client_holds_the_app_back,
    "A client that leaves ends the app": client_that_leaves_ends_the_app,
    "`close()` of the response is called": close_is_called,
    "`write()` works": write_works,
    "An error after `start_response` can become a 500": late_error_can_become_a_500,
    "An error that the app has answered is raised all the same": answered_error_is_raised_again,
    "A body beyond its `Content-Length` is cut": excess_is_cut,
    "A list gets a `Content-Length`": length_of_a_list_is_added,
    "A response header `Zürich`": latin_1_header,
    "`wsgi.errors`": lambda factory, _: "stdout" if environ_of(factory)["stdout"] else "stderr",
    "`SERVER_PORT`": lambda factory, _: type(environ_of(factory)["SERVER_PORT"]).__name__,
    "`asgi.scope`": environ_has("asgi.scope"),
    "`REMOTE_PORT`": environ_has("REMOTE_PORT"),
    "`wsgi.file_wrapper`": environ_has("wsgi.file_wrapper"),
    "`wsgi.input_terminated`": environ_has("wsgi.input_terminated"),
    "Two `Cookie` headers": two_cookie_headers,
    "`X_User` poses as `X-User`": header_with_underscore,
    "A query `city=Zürich` in latin-1": query_beyond_ascii,
    "`PATH_INFO` of `/apifoo` under `root_path` `/api`": path_that_only_looks_mounted,
    "The byte `%E9` in a path reaches the app": byte_in_a_path,
    "lifespan": lifespan_scope,
    "A WebSocket": websocket_scope,
    "Context variables reach the app": context_variables_arrive,
    "`async_to_sync` reaches the server's loop": loop_reached_by(
        lambda: async_to_sync(running_loop)()
    ),
    "`anyio.from_thread.run` reaches the server's loop": loop_reached_by(
        lambda: anyio.from_thread.run(running_loop)
    ),
    "Runs on trio": runs_on_trio,
}

CLAIMS = coming_from.claims("A WSGI app")


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_a_cell(claim: Claim) -> None:
    coming_from.check(claim, PROBES, ADAPTERS)


def test_every_probe_has_its_row() -> None:
    assert {claim.what for claim in CLAIMS} == set(PROBES)
    assert {claim.adapter for claim in CLAIMS} == set(ADAPTERS)
