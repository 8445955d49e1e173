"""A-OUT-2, A-OUT-3: the parts of a body on their way, and the client that leaves meanwhile."""

import logging
import threading
import tracemalloc
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    Message,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    serve,
    start,
    stream,
    turn_the_loop,
    with_turns,
)
from wsgi_asgi_bridge import ClientDisconnected

BUFFER = 16_384
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
END = {"type": "http.response.body", "body": b"end"}


# A-OUT-2


@on_every_backend
def test_each_part_arrives_without_the_next(backend: dict[str, Any]) -> None:
    """A-OUT-2: an event stream's small parts are not held back for more."""
    gates = [Gate() for _ in range(4)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for n, gate in enumerate(gates):
            await stream(send, b"data: %d\n\n" % n)
            await gate.wait()
        await finish(send)

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge)
        for n, gate in enumerate(gates):
            exchange.wait_for_size((n + 1) * 9)
            gate.open()
        assert exchange.body == b"".join(b"data: %d\n\n" % n for n in range(4))


class Sender:
    """An app that streams parts of one size and counts those whose `send()` has returned."""

    def __init__(self, part: int, count: int) -> None:
        self.part, self.count = part, count
        self.accepted = 0
        self.stopped_by: BaseException | None = None
        self.over = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await start(send)
            for n in range(self.count):
                await stream(send, bytes([n % 256]) * self.part)
                self.accepted += self.part
            await finish(send)
        except BaseException as error:
            self.stopped_by = error
            raise
        finally:
            self.over.set()

    @property
    def size(self) -> int:
        return self.part * self.count


@on_every_backend
@pytest.mark.parametrize("part", [BUFFER // 8, BUFFER, 3 * BUFFER], ids=["small", "full", "huge"])
def test_send_waits_while_the_buffer_is_full(backend: dict[str, Any], part: int) -> None:
    """A-OUT-2: the app is never further ahead than the buffer that waits, the one in the server's
    hands, and one part.
    """
    limit = 2 * BUFFER + part
    sender = Sender(part, 20 * limit // part)
    with bridged(with_turns(sender), backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, hold=True)
        must_happen(exchange.returned, "the iterable")
        turn_the_loop(bridge)
        assert sender.accepted - exchange.size <= limit
        for _ in range(3):
            assert exchange.take()
            turn_the_loop(bridge)
            assert sender.accepted - exchange.size <= limit
        exchange.run_on()
        assert len(exchange.body) == sender.size
        assert sender.accepted == sender.size


@on_every_backend
def test_large_stream_keeps_its_order(backend: dict[str, Any]) -> None:
    """A-OUT-2: nothing is lost, doubled or swapped at the buffer's edge."""
    parts = [bytes([n % 256]) * (n * 37 % 5000) for n in range(400)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for part in parts:
            await stream(send, part)
        await finish(send, b"last")

    with bridged(app, backend, response_buffer=4096) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"".join(parts) + b"last"


@pytest.mark.parametrize("last", [True, False], ids=["at once", "streamed"])
def test_a_huge_part_is_cut_as_the_server_takes_it(last: bool) -> None:
    """A-OUT-2: it takes no second time its memory."""
    body = bytes(range(256)) * 2**17

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": body, "more_body": not last})
        if not last:
            await finish(send)

    with bridged(app) as bridge:
        serve(bridge)  # the loop runs
        tracemalloc.start()
        try:
            response: Any = bridge(environ_for(), lambda *_: print)
            taken = 0
            for block in response:
                assert block == body[taken : taken + len(block)]
                taken += len(block)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        getattr(response, "close", bool)()
    assert taken == len(body)
    assert peak < len(body) / 4


def test_any_parts_give_their_sum() -> None:
    """A-OUT-2: for any sizes and any pauses the body is the sum of the parts."""
    plan: list[tuple[int, bool]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for n, (size, pause) in enumerate(plan):
            await stream(send, bytes([n % 256]) * size)
            if pause:
                await anyio.lowlevel.checkpoint()
        await finish(send)

    with bridged(app, response_buffer=64) as bridge:

        @settings(max_examples=60, deadline=None)
        @given(
            st.lists(
                st.tuples(st.sampled_from([0, 1, 63, 64, 65, 500]), st.booleans()), max_size=12
            )
        )
        def check(steps: list[tuple[int, bool]]) -> None:
            plan[:] = steps
            expected = b"".join(bytes([n % 256]) * size for n, (size, _) in enumerate(steps))
            assert serve(bridge).body == expected

        check()


@on_every_backend
def test_empty_parts_are_harmless(backend: dict[str, Any]) -> None:
    """A-OUT-2: empty parts neither end the body nor fill the buffer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(100):
            await stream(send, b"")
        await stream(send, b"content")
        for _ in range(100):
            await stream(send, b"")
        await finish(send)

    with bridged(app, backend, response_buffer=1024) as bridge:
        assert serve(bridge).body == b"content"


@on_every_backend
def test_concurrent_senders_wait_alike(backend: dict[str, Any]) -> None:
    """A-OUT-2: several tasks of one app may send parts at once; none is lost."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)

        async def sender(letter: bytes) -> None:
            for _ in range(20):
                await stream(send, letter * 1000)

        async with anyio.create_task_group() as tasks:
            for letter in (b"a", b"b", b"c"):
                tasks.start_soon(sender, letter)
        await finish(send)

    with bridged(app, backend, response_buffer=2048) as bridge:
        body = serve(bridge).body
        assert {letter: body.count(letter) for letter in (b"a", b"b", b"c")} == {
            b"a": 20_000,
            b"b": 20_000,
            b"c": 20_000,
        }


@on_every_backend
def test_a_send_that_waits_ends_well_with_the_response_of_another(backend: dict[str, Any]) -> None:
    """A-OUT-2, A-OUT-3: its part is taken together with the end that another task has sent."""
    sent: list[str] = []
    first_is_taken, ended = Gate(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"first")
        await first_is_taken.wait()
        async with anyio.create_task_group() as group:

            async def wait_for_room() -> None:
                await stream(send, b"x" * 2 * BUFFER)
                sent.append("part")

            group.start_soon(wait_for_room)
            await anyio.wait_all_tasks_blocked()
            await finish(send, b"last")
            sent.append("end")
            ended.set()

    with bridged(app, backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"first"
        first_is_taken.open()
        must_happen(ended, "the end of the response")
        exchange.run_on()
        assert exchange.body == b"first" + b"x" * 2 * BUFFER + b"last"
        must_become(lambda: bridge.stats().background == 0, "the end of the app")
    assert sent == ["end", "part"]


# A-OUT-3


@on_every_backend
def test_send_after_the_disconnect_raises_an_os_error(backend: dict[str, Any]) -> None:
    """A-OUT-3: every later `send()` of a request whose client left raises ClientDisconnected."""
    errors: list[BaseException] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        while (await receive())["type"] != "http.disconnect":
            pass
        for message in (PART, PART, END):
            try:
                await send(message)
            except OSError as error:
                errors.append(error)
        over.set()

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        exchange.hang_up()
        must_happen(over, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
        assert bridge.stats().completed == 0
    assert [type(error) for error in errors] == [ClientDisconnected] * 3
    assert exchange.error is None


@on_every_backend
def test_send_waiting_for_room_is_woken_by_the_disconnect(backend: dict[str, Any]) -> None:
    """A-OUT-3: a `send()` that waits in a full buffer raises when the client leaves."""
    sender = Sender(BUFFER, 50)
    with bridged(with_turns(sender), backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        turn_the_loop(bridge)
        assert not sender.over.is_set()
        exchange.hang_up()
        must_happen(sender.over, "the end of the app")
    assert isinstance(sender.stopped_by, ClientDisconnected)
    assert isinstance(sender.stopped_by, OSError)


@on_every_backend
def test_client_disconnected_out_of_the_app_is_no_error(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-3: an app that lets the disconnect pass has done nothing wrong; it is not logged as a
    failure.
    """
    sender = Sender(100, 10_000)
    with (
        caplog.at_level(logging.WARNING),
        bridged(sender, backend, response_buffer=BUFFER) as bridge,
    ):
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        exchange.hang_up()
        must_happen(sender.over, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
        assert bridge.stats().failed == 0
    assert exchange.error is None
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


class MarkedError(Exception):
    """An exception of the app."""


class FrameworksDisconnectError(Exception):
    """As Starlette's ClientDisconnect and others of its kind."""


async def raise_in_finally(step: Any) -> None:
    try:
        await step()
    finally:
        raise MarkedError("in the cleanup")


async def raise_in_except(step: Any) -> None:
    try:
        await step()
    except BaseException:
        raise MarkedError("in the handling")  # noqa: B904


async def raise_from_another_function(step: Any) -> None:
    try:
        await step()
    except BaseException:
        try:
            raise KeyError("row")
        except KeyError as error:
            raise MarkedError("in the cleanup") from error


async def raise_while_a_translation_is_handled(step: Any) -> None:
    try:
        await translate_by_name(step)
    finally:
        raise MarkedError("in the cleanup")


async def raise_beside_it(step: Any) -> None:
    try:
        await step()
    except BaseException as gone:
        raise BaseExceptionGroup("both", [gone, MarkedError("beside")]) from None


async def translate_explicitly(step: Any) -> None:
    try:
        await step()
    except BaseException as gone:
        raise MarkedError("the stream has ended") from gone


async def translate_twice(step: Any) -> None:
    try:
        await translate_explicitly(step)
    except MarkedError as ended:
        raise MarkedError("the response has ended") from ended


async def translate_by_name(step: Any) -> None:
    try:
        await step()
    except BaseException:
        raise FrameworksDisconnectError  # noqa: B904


async def gather(step: Any) -> None:
    try:
        await step()
    except BaseException as gone:
        raise BaseExceptionGroup("all", [gone, BaseExceptionGroup("one", [gone])]) from None


async def go_in_a_circle(step: Any) -> None:
    error = MarkedError("its own cause")
    group = BaseExceptionGroup("a circle", [error])
    error.__cause__ = group
    try:
        await step()
    finally:
        raise group


BUGS = [
    raise_in_finally,
    raise_in_except,
    raise_from_another_function,
    raise_while_a_translation_is_handled,
    raise_beside_it,
    go_in_a_circle,
]
TRANSLATIONS = [translate_explicitly, translate_twice, translate_by_name, gather]


@on_every_backend
@pytest.mark.parametrize("where", ["in send()", "in silence"])
@pytest.mark.parametrize("way", [*BUGS, *TRANSLATIONS], ids=lambda way: way.__name__)
def test_only_a_bug_after_the_disconnect_is_logged(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture, way: Any, where: str
) -> None:
    """A-OUT-3: a framework translates what `send()` raises, or its own cancellation, and that is no
    news; a bug in the cleanup is, though Python links it to what was being handled.
    """
    silent = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")

        async def step() -> None:
            if where == "in silence":
                silent.set()
                await anyio.sleep_forever()
            while True:
                await stream(send, b"x" * BUFFER)

        await way(step)

    if where == "in silence" and backend.get("backend") == "trio" and way in TRANSLATIONS:
        pytest.skip("trio itself takes it ill when its cancellation is not passed on")
    with (
        caplog.at_level(logging.WARNING),
        bridged(app, backend, response_buffer=BUFFER) as bridge,
    ):
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        if where == "in silence":
            must_happen(silent, "the app's silence")
        exchange.hang_up()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")
    ours = [record for record in caplog.records if record.name == "wsgi_asgi_bridge"]
    if way in BUGS:
        (record,) = ours
        assert record.levelno == logging.ERROR
        assert record.getMessage() == "the app raised after its client had left"
        assert record.exc_info is not None
    else:
        assert ours == []
