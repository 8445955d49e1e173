"""Real servers and a real client on loopback: requests a second, and the server's CPU time each.

The client is wrk, which has to be installed.
"""

import asyncio
import re
import subprocess
from functools import partial
from typing import NamedTuple

from tests.support.async_http import get
from tests.support.processes import ServerProcess

from .contest import WrongAnswerError, compete
from .peers import THREADS
from .results import Part, Progress
from .servers import commands, contender
from .settings import Settings
from .sites import BLOCK, HELLO

GTHREAD_THREADS = 8
WARM_UP_REQUESTS = 30
ANSWER_SECONDS = 10.0
CLIENT_GRACE_SECONDS = 30.0


class Case(NamedTuple):
    """What is asked for, by how many connections, and the right answer."""

    name: str
    app: str
    target: str
    connections: int
    answer: bytes


CHUNKS, JSON = BLOCK[:40] * 100, b'{"message":"Hello, world!\\n"}'
CASES = {
    "w": (
        Case("uvicorn + Flask hello", "flask", "/hello", 32, HELLO),
        Case("uvicorn + Flask, view sleeps 5 ms", "flask", "/sleep", 64, HELLO),
    ),
    "a": (
        Case("gunicorn gthread + FastAPI hello", "fastapi", "/hello", 32, JSON),
        Case("gunicorn gthread + Starlette, 100 chunks", "starlette", "/stream?100&40", 16, CHUNKS),
    ),
}


async def check_and_warm_up(case: Case, server: ServerProcess) -> None:
    for _ in range(WARM_UP_REQUESTS):
        answer = await get(server.port, case.target, ANSWER_SECONDS)
        if answer.status != 200 or answer.body != case.answer:
            raise WrongAnswerError(f"{answer.status} {answer.body[:60]!r}")


async def client(command: list[str], seconds: float, server: ServerProcess) -> tuple[str, float]:
    """What a load that takes so long printed, and the CPU time that it took the server."""
    before, limit = server.cpu_seconds(), seconds + CLIENT_GRACE_SECONDS
    run = partial(subprocess.run, capture_output=True, text=True, timeout=limit)
    ended = await asyncio.to_thread(run, command)
    if ended.returncode:
        raise WrongAnswerError((ended.stdout + ended.stderr)[-300:])
    return ended.stdout, server.cpu_seconds() - before


async def loaded(case: Case, seconds: float, server: ServerProcess) -> dict[str, float]:
    span = f"{max(1, round(seconds))}s"  # wrk knows whole ones only
    command = ["wrk", "-t", "1", "-c", str(case.connections), "-d", span, server.url + case.target]
    printed, used = await client(command, seconds, server)
    found = re.search(r"(\d+) requests in ([\d.]+)s", printed)
    if not found or (wrong := re.search("(?:Non-2xx|Socket errors).*", printed)):
        raise WrongAnswerError(f"{wrong[0]} of {found[0]}" if found else printed)
    count, took = int(found[1]), float(found[2])
    return {"requests_per_second": count / took, "cpu_seconds": used / max(1, count)}


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows, threads = [], THREADS if side == "w" else GTHREAD_THREADS
    for case in CASES[side]:
        progress(case.name)
        check, turn = partial(check_and_warm_up, case), partial(loaded, case, settings.wire_seconds)
        every = settings.chosen(commands(side, case.app, threads))
        rivals = {name: contender(command, check, turn) for name, command in every.items()}
        rows.append(compete(case.name, None, case.connections, rivals, settings.wire_rounds))
    kind = "A WSGI" if side == "w" else "An ASGI"
    return Part(f"wire-{side}", f"{kind} app on the wire, {threads} threads", rows)
