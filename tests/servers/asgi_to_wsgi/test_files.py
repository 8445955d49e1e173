"""Files that the WSGI server sends by itself, on real servers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asgi_sites import RunningSite, on_each, running_site
from tests.support.file_clients import FOLDER
from tests.support.processes import shown_on_failure
from tests.support.raw_http import Response
from tests.support.wsgi_servers import GREENLET_SERVERS, KEEP_ALIVE, SERVERS, WSGIServer, by_name

CONTENT = os.urandom(3_000_000)
NAME = "large.bin"
BRIDGE = "wsgi_asgi_bridge.asgi_to_wsgi.response.Response"
WRAPPERS = {
    "gunicorn": "gunicorn.http.wsgi.FileWrapper",
    "waitress": "waitress.buffers.ReadOnlyFileBasedBuffer",
    "wsgiref": "wsgiref.util.FileWrapper",
    "uwsgi": "_io.FileIO",  # uWSGI notes the file and gives it back
}
"""What each server takes for a file that it is to send; the others have no `wsgi.file_wrapper`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / NAME).write_bytes(CONTENT)
    return folder


@pytest.fixture(scope="module", params=on_each([*SERVERS, *GREENLET_SERVERS]))
def shared_site(request: pytest.FixtureRequest, folder: Path) -> Iterator[RunningSite]:
    target = "tests.support.starlette_files:told_starlette"
    with running_site(request.param, target, env={FOLDER: str(folder)}) as site:
        yield site


@pytest.fixture
def site(shared_site: RunningSite) -> Iterator[RunningSite]:
    with shown_on_failure(shared_site.process):
        yield shared_site


def wrapper_of(site: RunningSite) -> str:
    return WRAPPERS.get(site.server.name.partition("-")[0], BRIDGE)


def asked(site: RunningSite, method: str, *headers: tuple[str, str]) -> tuple[Response, str]:
    """The answer, and the type of the iterable that the server got."""
    with site.connect() as client:
        client.send_head(method, f"/{NAME}", [*headers, ("connection", "close")])
        response = client.read_response()
    return response, site.get("/result").text


def test_whole_file(site: RunningSite) -> None:
    """A-OUT-6: the server sends it by itself, with its length."""
    response, result = asked(site, "GET")
    assert response.status == 200
    assert response.body == CONTENT
    assert response.header("content-length") == str(len(CONTENT))
    assert result == wrapper_of(site)


def test_head(site: RunningSite) -> None:
    """A-OUT-6, A-OUT-1"""
    response, _ = asked(site, "HEAD")
    assert (response.status, response.body) == (200, b"")
    assert response.header("content-length") == str(len(CONTENT))


@pytest.mark.parametrize(
    ("wanted", "part"), [("10-999999", slice(10, 1_000_000)), ("-7", slice(-7, None))]
)
def test_range(site: RunningSite, wanted: str, part: slice) -> None:
    """A-OUT-6: Starlette sends a range in pieces."""
    response, result = asked(site, "GET", ("range", f"bytes={wanted}"))
    assert (response.status, response.body) == (206, CONTENT[part])
    assert result in (BRIDGE, "builtins.list")


def test_static_file_and_the_question_whether_it_has_changed(site: RunningSite) -> None:
    """A-OUT-6, A-OUT-1"""
    first = site.get(f"/static/{NAME}")
    assert first.body == CONTENT
    tag = first.header("etag")
    assert tag is not None
    with site.connect() as client:
        again = client.get(f"/static/{NAME}", [("if-none-match", tag), ("connection", "close")])
    assert (again.status, again.body, again.header("etag")) == (304, b"", tag)


def test_requests_that_follow_on_the_connection(site: RunningSite) -> None:
    """A-OUT-6: the file's end is where the next response begins."""
    if not site.server.can(KEEP_ALIVE):
        pytest.skip(site.server.lacks[KEEP_ALIVE])
    with site.connect() as client:
        for _ in range(2):
            assert client.get(f"/{NAME}").body == CONTENT
        assert client.request("HEAD", f"/{NAME}").body == b""
        assert client.get("/").body == b"ready"


def test_client_that_leaves_in_the_middle(site: RunningSite) -> None:
    """A-OUT-6: the next one is served."""
    for _ in range(3):
        with site.connect() as client:
            client.send_head("GET", f"/{NAME}")
            client.read_head()
            assert client.read_body_exactly(1000) == CONTENT[:1000]
            client.reset()
    assert asked(site, "GET")[0].body == CONTENT


@pytest.mark.parametrize("server", on_each([by_name("gunicorn-sync"), by_name("uwsgi")]))
def test_flask_behind_both_bridges(server: WSGIServer, folder: Path) -> None:
    """A-OUT-6, W-OUT-10: its file reaches the server's own wrapper."""
    target = "tests.support.file_sites:told_flask_twice"
    with running_site(server, target, env={FOLDER: str(folder)}) as site:
        response, result = asked(site, "GET")
        assert (response.status, response.body) == (200, CONTENT)
        assert result == wrapper_of(site)
        part, _ = asked(site, "GET", ("range", "bytes=5-9"))
        assert (part.status, part.body) == (206, CONTENT[5:10])
