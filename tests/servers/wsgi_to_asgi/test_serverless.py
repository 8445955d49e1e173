"""`WSGIToASGI` in a Lambda function, by Mangum: its handler is called with recorded events."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from mangum import Mangum

from tests.support.lambda_events import EVENTS, Context, body_of
from wsgi_asgi_bridge import WSGIToASGI

DATA = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def event_loop_of_the_function() -> Iterator[None]:
    """The main thread's, in which the runtime calls the handler."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(params=["auto", "off"])
def lifespan(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def bridge() -> Iterator[WSGIToASGI]:
    app = flask.Flask(__name__)

    @app.post("/echo")
    def echo() -> flask.Response:
        data = flask.request.get_data()
        assert flask.request.args.to_dict() == {"a": "b c"}
        assert flask.request.remote_addr == "192.0.2.1"
        assert flask.request.headers["X-Name"] == "value"
        response = flask.Response(data, mimetype="application/octet-stream")
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        return response

    @app.get("/stream")
    def stream() -> flask.Response:
        return flask.Response((b"%d\n" % number for number in range(100)), mimetype="text/plain")

    @app.get("/fails")
    def fails() -> str:
        raise LookupError("no such thing")

    bridge = WSGIToASGI(app)
    yield bridge
    bridge.close()


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_requests(bridge: WSGIToASGI, event: Callable[..., Any], lifespan: Any) -> None:
    """W-CALL-1, W-IN-1, W-OUT-7, W-LIFE-1: one call after the other, with or without a lifespan
    around each.
    """
    handler = Mangum(bridge, lifespan=lifespan)
    for number in range(3):
        data = DATA + b"%d" % number
        request = event("POST", "/echo", "a=b%20c", data, **{"x-name": "value"})
        answer = handler(request, Context())
        assert (answer["statusCode"], body_of(answer)) == (200, data)
        assert [name for name in ("one=1", "two=2") if name in str(answer)] == ["one=1", "two=2"]
        answer = handler(event("GET", "/stream"), Context())
        assert body_of(answer) == b"".join(b"%d\n" % number for number in range(100))
    stats = bridge.stats()
    assert (stats.completed, stats.in_flight, stats.failed) == (6, 0, 0)
    assert (stats.threads > 0) == (lifespan == "off")


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_an_error_page(bridge: WSGIToASGI, event: Callable[..., Any]) -> None:
    """W-CALL-3: Flask's own, and the function goes on."""
    handler = Mangum(bridge, lifespan="off")
    answer = handler(event("GET", "/fails"), Context())
    assert (answer["statusCode"], b"Internal Server Error" in body_of(answer)) == (500, True)
    assert handler(event("GET", "/stream"), Context())["statusCode"] == 200
