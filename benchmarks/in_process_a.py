"""ASGIToWSGI and its peers driven in process, without a server: threads that call."""

import gc
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from threading import Barrier, Thread
from typing import Any, ClassVar

from .apps import Case, in_process_cases
from .contest import Contest, WrongAnswerError
from .floor import floor_asgi_to_wsgi
from .measuring import Cost, Stopwatch
from .peers import ASGI_TO_WSGI, FLOOR, Bridge, NewLoop, new_loops
from .results import Part, Progress, Row
from .settings import Settings

CHECK_SECONDS = 60.0
TURN_SECONDS = 120.0
CALLERS = (1, 4, 16)  # threads that call for hello at once

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/hello/world",
    "QUERY_STRING": "",
    "RAW_URI": "/hello/world",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_SOFTWARE": "benchmarks",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "54321",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": None,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
    "HTTP_HOST": "www.example.org",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
    "HTTP_COOKIE": "session=0123456789abcdef0123456789abcdef",
    "HTTP_X_FORWARDED_FOR": "203.0.113.9",
    "HTTP_X_FORWARDED_PROTO": "https",
}


def environ_of(case: Case, query: str = "") -> dict[str, Any]:
    environ = {**ENVIRON, "REQUEST_METHOD": case.method, "QUERY_STRING": query}
    if case.parts:
        environ["CONTENT_TYPE"] = "application/octet-stream"
        environ["CONTENT_LENGTH"] = str(case.request_length)
    return environ


class RepeatedPart:
    """`wsgi.input` of a server that has the bytes at hand: what is read is not copied each time."""

    blocks: ClassVar[dict[tuple[bytes, int], bytes]] = {}

    def __init__(self, case: Case) -> None:
        self.part = case.part
        self.left = case.request_length
        self.offset = 0

    def read(self, size: int = -1) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        self.left -= size
        if self.offset == 0 and size % len(self.part) == 0:
            return self._whole_parts(size)
        start, self.offset = self.offset, (self.offset + size) % len(self.part)
        return (self.part * (size // len(self.part) + 2))[start : start + size]

    def _whole_parts(self, size: int) -> bytes:
        block = self.blocks.get((self.part, size))
        if block is None:
            block = self.blocks[self.part, size] = self.part * (size // len(self.part))
        return block


class Answer:
    """The server's side of one response, as small as it can be."""

    __slots__ = ("headers", "status")

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        self.status = status
        self.headers = headers
        return self.write

    def write(self, block: bytes) -> None:
        raise WrongAnswerError("write() was called")


def check(case: Case, app: Callable[..., Any], is_floor: bool) -> None:
    """One answer, looked at whole; raises WrongAnswerError."""
    environ = environ_of(case, "crc" if case.floor == "upload" else "")
    environ["wsgi.input"] = request_body(case)
    answer = Answer()
    blocks = app(environ, answer.start_response)
    try:
        body = b"".join(blocks)
    finally:
        getattr(blocks, "close", bool)()
    if not answer.status.startswith("200 "):
        raise WrongAnswerError(f"status {answer.status!r}")
    if len(body) != case.expected_length or zlib.crc32(body) != case.expected_crc:
        raise WrongAnswerError(f"{len(body)} bytes that are not the {case.expected_length}")
    headers = {name.lower(): value for name, value in answer.headers}
    if not is_floor and headers.get("content-type") != "text/plain":
        raise WrongAnswerError(f"headers {answer.headers!r}")
    length = headers.get("content-length")
    if not is_floor and case.floor != "stream" and length != str(case.expected_length):
        raise WrongAnswerError(f"content-length {length!r}")


def request_body(case: Case) -> Any:
    return RepeatedPart(case) if case.floor == "upload" else BytesIO(case.part * case.parts)


def request_in_turn(case: Case, app: Callable[..., Any], requests: int) -> None:
    """So many requests, one after another; every answer's status and length are compared."""
    template, expected = environ_of(case), case.length_under_load
    for _ in range(requests):
        environ = template.copy()
        environ["wsgi.input"] = request_body(case)
        answer, length = Answer(), 0
        blocks = app(environ, answer.start_response)
        for block in blocks:
            length += len(block)
        if hasattr(blocks, "close"):
            blocks.close()
        if length != expected or answer.status[:3] != "200":
            raise WrongAnswerError(f"{answer.status!r}, {length} bytes under load")


class Callers:
    """Threads that begin at once; `run` waits for all and raises what one of them raised."""

    def __init__(self, work: Callable[[], None], count: int) -> None:
        self.work = work
        self.failure: BaseException | None = None
        self.gate = Barrier(count + 1)
        self.threads = [Thread(target=self._call, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _call(self) -> None:
        self.gate.wait()
        try:
            self.work()
        except BaseException as error:  # it is raised in the thread that asked
            self.failure = error

    def run(self, requests: int, seconds: float) -> Cost:
        watch = Stopwatch()
        watch.start()
        self.gate.wait()
        for thread in self.threads:
            thread.join(seconds)
            if thread.is_alive():
                raise WrongAnswerError(f"no end within {seconds:g} s")
        cost = watch.stop(requests)
        if self.failure is not None:
            raise self.failure
        return cost


def load(case: Case, app: Callable[..., Any], count: int, callers: int) -> Cost:
    """`count` requests by so many threads."""
    gc.collect()
    work = partial(request_in_turn, case, app, count // callers)
    return Callers(work, callers).run(count, TURN_SECONDS)


def builders(case: Case, new_loop: NewLoop, settings: Settings) -> dict[str, Callable[[], Bridge]]:
    """How each contender is built around the case."""
    bridges = {name: partial(build, case.asgi, new_loop) for name, build in ASGI_TO_WSGI.items()}
    every = {**bridges, FLOOR: partial(floor_asgi_to_wsgi, case, new_loop)}
    return {name: build for name, build in every.items() if settings.takes(name)}


def compete(case: Case, callers: int, loop: str, new_loop: NewLoop, settings: Settings) -> Row:
    """One row: every contender built, checked, and measured in turn."""

    def checked(name: str, call: Callable[..., Any]) -> None:
        # In a thread of its own, so that a bridge that hangs is a wrong answer.
        Callers(lambda: check(case, call, name == FLOOR), 1).run(1, CHECK_SECONDS)

    contest = Contest(
        check=checked,
        load=lambda call, count: load(case, call, count, callers),
        settings=settings,
        least=callers,
    )
    return contest.hold(Row(case.name, loop, callers), builders(case, new_loop, settings))


def measure(settings: Settings, progress: Progress) -> Part:
    rows = []
    for case, callers in in_process_cases(CALLERS, settings.upload_mebibytes):
        for loop, new_loop in new_loops().items():
            progress(f"{case.name}, {callers} calling, {loop}")
            rows.append(compete(case, callers, loop, new_loop, settings))
    return Part(
        "in-process-a",
        "An ASGI app called through WSGI, in process: microseconds a request",
        ["Both bridges run the loop that is named."],
        rows,
    )
