"""A small language of WSGI apps: each is served by a plain server and behind both bridges, and
both see the same.

`served_plainly` is the reference: what PEP 3333 and RFC 9110 make of an app, in as few lines as can
be read at once.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.both import wsgi_behind_both
from tests.support.fake_wsgi_server import (
    Backend,
    Exchange,
    environ_for,
    must_become,
    on_every_backend,
)

# --- the language


@dataclass(frozen=True)
class Program:
    """What an app does, in the order of the fields."""

    reads: tuple[int | str, ...] = ()
    """Sizes for read(), or the name of another method."""
    starts: bool = True
    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    """Content-Length, relative to what is given in all."""
    starts_anew: str | None = None
    """A second start_response "with exc_info" or "without", before the body."""
    writes: tuple[bytes, ...] = ()
    body: tuple[bytes | str, ...] = (b"hello",)
    """A chunk of text is an error, as is one that says "raise" or "start anew"."""
    kind: str = "stream"
    """list, tuple, or: stream, whose close() is counted."""
    close_raises: bool = False

    def given(self) -> int:
        return sum(len(chunk) for chunk in (*self.writes, *self.body) if isinstance(chunk, bytes))


class AppFailure(Exception):
    """What the apps raise."""


@dataclass
class Run:
    """One run of a program, and what its app saw."""

    program: Program
    read: list[Any] = field(default_factory=list)
    closes: int = 0
    failure: AppFailure = field(default_factory=AppFailure)


def app(environ: dict[str, Any], start_response: Any) -> Any:
    """Runs the program that the server put beside the request."""
    run: Run = environ["test.run"]
    program = run.program
    for size in program.reads:
        source = environ["wsgi.input"]
        run.read.append(source.read(size) if isinstance(size, int) else getattr(source, size)())
    headers = list(program.headers)
    if program.length is not None:
        headers.append(("Content-Length", str(max(0, program.given() + program.length))))
    if program.starts:
        write = start_response(program.status, headers)
        if program.starts_anew is not None:
            _start_anew(run, start_response, program.starts_anew)
        for chunk in program.writes:
            write(chunk)
    if program.kind in ("list", "tuple"):
        made = [_chunk(run, chunk, start_response) for chunk in program.body]
        return made if program.kind == "list" else tuple(made)
    return _Stream(run, start_response)


class _Stream:
    def __init__(self, run: Run, start_response: Any) -> None:
        self._run, self._start_response = run, start_response

    def __iter__(self) -> Iterator[Any]:
        for chunk in self._run.program.body:
            yield _chunk(self._run, chunk, self._start_response)

    def close(self) -> None:
        self._run.closes += 1
        if self._run.program.close_raises:
            raise self._run.failure


def _chunk(run: Run, chunk: bytes | str, start_response: Any) -> bytes | str:
    if chunk == "raise":
        raise run.failure
    if chunk == "start anew":
        _start_anew(run, start_response, "with exc_info")
        return b"a page that says what went wrong"
    return chunk


def _start_anew(run: Run, start_response: Any, how: str) -> None:
    headers = [("X-Error", "yes")]
    if how == "without":
        start_response("500 Internal Server Error", headers)
        return
    try:
        raise run.failure
    except AppFailure as error:
        start_response(
            "500 Internal Server Error", headers, (AppFailure, error, error.__traceback__)
        )


# --- what a server sees of it


@dataclass
class Seen:
    """What a server saw. `error` is the app's own, "of the spec", or none."""

    status: str | None
    headers: list[tuple[str, str]] | None
    body: bytes
    error: object
    read: list[Any]
    closes: int


class SpecError(Exception):
    """The reference server's complaint."""


class PlainServer:
    """One exchange by PEP 3333: the head goes out with the first bytes, Content-Length is kept."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self.head_sent = False
        self.body = b""
        self.allowed: int | None = None
        self.done = False
        """All that may be sent has been."""

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None:
            if self.head_sent:
                raise exc_info[1]
        elif self.head is not None:
            raise SpecError
        self.head = status, list(headers)
        return self.write

    def write(self, chunk: bytes) -> None:
        self.send(chunk)
        if self.excess:
            raise SpecError

    excess = False

    def send(self, chunk: Any) -> None:
        if not isinstance(chunk, bytes):
            raise SpecError
        self.send_head()
        if self.allowed is not None and len(self.body) + len(chunk) > self.allowed:
            self.excess = not self.bodyless
            chunk = chunk[: self.allowed - len(self.body)]
        self.body += chunk
        self.done = len(self.body) == self.allowed

    def send_head(self) -> None:
        if self.head is None:
            raise SpecError
        if self.head_sent:
            return
        self.head_sent = True
        status, headers = self.head
        declared = [int(value) for name, value in headers if name == "Content-Length"]
        self.bodyless = self.environ["REQUEST_METHOD"] == "HEAD" or status[:3] in ("204", "304")
        self.allowed = 0 if self.bodyless else declared[0] if declared else None
        self.done = self.bodyless

    def serve(self) -> None:
        result = app(self.environ, self.start_response)
        try:
            if isinstance(result, list | tuple) and not self.head_sent:
                # It is there as a whole: an error in it is seen before anything is sent.
                if not all(isinstance(chunk, bytes) for chunk in result):
                    raise SpecError
                self.refuse_short(sum(map(len, result)))
            for chunk in result:
                if self.done and self.head_sent:
                    break
                if chunk:
                    self.send(chunk)
                elif not isinstance(chunk, bytes):
                    raise SpecError
            self.send_head()
            if self.allowed is not None and len(self.body) < self.allowed:
                raise SpecError
            self.done = True
        finally:
            getattr(result, "close", lambda: None)()

    def refuse_short(self, size: int) -> None:
        if self.head is None:
            raise SpecError
        status, headers = self.head
        declared = [int(value) for name, value in headers if name == "Content-Length"]
        bodyless = self.environ["REQUEST_METHOD"] == "HEAD" or status[:3] in ("204", "304")
        if declared and size < declared[0] and not bodyless:
            raise SpecError


def served_plainly(environ: dict[str, Any]) -> Seen:
    run: Run = environ["test.run"]
    server = PlainServer(environ)
    error: object = None
    try:
        server.serve()
    except AppFailure as failure:
        error = failure
    except SpecError:
        error = "of the spec"
    if server.done:
        error = None  # the client has its whole answer; the server can only log
    status, headers = server.head if server.head_sent and server.head else (None, None)
    return Seen(status, headers, server.body, error, run.read, run.closes)


def served_behind_both(both: Any, environ: dict[str, Any]) -> Seen:
    run: Run = environ["test.run"]
    exchange = Exchange(both, environ).finish()
    error: object = exchange.error
    if not (error is None or isinstance(error, AppFailure)):
        error = "of the spec" if type(error).__name__ == "AppError" else error
    if exchange.complete and exchange.error_phase == "close":
        error = None  # of its own 5xx (A-OUT-8)
    start = exchange.starts[-1] if exchange.starts else None
    return Seen(
        start and start.status,
        start and start.headers,
        b"".join(exchange.chunks),
        error,
        run.read,
        run.closes,
    )


def comparable(seen: Seen, failure: AppFailure, *, with_length: bool) -> dict[str, Any]:
    """Without what servers may do as they like: names in capitals, a Content-Length of theirs."""
    headers, status = None, seen.status
    if seen.error is not None and not seen.body:
        status = None  # the head goes with the first bytes, and it broke before them
    elif seen.headers is not None:
        headers = [(name.lower(), value) for name, value in seen.headers]
        if not with_length:
            headers = [pair for pair in headers if pair[0] != "content-length"]
    return {
        "status": status,
        "headers": headers,
        "body": seen.body,
        "error": "the app's own" if seen.error is failure else seen.error,
        "read": seen.read,
        "closes": seen.closes,
    }


def says_length(seen: Seen) -> bool:
    """Whether there is a Content-Length that a server has to pass on (RFC 9110 8.6)."""
    names = [name for name, _ in seen.headers or ()]
    return "Content-Length" in names and not str(seen.status).startswith(("204", "304"))


# --- the property

chunks = st.binary(max_size=30)
programs = st.builds(
    Program,
    reads=st.lists(
        st.one_of(st.integers(-1, 20), st.sampled_from(["readline", "readlines", "read"])),
        max_size=4,
    ).map(tuple),
    starts=st.sampled_from([True, True, True, True, False]),
    status=st.sampled_from(["200 OK", "204 No Content", "304 Not Modified", "404 Not Found"]),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["X-A", "X-B", "Set-Cookie", "Content-Type"]),
            st.sampled_from(["1", "2", "", "\xe9; x=\xff", "a, b"]),
        ),
        max_size=5,
    ).map(tuple),
    length=st.one_of(st.none(), st.none(), st.just(0), st.integers(-40, 40)),
    starts_anew=st.sampled_from([None, None, None, "with exc_info", "without"]),
    writes=st.lists(chunks, max_size=3).map(tuple),
    body=st.lists(
        st.one_of(chunks, chunks, chunks, st.sampled_from(["raise", "start anew", "text"])),
        max_size=5,
    ).map(tuple),
    kind=st.sampled_from(["list", "tuple", "stream", "stream"]),
    close_raises=st.sampled_from([False, False, False, True]),
)
requests = st.tuples(st.sampled_from(["GET", "HEAD", "POST", "PUT"]), st.binary(max_size=60))


def environ_of(run: Run, method: str, body: bytes) -> dict[str, Any]:
    sent = body if method in ("POST", "PUT") else b""
    environ = environ_for(method=method, body=sent)
    return environ | {"wsgi.input": io.BytesIO(sent), "test.run": run}


@on_every_backend
def test_an_app_behind_both_is_seen_as_without(backend: Backend) -> None:
    """The environ carries the program, and with it what it saw."""
    with wsgi_behind_both(app, backend) as both:

        @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
        @given(programs, requests)
        @example(Program(writes=(b"a",), body=(b"", b"b")), ("GET", b""))
        @example(Program(length=-3), ("GET", b""))
        @example(Program(length=3), ("GET", b""))
        @example(Program(length=3, kind="list"), ("GET", b""))
        @example(Program(body=(b"so far", "raise")), ("GET", b""))
        @example(Program(body=("start anew",)), ("GET", b""))
        @example(Program(body=(b"so far", "start anew")), ("GET", b""))
        @example(Program(close_raises=True), ("GET", b""))
        @example(Program(body=(), close_raises=True), ("HEAD", b""))
        @example(Program(reads=("readline", 3, "read"), body=()), ("POST", b"one\ntwo three"))
        def check(program: Program, request: tuple[str, bytes]) -> None:
            plain, bridged = Run(program), Run(program)
            expected = served_plainly(environ_of(plain, *request))
            seen = served_behind_both(both, environ_of(bridged, *request))
            length = says_length(expected)
            assert comparable(seen, bridged.failure, with_length=length) == comparable(
                expected, plain.failure, with_length=length
            )

        check()


@on_every_backend
def test_a_response_that_the_server_closes_early_is_closed_once(backend: Backend) -> None:
    """W-OUT-5: wherever the app was just then."""
    with wsgi_behind_both(app, backend) as both:

        @settings(deadline=None, max_examples=40)
        @given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6), st.booleans())
        def check(body: list[bytes], fails: bool) -> None:
            run = Run(Program(body=(*body, "raise") if fails else tuple(body)))
            exchange = Exchange(both, environ_of(run, "GET", b""), hold=True)
            assert body[0].startswith((exchange.take() or b"")[: len(body[0])])
            exchange.hang_up()
            must_become(lambda: run.closes > 0, "close() of the app's body")
            assert run.closes == 1

        check()
