"""A running WSGI server with an ASGI site behind it: its witness, and ways to ask it."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.kept import KeptServers
from tests.support.processes import (
    Readiness,
    ServerProcess,
    answers_http,
    running_server,
    shown_on_failure,
)
from tests.support.raw_http import Connection, CutResponseError, Response
from tests.support.witness import Witness, became_true
from tests.support.wsgi_servers import WSGIServer

SITE = "tests.support.bridged_asgi:site"
ANSWER_SECONDS = 10.0
END_SECONDS = 15.0


@dataclass(frozen=True)
class RunningSite:
    """Where it runs and what it wrote down."""

    server: WSGIServer
    process: ServerProcess
    witness: Witness

    def connect(self, timeout: float = ANSWER_SECONDS) -> Connection:
        return Connection(self.process.address, timeout)

    def get(self, target: str) -> Response:
        """The answer to a GET on a connection of its own, after which the server is idle."""
        with self.connect() as client:
            response = client.get(target, [("connection", "close")])
            assert client.is_closed_by_server(ANSWER_SECONDS), "the connection stays open"
            return response

    def answers_hello(self) -> bool:
        return self.get("/hello").body == b"Hello, world!"

    def describe(self) -> dict[str, Any]:
        """What `describes_process` tells of the process that answered."""
        described: dict[str, Any] = json.loads(self.get("/describes_process").body)
        return described

    def waiting_tasks_become(self, tasks: list[str], seconds: float) -> bool:
        """Whether the loop's tasks become these, within `seconds`."""
        return became_true(lambda: self.describe()["tasks"] == tasks, seconds)

    def stop(self) -> None:
        """Ask the server to end as its operator does; wait with `wait_until_ended`."""
        self.process.process.send_signal(self.server.stop_signal)

    def wait_until_ended(self) -> None:
        """Wait until the server and all of its workers have ended."""
        self.process.wait(END_SECONDS)
        assert became_true(lambda: not self.process.pids(), END_SECONDS), self.process.pids()


@contextlib.contextmanager
def running_site(
    server: WSGIServer,
    target: str = SITE,
    *,
    ready: Readiness | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[RunningSite]:
    """Start `server` with `target`; its environment names a witness of its own."""
    with tempfile.TemporaryDirectory(prefix="wsgi_asgi_bridge-witness-") as directory:
        witness = Witness(Path(directory))
        with running_server(
            server.command_for(target),
            ready=ready or answers_http("/"),
            env={**witness.environment, **(env or {})},
        ) as process:
            yield RunningSite(server, process, witness)


def on_each(servers: Sequence[WSGIServer]) -> list[Any]:
    """The parameters of a fixture that is run once a server."""
    return [pytest.param(server, id=server.name) for server in servers]


def site_fixture(servers: Sequence[WSGIServer], target: str = SITE) -> Any:
    """A fixture: `target` on each of these servers, one after the other.

    A server is kept for other tests, also those of other files; its witness is new for each.
    """

    @pytest.fixture(params=on_each(servers))
    def site(request: pytest.FixtureRequest, kept: KeptServers) -> Iterator[RunningSite]:
        server: WSGIServer = request.param
        key = server.command, target
        site: RunningSite = kept.get(key, lambda: running_site(server, target))
        site.witness.forget()
        with shown_on_failure(site.process):
            yield site
        if not site.process.is_running():
            kept.end(key)

    return site


def is_refused(client: Connection) -> bool:
    """Whether the answer is 500, or none at all."""
    try:
        return client.read_response().status == 500
    except CutResponseError:
        return True
