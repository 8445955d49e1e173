"""`ASGIToWSGI` where gevent or eventlet have made greenlets of threads."""

import json
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.asgi_sites import RunningSite, on_each, running_site
from tests.support.greenlet_site import MOST_AT_ONCE, SECONDS, SLEEPING
from tests.support.processes import accepts_connections, shown_on_failure
from tests.support.raw_http import CutResponseError
from tests.support.wsgi_servers import GREENLET_SERVERS, SILENT_LEAVE

SITE = "tests.support.greenlet_site:site"
EVENT_SECONDS = 5.0
LEAVE_SECONDS = 2.0
PART = bytes(range(256)) * 4096
PARTS = 8


@pytest.fixture(scope="module", params=on_each(GREENLET_SERVERS))
def shared_site(request: pytest.FixtureRequest) -> Iterator[RunningSite]:
    """A server that has not been asked anything, stopped at last as its operator does."""
    with running_site(request.param, SITE, ready=accepts_connections) as site:
        yield site
        site.stop()
        site.wait_until_ended()
        noted = [what for what, _ in site.witness.notes()]
        assert noted[:1] + noted[-1:] == ["startup", "shutdown"], "A-LOOP-2"
        assert "CRITICAL" not in site.process.output()


@pytest.fixture
def site(shared_site: RunningSite) -> Iterator[RunningSite]:
    with shown_on_failure(shared_site.process):
        yield shared_site


def test_requests_overlap_from_the_first_on(site: RunningSite) -> None:
    """A-LOOP-6: a hundred at once, each of which sleeps for a second in one way or another."""
    began = time.monotonic()
    with ExitStack() as connections:
        clients = [connections.enter_context(site.connect()) for _ in range(MOST_AT_ONCE)]
        for number, client in enumerate(clients):
            app = SLEEPING[number % len(SLEEPING)]
            client.send_head("GET", f"/{app.__name__}", [("connection", "close")])
        answers = [client.read_response().body for client in clients]
    assert answers == [b"slept"] * MOST_AT_ONCE
    # Two seconds on a machine that has nothing else to do; a hundred one after the other.
    assert time.monotonic() - began < SECONDS * MOST_AT_ONCE / 4


def test_events_arrive_one_by_one(site: RunningSite) -> None:
    """A-LOOP-6, A-OUT-2"""
    with site.connect(EVENT_SECONDS) as client:
        client.send_head("GET", "/sends_events?name=events", [("connection", "close")])
        client.read_head()
        for number in (1, 2, 3):
            assert client.read_body_exactly(9) == b"data: %d\n\n" % number
            site.witness.set_event(f"events-{number + 1}")
        assert client.read_body() == b""


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upload(site: RunningSite, chunked: bool) -> None:
    """A-LOOP-6, A-IN-1"""
    if chunked and site.server.name == "eventlet":
        pytest.skip("does not say that it decodes chunks")
    size = None if chunked else PARTS * len(PART)
    with site.connect() as client:
        client.send_head("POST", "/counts_upload", content_length=size, chunked=chunked)
        client.send_body_parts([PART] * PARTS)
        counted = json.loads(client.read_response().body)
    assert (counted["size"], counted["checksum"]) == (PARTS * len(PART), zlib.crc32(PART * PARTS))


def test_errors(site: RunningSite) -> None:
    """A-LOOP-6, A-OUT-4, A-LOOP-5"""
    assert site.get("/raises_before").status == 500
    assert site.get("/exits_before").status == 500
    for path in ("/raises_after", "/returns_after_part"):
        with pytest.raises(CutResponseError):
            site.get(path)
    assert site.get("/has_task_that_exits").body == b"survived"
    assert site.answers_hello()


def test_background_work_goes_on_beside_requests(site: RunningSite) -> None:
    """A-LOOP-6, A-OUT-5"""
    assert site.get("/works_in_background?name=greenlet-work").body == b"accepted"
    assert site.answers_hello()
    site.witness.set_event("greenlet-work")
    site.witness.wait_for("greenlet-work done", EVENT_SECONDS)


def test_requests_of_one_connection_follow_each_other(site: RunningSite) -> None:
    """A-LOOP-6, A-OUT-7"""
    with site.connect() as client:
        for number in range(5):
            answer = client.request("POST", "/echoes_request", body=b"%d" % number)
            assert json.loads(answer.body)["body"] == str(number)


def test_client_that_leaves_a_silent_app_is_noticed(site: RunningSite) -> None:
    """A-LOOP-6, A-IN-3: gevent's poll() does not know a closed connection."""
    if not site.server.can(SILENT_LEAVE):
        pytest.skip(site.server.lacks[SILENT_LEAVE])
    with site.connect() as client:
        client.send_head("GET", "/waits_for_disconnect?name=silent")
        site.witness.wait_for("silent waits", EVENT_SECONDS)
    site.witness.wait_for("silent left", LEAVE_SECONDS)
