"""D-2: a context variable that an app sets and resets around its response is reset for the caller
too, when the call returns through both bridges.
"""

import contextvars
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.both import asgi_behind_both, like, wsgi_behind_both
from tests.support.fake_asgi_server import Client, answered
from tests.support.fake_wsgi_server import (
    Backend,
    Gate,
    environ_for,
    finish,
    on_every_backend,
    respond,
    start,
    stream,
)

cache: ContextVar[str] = ContextVar("cache", default="none")
user: ContextVar[str] = ContextVar("user", default="nobody")

Answer = Callable[[Any], Any]


class AppFailure(Exception):
    """What the apps here raise."""


async def whole(send: Any) -> None:
    await respond(send, b"12")


async def in_parts(send: Any) -> None:
    await start(send)
    await stream(send, b"1")
    await finish(send, b"2")


async def error_page(send: Any) -> None:
    await respond(send, b"12", status=500)
    raise AppFailure


def resetting(answer: Answer, *, turns: int = 0) -> Any:
    """Sets `cache` around its response, as datasette does with what it knows of permissions, and
    `user` for good.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user.set("ann")
        token = cache.set("of one request")
        try:
            await answer(send)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        finally:
            cache.reset(token)

    return app


@pytest.mark.parametrize("turns", [0, 6])
@pytest.mark.parametrize("answer", [whole, in_parts, error_page], ids=lambda way: way.__name__)
async def test_what_an_asgi_app_resets_is_reset_for_its_caller(
    anyio_backend: Any, answer: Answer, turns: int
) -> None:
    """D-2: also some turns of the loop later, as behind a framework's middleware."""
    async with asgi_behind_both(resetting(answer, turns=turns), like(anyio_backend)) as both:
        client = Client()
        await client.run(both)
        assert client.body == b"12"
        assert cache not in contextvars.copy_context()
        assert user.get() == "ann"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_middle_sees_it_reset_when_the_call_returns(
    anyio_backend: Any, method: str
) -> None:
    """D-2: a WSGI middleware, in the worker's thread."""
    seen: list[str] = []

    def noting(inner: Any) -> Any:
        def middle(environ: Any, start_response: Any) -> Any:
            result = inner(environ, start_response)
            seen.append(cache.get())
            return result

        return middle

    async with asgi_behind_both(resetting(whole), like(anyio_backend), middle=noting) as both:
        client = Client()
        client.scope["method"] = method
        await answered(both, client)
    assert seen == ["none"]


async def test_what_an_app_that_goes_on_may_still_reset_is_not_kept(anyio_backend: Any) -> None:
    """D-2, A-OUT-5: nobody waits for background work, and nobody can say later what it reset."""
    go_on = Gate()

    async def with_background_work(send: Any) -> None:
        await respond(send, b"12")
        await go_on.wait()

    async with asgi_behind_both(resetting(with_background_work), like(anyio_backend)) as both:
        assert (await answered(both)).body == b"12"
        assert cache not in contextvars.copy_context()
        assert user not in contextvars.copy_context()
        await anyio.to_thread.run_sync(go_on.open)


@on_every_backend
def test_what_a_wsgi_app_resets_in_close_is_reset_for_its_caller(backend: Backend) -> None:
    """D-2."""

    class Body:
        def __init__(self, token: Any) -> None:
            self._token = token
            self._parts = iter([b"1", b"2"])

        def __iter__(self) -> Any:
            return self._parts

        def close(self) -> None:
            cache.reset(self._token)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Body(cache.set("of one request"))

    def caller() -> None:
        result: Any = both(environ_for(), lambda *_: None)
        assert b"".join(result) == b"12"
        result.close()
        assert cache not in contextvars.copy_context()

    with wsgi_behind_both(app, backend) as both:
        contextvars.copy_context().run(caller)
