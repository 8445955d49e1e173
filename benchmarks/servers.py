"""Which servers serve the sites, and how one of them becomes a contender."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support.processes import ServerProcess, accepts_connections, running_server

from .contest import Turn, WrongAnswerError
from .peers import ASGI_TO_WSGI, BEFORE, FLOOR, WSGI_TO_ASGI

Work = Callable[[ServerProcess], Awaitable[Any]]


def uvicorn(app: str, *options: str) -> list[str]:
    words = ["-m", "uvicorn", app, "--no-access-log", "--log-level", "warning", *options]
    return [sys.executable, *words, "--host", "{host}", "--port", "{port}"]


def gunicorn(app: str, worker: str, *options: str) -> list[str]:
    words = ["-m", "gunicorn", app, "--log-level", "warning", "--workers", "1", *options]
    return [sys.executable, *words, "--worker-class", worker, "--bind", "{host}:{port}"]


def granian(app: str, threads: str) -> list[str]:
    words = ["-m", "granian", app, "--interface", "wsgi", "--no-access-log", "--workers", "1"]
    words += ["--log-level", "warning", "--blocking-threads", threads]
    return [sys.executable, *words, "--host", "{host}", "--port", "{port}"]


def commands(side: str, app: str, threads: int) -> dict[str, list[str]]:
    """The app under each bridge, and under servers that need none."""
    site, pool = f"benchmarks.sites:{app}__", ("gthread", "--threads", str(threads))
    if side == "w":
        names = [name for name in (*WSGI_TO_ASGI, FLOOR) if name != BEFORE]
        bridged = {name: uvicorn(f"{site}{name}__{threads}") for name in names}
        bridged["native gthread"] = gunicorn(f"{site}native", *pool)
        return {**bridged, "native granian": granian(f"{site}native", str(threads))}
    names = [name for name in (*ASGI_TO_WSGI, FLOOR) if name != BEFORE]
    bridged = {name: gunicorn(f"{site}{name}", *pool) for name in names}
    bridged["native uvicorn"] = uvicorn(f"{site}native")
    return {**bridged, "native gunicorn": gunicorn(f"{site}native", "asgi")}


@contextmanager
def contender(command: list[str], check: Work, measure: Work) -> Iterator[Turn]:
    """A server of its own that has passed the check."""
    with running_server(command, ready=accepts_connections) as server:

        def done(work: Work) -> Mapping[str, float]:
            try:
                return asyncio.run(work(server))  # type: ignore[arg-type]
            except Exception as error:
                last = (server.output().strip().splitlines() or ["nothing"])[-1]
                raise WrongAnswerError(f"{error!r}, the server: {last}") from error

        done(check)
        yield lambda: done(measure)
