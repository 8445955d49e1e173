"""WebSockets and event streams over a socket in the file system, as behind nginx on one machine."""

import json
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from tests.support.asgi_sites import RunningSite, on_each, running_site
from tests.support.processes import shown_on_failure
from tests.support.raw_http import request_head
from tests.support.websocket_clients import ANSWER_SECONDS, answer
from tests.support.wsgi_servers import by_name

SITE = "tests.support.bridged_websockets:default"
OPTIONS = {
    "gunicorn-sync": ("--bind", "unix:{path}"),
    "gunicorn-gthread": ("--bind", "unix:{path}"),
    "gunicorn-gevent": ("--bind", "unix:{path}"),
    "uwsgi": ("--http-socket", "{path}"),
}


@dataclass(frozen=True)
class Place:
    """A server, and where it listens besides its port."""

    site: RunningSite
    path: Path


@pytest.fixture(scope="module", params=on_each([by_name(name) for name in OPTIONS]))
def shared_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    # Not pytest's directory, whose name may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wsgi_asgi_bridge-") as directory:
        path = Path(directory) / "socket"
        options = [option.replace("{path}", str(path)) for option in OPTIONS[request.param.name]]
        with running_site(request.param.with_options(*options), SITE) as site:
            yield Place(site, path)


@pytest.fixture
def place(shared_place: Place) -> Iterator[Place]:
    with shown_on_failure(shared_place.site.process):
        yield shared_place


def test_messages_come_back(place: Place) -> None:
    """WS-A-2, WS-A-5"""
    with unix_connect(str(place.path), "ws://localhost/echo?name=unix", max_size=None) as client:
        for message in ("text", b"binary", "x" * 1_000_000):
            client.send(message)
            assert answer(client) == message
        client.close(4000)
    place.site.witness.wait_for("unix left 4000", ANSWER_SECONDS)


def test_event_stream(place: Place) -> None:
    """R-1"""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWER_SECONDS)
        client.connect(str(place.path))
        headers = [("host", "localhost")]
        client.sendall(request_head("GET", "/sends_counts_as_events?name=unix", headers))
        received = b""
        while b"data: first\n\n" not in received:
            received += client.recv(65536)
        counted = json.loads(place.site.get("/sends_counts").body)
        assert counted["released_event_streams"] == 1
        place.site.witness.set_event("unix")
        while part := client.recv(65536):
            received += part
    assert b'"released_event_streams": 1' in received
