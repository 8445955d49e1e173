"""FastAPI's documented features, driven by its `TestClient`, natively and through both bridges."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
)
from fastapi import (
    Path as PathParameter,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from tests.frameworks.apps_fastapi import fastapi_app
from tests.frameworks.both_bridges import Served
from tests.frameworks.gates import Gates, wait_for
from tests.frameworks.payloads import payload, summary

ClientOf = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def client_of(asgi_served: Served) -> ClientOf:
    """FastAPI's client of an app, inside its lifespan; what the app still does after its responses
    is over when the block is left.
    """

    @contextlib.contextmanager
    def client_of(app: FastAPI, **options: Any) -> Iterator[TestClient]:
        with asgi_served(app) as served, TestClient(served, **options) as client:
            yield client

    return client_of


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


# ---------------------------------------------------------------- dependencies with yield


class Journal:
    """A resource that a dependency opens and closes, and what happened to it."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def resource(self) -> AsyncIterator[str]:
        self.events.append("open")
        try:
            yield "resource"
        except Exception as error:
            self.events.append(error)
            raise
        finally:
            self.events.append("close")

    def sync_resource(self, outer: str) -> Iterator[str]:
        self.events.append("open sync")
        try:
            yield f"sync {outer}"
        except Exception as error:
            self.events.append(("sync", error))
            raise
        finally:
            self.events.append("close sync")


@pytest.fixture
def journal(app: FastAPI) -> Journal:
    """An app with routes whose dependencies are nested, one of each kind."""
    journal = Journal()

    def inner(outer: Annotated[str, Depends(journal.resource)]) -> Iterator[str]:
        yield from journal.sync_resource(outer)

    @app.get("/used")
    async def used(given: Annotated[str, Depends(inner)], tasks: BackgroundTasks) -> str:
        journal.events.append(given)
        return given

    @app.get("/refused")
    def refused(given: Annotated[str, Depends(inner)]) -> str:
        raise HTTPException(409, f"no {given}", headers={"x-why": "on purpose"})

    @app.get("/streamed")
    async def streamed(given: Annotated[str, Depends(inner)]) -> StreamingResponse:
        return StreamingResponse(iter([given, " streamed"]))

    return journal


def test_dependencies_with_yield(app: FastAPI, journal: Journal, client_of: ClientOf) -> None:
    """A-OUT-5: the nested resources are opened once, used, and closed once, in reverse."""
    with client_of(app) as client:
        assert client.get("/used").json() == "sync resource"
    assert journal.events == ["open", "open sync", "sync resource", "close sync", "close"]


def test_a_dependency_with_yield_sees_a_refusal(
    app: FastAPI, journal: Journal, client_of: ClientOf
) -> None:
    """A-OUT-5: the `HTTPException` of the view passes through both, and its answer goes out."""
    with client_of(app) as client:
        response = client.get("/refused")
        assert (response.status_code, response.json()) == (409, {"detail": "no sync resource"})
        assert response.headers["x-why"] == "on purpose"
    assert journal.events[:2] == ["open", "open sync"]
    (kind, inner), inner_end, outer, outer_end = journal.events[2:]
    assert (kind, inner_end, outer_end) == ("sync", "close sync", "close")
    assert isinstance(inner, HTTPException)
    assert inner is outer


def test_a_dependency_with_yield_around_a_stream(
    app: FastAPI, journal: Journal, client_of: ClientOf
) -> None:
    """A-OUT-5: opened and closed once around a response that streams."""
    with client_of(app) as client:
        assert client.get("/streamed").text == "sync resource streamed"
    assert journal.events == ["open", "open sync", "close sync", "close"]


def test_a_dependency_with_yield_sees_an_error(app: FastAPI, client_of: ClientOf) -> None:
    """A-LOOP-5: the very exception of the view is what the dependency sees, and may translate."""
    raised = LookupError("broken on purpose")
    seen: list[BaseException] = []

    async def translating() -> AsyncIterator[None]:
        try:
            yield
        except LookupError as error:
            seen.append(error)
            raise HTTPException(404, "looked in vain") from error

    @app.get("/", dependencies=[Depends(translating)])
    def view() -> None:
        raise raised

    with client_of(app) as client:
        response = client.get("/")
    assert (response.status_code, response.json()) == (404, {"detail": "looked in vain"})
    assert seen == [raised]


def test_an_unexpected_error(app: FastAPI, journal: Journal, client_of: ClientOf) -> None:
    """A-OUT-5: after an error the resources are closed, the page goes out, the site lives on."""

    @app.get("/broken")
    def broken(given: Annotated[str, Depends(journal.resource)]) -> None:
        raise ZeroDivisionError(given)

    with client_of(app, raise_server_exceptions=False) as client:
        page = client.get("/broken")
        assert (page.status_code, page.text) == (500, "Internal Server Error")
        assert client.get("/used").json() == "sync resource"
    assert [repr(event) for event in journal.events[:3]] == [
        "'open'",
        "ZeroDivisionError('resource')",
        "'close'",
    ]


def test_dependency_overrides(app: FastAPI, journal: Journal, client_of: ClientOf) -> None:
    """A-CALL-1: what a test puts in place of a dependency is used, as long as it is there."""
    app.dependency_overrides[journal.resource] = lambda: "double"
    with client_of(app) as client:
        assert client.get("/used").json() == "sync double"
        app.dependency_overrides.clear()
        assert client.get("/used").json() == "sync resource"
    assert journal.events.count("open") == journal.events.count("close") == 1


def test_a_dependency_is_called_once_a_request(app: FastAPI, client_of: ClientOf) -> None:
    """A-LOOP-1: shared below one request, made anew where `use_cache` says so, and in a class."""
    made: list[str] = []

    def number() -> int:
        made.append(threading.current_thread().name)
        return len(made)

    class Page:
        def __init__(self, first: Annotated[int, Depends(number)], size: int = 10) -> None:
            self.first, self.size = first, size

    @app.get("/")
    async def view(
        page: Annotated[Page, Depends()],
        same: Annotated[int, Depends(number)],
        fresh: Annotated[int, Depends(number, use_cache=False)],
    ) -> list[int]:
        return [page.first, page.size, same, fresh]

    with client_of(app) as client:
        assert client.get("/?size=3").json() == [1, 3, 1, 2]
        assert client.get("/").json() == [3, 10, 3, 4]
    assert not any(name.startswith("wsgi_asgi_bridge-loop") for name in made)


# ---------------------------------------------------------------- validation


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: float = Field(gt=0)
    tags: list[str] = []


def add_item_routes(app: FastAPI) -> None:
    @app.put("/items/{number}", status_code=201)
    async def put(
        number: Annotated[int, PathParameter(ge=1)],
        item: Item,
        q: Annotated[str | None, Query(max_length=3)] = None,
        x_token: Annotated[list[str] | None, Header()] = None,
        theme: Annotated[str | None, Cookie()] = None,
    ) -> dict[str, Any]:
        return {"number": number, "item": item, "q": q, "x_token": x_token, "theme": theme}


def test_a_request_that_is_valid(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1, A-IN-1: path, query, header, cookie and body are found and converted."""
    add_item_routes(app)
    with client_of(app) as client:
        client.cookies.set("theme", "dark")
        response = client.put(
            "/items/5?q=%C3%BC",
            json={"name": "t\xe9", "price": "1.5", "tags": ["a"]},
            headers={"x-token": "one"},
        )
    assert response.status_code == 201
    assert response.json() == {
        "number": 5,
        "item": {"name": "t\xe9", "price": 1.5, "tags": ["a"]},
        "q": "\xfc",
        "x_token": ["one"],
        "theme": "dark",
    }


def test_a_request_that_is_not_valid(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1, A-IN-1: the very 422 that FastAPI writes, all its errors at once."""
    add_item_routes(app)
    with client_of(app) as client:
        response = client.put("/items/0?q=long", json={"name": "x", "tags": "a"})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "detail": [
            {
                "type": "greater_than_equal",
                "loc": ["path", "number"],
                "msg": "Input should be greater than or equal to 1",
                "input": "0",
                "ctx": {"ge": 1},
            },
            {
                "type": "string_too_long",
                "loc": ["query", "q"],
                "msg": "String should have at most 3 characters",
                "input": "long",
                "ctx": {"max_length": 3},
            },
            {
                "type": "string_too_short",
                "loc": ["body", "name"],
                "msg": "String should have at least 2 characters",
                "input": "x",
                "ctx": {"min_length": 2},
            },
            {
                "type": "missing",
                "loc": ["body", "price"],
                "msg": "Field required",
                "input": {"name": "x", "tags": "a"},
            },
            {
                "type": "list_type",
                "loc": ["body", "tags"],
                "msg": "Input should be a valid list",
                "input": "a",
            },
        ]
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 422), (b"{", 422), (b'{"name": "\xff"}', 400)],
    ids=["none", "cut", "latin"],
)
def test_a_body_that_is_no_json(
    app: FastAPI, client_of: ClientOf, body: bytes, status: int
) -> None:
    """A-IN-1: FastAPI says what is wrong with it, and no later request suffers."""
    add_item_routes(app)
    headers = {"content-type": "application/json"}
    with client_of(app) as client:
        response = client.put("/items/1", content=body, headers=headers)
        assert response.status_code == status
        assert client.put("/items/1", json={"name": "tea", "price": 1}).status_code == 201


def test_handlers_of_errors(app: FastAPI, client_of: ClientOf) -> None:
    """A-OUT-1: an app's own answers to validation errors and to its own exceptions."""

    class OutOfStock(Exception):
        pass

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        sent = (await request.body()).decode()
        said = [".".join(map(str, each["loc"])) for each in error.errors()]
        return JSONResponse({"wrong": said, "sent": sent}, status_code=400)

    @app.exception_handler(OutOfStock)
    def out_of_stock(_: Request, error: OutOfStock) -> JSONResponse:
        return JSONResponse({"sold": str(error)}, status_code=409)

    @app.get("/stock")
    async def stock() -> None:
        raise OutOfStock("no more tea")

    add_item_routes(app)
    with client_of(app) as client:
        wrong = client.put("/items/1", json={"name": "tea"})
        assert wrong.status_code == 400
        assert wrong.json() == {"wrong": ["body.price"], "sent": '{"name":"tea"}'}
        sold = client.get("/stock")
    assert (sold.status_code, sold.json()) == (409, {"sold": "no more tea"})


def test_the_schema(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1: `/openapi.json` and `/docs` name the prefix that the app is served under."""
    add_item_routes(app)
    with client_of(app, root_path="/api/v1") as client:
        schema = client.get("/api/v1/openapi.json").json()
        docs = client.get("/api/v1/docs")
    assert list(schema["paths"]) == ["/items/{number}"]
    assert {"url": "/api/v1"} in schema["servers"]
    assert "/api/v1/openapi.json" in docs.text


# ---------------------------------------------------------------- uploads and responses


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "large"])
def test_an_upload(gates: Gates, download: Path, client_of: ClientOf, size: int) -> None:
    """A-IN-1, W-IN-1: an `UploadFile` within and far above both request buffers, byte for byte."""
    data = payload(size)
    with client_of(fastapi_app(gates, download)) as client:
        response = client.post("/upload", files={"file": ("\xfcber.bin", data)})
    assert response.json() == summary("\xfcber.bin", data)


def test_uploads_beside_fields(app: FastAPI, client_of: ClientOf) -> None:
    """A-IN-1: several files and fields of one form, in an async view, with their types."""

    @app.post("/")
    async def view(
        files: list[UploadFile], name: Annotated[str, Form()], raw: Annotated[bytes, File()]
    ) -> dict[str, Any]:
        given = [[each.filename, each.content_type, (await each.read()).decode()] for each in files]
        return {"files": given, "name": name, "raw": raw.decode(), "size": files[0].size}

    sent = [
        ("files", ("1.txt", b"one", "text/plain")),
        ("files", ("2.csv", b"two", "text/csv")),
        ("raw", ("raw", b"bytes")),
    ]
    with client_of(app) as client:
        answer = client.post("/", files=sent, data={"name": "\xfc"}).json()
    assert answer == {
        "files": [["1.txt", "text/plain", "one"], ["2.csv", "text/csv", "two"]],
        "name": "\xfc",
        "raw": "bytes",
        "size": 3,
    }


def test_a_response_that_the_view_shapes(app: FastAPI, client_of: ClientOf, download: Path) -> None:
    """W-OUT-7, A-OUT-1: headers and cookies on `Response`, a model's filter, a file, no content."""

    class Public(BaseModel):
        name: str

    @app.get("/", response_model=Public)
    def view(response: Response) -> dict[str, str]:
        response.headers["x-kind"] = "shaped"
        response.set_cookie("a", "1")
        response.set_cookie("b", "2", secure=True)
        response.status_code = 203
        return {"name": "ann", "password": "secret"}

    @app.delete("/", status_code=204)
    def delete() -> None:
        pass

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(download)

    with client_of(app) as client:
        response = client.get("/")
        assert (response.status_code, response.json()) == (203, {"name": "ann"})
        assert response.headers["x-kind"] == "shaped"
        cookies = [cookie.partition(";")[0] for cookie in response.headers.get_list("set-cookie")]
        assert cookies == ["a=1", "b=2"]
        gone = client.delete("/")
        assert (gone.status_code, gone.content) == (204, b"")
        assert client.get("/file").content == download.read_bytes()
        assert client.get("/nowhere").json() == {"detail": "Not Found"}


def test_a_stream(app: FastAPI, client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-2, W-OUT-4: the first event is at the client before the second is made."""

    @app.get("/")
    async def view() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    async def events() -> AsyncIterator[str]:
        yield "data: first\n\n"
        await gates.wait_for_client_async()
        yield "data: second\n\n"

    with client_of(app) as client, client.stream("GET", "/") as response:
        lines = response.iter_lines()
        assert next(lines) == "data: first"
        gates.first_chunk_arrived.set()
        assert [line for line in lines if line] == ["data: second"]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


# ---------------------------------------------------------------- around the requests


def test_background_tasks(app: FastAPI, client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-5: tasks of the view and of its dependency, of both kinds, in their order."""
    done: list[str] = []

    async def log(line: str) -> None:
        await asyncio.sleep(0)
        done.append(line)

    def audit(tasks: BackgroundTasks) -> None:
        tasks.add_task(log, "audit")

    @app.post("/", status_code=202, dependencies=[Depends(audit)])
    async def view(tasks: BackgroundTasks) -> str:
        tasks.add_task(done.append, "mail")
        tasks.add_task(log, line="log")
        tasks.add_task(gates.work_done.set)
        return "accepted"

    with client_of(app) as client:
        response = client.post("/")
        assert (response.status_code, response.json()) == (202, "accepted")
        wait_for(gates.work_done, "the background tasks did not end")
    assert done == ["audit", "mail", "log"]


def test_the_lifespan_and_its_state(client_of: ClientOf) -> None:
    """A-LOOP-2: a pool that startup made is in `request.state`, works, and is closed once."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        pool: asyncio.Queue[str] = asyncio.Queue()
        pool.put_nowait("connection")
        events.append("startup")
        yield {"pool": pool}
        events.append(f"shutdown with {pool.qsize()}")

    app = FastAPI(lifespan=lifespan)

    async def connection(request: Request) -> AsyncIterator[str]:
        taken = await request.state.pool.get()
        try:
            yield taken
        finally:
            request.state.pool.put_nowait(taken)

    @app.get("/")
    async def view(taken: Annotated[str, Depends(connection)]) -> str:
        return taken

    with client_of(app) as client:
        assert [client.get("/").json() for _ in range(3)] == ["connection"] * 3
    assert events == ["startup", "shutdown with 1"]


def test_middleware_routers_and_security(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1, A-OUT-1: a router under a prefix, behind a password, with a header on top."""
    basic = HTTPBasic(realm="site")
    router = APIRouter(prefix="/admin", dependencies=[Depends(basic)])

    @router.get("/{rest:path}")
    def admin(
        rest: str, request: Request, known: Annotated[HTTPBasicCredentials, Depends(basic)]
    ) -> list[str]:
        return [rest, known.username, request.url_for("admin", rest="x").path]

    @app.middleware("http")
    async def stamped(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = request.url.path
        return response

    app.include_router(router)
    with client_of(app) as client:
        refused = client.get("/admin/a/b")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == 'Basic realm="site"'
        answer = client.get("/admin/a/b", auth=("ann", "secret"))
    assert answer.json() == ["a/b", "ann", "/admin/x"]
    assert answer.headers["x-stamp"] == "/admin/a/b"


def test_a_mounted_app(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1: an app below an app has its own schema, under its own prefix."""
    below = FastAPI()

    @below.get("/where")
    def where(request: Request) -> list[str]:
        return [request.scope["root_path"], request.scope["path"]]

    app.mount("/below", below)
    with client_of(app) as client:
        assert client.get("/below/where").json() == ["/below", "/below/where"]
        schema = client.get("/below/openapi.json").json()
    assert schema["servers"] == [{"url": "/below"}]
