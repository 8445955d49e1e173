"""One process of each ASGI server, shared by the tests of this folder."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.asgi_servers import SERVERS, AsgiServer, Served
from tests.support.processes import ServerProcess, running_server, shown_on_failure

OBSERVED = "tests.support.bridged_wsgi:observed"


@pytest.fixture(
    scope="package", params=[pytest.param(server, id=server.name) for server in SERVERS]
)
def asgi_server(request: pytest.FixtureRequest) -> AsgiServer:
    return request.param


class Kept:
    """A server process that outlives tests, until one of them leaves something behind in it."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._stack = ExitStack()
        self._process: ServerProcess | None = None

    def process(self) -> ServerProcess:
        """The process, started if there is none."""
        if self._process is None:
            self._process = self._stack.enter_context(running_server(self._command))
        return self._process

    def end(self) -> None:
        self._process = None
        self._stack.close()


@pytest.fixture(scope="package")
def kept(asgi_server: AsgiServer) -> Iterator[Kept]:
    kept = Kept(asgi_server.command_for(OBSERVED))
    yield kept
    kept.end()


@pytest.fixture
def served(asgi_server: AsgiServer, kept: Kept) -> Iterator[Served]:
    """The running server; after each test nothing is in flight in its bridge, or the test fails."""
    with shown_on_failure(kept.process()) as process:
        served = Served(asgi_server, process)
        yield served
        try:
            served.wait_until_idle()
            assert process.is_running()
        except BaseException:
            kept.end()
            raise
