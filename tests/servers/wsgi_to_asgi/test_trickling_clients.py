"""Uploads in tiny pieces under real servers: too slow for a thread, too small for memory."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.servers.wsgi_to_asgi.conftest import OBSERVED
from tests.support.asgi_servers import SERVERS, AsgiServer, Served
from tests.support.bridged_wsgi import STALL_SECONDS
from tests.support.processes import running_server, shown_on_failure
from tests.support.raw_http import Connection, chunk

IMPATIENT = "tests.support.bridged_wsgi:impatient"
CLIENTS = 100  # the bridge has 40 threads
TRICKLE_SECONDS = STALL_SECONDS / 5

ALL = {server.name: server for server in SERVERS}


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server of its own, for the app and the server that the test is parametrized with."""
    app, name = request.param
    server: AsgiServer = ALL[name]
    with running_server(server.command_for(app)) as process, shown_on_failure(process):
        yield Served(server, process)


@pytest.mark.parametrize("served", [(IMPATIENT, "uvicorn-httptools")], indirect=True)
def test_uploads_that_trickle_free_their_threads(served: Served) -> None:
    """W-IN-7: a byte in a fifth of `stall_timeout` from each of a hundred held every thread for
    ever.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(CLIENTS)]
        for client in clients:
            client.send_head("POST", "/upload_digest", content_length=1_000_000)
        begun = time.monotonic()
        while served.stats()["in_flight"] or time.monotonic() < begun + STALL_SECONDS:
            assert time.monotonic() < begun + 20 * STALL_SECONDS, served.stats()
            for client in clients:
                try:
                    client.send_body(b"x")
                except ConnectionError:  # the server has closed it behind its answer
                    clients = [other for other in clients if other is not client]
            time.sleep(TRICKLE_SECONDS)
        stats = served.wait_until_idle()
    assert (stats["stalled"], stats["disconnected"], stats["failed"]) == (CLIENTS, 0, 0)
    served.assert_answers(3)


PIECES = 25_000
SERVERS_OF_PIECES = ("hypercorn-asyncio", "granian", "gunicorn-asgi")


@pytest.mark.parametrize(
    "served",
    [(OBSERVED, name) for name in SERVERS_OF_PIECES],
    indirect=True,
    ids=SERVERS_OF_PIECES,
)
def test_chunks_of_one_byte_cost_little_more_than_their_bytes(served: Served) -> None:
    """W-IN-4: 25 kB of them cost 7 MB when the app began to read."""
    with served.connect() as client:
        assert isinstance(client, Connection)
        served.assert_answers(1)
        before = served.process.rss_bytes()
        client.send_head("POST", "/late_upload_digest?id=1", chunked=True)
        client.send(chunk(b"x") * PIECES)
        served.wait_for_journal("1", "waits")
        served.process.reset_peak_rss()
        served.get("/release?id=1")
        client.send_body(b"", end=True)
        assert b'"size": 25000' in client.read_response().body
        grown = served.process.peak_rss_bytes() - before
    assert grown < 4_000_000
