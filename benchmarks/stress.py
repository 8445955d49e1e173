"""Random clients, polite and not, against real servers: does anything break or stay behind?

`python -m benchmarks --only stress --seconds 60 --seed 1`. A seed makes the same visits; what the
machine does meanwhile is its own. An anomaly is a bug of ours, of a server, or of this file.
"""

import asyncio
import json
import re
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

from tests.support import async_http as http
from tests.support.async_http import CutError
from tests.support.processes import ServerProcess, accepts_connections, running_server
from tests.support.stress_sites import SETTINGS, digest, pattern

from . import servers
from .contest import WrongAnswerError
from .peers import OURS
from .results import Part, Progress, Row, figures_of
from .settings import Settings

VISITORS = 40  # connections at once
THREADS = 10
PATIENCE_SECONDS = 60.0  # who stays and has no answer by then has found a hang
QUIET_SECONDS = 45  # longer than idle threads live
STALL_SECONDS = 6.0  # what the bridge waits for a client that does nothing
TOO_LONG_SECONDS = 9.0
SHUTDOWN_SECONDS = 10
SHOWN = 40  # anomalies: a hang brings all the others with it
LARGE_BYTES, SMALL_BYTES, POLLED_BYTES = 3_000_000, 60_000, 10_000

# How many clients of each kind there are, relative to the others.
MANNERS = {"stays": 10, "reads slowly": 3, "sends slowly": 3, "vanishes": 6, "resets": 4}
MANNERS |= {"half-closes": 3, "pauses too long": 1, "sends garbage": 1}
LEAVING = ("vanishes", "resets")
RUDE = ("half-closes", "pauses too long", "sends garbage")  # who may get nothing, or a part

EXPECTED_LOGS = ("DeliberateError", "Invalid", "Exception in ASGI app", "Error handling request")
EXPECTED_LOGS += ("BrokenPipeError", "ConnectionResetError")  # gunicorn's, of clients that left
# uvicorn's: pipelined requests that begin after their client left; garbage after a response began.
EXPECTED_LOGS += ("the handler is closed", "LocalProtocolError")
EXPECTED_AT_SHUTDOWN = (*EXPECTED_LOGS, "Cancel", "BridgeClosed", "timeout graceful shutdown")
NOTABLE = re.compile(
    r"[\w.]+(Error|Exception|Disconnect\w*|Exit|CancelScope)\b|.*(WARNING|ERROR|CRITICAL)\b|"
    r".*(never retrieved|never awaited|ignored)"
)


class Call(NamedTuple):
    """One request, and what a client that stays gets."""

    head: bytes
    expected: bytes | None  # None: no whole answer
    pieces: tuple[bytes, ...] = ()  # the body as it travels, chunked or not
    status: int = 200
    waits_for_100: bool = False
    may_be_cut: bool = False


def some_length(random: Random, most: int) -> int:
    """Each order of magnitude is as likely as the others."""
    return int(most ** random.random()) - 1


def cut_up(random: Random, body: bytes) -> Iterator[bytes]:
    """Pieces of any size; often single bytes at first."""
    most, at = random.choice([len(body) + 1, len(body) // 3 + 1, 70_000, 1000]), 0
    while at < len(body):
        size = 1 if at < 50 and random.random() < 0.3 else random.randint(most // 2 + 1, most)
        yield body[at : at + size]
        at += size


def some_upload(random: Random, pipelined: bool) -> Call:
    body = pattern(some_length(random, SMALL_BYTES if pipelined else LARGE_BYTES))
    counted = digest(len(body), crc32(body))
    answers = {"/uploads": counted, "/uploads?slow": counted, "/mirrors": body}
    target = random.choice([*answers, *["/refuses"] * (not pipelined)])
    pieces, lines = [*cut_up(random, body)], [f"Content-Length: {len(body)}"]
    if random.random() < 0.4:
        lines = ["Transfer-Encoding: chunked"]
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    waits = bool(body) and not pipelined and random.random() < 0.3
    head = http.head("POST", target, *lines, *["Expect: 100-continue"] * waits)
    answer = answers.get(target, b"refused")
    return Call(head, answer, tuple(pieces), 200, waits, may_be_cut=target == "/refuses")


def some_download(random: Random, pipelined: bool) -> Call:
    views = ["/lists", "/streams", "/declares", "/writes", "/polls", *["/fails"] * (not pipelined)]
    view = random.choice(views)
    most = POLLED_BYTES if view == "/polls" else SMALL_BYTES if pipelined else LARGE_BYTES
    length = some_length(random, most)
    target = f"{view}?{length}&{random.choice([length // 200, length // 20, 100_000]) + 1}"
    if view == "/fails":
        status = 200 if length else 500
        return Call(http.head("GET", target), None, status=status, may_be_cut=True)
    if random.random() < 0.1:
        return Call(http.head("HEAD", target), b"")
    return Call(http.head("GET", target), pattern(length))


def some_calls(random: Random, manner: str) -> list[Call]:
    if manner in LEAVING and random.random() < 0.2:
        return [Call(http.head("GET", "/for-ever"), None)]
    pipelined = random.random() < 0.25
    makes = random.choices([some_upload, some_download], k=random.randint(2, 5) if pipelined else 1)
    return [make(random, pipelined) for make in makes]


async def visit(number: int, seed: int, port: int, tally: Counter[str]) -> None:
    """One connection: some requests in some manner, and a look at each answer."""
    random = Random(f"{seed} {number}")
    manner = random.choices([*MANNERS], [*MANNERS.values()])[0]
    calls = some_calls(random, manner)
    limit = 2.0 ** random.uniform(-11, 1) if manner in LEAVING else PATIENCE_SECONDS
    buffer = 4096 if manner == "reads slowly" else http.READ_BYTES
    connection = http.connected(port, buffer, reset=manner == "resets")
    tally["visits"] += 1
    try:
        async with asyncio.timeout(limit), connection as (reader, writer):
            allowed = asyncio.Event()
            sending = asyncio.create_task(send(random, manner, calls, writer, allowed))
            try:
                for call in calls:
                    tally.update(bytes=await receive(manner, call, reader, allowed))
            finally:
                sending.cancel()
    except (OSError, CutError, WrongAnswerError) as error:
        wrong, late = isinstance(error, WrongAnswerError), isinstance(error, TimeoutError)
        may_be_cut = manner in RUDE or any(call.may_be_cut for call in calls)
        if wrong or not (manner in LEAVING or (may_be_cut and not late)):
            heads = b" ".join(call.head for call in calls).decode()
            tally[f"visit {number} {manner}: {error!r}: {heads!r}"] += 1


async def send(
    random: Random, manner: str, calls: list[Call], writer: StreamWriter, allowed: asyncio.Event
) -> None:
    with suppress(ConnectionError):  # the reader finds out what that means
        for call in calls:
            writer.write(call.head)
            if call.waits_for_100:
                with suppress(TimeoutError):
                    await asyncio.wait_for(allowed.wait(), 2.0)
            for number, piece in enumerate(call.pieces):
                if manner == "sends garbage" and number == len(call.pieces) // 2:
                    writer.write(b"\0garbage\r\n\r\n")
                if manner == "pauses too long" and number == len(call.pieces) // 2:
                    await asyncio.sleep(TOO_LONG_SECONDS)
                if manner == "sends slowly":
                    await asyncio.sleep(random.random() * 2 / len(call.pieces))
                writer.write(piece)
                await writer.drain()
        if manner == "half-closes":
            writer.write_eof()


async def receive(manner: str, call: Call, reader: StreamReader, allowed: asyncio.Event) -> int:
    """How many bytes were compared. Raises CutError, or WrongAnswerError at the first wrong one."""
    status, length = 100, 0
    while status < 200:
        status, headers = await http.read_head(reader)
        allowed.set()
    told_off = manner in ("sends garbage", "pauses too long") and status in (400, 408)
    if status != call.status and not told_off:
        raise WrongAnswerError(f"status {status} instead of {call.status}")
    known = status == 200 and manner != "sends garbage"
    async for block in http.read_body(reader, call.head[:4].decode().strip(), status, headers):
        expected = block if call.expected is None or not known else call.expected[length:]
        if not expected.startswith(block):
            raise WrongAnswerError(f"other bytes after {length}")
        length += len(block)
        if manner == "reads slowly":
            await asyncio.sleep(len(block) / 4_000_000)
    if known and (call.expected is None or length != len(call.expected)):
        raise WrongAnswerError(f"looks whole with {length} bytes")
    return length


async def census(port: int) -> Any:
    return json.loads((await http.get(port, "/census", PATIENCE_SECONDS)).body)


def leftovers(before: Any, after: Any) -> list[str]:
    """What there is more of than before, and requests that are in no counter or in two."""
    now = ("in_flight", "background", "busy", "streaming", "queued")  # the census may be in flight
    was = before["here"] | {name: before["stats"].get(name, 0) for name in now}
    stats = after["stats"]
    here = after["here"] | {name: stats.get(name, 0) for name in now}
    # ASGIToWSGI has a thread for sync code that outlives its request, and keeps some objects.
    more = {"threads": 1, "python threads": 1}
    lines = [
        f"left: {name}: {was.get(name, 0)} -> {number}"
        for name, number in here.items()
        if number - was.get(name, 0) > more.get(name, 2 * name.startswith("objects"))
    ]
    names = ("in_flight", "completed", "rejected", "disconnected", "stalled", "failed")
    if sum(stats.get(name, 0) for name in names) != after["begun"]:
        lines.append(f"counters: {after['begun']} requests: {stats}")
    return lines


def unexpected_logs(printed: str, expected: tuple[str, ...]) -> Counter[str]:
    """Last lines of tracebacks, and lines of a level from warning on, by their kind."""
    lines = [line for line in printed.splitlines() if NOTABLE.match(line)]
    unexpected = [line for line in lines if not any(word in line for word in expected)]
    return Counter(f"log: {re.sub(r'0x[0-9a-f]+|[0-9]+', 'N', line)[:200]}" for line in unexpected)


async def attack(server: ServerProcess, settings: Settings) -> Counter[str]:
    """Visits, bytes compared, and each anomaly with how often it was seen."""
    tally, port = Counter[str](), server.port
    slow = "/polls?500&1"  # all threads are there before they are counted
    await asyncio.gather(*[http.get(port, slow, PATIENCE_SECONDS) for _ in range(THREADS)])
    before, numbers = await census(port), iter(range(10**9))
    deadline = time.monotonic() + settings.stress_seconds

    async def visitor() -> None:
        while time.monotonic() < deadline:
            await visit(next(numbers), settings.seed, port, tally)

    await asyncio.gather(*[visitor() for _ in range(VISITORS)])
    for _ in range(QUIET_SECONDS):
        if not (left := leftovers(before, await census(port))):
            break
        await asyncio.sleep(1.0)
    printed = server.output()
    tally += Counter(left) + unexpected_logs(printed, EXPECTED_LOGS)
    streams = [asyncio.create_task(http.get(port, "/for-ever", 60.0)) for _ in range(5)]
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.end, SHUTDOWN_SECONDS)
    if (code := server.process.returncode) not in (0, -15):
        tally[f"shutdown with open streams: exit code {code}"] += 1
    await asyncio.gather(*streams, return_exceptions=True)
    return tally + unexpected_logs(server.output()[len(printed) :], EXPECTED_AT_SHUTDOWN)


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows, grace = [], str(SHUTDOWN_SECONDS // 2)
    for case, command in commands(side, grace).items():
        progress(f"{case}, seed {settings.seed}, {settings.stress_seconds:g} s")
        bridge = {"shutdown_timeout": SHUTDOWN_SECONDS / 2}
        if side == "w":
            bridge |= {"stall_timeout": STALL_SECONDS, "workers": THREADS}
        environment = {SETTINGS: json.dumps(bridge)}
        with running_server(command, ready=accepts_connections, env=environment) as server:
            tally = asyncio.run(attack(server, settings))
        found = {name: [float(tally.pop(name, 0))] for name in ("visits", "bytes")}
        figures = figures_of({OURS: {**found, "anomalies": [float(tally.total())]}})
        lines = "".join(f"\n  - {number} x {what}" for what, number in [*tally.items()][:SHOWN])
        refused = {OURS: lines} if lines else {}
        rows.append(Row(f"{case}, seed {settings.seed}", None, VISITORS, figures, refused))
    return Part(f"stress-{side}", f"{VISITORS} random clients at once", rows)


def commands(side: str, grace: str) -> dict[str, list[str]]:
    site = "tests.support.stress_sites:"
    if side == "a":
        pool = ("gthread", "--threads", str(THREADS), "--graceful-timeout", grace)
        apps = ("starlette", "middleware")
        return {f"gunicorn gthread, {a}": servers.gunicorn(f"{site}{a}", *pool) for a in apps}
    base = ("--timeout-graceful-shutdown", grace, "--http")
    fast, plain = (*base, "httptools", "--loop", "uvloop"), (*base, "h11", "--loop", "asyncio")
    several = {"uvicorn, httptools, uvloop": fast, "uvicorn, h11, asyncio": plain}
    return {name: servers.uvicorn(f"{site}wsgi", *options) for name, options in several.items()}
