"""WSGI apps whose one request ends in a known way, for the tests of endings."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.fake_asgi_server import (
    Gate,
    TrackedBody,
    nothing_left,
    plain_app,
    serving,
)
from wsgi_asgi_bridge import WSGIToASGI

GONE = "wsgi_asgi_bridge.client_disconnected"


class Ending:
    """An app whose one request ends in a known way, and what its close() saw."""

    def __init__(
        self,
        chunks: Callable[["Ending"], Iterator[bytes]],
        *,
        headers: Any = (),
        reads: bool = False,
    ) -> None:
        self.entered, self.gate = Gate(), Gate()
        self.calls = 0
        self.body: TrackedBody | None = None
        self.gone_at_close: list[bool] = []
        self.errors: list[BaseException] = []
        self._chunks, self._headers, self._reads = chunks, list(headers), reads

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/other":
            return plain_app(environ, start_response)
        self.calls += 1
        start_response("200 OK", self._headers)

        def chunks() -> Iterator[bytes]:
            try:
                if self._reads:
                    self.entered.open()
                    environ["wsgi.input"].read()
                yield from self._chunks(self)
            except BaseException as error:
                self.errors.append(error)
                raise

        self.body = TrackedBody(
            chunks(),
            on_close=lambda: self.gone_at_close.append(environ[GONE]()),
        )
        return self.body

    async def until_closed(self) -> None:
        assert self.body is not None
        await self.body.closed.wait()

    @property
    def closes(self) -> int:
        return 0 if self.body is None else self.body.closes


def two_chunks(ending: Ending) -> Iterator[bytes]:
    yield b"one"
    yield b"two"


def endless(ending: Ending) -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


def computing(ending: Ending) -> Iterator[bytes]:
    ending.entered.open()
    ending.gate.wait_in_thread()
    yield b"result"
    yield b"never asked for when the client is gone"


@asynccontextmanager
async def row(ending: Ending, **options: Any) -> AsyncIterator[WSGIToASGI]:
    """The bridge of one row: after it nothing is left and the books are closed."""
    options.setdefault(
        "stream_after", 0.05
    )  # its shortest time-out says how long a last timer may live
    async with nothing_left():
        async with serving(ending, **options) as bridge:
            yield bridge
        stats = bridge.stats()
        assert (stats.in_flight, stats.threads, stats.busy, stats.queued, stats.streaming) == (
            (0,) * 5
        )
