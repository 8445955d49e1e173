"""The table of docs/websockets.md: what becomes of WebSockets and event streams."""

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.asgi_sites import RunningSite, running_site
from tests.support.certificates import Certificate, made_certificate
from tests.support.processes import (
    PROJECT_ROOT,
    accepts_connections,
    answers_http,
    shown_on_failure,
)
from tests.support.websocket_clients import ANSWER_SECONDS, HANDSHAKE, answer, websocket
from tests.support.wsgi_servers import SCRIPTS, THREADS, WSGIServer, by_name

SITE = "tests.support.bridged_websockets:default"
PAGE = (PROJECT_ROOT / "docs" / "websockets.md").read_text(encoding="utf-8")
TLS = ", TLS"
UWSGI_BEHIND_ITS_ROUTER = WSGIServer(
    "uwsgi-http",
    (
        str(SCRIPTS / "pyuwsgi"),
        *("--http", "127.0.0.1:{port}", "--http-websockets", "--module", "{target}"),
        *("--master", "--enable-threads", "--threads", str(THREADS), "--need-app"),
        *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
    ),
)
SERVERS = {
    "gunicorn `sync`": by_name("gunicorn-sync"),
    "gunicorn `gthread`": by_name("gunicorn-gthread"),
    "gunicorn `gevent`": by_name("gunicorn-gevent"),
    "uWSGI `--http-socket`": by_name("uwsgi"),
    "uWSGI `--http` and `--http-websockets`": UWSGI_BEHIND_ITS_ROUTER,
    **{name: by_name(name) for name in ("werkzeug", "wsgiref", "cheroot", "waitress", "granian")},
    "gevent.pywsgi": by_name("gevent.pywsgi"),
    "eventlet": by_name("eventlet"),
}


def rows() -> dict[str, tuple[str, str]]:
    """The page's table: what it says of WebSockets and of event streams, by server."""
    _, _, table = PAGE.partition("| Server | WebSockets | Event streams |\n|---|---|---|\n")
    lines = table.partition("\n\n")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {server: (websockets, streams) for server, websockets, streams in cells}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return made_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=rows())
def row(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared_site(row: str, certificate: Certificate) -> Iterator[RunningSite]:
    server, ready = SERVERS[row.removesuffix(TLS)], answers_http("/")
    if row.endswith(TLS):
        server = server.with_options(*certificate.gunicorn_options())
        ready = accepts_connections
    with running_site(server, SITE, ready=ready) as site:
        yield site


@pytest.fixture
def site(shared_site: RunningSite) -> Iterator[RunningSite]:
    with shown_on_failure(shared_site.process):
        yield shared_site


@pytest.fixture
def context(row: str, certificate: Certificate) -> ssl.SSLContext | None:
    return certificate.client_context() if row.endswith(TLS) else None


def connection(site: RunningSite, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    given: dict[str, Any] = {"timeout": ANSWER_SECONDS}
    if context is None:
        return http.client.HTTPConnection(*site.process.address, **given)
    return http.client.HTTPSConnection(*site.process.address, context=context, **given)


def what_becomes_of_a_websocket(site: RunningSite, context: ssl.SSLContext | None) -> str:
    with closing(connection(site, context)) as client:
        client.request("GET", "/counts", headers=HANDSHAKE)
        response = client.getresponse()
        if response.status == 501:
            return "501"
        if response.status == 200:
            assert response.read() == b"a plain http scope"
            return "plain `http`"
    scheme, options = ("ws", {}) if context is None else ("wss", {"ssl": context})
    with websocket(site, "/counts", scheme, **options) as client:
        client.send("?")
        counted = json.loads(answer(client))
    return {1: "released", 0: "thread kept"}[counted["released_websockets"]]


def what_becomes_of_a_stream(site: RunningSite, context: ssl.SSLContext | None) -> str:
    with closing(connection(site, context)) as client:
        client.request("GET", "/sends_counts_as_events?name=stream")
        response = client.getresponse()
        assert response.read(13) == b"data: first\n\n"
        site.witness.set_event("stream")
        counted = json.loads(response.read().removeprefix(b"data: "))
    return {1: "released", 0: "thread kept"}[counted["released_event_streams"]]


def test_websockets(site: RunningSite, row: str, context: ssl.SSLContext | None) -> None:
    """WS-A-1, WS-A-2"""
    assert what_becomes_of_a_websocket(site, context) == rows()[row][0]


def test_event_streams(site: RunningSite, row: str, context: ssl.SSLContext | None) -> None:
    """R-1"""
    assert what_becomes_of_a_stream(site, context) == rows()[row][1]
