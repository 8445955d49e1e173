"""WSGIToASGI and its peers driven in process, without a server: tasks that call."""

import asyncio
import gc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from .apps import Case, in_process_cases
from .contest import Contest, WrongAnswerError
from .floor import floor_wsgi_to_asgi
from .measuring import Cost, Stopwatch
from .peers import FLOOR, WSGI_TO_ASGI, Bridge, NewLoop, new_loops
from .results import Part, Progress, Row
from .settings import Settings

CHECK_SECONDS = 60.0
TURN_SECONDS = 120.0
IN_FLIGHT = (1, 10, 100)  # hello requests at once

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "scheme": "http",
    "path": "/hello/world",
    "raw_path": b"/hello/world",
    "query_string": b"",
    "root_path": "",
    "server": ("127.0.0.1", 8000),
    "client": ("127.0.0.1", 54321),
    "state": {},
}
HEADERS = [
    (b"host", b"www.example.org"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef"),
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"x-forwarded-proto", b"https"),
]


def scope_of(case: Case, query: bytes = b"") -> dict[str, Any]:
    headers = list(HEADERS)
    if case.parts:
        headers.append((b"content-type", b"application/octet-stream"))
        headers.append((b"content-length", b"%d" % case.request_length))
    return {**SCOPE, "method": case.method, "query_string": query, "headers": headers}


class Exchange:
    """The server's side of one request, as small as it can be."""

    __slots__ = ("ended", "gone", "length", "part", "parts_left", "status")

    def __init__(self, case: Case) -> None:
        self.part = case.part
        self.parts_left = max(case.parts, 1)
        self.status = 0
        self.length = 0
        self.ended = False
        self.gone: asyncio.Future[None] | None = None

    async def receive(self) -> dict[str, Any]:
        if self.parts_left:
            self.parts_left -= 1
            more = self.parts_left > 0
            return {"type": "http.request", "body": self.part, "more_body": more}
        if not self.ended:  # as a server does: the client stays until it has its answer
            self.gone = asyncio.get_running_loop().create_future()
            await self.gone
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.length += len(message.get("body", b""))
        if not message.get("more_body"):
            self.ended = True
            if self.gone is not None and not self.gone.done():
                self.gone.set_result(None)


class CheckedExchange(Exchange):
    """Keeps what came, to look at it."""

    __slots__ = ("crc", "starts")

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.crc = 0
        self.starts: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        if self.ended:
            raise WrongAnswerError(f"a message after the last: {message['type']}")
        if message["type"] == "http.response.start":
            self.starts.append(message)
        else:
            self.crc = zlib.crc32(message.get("body", b""), self.crc)
        await super().send(message)


@asynccontextmanager
async def answered_within(seconds: float) -> AsyncIterator[None]:
    """A bridge that hangs is a wrong answer."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise WrongAnswerError(f"no end within {seconds:g} s") from error


async def check(case: Case, app: Callable[..., Any], is_floor: bool) -> None:
    """One answer, looked at whole; raises WrongAnswerError."""
    exchange = CheckedExchange(case)
    query = b"crc" if case.floor == "upload" else b""
    async with answered_within(CHECK_SECONDS):
        await app(scope_of(case, query), exchange.receive, exchange.send)
    if len(exchange.starts) != 1 or not exchange.ended:
        raise WrongAnswerError(f"{len(exchange.starts)} starts, ended: {exchange.ended}")
    if exchange.status != 200:
        raise WrongAnswerError(f"status {exchange.status}")
    if exchange.length != case.expected_length or exchange.crc != case.expected_crc:
        raise WrongAnswerError(f"{exchange.length} bytes that are not the {case.expected_length}")
    headers = {name.lower(): value for name, value in exchange.starts[0]["headers"]}
    if not is_floor and headers.get(b"content-type") != b"text/plain":
        raise WrongAnswerError(f"headers {exchange.starts[0]['headers']!r}")
    if not is_floor and case.floor != "stream":
        length = headers.get(b"content-length")
        if length != b"%d" % case.expected_length:
            raise WrongAnswerError(f"content-length {length!r}")


async def load(case: Case, app: Callable[..., Any], count: int, lanes: int) -> Cost:
    """`count` requests, `lanes` of them in flight; each answer's status and length are compared."""
    scope, expected = scope_of(case), case.length_under_load

    async def lane(requests: int) -> None:
        for _ in range(requests):
            exchange = Exchange(case)
            await app(scope.copy(), exchange.receive, exchange.send)
            if exchange.length != expected or exchange.status != 200 or not exchange.ended:
                raise WrongAnswerError(f"{exchange.status}, {exchange.length} bytes under load")

    watch = Stopwatch()
    async with answered_within(TURN_SECONDS):
        if lanes > 1:  # starts what threads there are to start
            await asyncio.gather(*[lane(1) for _ in range(lanes)])
        gc.collect()
        watch.start()
        await asyncio.gather(*[lane(count // lanes) for _ in range(lanes)])
        return watch.stop(count)


def builders(case: Case, settings: Settings) -> dict[str, Callable[[], Bridge]]:
    """How each contender is built around the case."""
    bridges = {name: partial(build, case.wsgi) for name, build in WSGI_TO_ASGI.items()}
    every = {**bridges, FLOOR: partial(floor_wsgi_to_asgi, case)}
    return {name: build for name, build in every.items() if settings.takes(name)}


def compete(case: Case, lanes: int, loop: str, new_loop: NewLoop, settings: Settings) -> Row:
    """One row: every contender built, checked, and measured in turn."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        contest = Contest(
            check=lambda name, call: runner.run(check(case, call, name == FLOOR)),
            load=lambda call, count: runner.run(load(case, call, count, lanes)),
            settings=settings,
            least=lanes,
        )
        return contest.hold(Row(case.name, loop, lanes), builders(case, settings))


def measure(settings: Settings, progress: Progress) -> Part:
    rows = []
    for case, lanes in in_process_cases(IN_FLIGHT, settings.upload_mebibytes):
        for loop, new_loop in new_loops().items():
            progress(f"{case.name}, {lanes} in flight, {loop}")
            rows.append(compete(case, lanes, loop, new_loop, settings))
    return Part(
        "in-process-w",
        "A WSGI app called through ASGI, in process: microseconds a request",
        [
            "Every bridge that lets itself be told has 40 threads; asgiref has one for all.",
            "Ours and the floor hold 512 KiB of a request and of a response, our defaults; the "
            "adapters of uvicorn, starlette and hypercorn hold the whole request, the first two "
            "all that waits of a response.",
        ],
        rows,
    )
