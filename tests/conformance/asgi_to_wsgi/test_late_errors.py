"""A-OUT-8: what an app raises right after its own 5xx comes out of `close()`; after any other
response it is logged. A response is whole either way.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from asgiref.sync import sync_to_async

from tests.support.both import asgi_behind_both, like
from tests.support.fake_asgi_server import Client
from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    InThread,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
)
from wsgi_asgi_bridge import AppError, ClientDisconnected
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread
from wsgi_asgi_bridge.asgi_to_wsgi import app_task

Backend = dict[str, Any]


class AppFailure(Exception):
    """What the apps here raise."""


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The messages that the bridge has logged as errors."""
    caplog.set_level(logging.ERROR, "wsgi_asgi_bridge")
    return lambda: [record.getMessage() for record in caplog.records]


def failing(
    failure: BaseException,
    *,
    status: int = 500,
    parts: tuple[bytes, ...] = (b"sorry",),
    turns: int = 0,
    before: Callable[[], object] = lambda: None,
) -> Any:
    """An app that answers in `parts`, and raises `failure` after some turns of the loop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, status)
        for part in parts[:-1]:
            await stream(send, part)
        before()
        await finish(send, parts[-1])
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        raise failure

    return app


@on_every_backend
@pytest.mark.parametrize("turns", [0, 1, 6])
@pytest.mark.parametrize("parts", [(b"sorry",), (b"so", b"rry"), (b"",)], ids=len)
def test_an_error_right_after_a_5xx_comes_out_of_close(
    backend: Backend, turns: int, parts: Any, logged: Any
) -> None:
    """A-OUT-8: the very exception, behind a whole response."""
    failure = AppFailure()
    with bridged(failing(failure, parts=parts, turns=turns), backend) as bridge:
        exchange = serve(bridge)
    assert (exchange.error, exchange.error_phase) == (failure, "close")
    assert exchange.complete
    assert b"".join(exchange.chunks) == b"".join(parts)
    # A server would have said the length of a list, and this is none.
    length = [str(len(parts[0]))] if len(parts) == 1 else []
    assert exchange.header_values("content-length") == length
    assert logged() == []


@on_every_backend
def test_close_raises_it_once(backend: Backend) -> None:
    """A-OUT-8."""
    failure = AppFailure()
    with bridged(failing(failure, status=599), backend) as bridge:
        result: Any = bridge(environ_for(), lambda *_: None)
        with pytest.raises(AppFailure):
            result.close()
        result.close()


@on_every_backend
@pytest.mark.parametrize("parts", [(b"sorry",), (b"so", b"rry")], ids=len)
def test_an_error_after_the_answer_to_a_head(backend: Backend, parts: Any, logged: Any) -> None:
    """A-OUT-8: as after that to a GET."""
    failure = AppFailure()
    with bridged(failing(failure, parts=parts), backend) as bridge:
        exchange = serve(bridge, environ_for(method="HEAD"))
    assert (exchange.error, exchange.error_phase) == (failure, "close")
    assert exchange.complete
    assert exchange.chunks == []
    assert logged() == []


@on_every_backend
@pytest.mark.parametrize("status", [200, 302, 404, 499, 600])
def test_an_error_after_another_response_is_logged(
    backend: Backend, status: int, logged: Any
) -> None:
    """A-OUT-5, A-OUT-8."""
    with bridged(failing(AppFailure(), status=status), backend) as bridge:
        assert serve(bridge).result == [b"sorry"]
        must_become(lambda: bridge.stats().background == 0, "the end of the app")
    assert logged() == ["the app raised after its response had ended"]


@on_every_backend
def test_background_work_after_a_5xx_does_not_hold_the_thread(
    backend: Backend, logged: Any
) -> None:
    """A-OUT-5, A-OUT-8: it is waited for a few turns of the loop, and logged."""
    go_on = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"sorry", status=503)
        await go_on.wait()
        raise AppFailure

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"sorry"
        assert type(exchange.result) is list
        assert bridge.stats().background == 1
        go_on.open()
        must_become(lambda: bridge.stats().background == 0, "the end of the app")
    assert logged() == ["the app raised after its response had ended"]


@on_every_backend
def test_a_5xx_without_an_error_is_a_list(backend: Backend) -> None:
    """A-OUT-7, A-OUT-8."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"sorry", status=503)

    with bridged(app, backend) as bridge:
        assert serve(bridge).result == [b"sorry"]
        assert bridge.stats().completed == 1


@on_every_backend
def test_what_ends_a_process_is_wrapped(backend: Backend) -> None:
    """A-OUT-4, A-OUT-8."""
    with bridged(failing(SystemExit(3)), backend) as bridge:
        exchange = serve(bridge)
    assert exchange.complete
    assert exchange.error_phase == "close"
    assert isinstance(exchange.raised(), AppError)
    assert isinstance(exchange.raised().__cause__, SystemExit)


@on_every_backend
def test_that_the_client_had_left_is_no_error(backend: Backend, logged: Any) -> None:
    """A-OUT-3, A-OUT-8."""
    with bridged(failing(ClientDisconnected()), backend) as bridge:
        assert serve(bridge).body == b"sorry"
    assert logged() == []


@on_every_backend
def test_a_server_that_closes_early_gets_it_or_it_is_logged(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    """A-OUT-8: one of both, whichever step of the loop the server's `close()` comes between."""
    results: list[Any] = []
    raised: list[BaseException | None] = []

    def close_elsewhere() -> None:
        closing = InThread(results.pop().close, "close()")
        closing.thread.join()
        raised.append(closing.error)

    def closing_before(step: str) -> None:
        original = getattr(CallingThread, step)

        def late(self: CallingThread, *args: Any, **options: Any) -> Any:
            if results and (step != "put_in_loop" or options.get("last")):
                close_elsewhere()
            return original(self, *args, **options)

        monkeypatch.setattr(CallingThread, step, late)

    for step, logs in (("follow_with_error_in_loop", 1), ("put_in_loop", 0)):
        closing_before(step)
        taken = Gate()

        async def app(scope: Any, receive: Any, send: Any, taken: Gate = taken) -> None:
            await start(send, 500)
            await stream(send, b"so")
            await taken.wait()
            await finish(send, b"rry")
            raise AppFailure

        with bridged(app, backend) as bridge:
            results.append(bridge(environ_for(), lambda *_: None))
            taken.open()
            must_become(lambda: bridge.stats().completed == 1, "the last part")
            must_become(lambda: bridge.stats().background == 0, "the end of the app")
        monkeypatch.undo()
        assert [type(error) for error in raised] == [type(None) if logs else AppFailure]
        assert len(logged()) == 1
        raised.clear()


@on_every_backend
@pytest.mark.parametrize("parts", [(b"sorry",), (b"so", b"rry")], ids=len)
def test_response_that_is_held_back_is_whole_when_bridge_closes(
    backend: Backend, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-OUT-5, A-OUT-8: the app goes on, no turn has come, and it is cancelled."""
    sent = threading.Event()
    monkeypatch.setattr(app_task.HeldEnd, "count_turns", lambda self: None)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 500)
        for part in parts[:-1]:
            await stream(send, part)
        await finish(send, parts[-1])
        sent.set()
        await anyio.sleep_forever()

    with bridged(app, backend, shutdown_timeout=0.05) as bridge:
        exchange = Exchange(bridge)
        must_happen(sent, "the last part")
        bridge.close()
        assert exchange.body == b"sorry"


@on_asyncio_backends
def test_thread_sensitive_code_after_a_5xx_does_not_hold_its_end(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-OUT-5, A-OUT-8: not even where it waits for the client to have all."""
    monkeypatch.setattr(app_task, "TURNS_FOR_THE_APP", 1000)
    answered = threading.Event()
    was_answered: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"sorry", status=503)
        await sync_to_async(lambda: was_answered.append(answered.wait(5.0)))()

    with bridged(app, backend) as bridge:
        assert serve(bridge).body == b"sorry"
        answered.set()
        must_become(lambda: bridge.stats().background == 0, "the end of the app")
    assert was_answered == [True]


async def test_it_reaches_an_asgi_server_around_both_bridges(anyio_backend: Any) -> None:
    """A-OUT-8, W-CALL-3: as without bridges."""
    failure = AppFailure()
    client = Client()
    async with asgi_behind_both(failing(failure), like(anyio_backend)) as both:
        await client.run(both)
    assert client.error is failure
    assert (client.status, client.body) == (500, b"sorry")
