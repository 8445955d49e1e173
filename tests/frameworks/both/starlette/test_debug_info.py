"""What Starlette's TestClient learns of a template comes through both bridges (A-OUT-6)."""

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.testclient import TestClient

from wsgi_asgi_bridge import AppError, ASGIToWSGI, WSGIToASGI

DEBUG = "http.response.debug"


def site(folder: Path) -> Starlette:
    (folder / "page.html").write_text("Hello, {{ name }}!")
    templates = Jinja2Templates(folder)

    async def page(request: Request) -> Response:
        return templates.TemplateResponse(request, "page.html", {"name": "you", "secret": object()})

    return Starlette(routes=[Route("/", page)])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("depth", [1, 2])
def test_template_and_context(tmp_path: Path, backend: Any, depth: int) -> None:
    """A-OUT-6: `.template` and `.context` are the very objects, as without bridges."""
    app: Any = site(tmp_path)
    with TestClient(app) as client:
        plain = client.get("/")
    inner: list[ASGIToWSGI] = []
    for _ in range(depth):
        inner.append(ASGIToWSGI(app, backend=backend))
        app = WSGIToASGI(inner[-1])
    try:
        with TestClient(app, backend=backend) as client:
            bridged = client.get("/")
    finally:
        for bridge in reversed(inner):
            bridge.close()
    assert bridged.text == plain.text == "Hello, you!"
    assert bridged.template.name == plain.template.name == "page.html"  # type: ignore[attr-defined]
    assert bridged.context["name"] == "you"  # type: ignore[attr-defined]
    assert type(bridged.context["secret"]) is object  # type: ignore[attr-defined]


def test_it_is_not_offered_by_a_server_that_is_none_of_ours() -> None:
    """A-OUT-6, A-OUT-1: the app's send() raises; nothing else would take the info."""
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert DEBUG not in scope["extensions"]
        try:
            await send({"type": DEBUG, "info": {}})
        except AppError as error:
            errors.append(str(error))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    with ASGIToWSGI(app, lifespan="off") as bridge:
        list(bridge({"REQUEST_METHOD": "GET"}, lambda *_: None))
    assert len(errors) == 1


def test_info_after_the_start_raises() -> None:
    """A-OUT-6, A-OUT-1"""
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            await send({"type": DEBUG, "info": {}})
        except AppError as error:
            errors.append(str(error))
        await send({"type": "http.response.body"})

    with ASGIToWSGI(app, lifespan="off") as inner, TestClient(WSGIToASGI(inner)) as client:
        assert client.get("/").status_code == 200
    assert len(errors) == 1
