"""Bodies of 64 MiB through a WSGI app under real servers: whole, and never in memory at once."""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers.wsgi_to_asgi.conftest import OBSERVED
from tests.support.asgi_servers import Ability, AsgiServer, Served, waited_for
from tests.support.processes import ServerProcess, running_server, shown_on_failure
from tests.support.raw_http import Client
from tests.support.wsgi_apps import CLOSED_ONCE, MIB, digest_of, download_parts

BODY_MIB = 64
BODY_BYTES = BODY_MIB * MIB
BODY_DIGEST = digest_of(download_parts(BODY_MIB))
RSS_GROWTH_BYTES = 40 * MIB
"""Far below the body, far above what buffers and the allocator's habits cost."""


@pytest.fixture(scope="module")
def fresh_process(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    """A server of its own: memory that another test left free would hide what is used here."""
    with running_server(asgi_server.command_for(OBSERVED)) as process:
        yield process


@pytest.fixture
def served(asgi_server: AsgiServer, fresh_process: ServerProcess) -> Iterator[Served]:
    with shown_on_failure(fresh_process):
        served = Served(asgi_server, fresh_process)
        yield served
        served.wait_until_idle()


STILL_SECONDS = 0.5
"""An upload that has not moved for so long waits for the app."""


class Uploader:
    """Sends the body in a thread of its own, and tells how far it has come."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sent = 0
        self._moved = time.monotonic()

    def send_all(self) -> None:
        for part in download_parts(BODY_MIB):
            self.client.send_body(part)
            self.sent += len(part)
            self._moved = time.monotonic()
        self.client.send_body(b"", end=True)

    def is_still(self) -> bool:
        return time.monotonic() - self._moved > STILL_SECONDS


def received_digest(client: Client) -> tuple[int, str]:
    """Size and SHA-256 of the body that the client is about to read."""
    digest, size = hashlib.sha256(), 0
    while part := client.read_body():
        digest.update(part)
        size += len(part)
    return size, digest.hexdigest()


def test_download(served: Served) -> None:
    """W-FLOW-1, W-OUT-4: 64 MiB leave as they are made; the app waits for the client."""
    token = f"download-{served.server.name}"
    served.process.reset_peak_rss()
    before = served.process.rss_bytes()
    with served.connect() as client:
        client.send_head("GET", f"/download?mib={BODY_MIB}&id={token}")
        assert client.read_head().status == 200
        assert received_digest(client) == (BODY_BYTES, BODY_DIGEST)
    growth = served.process.peak_rss_bytes() - before
    if served.can(Ability.WRITERS_WAIT):
        assert growth < RSS_GROWTH_BYTES
    else:
        # The server holds what the client has not read yet, twice while its buffer is copied.
        assert growth < RSS_GROWTH_BYTES + 2 * BODY_BYTES
    assert served.wait_for_journal(token, CLOSED_ONCE) == ["opened", CLOSED_ONCE]


@pytest.mark.parametrize("framing", ["declared", "undeclared"])
def test_upload(served: Served, framing: str) -> None:
    """W-IN-2, W-IN-4: 64 MiB arrive whole; no more than buffers of it are in memory."""
    served.process.reset_peak_rss()
    before = served.process.rss_bytes()
    with served.connect() as client:
        declared = {"content_length": BODY_BYTES} if framing == "declared" else {}
        client.send_head("POST", "/upload_digest", chunked=framing == "undeclared", **declared)
        client.send_body_parts(download_parts(BODY_MIB))
        answer = json.loads(client.read_response().body)
    growth = served.process.peak_rss_bytes() - before
    assert answer == {"size": BODY_BYTES, "sha256": BODY_DIGEST}
    if served.can(Ability.UPLOADS_ARRIVE_AS_SENT):
        assert growth < RSS_GROWTH_BYTES
    else:
        # The server holds the whole body, once.
        assert growth < RSS_GROWTH_BYTES + BODY_BYTES


def test_upload_waits_for_the_app(served: Served) -> None:
    """W-IN-4: while the app does not read, the client is held back, and memory stays flat."""
    token = f"late-{served.server.name}"
    served.process.reset_peak_rss()
    before = served.process.rss_bytes()
    with ThreadPoolExecutor(1) as threads, served.connect() as client:
        uploader = Uploader(client)
        client.send_head("POST", f"/late_upload_digest?id={token}", content_length=BODY_BYTES)
        sending = threads.submit(uploader.send_all)
        served.wait_for_journal(token, "waits")
        waited_for(uploader.is_still, bool, "stillness")
        growth = served.process.peak_rss_bytes() - before
        held_back = uploader.sent < BODY_BYTES
        served.get(f"/release?id={token}")
        sending.result(30)
        answer = json.loads(client.read_response().body)
    assert answer == {"size": BODY_BYTES, "sha256": BODY_DIGEST}
    assert held_back == served.can(Ability.UPLOADS_ARRIVE_AS_SENT)
    if held_back:
        assert growth < RSS_GROWTH_BYTES
