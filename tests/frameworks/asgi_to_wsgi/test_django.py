"""Django's ASGI side behind WSGI servers: views and middleware of both kinds, and the database."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frameworks.django_project import django_asgi_app
from tests.frameworks.gates import WAIT_SECONDS, Gates
from tests.frameworks.serving import SITE, served_by_werkzeug
from wsgi_asgi_bridge import ASGIToWSGI

WRITERS = 4


@pytest.fixture
def bridge(gates: Gates, download: Path, django_database: Path) -> Iterator[ASGIToWSGI]:
    from django.db import connection

    from tests.frameworks.django_notes.models import Note

    Note.objects.all().delete()
    connection.close()
    with ASGIToWSGI(django_asgi_app(gates, download)) as bridge:
        yield bridge
    connection.close()


@pytest.fixture
def client(bridge: ASGIToWSGI) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.WSGITransport(bridge), base_url=SITE) as client:
        yield client


def test_a_sync_view_runs_on_the_calling_thread(client: httpx.Client) -> None:
    """A-LOOP-4: thread-sensitive code, and the ORM with it, runs on the thread that waits."""
    answer = client.get("/thread").json()
    assert answer == {"thread": threading.current_thread().name, "connected": True}


def test_each_caller_runs_its_own_sync_views(bridge: ASGIToWSGI) -> None:
    """A-LOOP-4: several callers at once do not take turns on one thread."""

    def thread_of_view() -> tuple[str, str]:
        transport = httpx.WSGITransport(bridge)
        with httpx.Client(transport=transport, base_url=SITE) as client:
            return client.get("/thread").json()["thread"], threading.current_thread().name

    with ThreadPoolExecutor(WRITERS) as pool:
        pairs = [pool.submit(thread_of_view) for _ in range(WRITERS * 2)]
        for pair in pairs:
            view, caller = pair.result(WAIT_SECONDS)
            assert view == caller


def test_an_async_view_runs_on_the_loop_of_the_bridge(client: httpx.Client) -> None:
    """A-LOOP-1: async views of all requests, and async middleware around them, share one loop."""
    first, second = client.get("/loop"), client.get("/loop")
    assert first.text == second.text
    assert first.headers["x-async-loop"] == first.text


@pytest.mark.parametrize("path", ["/", "/loop"])
def test_middleware_of_both_kinds(client: httpx.Client, path: str) -> None:
    """A-LOOP-4: sync middleware runs on the calling thread, around views of both kinds."""
    response = client.get(path)
    assert response.headers["x-sync-thread"] == threading.current_thread().name
    assert response.headers["x-async-loop"].isdigit()


@pytest.mark.parametrize("path", ["/notes", "/async-notes"])
def test_the_orm_from_views_of_both_kinds(client: httpx.Client, path: str) -> None:
    """A-LOOP-4: sync and async views read and write one SQLite file, CSRF check included."""
    token = client.get(path).json()["token"]
    answer = client.post(path, data={"text": "first", "csrfmiddlewaretoken": token})
    assert answer.json()["notes"] == ["first"]
    assert client.post(path, data={"text": "forged"}).status_code == 403


def test_a_session_in_the_database(client: httpx.Client) -> None:
    """A-SCOPE-1: the session cookie goes out, comes back and finds its row."""
    assert [client.get("/visits").text for _ in range(3)] == ["1", "2", "3"]


def test_thread_that_waits_for_django_has_its_connection_closed(
    gates: Gates, download: Path, django_database: Path
) -> None:
    """A-LOOP-4, A-OUT-9: `request_finished` comes after the response, and to that thread."""
    from django.db import connection

    app = ASGIToWSGI(django_asgi_app(gates, download), background_wait=WAIT_SECONDS)
    with app, httpx.Client(transport=httpx.WSGITransport(app), base_url=SITE) as client:
        assert client.get("/thread").json()["connected"]
        assert connection.connection is None


@pytest.mark.parametrize("path", ["/notes", "/async-notes"])
def test_many_threads_write_at_once(bridge: ASGIToWSGI, path: str) -> None:
    """A-LOOP-4: parallel requests over sockets, each with its own database connection."""

    def add(number: int) -> int:
        with httpx.Client(base_url=url, timeout=WAIT_SECONDS, verify=False) as client:
            token = client.get(path).json()["token"]
            data = {"text": str(number), "csrfmiddlewaretoken": token}
            return client.post(path, data=data).status_code

    with served_by_werkzeug(bridge) as url, ThreadPoolExecutor(WRITERS) as pool:
        assert list(pool.map(add, range(WRITERS * 2))) == [200] * WRITERS * 2
        notes: Any = httpx.get(f"{url}{path}").json()["notes"]
    assert sorted(notes, key=int) == [str(number) for number in range(WRITERS * 2)]
