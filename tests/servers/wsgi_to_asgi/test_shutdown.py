"""Servers told to end while a WSGI app streams, and the bridge mounted in another app."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.servers.wsgi_to_asgi.conftest import OBSERVED
from tests.support.asgi_servers import GRACEFUL_SECONDS, SERVERS, Ability, AsgiServer, Served
from tests.support.processes import running_server, shown_on_failure
from tests.support.raw_http import SMALL_RECEIVE_BUFFER_BYTES, Client
from tests.support.wsgi_apps import CLOSED_ONCE

EXIT_SECONDS = GRACEFUL_SECONDS + 10.0
"""Well below the bridge's shutdown_timeout (30 s), which no thread should need here."""
STAYS_SECONDS = GRACEFUL_SECONDS + 0.5
UVICORN = SERVERS[0]
OURS = "/wsgi_asgi_bridge/"


def complaints_about_us(output: str) -> Iterator[str]:
    """What a log says against the bridge: errors raised in it, tasks of it that were lost.

    A cancelled task is none: some servers log the request that they cancel as an error.
    """
    innermost = ""
    for line in (raw.lstrip(" |+-") for raw in output.splitlines()):
        if line.startswith('File "'):
            innermost = line
        elif re.match(r"[\w.]+(: |$)", line):
            if OURS in innermost and "Cancelled" not in line:
                yield line
            innermost = ""
        if re.search(r"never retrieved|never awaited|destroyed", line) and "Exchange" in line:
            yield line


def opened(stack: ExitStack, served: Served, app: str, receive_buffer: int | None = None) -> Client:
    """A client in the middle of a response of `app`."""
    client = stack.enter_context(served.connect(receive_buffer=receive_buffer))
    client.send_head("GET", f"/{app}?id={app}")
    assert client.read_head().status == 200
    return client


def test_sigterm_in_mid_stream(asgi_server: AsgiServer) -> None:
    """W-FLOW-6, W-LIFE-1: streams are closed, threads end, and so does the process, in time."""
    with (
        running_server(asgi_server.command_for(OBSERVED)) as process,
        shown_on_failure(process),
        ExitStack() as clients,
    ):
        served = Served(asgi_server, process)
        opened(clients, served, "event_stream").read_body_exactly(9)
        opened(clients, served, "large_generator", SMALL_RECEIVE_BUFFER_BYTES)
        process.terminate()
        if not asgi_server.can(Ability.CANCELS_AT_SHUTDOWN):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(STAYS_SECONDS)
            clients.close()
        process.wait(EXIT_SECONDS)
        output = process.output()
        assert f"journal event_stream: {CLOSED_ONCE}" in output
        assert f"journal large_generator: {CLOSED_ONCE}" in output
        assert list(complaints_about_us(output)) == []


def test_mounted_under_starlette_routes() -> None:
    """W-ENV-2, W-LIFE-1: `Mount` sets root_path and passes no lifespan on."""
    command = UVICORN.command_for("tests.support.bridged_wsgi:mounted")
    with running_server(command) as process, shown_on_failure(process):
        served = Served(UVICORN, process)
        assert served.get("/native").text == "hello from Starlette"
        assert served.get("/legacy/hello").body == b"hello\n"
        assert served.get("/legacyhello").status == 404
        assert served.get("/legacy/flask/").text == "hello from Flask"
