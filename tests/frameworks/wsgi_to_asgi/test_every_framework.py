"""One walk through five WSGI frameworks: page, form, upload, file, stream, error page."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frameworks.apps_bottle import bottle_app
from tests.frameworks.apps_falcon import falcon_app
from tests.frameworks.apps_flask import flask_app
from tests.frameworks.apps_pyramid import pyramid_app
from tests.frameworks.conftest import DOWNLOAD_BYTES
from tests.frameworks.django_project import django_wsgi_app
from tests.frameworks.gates import WAIT_SECONDS, Gates
from tests.frameworks.payloads import payload, summary
from tests.frameworks.serving import client_in_process, served_by_uvicorn
from tests.frameworks.walk import (
    a_file_arrives_whole,
    a_large_upload_arrives_whole,
    a_stream_arrives_as_it_is_made,
    a_stream_ends_with_its_client,
    an_upload_is_read_as_it_is_sent,
    pages_follow_each_other,
)
from wsgi_asgi_bridge import WSGIToASGI

FRAMEWORKS: dict[str, Callable[[Gates, Path], Any]] = {
    "flask": flask_app,
    "django": django_wsgi_app,
    "bottle": bottle_app,
    "falcon": falcon_app,
    "pyramid": pyramid_app,
}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def app(framework: str, gates: Gates, download: Path, django_database: Path) -> Any:
    return FRAMEWORKS[framework](gates, download)


async def test_a_page(app: Any, framework: str) -> None:
    """W-CALL-2: the app is called and its page comes back, with its length (W-OUT-6)."""
    async with client_in_process(app) as client:
        response = await client.get("/")
    assert response.status_code == 200
    assert response.text == f"hello from {framework}"
    assert response.headers["content-length"] == str(len(response.content))


async def test_a_form(app: Any) -> None:
    """W-IN-1: a form's fields arrive, whatever their script."""
    async with client_in_process(app) as client:
        response = await client.post("/form", data={"name": "Zoë 漢字"})
    assert response.status_code == 200
    assert response.text == "hello Zoë 漢字"


async def test_an_error_page(app: Any, framework: str) -> None:
    """W-CALL-3: an error that the framework turns into a page is that page, with its status."""
    async with client_in_process(app) as client:
        response = await client.get("/broken")
        after = await client.get("/")
    assert (response.status_code, response.text) == (500, f"sorry from {framework}")
    assert after.status_code == 200


async def test_a_missing_page(app: Any) -> None:
    """W-ENV-3: a path beyond ASCII reaches the framework's own page for unknown paths."""
    async with client_in_process(app) as client:
        response = await client.get("/caf\xe9/x y")
    assert (response.status_code, response.text) == (404, "nothing at /caf\xe9/x y")


async def test_a_head_request(app: Any) -> None:
    """W-OUT-6: HEAD of a file carries its length and no body."""
    async with client_in_process(app) as client:
        response = await client.head("/file")
    assert response.status_code == 200
    assert response.headers["content-length"] == str(DOWNLOAD_BYTES)
    assert response.content == b""


async def test_an_upload_in_process(app: Any) -> None:
    """W-IN-5: a form with a small file, collected before a thread is taken, arrives whole."""
    data = payload(20_000)
    async with client_in_process(app) as client:
        response = await client.post("/upload", files={"file": ("small.bin", data)})
    assert response.json() == summary("small.bin", data)


@pytest.fixture
def client(app: Any, gates: Gates) -> Iterator[httpx.Client]:
    """A client of the app on uvicorn, over a real socket."""
    noticing = noticing_its_body(app, gates)
    with (
        served_by_uvicorn(WSGIToASGI(noticing)) as url,
        httpx.Client(base_url=url, timeout=WAIT_SECONDS, verify=False) as client,
    ):
        yield client


def noticing_its_body(app: Any, gates: Gates) -> Any:
    """The app, with a gate that opens when the first bytes of a request's body reach it."""

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.input"] = NoticedInput(environ["wsgi.input"], gates)
        return app(environ, start_response)

    return middleware


class NoticedInput:
    """`wsgi.input`, with the gate opened by the first bytes read."""

    def __init__(self, stream: Any, gates: Gates) -> None:
        self._stream = stream
        self._gates = gates

    def read(self, *size: int) -> bytes:
        return self._noticed(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._noticed(self._stream.readline(*size))

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self._noticed(bytes(min(count, 1)))
        return count

    def _noticed(self, data: bytes) -> bytes:
        if data:
            self._gates.body_reached_app.set()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def test_a_large_upload(client: httpx.Client) -> None:
    """W-IN-4: a multipart upload far above `request_buffer` arrives byte for byte."""
    a_large_upload_arrives_whole(client)


def test_a_chunked_form(client: httpx.Client) -> None:
    """W-IN-2: a body that was de-chunked looks like any other; Django and Bottle read no more of it
    than its length, which the client did not send.
    """
    headers = {"content-type": "application/x-www-form-urlencoded"}
    parts = iter([b"name=", b"Ada", b""])
    response = client.post("/form", content=parts, headers=headers)
    assert response.text == "hello Ada"


def test_an_upload_reaches_the_app_while_it_is_sent(client: httpx.Client, gates: Gates) -> None:
    """W-IN-4: the second half is sent only once the app has read from the first."""
    an_upload_is_read_as_it_is_sent(client, gates)


def test_a_file(client: httpx.Client, download: Path) -> None:
    """W-ENV-7: a file served through `wsgi.file_wrapper` arrives whole with its length."""
    a_file_arrives_whole(client, download)


def test_a_stream(client: httpx.Client, gates: Gates) -> None:
    """W-OUT-4: the first block is at the client before the app makes the second."""
    a_stream_arrives_as_it_is_made(client, gates)


def test_a_stream_whose_client_leaves(client: httpx.Client, gates: Gates) -> None:
    """W-FLOW-3, W-OUT-5: the app's generator is closed soon after the client has gone."""
    a_stream_ends_with_its_client(client, gates, "/endless")


def test_pages_on_one_connection(client: httpx.Client, framework: str) -> None:
    """W-OUT-9: requests follow each other on one connection, errors and uploads in between."""
    pages_follow_each_other(client, framework)
