"""Clients that stop in the middle, under real servers: given up after `stall_timeout`."""

from collections.abc import Iterator

import pytest

from tests.support.asgi_servers import Ability, AsgiServer, Served
from tests.support.bridged_wsgi import STALL_SECONDS
from tests.support.processes import ServerProcess, running_server, shown_on_failure
from tests.support.raw_http import SMALL_RECEIVE_BUFFER_BYTES, CutResponseError
from tests.support.wsgi_apps import CLOSED_ONCE, LARGE_BODY, LARGE_BODY_BYTES

IMPATIENT = "tests.support.bridged_wsgi:impatient"


@pytest.fixture(scope="module")
def impatient_process(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    with running_server(asgi_server.command_for(IMPATIENT)) as process:
        yield process


@pytest.fixture
def served(asgi_server: AsgiServer, impatient_process: ServerProcess) -> Iterator[Served]:
    with shown_on_failure(impatient_process):
        served = Served(asgi_server, impatient_process)
        yield served
        served.wait_until_idle()


def test_reader_stalls(served: Served) -> None:
    """W-FLOW-5: its thread is freed while the client stays, and its body never looks whole."""
    token = f"reader-{served.server.name}"
    before = served.stats()["stalled"]
    with served.connect(receive_buffer=SMALL_RECEIVE_BUFFER_BYTES) as client:
        client.send_head("GET", f"/large_generator?id={token}")
        assert client.read_head().status == 200
        assert served.wait_for_journal(token, CLOSED_ONCE) == ["opened", CLOSED_ONCE]
        if served.can(Ability.WRITERS_WAIT):
            assert served.wait_for_stats(busy=0)["stalled"] == before + 1
            with pytest.raises(CutResponseError):
                client.read_body_exactly(LARGE_BODY_BYTES)
        else:
            assert client.read_body_exactly(LARGE_BODY_BYTES) == LARGE_BODY


def test_reader_of_a_list_leaves(served: Served) -> None:
    """W-FLOW-2, W-FLOW-5: the request ends, be it only by the time-out where send() never ends."""
    before = served.stats()
    with served.connect(receive_buffer=SMALL_RECEIVE_BUFFER_BYTES) as client:
        client.send_head("GET", "/large_list")
        assert client.read_head().status == 200
    after = served.wait_until_idle()
    if not served.can(Ability.SENDS_END_WITH_CONNECTION):
        given_up = {key: after[key] - before[key] for key in ("stalled", "disconnected")}
        assert sum(given_up.values()) == 1


def test_large_upload_stalls(served: Served) -> None:
    """W-IN-7: the app that reads sees an OSError, its thread is free, the client hears of it."""
    token = f"upload-{served.server.name}"
    with served.connect() as client:
        client.send_head("POST", f"/upload_digest?id={token}", content_length=1_000_000)
        client.send_body(b"x" * 100_000)
        if served.can(Ability.UPLOADS_ARRIVE_AS_SENT):
            stalled = "OSError: ClientStalled"
            events = served.wait_for_journal(token, stalled)
            assert events == ["called", "first part", stalled]
            assert client.read_response().status == 408
        else:
            client.set_timeout(4 * STALL_SECONDS)
            with pytest.raises(TimeoutError):
                client.read_head()
            assert served.journal(token) == []


def test_small_upload_stalls(served: Served) -> None:
    """W-IN-7, W-IN-5: 408 before the app is called."""
    token = f"small-{served.server.name}"
    with served.connect() as client:
        client.send_head("POST", f"/upload_digest?id={token}", content_length=1000)
        client.send_body(b"x" * 100)
        if served.can(Ability.UPLOADS_ARRIVE_AS_SENT):
            assert client.read_response().status == 408
        else:
            client.set_timeout(4 * STALL_SECONDS)
            with pytest.raises(TimeoutError):
                client.read_head()
        assert served.journal(token) == []


def test_unread_upload_does_not_hide_that_its_client_left(served: Served) -> None:
    """W-FLOW-3, W-OUT-5: a stream that leaves a large request body alone is closed all the same."""
    token = f"unread-{served.server.name}"
    before = served.stats()["disconnected"]
    with served.connect() as client:
        client.send_head("POST", f"/event_stream?id={token}", content_length=200_000)
        client.send_body(b"x" * 200_000)
        assert client.read_head().status == 200
    assert served.wait_for_journal(token, CLOSED_ONCE) == ["opened", CLOSED_ONCE]
    assert served.wait_until_idle()["disconnected"] == before + 1
