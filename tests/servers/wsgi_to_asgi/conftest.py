"""One process of each ASGI server, shared by the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.asgi_servers import SERVERS, AsgiServer, Served
from tests.support.kept import KeptServers
from tests.support.processes import running_server, shown_on_failure

OBSERVED = "tests.support.bridged_wsgi:observed"


@pytest.fixture(
    scope="package", params=[pytest.param(server, id=server.name) for server in SERVERS]
)
def asgi_server(request: pytest.FixtureRequest) -> AsgiServer:
    return request.param


@pytest.fixture
def served(asgi_server: AsgiServer, kept: KeptServers) -> Iterator[Served]:
    """The running server; after each test nothing is in flight in its bridge, or the test fails."""
    command = asgi_server.command_for(OBSERVED)
    process = kept.get(tuple(command), lambda: running_server(command))
    with shown_on_failure(process):
        served = Served(asgi_server, process)
        yield served
        try:
            served.wait_until_idle()
            assert process.is_running()
        except BaseException:
            kept.end(tuple(command))
            raise
