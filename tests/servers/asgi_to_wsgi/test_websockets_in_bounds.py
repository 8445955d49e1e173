"""WebSockets that are held back, in flat memory; and a process that has no descriptors left."""

import json
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Opcode

from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.websocket_apps import MESSAGE_BYTES
from tests.support.websocket_clients import (
    ANSWER_SECONDS,
    answer,
    frame,
    frame_of_server,
    upgraded,
    websocket,
)
from tests.support.witness import became_true
from tests.support.wsgi_servers import GREENLET_SERVERS, by_name

SITE = "tests.support.bridged_websockets:site"
SERVERS = [by_name(name) for name in ("gunicorn-gthread", "gunicorn-gevent", "cheroot", "uwsgi")]
BACKENDS = ("", "trio/")
"""What comes before the path of an app."""
MEBIBYTE = 1024 * 1024
SIZE = 64 * MEBIBYTE
FLAT_BYTES = 24 * MEBIBYTE
PAUSE_SECONDS = 0.5
SPARE_DESCRIPTORS = 40


site = site_fixture(SERVERS, SITE)


@pytest.fixture(params=BACKENDS, ids=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest, site: RunningSite) -> str:
    if request.param and site.server in GREENLET_SERVERS:
        pytest.skip("trio does not run among greenlets")
    return str(request.param)


def memory_with_one(site: RunningSite, target: str) -> int:
    """Bytes in use while one is open, so that what the first one starts is there; its peak anew."""
    with websocket(site, target):
        site.process.reset_peak_rss()
        return site.process.rss_bytes()


def assert_flat(site: RunningSite, before: int) -> None:
    grown = site.process.peak_rss_bytes() - before
    assert grown < FLAT_BYTES, f"grew by {grown / MEBIBYTE:.1f} MiB"


def test_client_that_reads_nothing_holds_the_app(site: RunningSite, backend: str) -> None:
    """WS-A-11: send() waits, and 64 MiB for a client that pauses are nowhere."""
    before = memory_with_one(site, f"/{backend}echo")
    count, name = SIZE // MESSAGE_BYTES, f"flood-{backend}".rstrip("-/")
    with upgraded(site, f"/{backend}floods?name={name}&count={count}") as client:
        with pytest.raises(AssertionError, match="sent' not noted"):
            site.witness.wait_for(f"{name} sent", PAUSE_SECONDS)
        assert site.answers_hello()
        expected = frame_of_server(Opcode.BINARY, bytes(MESSAGE_BYTES))
        for _ in range(count):
            assert client.receive_exactly(len(expected)) == expected
        site.witness.wait_for(f"{name} sent", ANSWER_SECONDS)
    assert_flat(site, before)


def test_app_that_receives_nothing_holds_the_client(site: RunningSite, backend: str) -> None:
    """WS-A-11: reading pauses; later each message is there."""
    before = memory_with_one(site, f"/{backend}echo")
    message = frame(Opcode.BINARY, bytes(MESSAGE_BYTES))
    name = f"slow-{backend}".rstrip("-/")
    target = f"/{backend}takes_its_time?name={name}&size={SIZE}"
    with upgraded(site, target) as client:
        sending = threading.Thread(
            target=lambda: [client.send(message) for _ in range(SIZE // MESSAGE_BYTES)]
        )
        sending.start()
        sending.join(PAUSE_SECONDS)
        assert sending.is_alive()
        assert site.answers_hello()
        site.witness.set_event(name)
        sending.join(ANSWER_SECONDS)
        told = frame_of_server(Opcode.TEXT, str(SIZE).encode())
        assert client.receive_exactly(len(told)) == told
    assert_flat(site, before)


def test_process_without_descriptors(site: RunningSite) -> None:
    """WS-A-7, WS-A-8: one too many is answered 503, the others stay, and nothing is left of it."""

    def files() -> int:
        counted: dict[str, int] = json.loads(site.get("/sends_counts").body)
        return counted["files"]

    with websocket(site, "/echo"):
        pass
    before, worker = files(), site.describe()["pid"]
    with limited_descriptors(worker, before + SPARE_DESCRIPTORS), ExitStack() as connections:
        clients: list[Any] = []
        while became_open(site, connections, clients):
            assert len(clients) <= SPARE_DESCRIPTORS
        assert len(clients) > SPARE_DESCRIPTORS // 2
        for number, client in enumerate(clients):
            client.send(str(number))
            assert answer(client) == str(number)
    assert became_true(lambda: files() <= before + 1, ANSWER_SECONDS), (before, files())
    with websocket(site, "/echo") as client:
        client.send("again")
        assert answer(client) == "again"


@contextmanager
def limited_descriptors(pid: int, count: int) -> Iterator[None]:
    before, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, most))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (before, most))


def became_open(site: RunningSite, connections: ExitStack, clients: list[Any]) -> bool:
    """Open one more, or see that it is answered 503."""
    try:
        clients.append(connections.enter_context(websocket(site, "/echo")))
    except InvalidStatus as refused:
        status = refused.response.status_code
    else:
        return True
    assert status == 503
    return False
