"""W-APP-1: `bridge.app` is the app, and may be set, on both classes."""

import threading
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    answered,
    app_returning,
    calling,
    http_scope,
    plain_app,
    serving,
    settle,
)
from tests.support.fake_wsgi_server import InThread, bridged, environ_for, on_every_backend, respond
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

other_app = app_returning([b"other"])


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await respond(send)


class Asgi2App:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None:
        await respond(send)


# --- reading


@pytest.mark.parametrize("app", [plain_app, f"{__name__}:other_app"], ids=["callable", "import"])
def test_w_app_is_the_app(app: Any) -> None:
    expected = other_app if isinstance(app, str) else app
    bridge = WSGIToASGI(plain_app)
    assert bridge.app is plain_app
    bridge.app = app
    assert bridge.app is WSGIToASGI(app).app is expected


@pytest.mark.parametrize(
    "app", [asgi_app, Asgi2App, f"{__name__}:asgi_app"], ids=["callable", "asgi 2", "import"]
)
def test_a_app_is_the_app(app: Any) -> None:
    """Also an ASGI 2 app, which the bridge itself calls in another way."""
    expected = asgi_app if isinstance(app, str) else app
    bridge = ASGIToWSGI(asgi_app)
    assert bridge.app is asgi_app
    bridge.app = app
    assert bridge.app is ASGIToWSGI(app).app is expected


# --- what is refused


@pytest.mark.parametrize(
    ("app", "error"),
    [(None, TypeError), (5, TypeError), ("nowhere", ValueError), ("no_such_module:a", ImportError)],
)
@pytest.mark.parametrize("bridge", [WSGIToASGI(plain_app), ASGIToWSGI(asgi_app)])
def test_what_the_constructor_refuses_is_refused(bridge: Any, app: Any, error: Any) -> None:
    """The old one stays."""
    before = bridge.app
    with pytest.raises(error):
        bridge.app = app
    assert bridge.app is before


def test_w_refuses_an_async_app() -> None:
    bridge = WSGIToASGI(plain_app)
    with pytest.raises(TypeError, match="an ASGI app; WSGIToASGI takes a WSGI app"):
        bridge.app = asgi_app
    assert bridge.app is plain_app


# --- setting it


async def test_w_the_next_request_runs_in_the_new_app() -> None:
    """A request in flight goes on in the old one."""
    entered, gate = Gate(), Gate()

    def held_app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"old "
        entered.open()
        gate.wait_in_thread()
        yield b"app"

    held, late = Client(), Client(http_scope(path="/late"))
    async with serving(held_app, workers=2) as bridge, calling(bridge, held):
        await entered.wait()
        await anyio.to_thread.run_sync(setattr, bridge, "app", other_app)
        await answered(bridge, late)
        gate.open()
    assert (held.body, late.body) == (b"old app", b"other")


async def test_w_a_middleware_may_be_put_around_it() -> None:
    """As Connexion does."""
    paths: list[str] = []

    def middleware(app: Any) -> Any:
        def wrapped(environ: Any, start_response: Any) -> Any:
            paths.append(environ["PATH_INFO"])
            return app(environ, start_response)

        return wrapped

    async with serving(plain_app) as bridge:
        assert (await answered(bridge)).body == b"hello"
        bridge.app = middleware(bridge.app)
        assert (await answered(bridge, Client(http_scope(path="/seen")))).body == b"hello"
    assert paths == ["/seen"]


async def test_w_a_loop_that_is_met_later_has_the_new_app() -> None:
    """One bridge in two loops, of which the second begins after the setting."""
    async with serving(plain_app) as bridge:
        await answered(bridge)
        bridge.app = other_app

        async def in_another_loop() -> bytes:
            return (await answered(bridge)).body

        async with anyio.create_task_group():
            body = await anyio.to_thread.run_sync(anyio.run, in_another_loop)
        assert body == b"other"
        assert (await answered(bridge)).body == b"other"


async def test_w_setting_it_while_many_requests_come() -> None:
    """Each request runs in one of the two apps, whole."""
    apps = [app_returning([b"one ", b"whole"]), app_returning([b"two ", b"whole"])]
    clients = [Client() for _ in range(60)]
    done = threading.Event()

    def set_again_and_again() -> None:
        while not done.is_set():
            for app in apps:
                bridge.app = app

    async with serving(apps[0], workers=4) as bridge:
        setter = InThread(set_again_and_again, "setter")
        async with calling(bridge, *clients):
            await settle()
        done.set()
        setter.result()
    assert {client.body for client in clients} <= {b"one whole", b"two whole"}


@on_every_backend
def test_a_the_next_request_runs_in_the_new_app(backend: Any) -> None:
    """A request in flight goes on in the old one."""
    entered, released = threading.Event(), threading.Event()

    async def held_app(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await anyio.to_thread.run_sync(released.wait, 10)
        await respond(send, b"old app")

    def call() -> bytes:
        return b"".join(bridge(environ_for(), lambda *_: lambda data: None))

    async def new_app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"new app")

    with bridged(held_app, backend) as bridge:
        held = InThread(call, "held")
        assert entered.wait(10)
        bridge.app = new_app
        assert call() == b"new app"
        released.set()
        assert held.result() == b"old app"
