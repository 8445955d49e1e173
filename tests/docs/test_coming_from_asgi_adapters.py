"""docs/coming_from.md: what it says of ASGI apps on WSGI servers is tried out,
on a2wsgi as well as on ASGIToWSGI.
"""

import asyncio
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import a2wsgi
import pytest
from asgiref.sync import sync_to_async

from tests.support import coming_from
from tests.support.coming_from import Claim
from tests.support.processes import PROJECT_ROOT
from wsgi_asgi_bridge import ASGIToWSGI

Environ = dict[str, Any]
Message = dict[str, Any]

MUST_COME_SECONDS = 10.0
MUST_NOT_COME_SECONDS = 0.25

ADAPTERS: dict[str, tuple[str, Any]] = {
    "a2wsgi": ("a2wsgi", a2wsgi.ASGIMiddleware),
    "`ASGIToWSGI`": ("wsgi_asgi_bridge", ASGIToWSGI),
}


def yes(is_so: object) -> str:
    return "yes" if is_so else "no"


def environ(**changes: Any) -> Environ:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        **changes,
    }


class Answer:
    """What a WSGI server saw of one request."""

    def __init__(self, app: Any, request: Environ) -> None:
        self.status = ""
        self.body = b""
        self.error: Exception | None = None
        try:
            iterable = app(request, self._start)
            try:
                for part in iterable:
                    self.body += part
            finally:
                if hasattr(iterable, "close"):
                    iterable.close()
        except Exception as error:
            self.error = error

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        self.status = status


@contextmanager
def adapted(factory: Any, app: Any) -> Iterator[Any]:
    """The adapter of one test. a2wsgi's loop goes on in its thread as long as the process."""
    adapter = factory(app)
    try:
        yield adapter
    finally:
        if isinstance(adapter, ASGIToWSGI):
            adapter.close()


def answer_of(factory: Any, app: Any, **changes: Any) -> Answer:
    with adapted(factory, app) as adapter:
        return Answer(adapter, environ(**changes))


async def answer(send: Any, body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def scope_of(factory: Any, **changes: Any) -> dict[str, Any]:
    """The scope that an app finds, empty where it is not called."""
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            found.update(scope)
            await answer(send)

    answer_of(factory, app, **changes)
    return found


# ---------------------------------------------------------------- the probes


def when_its_thread_starts(factory: Any, _: str) -> str:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    before = threading.active_count()
    with adapted(factory, app) as adapter:
        at_construction = threading.active_count() > before
        Answer(adapter, environ())
        assert threading.active_count() > before
    return "at construction" if at_construction else "with the first request"


def lifespan_runs(factory: Any, _: str) -> str:
    types: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        types.append(scope["type"])
        if scope["type"] == "http":
            await answer(send)

    answer_of(factory, app)
    return yes("lifespan" in types)


def scope_has(key: str) -> coming_from.Probe:
    return lambda factory, _: yes(key in scope_of(factory))


def empty_server_port(factory: Any, _: str) -> str:
    scope = scope_of(factory, SERVER_PORT="")
    return "accepted" if scope else "raises"


def error_before_the_response(factory: Any, _: str) -> str:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("before the response")

    seen = answer_of(factory, app)
    assert isinstance(seen.error, LookupError) != seen.status.startswith("500")
    return "raised" if seen.error else "answered"


def headers_left_out(factory: Any, _: str) -> str:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"ok"})

    seen = answer_of(factory, app)
    return "accepted" if seen.body == b"ok" else "raises"


def body_of_undeclared_length(factory: Any, _: str) -> str:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, (await receive())["body"])

    seen = answer_of(
        factory,
        app,
        REQUEST_METHOD="POST",
        HTTP_TRANSFER_ENCODING="chunked",
        **{"wsgi.input": io.BytesIO(b"chunks"), "wsgi.input_terminated": True},
    )
    return "read" if seen.body == b"chunks" else "lost"


def body_that_breaks_off(factory: Any, _: str) -> str:
    received: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        for _ in range(5):
            received.append(await receive())
            if not received[-1].get("more_body"):
                break
        await answer(send)

    body = {"wsgi.input": io.BytesIO(b"half"), "CONTENT_LENGTH": "8"}
    answer_of(factory, app, REQUEST_METHOD="POST", **body)
    return f"`{received[-1]['type']}`"


def background_holds_the_response(factory: Any, expected: str) -> str:
    done = threading.Event()
    released: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send)
            await asyncio.to_thread(done.wait, MUST_COME_SECONDS)

    with adapted(factory, app) as adapter:

        def watch() -> None:
            patience = MUST_COME_SECONDS if expected == "no" else MUST_NOT_COME_SECONDS
            released.append(ended.wait(patience))
            done.set()

        ended = threading.Event()
        watcher = threading.Thread(target=watch)
        watcher.start()
        assert Answer(adapter, environ()).body == b"ok"
        ended.set()
        watcher.join()
    return yes(not released[0])


def app_learns_that_its_client_left(factory: Any, expected: str) -> str:
    learned = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        except OSError:
            learned.set()

    with adapted(factory, app) as adapter:
        iterable = adapter(environ(), lambda *_: None)
        assert next(iter(iterable))
        iterable.close()
        return yes(learned.wait(MUST_COME_SECONDS if expected == "yes" else MUST_NOT_COME_SECONDS))


def sync_code_runs_in_the_calling_thread(factory: Any, _: str) -> str:
    threads: list[threading.Thread] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            threads.append(await sync_to_async(threading.current_thread)())
            await answer(send)

    answer_of(factory, app)
    return yes(threads == [threading.current_thread()])


FORK_PROGRAM = """
import os, sys, threading
from tests.docs.test_coming_from_asgi_adapters import ADAPTERS, Answer, answer, environ

async def app(scope, receive, send):
    if scope["type"] == "http":
        await answer(send)

adapter = ADAPTERS[sys.argv[1]][1](app)
child = os.fork()
if not child:
    threading.Timer(float(sys.argv[2]), lambda: os._exit(1)).start()
    os._exit(0 if Answer(adapter, environ()).body == b"ok" else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def answers_after_a_fork(factory: Any, expected: str) -> str:
    """As `gunicorn --preload` does it: made in the master, used in the worker."""
    (name,) = [name for name, (_, made_by) in ADAPTERS.items() if made_by is factory]
    seconds = MUST_COME_SECONDS if expected == "yes" else 1.0
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_PROGRAM, name, str(seconds)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        timeout=5 * MUST_COME_SECONDS,
    )
    return yes(ended.returncode == 0)


PROBES: dict[str, Callable[[Any, str], str]] = {
    "The loop's thread starts": when_its_thread_starts,
    "Made before a fork, it answers after it (`--preload`)": answers_after_a_fork,
    "lifespan runs": lifespan_runs,
    '`scope["state"]`': scope_has("state"),
    '`scope["raw_path"]`': scope_has("raw_path"),
    '`scope["wsgi_environ"]`': scope_has("wsgi_environ"),
    "`SERVER_PORT` is empty": empty_server_port,
    "An error before the response": error_before_the_response,
    "`headers` left out of `http.response.start`": headers_left_out,
    "A chunked request body": body_of_undeclared_length,
    "A request body that breaks off ends with": body_that_breaks_off,
    "Background work holds the response open": background_holds_the_response,
    "The app learns that its client left": app_learns_that_its_client_left,
    "Thread-sensitive sync code runs in the server's thread": sync_code_runs_in_the_calling_thread,
}

CLAIMS = coming_from.claims("An ASGI app")


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_a_cell(claim: Claim) -> None:
    coming_from.check(claim, PROBES, ADAPTERS)


def test_every_probe_has_its_row() -> None:
    assert {claim.what for claim in CLAIMS} == set(PROBES)
    assert {claim.adapter for claim in CLAIMS} == set(ADAPTERS)
