"""What gunicorn keeps books of, its connections and its access log, is right with WebSockets."""

from contextlib import ExitStack

from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.websocket_clients import ANSWER_SECONDS, answer, refusal, websocket
from tests.support.witness import became_true
from tests.support.wsgi_servers import THREADS, by_name

SITE = "tests.support.bridged_websockets:site"
MOST_CONNECTIONS = THREADS + 2
FORMAT = "%(s)s %(m)s %(U)s"
BOOKS = ("--worker-connections", str(MOST_CONNECTIONS), "--access-logfile", "-")
SERVERS = [
    by_name(name).with_options(*BOOKS, "--access-logformat", FORMAT)
    for name in ("gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent")
]


site = site_fixture(SERVERS, SITE)


def test_websockets_take_no_place_among_its_connections(site: RunningSite) -> None:
    """WS-A-2, WS-A-8: twice as many as gunicorn would take, and requests beside them."""
    many = 2 * MOST_CONNECTIONS
    for _ in range(2):  # and none has been given back twice
        with ExitStack() as connections:
            clients = [connections.enter_context(websocket(site, "/echo")) for _ in range(many)]
            assert site.answers_hello()
            for number, client in enumerate(clients):
                client.send(str(number))
                assert answer(client) == str(number)
    assert site.answers_hello()


def test_access_log_has_the_status_that_the_client_got(site: RunningSite) -> None:
    """WS-A-6"""
    mark = site.process.output_size()
    with websocket(site, "/counts"):
        pass
    assert refusal(site, "/denies").status == 401
    expected = ["101 GET /counts", "401 GET /denies"]

    def logged() -> bool:
        return site.process.output(since=mark).splitlines() == expected

    assert became_true(logged, ANSWER_SECONDS), site.process.output(since=mark)
