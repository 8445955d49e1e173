"""A small language of ASGI apps: each is served by a plain server and behind both bridges, and both
see the same.

`served_plainly` is the reference: what the ASGI HTTP spec and RFC 9110 make of an app, in as few
lines as can be read at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.both import asgi_behind_both
from tests.support.fake_asgi_server import Client, calling, http_scope
from tests.support.fake_wsgi_server import BACKENDS
from wsgi_asgi_bridge import AppError

# --- the language

Step = tuple[Any, ...]
"""("receive",), ("all",), ("start", status), ("part", bytes), ("last", bytes), ("nonsense",),
("raise",)
"""


@dataclass(frozen=True)
class Program:
    """What an app does."""

    steps: tuple[Step, ...]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    length: int | None = None
    """Content-Length, relative to what is sent in all."""

    def given(self) -> int:
        return sum(len(step[1]) for step in self.steps if step[0] in ("part", "last"))


class AppFailure(Exception):
    """What the apps raise."""


@dataclass
class Run:
    """One run of a program, and what its app received."""

    program: Program
    body: bytes = b""
    whole: bool = False
    after_the_end: list[str] = field(default_factory=list)
    failure: AppFailure = field(default_factory=AppFailure)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Runs the program that the server put beside the request."""
    run: Run = scope["test.run"]
    program = run.program
    ended = False
    for kind, *values in program.steps:
        if kind == "receive" and ended:
            run.after_the_end.append((await receive())["type"])
        elif kind in ("receive", "all"):
            await _receive(run, receive, everything=kind == "all")
        elif kind == "start":
            headers = list(program.headers)
            if program.length is not None:
                length = b"%d" % max(0, program.given() + program.length)
                headers.append((b"content-length", length))
            await send({"type": "http.response.start", "status": values[0], "headers": headers})
        elif kind in ("part", "last"):
            more = kind == "part"
            await send({"type": "http.response.body", "body": values[0], "more_body": more})
            ended = ended or not more
        elif kind == "nonsense":
            await send({"type": "http.response.nonsense"})
        else:
            raise run.failure


async def _receive(run: Run, receive: Any, *, everything: bool) -> None:
    while not run.whole:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        run.body += message["body"]
        run.whole = not message["more_body"]
        if not everything:
            return


# --- what a server sees of it


@dataclass
class Seen:
    """What a server saw. `error` is the app's own, "of the spec", or none."""

    status: int | None
    headers: list[tuple[bytes, bytes]] | None
    body: bytes
    complete: bool
    error: object
    after_the_end: list[str]


class SpecError(Exception):
    """The reference server's complaint, raised out of `send()`."""


class PlainServer:
    """One exchange by ASGI HTTP 2.5."""

    def __init__(self, method: str, parts: Sequence[bytes]) -> None:
        self.method = method
        self.parts = deque(parts or [b""])
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] | None = None
        self.declared: int | None = None
        self.given = 0
        self.body = b""
        self.complete = False
        """For the client."""
        self.over = False
        """For the app."""

    async def receive(self) -> dict[str, Any]:
        if self.over or not self.parts:
            return {"type": "http.disconnect"}
        part = self.parts.popleft()
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self.status is None:
            self.status, self.headers = message["status"], message["headers"]
            lengths = [
                int(value) for name, value in self.headers or () if name == b"content-length"
            ]
            self.declared = lengths[0] if lengths else None
        elif kind == "http.response.body" and self.status is not None and not self.over:
            self.take(message["body"], last=not message["more_body"])
        else:
            raise SpecError

    def take(self, part: bytes, *, last: bool) -> None:
        if self.method == "HEAD" or self.status in (204, 304):
            self.complete, self.over = True, last  # the client has all that it may have
            return
        if self.declared is not None:
            self.given += len(part)
            if self.given > self.declared or (last and self.given < self.declared):
                raise SpecError
        self.body += part
        self.over = last
        # By Content-Length the client sees the end before the app says so; the head of a response
        # goes with its first bytes, so that it sees nothing where there are none.
        self.complete = last or (bool(self.declared) and self.given == self.declared)


async def served_plainly(run: Run, method: str, parts: Sequence[bytes]) -> Seen:
    server = PlainServer(method, parts)
    error: object = None
    try:
        await app({"test.run": run}, server.receive, server.send)
    except AppFailure as failure:
        error = failure
    except SpecError:
        error = "of the spec"
    if error is None and not server.over:
        error = "of the spec"
    return Seen(
        server.status,
        server.headers,
        server.body,
        server.complete,
        error,
        run.after_the_end,
    )


async def served_behind_both(both: Any, run: Run, method: str, parts: Sequence[bytes]) -> Seen:
    headers = []
    if parts:
        headers.append((b"content-length", b"%d" % sum(map(len, parts))))
    scope = http_scope(method, headers=headers) | {"test.run": run}
    client = Client(scope, parts)
    async with calling(both, client):
        pass
    error: object = client.error
    if isinstance(error, AppError):
        error = "of the spec"
    started = bool(client.messages)
    return Seen(
        client.status if started else None,
        client.messages[0]["headers"] if started else None,
        client.body,
        client.complete,
        error,
        run.after_the_end,
    )


def comparable(
    seen: Seen, failure: AppFailure, *, with_length: bool, bodyless: bool
) -> dict[str, Any]:
    """Without what servers may do as they like: a Content-Length of theirs; when the head goes out
    where nothing follows it; and when a response without a body has ended.
    """
    headers, status = seen.headers, seen.status
    if not (seen.complete or seen.body):
        status = headers = None
    elif headers is not None and not with_length:
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    return {
        "status": status,
        "headers": headers,
        "body": seen.body,
        "complete": seen.complete,
        # Once the client has its whole answer, a server can only log.
        "error": None
        if seen.complete
        else "the app's own"
        if seen.error is failure
        else seen.error,
        "after the end": None if bodyless else seen.after_the_end,
    }


def says_length(seen: Seen) -> bool:
    """Whether there is a Content-Length that a server has to pass on (RFC 9110 8.6)."""
    names = [name for name, _ in seen.headers or ()]
    return b"content-length" in names and seen.status not in (204, 304)


# --- the property

parts = st.binary(max_size=30)
starts = st.sampled_from([200, 204, 304, 404, 599]).map(lambda status: ("start", status))
anything: st.SearchStrategy[Step] = st.one_of(
    st.sampled_from([("receive",), ("all",), ("raise",), ("nonsense",)]),
    starts,
    parts.map(lambda part: ("part", part)),
    parts.map(lambda part: ("last", part)),
)
legal: st.SearchStrategy[tuple[Step, ...]] = st.builds(
    lambda before, start, between, last, after: (*before, start, *between, last, *after),
    st.lists(st.sampled_from([("receive",), ("all",)]), max_size=3),
    starts,
    st.lists(st.one_of(st.just(("receive",)), parts.map(lambda part: ("part", part))), max_size=4),
    parts.map(lambda part: ("last", part)),
    st.lists(st.sampled_from([("receive",), ("raise",)]), max_size=2),
)
programs = st.builds(
    Program,
    steps=st.one_of(legal, legal, st.lists(anything, max_size=6).map(tuple)),
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"x-a", b"x-b", b"set-cookie", b"content-type"]),
            st.sampled_from([b"1", b"2", b"", b"\xe9; x=\xff", b"a, b"]),
        ),
        max_size=5,
    ).map(tuple),
    length=st.one_of(st.none(), st.none(), st.just(0), st.integers(-40, 40)),
)
requests = st.tuples(
    st.sampled_from(["GET", "HEAD", "POST", "PUT"]), st.lists(st.binary(max_size=40), max_size=4)
)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "trio"])
def test_an_app_behind_both_is_seen_as_without(kind: str) -> None:
    """The scope carries the program, and with it what it received."""
    options: dict[str, Any] = {"backend": "trio" if kind == "trio" else "asyncio"}
    if kind == "uvloop":
        options["backend_options"] = {"use_uvloop": True}
    with (
        start_blocking_portal(**options) as portal,
        portal.wrap_async_context_manager(asgi_behind_both(app, BACKENDS[kind])) as both,
    ):

        @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
        @given(programs, requests)
        @example(Program((("start", 200), ("part", b"so far"), ("raise",))), ("GET", []))
        @example(Program((("start", 200), ("last", b"all"), ("raise",))), ("GET", []))
        @example(
            Program((("all",), ("start", 200), ("last", b"all"), ("receive",))), ("POST", [b"x"])
        )
        @example(Program((("start", 200), ("part", b"abc")), length=3), ("GET", []))
        @example(Program((("start", 200), ("last", b"abc")), length=3), ("GET", []))
        @example(Program((("start", 200), ("last", b"abc")), length=-1), ("GET", []))
        @example(Program((("start", 204), ("part", b"abc"), ("raise",))), ("GET", []))
        @example(Program(()), ("GET", []))
        def check(program: Program, request: tuple[str, list[bytes]]) -> None:
            method, sent = request
            sent = sent if method in ("POST", "PUT") else []
            plain, bridged = Run(program), Run(program)
            expected = portal.call(served_plainly, plain, method, sent)
            seen = portal.call(served_behind_both, both, bridged, method, sent)
            alike = {
                "with_length": says_length(expected),
                "bodyless": method == "HEAD" or expected.status in (204, 304),
            }
            assert comparable(seen, bridged.failure, **alike) == comparable(
                expected, plain.failure, **alike
            )
            for run in (plain, bridged):
                # A server decides on the pieces; the bytes and their end are the client's.
                whole = b"".join(sent)
                assert run.body == whole if run.whole else whole.startswith(run.body)

        check()
