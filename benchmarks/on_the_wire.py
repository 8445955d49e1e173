"""Real servers, a real client, loopback: requests a second, and the server's CPU time a request."""

import http.client
import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from .contest import WrongAnswerError, out_when_it_fails, turns
from .machine import ROOT
from .peers import (
    ASGI_TO_WSGI,
    FLOOR,
    NATIVE_GRANIAN,
    NATIVE_GTHREAD,
    NATIVE_GUNICORN,
    NATIVE_UVICORN,
    THREADS,
    WSGI_TO_ASGI,
)
from .results import Part, Progress, Row
from .server_processes import (
    HOST,
    Command,
    ServerProcess,
    StartupError,
    granian_command,
    gthread_command,
    gunicorn_asgi_command,
    uvicorn_command,
)
from .settings import Settings
from .wire_apps import HELLO_JSON, HELLO_TEXT, STREAM_CHUNK, STREAM_CHUNKS

GTHREAD_THREADS = 8
WARM_UP_REQUESTS = 30
ANSWER_SECONDS = 10.0
CLIENT_GRACE_SECONDS = 30.0
WRK_ERRORS = ("Non-2xx", "Socket errors")  # how its complaints begin


@dataclass(frozen=True)
class Load:
    """One case: what is asked for, by how many connections, and the right answer."""

    case: str
    path: str
    connections: int
    answer: bytes


@dataclass(frozen=True)
class Stage:
    """Servers that run side by side, and the loads that each gets in turn."""

    servers: dict[str, Command]
    loads: list[Load]


# Who serves what


def flask_stage() -> Stage:
    """A Flask app under uvicorn by each bridge, and under the native WSGI servers."""
    app = "benchmarks.wire_apps:flask__{}__" + str(THREADS)
    native, hello = app.format("native"), HELLO_TEXT.encode()
    return Stage(
        {
            **{name: partial(uvicorn_command, app.format(name)) for name in (*WSGI_TO_ASGI, FLOOR)},
            NATIVE_GTHREAD: partial(gthread_command, native, threads=THREADS),
            NATIVE_GRANIAN: partial(granian_command, native, threads=THREADS),
        },
        [
            Load("uvicorn + Flask hello", "/hello", 32, hello),
            Load("uvicorn + Flask, view sleeps 5 ms", "/sleep", 64, hello),
        ],
    )


def asgi_stage(framework: str, load: Load) -> Stage:
    """An ASGI app under gunicorn's gthread worker by each bridge, and under native ASGI servers."""
    app = f"benchmarks.wire_apps:{framework}__" + "{}"
    return Stage(
        {
            **{
                name: partial(gthread_command, app.format(name), threads=GTHREAD_THREADS)
                for name in (*ASGI_TO_WSGI, FLOOR)
            },
            NATIVE_UVICORN: partial(uvicorn_command, app.format("native")),
            NATIVE_GUNICORN: partial(gunicorn_asgi_command, app.format("native")),
        },
        [load],
    )


def stages_w() -> list[Stage]:
    return [flask_stage()]


def stages_a() -> list[Stage]:
    stream = STREAM_CHUNK * STREAM_CHUNKS
    return [
        asgi_stage("fastapi", Load("gunicorn gthread + FastAPI hello", "/hello", 32, HELLO_JSON)),
        asgi_stage(
            "starlette",
            Load("gunicorn gthread + Starlette, 100 chunks", "/stream", 16, stream),
        ),
    ]


# Clients


def check_and_warm_up(server: ServerProcess, load: Load) -> None:
    """Some answers, each looked at whole; raises WrongAnswerError."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=ANSWER_SECONDS)
    try:
        for _ in range(WARM_UP_REQUESTS):
            connection.request("GET", load.path)
            check(connection.getresponse(), load)
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswerError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def check(response: http.client.HTTPResponse, load: Load) -> None:
    body = response.read()
    if response.status != 200 or body != load.answer:
        raise WrongAnswerError(f"{response.status} {body[:60]!r}")
    if not response.getheader("content-type"):
        raise WrongAnswerError("no content-type")


def chosen_client(settings: Settings) -> str:
    if settings.client != "auto":
        return settings.client
    return "wrk" if shutil.which("wrk") else "own"


def requests_made(client: str, port: int, load: Load, seconds: float) -> tuple[int, float]:
    """How many requests were answered right, in how many seconds."""
    if client == "wrk":
        return requests_by_wrk(port, load, seconds)
    arguments = [str(port), load.path, str(load.connections), str(seconds)]
    output = run([sys.executable, "-m", "benchmarks.load_client", *arguments], seconds)
    outcome = json.loads(output)
    return outcome["requests"], outcome["seconds"]


def requests_by_wrk(port: int, load: Load, seconds: float) -> tuple[int, float]:
    whole_seconds = max(1, round(seconds))  # wrk knows no others
    command = ["wrk", "--threads", "1", "--connections", str(load.connections)]
    command += ["--duration", f"{whole_seconds}s", f"http://{HOST}:{port}{load.path}"]
    output = run(command, seconds)
    complaints = [
        line.strip() for line in output.splitlines() if line.strip().startswith(WRK_ERRORS)
    ]
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)\b", output)
    if found is None or complaints:
        raise WrongAnswerError(f"wrk: {'; '.join(complaints) or output}")
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0}[found[3]]
    return int(found[1]), float(found[2]) * unit


def run(command: list[str], seconds: float) -> str:
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds + CLIENT_GRACE_SECONDS,
        ).stdout
    except subprocess.CalledProcessError as error:
        raise WrongAnswerError(error.stderr.strip().rpartition("\n")[2] or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise WrongAnswerError(f"the client did not end: {error}") from error


# The measure


def measure_stage(stage: Stage, settings: Settings, progress: Progress) -> list[Row]:
    rows = [Row(load.case, None, load.connections) for load in stage.loads]
    with ExitStack() as ending:
        running: dict[str, ServerProcess] = {}
        for name, command in stage.servers.items():
            if settings.takes(name) and (name != FLOOR or settings.floor_on_the_wire):
                progress(f"starting {name} for {stage.loads[0].case}")
                try:
                    running[name] = ending.enter_context(ServerProcess(command))
                except StartupError as error:
                    for row in rows:
                        row.refuse(name, f"did not start: {error}")
        for row, load in zip(rows, stage.loads, strict=True):
            measure_load(row, load, dict(running), settings, progress)
    return rows


def measure_load(
    row: Row, load: Load, servers: dict[str, ServerProcess], settings: Settings, progress: Progress
) -> None:
    client = chosen_client(settings)
    for name, server in list(servers.items()):
        try:
            check_and_warm_up(server, load)
        except WrongAnswerError as error:
            row.refuse(name, f"wrong: {server.said(error)}")
            del servers[name]
    for number, name in turns(servers, settings.wire_rounds):
        progress(f"{load.case}: {name}, round {number + 1} of {settings.wire_rounds}")
        with out_when_it_fails(name, servers, row, " under load"):
            samples = row.samples.setdefault(name, {})
            note_turn(samples, client, servers[name], load, settings)


def note_turn(
    samples: dict[str, list[float]],
    client: str,
    server: ServerProcess,
    load: Load,
    settings: Settings,
) -> None:
    before = server.cpu_seconds()
    requests, seconds = requests_made(client, server.port, load, settings.wire_seconds)
    after = server.cpu_seconds()
    samples.setdefault("requests_per_second", []).append(requests / seconds)
    if before is not None and after is not None and requests:
        samples.setdefault("cpu_seconds", []).append((after - before) / requests)


def measure_all(
    name: str, title: str, stages: list[Stage], settings: Settings, progress: Progress
) -> Part:
    rows = [row for stage in stages for row in measure_stage(stage, settings, progress)]
    notes = [
        f"Client: {chosen_client(settings)}, {settings.wire_seconds:g} s a round, keep-alive. "
        "Native servers run the app without a bridge; the floor hands it over untranslated."
    ]
    return Part(name, title, notes, rows)


def measure_w(settings: Settings, progress: Progress) -> Part:
    title = f"A WSGI app on the wire; {THREADS} threads everywhere"
    return measure_all("wire-w", title, stages_w(), settings, progress)


def measure_a(settings: Settings, progress: Progress) -> Part:
    title = f"An ASGI app on the wire; gunicorn gthread has {GTHREAD_THREADS} threads"
    return measure_all("wire-a", title, stages_a(), settings, progress)
