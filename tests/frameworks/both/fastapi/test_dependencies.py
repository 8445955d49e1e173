"""FastAPI's dependencies, and what goes on around requests, natively and through both bridges."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
)
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from tests.frameworks.both.fastapi.conftest import ClientOf
from tests.frameworks.gates import Gates, wait_for

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
