"""What Flask asks of a bridge beyond a page: async views, sessions, mounts, errors passed on."""

import asyncio
import contextvars
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import flask
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks.apps_flask import flask_app
from tests.frameworks.gates import WAIT_SECONDS, Gates
from tests.frameworks.payloads import payload
from tests.frameworks.serving import SITE, client_in_process, served_by_uvicorn
from wsgi_asgi_bridge import WSGIToASGI

current_tenant = contextvars.ContextVar("current_tenant", default="nobody")


def bare_app() -> flask.Flask:
    app = flask.Flask("bare")
    app.secret_key = "not a secret"
    return app


async def test_an_async_view_runs_on_the_loop_of_the_server(anyio_backend_name: str) -> None:
    """W-CALL-2: `async def` views run on the server's loop; on trio, which asyncio code cannot
    run on, they still answer."""
    app = bare_app()
    loops: list[asyncio.AbstractEventLoop] = []

    @app.get("/")
    async def view() -> str:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return "awaited"

    async with client_in_process(app) as client:
        response = await client.get("/")
    assert response.text == "awaited"
    if anyio_backend_name == "asyncio":
        assert loops == [asyncio.get_running_loop()]


async def test_a_view_waits_for_something_of_the_server_s_loop() -> None:
    """W-CALL-2: `anyio.from_thread.run` in a view awaits what the ASGI half made."""
    app = bare_app()
    send, receive = anyio.create_memory_object_stream[str](1)

    @app.get("/")
    def view() -> str:
        return anyio.from_thread.run(receive.receive)

    with send, receive:
        async with client_in_process(app) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(send.send, "made in the loop")
            response = await client.get("/")
    assert response.text == "made in the loop"


async def test_context_variables_reach_the_view() -> None:
    """W-CALL-2: what ASGI middleware put into the context is seen in the view."""
    app = bare_app()

    @app.get("/")
    def view() -> str:
        return current_tenant.get()

    bridge = WSGIToASGI(app)

    async def with_tenant(scope: Any, receive: Any, send: Any) -> None:
        current_tenant.set(dict(scope["headers"])[b"x-tenant"].decode())
        await bridge(scope, receive, send)

    transport = httpx.ASGITransport(with_tenant)
    async with httpx.AsyncClient(transport=transport, base_url=SITE) as client:
        for tenant in ("one", "two"):
            response = await client.get("/", headers={"x-tenant": tenant})
            assert response.text == tenant
    await bridge.aclose()


async def test_a_session() -> None:
    """W-ENV-5, W-OUT-7: signed cookies go out one header each, come back, and can be taken away."""
    app = bare_app()

    @app.post("/login")
    def login() -> flask.Response:
        flask.session["user"] = flask.request.form["user"]
        response = flask.redirect(flask.url_for("home"), 303)
        response.set_cookie("theme", "dark")
        return response

    @app.get("/home")
    def home() -> str:
        return f"{flask.session.get('user')} {flask.request.cookies.get('theme')}"

    @app.post("/logout")
    def logout() -> str:
        flask.session.clear()
        return "bye"

    async with client_in_process(app) as client:
        answer = await client.post("/login", data={"user": "ann"})
        assert answer.status_code == 303
        assert len(answer.headers.get_list("set-cookie")) == 2
        home_page = await client.get(answer.headers["location"])
        assert home_page.text == "ann dark"
        await client.post("/logout")
        assert (await client.get("/home")).text == "None dark"


async def test_a_mount_under_starlette(gates: Gates, download: Path) -> None:
    """W-ENV-2: under a mount the app sees its own paths, and its links carry the prefix."""
    app = flask_app(gates, download)

    @app.get("/link/<name>")
    def link(name: str) -> str:
        return flask.url_for("link", name=name)

    bridge = WSGIToASGI(app)
    site = Starlette(routes=[Mount("/legacy", bridge)])
    transport = httpx.ASGITransport(site)
    async with httpx.AsyncClient(transport=transport, base_url=SITE) as client:
        assert (await client.get("/legacy/")).text == "hello from flask"
        assert (await client.get("/legacy/link/caf\xe9")).text == "/legacy/link/caf%C3%A9"
        assert (await client.get("/legacy/nowhere")).text == "nothing at /nowhere"
        assert (await client.get("/elsewhere")).text == "Not Found"
    await bridge.aclose()


async def test_an_error_that_flask_passes_on() -> None:
    """W-CALL-3: the very exception of the view reaches the ASGI server."""
    app = bare_app()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    raised = ValueError("broken on purpose")

    @app.get("/")
    def view() -> str:
        raise raised

    @app.get("/fine")
    def fine() -> str:
        return "fine"

    async with client_in_process(app) as client:
        with pytest.raises(ValueError, match="broken on purpose") as caught:
            await client.get("/")
        assert caught.value is raised
        assert (await client.get("/fine")).text == "fine"


async def test_a_part_of_a_file(gates: Gates, download: Path) -> None:
    """W-ENV-7: a range of a file starts at the file's offset and has the length of the range."""
    async with client_in_process(flask_app(gates, download)) as client:
        response = await client.get("/file", headers={"range": "bytes=70000-139999"})
    assert response.status_code == 206
    assert response.content == payload(140_000)[70_000:]


def test_an_async_view_on_uvicorn() -> None:
    """W-CALL-2: over a socket as well, the view's loop is the one that serves the connection."""
    app = bare_app()
    serving: list[asyncio.AbstractEventLoop] = []
    viewing: list[asyncio.AbstractEventLoop] = []

    @app.get("/")
    async def view() -> str:
        viewing.append(asyncio.get_running_loop())
        return "awaited"

    bridge = WSGIToASGI(app)

    async def noting_its_loop(scope: Any, receive: Any, send: Any) -> None:
        serving.append(asyncio.get_running_loop())
        await bridge(scope, receive, send)

    with served_by_uvicorn(noting_its_loop) as url:
        assert httpx.get(url, timeout=WAIT_SECONDS).text == "awaited"
    assert viewing == serving[-1:]


def test_a_chunked_upload() -> None:
    """W-IN-2: a body without a length is read to its end."""
    app = bare_app()

    @app.post("/")
    def view() -> dict[str, Any]:
        body = flask.request.get_data()
        return {"bytes": len(body), "length": flask.request.content_length}

    parts = (b"x" * 10_000 for _ in range(100))
    with served_by_uvicorn(WSGIToASGI(app)) as url:
        response = httpx.post(url, content=parts, timeout=WAIT_SECONDS)
    assert response.json() == {"bytes": 1_000_000, "length": None}
