"""WebSockets over TLS, which cannot be released: a thread carries the bytes, if there is one."""

import http.client
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.asgi_sites import RunningSite, running_site
from tests.support.certificates import Certificate, made_certificate
from tests.support.processes import accepts_connections, shown_on_failure
from tests.support.websocket_clients import (
    ANSWER_SECONDS,
    HANDSHAKE,
    answer,
    close_of,
    websocket,
)
from tests.support.witness import became_true
from tests.support.wsgi_servers import by_name

SITE = "tests.support.bridged_websockets:site"
MEBIBYTE = 1024 * 1024
MESSAGES = ["Zoë", b"\x00\xff", "", b"", "漢" * (MEBIBYTE // 3), bytes(range(256)) * 4096]
SOON = ("--graceful-timeout", "1")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return made_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def shared_site(certificate: Certificate) -> Iterator[RunningSite]:
    server = by_name("gunicorn-gthread").with_options(*certificate.gunicorn_options(), *SOON)
    with running_site(server, SITE, ready=accepts_connections) as site:
        yield site


@pytest.fixture
def site(shared_site: RunningSite) -> Iterator[RunningSite]:
    with shown_on_failure(shared_site.process):
        yield shared_site


@pytest.fixture
def one_thread(certificate: Certificate) -> Iterator[RunningSite]:
    server = by_name("gunicorn-sync").with_options(*certificate.gunicorn_options())
    with running_site(server, SITE, ready=accepts_connections) as site:
        yield site


def secure(site: RunningSite, target: str, certificate: Certificate) -> Any:
    context = certificate.client_context()
    return websocket(site, target, "wss", ssl=context, max_size=None)


def get(
    site: RunningSite, target: str, certificate: Certificate, headers: dict[str, str]
) -> tuple[int, bytes]:
    context = certificate.client_context()
    client = http.client.HTTPSConnection(
        *site.process.address, timeout=ANSWER_SECONDS, context=context
    )
    try:
        client.request("GET", target, headers=headers)
        response = client.getresponse()
        return response.status, response.read()
    finally:
        client.close()


def test_messages_come_back(site: RunningSite, certificate: Certificate) -> None:
    """WS-A-2: of either kind, empty and large; the client sends all before it reads."""
    with secure(site, "/echo", certificate) as client:
        for message in MESSAGES:
            client.send(message)
        assert [answer(client) for _ in MESSAGES] == MESSAGES


@pytest.mark.parametrize(
    ("target", "close"),
    [
        ("/closes?code=4001&reason=bye", (4001, "bye")),
        ("/returns", (1000, "")),
        ("/raises", (1011, "")),
    ],
)
def test_codes_of_the_app(
    site: RunningSite, certificate: Certificate, target: str, close: tuple[int, str]
) -> None:
    """WS-A-2, WS-A-9"""
    with secure(site, target, certificate) as client:
        assert close_of(client) == close


def test_codes_of_the_client(site: RunningSite, certificate: Certificate) -> None:
    """WS-A-2, WS-A-9"""
    with secure(site, "/echo?name=secure", certificate) as client:
        client.close(4000, "done")
        assert close_of(client) == (4000, "done")
    site.witness.wait_for("secure said done", ANSWER_SECONDS)


def test_client_that_is_killed(site: RunningSite, certificate: Certificate) -> None:
    """WS-A-2, WS-A-9: no farewell, not even that of TLS."""
    with secure(site, "/echo?name=killed", certificate) as client:
        client.socket.close()
        site.witness.wait_for("killed left 1006", ANSWER_SECONDS)


def test_requests_beside(site: RunningSite, certificate: Certificate) -> None:
    """WS-A-2: the other threads answer them; one handshake is refused by the app."""
    with secure(site, "/echo", certificate) as client:
        assert get(site, "/hello", certificate, {}) == (200, b"Hello, world!")
        assert get(site, "/refuses", certificate, HANDSHAKE)[0] == 403
        client.send("still here")
        assert answer(client) == "still here"


def test_server_with_one_thread(one_thread: RunningSite, certificate: Certificate) -> None:
    """WS-A-2: it would serve nobody else meanwhile."""
    assert get(one_thread, "/echo", certificate, HANDSHAKE)[0] == 501
    assert get(one_thread, "/hello", certificate, {}) == (200, b"Hello, world!")


def test_server_that_is_stopped(shared_site: RunningSite, certificate: Certificate) -> None:
    """WS-A-9: after gunicorn's own patience with its threads; the last test of this server."""
    with secure(shared_site, "/echo?name=last", certificate) as client:
        shared_site.stop()
        assert close_of(client) == (1012, "")
    shared_site.wait_until_ended()
    assert became_true(lambda: shared_site.witness.is_noted("last left 1012"), ANSWER_SECONDS)
    # WS-A-2: whatever has ended here, gunicorn could write its 101.
    assert "Invalid request" not in shared_site.process.output()
