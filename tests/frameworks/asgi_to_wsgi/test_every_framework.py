"""One walk through five ASGI frameworks: page, form, upload, file, stream, error page."""

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frameworks.apps_fastapi import fastapi_app
from tests.frameworks.apps_litestar import litestar_app
from tests.frameworks.apps_quart import quart_app
from tests.frameworks.apps_starlette import starlette_app
from tests.frameworks.django_project import django_asgi_app
from tests.frameworks.gates import WAIT_SECONDS, Gates
from tests.frameworks.payloads import payload, summary
from tests.frameworks.serving import caller_in_process, served_by_werkzeug
from tests.frameworks.walk import (
    a_file_arrives_whole,
    a_large_upload_arrives_whole,
    a_stream_arrives_as_it_is_made,
    a_stream_ends_with_its_client,
    an_upload_is_read_as_it_is_sent,
    pages_follow_each_other,
)
from tests.support.fake_wsgi_server import environ_for, must_become
from wsgi_asgi_bridge import ASGIToWSGI

FRAMEWORKS: dict[str, Callable[[Gates, Path], Any]] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "quart": quart_app,
    "litestar": litestar_app,
    "django": django_asgi_app,
}

# Django's own advice about a file served asynchronously: true, and not of interest here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:StreamingHttpResponse must consume synchronous iterators:Warning"
)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def app(framework: str, gates: Gates, download: Path, django_database: Path) -> Any:
    return FRAMEWORKS[framework](gates, download)


@pytest.fixture
def caller(app: Any) -> Iterator[httpx.Client]:
    """A client in this thread, which plays the WSGI server's."""
    with caller_in_process(app) as client:
        yield client


@pytest.fixture
def client(app: Any, gates: Gates) -> Iterator[httpx.Client]:
    """A client of the app on werkzeug's server, over a real socket."""
    with (
        ASGIToWSGI(noticing_its_body(app, gates)) as bridge,
        served_by_werkzeug(bridge) as url,
        httpx.Client(base_url=url, timeout=WAIT_SECONDS, verify=False) as client,
    ):
        yield client


def noticing_its_body(app: Any, gates: Gates) -> Any:
    """The app, with a gate that opens when the first bytes of a request's body reach it."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def noticed() -> Any:
            message = await receive()
            if message.get("body"):
                gates.body_reached_app.set()
            return message

        await app(scope, noticed, send)

    return middleware


def test_a_page(caller: httpx.Client, framework: str) -> None:
    """A-CALL-1: the app is called and its page comes back."""
    response = caller.get("/")
    assert (response.status_code, response.text) == (200, f"hello from {framework}")


def test_a_form(caller: httpx.Client) -> None:
    """A-IN-1: a form's fields arrive, whatever their script."""
    response = caller.post("/form", data={"name": "Zoë 漢字"})
    assert (response.status_code, response.text) == (200, "hello Zoë 漢字")


def test_an_error_page(caller: httpx.Client, framework: str) -> None:
    """A-OUT-4: an error that the framework turns into a page is that page; the next is answered."""
    response = caller.get("/broken")
    assert (response.status_code, response.text) == (500, f"sorry from {framework}")
    assert caller.get("/").status_code == 200


def test_an_upload_in_process(caller: httpx.Client) -> None:
    """A-IN-1: a small body is there when the app starts."""
    data = payload(20_000)
    response = caller.post("/upload", files={"file": ("small.bin", data)})
    assert response.json() == summary("small.bin", data)


def test_a_missing_page(client: httpx.Client) -> None:
    """A-SCOPE-1: a path beyond ASCII reaches the framework's own page for unknown paths."""
    response = client.get("/caf\xe9")
    assert response.status_code == 404
    assert response.text in ("nothing at /caf\xe9", "nothing at /caf%C3%A9")


def test_a_large_upload(client: httpx.Client) -> None:
    """A-IN-1: a multipart upload far above `request_buffer` arrives byte for byte."""
    a_large_upload_arrives_whole(client)


def test_an_upload_reaches_the_app_while_it_is_sent(client: httpx.Client, gates: Gates) -> None:
    """A-IN-1: the second half is sent only once the app has received from the first."""
    an_upload_is_read_as_it_is_sent(client, gates)


def test_a_file(client: httpx.Client, download: Path) -> None:
    """A-OUT-2: a file arrives whole with its length."""
    a_file_arrives_whole(client, download)


def test_a_stream(client: httpx.Client, gates: Gates) -> None:
    """A-OUT-2: the first part is at the client before the app makes the second."""
    a_stream_arrives_as_it_is_made(client, gates)


def test_a_stream_whose_client_leaves(client: httpx.Client, gates: Gates) -> None:
    """A-OUT-3: the app's generator ends soon after the client has gone."""
    a_stream_ends_with_its_client(client, gates, "/endless")


def test_a_silent_stream_whose_client_leaves(client: httpx.Client, gates: Gates) -> None:
    """A-IN-3: a stream that waits, and so sends nothing, ends as well when its client has gone."""
    a_stream_ends_with_its_client(client, gates, "/silent")


# Django leaves its copy of the request's body open when send() raises.
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.Spooled:ResourceWarning")
@pytest.mark.parametrize("path", ["/endless", "/silent"])
def test_an_ordinary_client_that_leaves_is_not_logged(
    app: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-3: however the framework passes on what `send()` raises, or that it was cancelled."""
    room = 1 if path == "/endless" else 1000
    with caplog.at_level(logging.INFO), ASGIToWSGI(app, response_buffer=room) as bridge:
        caplog.clear()  # what the lifespan has said
        result: Any = bridge(environ_for(path), lambda *_: lambda data: None)
        assert next(result).startswith(b"tick")
        if path == "/endless":
            must_become(lambda: result._task._sending > 0, "the wait in send()")
        result.close()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")
        ours = [record for record in caplog.records if record.name == "wsgi_asgi_bridge"]
        assert [logging.Formatter().format(record) for record in ours] == []
        assert bridge.stats().disconnected == 1
    result = None
    gc.collect()  # while the warning above is expected


def test_pages_one_after_another(client: httpx.Client, framework: str) -> None:
    """A-LOOP-1: one loop serves them all, errors and uploads in between."""
    pages_follow_each_other(client, framework)
