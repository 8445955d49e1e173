"""Starlette's sessions, tasks, middleware and routes, natively and behind both bridges."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    SimpleUser,
    requires,
)
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Host, Mount, Route, Router
from starlette.testclient import TestClient

from tests.frameworks.both.starlette.conftest import ClientOf
from tests.frameworks.both_bridges import asgi_behind_both

# ---------------------------------------------------------------- sessions and state


async def visits(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session["visits"])


async def leave(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("bye")


def test_a_session(client_of: ClientOf) -> None:
    """A-SCOPE-1, W-OUT-7: the signed cookie goes out, comes back and is taken away."""
    app = Starlette(
        routes=[Route("/", visits), Route("/leave", leave, methods=["POST"])],
        middleware=[Middleware(SessionMiddleware, secret_key="not a secret", same_site="strict")],
    )
    with client_of(app) as client:
        first = client.get("/")
        assert first.headers["set-cookie"].endswith(
            "; path=/; Max-Age=1209600; httponly; samesite=strict"
        )
        assert [client.get("/").json() for _ in range(2)] == [2, 3]
        assert "expires=Thu, 01 Jan 1970" in client.post("/leave").headers["set-cookie"]
        assert client.get("/").json() == 1


def test_the_lifespan_and_its_state(client_of: ClientOf) -> None:
    """A-LOOP-2: startup once, its state in each request as a copy of its own, shutdown once."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        events.append("startup")
        yield {"events": events, "name": "shared"}
        events.append("shutdown")

    async def view(request: Request) -> Response:
        answer = [request.state.name, *request.state.events]
        request.state.name = "changed for this request only"
        request.state.events.append("request")
        return JSONResponse(answer)

    with client_of(Starlette(routes=[Route("/", view)], lifespan=lifespan)) as client:
        assert client.get("/").json() == ["shared", "startup"]
        assert client.get("/").json() == ["shared", "startup", "request"]
    assert events == ["startup", "request", "request", "shutdown"]


def test_state_between_middleware_and_view(client_of: ClientOf) -> None:
    """A-LOOP-1: `request.state` of one request goes down to the view and back up."""

    async def with_tenant(request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.tenant = request.headers["x-tenant"]
        response = await call_next(request)
        response.headers["x-seen"] = request.state.seen
        return response

    async def view(request: Request) -> Response:
        request.state.seen = f"{request.state.tenant} by view"
        return PlainTextResponse(request.state.tenant)

    app = Starlette(
        routes=[Route("/", view)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=with_tenant)]
    )
    with client_of(app) as client:
        for tenant in ("ann", "bob"):
            response = client.get("/", headers={"x-tenant": tenant})
            assert (response.text, response.headers["x-seen"]) == (tenant, f"{tenant} by view")


# ---------------------------------------------------------------- work after the response


def test_background_tasks(client_of: ClientOf) -> None:
    """A-OUT-5: tasks of both kinds run after the response, in their order."""
    done: list[str] = []

    async def first(name: str) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(f"first {name}")

    def second(*, name: str) -> None:
        done.append(f"second {name}")

    async def view(_: Request) -> Response:
        tasks = BackgroundTasks([BackgroundTask(first, "mail")])
        tasks.add_task(second, name="log")
        return PlainTextResponse("accepted", status_code=202, background=tasks)

    with client_of(Starlette(routes=[Route("/", view)])) as client:
        response = client.get("/")
        assert (response.status_code, response.text) == (202, "accepted")
    assert done == ["first mail", "second log"]


def test_a_background_task_that_raises(
    client_of: ClientOf, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-5: its response is whole and the site lives on; behind bridges its error is logged."""
    raised = LookupError("broken on purpose")

    async def work() -> None:
        raise raised

    async def view(_: Request) -> Response:
        return PlainTextResponse("accepted", background=BackgroundTask(work))

    with client_of(Starlette(routes=[Route("/", view)]), raise_server_exceptions=False) as client:
        assert client.get("/").text == "accepted"
        assert client.get("/").text == "accepted"
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == ([raised, raised] if way == "bridged" else [])


# ---------------------------------------------------------------- middleware


class Plain:
    """Pure ASGI middleware that adds a header to what passes."""

    def __init__(self, app: Any, name: str) -> None:
        self.app, self.name = app, name.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-passed", self.name))
            await send(message)

        await self.app(scope, receive, named if scope["type"] == "http" else send)


async def page(_: Request) -> Response:
    response = PlainTextResponse("page\n" * 500)
    response.set_cookie("theme", "dark")
    response.set_cookie("lang", "de", max_age=60, httponly=True)
    return response


def test_a_stack_of_middleware(client_of: ClientOf) -> None:
    """A-OUT-1, W-OUT-7: each adds to the head, repeated headers stay apart and in their order."""

    async def stamped(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = request.method
        return response

    async def refusing(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if "x-refused" in request.headers:
            return PlainTextResponse("refused", status_code=403)
        return await call_next(request)

    app = Starlette(
        routes=[Route("/", page)],
        middleware=[
            Middleware(Plain, name="outer"),
            Middleware(TrustedHostMiddleware, allowed_hosts=["testserver"]),
            Middleware(CORSMiddleware, allow_origins=["https://other.example"]),
            Middleware(GZipMiddleware, minimum_size=100),
            Middleware(BaseHTTPMiddleware, dispatch=stamped),
            Middleware(BaseHTTPMiddleware, dispatch=refusing),
            Middleware(Plain, name="inner"),
        ],
    )
    with client_of(app) as client:
        response = client.get("/", headers={"origin": "https://other.example"})
        assert response.text == "page\n" * 500
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["access-control-allow-origin"] == "https://other.example"
        assert response.headers["x-stamp"] == "GET"
        assert response.headers.get_list("x-passed") == ["inner", "outer"]
        assert [cookie.partition(";")[0] for cookie in response.headers.get_list("set-cookie")] == [
            "theme=dark",
            "lang=de",
        ]
        refused = client.get("/", headers={"x-refused": "1"})
        assert (refused.status_code, refused.text) == (403, "refused")
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400
        asks = {"origin": "https://other.example", "access-control-request-method": "GET"}
        assert client.options("/", headers=asks).text == "OK"


def test_authentication(client_of: ClientOf) -> None:
    """A-SCOPE-1: the user and scopes that the inner app's middleware finds are the view's."""

    class ByHeader(AuthenticationBackend):
        async def authenticate(
            self, conn: HTTPConnection
        ) -> tuple[AuthCredentials, SimpleUser] | None:
            name = conn.headers.get("x-user")
            if name == "nobody":
                raise AuthenticationError("nobody is not welcome")
            return (AuthCredentials(["known"]), SimpleUser(name)) if name else None

    @requires("known", redirect="login")
    async def home(request: Request) -> Response:
        return PlainTextResponse(request.user.display_name)

    async def login(request: Request) -> Response:
        return PlainTextResponse(f"log in, {request.user.is_authenticated}, {request.url.query}")

    app = Starlette(
        routes=[Route("/", home), Route("/login", login, name="login")],
        middleware=[Middleware(AuthenticationMiddleware, backend=ByHeader())],
    )
    with client_of(app) as client:
        assert client.get("/", headers={"x-user": "ann"}).text == "ann"
        landed = client.get("/")
        assert [response.status_code for response in landed.history] == [303]
        assert landed.text == "log in, False, next=http%3A%2F%2Ftestserver%2F"
        assert client.get("/", headers={"x-user": "nobody"}).text == "nobody is not welcome"


# ---------------------------------------------------------------- routing


class Item(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        number = request.path_params["number"]
        return JSONResponse(
            {
                "number": number,
                "path": request.scope["path"],
                "root_path": request.scope["root_path"],
                "url": str(request.url),
                "base_url": str(request.base_url),
                "item": request.url_for("shop:item", number=number + 1).path,
                "client": list(request.client),
            }
        )

    async def delete(self, request: Request) -> Response:
        return Response(status_code=204)


def mounted_app() -> Starlette:
    shop = Router([Route("/items/{number:int}", Item, name="item")])

    async def home(_: Request) -> Response:
        return RedirectResponse("/shop/items/1", status_code=307)

    async def sub_domain(request: Request) -> Response:
        return PlainTextResponse(request.path_params["name"])

    return Starlette(
        routes=[
            Host("{name}.sub.example", Router([Route("/", sub_domain)]), name="sub"),
            Mount("/shop", shop, name="shop"),
            Route("/", home),
        ]
    )


@pytest.mark.parametrize("root", ["", "/m\xfcnchen"])
def test_a_mount(client_of: ClientOf, root: str) -> None:
    """A-SCOPE-1, W-ENV-2: paths, links and the client, at the root of the site and below it."""
    client_options: dict[str, Any] = {"root_path": root, "client": ("192.0.2.7", 4711)}
    with client_of(mounted_app(), **client_options) as client:
        answer = client.get(f"{root}/shop/items/41?q=%2F")
        assert json.loads(unquote(answer.text)) == {
            "number": 41,
            "path": f"{root}/shop/items/41",
            "root_path": f"{root}/shop",
            "url": f"http://testserver{root}/shop/items/41?q=/",
            "base_url": f"http://testserver{root}/",
            "item": f"{root}/shop/items/42",
            "client": ["192.0.2.7", 4711],
        }
        gone = client.delete(f"{root}/shop/items/41")
        assert (gone.status_code, gone.content) == (204, b"")


def test_other_ways_to_a_route(client_of: ClientOf) -> None:
    """A-SCOPE-1: by host, by a redirect, by the slash that Starlette adds or takes away."""
    with client_of(mounted_app()) as client:
        assert client.get("/", headers={"host": "ann.sub.example"}).text == "ann"
        landed = client.get("/")
        assert landed.history[0].status_code == 307
        assert landed.json()["number"] == 1
        slashed = client.get("/shop/items/5/")
        assert slashed.history[0].headers["location"] == "http://testserver/shop/items/5"
        assert slashed.json()["number"] == 5


def test_a_client_without_a_lifespan(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """A-LOOP-2, W-LIFE-1: outside `with`, `TestClient` runs no lifespan, and each request in an
    event loop of its own; the inner app has its lifespan and its one loop all the same.
    """
    backend, backend_options = anyio_backend
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        events.append("startup")
        yield {"lock": anyio.Lock()}
        events.append("shutdown")

    async def view(request: Request) -> Response:
        async with request.state.lock:
            return PlainTextResponse(" ".join(events))

    app = Starlette(routes=[Route("/", view)], lifespan=lifespan)
    with asgi_behind_both(app, backend=backend) as served:
        client = TestClient(served, backend=backend, backend_options=backend_options)
        assert [client.get("/").text for _ in range(5)] == ["startup"] * 5
        client.close()
    assert events == ["startup", "shutdown"]
