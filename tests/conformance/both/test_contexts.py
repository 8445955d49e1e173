"""Context variables through one bridge and through both: what an app sets, and who sees it.

The rule. An app sees what its caller has set. A caller sees what the app had set when its response
began, from then on, and what it had set at its end, from then on; not in the tasks and threads
that the app started, which natively have contexts of their own. The next request sees nothing of
it. One caller is left out: a WSGI server's thread sees nothing of what an async app sets, since it
keeps its context for the next request, which may go to another app.
"""

import contextvars
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.both import asgi_behind_both, like, wsgi_behind_both
from tests.support.fake_asgi_server import (
    Client,
    Gate,
    answered,
    calling,
    http_scope,
    plain_app,
    serving,
)
from tests.support.fake_wsgi_server import (
    Backend,
    bridged,
    environ_for,
    finish,
    on_every_backend,
    respond,
    start,
    stream,
)

user: ContextVar[str] = ContextVar("user", default="nobody")
step: ContextVar[str] = ContextVar("step", default="none")


class AppFailure(Exception):
    """What the apps here raise."""


# --- WSGIToASGI alone


def app_in_steps(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Sets `step` in the call, between the blocks and in close()."""
    assert user.get() == "set outside"
    user.set("set inside")
    step.set("call")
    start_response("200 OK", [("Content-Type", "text/plain")])

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            step.set("first block")
            yield b"1"
            step.set("second block")
            yield b"2"

        def close(self) -> None:
            step.set("close")

    return Body()  # type: ignore[return-value]


async def test_middleware_around_a_wsgi_app_sees_what_it_set(anyio_backend_name: str) -> None:
    """W-CALL-2: from the response's start on in `send`, and after the call."""
    seen: list[tuple[str, str]] = []

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def noting_send(message: Any) -> None:
            seen.append((user.get(), step.get()))
            await send(message)

        user.set("set outside")
        await bridge(scope, receive, noting_send)
        seen.append((user.get(), step.get()))

    async with serving(app_in_steps) as bridge:
        assert (await answered(middleware)).body == b"12"
    assert seen[0] == ("set inside", "first block")
    assert seen[-1] == ("set inside", "close")


@pytest.mark.parametrize("when", ["before the response", "in mid-stream"])
async def test_middleware_sees_what_an_app_set_that_raised(when: str) -> None:
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if when == "before the response":
            user.set("who failed")
            raise AppFailure
        start_response("200 OK", [])

        def body() -> Iterator[bytes]:
            yield b"so far"
            user.set("who failed")
            raise AppFailure

        return body()

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        try:
            await bridge(scope, receive, send)
        except AppFailure:
            seen.append(user.get())

    async with serving(app) as bridge:
        client = Client()
        await client.run(middleware)
    assert seen == ["who failed"]


async def test_what_an_app_takes_back_is_taken_back_for_its_caller() -> None:
    """As frameworks do with their request contexts, which live as long as a stream does."""
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        token = user.set("while streaming")
        start_response("200 OK", [])
        yield b"1"
        user.reset(token)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def noting_send(message: Any) -> None:
            seen.append(user.get())
            await send(message)

        await bridge(scope, receive, noting_send)
        seen.append(user.get())
        assert user not in contextvars.copy_context()

    async with serving(app) as bridge:
        await answered(middleware)
    assert seen[0] == "while streaming"
    assert seen[-1] == "nobody"


async def test_what_the_caller_sets_meanwhile_is_not_overwritten() -> None:
    go_on = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        user.set("inside")
        start_response("200 OK", [])
        yield b"1"
        go_on.wait_in_thread()
        yield b"2"

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def setting_send(message: Any) -> None:
            user.set("the middleware's")
            await send(message)
            if message.get("body"):
                go_on.open()

        await bridge(scope, receive, setting_send)
        assert user.get() == "the middleware's"

    async with serving(app) as bridge:
        assert (await answered(middleware)).body == b"12"


async def test_next_request_of_the_same_task_sees_nothing_of_the_last() -> None:
    """W-CALL-2: also where a client, as tests use them, makes all its requests in one task."""
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(user.get())
        user.set("of another request")
        return plain_app(environ, start_response)

    async with serving(app, workers=1) as bridge:
        for _ in range(3):
            await answered(bridge)
            assert user.get() == "of another request"
    assert seen == ["nobody"] * 3


async def test_requests_at_once_do_not_see_each_other() -> None:
    """W-CALL-2."""
    gate = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        user.set(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/7":
            gate.open()
        gate.wait_in_thread()
        start_response("200 OK", [])
        return [user.get().encode()]

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        assert user.get() == "nobody"
        await bridge(scope, receive, send)
        assert user.get() == scope["path"]

    async with serving(app) as bridge:
        clients = [Client(http_scope(path=f"/{number}")) for number in range(8)]
        async with calling(middleware, *clients):
            pass
    assert [client.body for client in clients] == [b"/%d" % number for number in range(8)]


# --- ASGIToWSGI alone


@on_every_backend
def test_a_servers_thread_keeps_nothing_of_what_an_async_app_set(backend: Backend) -> None:
    """A-LOOP-3: an async app counts on a context of its own for each request; who is logged in must
    not be told to the next one.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert user.get() == "set outside"
        user.set("set inside")
        await respond(send, b"ok")

    def caller() -> None:
        user.set("set outside")
        for _ in range(2):
            assert b"".join(bridge(environ_for(), lambda *_: None)) == b"ok"
            assert user.get() == "set outside"

    with bridged(app, backend) as bridge:
        contextvars.copy_context().run(caller)


# --- both, around a WSGI app


def consumed(app: Any) -> list[tuple[str, str]]:
    """What the caller of a WSGI app sees after the call, each block, and close()."""
    seen: list[tuple[str, str]] = []

    def note() -> None:
        seen.append((user.get(), step.get()))

    def caller() -> None:
        user.set("set outside")
        result = app(environ_for(), lambda *_: None)
        note()
        for _ in result:
            note()
        getattr(result, "close", lambda: None)()
        note()

    contextvars.copy_context().run(caller)
    return seen


@on_every_backend
def test_the_callers_thread_sees_what_a_wsgi_app_set_behind_both(backend: Backend) -> None:
    """As without bridges, at the points that the rule names."""
    native = consumed(app_in_steps)
    with wsgi_behind_both(app_in_steps, backend) as both:
        through_both = consumed(both)
    assert native[-1] == through_both[-1] == ("set inside", "close")
    assert native[0] == ("set inside", "call")
    assert through_both[0][0] == "set inside"


@on_every_backend
def test_a_list_tells_its_caller_as_well(backend: Backend) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        user.set("set inside")
        return plain_app(environ, start_response)

    with wsgi_behind_both(app, backend) as both:
        assert {who for who, _ in consumed(both)} == {"set inside"}


@on_every_backend
def test_an_app_that_raised_behind_both_tells_its_caller(backend: Backend) -> None:
    failure = AppFailure()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        user.set("who failed")
        raise failure

    def caller() -> None:
        with pytest.raises(AppFailure) as raised:
            both(environ_for(), lambda *_: None)
        assert raised.value is failure
        assert user.get() == "who failed"

    with wsgi_behind_both(app, backend) as both:
        contextvars.copy_context().run(caller)


@on_every_backend
def test_middleware_in_the_middle_sees_it_from_whichever_task(
    backend: Backend,
) -> None:
    """A middleware that runs the app in a task of its own sees nothing itself, as natively; the
    thread outside does.
    """
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        user.set("set inside")
        return plain_app(environ, start_response)

    def in_a_task(inner: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(inner, scope, receive, send)
            seen.append(user.get())

        return middleware

    with wsgi_behind_both(app, backend, middle=in_a_task) as both:
        assert consumed(both)[-1][0] == "set inside"
    assert seen == ["set outside"]


@on_every_backend
def test_servers_thread_takes_nothing_from_one_request_to_next(backend: Backend) -> None:
    """W-CALL-2."""
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(user.get())
        user.set("of another request")
        return plain_app(environ, start_response)

    def caller() -> None:
        for _ in range(3):
            assert b"".join(both(environ_for(), lambda *_: None)) == b"hello"
            assert user.get() == "of another request"

    with wsgi_behind_both(app, backend) as both:
        contextvars.copy_context().run(caller)
    assert seen == ["nobody"] * 3


@on_every_backend
def test_what_async_middleware_in_middle_sets_stays_in_the_loop(backend: Backend) -> None:
    """It is an async app's, and the server's thread goes on to the next request."""

    def middle(inner: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            step.set("of the middle")
            await inner(scope, receive, send)

        return middleware

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert step.get() == "of the middle"
        user.set("set inside")
        return plain_app(environ, start_response)

    with wsgi_behind_both(app, backend, middle=middle) as both:
        assert consumed(both)[-1] == ("set inside", "none")


# --- both, around an ASGI app


Setting = Callable[[Any, Any, Any], Any]


async def asgi_app_in_steps(scope: Any, receive: Any, send: Any) -> None:
    """Sets `step` before each message and after the last."""
    assert user.get() == "set outside"
    user.set("set inside")
    step.set("start")
    await start(send)
    step.set("first part")
    await stream(send, b"1")
    step.set("last part")
    await finish(send, b"2")


async def test_middleware_around_asgi_app_sees_what_it_set_behind_both(
    anyio_backend: Any,
) -> None:
    seen: list[tuple[str, str]] = []

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def noting_send(message: Any) -> None:
            seen.append((user.get(), step.get()))
            await send(message)

        user.set("set outside")
        await inside(scope, receive, noting_send)
        seen.append((user.get(), step.get()))

    inside: Any = asgi_app_in_steps
    assert (await answered(middleware)).body == b"12"
    native, seen = seen, []
    async with asgi_behind_both(asgi_app_in_steps, like(anyio_backend)) as both:
        inside = both
        assert (await answered(middleware)).body == b"12"
    assert native[-1] == seen[-1] == ("set inside", "last part")
    assert native[0][0] == seen[0][0] == "set inside"


async def test_an_asgi_app_that_raised_behind_both_tells_its_caller(anyio_backend: Any) -> None:
    failure = AppFailure()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user.set("who failed")
        raise failure

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        try:
            await both(scope, receive, send)
        except AppFailure:
            seen.append(user.get())

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        await Client().run(middleware)
    assert seen == ["who failed"]


async def test_what_a_task_of_the_asgi_app_sets_is_its_own(anyio_backend: Any) -> None:
    async def in_a_task(send: Any) -> None:
        user.set("a task's own")
        await respond(send, b"ok")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(in_a_task, send)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        await answered(both)
        assert user.get() == "nobody"


async def test_next_request_of_the_same_task_sees_nothing_through_both(
    anyio_backend: Any,
) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(user.get())
        user.set("of another request")
        await respond(send, b"ok")

    async with asgi_behind_both(app, like(anyio_backend), workers=1) as both:
        for _ in range(3):
            await answered(both)
            assert user.get() == "of another request"
    assert seen == ["nobody"] * 3


# --- and deeper


@on_every_backend
def test_servers_thread_keeps_nothing_of_async_app_behind_three(backend: Backend) -> None:
    """A-LOOP-3: its caller is a worker, but who hears it in the end is the server's thread, which
    would hear nothing without both bridges around.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user.set("set inside")
        await respond(send, b"ok")

    with bridged(app, backend) as innermost:
        native = consumed(innermost)
        with wsgi_behind_both(innermost, backend) as triple:
            assert {who for who, _ in consumed(triple)} == {who for who, _ in native}
    assert native[-1][0] == "set outside"


async def test_three_bridges_tell_it_from_innermost_to_the_outermost(
    anyio_backend: Any,
) -> None:
    """A WSGI app behind three, whose outermost caller is a task."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert user.get() == "set outside"
        user.set("set inside")
        return plain_app(environ, start_response)

    async with (
        serving(app) as innermost,
        asgi_behind_both(innermost, like(anyio_backend)) as triple,
    ):
        user.set("set outside")
        assert (await answered(triple)).body == b"hello"
        assert user.get() == "set inside"
        await anyio.to_thread.run_sync(innermost.close)
