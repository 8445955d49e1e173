"""`ASGIToWSGI` on real servers: streams arrive piece by piece, and end when their client leaves."""

import pytest

from tests.support.asgi_apps import PART_BYTES
from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.wsgi_servers import SERVERS

EVENT_SECONDS = 5.0
LEAVE_SECONDS = 1.0


site = site_fixture(SERVERS)


def test_events_arrive_one_by_one(site: RunningSite) -> None:
    """A-OUT-2: each event is made only after the client has the one before it."""
    with site.connect(EVENT_SECONDS) as client:
        client.send_head("GET", "/sends_events?name=events", [("connection", "close")])
        assert client.read_head().header("content-type") == "text/event-stream"
        assert client.read_body_exactly(9) == b"data: 1\n\n"
        site.witness.set_event("events-2")
        assert client.read_body_exactly(9) == b"data: 2\n\n"
        site.witness.set_event("events-3")
        assert client.read_body_exactly(9) == b"data: 3\n\n"
        assert client.read_body() == b""


@pytest.mark.parametrize("way", ["close", "reset"])
def test_client_that_leaves_ends_its_stream(site: RunningSite, way: str) -> None:
    """A-OUT-3: wherever the app is in its stream, it ends, and no task is left behind."""
    tasks = site.describe()["tasks"]
    with site.connect() as client:
        client.send_head("GET", f"/streams_until_client_leaves?name={way}")
        client.read_head()
        client.read_body_exactly(len(b"data: tick\n\n"))
        getattr(client, way)()
    site.witness.wait_for(f"{way} ended", LEAVE_SECONDS)
    assert site.waiting_tasks_become(tasks, LEAVE_SECONDS)


def test_client_that_leaves_makes_send_raise(site: RunningSite) -> None:
    """A-OUT-3, A-OUT-2: an app that waits in send() for a reader gets an OSError out of it."""
    tasks = site.describe()["tasks"]
    with site.connect() as client:
        client.send_head("GET", "/sends_until_client_leaves?name=sender")
        client.read_head()
        client.read_body_exactly(PART_BYTES)
    site.witness.wait_for("sender ended OSError", LEAVE_SECONDS)
    assert site.waiting_tasks_become(tasks, LEAVE_SECONDS)
