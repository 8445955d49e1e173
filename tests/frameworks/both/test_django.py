"""Django's documented features, driven by its own test clients: natively and through both bridges,
its WSGI handler by `Client` and its ASGI handler by `AsyncClient`.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client as WSGIClient

from tests.frameworks.both_bridges import as_it_is, asgi_behind_both, wsgi_behind_both
from tests.frameworks.django_clients import (
    CallsASGIApp,
    CallsWSGIApp,
    Site,
    site_of_async_client,
    site_of_client,
)
from tests.frameworks.django_project import django_asgi_app, django_wsgi_app
from tests.frameworks.gates import WAIT_SECONDS, Gates, wait_for
from tests.frameworks.payloads import payload, summary

CALLERS = 8

SiteOf = Callable[..., AbstractContextManager[Site]]


@pytest.fixture(params=["wsgi", "asgi"])
def handler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site_of(
    handler: str, way: str, gates: Gates, download: Path, django_database: Path, no_notes: None
) -> SiteOf:
    """A client of the project; what the app still does after its responses is over when the block
    is left.
    """

    @contextlib.contextmanager
    def site_of(**options: Any) -> Iterator[Site]:
        wsgi_app = django_wsgi_app(gates, download)
        if (handler, way) == ("wsgi", "native"):
            with site_of_client(**options) as site:
                yield site
        elif (handler, way) == ("asgi", "native"):
            with site_of_async_client(**options) as site:
                yield site
        elif handler == "wsgi":
            with (
                wsgi_behind_both(wsgi_app) as app,
                site_of_client(CallsWSGIApp(app), **options) as site,
            ):
                yield site
        else:
            with (
                asgi_behind_both(django_asgi_app(gates, download)) as app,
                site_of_async_client(CallsASGIApp(app), **options) as site,
            ):
                yield site

    return site_of


@pytest.fixture
def signals(django_database: Path) -> Iterator[list[str]]:
    """The names of the signals that Django's core sends."""
    from django.core import signals

    sent: list[str] = []
    names = ["request_started", "got_request_exception", "request_finished"]
    with contextlib.ExitStack() as connected:
        for name in names:
            signal = getattr(signals, name)

            def note(name: str = name, **_: Any) -> None:
                sent.append(name)

            signal.connect(note, weak=False)
            connected.callback(signal.disconnect, note)
        yield sent


@pytest.fixture
def templates_are_watched(django_database: Path) -> Iterator[None]:
    """Django's runner does this too: the clients then tell what was rendered."""
    from django.test.utils import setup_test_environment, teardown_test_environment

    setup_test_environment()
    yield
    teardown_test_environment()


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("path", ["/", "/stream", "/loop", "/nowhere", "/forbidden"])
def test_signals_of_a_request(site_of: SiteOf, signals: list[str], gates: Gates, path: str) -> None:
    """W-OUT-5, A-OUT-5: a request starts once and finishes once."""
    gates.first_chunk_arrived.set()
    with site_of() as site:
        assert b"".join(site.pieces(site.get(path)))
    assert signals == ["request_started", "request_finished"]


def test_signals_of_a_request_that_fails(site_of: SiteOf, signals: list[str]) -> None:
    """W-CALL-3: the error is told once in between, and the client passes the very object on."""
    with site_of() as site, pytest.raises(RuntimeError, match="broken on purpose"):
        site.get("/broken")
    assert signals == ["request_started", "got_request_exception", "request_finished"]


def test_signals_of_a_stream_that_is_closed_early(
    way: str, signals: list[str], gates: Gates, download: Path, no_notes: None
) -> None:
    """W-OUT-5: the generator is left and the request finishes, once, when the client closes."""
    served = wsgi_behind_both if way == "bridged" else as_it_is
    with served(django_wsgi_app(gates, download)) as app:
        response = WSGIClient(app).get("/endless")
        assert next(iter(response.response)) == b"tick"
        assert "request_finished" not in signals
        response.close()
        wait_for(gates.stream_closed, "the generator was not left")
    assert signals == ["request_started", "request_finished"]


# ---------------------------------------------------------------- pages, forms, errors


def test_a_page(site_of: SiteOf) -> None:
    """W-OUT-6: the page, its length and its type; and the query that it was asked with."""
    with site_of() as site:
        page = site.get("/")
        assert (page.status_code, page.content) == (200, b"hello from django")
        assert page["Content-Length"] == "17"
        assert page["Content-Type"] == "text/html; charset=utf-8"
        assert site.get("/query?a=%C3%BC&a=2&b=").json() == {"a": ["\xfc", "2"], "b": [""]}


def test_a_form(site_of: SiteOf, templates_are_watched: None) -> None:
    """W-IN-1, A-IN-1: shown with its token, shown with its errors, saved; its context is told."""
    with site_of() as site:
        shown = site.get("/entry")
        assert shown.templates[0].name == "entry.html"
        token = str(shown.context["csrf_token"])
        assert f'value="{token}"' in shown.content.decode()
        wrong = site.post("/entry", {"text": "far too long", "csrfmiddlewaretoken": token})
        assert wrong.status_code == 400
        assert list(wrong.context["form"].errors) == ["text"]
        fields = {"text": "t\xe9", "urgent": "on", "csrfmiddlewaretoken": token}
        saved = site.post("/entry", fields)
        assert (saved.status_code, saved["Location"]) == (302, "/notes")
        assert site.get(saved["Location"]).json()["notes"] == ["t\xe9!"]


@pytest.mark.parametrize("path", ["/notes", "/async-notes"])
def test_a_csrf_token(site_of: SiteOf, path: str) -> None:
    """W-ENV-5, A-SCOPE-1: cookie and token are checked by Django, in a field or in a header."""
    with site_of() as site:
        assert site.post(path, {"text": "no cookie"}).status_code == 403
        token = site.get(path).json()["token"]
        assert site.post(path, {"text": "forged"}).status_code == 403
        assert site.post(path, {"text": "forged", "csrfmiddlewaretoken": "x"}).status_code == 403
        fields = {"text": "first", "csrfmiddlewaretoken": token}
        assert site.post(path, fields).json()["notes"] == ["first"]
        by_header = site.post(path, {"text": "second"}, headers={"x-csrftoken": token})
        assert by_header.json()["notes"] == ["first", "second"]


def test_error_pages(site_of: SiteOf) -> None:
    """W-CALL-3: the project's 404 and 500, Django's 403; then the site lives on."""
    with site_of(raise_request_exception=False) as site:
        missing = site.get("/nowhere")
        assert (missing.status_code, missing.content) == (404, b"nothing at /nowhere")
        sorry = site.get("/broken")
        assert (sorry.status_code, sorry.content) == (500, b"sorry from django")
        forbidden = site.get("/forbidden")
        assert forbidden.status_code == 403
        assert b"403 Forbidden" in forbidden.content
        assert site.get("/").status_code == 200


@pytest.mark.parametrize("size", [10, 3_000_000], ids=["small", "large"])
def test_an_upload(site_of: SiteOf, size: int) -> None:
    """W-IN-1, A-IN-1: in memory and in a temporary file, as Django's upload handlers choose."""
    data = payload(size)
    file = io.BytesIO(data)
    file.name = "\xfcber.bin"
    with site_of() as site:
        response = site.post("/upload", {"file": file})
        assert response.json() == summary("\xfcber.bin", data)


# ---------------------------------------------------------------- sessions and the database


def test_a_session_in_the_database(site_of: SiteOf) -> None:
    """W-OUT-7, A-SCOPE-1: what the client puts into the session the view finds, and back."""
    with site_of() as site:
        assert [site.get("/visits").content for _ in range(2)] == [b"1", b"2"]
        session = site.session()
        assert session["visits"] == 2
        session["visits"] = 41
        session.save()
        assert site.get("/visits").content == b"42"
        site.client.cookies.clear()
        assert site.get("/visits").content == b"1"


def test_a_transaction_that_is_rolled_back(site_of: SiteOf) -> None:
    """W-CALL-2, A-LOOP-4: one thread and one connection for all of a transaction."""
    with site_of() as site:
        with pytest.raises(LookupError, match="rolled back on purpose"):
            site.get("/rolled-back")
        assert site.get("/notes").json()["notes"] == []


@pytest.mark.parametrize("workers", [1, CALLERS])
@pytest.mark.parametrize("path", ["/notes", "/async-notes"])
def test_many_callers_write_at_once(
    gates: Gates, download: Path, no_notes: None, path: str, workers: int
) -> None:
    """W-FLOW-4, A-LOOP-4: eight threads, sync and async views, as many workers or only one."""
    app = django_wsgi_app(gates, download)

    def add(number: int) -> int:
        with site_of_client(CallsWSGIApp(bridged)) as site:
            token = site.get(path).json()["token"]
            fields = {"text": str(number), "csrfmiddlewaretoken": token}
            return int(site.post(path, fields).status_code)

    with wsgi_behind_both(app, workers=workers) as bridged, ThreadPoolExecutor(CALLERS) as threads:
        answers = [threads.submit(add, number) for number in range(CALLERS * 2)]
        assert [answer.result(WAIT_SECONDS) for answer in answers] == [200] * CALLERS * 2
        with site_of_client(CallsWSGIApp(bridged)) as site:
            notes = site.get(path).json()["notes"]
    assert sorted(notes, key=int) == [str(number) for number in range(CALLERS * 2)]


@pytest.mark.parametrize("way", ["bridged"], indirect=True)
def test_async_views_share_the_private_loop(site_of: SiteOf) -> None:
    """A-LOOP-1: behind bridges all requests' async views run in one loop."""
    with site_of() as site:
        loops = [site.get("/loop").content for _ in range(3)]
    assert len(set(loops)) == 1


# ---------------------------------------------------------------- streams and files


def test_a_stream(site_of: SiteOf, gates: Gates) -> None:
    """W-OUT-4, A-OUT-2: the first piece is at the client before the second is made."""
    with site_of() as site:
        response = site.get("/stream")
        assert "Content-Length" not in response.headers
        pieces = site.pieces(response)
        first = next(pieces)
        gates.first_chunk_arrived.set()
        rest = b"".join(pieces)
    assert (first, rest) == (b"first ", b"second")


@pytest.mark.filterwarnings(
    # What Django says of every file that its ASGI handler sends.
    "ignore:StreamingHttpResponse must consume synchronous iterators"
)
def test_a_file(site_of: SiteOf, download: Path) -> None:
    """W-ENV-7, A-OUT-2: `FileResponse` arrives whole with what Django says of it."""
    with site_of() as site:
        response = site.get("/file")
        assert b"".join(site.pieces(response)) == download.read_bytes()
        assert response["Content-Length"] == str(download.stat().st_size)
        assert response["Content-Disposition"] == 'inline; filename="download.bin"'
        response.close()
