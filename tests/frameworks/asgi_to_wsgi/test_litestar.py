"""What Litestar asks of a bridge beyond a page: its lifespan, dependencies, and event streams."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, get
from litestar.di import NamedDependency, Provide
from litestar.response import ServerSentEvent

from tests.frameworks.serving import caller_in_process


def test_lifespan_hooks_and_state() -> None:
    """A-LOOP-2: lifespan contexts and hooks run once, around all requests."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.events = events
        events.append("startup")
        yield
        events.append("shutdown")

    @get("/")
    async def view(request: Request[Any, Any, Any]) -> list[str]:
        return request.app.state.events

    with caller_in_process(Litestar([view], lifespan=[lifespan], logging_config=None)) as client:
        assert client.get("/").json() == ["startup"]
    assert events == ["startup", "shutdown"]


def test_a_dependency_that_yields() -> None:
    """A-OUT-5: a generator dependency is closed after its request."""
    events: list[str] = []

    async def resource() -> AsyncIterator[str]:
        events.append("open")
        yield "resource"
        events.append("close")

    @get("/", dependencies={"given": Provide(resource)})
    async def view(given: NamedDependency[str]) -> str:
        events.append(given)
        return given

    with caller_in_process(Litestar([view], logging_config=None)) as client:
        assert client.get("/").text == "resource"
    assert events == ["open", "resource", "close"]


def test_server_sent_events() -> None:
    """A-OUT-2: an event stream arrives event by event and ends."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @get("/", sync_to_thread=False)
    def view() -> ServerSentEvent:
        return ServerSentEvent(numbers())

    with caller_in_process(Litestar([view], logging_config=None)) as client:
        response = client.get("/")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [line for line in response.text.splitlines() if line] == [
        "data: 0",
        "data: 1",
        "data: 2",
    ]
