"""`ASGIToWSGI` on real servers: requests of many threads share locks, queues and pools."""

import json
from contextlib import ExitStack
from typing import Any

from tests.support.asgi_apps import PARTIES, POOL_SIZE
from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.wsgi_servers import CONCURRENCY, servers_with

COUNT = 25


site = site_fixture(servers_with(CONCURRENCY))


def test_requests_of_many_threads_meet_on_one_loop(site: RunningSite) -> None:
    """A-LOOP-1, A-CALL-1: none is answered before all are there."""
    answers = answers_of_requests_in_flight(site, ["/meets_others"] * PARTIES)
    assert sorted(answer["place"] for answer in answers) == list(range(PARTIES))
    assert len({answer["loop"] for answer in answers}) == 1


def test_lock_is_shared(site: RunningSite) -> None:
    """A-LOOP-1"""
    answers = answers_of_requests_in_flight(site, [f"/adds_under_lock?count={COUNT}"] * PARTIES)
    assert max(answer["total"] for answer in answers) == PARTIES * COUNT


def test_queue_is_shared(site: RunningSite) -> None:
    """A-LOOP-1: half of the requests wait for what the others give."""
    paths = [f"/passes_items?does={does}&count={COUNT}" for does in ("take", "put") * 2]
    answers = answers_of_requests_in_flight(site, paths)
    items = [item for answer in answers for item in answer["items"]]
    assert sorted(items) == sorted([*range(COUNT), *range(COUNT)])


def test_pool_is_shared(site: RunningSite) -> None:
    """A-LOOP-1: its bound holds over all requests, and it is used up to it."""
    answers = answers_of_requests_in_flight(site, [f"/uses_pool?count={COUNT}"] * PARTIES)
    assert [answer["most_in_use"] for answer in answers] == [POOL_SIZE] * PARTIES


def answers_of_requests_in_flight(site: RunningSite, paths: list[str]) -> list[dict[str, Any]]:
    """Send all requests, each on a connection of its own, before any answer is read."""
    with ExitStack() as connections:
        clients = [connections.enter_context(site.connect()) for _ in paths]
        for client, path in zip(clients, paths, strict=True):
            client.send_head("GET", path, [("connection", "close")])
        return [json.loads(client.read_response().body) for client in clients]
