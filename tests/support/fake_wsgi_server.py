"""An in-memory WSGI server: environs as real servers make them, exchanges that a test can cut.

Every wait has a deadline and fails with the stacks of all threads: a bridge that hangs must not
hang the tests.
"""

import asyncio
import faulthandler
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import anyio
import anyio.lowlevel
import pytest
import uvloop

from wsgi_asgi_bridge import ASGIToWSGI

DEADLINE_SECONDS = 10.0
REPOSITORY = Path(__file__).resolve().parents[2]

Environ = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Backend = dict[str, Any]

BACKENDS: dict[str, Backend] = {
    "asyncio": {"loop_factory": asyncio.SelectorEventLoop},
    "uvloop": {"loop_factory": uvloop.new_event_loop},
    "trio": {"backend": "trio"},
}
on_every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
on_asyncio_backends = pytest.mark.parametrize(
    "backend", [BACKENDS["asyncio"], BACKENDS["uvloop"]], ids=["asyncio", "uvloop"]
)


# Waiting


def fail_with_stacks(what: str) -> None:
    """Fail the test after printing where every thread stands."""
    faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
    pytest.fail(f"{what} did not happen within {DEADLINE_SECONDS:g} s")


def must_happen(event: threading.Event, what: str) -> None:
    """Wait for `event`, or fail."""
    if not event.wait(DEADLINE_SECONDS):
        fail_with_stacks(what)


def must_become(condition: Callable[[], bool], what: str) -> None:
    """Poll for a state that nobody announces, or fail."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            fail_with_stacks(what)
        time.sleep(0.002)


class InThread:
    """One blocking call in a thread of its own."""

    def __init__(self, call: Callable[[], Any], what: str = "the call") -> None:
        self._call, self._what = call, what
        self._result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"driver: {what}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def result(self) -> Any:
        """What the call returned; its exception is raised here."""
        must_happen(self.done, f"the end of {self._what}")
        self.thread.join(DEADLINE_SECONDS)
        if self.error is not None:
            raise self.error
        return self._result


class Gate:
    """A door that any thread opens, and that apps in any loop, or threads, wait at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._waiters: list[tuple[Any, anyio.Event]] = []

    def open(self) -> None:
        """Let everybody through; not to be called in a loop's thread."""
        with self._lock:
            self._opened.set()
            waiters, self._waiters = self._waiters, []
        for token, event in waiters:
            anyio.from_thread.run_sync(event.set, token=token)

    async def wait(self) -> None:
        with self._lock:
            if self._opened.is_set():
                return
            event = anyio.Event()
            self._waiters.append((anyio.lowlevel.current_token(), event))
        await event.wait()

    def wait_in_thread(self) -> None:
        must_happen(self._opened, "the opening of a gate")


# Request bodies


class BodyInput:
    """A `wsgi.input` that knows how far and by whom it was read.

    `piece` is the most that it gives for one read, as a socket would. `past_end` is what a read
    past the end meets: "eof" gives b"" (the server frames the body), "hang" is a bare socket, where
    such a read would block for ever. `error` is raised where the body ends.
    """

    def __init__(
        self,
        body: bytes = b"",
        *,
        piece: int | None = None,
        past_end: str = "eof",
        error: BaseException | None = None,
        before_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._body = body
        self.size = len(body)
        self._piece, self._past_end, self._error = piece, past_end, error
        self._before_read = before_read
        self.consumed = 0
        self.reads: list[int] = []
        self.threads: set[int] = set()

    def _bytes(self, start: int, stop: int) -> bytes:
        return self._body[start:stop]

    def read(self, size: int | None = -1) -> bytes:
        self._before_read()
        self.threads.add(threading.get_ident())
        wanted = self.size if size is None or size < 0 else size
        self.reads.append(wanted)
        stop = min(self.consumed + min(wanted, self._piece or wanted), self.size)
        if self.consumed + wanted > self.size and self._past_end == "hang":
            raise AssertionError(f"read({size}) at {self.consumed} of {self.size} hangs a socket")
        if stop == self.consumed and wanted and self._error is not None:
            raise self._error
        data = self._bytes(self.consumed, stop)
        self.consumed = stop
        return data

    def readline(self, size: int | None = -1) -> bytes:
        rest = self._bytes(self.consumed, self.size)
        return self.read(min(len(rest.split(b"\n")[0]) + 1, len(rest)))

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line


class GeneratedInput(BodyInput):
    """A large body that is never in memory as a whole."""

    PATTERN = bytes(range(256)) * 4096

    def __init__(self, size: int, **options: Any) -> None:
        super().__init__(**options)
        self.size = size

    def _bytes(self, start: int, stop: int) -> bytes:
        turn = start % 256
        data = self.PATTERN[turn : turn + stop - start]
        while len(data) < stop - start:
            data += self.PATTERN[(turn + len(data)) % 256 :][: stop - start - len(data)]
        return data


class UnreadableInput(BodyInput):
    """A socket with nothing on it: any read blocks for ever, so any read is an error."""

    def read(self, size: int | None = -1) -> bytes:
        self.reads.append(-1)
        raise AssertionError("read of a wsgi.input that has no body: it hangs a socket")


# Environs


@dataclass(frozen=True)
class Request:
    """What a client sent, and over which connection; `target` is as in the request line."""

    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = (("Host", "example.org"),)
    body: bytes = b""
    version: str = "HTTP/1.1"
    scheme: str = "http"
    client: tuple[str, int] | None = ("127.0.0.1", 50123)
    server: tuple[str, int] | None = ("127.0.0.1", 8000)
    script_name: str = ""

    @property
    def path_and_query(self) -> tuple[str, str]:
        """The encoded path and the query of the target, which may be in absolute form."""
        target = re.sub(r"^[a-zA-Z]+://[^/?]*", "", self.target)
        path, _, query = target.partition("?")
        return path or "/", query

    def wsgi_path(self) -> str:
        path = unquote_to_bytes(self.path_and_query[0]).decode("latin-1")
        return path.removeprefix(self.script_name)

    def header_pairs(self) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for name, value in self.headers:
            key = name.upper().replace("-", "_")
            key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
            pairs[key] = f"{pairs[key]},{value}" if key in pairs else value
        return pairs


def _common(request: Request, body: BodyInput) -> Environ:
    if request.body and "CONTENT_LENGTH" not in request.header_pairs():
        length = {"CONTENT_LENGTH": str(len(request.body))}
    else:
        length = {}
    return {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": request.script_name,
        "PATH_INFO": request.wsgi_path(),
        "QUERY_STRING": request.path_and_query[1],
        "SERVER_PROTOCOL": request.version,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": body,
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **request.header_pairs(),
        **length,
    }


def gunicorn_environ(request: Request) -> Environ:
    client = {"REMOTE_ADDR": ""}
    if request.client:
        client = {"REMOTE_ADDR": request.client[0], "REMOTE_PORT": str(request.client[1])}
    server = request.server or (dict(request.headers).get("Host", "/run/app.sock"), "")
    return {
        **_common(request, BodyInput(request.body)),
        "wsgi.input_terminated": True,
        "RAW_URI": request.target,
        **client,
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
    }


def waitress_environ(request: Request) -> Environ:
    client = request.client or ("localhost", None)
    server = request.server or ("waitress.invalid", None)
    return {
        **_common(request, BodyInput(request.body)),
        "wsgi.input_terminated": True,
        "REQUEST_URI": request.target,
        "REMOTE_ADDR": client[0],
        "REMOTE_HOST": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "waitress.client_disconnected": lambda: False,
    }


def werkzeug_environ(request: Request) -> Environ:
    client = request.client or ("<local>", 0)
    server = request.server or ("unix:///run/app.sock", 0)
    return {
        **_common(request, BodyInput(request.body, past_end="hang")),
        "REQUEST_URI": request.target,
        "RAW_URI": request.target,
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": client[1],
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
    }


def cheroot_environ(request: Request) -> Environ:
    client = request.client or ("", "")
    server = request.server or ("host.invalid", "")
    return {
        **_common(request, BodyInput(request.body)),
        "wsgi.input_terminated": False,
        "ACTUAL_SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_URI": request.target,
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
    }


def wsgiref_environ(request: Request) -> Environ:
    client = request.client or ("", 0)
    server = request.server or ("host.invalid", 80)
    return {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "",
        "REMOTE_HOST": "",
        **_common(request, BodyInput(request.body, past_end="hang")),
        "REMOTE_ADDR": client[0],
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
    }


def uwsgi_environ(request: Request) -> Environ:
    client = request.client or ("", "")
    server = request.server or ("host", "")
    return {
        "CONTENT_TYPE": "",
        "CONTENT_LENGTH": "",
        **_common(request, BodyInput(request.body)),
        "REQUEST_URI": request.target,
        "DOCUMENT_ROOT": "",
        "REQUEST_SCHEME": request.scheme,
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "uwsgi.version": b"2.0.30",
        "uwsgi.node": b"host",
        "x-wsgiorg.fdevent.readable": None,
    }


def mod_wsgi_environ(request: Request) -> Environ:
    client = request.client or ("127.0.0.1", 0)
    server = request.server or ("localhost", 80)
    return {
        **_common(request, BodyInput(request.body)),
        "wsgi.input_terminated": True,
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_URI": request.target,
        "REQUEST_SCHEME": request.scheme,
        "PATH_TRANSLATED": "/srv/app.wsgi/",
        "SCRIPT_FILENAME": "/srv/app.wsgi",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_ADDR": server[0],
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "mod_wsgi.version": (5, 0, 0),
    }


def granian_environ(request: Request) -> Environ:
    client = request.client or ("127.0.0.1", 0)
    server = request.server or ("localhost", 80)
    return {
        "HOME": "/home/app",
        "GATEWAY_INTERFACE": "CGI/1.1",
        **_common(request, BodyInput(request.body)),
        "wsgi.input_terminated": True,
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
    }


SERVERS: dict[str, Callable[[Request], Environ]] = {
    "gunicorn": gunicorn_environ,
    "waitress": waitress_environ,
    "werkzeug": werkzeug_environ,
    "cheroot": cheroot_environ,
    "wsgiref": wsgiref_environ,
    "uwsgi": uwsgi_environ,
    "mod_wsgi": mod_wsgi_environ,
    "granian": granian_environ,
}


def environ_for(target: str = "/", /, **request: Any) -> Environ:
    """gunicorn's environ for a request; other keys (`wsgi.input`) are set on the result."""
    return gunicorn_environ(Request(target=target, **request))


def upload_environ(body: BodyInput, *, length: int | str | None = None, **extra: Any) -> Environ:
    """A POST whose body comes from `body`; without `length` the server frames it (chunked)."""
    framing = (
        ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    )
    environ = environ_for(method="POST", headers=(("Host", "example.org"), framing))
    return environ | {"wsgi.input": body} | extra


# Exchanges


@dataclass(frozen=True)
class Start:
    """One call of `start_response`."""

    status: str
    headers: list[tuple[str, str]]
    exc_info: Any
    thread: int


class Exchange:
    """One request in a server's thread: the call, the iteration, `close()`, and all that came.

    With `hold=True` the server asks for a chunk only when the test calls `take()`.
    """

    def __init__(
        self, app: Callable[..., Any], environ: Environ | None = None, *, hold: bool = False
    ) -> None:
        self.environ = environ_for() if environ is None else environ
        self._app, self._hold = app, hold
        self._turns = threading.Semaphore(0)
        self._news = threading.Condition()
        self._hung_up = False
        self._ended = False
        self.starts: list[Start] = []
        self.chunks: list[bytes] = []
        self.violations: list[str] = []
        self.result: Any = None
        self.error: BaseException | None = None
        self.error_phase: str | None = None
        self.complete = False
        self.closed = False
        self.returned = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="driver: server", daemon=True)
        self.thread.start()

    # In the server's thread

    def _serve(self) -> None:
        try:
            self._call_and_iterate()
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _call_and_iterate(self) -> None:
        phase = "call"
        try:
            self.result = self._app(self.environ, self._start_response)
            self.returned.set()
            phase = "iterate"
            self._iterate(iter(self.result))
        except BaseException as error:
            self.error, self.error_phase = error, phase
        finally:
            self._close()

    def _iterate(self, iterator: Iterator[bytes]) -> None:
        while True:
            if self._hold:
                self._turns.acquire()
            if self._hung_up:
                return
            try:
                chunk = next(iterator)
            except StopIteration:
                self.complete = True
                self._check(bool(self.starts), "the body ended before start_response")
                return
            self._check(type(chunk) is bytes, f"a chunk of type {type(chunk).__name__}")
            self._check(bool(self.starts), "a chunk before start_response")
            with self._news:
                self.chunks.append(chunk)
                self._news.notify_all()

    def _close(self) -> None:
        try:
            getattr(self.result, "close", lambda: None)()
            self.closed = True
        except BaseException as error:
            self.error, self.error_phase = error, "close"

    def _check(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.violations.append(complaint)

    def _start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        self._check(
            threading.get_ident() == self.thread.ident, "start_response in a foreign thread"
        )
        self._check(
            type(status) is str and bool(re.fullmatch(r"\d{3} [^\x00-\x1f\x7f]*", status)),
            f"status {status!r}",
        )
        self._check(type(headers) is list, f"headers of type {type(headers).__name__}")
        for pair in headers:
            well_formed = (
                type(pair) is tuple
                and [type(part) for part in pair] == [str, str]
                and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", pair[0])
                and re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", pair[1])
            )
            self._check(bool(well_formed), f"header {pair!r}")
        if self.starts and exc_info is None:
            self.violations.append("start_response called twice without exc_info")
            raise AssertionError("start_response called twice without exc_info")
        if exc_info and any(self.chunks):
            raise exc_info[1].with_traceback(exc_info[2])
        self.starts.append(Start(status, list(headers), exc_info, threading.get_ident()))
        return self._write

    def _write(self, data: bytes) -> None:
        with self._news:
            self.chunks.append(data)
            self._news.notify_all()

    # In the test's thread

    def take(self) -> bytes | None:
        """Ask a held exchange for its next non-empty chunk; None: the body ended or broke."""
        while (chunk := self._take_any()) == b"":
            pass
        return chunk

    def _take_any(self) -> bytes | None:
        with self._news:
            count = len(self.chunks)
            self._turns.release()
            if not self._news.wait_for(
                lambda: len(self.chunks) > count or self._ended, DEADLINE_SECONDS
            ):
                fail_with_stacks("a chunk, or the end,")
            return self.chunks[count] if len(self.chunks) > count else None

    def take_until(self, size: int) -> bytes:
        """Ask for chunks until `size` bytes have come in all."""
        while self.size < size:
            assert self.take() is not None, f"the body ended after {self.size} of {size} bytes"
        return b"".join(self.chunks)

    @property
    def size(self) -> int:
        return sum(map(len, self.chunks))

    def wait_for_size(self, size: int) -> None:
        """Wait until a running exchange has brought `size` bytes."""
        with self._news:
            if not self._news.wait_for(lambda: self.size >= size or self._ended, DEADLINE_SECONDS):
                fail_with_stacks(f"the arrival of {size} bytes")
        assert self.size >= size, f"only {self.size} of {size} bytes came: {self.error!r}"

    def run_on(self) -> None:
        """Let a held exchange go on by itself."""
        self._hold = False
        self._turns.release()

    def hang_up(self) -> "Exchange":
        """Close a held exchange early, as a server does whose client left."""
        self._hung_up = True
        self._turns.release()
        return self.finish()

    def finish(self) -> "Exchange":
        """Wait for the end of the exchange, however it ends."""
        self.thread.join(DEADLINE_SECONDS)
        if self.thread.is_alive():
            fail_with_stacks("the end of an exchange")
        assert not self.violations, self.violations
        return self

    @property
    def started(self) -> Start:
        """The status and headers; fails where there are none."""
        if not self.starts:
            raise AssertionError("no start_response") from self.error
        return self.starts[-1]

    @property
    def status(self) -> int:
        return int(self.started.status[:3])

    def header_values(self, name: str) -> list[str]:
        return [v for k, v in self.started.headers if k.lower() == name.lower()]

    @property
    def body(self) -> bytes:
        """The body of an exchange that ended well; else its error is raised here."""
        self.finish()
        if self.error is not None:
            raise self.error
        assert self.complete, "the response was cut"
        return b"".join(self.chunks)

    def raised(self) -> BaseException:
        """The exception that the server got; fails when there was none."""
        self.finish()
        assert self.error is not None, f"no error; the body is {b''.join(self.chunks)!r}"
        return self.error


def serve(app: Callable[..., Any], environ: Environ | None = None) -> Exchange:
    """One exchange from its call to its end."""
    return Exchange(app, environ).finish()


def call_here(bridge: ASGIToWSGI, target: str = "/") -> bytes:
    """One exchange in this thread and context."""
    return b"".join(bridge(environ_for(target), lambda *_: lambda data: None))


# Apps


async def respond(
    send: Send,
    body: bytes = b"",
    *,
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = ((b"content-type", b"text/plain"),),
) -> None:
    """A whole response in two messages."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def start(send: Send, status: int = 200) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def stream(send: Send, body: bytes) -> None:
    """One part of a body that goes on."""
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def finish(send: Send, body: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def whole_body(receive: Receive) -> bytes:
    """The request's body; a disconnect raises."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError(f"{message['type']} after {sum(map(len, parts))} bytes")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def hello(scope: Message, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    await respond(send, await whole_body(receive))


@dataclass
class ScopeCapture:
    """An app that answers with nothing and keeps the scopes."""

    scopes: list[Message] = field(default_factory=list)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await respond(send, b"captured")

    @property
    def scope(self) -> Message:
        return self.scopes[-1]


# Bridges


@contextmanager
def bridged(app: Any, backend: Backend | None = None, **options: Any) -> Iterator[ASGIToWSGI]:
    """A bridge that is closed in the end, with a deadline; apps here know no lifespan unless
    `options` say so.
    """
    options = {"lifespan": "off", "shutdown_timeout": 5.0, **(backend or {}), **options}
    bridge = ASGIToWSGI(app, **options)
    try:
        yield bridge
    finally:
        close_bridge(bridge)


def close_bridge(bridge: ASGIToWSGI) -> None:
    InThread(bridge.close, "bridge.close()").result()


def turn_the_loop(bridge: ASGIToWSGI, times: int = 5) -> None:
    """Serve a few requests to "/turn": what was ready to run in the loop has run after it."""
    for _ in range(times):
        assert serve(bridge, environ_for("/turn")).body == b"turned"


def with_turns(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """`app`, which also answers `turn_the_loop`."""

    async def app_with_turns(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/turn":
            await respond(send, b"turned")
        else:
            await app(scope, receive, send)

    return app_with_turns


def open_files() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/dev/fd"))


# Processes


def end_this_process_after(seconds: int) -> None:
    """Kill this process later, with the stacks of its threads; a forked child has to ask for
    itself.
    """
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    signal.alarm(seconds)


def run_script(script: str, *, timeout: float = 30.0) -> str:
    """The standard output of a Python process that ran `script` and exited with 0."""
    command = [sys.executable, "-c", script]
    try:
        run = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as late:
        streams = [(stream or b"").decode() for stream in (late.stdout, late.stderr)]
        pytest.fail(f"the script did not end within {timeout:g} s\n" + "\n".join(streams))
    assert run.returncode == 0, f"exit code {run.returncode}\n{run.stdout}\n{run.stderr}"
    return run.stdout
