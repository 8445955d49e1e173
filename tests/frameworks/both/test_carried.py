"""What stands beside the protocol, as the frameworks and their test clients use it: natively and
through both bridges.
"""

import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import anyio
import flask
import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.frameworks.both_bridges import Served
from tests.frameworks.gates import WAIT_SECONDS, Gates, wait_for
from tests.frameworks.serving import served_by_uvicorn


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("carried")
    app.secret_key = "not a secret"
    return app


def test_flask_s_client_keeps_the_context(app: flask.Flask, wsgi_served: Served) -> None:
    """W-ENV-8, A-SCOPE-3: within `with client`, request, session and `g` are there afterwards, for
    which the client puts a function of its own into the environ.
    """

    @app.get("/<name>")
    def view(name: str) -> str:
        flask.session["name"] = name
        flask.g.name = name
        return name

    with wsgi_served(app.wsgi_app) as app.wsgi_app, app.test_client() as client:
        for name in ("ann", "bob"):
            assert client.get(f"/{name}?q=1").text == name
            assert flask.request.args["q"] == "1"
            assert flask.session["name"] == flask.g.name == name
    assert not flask.has_request_context()


def test_flask_sees_the_user_that_the_server_knows(app: flask.Flask, wsgi_served: Served) -> None:
    """W-ENV-8, A-SCOPE-3: keys that a server or the deployer's middleware put into the environ."""

    @app.get("/")
    def view() -> list[Any]:
        environ = flask.request.environ
        environ["site.seen"].append(flask.request.path)
        return [flask.request.remote_user, environ["AUTH_TYPE"], environ["SSL_CLIENT_S_DN"]]

    seen: list[str] = []
    given = {
        "REMOTE_USER": "ann",
        "AUTH_TYPE": "Negotiate",
        "SSL_CLIENT_S_DN": "CN=ann",
        "site.seen": seen,
    }
    with wsgi_served(app.wsgi_app) as app.wsgi_app:
        answer = app.test_client().get("/", environ_overrides=given)
    assert answer.json == ["ann", "Negotiate", "CN=ann"]
    assert seen == ["/"]


def test_a_session_of_middleware_outside(asgi_served: Served) -> None:
    """A-SCOPE-3: the view changes the session of a `SessionMiddleware` around both bridges, which
    then writes its cookie.
    """

    async def visits(request: Request) -> Response:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse(request.session["visits"])

    async def leave(request: Request) -> Response:
        request.session.clear()
        return PlainTextResponse("bye")

    app = Starlette(routes=[Route("/", visits), Route("/leave", leave)])
    with (
        asgi_served(app) as served,
        TestClient(SessionMiddleware(served, secret_key="not a secret")) as client,
    ):
        assert [client.get("/").json() for _ in range(3)] == [1, 2, 3]
        client.get("/leave")
        assert client.get("/").json() == 1


def test_a_user_of_middleware_outside(asgi_served: Served) -> None:
    """A-SCOPE-3: `request.user` and `request.auth` are those that were found outside."""

    class ByHeader(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> Any:
            return AuthCredentials(["known"]), SimpleUser(conn.headers["x-user"])

    async def view(request: Request) -> Response:
        return JSONResponse([request.user.display_name, request.auth.scopes])

    app = Starlette(routes=[Route("/", view)])
    with (
        asgi_served(app) as served,
        TestClient(AuthenticationMiddleware(served, backend=ByHeader())) as client,
    ):
        assert client.get("/", headers={"x-user": "ann"}).json() == ["ann", ["known"]]


def test_a_state_of_middleware_outside(asgi_served: Served) -> None:
    """A-SCOPE-3: `request.state` goes in, and what the view adds comes back out."""
    seen: list[Any] = []

    async def view(request: Request) -> Response:
        request.state.answer = f"for {request.state.tenant}"
        return PlainTextResponse(request.state.tenant)

    app = Starlette(routes=[Route("/", view)])
    with asgi_served(app) as served:

        async def with_tenant(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope["state"]["tenant"] = "ann"
            await served(scope, receive, send)
            if scope["type"] == "http":
                seen.append(scope["state"]["answer"])

        with TestClient(with_tenant) as client:
            assert client.get("/").text == "ann"
    assert seen == ["for ann"]


def test_a_silent_view_asks_whether_its_client_is_there(asgi_served: Served, gates: Gates) -> None:
    """A-IN-3, W-FLOW-3: `request.is_disconnected` tells, while the view has sent nothing yet."""
    asked = threading.Event()

    async def view(request: Request) -> Response:
        with anyio.fail_after(WAIT_SECONDS):
            while not await request.is_disconnected():
                asked.set()
                await anyio.sleep(0.01)
        gates.stream_closed.set()
        return PlainTextResponse("nobody reads this")

    app = Starlette(routes=[Route("/", view)])
    with asgi_served(app) as served, served_by_uvicorn(served) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: site\r\n\r\n")
            wait_for(asked, "the view was not called")
            assert not gates.stream_closed.is_set()
        wait_for(gates.stream_closed, "the view did not learn that its client had left")
