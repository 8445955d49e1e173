"""docs/migrating.md: the code of each step does what the step says."""

import asyncio
import datetime
import json
from typing import Any

import httpx
import pytest
import werkzeug.test
from fastapi import FastAPI, Request
from flask import Flask, session
from itsdangerous import BadSignature
from starlette.testclient import TestClient

from tests.support import pages
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

PAGE = "docs/migrating.md"
TEXT = pages.PAGES[PAGE]


def code_of(step: str) -> dict[str, Any]:
    """The names that the block of one step defines."""
    (block,) = pages.blocks("python", pages.section(step, text=TEXT))
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block.code, f"{PAGE}, {step}", "exec"), names)
    return names


def test_the_steps_are_numbered() -> None:
    steps = [title for title in pages.headings(TEXT) if title[0].isdigit()]
    assert [int(title.partition(".")[0]) for title in steps] == list(range(1, len(steps) + 1))
    for title in steps:
        assert "Check" in pages.section(title, text=TEXT), title


def test_step_1_changes_nothing() -> None:
    names = code_of("1. Wrap the old app where it is")
    app: Flask = names["flask_app"]

    @app.get("/page")
    def page() -> tuple[str, int, dict[str, str]]:
        return "as before", 202, {"X-Page": "1"}

    with names["application"] as bridge:
        wrapped = werkzeug.test.Client(bridge).get("/page")
    before = werkzeug.test.Client(app).get("/page")
    assert (wrapped.status_code, wrapped.data) == (before.status_code, before.data)
    assert (wrapped.status_code, wrapped.data) == (202, b"as before")
    assert lower(wrapped.headers) == lower(before.headers)


def lower(headers: Any) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers]


def test_step_2_leaves_every_url_to_the_old_half() -> None:
    """W-LIFE-1: and the lifespan ends the old half's pool, which a mount would not do."""
    names = code_of("2. Put FastAPI around it")
    app: Flask = names["flask_app"]

    @app.get("/page")
    def page() -> str:
        return "old"

    old_half: WSGIToASGI = names["old_half"]
    with TestClient(names["site"]) as client:
        assert client.get("/page").text == "old"
        assert "<title>404 Not Found</title>" in client.get("/nowhere").text
        assert client.get("/openapi.json").json()["paths"] == {}
        assert old_half.stats().threads == 1
    assert old_half.stats().threads == 0
    with names["application"] as bridge:
        assert werkzeug.test.Client(bridge).get("/page").data == b"old"
        assert old_half.stats().threads == 1
    assert old_half.stats().threads == 0


def test_step_2_puts_middleware_around_both_halves(half_moved: Any) -> None:
    @half_moved.app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Any:
        answer = await call_next(request)
        answer.headers["X-Marked"] = "1"
        return answer

    for method, half in (("GET", None), ("POST", "old")):
        answer = half_moved.request(method, "/moved")
        assert (answer.headers.get("x-served-by"), answer.headers["x-marked"]) == (half, "1")


def test_step_2_hides_the_pages_of_fastapi() -> None:
    (switches,) = [
        line.strip().removesuffix(".").strip("`")
        for line in pages.section("2. Put FastAPI around it", text=TEXT).splitlines()
        if "docs_url" in line
    ]
    site = eval(switches, {"FastAPI": FastAPI})
    old = Flask("old")
    old.add_url_rule("/<path:path>", view_func=lambda path: f"old {path}", endpoint="any")
    with WSGIToASGIClosed(old) as old_half:
        site.mount("/", old_half)
        client = TestClient(site)
        for page in ("docs", "redoc", "openapi.json"):
            assert client.get(f"/{page}").text == f"old {page}"


class WSGIToASGIClosed(WSGIToASGI):
    """Closed at the end of a `with`."""

    def __enter__(self) -> "WSGIToASGIClosed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def half_moved() -> Any:
    """A site as in step 3, whose new half knows `GET /moved`."""
    old = Flask("old")
    old.add_url_rule("/moved", view_func=lambda: "old", methods=["GET", "POST"], endpoint="moved")
    old.after_request(lambda answer: (answer.headers.add("X-Served-By", "old"), answer)[1])
    site = FastAPI()

    @site.get("/moved")
    def moved(count: int = 0) -> str:
        return "new"

    with WSGIToASGIClosed(old) as old_half:
        site.mount("/", old_half)
        yield TestClient(site)


@pytest.mark.parametrize(
    ("method", "target", "status", "half"),
    [
        ("GET", "/moved", 200, "new"),
        ("GET", "/moved?count=many", 422, "new"),
        ("POST", "/moved", 200, "old"),
        ("HEAD", "/moved", 200, "old"),
        ("GET", "/moved/", 404, "old"),
    ],
)
def test_step_3_moves_a_route_by_its_method(
    half_moved: Any, method: str, target: str, status: int, half: str
) -> None:
    answer: httpx.Response = half_moved.request(method, target, follow_redirects=False)
    assert (answer.status_code, answer.headers.get("x-served-by", "new")) == (status, half)


@pytest.mark.parametrize("served_by", ["an ASGI server", "a WSGI server"])
def test_step_5_reaches_the_pool_from_the_old_half(served_by: str) -> None:
    names = code_of("5. Share the database and the pools")
    if served_by == "an ASGI server":
        with TestClient(names["site"]) as client:
            text = client.get("/old").text
    else:
        with ASGIToWSGI(names["site"]) as bridge:
            text = werkzeug.test.Client(bridge).get("/old").text
    assert text == "rows of old"


@pytest.mark.parametrize("served_by", ["an ASGI server", "a WSGI server"])
def test_step_5_runs_in_the_loop_that_the_pool_belongs_to(served_by: str) -> None:
    names = code_of("5. Share the database and the pools")
    loops: list[Any] = []

    class Pool:
        def __init__(self) -> None:
            loops.append(asyncio.get_running_loop())

        async def fetch(self, query: str) -> str:
            loops.append(asyncio.get_running_loop())
            return query

    names["Pool"] = Pool
    # The functions of the block look their names up where it ran.
    if served_by == "an ASGI server":
        with TestClient(names["site"]) as client:
            assert client.get("/old").text == "old"
    else:
        with ASGIToWSGI(names["site"]) as bridge:
            assert werkzeug.test.Client(bridge).get("/old").text == "old"
    opened_in, used_in = loops
    assert opened_in is used_in


PLAIN = {"login": "token", "n": 1, "x": 0.5, "on": True, "off": False, "nobody": None}
NESTED = {"cart": [1, {"name": "Z\xfcrich"}]}


def flask_with_the_same_key(key: str) -> Flask:
    app = Flask("old")
    app.secret_key = key

    @app.get("/write")
    def write() -> str:
        session.update({**PLAIN, **NESTED})
        return ""

    @app.get("/read")
    def read() -> str:
        return json.dumps(dict(session), default=str)

    @app.get("/write-a-date")
    def write_a_date() -> str:
        session["date"] = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        return ""

    return app


def test_step_7_reads_and_writes_the_session_without_flask() -> None:
    sessions = code_of("7. Take the old half out")["sessions"]
    app = flask_with_the_same_key("the SECRET_KEY")
    client = app.test_client()
    client.get("/write")
    cookie = client.get_cookie("session")
    assert cookie is not None
    assert sessions.loads(cookie.value, max_age=60) == {**PLAIN, **NESTED}

    client = app.test_client()
    client.set_cookie("session", sessions.dumps({**PLAIN, **NESTED}))
    assert json.loads(client.get("/read").text) == {**PLAIN, **NESTED}

    client.get("/write-a-date")
    cookie = client.get_cookie("session")
    assert cookie is not None
    assert sessions.loads(cookie.value)["date"] == {" d": "Thu, 01 Jan 2026 00:00:00 GMT"}
    with pytest.raises(BadSignature):
        sessions.loads(cookie.value[:-2])


def test_step_7_leaves_the_rest_to_fastapi() -> None:
    site = FastAPI()
    site.get("/moved")(lambda: "new")
    client = TestClient(site, follow_redirects=False)
    assert client.get("/nowhere").json() == {"detail": "Not Found"}
    assert client.post("/moved").status_code == 405
    assert client.get("/moved/").status_code == 307
