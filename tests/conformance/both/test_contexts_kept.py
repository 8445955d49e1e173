"""Context variables of requests that share a context, and when what an app set is free again."""

import contextvars
import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.both import asgi_behind_both, like, plainly, wsgi_behind_both
from tests.support.fake_asgi_server import (
    Client,
    answered,
    http_scope,
    plain_app,
    serving,
)
from tests.support.fake_wsgi_server import (
    Backend,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    respond,
)
from tests.support.interpreter import frees_at_once

user: ContextVar[str] = ContextVar("user", default="nobody")


class AppFailure(Exception):
    """What the apps here raise."""


# --- requests that share a context


def naming_itself(seen: list[str]) -> Any:
    """A WSGI app that notes which user it finds, and leaves its path there."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        seen.append(user.get())
        user.set(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"hello"

    return app


@on_every_backend
def test_request_within_another_of_same_thread_leaves_nothing(backend: Backend) -> None:
    """W-CALL-2: as a WSGI middleware makes it, for an error page. Who is closed last is not all
    that there is to forget.
    """
    seen: list[str] = []

    def caller() -> None:
        first = both(environ_for("/first"), lambda *_: None)
        second = both(environ_for("/second"), lambda *_: None)
        assert b"".join(second) == b"hello"
        second.close()
        assert b"".join(first) == b"hello"
        first.close()
        assert b"".join(both(environ_for("/third"), lambda *_: None)) == b"hello"

    with wsgi_behind_both(naming_itself(seen), backend) as both:
        contextvars.copy_context().run(caller)
    assert seen == ["nobody"] * 3


@on_every_backend
@pytest.mark.parametrize("who", ["the server", "the middle"])
def test_servers_thread_keeps_nothing_of_app_that_was_given_up(backend: Backend, who: str) -> None:
    """W-CALL-2: as of Flask's `stream_with_context`, which holds its request while it streams, and
    lets go of it when it is closed; but nobody waits for that.
    """
    go_on, closed = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        token = user.set("while streaming")
        try:
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"first"
            must_happen(go_on, "the end of the server's close()")
            yield b"second"
        finally:
            user.reset(token)
            closed.set()

    def impatient(inner: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            with anyio.CancelScope() as patience:

                async def first_part(message: Any) -> None:
                    await send(message | {"more_body": True})
                    if message.get("body"):
                        patience.cancel()

                await inner(scope, receive, first_part)
            await finish(send, b" is all")

        return middleware

    def caller() -> None:
        result = both(environ_for(), lambda *_: None)
        parts = iter(result)
        body = next(parts)
        assert user.get() == "while streaming"
        if who == "the middle":
            assert b"".join([body, *parts]) == b"first is all"
        result.close()
        assert user.get() == "nobody"

    with wsgi_behind_both(
        app, backend, middle=impatient if who == "the middle" else plainly
    ) as both:
        try:
            contextvars.copy_context().run(caller)
        finally:
            go_on.set()
        must_happen(closed, "the end of the app")


@on_every_backend
def test_a_response_closed_in_another_thread_leaves_nothing(
    backend: Backend,
) -> None:
    """W-CALL-2: some servers do, and that thread's next request may be anybody's."""
    seen: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"hello"

        def close(self) -> None:
            user.set("who closed")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(user.get())
        user.set("who called")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Body()

    def elsewhere() -> None:
        response.close()
        assert user.get() == "who closed"
        both(environ_for(), lambda *_: None).close()

    with wsgi_behind_both(app, backend) as both:
        response = both(environ_for(), lambda *_: None)
        assert b"".join(response) == b"hello"
        contextvars.Context().run(elsewhere)
    assert seen == ["nobody"] * 2


async def test_a_request_in_a_task_of_the_last_ones_task_sees_nothing() -> None:
    """W-CALL-2: as a client makes several at once, after one that logged in; nor does the next in
    the first task.
    """
    seen: list[str] = []

    async with serving(naming_itself(seen)) as bridge:
        await answered(bridge, Client(http_scope(path="/login")))
        async with anyio.create_task_group() as group:
            for path in ("/a", "/b"):
                group.start_soon(answered, bridge, Client(http_scope(path=path)))
        await answered(bridge, Client(http_scope(path="/logout")))
    assert seen == ["nobody"] * 4


# --- what is kept


class Kept:
    """What an app puts into a variable."""


kept: ContextVar[Any] = ContextVar("kept")


@contextmanager
def no_collector() -> Iterator[None]:
    """What is free in it was not in a cycle."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@frees_at_once
async def test_what_an_app_set_is_free_with_the_context_of_its_request() -> None:
    """As without a bridge: it need not wait for the garbage collector."""
    values: list[weakref.ref[Kept]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        value = environ["test.kept"] = Kept()
        values.append(weakref.ref(value))
        kept.set((value, environ))
        return plain_app(environ, start_response)

    async with serving(app) as bridge:
        with no_collector():
            async with anyio.create_task_group() as group:
                group.start_soon(answered, bridge)
            # The worker lets go of its request a moment after the answer.
            await anyio.to_thread.run_sync(
                must_become, lambda: values[0]() is None, "the end of the value"
            )


@frees_at_once
@on_every_backend
@pytest.mark.parametrize("ending", ["answers", "raises"])
def test_what_an_async_app_set_is_free_with_its_request(backend: Backend, ending: str) -> None:
    """Also where it is the request itself."""
    values: list[weakref.ref[Kept]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        value = scope["test.kept"] = Kept()
        values.append(weakref.ref(value))
        kept.set((value, scope, receive, send))
        if ending == "raises":
            raise AppFailure
        await respond(send, b"ok")

    with bridged(app, backend) as bridge, no_collector():
        with suppress(AppFailure):
            assert b"".join(bridge(environ_for(), lambda *_: None)) == b"ok"
        # The loop lets go of its task a moment after the answer.
        must_become(lambda: values[0]() is None, "the end of the value")


@frees_at_once
async def test_what_an_async_app_set_behind_both_goes_with_its_request(
    anyio_backend: Any,
) -> None:
    values: list[weakref.ref[Kept]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        value = scope["test.kept"] = Kept()
        values.append(weakref.ref(value))
        kept.set((value, scope, receive, send))
        await respond(send, b"ok")

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        with no_collector():
            async with anyio.create_task_group() as group:
                group.start_soon(answered, both)
            await anyio.to_thread.run_sync(
                must_become, lambda: values[0]() is None, "the end of the value"
            )


@frees_at_once
@on_every_backend
@pytest.mark.parametrize("ending", ["answers", "raises", "raises late"])
def test_what_app_set_behind_both_is_free_after_the_next_request(
    backend: Backend, ending: str
) -> None:
    values: list[weakref.ref[Kept]] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        value = environ["test.kept"] = Kept()
        values.append(weakref.ref(value))
        kept.set((value, environ))
        if ending == "raises":
            raise AppFailure
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"hello"
        if ending == "raises late":
            raise AppFailure

    def caller() -> None:
        for _ in range(3):
            exchange = None
            try:
                exchange = both(environ_for(), lambda *_: None)
                b"".join(exchange)
            except AppFailure:
                pass
            if exchange is not None:
                exchange.close()
        must_become(lambda: [value() for value in values[:2]] == [None] * 2, "their end")

    with wsgi_behind_both(app, backend) as both, no_collector():
        contextvars.copy_context().run(caller)
