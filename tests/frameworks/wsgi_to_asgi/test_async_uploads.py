"""W-CALL-4: async views of Flask, Django and Dash read uploads, on real servers and loops."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.asgi_servers import SERVERS
from tests.support.processes import ServerProcess, running_server, shown_on_failure
from tests.support.raw_http import Connection
from tests.support.wsgi_apps import MIB, digest_of, download_parts
from tests.support.wsgi_servers import by_name

SITE = "tests.support.async_views"
PART_BYTES = 262_144
SIZES = {"10B": 10, "100kB": 100_000, "4MB": 4_000_000}
FRAMINGS = ["declared", "expecting", "undeclared"]
HUGE_MIB = 300
MEMORY_BYTES = 60 * MIB
"""Far below the huge body, far above what buffers and the allocator's habits cost."""

ON_ASGI = ("uvicorn-httptools", "uvicorn-h11", "hypercorn-trio")
"""uvloop, asyncio, trio."""

COMMANDS = {
    **{s.name: s.command_for(f"{SITE}:bridged") for s in SERVERS if s.name in ON_ASGI},
    "both": by_name("gunicorn-gthread").command_for(f"{SITE}:both"),
}


@dataclass(frozen=True)
class Site:
    """The views of `async_views` on one server, below `prefix`."""

    process: ServerProcess
    prefix: str = ""

    def connect(self) -> Connection:
        return Connection(self.process.address)

    def upload(self, target: str, body: bytes, framing: str, headers: list[tuple[str, str]]) -> Any:
        with self.connect() as client:
            declared = {} if framing == "undeclared" else {"content_length": len(body)}
            if framing == "expecting":
                headers = [*headers, ("expect", "100-continue")]
            chunked = framing == "undeclared"
            client.send_head("POST", self.prefix + target, headers, chunked=chunked, **declared)
            if framing == "expecting":
                assert client.receive_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
            client.send_body_parts(
                body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)
            )
            response = client.read_response()
        assert response.status == 200, response.text
        return json.loads(response.body)

    def assert_answers(self) -> None:
        with self.connect() as client:
            assert client.get(f"{self.prefix}/").body == b"hello\n"


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """The servers, each started when it is first asked for."""
    with ExitStack() as stack:
        running: dict[str, ServerProcess] = {}

        def process_of(name: str) -> ServerProcess:
            if name not in running:
                running[name] = stack.enter_context(running_server(COMMANDS[name]))
            return running[name]

        yield process_of


WAYS = [*ON_ASGI, "both/asyncio", "both/uvloop", "both/trio"]


@pytest.fixture(params=WAYS)
def site(request: pytest.FixtureRequest, processes: Any) -> Iterator[Site]:
    name, slash, loop = request.param.partition("/")
    with shown_on_failure(processes(name)) as process:
        site = Site(process, slash + loop)
        yield site
        site.assert_answers()


def body_of(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def summary_of(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def as_form(data: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    head = b'--mark\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
    headers = [("content-type", "multipart/form-data; boundary=mark")]
    return head + data + b"\r\n--mark--\r\n", headers


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("view", ["data", "stream", "in-a-thread"])
def test_flask_reads_its_body(site: Site, view: str, framing: str, size: int) -> None:
    """W-CALL-4: also by `asyncio.to_thread`."""
    data = body_of(size)
    assert site.upload(f"/flask/{view}", data, framing, []) == summary_of(data)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_flask_reads_its_files(site: Site, framing: str, size: int) -> None:
    """W-CALL-4: werkzeug's multipart parser, over the reader."""
    data = body_of(size)
    body, headers = as_form(data)
    assert site.upload("/flask/files", body, framing, headers) == summary_of(data)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("framing", ["declared", "expecting"])  # it reads no other body at all
@pytest.mark.parametrize("view", ["body", "files"])
def test_django_reads_its_body(site: Site, view: str, framing: str, size: int) -> None:
    """W-CALL-4: Django wraps `wsgi.input` when the request is made."""
    data = body_of(size)
    body, headers = as_form(data) if view == "files" else (data, [])
    assert site.upload(f"/django/{view}", body, framing, headers) == summary_of(data)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_dash_takes_an_upload(site: Site, framing: str, size: int) -> None:
    """W-CALL-4: where asgiref is installed Dash's own view is async, whatever the callback is."""
    data = body_of(size)
    output = {"id": "answer", "property": "children"}
    contents = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    call = {
        "output": "answer.children",
        "outputs": output,
        "inputs": [{"id": "upload", "property": "contents", "value": contents}],
        "state": [{"id": "upload", "property": "filename", "value": "f"}],
        "changedPropIds": ["upload.contents"],
    }
    headers = [("content-type", "application/json")]
    body = json.dumps(call).encode()
    answer = site.upload("/dash/_dash-update-component", body, framing, headers)
    assert answer["response"]["answer"]["children"] == summary_of(data)


@pytest.mark.parametrize("name", ["uvicorn-httptools"])
def test_a_huge_upload_goes_through_a_file(processes: Any, name: str) -> None:
    """W-CALL-4, W-IN-4: 300 MB, and others are answered meanwhile."""
    site = Site(processes(name))
    site.process.reset_peak_rss()
    before = site.process.rss_bytes()
    with site.connect() as client:
        client.send_head("POST", "/flask/stream", content_length=HUGE_MIB * MIB)
        for number, part in enumerate(download_parts(HUGE_MIB)):
            client.send_body(part)
            if number % 1000 == 0:
                site.assert_answers()
        answer = json.loads(client.read_response().body)
    assert answer == {"size": HUGE_MIB * MIB, "sha256": digest_of(download_parts(HUGE_MIB))}
    assert site.process.peak_rss_bytes() - before < MEMORY_BYTES


@pytest.mark.parametrize("name", ["uvicorn-httptools", "hypercorn-trio"])
def test_the_server_ends_while_a_view_waits_for_its_body(name: str) -> None:
    """W-CALL-4, W-FLOW-6: it answers others meanwhile, and SIGTERM is heard."""
    with running_server(COMMANDS[name]) as process, shown_on_failure(process):
        site = Site(process)
        with site.connect() as client:
            client.send_head("POST", "/flask/data", content_length=4_000_000)
            client.send_body(b"x" * 1_000_000)
            site.assert_answers()
            process.terminate()
            process.wait(10)
