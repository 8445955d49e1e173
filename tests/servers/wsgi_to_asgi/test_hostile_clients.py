"""Clients that leave, dawdle or never read, under real servers: ten workers serve on regardless."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.asgi_servers import Ability, Served
from tests.support.bridged_wsgi import WORKERS
from tests.support.raw_http import SMALL_RECEIVE_BUFFER_BYTES, Client
from tests.support.wsgi_apps import CLOSED_ONCE, LARGE_BODY, LARGE_BODY_BYTES, MIB

MANY = 50
HELD_BACK_BYTES = 100 * MIB
"""Much less than the `MANY` bodies, much more than the buffers of `MANY` responses."""


@contextmanager
def connections(
    served: Served, count: int, receive_buffer: int | None = None
) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(served.connect(receive_buffer=receive_buffer)) for _ in range(count)
        ]


def open_streams(clients: list[Client], app: str, token: str) -> None:
    """Begin a response of `app` for each client, and read its head: that far all must come."""
    for number, client in enumerate(clients):
        client.send_head("GET", f"/{app}?id={token}-{number}")
    for client in clients:
        assert client.read_head().status == 200


def assert_all_closed(served: Served, count: int, token: str) -> None:
    for number in range(count):
        events = served.wait_for_journal(f"{token}-{number}", CLOSED_ONCE)
        assert events == ["opened", CLOSED_ONCE]


def test_thirty_streams_closed_by_their_clients(served: Served) -> None:
    """W-FLOW-3, W-OUT-5: the threads are free and every generator is closed, once."""
    token = f"thirty-{served.server.name}"
    with connections(served, 30) as clients:
        open_streams(clients, "event_stream", token)
        for client in clients:
            assert client.read_body_exactly(9) == b"data: 0\n\n"
    served.assert_answers(1)
    assert_all_closed(served, 30, token)
    served.wait_until_idle()


def test_twenty_polling_apps_whose_clients_leave(served: Served) -> None:
    """W-OUT-11: they leave the pool's count, and each learns of its client at an empty chunk."""
    token = f"polls-{served.server.name}"
    with connections(served, 2 * WORKERS) as clients:
        for number, client in enumerate(clients):
            client.send_head("GET", f"/polls_for_ever?id={token}-{number}")
        served.wait_for_stats(streaming=2 * WORKERS)
        served.assert_answers(1)
    assert_all_closed(served, 2 * WORKERS, token)


def test_fifty_open_event_streams(served: Served) -> None:
    """W-FLOW-8: streams that last leave the pool's count."""
    token = f"events-{served.server.name}"
    with connections(served, MANY) as clients:
        open_streams(clients, "event_stream", token)
        served.assert_answers()
        served.wait_for_stats(streaming=MANY)
        for client in clients:
            assert client.read_body_exactly(18) == b"data: 0\n\ndata: 1\n\n"
    assert_all_closed(served, MANY, token)


@pytest.mark.parametrize("pace", ["stuck", "a byte now and then"])
def test_fifty_slow_small_uploads(served: Served, pace: str) -> None:
    """W-IN-5: an upload that fits the buffer holds no thread while it arrives."""
    size = 1000
    with connections(served, MANY) as clients:
        for client in clients:
            client.send_head("POST", "/echo", content_length=size)
            client.send_body(b"x")
        sent = 1
        for _ in range(5):
            if pace == "a byte now and then":
                for client in clients:
                    client.send_body(b"x")
                sent += 1
            served.assert_answers(2)
        arrived = MANY if served.can(Ability.UPLOADS_ARRIVE_AS_SENT) else 0
        served.wait_for_stats(busy=0, in_flight=arrived)
        for client in clients[:5]:
            client.send_body(b"x" * (size - sent), end=True)
            assert client.read_response().body == b"x" * size
    served.wait_until_idle()


def test_fifty_readers_never_read_a_list(served: Served) -> None:
    """W-FLOW-1: a body given whole is handed over at once and frees its thread."""
    threads = served.stats()["threads"]
    with connections(served, MANY, SMALL_RECEIVE_BUFFER_BYTES) as clients:
        open_streams(clients, "large_list", f"list-{served.server.name}")
        served.assert_answers()
        if served.can(Ability.WRITERS_WAIT):
            served.wait_for_stats(in_flight=MANY)
        assert served.wait_for_stats(busy=0)["threads"] <= max(threads, WORKERS)
        assert clients[0].read_body_exactly(LARGE_BODY_BYTES) == LARGE_BODY
        if not served.can(Ability.SENDS_END_WITH_CONNECTION):
            for client in clients[1:]:
                assert client.read_body_exactly(LARGE_BODY_BYTES) == LARGE_BODY
    served.wait_until_idle()


def test_fifty_readers_never_read_a_generator(served: Served) -> None:
    """W-FLOW-8, W-FLOW-1: a worker that waits for its client leaves the pool's count."""
    token = f"generator-{served.server.name}"
    served.process.reset_peak_rss()
    before = served.process.rss_bytes()
    with connections(served, MANY, SMALL_RECEIVE_BUFFER_BYTES) as clients:
        open_streams(clients, "large_generator", token)
        served.assert_answers()
        if served.can(Ability.WRITERS_WAIT):
            served.wait_for_stats(streaming=MANY)
            assert served.process.peak_rss_bytes() - before < HELD_BACK_BYTES
        assert clients[0].read_body_exactly(LARGE_BODY_BYTES) == LARGE_BODY
    assert_all_closed(served, MANY, token)
