"""A-OUT-4, A-OUT-5: errors of the app, and the end of the response."""

import asyncio
import itertools
import logging
import threading
import traceback
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    InThread,
    Message,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
    turn_the_loop,
    with_turns,
)
from wsgi_asgi_bridge import AppError

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain")],
}
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
END = {"type": "http.response.body", "body": b"end"}


class MarkedError(Exception):
    """An exception of the app."""


# A-OUT-4


class MarkedBaseError(BaseException):
    """An exception of the app that no `except Exception` sees."""


def raising(error: BaseException | None, before: list[Message]) -> Any:
    async def app_that_ends(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        if len(before) > 1:
            await anyio.lowlevel.checkpoint()
        if error is not None:
            raise error

    return app_that_ends


HEADERS_NOT_SENT = {"nothing sent": [], "start sent": [START]}
HEADERS_SENT = {"part sent": [START, PART]}
EARLY_ENDS = {**HEADERS_NOT_SENT, **HEADERS_SENT}
WRAPPED = [SystemExit(3), KeyboardInterrupt("in app"), GeneratorExit("in app")]


def gave_up_before_headers(exchange: Exchange) -> bool:
    """Whether the server can still answer 500: no chunk has come to it."""
    return not any(exchange.chunks)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_exception_of_the_app_reaches_the_server(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: the very exception, with the app in its traceback; the next request is answered."""
    error = MarkedError("on purpose")
    with bridged(with_turns(raising(error, before)), backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is error
        assert not exchange.complete
        assert gave_up_before_headers(exchange) is (before not in HEADERS_SENT.values())
        frames = traceback.extract_tb(error.__traceback__)
        assert "app_that_ends" in [frame.name for frame in frames]
        turn_the_loop(bridge, 1)
        must_become(lambda: bridge.stats().failed == 1, "the count of the failure")


@on_every_backend
def test_exception_before_the_start_comes_out_of_the_call(backend: dict[str, Any]) -> None:
    """A-OUT-4: then a server and every WSGI middleware can still answer 500 by themselves."""
    error = MarkedError("on purpose")
    with bridged(raising(error, []), backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is error
        assert exchange.error_phase == "call"
        assert exchange.starts == []


@on_every_backend
def test_exception_after_a_part_comes_out_of_the_iteration(backend: dict[str, Any]) -> None:
    """A-OUT-4: after the headers the server must break the connection; what was sent before
    arrives.
    """
    error = MarkedError("on purpose")
    with bridged(raising(error, [START, PART]), backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is error
        assert exchange.error_phase == "iterate"
        assert b"".join(exchange.chunks) == b"part"


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_return_without_finishing_is_an_error(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: an app that returns early must not leave a body that looks whole."""
    with bridged(with_turns(raising(None, before)), backend) as bridge:
        exchange = serve(bridge)
        assert isinstance(exchange.raised(), AppError)
        assert not exchange.complete
        assert gave_up_before_headers(exchange) is (before not in HEADERS_SENT.values())
        turn_the_loop(bridge, 1)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
@pytest.mark.parametrize("error", WRAPPED, ids=lambda e: type(e).__name__)
def test_exits_are_wrapped(backend: dict[str, Any], error: BaseException, before: Any) -> None:
    """A-OUT-4: an exit in one request must not end the server's worker, so the server gets an
    AppError.
    """
    error = type(error)(*error.args)
    with bridged(with_turns(raising(error, before)), backend) as bridge:
        exchange = serve(bridge)
        raised = exchange.raised()
        assert isinstance(raised, AppError)
        assert raised.__cause__ is error
        assert gave_up_before_headers(exchange) is (before not in HEADERS_SENT.values())
        turn_the_loop(bridge)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_base_exceptions_reach_the_server_somehow(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: whatever the class, the calling thread is told, and the loop goes on."""
    error = MarkedBaseError("on purpose")
    with bridged(with_turns(raising(error, before)), backend) as bridge:
        raised = serve(bridge).raised()
        assert raised is error or raised.__cause__ is error
        turn_the_loop(bridge)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_exception_groups_stay_as_they_are(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: a task group's error is the app's own and is not taken apart."""
    inner = MarkedError("in a task")
    seen: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)

        async def fail() -> None:
            raise inner

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail)
        except BaseException as group:
            seen.append(group)
            raise

    with bridged(app, backend) as bridge:
        assert serve(bridge).raised() is seen[0]
    assert isinstance(seen[0], ExceptionGroup)


@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
@pytest.mark.parametrize("how", ["raised", "by itself"])
def test_cancelled_app_ends_the_call(before: Any, how: str) -> None:
    """A-OUT-4: an app that is cancelled, or says so, leaves the caller with an error and not
    waiting.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        if how == "raised":
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with bridged(with_turns(app)) as bridge:
        exchange = serve(bridge)
        assert isinstance(exchange.raised(), AppError)
        assert not exchange.complete
        turn_the_loop(bridge, 1)


def test_app_that_is_no_coroutine_function() -> None:
    """A-OUT-4: a callable that gives nothing to await is the app's mistake, told to the server."""

    def app(scope: Any, receive: Any, send: Any) -> None: ...

    with bridged(app) as bridge:
        assert isinstance(serve(bridge).raised(), (TypeError, AppError))


@on_every_backend
def test_error_after_the_end_does_not_touch_the_response(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-4, A-OUT-5: a whole response stays whole; the error is logged with its traceback."""
    with (
        caplog.at_level(logging.ERROR),
        bridged(raising(MarkedError("too late"), [START, END]), backend) as bridge,
    ):
        exchange = serve(bridge)
        assert exchange.body == b"end"
        must_become(lambda: bool(logged(caplog, MarkedError)), "the log of the error")
    assert len(logged(caplog, MarkedError)) == 1


def logged(caplog: pytest.LogCaptureFixture, kind: type[BaseException]) -> list[logging.LogRecord]:
    """The records of the bridge that carry an exception of this class."""
    return [
        record
        for record in caplog.records
        if record.name.startswith("wsgi_asgi_bridge")
        and record.levelno >= logging.ERROR
        and record.exc_info
        and isinstance(record.exc_info[1], kind)
    ]


# A-OUT-5


@on_every_backend
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_response_ends_at_its_last_message(backend: dict[str, Any], streamed: bool) -> None:
    """A-OUT-5: background work holds neither the caller nor the client."""
    gate = Gate()
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        if streamed:
            await stream(send, b"streamed ")
            await anyio.lowlevel.checkpoint()
        await finish(send, b"answer")
        await gate.wait()
        over.set()

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body.endswith(b"answer")
        assert not over.is_set()
        must_become(lambda: bridge.stats().background == 1, "the count of background work")
        assert bridge.stats().in_flight == 0
        gate.open()
        must_happen(over, "the end of the background work")
        must_become(lambda: bridge.stats().background == 0, "the end of background work")
        assert bridge.stats().completed == 1
        assert bridge.stats().failed == 0


@on_every_backend
def test_close_waits_for_background_work(backend: dict[str, Any]) -> None:
    """A-OUT-5: what ends within `shutdown_timeout` is let end."""
    gate = Gate()
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"answer")
        await gate.wait()
        await anyio.lowlevel.checkpoint()
        over.set()

    with bridged(app, backend, shutdown_timeout=30.0) as bridge:
        assert serve(bridge).body == b"answer"
        runtime: Any = bridge._runtime
        closing = InThread(bridge.close, "bridge.close()")
        must_become(lambda: not runtime.takes_requests, "the beginning of close()")
        assert not closing.done.is_set()
        gate.open()
        closing.result()
        assert over.is_set()


@on_every_backend
def test_background_work_past_the_time_out_is_cancelled(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-5: `close()` returns after `shutdown_timeout`, the work is cancelled and its cleaning
    up runs.
    """
    cleaned_up = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"answer")
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.set()

    with caplog.at_level(logging.WARNING), bridged(app, backend, shutdown_timeout=0.1) as bridge:
        assert serve(bridge).body == b"answer"
    assert cleaned_up.is_set()
    assert [r for r in caplog.records if r.name.startswith("wsgi_asgi_bridge")]


@on_every_backend
@pytest.mark.parametrize(
    "error", [MarkedError("in background"), SystemExit(1)], ids=["MarkedError", "SystemExit"]
)
def test_errors_of_background_work_are_logged(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """A-OUT-5: nobody waits for the result any more, so the log is where it goes."""
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"answer")
        await gate.wait()
        raise type(error)(*error.args)

    with caplog.at_level(logging.ERROR), bridged(with_turns(app), backend) as bridge:
        assert serve(bridge).body == b"answer"
        gate.open()
        must_become(lambda: bridge.stats().background == 0, "the end of background work")
        turn_the_loop(bridge)
    assert len(logged(caplog, type(error))) == 1


@on_every_backend
def test_many_background_works_are_counted(backend: dict[str, Any]) -> None:
    """A-OUT-5: they go on side by side in the one loop."""
    gate = Gate()
    numbers = itertools.count()
    ended: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = next(numbers)
        await respond(send, b"answer")
        await gate.wait()
        ended.append(number)

    with bridged(app, backend) as bridge:
        for _ in range(10):
            assert serve(bridge, environ_for()).body == b"answer"
        must_become(lambda: bridge.stats().background == 10, "ten background works")
        gate.open()
        must_become(lambda: bridge.stats().background == 0, "the end of background work")
    assert sorted(ended) == list(range(10))
