"""A streamed chunk's way from the app's yield to the server's hand, both directions, in process."""

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from typing import Any

from . import in_process_a, in_process_w
from .apps import Case, StampedStream, stream_case
from .contest import WrongAnswerError, build_checked, out_when_it_fails, turns
from .in_process_a import ENVIRON, Answer, Callers
from .in_process_w import SCOPE, Exchange, answered_within
from .measuring import percentile
from .peers import Bridge, NewLoop, new_loops
from .results import Part, Progress, Row
from .settings import Settings

PAUSE_SECONDS = 0.001
TURN_SECONDS = 60.0


class Arrivals:
    """Notes when the end of each chunk reached the server's hand; chunks may come joined."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = 0
        self.times: list[float] = []

    def note(self, block: bytes) -> None:
        now = time.perf_counter()
        before = self.length // self.size
        self.length += len(block)
        self.times += [now] * (self.length // self.size - before)


def latencies(stream: StampedStream, arrivals: Arrivals) -> list[float]:
    if len(arrivals.times) != stream.count or len(stream.left_app) != stream.count:
        raise WrongAnswerError(f"{len(arrivals.times)} of {stream.count} chunks arrived")
    return [came - left for left, came in zip(stream.left_app, arrivals.times, strict=True)]


def reset(stream: StampedStream) -> Arrivals:
    stream.left_app = []
    return Arrivals(len(stream.CHUNK))


# A WSGI app under an ASGI server


async def stream_w(call: Callable[..., Any], stream: StampedStream) -> list[float]:
    exchange = Exchange(stamped_case(stream))
    arrivals = reset(stream)

    async def send(message: dict[str, Any]) -> None:
        arrivals.note(message.get("body", b""))
        await exchange.send(message)

    scope = {**SCOPE, "method": "GET", "headers": []}
    async with answered_within(TURN_SECONDS):
        await call(scope, exchange.receive, send)
    return latencies(stream, arrivals)


def compete_w(stream: StampedStream, loop: str, new_loop: NewLoop, settings: Settings) -> Row:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return compete(
            Row("WSGI app", loop),
            in_process_w.builders(stamped_case(stream), settings),
            lambda call: runner.run(stream_w(call, stream)),
            settings,
        )


# An ASGI app under a WSGI server


def stream_a(call: Callable[..., Any], stream: StampedStream) -> list[float]:
    arrivals = reset(stream)

    def request() -> None:
        environ = {**ENVIRON, "wsgi.input": BytesIO()}
        blocks = call(environ, Answer().start_response)
        for block in blocks:
            arrivals.note(block)
        getattr(blocks, "close", bool)()

    Callers(request, 1).run(1, TURN_SECONDS)
    return latencies(stream, arrivals)


def compete_a(stream: StampedStream, loop: str, new_loop: NewLoop, settings: Settings) -> Row:
    return compete(
        Row("ASGI app", loop),
        in_process_a.builders(stamped_case(stream), new_loop, settings),
        lambda call: stream_a(call, stream),
        settings,
    )


# Both


def stamped_case(stream: StampedStream) -> Case:
    """What the floor streams, and stamps itself."""
    case = stream_case("stamped", stream.count, stream.CHUNK)
    return replace(case, wsgi=stream.wsgi, asgi=stream.asgi, blocks=stream.blocks)


def compete(
    row: Row,
    builders: dict[str, Callable[[], Bridge]],
    run: Callable[[Callable[..., Any]], list[float]],
    settings: Settings,
) -> Row:
    with ExitStack() as ending:
        calls = build_checked(builders, lambda _, call: check(run(call)), row, ending)
        for _, name in turns(calls, settings.latency_rounds):
            with out_when_it_fails(name, calls, row, " under load"):
                note_turn(row.samples.setdefault(name, {}), run(calls[name]))
    return row


def note_turn(samples: dict[str, list[float]], seconds: list[float]) -> None:
    samples.setdefault("median_seconds", []).append(percentile(seconds, 50))
    samples.setdefault("p95_seconds", []).append(percentile(seconds, 95))
    gc.collect()


def check(seconds: list[float]) -> None:
    if min(seconds) < 0:
        raise WrongAnswerError("a chunk arrived before it was sent")


def measure(settings: Settings, progress: Progress) -> Part:
    rows = []
    for compete_one in (compete_w, compete_a):
        for loop, new_loop in new_loops().items():
            stream = StampedStream(settings.latency_chunks, PAUSE_SECONDS)
            progress(f"{compete_one.__name__[-1]}, {loop}")
            rows.append(compete_one(stream, loop, new_loop, settings))
    return Part(
        "latency",
        "One streamed chunk from the app's yield to the server's hand: microseconds",
        [f"{settings.latency_chunks} chunks a round, {PAUSE_SECONDS * 1000:.0f} ms apart."],
        rows,
    )
