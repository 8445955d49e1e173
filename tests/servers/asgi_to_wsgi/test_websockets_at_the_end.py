"""WebSockets on a worker that ends, because it is stopped, replaced or has had its requests."""

from collections.abc import Iterator
from contextlib import ExitStack
from signal import SIGHUP

import pytest

from tests.support.asgi_sites import RunningSite, on_each, running_site
from tests.support.websocket_clients import ANSWER_SECONDS, answer, close_of, websocket
from tests.support.witness import became_true
from tests.support.wsgi_servers import THREADS, WEBSOCKET_SERVERS, by_name

SITE = "tests.support.bridged_websockets:site"
SERVICE_RESTART = (1012, "")
MOST_REQUESTS = 5
PRELOADING = (by_name("gunicorn-sync-preload"), by_name("gunicorn-gthread-preload"))
RELOADING = (by_name("gunicorn-sync"), by_name("gunicorn-gthread"), by_name("gunicorn-gevent"))
LIMITED = by_name("gunicorn-gthread").with_options("--max-requests", str(MOST_REQUESTS))


@pytest.fixture(params=on_each((*WEBSOCKET_SERVERS, *PRELOADING)))
def site(request: pytest.FixtureRequest) -> Iterator[RunningSite]:
    with running_site(request.param, SITE) as site:
        yield site


@pytest.fixture(params=on_each(RELOADING))
def reloading_site(request: pytest.FixtureRequest) -> Iterator[RunningSite]:
    with running_site(request.param, SITE) as site:
        yield site


@pytest.fixture
def limited_site() -> Iterator[RunningSite]:
    with running_site(LIMITED, SITE) as site:
        yield site


def speaks(site: RunningSite) -> bool:
    try:
        with websocket(site, "/echo") as client:
            client.send("again")
            return bool(answer(client) == "again")
    except OSError:  # between two workers
        return False


def test_server_that_is_stopped(site: RunningSite) -> None:
    """WS-A-9: all are closed first thing, and no server waits for them until its patience ends."""
    with ExitStack() as connections:
        names = [f"client-{number}" for number in range(THREADS + 2)]
        clients = [
            connections.enter_context(websocket(site, f"/echo?name={name}")) for name in names
        ]
        site.stop()
        assert [close_of(client) for client in clients] == [SERVICE_RESTART] * len(clients)
    site.wait_until_ended()
    noted = [what for what, _ in site.witness.notes()]
    assert noted[-1] == "shutdown", "A-LOOP-2"
    assert {f"{name} left 1012" for name in names} <= set(noted)


def test_worker_that_is_replaced(reloading_site: RunningSite) -> None:
    """WS-A-9: its WebSockets are closed, and the new worker takes new ones."""
    site = reloading_site
    old = site.describe()["pid"]
    with websocket(site, "/echo") as client:
        site.process.process.send_signal(SIGHUP)
        assert close_of(client) == SERVICE_RESTART
    assert became_true(lambda: old not in site.process.pids(), ANSWER_SECONDS)
    assert became_true(lambda: speaks(site), ANSWER_SECONDS)
    assert site.describe()["pid"] != old


def test_worker_that_has_had_its_requests(limited_site: RunningSite) -> None:
    """WS-A-9: gunicorn's --max-requests."""
    site = limited_site
    with websocket(site, "/echo") as client:
        for _ in range(MOST_REQUESTS):
            assert site.answers_hello()
        assert close_of(client) == SERVICE_RESTART
    assert became_true(lambda: speaks(site), ANSWER_SECONDS)
