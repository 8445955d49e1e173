"""Early hints through `WSGIToASGI`, on real servers. hypercorn alone has them, over HTTP/2."""

from collections.abc import Iterator

import pytest

from tests.support.asgi_servers import SERVERS
from tests.support.hint_sites import LINKS
from tests.support.processes import ServerProcess, running_server, shown_on_failure
from tests.support.raw_http2 import Http2Connection

HYPERCORN = next(server for server in SERVERS if server.name == "hypercorn-h2c")
SITES = ["wsgi_bridged", "asgi_twice"]


@pytest.fixture(scope="module", params=SITES)
def shared_process(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with running_server(
        HYPERCORN.command_for(f"tests.support.hint_sites:{request.param}")
    ) as process:
        yield process


@pytest.fixture
def process(shared_process: ServerProcess) -> Iterator[ServerProcess]:
    with shown_on_failure(shared_process):
        yield shared_process


@pytest.mark.parametrize("target", ["/hinted", "/held"])
def test_hints_come_before_the_response(process: ServerProcess, target: str) -> None:
    """W-OUT-12, A-OUT-6: through one bridge and through both, without waiting for the response."""
    with Http2Connection(process.address) as client:
        client.send_head("GET", target)
        hints = client.read_interim()
        links = [value for name, value in hints.headers if name == "link"]
        assert (hints.status, links) == (103, list(LINKS))
        if target == "/held":
            with Http2Connection(process.address) as other:
                assert other.get("/go").body == b"gone"
        assert client.read_response().body == b"page"
