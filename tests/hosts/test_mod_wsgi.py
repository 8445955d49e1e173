"""`ASGIToWSGI` in mod_wsgi's daemon process, under a real Apache.

`.ci/run` installs Debian's packages where it can, and runs this where they are.
"""

import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hosts.apache import (
    CLOSES_AT_SHUTDOWN,
    END_SECONDS,
    Apache,
    copy_packages,
    running_apache,
    running_site,
)
from tests.support import pages
from tests.support.asgi_apps import PARTIES
from tests.support.processes import shown_on_failure
from tests.support.raw_http import Connection, CutResponseError
from tests.support.walkthrough import write_files

SITE = "tests.support.bridged_asgi:site"
BRIEF = "tests.support.bridged_asgi:brief"
PART = bytes(range(256)) * 4096
PARTS = 8


@pytest.fixture(scope="module")
def shared_apache() -> Iterator[Apache]:
    with running_apache(SITE) as apache:
        yield apache


@pytest.fixture
def apache(shared_apache: Apache) -> Iterator[Apache]:
    with shown_on_failure(shared_apache.process):
        yield shared_apache


def test_hello(apache: Apache) -> None:
    """A-CALL-1, A-OUT-7"""
    response = apache.get("/hello")
    assert (response.status, response.body) == (200, b"Hello, world!")
    assert response.header("content-length") == "13"


def test_what_the_client_asked(apache: Apache) -> None:
    """A-SCOPE-1, A-SCOPE-2"""
    with apache.connect() as client:
        response = client.request(
            "POST", "/echoes_request?a=%20b", [("x-name", "value"), ("authorization", "b")], b"body"
        )
    told = json.loads(response.body)
    assert (told["method"], told["path"], told["query"]) == ("POST", "/echoes_request", "a=%20b")
    assert ["x-name", "value"] in told["headers"]
    assert ["content-length", "4"] in told["headers"]
    assert ["authorization", "b"] in told["headers"]
    assert told["body"] == "body"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upload(apache: Apache, chunked: bool) -> None:
    """A-IN-1, A-IN-4: chunks need `WSGIChunkedRequest On`; mod_wsgi says that it ends the input."""
    size = None if chunked else PARTS * len(PART)
    with apache.connect() as client:
        client.send_head("POST", "/counts_upload", content_length=size, chunked=chunked)
        client.send_body_parts([PART] * PARTS)
        counted = json.loads(client.read_response().body)
    assert (counted["size"], counted["checksum"]) == (PARTS * len(PART), zlib.crc32(PART * PARTS))


def test_events_arrive_one_by_one(apache: Apache) -> None:
    """A-OUT-2"""
    with apache.connect() as client:
        client.send_head("GET", "/sends_events?name=events", [("connection", "close")])
        client.read_head()
        for number in (1, 2, 3):
            assert client.read_body_exactly(9) == b"data: %d\n\n" % number
            apache.witness.set_event(f"events-{number + 1}")
        assert client.read_body() == b""


def test_requests_meet_in_one_loop(apache: Apache) -> None:
    """A-LOOP-1"""
    with ExitStack() as stack:
        clients = [stack.enter_context(apache.connect()) for _ in range(PARTIES)]
        for client in clients:
            client.send_head("GET", "/meets_others", [("connection", "close")])
        assert {client.read_response().status for client in clients} == {200}


def test_errors(apache: Apache) -> None:
    """A-OUT-4: 500 before the head, a broken connection after it. Without Content-Length mod_wsgi
    sends the last chunk as if all were well, for any WSGI app.
    """
    assert apache.get("/raises_before").status == 500
    with pytest.raises(CutResponseError):
        apache.get("/raises_after")
    assert apache.get("/raises_within_chunked").body == b"half"
    assert apache.get("/hello").status == 200


def test_a_file_goes_by_mod_wsgis_own_wrapper() -> None:
    """A-OUT-6"""
    content = os.urandom(3_000_000)
    with running_apache("tests.support.mod_wsgi_site:told") as apache:
        (apache.witness.directory / "large.bin").write_bytes(content)
        with apache.connect() as client:
            for _ in range(2):
                assert client.get("/large.bin").body == content
            part = client.get("/large.bin", [("range", "bytes=7-9")])
            assert (part.status, part.body) == (206, content[7:10])
        apache.get("/large.bin")
        assert apache.get("/result").text == "mod_wsgi.FileWrapper"


def test_lifespan_runs_around_a_daemon_process() -> None:
    """A-LOOP-2: up with its first request, down when Apache ends."""
    with running_apache(SITE) as apache:
        pid = apache.daemon()
        assert apache.noted_by(pid)[:1] == ["startup"]
        apache.process.terminate()
        assert apache.process.wait(END_SECONDS) == 0
        assert apache.noted_by(pid)[-1:] == ["shutdown"]


@pytest.mark.parametrize("how", ["graceful restart", "touched script"])
def test_a_restart_while_nothing_runs(how: str) -> None:
    """A-LOOP-2: the old process has run its shutdown; a new one answers."""
    with running_apache(SITE) as apache:
        before = apache.daemon()
        _restart(apache, how)
        apache.wait_for_another_daemon(before)
        assert apache.noted_by(before)[-1:] == ["shutdown"]
        assert apache.get("/hello").status == 200


@pytest.mark.parametrize("how", ["graceful restart", "touched script"])
def test_a_restart_with_a_silent_stream_cuts_it_and_skips_the_shutdown(how: str) -> None:
    """A-LOOP-2, docs/how_to/mod_wsgi.md: mod_wsgi waits for the stream and does not tell. Apache
    kills the process after three seconds, mod_wsgi itself after `shutdown-timeout`.
    """
    with running_apache(SITE) as apache, ExitStack() as stack:
        client, next_one = (stack.enter_context(apache.connect(END_SECONDS)) for _ in range(2))
        before = apache.daemon()
        client.send_head("GET", "/starts_and_waits_for_disconnect?name=stream")
        client.read_head()
        _restart(apache, how)
        next_one.send_head("GET", "/hello")  # mod_wsgi looks at its script at a request
        while client.read_body():  # then it ends, with a last chunk as if it were whole
            pass
        apache.wait_for_another_daemon(before)
        assert "shutdown" not in apache.noted_by(before)


@pytest.mark.parametrize("how", ["graceful restart", "touched script"])
@pytest.mark.parametrize(
    ("path", "noted"),
    [("starts_and_waits_for_disconnect", "stream waits"), ("works_in_background", None)],
)
def test_a_bridge_that_mod_wsgi_closes_ends_its_work(
    how: str, path: str, noted: str | None
) -> None:
    """A-LOOP-2, A-OUT-5: by `mod_wsgi.subscribe_shutdown`, within `shutdown_timeout`."""
    with (
        running_apache(BRIEF, more_script=CLOSES_AT_SHUTDOWN) as apache,
        apache.connect(END_SECONDS) as client,
    ):
        before = apache.daemon()
        client.send_head("GET", f"/{path}?name=stream")
        client.read_head()
        if noted is not None:
            apache.witness.wait_for(noted, END_SECONDS)
        _restart(apache, how)
        apache.wait_for_another_daemon(before)
        assert apache.noted_by(before)[-1:] == ["shutdown"]


def _restart(apache: Apache, how: str) -> None:
    if how == "graceful restart":
        apache.restart_gracefully()
    else:
        apache.touch_script()


APP_IN_PYTHON_ALONE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

fastapi_app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("Hello"))])
"""
"""For the page's app.py: FastAPI has parts in Rust, which Apache's own Python may not load."""


def test_the_page_serves() -> None:
    """docs/how_to/mod_wsgi.md: its script under its settings, but for the virtual environment."""
    text = pages.PAGES["docs/how_to/mod_wsgi.md"]
    (site,) = pages.blocks("apache", text)
    with tempfile.TemporaryDirectory(prefix="wsgi_asgi_bridge-apache-") as directory:
        folder = Path(directory)
        folder.chmod(0o777)
        write_files(text, folder)
        (folder / "app.py").write_text(APP_IN_PYTHON_ALONE)
        copy_packages(folder / "python")
        directives = site.code.replace("python-home=/srv/site/.venv ", "")
        path = f"python-path={folder}:{folder}/python"
        directives = directives.replace("python-path=/srv/site", path)
        with running_site(folder, directives.replace("/srv/site", directory)) as process:
            with Connection(process.address) as client:
                answer = client.get("/", [("connection", "close")])
            assert (answer.status, answer.body) == (200, b"Hello")
            process.terminate()
            assert process.wait(END_SECONDS) == 0
