"""compat.a2wsgi where a2wsgi is mostly found: inside FastAPI, inside Flask, and on real servers."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from flask import Flask, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from tests.frameworks.serving import served_by_uvicorn, served_by_werkzeug
from wsgi_asgi_bridge.compat import a2wsgi as compat

WAIT_SECONDS = 10.0


def flask_app() -> Flask:
    app = Flask("old")

    @app.route("/", methods=["GET", "POST"])
    def page() -> Any:
        return {"root": request.root_path, "path": request.path, "form": request.form.to_dict()}

    @app.get("/stream")
    def stream() -> Any:
        return (f"{number}\n" for number in range(100)), {"Content-Type": "text/plain"}

    @app.get("/error")
    def error() -> Any:
        raise LookupError("of the app")

    return app


def fastapi_app(done: threading.Event) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def page(tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(done.set)
        return {"hello": "world"}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            for number in range(100):
                yield f"{number}\n"

        return StreamingResponse(parts(), media_type="text/plain")

    @app.get("/error")
    async def error() -> None:
        raise LookupError("of the app")

    return app


@pytest.fixture
def site(adapter: Any) -> Iterator[FastAPI]:
    """FastAPI's own example: an app at a path of its own, beside async routes."""
    site = FastAPI()

    @site.get("/v2")
    async def new() -> dict[str, str]:
        return {"new": "half"}

    middleware = adapter.WSGIMiddleware(flask_app())
    site.mount("/v1", middleware)
    yield site
    middleware.executor.shutdown()


LINES = "".join(f"{number}\n" for number in range(100))


def test_mounted_in_fastapi(site: FastAPI) -> None:
    client = TestClient(site)
    assert client.get("/v2").json() == {"new": "half"}
    assert client.get("/v1/").json() == {"root": "/v1", "path": "/", "form": {}}
    assert client.post("/v1/", data={"a": "b"}).json()["form"] == {"a": "b"}
    assert client.get("/v1/stream").text == LINES
    assert client.get("/v1/error").status_code == 500
    assert client.get("/v1/missing").status_code == 404


def test_mounted_in_fastapi_on_uvicorn(site: FastAPI) -> None:
    with served_by_uvicorn(site) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/").json()["root"] == "/v1"
        assert client.post("/v1/", data={"a": "b" * 200_000}).json()["form"]["a"] == "b" * 200_000
        assert client.get("/v1/stream").text == LINES
        assert client.head("/v1/").status_code == 200
        assert client.get("/v1/error").status_code == 500


def test_mounted_in_flask() -> None:
    """As an MCP server is: one more WSGI app at a path."""
    done = threading.Event()
    middleware = compat.ASGIMiddleware(fastapi_app(done))
    client = Client(DispatcherMiddleware(flask_app(), {"/api": middleware}))
    assert client.get("/api/").json == {"hello": "world"}
    assert done.is_set()
    assert client.get("/").json["root"] == ""
    middleware.bridge.close()


def test_on_a_wsgi_server() -> None:
    done = threading.Event()
    middleware = compat.ASGIMiddleware(fastapi_app(done), 5.0)
    with served_by_werkzeug(middleware) as url, httpx.Client(base_url=url) as client:
        assert client.get("/").json() == {"hello": "world"}
        assert done.wait(WAIT_SECONDS)
        assert client.get("/stream").text == LINES
        assert client.head("/").status_code == 405
        assert client.get("/error").status_code == 500
        assert client.get("/openapi.json").json()["openapi"].startswith("3")
    middleware.bridge.close()
