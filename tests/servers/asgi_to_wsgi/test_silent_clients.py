"""`ASGIToWSGI` on servers that show their socket: a client that leaves while the app is silent."""

import pytest

from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.raw_http import request_head
from tests.support.wsgi_servers import SILENT_LEAVE, servers_with

LEAVE_SECONDS = 1.0
STAY_SECONDS = 0.7


site = site_fixture(servers_with(SILENT_LEAVE))


def test_client_that_leaves_before_the_response_is_noticed(site: RunningSite) -> None:
    """A-IN-3, A-IN-2: receive() gives http.disconnect, not before the client has left."""
    tasks = site.describe()["tasks"]
    with site.connect() as client:
        client.send_head("GET", "/waits_for_disconnect?name=silent")
        site.witness.wait_for("silent waits", 5.0)
        with pytest.raises(AssertionError, match="'silent left' not noted"):
            site.witness.wait_for("silent left", STAY_SECONDS)
    site.witness.wait_for("silent left", LEAVE_SECONDS)
    assert site.waiting_tasks_become(tasks, LEAVE_SECONDS)


def test_client_that_leaves_within_the_response_is_noticed(site: RunningSite) -> None:
    """A-IN-3: the app has sent a part and says no more."""
    tasks = site.describe()["tasks"]
    with site.connect() as client:
        client.send_head("GET", "/starts_and_waits_for_disconnect?name=started")
        client.read_head()
        assert client.read_body_exactly(5) == b"first"
        site.witness.wait_for("started waits", 5.0)
    site.witness.wait_for("started left", LEAVE_SECONDS)
    assert site.waiting_tasks_become(tasks, LEAVE_SECONDS)


def test_pipelined_request_is_no_disconnect(site: RunningSite) -> None:
    """A-IN-2: bytes that wait on the socket are not its end."""
    with site.connect() as client:
        client.send_head("GET", "/waits_for_disconnect_or_gate?name=pipelined")
        site.witness.wait_for("pipelined waits", 5.0)
        client.send(request_head("GET", "/hello", [("host", "x"), ("connection", "close")]))
        with pytest.raises(AssertionError, match="'pipelined left' not noted"):
            site.witness.wait_for("pipelined left", STAY_SECONDS)
        site.witness.set_event("pipelined")
        assert client.read_response().body == b"through"
    assert site.answers_hello()
