"""`ASGIToWSGI` in a Lambda function, by apig-wsgi: its handler is called with recorded events."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from apig_wsgi import make_lambda_handler
from fastapi import BackgroundTasks, FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from tests.support.lambda_events import EVENTS, Context, body_of
from wsgi_asgi_bridge import ASGIToWSGI

DATA = bytes(range(256)) * 1000


class Site:
    """A FastAPI app, and what has happened in it."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.app = FastAPI(lifespan=self.lifespan)
        self.app.post("/echo")(self.echo)
        self.app.get("/stream")(self.stream)
        self.app.get("/work")(self.work)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.happened.append("startup")
        yield
        self.happened.append("shutdown")

    async def echo(self, request: Request) -> Response:
        assert dict(request.query_params) == {"a": "b c"}
        assert request.client is not None
        assert request.client.host == "192.0.2.1"
        assert request.headers["x-name"] == "value"
        response = Response(await request.body(), media_type="application/octet-stream")
        response.set_cookie("one", "1")
        return response

    async def stream(self) -> StreamingResponse:
        return StreamingResponse((b"%d\n" % number for number in range(100)), media_type="text/a")

    async def work(self, background: BackgroundTasks) -> str:
        background.add_task(self.happened.append, "worked")
        return "accepted"


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def bridge(site: Site) -> Iterator[ASGIToWSGI]:
    # A function is frozen when it has answered, so its work has to be over by then.
    with ASGIToWSGI(site.app, background_wait=10.0) as bridge:
        yield bridge
    assert site.happened[0] == "startup"
    assert site.happened[-1] == "shutdown"


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_requests(bridge: ASGIToWSGI, event: Callable[..., Any]) -> None:
    """A-SCOPE-2, A-IN-1, A-OUT-1, A-LOOP-1: one call after the other in one loop."""
    handler = make_lambda_handler(bridge, binary_support=True)
    for number in range(3):
        data = DATA + b"%d" % number
        request = event("POST", "/echo", "a=b%20c", data, **{"x-name": "value"})
        answer = handler(request, Context())
        assert (answer["statusCode"], body_of(answer)) == (200, data)
        assert "one=1" in str(answer)
        answer = handler(event("GET", "/stream"), Context())
        assert body_of(answer) == b"".join(b"%d\n" % number for number in range(100))
    stats = bridge.stats()
    assert (stats.completed, stats.in_flight, stats.background) == (6, 0, 0)


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_background_work_is_over_when_the_function_returns(
    bridge: ASGIToWSGI, site: Site, event: Callable[..., Any]
) -> None:
    """A-OUT-9"""
    handler = make_lambda_handler(bridge)
    assert body_of(handler(event("GET", "/work"), Context())) == b'"accepted"'
    assert site.happened == ["startup", "worked"]
