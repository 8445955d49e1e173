"""Starlette's documented features, driven by its `TestClient`, natively and through both bridges.

On all loops that Starlette runs on; the private loop is of the outer one's kind.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self
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
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from tests.frameworks.apps_starlette import starlette_app
from tests.frameworks.both_bridges import Served, asgi_behind_both
from tests.frameworks.conftest import DOWNLOAD_BYTES
from tests.frameworks.gates import Gates, wait_for
from tests.frameworks.payloads import payload, summary

ClientOf = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def client_of(asgi_served: Served, anyio_backend: tuple[str, dict[str, Any]]) -> ClientOf:
    """Starlette's client of an app, inside its lifespan; what the app still does after its
    responses is over when the block is left.
    """
    backend, backend_options = anyio_backend

    @contextlib.contextmanager
    def client_of(app: Any, **options: Any) -> Iterator[TestClient]:
        loop = {"backend": backend, "backend_options": backend_options}
        with (
            asgi_served(app, backend=backend) as served,
            TestClient(served, **loop, **options) as client,
        ):
            yield client

    return client_of


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


# ---------------------------------------------------------------- errors


class OutOfStock(Exception):
    pass


async def stock(_: Request) -> Response:
    raise OutOfStock("no more tea")


async def teapot(_: Request) -> Response:
    raise HTTPException(418, "short and stout", headers={"x-handle": "here"})


async def broken(_: Request) -> Response:
    raise ZeroDivisionError("on purpose")


async def out_of_stock(request: Request, error: Exception) -> Response:
    return JSONResponse({"sold": str(error), "at": request.url.path}, status_code=409)


def not_found(request: Request, error: HTTPException) -> Response:
    return PlainTextResponse(f"{error.detail}: {request.url.path}", status_code=404)


async def server_error(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"sorry: {error!r}", status_code=500)


def failing_app(**options: Any) -> Starlette:
    routes = [Route("/stock", stock), Route("/teapot", teapot), Route("/broken", broken)]
    return Starlette(routes=routes, **options)


def test_exception_handlers(client_of: ClientOf) -> None:
    """A-OUT-1: handlers by class and by status, async and not, and `HTTPException` with headers."""
    app = failing_app(exception_handlers={OutOfStock: out_of_stock, 404: not_found})
    with client_of(app) as client:
        sold = client.get("/stock")
        assert (sold.status_code, sold.json()) == (409, {"sold": "no more tea", "at": "/stock"})
        tea = client.get("/teapot")
        assert (tea.status_code, tea.text) == (418, "short and stout")
        assert tea.headers["x-handle"] == "here"
        missing = client.get("/caf\xe9")
        assert (missing.status_code, unquote(missing.text)) == (404, "Not Found: /caf\xe9")
        wrong = client.post("/stock")
        assert wrong.status_code == 405
        assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("options", "page"),
    [
        ({}, "Internal Server Error"),
        ({"exception_handlers": {500: server_error}}, "sorry: ZeroDivisionError('on purpose')"),
        (
            {"exception_handlers": {Exception: server_error}},
            "sorry: ZeroDivisionError('on purpose')",
        ),
        ({"debug": True}, "ZeroDivisionError: on purpose"),
    ],
    ids=["plain", "500", "Exception", "debug"],
)
def test_an_unexpected_error(client_of: ClientOf, options: dict[str, Any], page: str) -> None:
    """A-OUT-5: Starlette sends its page and raises on; the page goes out, and the site lives on."""
    with client_of(failing_app(**options), raise_server_exceptions=False) as client:
        response = client.get("/broken")
        assert response.status_code == 500
        assert page in response.text
        assert client.get("/teapot").status_code == 418


def test_an_error_before_the_response(client_of: ClientOf) -> None:
    """W-CALL-3, A-OUT-4: what nobody turned into a page comes out as the very object."""
    raised = ValueError("broken on purpose")

    async def view(_: Request) -> Response:
        raise raised

    with client_of(Router([Route("/", view)])) as client:
        for _ in range(2):
            with pytest.raises(ValueError, match="broken on purpose") as caught:
                client.get("/")
            assert caught.value is raised


def test_an_error_in_the_middle_of_a_stream(client_of: ClientOf) -> None:
    """W-CALL-3, A-OUT-4: what has begun is not ended; the very object comes out."""
    raised = ValueError("broken on purpose")

    async def view(_: Request) -> Response:
        return StreamingResponse(chunks())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"begun"
        raise raised

    with client_of(Router([Route("/", view)])) as client:
        with pytest.raises((ValueError, ExceptionGroup)) as caught:
            client.get("/")
        error: BaseException = caught.value
        while isinstance(error, BaseExceptionGroup):
            [error] = error.exceptions
        assert error is raised


# ---------------------------------------------------------------- streams, files, bodies


def test_a_stream(client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-2, W-OUT-4: the first piece is at the client before the second is made."""

    async def view(_: Request) -> Response:
        return StreamingResponse(chunks(), media_type="text/plain", headers={"x-kind": "stream"})

    async def chunks() -> AsyncIterator[str]:
        yield "first "
        await gates.wait_for_client_async()
        yield "second"

    app = Starlette(routes=[Route("/", view)])
    with client_of(app) as client, client.stream("GET", "/") as response:
        pieces = response.iter_bytes()
        first = next(pieces)
        gates.first_chunk_arrived.set()
        rest = b"".join(pieces)
    assert (first, rest) == (b"first ", b"second")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-kind"] == "stream"
    assert "content-length" not in response.headers


def test_a_stream_of_a_plain_generator(client_of: ClientOf) -> None:
    """A-OUT-2: Starlette runs it in threads; many pieces keep their order."""

    async def view(_: Request) -> Response:
        return StreamingResponse(f"line {number}\n" for number in range(500))

    with client_of(Starlette(routes=[Route("/", view)])) as client:
        assert client.get("/").text == "".join(f"line {number}\n" for number in range(500))


class Ticks:
    """An endless body; no generator, since Starlette leaves those to the garbage collector."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await anyio.sleep(0.001)
        return b"tick"


def test_a_stream_whose_client_leaves(client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-3, W-FLOW-6: an endless response is over when the client closes it."""

    class NotesItsEnd(StreamingResponse):
        async def __call__(self, *args: Any) -> None:
            try:
                await super().__call__(*args)
            finally:
                gates.stream_closed.set()

    async def view(_: Request) -> Response:
        return NotesItsEnd(Ticks())

    with client_of(Starlette(routes=[Route("/", view)])) as client:
        with client.stream("GET", "/") as response:
            assert next(response.iter_bytes()).startswith(b"tick")
        wait_for(gates.stream_closed, "the response did not end")


@pytest.fixture
def file_app(download: Path) -> Starlette:
    async def view(_: Request) -> Response:
        return FileResponse(download, filename="\xfcber.bin")

    static = StaticFiles(directory=download.parent)
    return Starlette(routes=[Route("/file", view), Mount("/static", static, name="static")])


def test_a_file(file_app: Starlette, client_of: ClientOf, download: Path) -> None:
    """A-OUT-2: `FileResponse` whole, its head, and ranges of it."""
    with client_of(file_app) as client:
        whole = client.get("/file")
        assert whole.content == download.read_bytes()
        assert whole.headers["content-length"] == str(DOWNLOAD_BYTES)
        assert whole.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%BCber.bin"
        head = client.head("/file")
        assert (head.content, head.headers["content-length"]) == (b"", str(DOWNLOAD_BYTES))
        part = client.get("/file", headers={"range": "bytes=70000-139999"})
        assert (part.status_code, part.content) == (206, payload(140_000)[70_000:])
        assert part.headers["content-range"] == f"bytes 70000-139999/{DOWNLOAD_BYTES}"
        several = client.get("/file", headers={"range": "bytes=0-9,100-109"})
        assert several.status_code == 206
        assert several.headers["content-type"].startswith("multipart/byteranges; boundary=")
        assert several.content.count(b"Content-Range: bytes ") == 2
        assert client.get("/file", headers={"range": f"bytes={DOWNLOAD_BYTES}-"}).status_code == 416


def test_static_files(file_app: Starlette, client_of: ClientOf, download: Path) -> None:
    """W-OUT-6: a file that the client has is 304 without a body; one that is not there is 404."""
    with client_of(file_app) as client:
        first = client.get("/static/download.bin")
        assert first.content == download.read_bytes()
        etag = first.headers["etag"]
        same = client.get("/static/download.bin", headers={"if-none-match": etag})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
        assert client.get("/static/nothing").status_code == 404
        assert client.get("/static/..%2f..%2fetc/passwd").status_code == 404


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "large"])
def test_an_upload(gates: Gates, download: Path, client_of: ClientOf, size: int) -> None:
    """A-IN-1, W-IN-1: a file within and far above both request buffers arrives byte for byte."""
    data = payload(size)
    with client_of(starlette_app(gates, download)) as client:
        response = client.post("/upload", files={"file": ("\xfcber.bin", data)})
        assert response.json() == summary("\xfcber.bin", data)
        assert response.headers["x-stamp"] == "POST"


async def echo_stream(request: Request) -> Response:
    return Response(b"".join([part async for part in request.stream()]))


async def form_fields(request: Request) -> Response:
    async with request.form() as form:
        return JSONResponse(
            {"tags": form.getlist("tag"), "query": request.query_params.multi_items()}
        )


async def given_json(request: Request) -> Response:
    return JSONResponse({"given": await request.json(), "again": json.loads(await request.body())})


def test_bodies_of_requests(client_of: ClientOf) -> None:
    """A-IN-1: as a stream that is sent back, as a form, as JSON that is asked for twice."""
    routes = [Route("/echo", echo_stream), Route("/form", form_fields), Route("/json", given_json)]
    for route in routes:
        route.methods = {"POST"}
    with client_of(Starlette(routes=routes)) as client:
        data = payload(1_000_000)
        assert client.post("/echo", content=data).content == data
        assert (
            client.post("/echo", content=(part for part in (b"no", b"", b"length"))).content
            == b"nolength"
        )
        fields = client.post("/form?q=1&q=%C3%BC&e=", data={"tag": ["a", "\xfc"]}).json()
        assert fields == {"tags": ["a", "\xfc"], "query": [["q", "1"], ["q", "\xfc"], ["e", ""]]}
        value = {"a": [1, None, "\xfc"]}
        assert client.post("/json", json=value).json() == {"given": value, "again": value}


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
