"""A herd of event streams, as after a deploy: every browser comes back at once."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.asgi_servers import NORMAL_SECONDS, SERVERS, Served
from tests.support.bridged_wsgi import WORKERS
from tests.support.processes import running_server

NEVER_LONG = "tests.support.bridged_wsgi:never_long"
STREAMS = 20 * WORKERS
FIRST_EVENT = b"data: 0\n\n"


@pytest.fixture
def uvicorn() -> Iterator[Served]:
    """With a `stream_after` that nobody lives to see."""
    (server,) = (server for server in SERVERS if server.name == "uvicorn-httptools")
    with running_server(server.command_for(NEVER_LONG)) as process:
        yield Served(server, process)


def test_herd_of_event_streams_holds_nobody_up(uvicorn: Served) -> None:
    """W-FLOW-8: an event stream leaves the pool's count with its first chunk. So twenty streams for
    each worker all start, and an ordinary request beside them is answered.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(uvicorn.connect()) for _ in range(STREAMS)]
        other = stack.enter_context(uvicorn.connect(timeout=NORMAL_SECONDS))
        for client in clients:
            client.send_head("GET", "/event_stream?every=0.5")
        assert other.get("/hello").body == b"hello\n"
        for client in clients:
            assert client.read_head().header("content-type") == "text/event-stream"
            assert client.read_body_exactly(len(FIRST_EVENT)) == FIRST_EVENT
        stats = uvicorn.stats()
        assert (stats["streaming"], stats["queued"]) == (STREAMS, 0)
        assert other.get("/hello").body == b"hello\n"
    uvicorn.wait_until_idle()
