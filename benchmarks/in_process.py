"""Bridges driven without a server, pinned to one CPU: what a request costs, side by side.

Not by pyperf, which gives each benchmark a process of its own: on a machine that others use, ratios
hold only if the contenders take turns within one.
"""

import asyncio
import gc
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from io import BytesIO
from threading import Barrier, Thread
from typing import Any, NamedTuple

from .contest import Contender, Turn, WrongAnswerError, compete, end_in_time
from .floor import floor_asgi_to_wsgi, floor_wsgi_to_asgi
from .peers import ASGI_TO_WSGI, FLOOR, WSGI_TO_ASGI, Bridge, NewLoop, new_loops
from .results import Part, Progress
from .settings import Settings
from .sites import BLOCK, HELLO, answer_to_upload, asgi_app, equal, wsgi_app

LIMIT_SECONDS = 120.0  # who takes longer hangs
UPLOAD_MEBIBYTES = 64
LOADS = {"w": (1, 10, 100), "a": (1, 4, 16)}  # hello requests in flight, threads that call

HEADERS = {
    "host": "www.example.org",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept-language": "en-US,en;q=0.5",
    "accept-encoding": "gzip, deflate, br",
    "cookie": "session=0123456789abcdef0123456789abcdef",
    "x-forwarded-for": "203.0.113.9",
    "x-forwarded-proto": "https",
}
SCOPE = {"type": "http", "http_version": "1.1", "scheme": "http", "root_path": "", "state": {}}
SCOPE |= {"server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 54321)}
SCOPE |= {"asgi": {"version": "3.0", "spec_version": "2.3"}}
ENVIRON = {"SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "benchmarks"}
ENVIRON |= {"SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8000", "REMOTE_ADDR": "127.0.0.1"}
ENVIRON |= {"REMOTE_PORT": "54321", "wsgi.version": (1, 0), "wsgi.url_scheme": "http"}
ENVIRON |= {"wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False}
ENVIRON |= {"wsgi.input_terminated": True, "wsgi.errors": None}
ENVIRON |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()}


class Case(NamedTuple):
    """One kind of request, and the right answer."""

    name: str
    path: str
    query: str
    answer: bytes
    part: bytes = b""  # the request's body is this part, so many times
    parts: int = 0
    checked: tuple[str, bytes] | None = None  # another query and answer, for the check

    def scope(self, query: str) -> dict[str, Any]:
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        if self.parts:
            headers.append((b"content-length", b"%d" % (self.parts * len(self.part))))
        target = {"path": self.path, "raw_path": self.path.encode(), "query_string": query.encode()}
        return {**SCOPE, **target, "headers": headers, "method": "POST" if self.parts else "GET"}

    def environ(self, query: str) -> dict[str, Any]:
        method, length = "POST" if self.parts else "GET", self.parts * len(self.part)
        target = {"PATH_INFO": self.path, "RAW_URI": self.path, "QUERY_STRING": query}
        body = {"CONTENT_LENGTH": str(length)} if length else {}
        return {**ENVIRON, **target, **body, "REQUEST_METHOD": method}


def cases() -> list[Case]:
    form, parts = b"0123456789abcdef" * 64, UPLOAD_MEBIBYTES * 2**20 // len(BLOCK)
    size, crc = parts * len(BLOCK), zlib.crc32(BLOCK * parts)
    upload = f"upload {UPLOAD_MEBIBYTES} MiB", "/upload", "", answer_to_upload(size)
    return [
        Case("hello", "/hello", "", HELLO),
        Case("POST 1 KiB", "/echo", "", form, form, 1),
        Case("1,000 x 100 B", "/stream", "1000&100", b"".join(equal("1000&100"))),
        Case("256 x 64 KiB", "/stream", "256&65536", b"".join(equal("256&65536"))),
        Case(*upload, BLOCK, parts, ("crc", answer_to_upload(size, crc))),
    ]


class ASGIExchange:
    """One request, by a server that is as small as it can be; blocks go to what is given."""

    __slots__ = ("blocks", "gone", "over", "part", "parts_left", "start")

    def __init__(self, case: Case, blocks: Any) -> None:
        self.part, self.parts_left = case.part, case.parts or 1
        self.start: dict[str, Any] | None = None
        self.blocks = blocks
        self.over = False
        self.gone: asyncio.Future[None] | None = None

    async def receive(self) -> dict[str, Any]:
        if self.parts_left:
            self.parts_left -= 1
            return {"type": "http.request", "body": self.part, "more_body": self.parts_left > 0}
        if not self.over:  # the client stays until it has its answer
            self.gone = asyncio.get_running_loop().create_future()
            await self.gone
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        is_start = message["type"] == "http.response.start"
        if self.over or is_start is bool(self.start):
            raise WrongAnswerError(f"{message['type']} out of turn")
        if is_start:
            self.start = message
            return
        self.blocks.append(message.get("body", b""))
        if not message.get("more_body"):
            self.over = True
            if self.gone is not None and not self.gone.done():
                self.gone.set_result(None)


async def call_asgi(app: Any, case: Case, scope: Any, blocks: Any) -> tuple[int, Any]:
    exchange = ASGIExchange(case, blocks)
    await app(scope, exchange.receive, exchange.send)
    if not exchange.over or not exchange.start:
        raise WrongAnswerError("no end of the answer")
    return exchange.start["status"], exchange.start["headers"]


def call_wsgi(app: Any, case: Case, environ: Any, blocks: Any) -> tuple[int, Any]:
    starts: list[Any] = []
    environ["wsgi.input"] = RepeatedBlock(case) if case.parts > 1 else BytesIO(case.part)
    iterable = app(environ, lambda *start: starts.append(start))
    for block in iterable:
        blocks.append(block)
    if hasattr(iterable, "close"):
        iterable.close()
    status, headers, *_ = starts[-1]
    return int(status[:3]), headers


class RepeatedBlock:
    """`wsgi.input` of a server that has the bytes at hand: what is read is not copied each time."""

    def __init__(self, case: Case) -> None:
        self.left = case.parts * len(BLOCK)

    def read(self, size: int = -1) -> bytes:
        size, start = self.left if size < 0 else min(size, self.left), -self.left % len(BLOCK)
        self.left -= size
        return repeated(start, size)


@cache
def repeated(start: int, size: int) -> bytes:
    return (BLOCK * (size // len(BLOCK) + 2))[start : start + size]


class CallingThread:
    """Calls a bridge from tasks of a loop (side "w") or from threads (side "a")."""

    def __init__(self, side: str, call: Any, runner: asyncio.Runner) -> None:
        self.side, self.call, self.runner = side, call, runner

    def answer(self, case: Case, query: str, blocks: Any) -> tuple[int, Any]:
        """One answer, for which nobody waits longer than the limit."""
        if self.side == "w":
            work = call_asgi(self.call, case, case.scope(query), blocks)
            return self.runner.run(asyncio.wait_for(work, LIMIT_SECONDS))
        answers: list[Any] = []
        environ = case.environ(query)
        in_threads(lambda: answers.append(call_wsgi(self.call, case, environ, blocks)), 1)
        return answers[0]

    def run(self, case: Case, load: int, count: int) -> dict[str, float]:
        """What each of so many requests cost, with so many at once."""
        if self.side == "w":
            return self.runner.run(asyncio.wait_for(self.tasks(case, load, count), LIMIT_SECONDS))
        gc.collect()
        return costs(in_threads(partial(self.requests, case, count // load), load), count)

    async def tasks(self, case: Case, load: int, count: int) -> dict[str, float]:
        if load > 1:  # starts what threads there are to start
            await asyncio.gather(*[self.lane(case, 1) for _ in range(load)])
        gc.collect()
        before = used()
        await asyncio.gather(*[self.lane(case, count // load) for _ in range(load)])
        return costs(before, count)

    async def lane(self, case: Case, count: int) -> None:
        scope = case.scope(case.query)
        for _ in range(count):
            blocks: list[bytes] = []
            status, _ = await call_asgi(self.call, case, scope.copy(), blocks)
            if status != 200 or sum(map(len, blocks)) != len(case.answer):
                raise WrongAnswerError(f"{status}, or another length under load")

    def requests(self, case: Case, count: int) -> None:
        environ = case.environ(case.query)
        for _ in range(count):
            blocks: list[bytes] = []
            status, _ = call_wsgi(self.call, case, environ.copy(), blocks)
            if status != 200 or sum(map(len, blocks)) != len(case.answer):
                raise WrongAnswerError(f"{status}, or another length under load")


def check(caller: CallingThread, case: Case) -> None:
    """Raises WrongAnswerError unless one answer, looked at whole, is the right one."""
    query, expected = case.checked or (case.query, case.answer)
    blocks: list[bytes] = []
    status, pairs = caller.answer(case, query, blocks)
    if caller.side == "w":
        pairs = [(name.decode(), value.decode()) for name, value in pairs]
    body, headers = b"".join(blocks), {name.lower(): value for name, value in pairs}
    length = headers.get("content-length", str(len(body)) if case.path == "/stream" else "none")
    if status != 200 or body != expected:
        raise WrongAnswerError(f"{status}, {len(body)} bytes that are not the {len(expected)}")
    if headers.get("content-type") != "text/plain" or length != str(len(body)):
        raise WrongAnswerError(f"headers {headers!r}")


def in_threads(work: Callable[[], Any], count: int) -> tuple[float, ...]:
    """Threads that begin at once: what was used before they did. Raises what one of them raised."""
    failures: list[BaseException] = []
    gate = Barrier(count + 1)

    def call() -> None:
        gate.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=call, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    before = used()
    gate.wait()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
        if thread.is_alive():
            raise TimeoutError(f"no end within {LIMIT_SECONDS:g} s")
    if failures:
        raise failures[0]
    return before


def used() -> tuple[float, ...]:
    """Wall time, CPU time and context switches of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    switches = usage.ru_nvcsw + usage.ru_nivcsw
    return time.perf_counter(), usage.ru_utime + usage.ru_stime, switches


def costs(before: tuple[float, ...], requests: int) -> dict[str, float]:
    spans = zip(("seconds", "cpu_seconds", "switches"), before, used(), strict=True)
    return {name: (end - start) / requests for name, start, end in spans}


def bridges(side: str, app: Any, new_loop: NewLoop, settings: Settings) -> dict[str, Any]:
    """How each contender that takes part is built around the app."""
    if side == "w":
        every = settings.chosen({**WSGI_TO_ASGI, FLOOR: floor_wsgi_to_asgi})
        return {name: partial(build, app) for name, build in every.items()}
    every = settings.chosen({**ASGI_TO_WSGI, FLOOR: floor_asgi_to_wsgi})
    return {name: partial(build, app, new_loop) for name, build in every.items()}


@contextmanager
def called(side: str, build: Callable[[], Bridge], new_loop: NewLoop) -> Iterator[CallingThread]:
    bridge = build()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            yield CallingThread(side, bridge.call, runner)
        finally:
            end_in_time(bridge)


@contextmanager
def contender(caller: Any, case: Case, load: int, seconds: float) -> Iterator[Turn]:
    """One answer is looked at whole; then a turn makes as many requests as fill its time."""
    with caller as calling:
        check(calling, case)
        count = load
        while (took := calling.run(case, load, count)["seconds"]) * count < seconds / 4:
            count *= 4
        fitting = max(1, round(seconds / took / load)) * load
        yield lambda: calling.run(case, load, fitting)


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows, app = [], wsgi_app if side == "w" else asgi_app
    for case in cases():
        for load in LOADS[side] if case.name == "hello" else (1,):
            for loop, new_loop in new_loops().items():
                progress(f"{case.name}, {load} at once, {loop}")
                rivals: dict[str, Contender] = {}
                for name, build in bridges(side, app, new_loop, settings).items():
                    caller = called(side, build, new_loop)
                    rivals[name] = contender(caller, case, load, settings.sample_seconds)
                rows.append(compete(case.name, loop, load, rivals, settings.rounds))
    title = "A WSGI app called through ASGI" if side == "w" else "An ASGI app called through WSGI"
    return Part(f"in-process-{side}", f"{title}, in process", rows)
