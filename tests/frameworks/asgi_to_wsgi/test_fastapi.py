"""What FastAPI asks of a bridge beyond a page: lifespan state, dependencies, shared resources."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from tests.frameworks.gates import Gates, wait_for
from tests.frameworks.serving import SITE, caller_in_process
from wsgi_asgi_bridge import ASGIToWSGI

CALLERS = 4
CALLS = 40
POOL_SIZE = 2


class Item(BaseModel):
    name: str
    price: float


def test_lifespan_state_reaches_each_request() -> None:
    """A-LOOP-2: startup once before the first request, shutdown at close, state in every scope."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("startup")
        yield {"events": events}
        events.append("shutdown")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def view(request: Request) -> list[str]:
        return request.state.events

    with caller_in_process(app) as client:
        assert client.get("/").json() == ["startup"]
        assert client.get("/").json() == ["startup"]
    assert events == ["startup", "shutdown"]


def test_a_dependency_with_yield_is_left_after_its_view() -> None:
    """A-OUT-5: what follows `yield` runs, once, whether the view returns or raises."""
    app = FastAPI()
    events: list[str] = []

    async def resource() -> AsyncIterator[str]:
        events.append("open")
        try:
            yield "resource"
        finally:
            events.append("close")

    @app.get("/used")
    async def used(given: Annotated[str, Depends(resource)]) -> str:
        events.append(given)
        return given

    @app.get("/refused")
    async def refused(given: Annotated[str, Depends(resource)]) -> str:
        raise HTTPException(409, given)

    with caller_in_process(app) as client:
        assert client.get("/used").json() == "resource"
        assert client.get("/refused").status_code == 409
    assert events == ["open", "resource", "close", "open", "close"]


def test_a_sync_dependency_and_a_sync_view(gates: Gates) -> None:
    """A-LOOP-1: plain functions run in FastAPI's threads while the loop serves on."""
    app = FastAPI()

    def name_of_thread() -> str:
        return threading.current_thread().name

    @app.get("/")
    def view(dependency: Annotated[str, Depends(name_of_thread)]) -> list[str]:
        return [dependency, threading.current_thread().name]

    with caller_in_process(app) as client:
        names = client.get("/").json()
    assert len(names) == 2
    assert not any(name.startswith("wsgi_asgi_bridge-loop") for name in names)


def test_a_body_that_is_validated() -> None:
    """A-IN-1: JSON bodies are read and checked; a wrong one is 422 with its reason."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def add(item: Item) -> Item:
        return item

    with caller_in_process(app) as client:
        assert client.post("/items", json={"name": "a", "price": 1}).status_code == 201
        wrong = client.post("/items", json={"name": "a", "price": "much"})
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"] == ["body", "price"]


def test_background_tasks_run_in_their_order(gates: Gates) -> None:
    """A-OUT-5: background tasks run after the response, and their error harms no later request."""
    app = FastAPI()
    done: list[str] = []

    async def first() -> None:
        done.append("first")

    def second() -> None:
        done.append("second")
        gates.work_done.set()

    @app.get("/")
    async def view(tasks: BackgroundTasks) -> str:
        tasks.add_task(first)
        tasks.add_task(second)
        return "accepted"

    with caller_in_process(app) as client:
        assert client.get("/").json() == "accepted"
        wait_for(gates.work_done, "the background tasks did not run")
        assert done == ["first", "second"]
        assert client.get("/").json() == "accepted"


@pytest.fixture
def pooled() -> FastAPI:
    """An app whose requests share a pool of two tokens, a lock and a count."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = asyncio.Queue()
        for token in range(POOL_SIZE):
            app.state.pool.put_nowait(token)
        app.state.lock = asyncio.Lock()
        app.state.taken, app.state.most, app.state.count = 0, 0, 0
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def view(request: Request) -> int:
        state = request.app.state
        token = await state.pool.get()
        state.taken += 1
        state.most = max(state.most, state.taken)
        await asyncio.sleep(0.001)
        async with state.lock:
            count = state.count
            await asyncio.sleep(0)
            state.count = count + 1
        state.taken -= 1
        state.pool.put_nowait(token)
        return token

    return app


def test_four_threads_share_a_pool_and_a_lock(pooled: FastAPI) -> None:
    """A-LOOP-1: four calling threads, one loop: no token is given out twice, no count is lost."""

    def call(client: httpx.Client) -> int:
        return client.get("/").json()

    with ASGIToWSGI(pooled) as bridge, ThreadPoolExecutor(CALLERS) as threads:
        clients = [
            httpx.Client(transport=httpx.WSGITransport(bridge), base_url=SITE)
            for _ in range(CALLERS)
        ]
        tokens = list(threads.map(call, clients * (CALLS // CALLERS)))
        for client in clients:
            client.close()
    assert set(tokens) <= set(range(POOL_SIZE))
    assert pooled.state.count == CALLS
    assert pooled.state.most == POOL_SIZE
