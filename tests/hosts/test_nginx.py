"""WebSockets and event streams through nginx, before gunicorn and before uWSGI.

They need nginx, which no package of Python brings: `.ci/run` installs it if it may.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.asgi_sites import RunningSite, on_each, running_site
from tests.support.processes import (
    Readiness,
    accepts_connections,
    answers_http,
    running_server,
    shown_on_failure,
)
from tests.support.websocket_clients import (
    ANSWER_SECONDS,
    answer,
    close_of,
    refusal,
    upgraded,
    websocket,
)
from tests.support.wsgi_servers import SCRIPTS, THREADS, WSGIServer, by_name

SITE = "tests.support.bridged_websockets:default"
MESSAGES = ["Zoë 漢字", b"\x00\xff", "", b"", "x" * 1_000_000]
UWSGI_BEHIND_NGINX = WSGIServer(
    "uwsgi-socket",
    (
        str(SCRIPTS / "pyuwsgi"),
        *("--socket", "127.0.0.1:{port}", "--module", "{target}", "--master", "--need-app"),
        *("--enable-threads", "--threads", str(THREADS)),
        *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
    ),
)
KINDS = {"gunicorn-gthread": "proxy", "gunicorn-sync": "proxy", "uwsgi-socket": "uwsgi"}
UPSTREAMS = (by_name("gunicorn-gthread"), by_name("gunicorn-sync"), UWSGI_BEHIND_NGINX)


@pytest.fixture(scope="module", params=on_each(UPSTREAMS))
def shared_sites(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningSite, RunningSite]]:
    """The server itself, and the same as nginx shows it."""
    directory, kind = tmp_path_factory.mktemp("nginx"), KINDS[request.param.name]
    directory.chmod(0o755)
    ready: Readiness = answers_http("/") if kind == "proxy" else accepts_connections
    with running_site(request.param, SITE, ready=ready) as behind:
        upstream = f"{behind.process.host}:{behind.process.port}"
        command = [sys.executable, "-m", "tests.hosts.nginx", str(directory), kind, upstream]
        with running_server([*command, "{port}"]) as nginx:
            yield behind, RunningSite(request.param, nginx, behind.witness)


@pytest.fixture
def site(shared_sites: tuple[RunningSite, RunningSite]) -> Iterator[RunningSite]:
    behind, before = shared_sites
    with shown_on_failure(behind.process), shown_on_failure(before.process):
        yield before


def test_messages_come_back(site: RunningSite) -> None:
    """WS-A-2"""
    with websocket(site, "/echo", max_size=None) as client:
        for message in MESSAGES:
            client.send(message)
        assert [answer(client) for _ in MESSAGES] == MESSAGES


def test_more_than_the_server_has_threads(site: RunningSite) -> None:
    """WS-A-8"""
    with ExitStack() as connections:
        clients = [connections.enter_context(websocket(site, "/echo")) for _ in range(THREADS + 2)]
        assert site.answers_hello()
        for number, client in enumerate(clients):
            client.send(str(number))
            assert answer(client) == str(number)


def test_codes_of_both_sides(site: RunningSite) -> None:
    """WS-A-9"""
    with websocket(site, "/closes?code=4001&reason=bye") as client:
        assert close_of(client) == (4001, "bye")
    with websocket(site, "/echo?name=done") as client:
        client.close(4002, "done")
    site.witness.wait_for("done left 4002", ANSWER_SECONDS)


def test_client_that_is_killed(site: RunningSite) -> None:
    """WS-A-9"""
    upgraded(site, "/echo?name=killed").reset()
    site.witness.wait_for("killed left 1006", ANSWER_SECONDS)


def test_refusals(site: RunningSite) -> None:
    """WS-A-1"""
    assert refusal(site, "/refuses").status == 403
    assert refusal(site, "/denies").body == b"who are you?"
    assert refusal(site, "/echo", sec_websocket_version="12").status == 426


def test_event_streams_take_no_thread(site: RunningSite) -> None:
    """R-1, R-4: each event comes at once, from more streams than there are threads."""
    with ExitStack() as connections:
        clients = [connections.enter_context(site.connect()) for _ in range(THREADS + 2)]
        for client in clients:
            client.send_head("GET", "/sends_counts_as_events?name=streams")
            assert client.read_head().status == 200
            assert client.read_body_exactly(13) == b"data: first\n\n"
        counted = json.loads(site.get("/sends_counts").body)
        assert counted["released_event_streams"] == len(clients)
        site.witness.set_event("streams")
        assert all(client.read_body().startswith(b"data: {") for client in clients)


def test_server_that_is_stopped(shared_sites: tuple[RunningSite, RunningSite]) -> None:
    """WS-A-9: the last test of this server."""
    behind, before = shared_sites
    with websocket(before, "/echo") as client:
        behind.stop()
        assert close_of(client) == (1012, "")
    behind.wait_until_ended()
