"""Django with its database, sessions and CSRF machinery on ASGI servers."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frameworks.django_project import django_wsgi_app
from tests.frameworks.gates import WAIT_SECONDS, Gates
from tests.frameworks.serving import client_in_process, served_by_uvicorn
from wsgi_asgi_bridge import WSGIToASGI

WRITERS = 8


@pytest.fixture
def app(gates: Gates, download: Path, django_database: Path) -> Any:
    return django_wsgi_app(gates, download)


@pytest.fixture
def client(app: Any, no_notes: None) -> Iterator[httpx.Client]:
    with (
        served_by_uvicorn(WSGIToASGI(app)) as url,
        httpx.Client(base_url=url, timeout=WAIT_SECONDS, verify=False) as client,
    ):
        yield client


def test_a_post_with_its_csrf_token_writes_to_the_database(client: httpx.Client) -> None:
    """W-CALL-2: views, ORM and `close()` share a thread, or SQLite would refuse its connection."""
    token = client.get("/notes").json()["token"]
    answer = client.post("/notes", data={"text": "first", "csrfmiddlewaretoken": token})
    assert answer.status_code == 200
    again = client.post("/notes", data={"text": "zweite \xdc"}, headers={"x-csrftoken": token})
    assert again.json()["notes"] == ["first", "zweite \xdc"]


def test_a_post_without_its_csrf_token_is_refused(client: httpx.Client) -> None:
    """W-ENV-5: Django's own check of cookie against token decides."""
    client.get("/notes")
    assert client.post("/notes", data={"text": "forged"}).status_code == 403
    assert client.get("/notes").json()["notes"] == []


def test_a_session_in_the_database(client: httpx.Client) -> None:
    """W-OUT-7: the session cookie goes out, comes back and finds its row."""
    assert [client.get("/visits").text for _ in range(3)] == ["1", "2", "3"]
    client.cookies.clear()
    assert client.get("/visits").text == "1"


def test_many_threads_write_at_once(client: httpx.Client) -> None:
    """W-FLOW-4: parallel requests have a thread and a database connection each."""
    token = client.get("/notes").json()["token"]

    def add(number: int) -> int:
        data = {"text": str(number), "csrfmiddlewaretoken": token}
        return client.post("/notes", data=data).status_code

    with ThreadPoolExecutor(WRITERS) as pool:
        assert list(pool.map(add, range(WRITERS * 3))) == [200] * WRITERS * 3
    notes = client.get("/notes").json()["notes"]
    assert sorted(notes, key=int) == [str(number) for number in range(WRITERS * 3)]


def test_a_view_runs_in_a_worker_of_the_bridge(client: httpx.Client) -> None:
    """W-CALL-2: the view's thread is one of the bridge's pool."""
    answer = client.get("/thread").json()
    assert answer["thread"].startswith("wsgi_asgi_bridge-worker-")
    assert answer["connected"]


async def test_an_async_view(app: Any, anyio_backend_name: str) -> None:
    """W-CALL-2: Django's async views under WSGI run on the server's loop."""
    async with client_in_process(app) as client:
        response = await client.get("/loop")
    assert response.status_code == 200
    if anyio_backend_name == "asyncio":
        assert response.text == str(id(asyncio.get_running_loop()))


async def test_a_query_string(app: Any) -> None:
    """W-ENV-4: the query string arrives as it was sent."""
    async with client_in_process(app) as client:
        response = await client.get("/query?a=%C3%BC&a=2&b=")
    assert response.json() == {"a": ["\xfc", "2"], "b": [""]}
