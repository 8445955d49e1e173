"""W-CALL-4: code of the app that runs in the server's loop finds the request's body whole there."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    answered,
    calling,
    http_scope,
    nothing_left,
    open_files,
    plain_app,
    post_scope,
    serving,
)
from wsgi_asgi_bridge import BodyTooLarge, ClientDisconnected, ClientStalled

BUFFER = 1000
PART = b"0123456789" * 60
WHOLE = PART * 10


def by_async_to_sync(work: Callable[[], Any]) -> Any:
    async def view() -> Any:
        return work()

    return async_to_sync(view)()


def by_from_thread_run(work: Callable[[], Any]) -> Any:
    async def view() -> Any:
        return work()

    return anyio.from_thread.run(view)


DOORS = [by_async_to_sync, by_from_thread_run, anyio.from_thread.run_sync]
every_door = pytest.mark.parametrize("enter", DOORS, ids=["asgiref", "anyio", "anyio-sync"])


class Page:
    """An app that says when it is called, and then answers with what `view` makes of its input."""

    def __init__(self, view: Callable[[Any], Any]) -> None:
        self._view = view
        self.called = Gate()
        self.result: Any = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            return plain_app(environ, start_response)
        self.called.open()
        self.result = self._view(environ["wsgi.input"])
        return plain_app(environ, start_response)


def upload(framing: str = "declared", *, body: bytes = WHOLE, **options: Any) -> Client:
    """A request whose body has not arrived."""
    expect = [(b"expect", b"100-continue")] if framing == "expecting" else []
    declared = None if framing == "undeclared" else len(body)
    return Client(post_scope(declared, headers=expect), body_ends=False, **options)


async def fed(bridge: Any, page: Page, client: Client, parts: list[bytes]) -> Client:
    """The client, whose body arrives once the app is called."""
    if client.scope["headers"][1][0] == b"transfer-encoding":
        client.feed(PART * 2)  # what is undeclared streams once it is larger than the buffer
    async with calling(bridge, client):
        await page.called.wait()
        for part in parts:
            client.feed(part)
        client.feed(b"", last=True)
    return client


# --- it is brought in


@every_door
@pytest.mark.parametrize("framing", ["declared", "undeclared", "expecting"])
@pytest.mark.parametrize("count", [3, 10])
async def test_the_loop_reads_a_body_that_has_not_arrived(
    framing: str, count: int, enter: Any
) -> None:
    """W-CALL-4: whatever the size and the framing, and nothing is left of it."""
    body = PART * count
    page = Page(lambda body: enter(body.read))
    parts = [PART] * (count - 2 if framing == "undeclared" else count)
    async with nothing_left(), serving(page, request_buffer=BUFFER) as bridge:
        client = await fed(bridge, page, upload(framing, body=body), parts)
    assert client.body == b"hello"
    assert page.result == body


@every_door
async def test_a_small_body_of_a_client_that_waits_is_asked_for(enter: Any) -> None:
    """W-CALL-4: ten bytes with `Expect: 100-continue` hung like any others."""
    page = Page(lambda body: enter(body.read))
    async with serving(page) as bridge:
        await fed(bridge, page, upload("expecting", body=b"ten bytes."), [b"ten bytes."])
    assert page.result == b"ten bytes."


@every_door
async def test_what_the_thread_read_before_and_later_fits_together(enter: Any) -> None:
    """W-CALL-4, W-IN-3: before, within and after the loop, also of what is buffered between."""

    def view(body: Any) -> list[bytes]:
        parts = [body.read(7)]
        parts += enter(lambda: [body.read(5), body.readline(3), body.read1(2), body.read(1500)])
        parts += enter(lambda: [body.read(11)])
        return [*parts, body.read(1), body.read()]

    page = Page(view)
    async with serving(page, request_buffer=BUFFER) as bridge:
        await fed(bridge, page, upload(), [PART] * 10)
    assert b"".join(page.result) == WHOLE
    assert [len(part) for part in page.result] == [7, 5, 3, 2, 1500, 11, 1, 4471]


async def test_a_thread_that_the_view_asks_reads_it_as_well() -> None:
    """W-CALL-4: `asyncio.to_thread`, or anyio's, in an async view."""

    async def view(body: Any) -> bytes:
        return await anyio.to_thread.run_sync(body.read)

    page = Page(lambda body: anyio.from_thread.run(view, body))
    async with serving(page, request_buffer=BUFFER) as bridge:
        await fed(bridge, page, upload(), [PART] * 10)
    assert page.result == WHOLE


async def test_a_view_that_came_back_leaves_the_door_as_it_was() -> None:
    """W-CALL-4: asgiref puts the loop itself in the thread's place when `sync_to_async` has run
    there. The next request of that thread has a body of its own.
    """

    def view(body: Any) -> list[bytes]:
        async def there_and_back() -> bytes:
            await sync_to_async(lambda: None)()
            return bytes(body.read(9))

        return [async_to_sync(there_and_back)(), by_async_to_sync(body.read)]

    page = Page(view)
    async with serving(page, request_buffer=BUFFER, workers=1) as bridge:
        for _ in range(3):
            page.called = Gate()
            await fed(bridge, page, upload(), [PART] * 10)
            assert page.result == [WHOLE[:9], WHOLE[9:]]


async def test_a_request_without_such_a_body_has_the_loop_itself(anyio_backend_name: str) -> None:
    """W-CALL-2: in the thread that served an upload before, too."""
    loops: list[Any] = []

    def view(body: Any) -> None:
        by_async_to_sync(body.read)
        loops.append(getattr(SyncToAsync.threadlocal, "main_event_loop", "unset"))

    page = Page(view)
    small = Client(post_scope(5), [b"small"])
    async with serving(page, request_buffer=BUFFER, workers=1) as bridge:
        await fed(bridge, page, upload(), [PART] * 10)
        await answered(bridge, small)
    here = asyncio.get_running_loop() if anyio_backend_name == "asyncio" else None
    assert loops[-1] is here


# --- where it waits


async def test_what_exceeds_the_buffer_waits_in_a_file(anyio_backend_name: str) -> None:
    """W-CALL-4, W-IN-4: and only that."""
    counts: list[int] = []

    def view(body: Any) -> None:
        before = set(open_files().items())
        by_from_thread_run(lambda: counts.append(len(set(open_files().items()) - before)))
        by_from_thread_run(body.read)
        counts.append(len(set(open_files().items()) - before))

    page = Page(view)
    async with serving(page, request_buffer=BUFFER) as bridge:
        for body in (WHOLE, PART):
            page.called = Gate()
            await fed(bridge, page, upload("expecting", body=body), [body])
    assert counts == [1, 0, 0, 0]  # read to its end, it is closed at once


@pytest.mark.parametrize("ending", ["returns", "raises", "leaves", "cancelled", "closed"])
async def test_the_file_is_closed_on_every_ending(ending: str) -> None:
    """W-CALL-4: with most of it unread."""
    entered, go_on = Gate(), Gate()

    def work() -> None:
        entered.open()
        go_on.wait_in_thread()
        if ending == "raises":
            raise LookupError("the app's own")

    def view(body: Any) -> None:
        by_from_thread_run(lambda: body.read(10))
        work()

    page = Page(view)
    impatient = serving(page, request_buffer=BUFFER, shutdown_timeout=0.1)
    async with nothing_left(), impatient as bridge:
        client = upload()
        async with calling(bridge, client):
            await page.called.wait()
            client.feed(WHOLE, last=True)
            await entered.wait()
            if ending == "leaves":
                client.leave()
            elif ending == "cancelled":
                client.cancel()
            elif ending == "closed":
                await bridge.aclose()
            go_on.open()
        assert isinstance(client.error, LookupError) == (ending == "raises")


# --- when it breaks off


@every_door
async def test_a_client_that_leaves_is_an_error_of_the_read(enter: Any) -> None:
    """W-CALL-4, W-IN-3: as in a thread, after what has arrived, and every time."""

    def view(body: Any) -> list[Any]:
        def reads() -> list[Any]:
            found: list[Any] = [body.read(len(PART))]
            for _ in range(2):
                with pytest.raises(ClientDisconnected):
                    body.read(1)
            return found

        return enter(reads)

    page = Page(view)
    async with serving(page, request_buffer=BUFFER) as bridge:
        client = upload()
        async with calling(bridge, client):
            await page.called.wait()
            client.feed(PART)
            client.leave()
    assert page.result == [PART]


async def test_a_client_that_stalls_is_an_error_of_the_read() -> None:
    """W-CALL-4, W-IN-7."""

    def view(body: Any) -> bytes:
        def reads() -> bytes:
            found = body.read(len(PART))
            with pytest.raises(ClientStalled):
                body.read(1)
            with pytest.raises(ClientDisconnected):
                body.read(1)
            return bytes(found)

        return bytes(by_from_thread_run(reads))

    page = Page(view)
    async with serving(page, request_buffer=BUFFER, stall_timeout=0.25) as bridge:
        client = upload()
        client.feed(PART)
        await answered(bridge, client)
    assert page.result == PART
    assert client.status == 200


async def test_a_body_that_is_too_large_is_an_error_of_the_read() -> None:
    """W-CALL-4, W-IN-6."""

    def view(body: Any) -> None:
        with pytest.raises(BodyTooLarge):
            by_from_thread_run(body.read)

    page = Page(view)
    async with serving(page, request_buffer=BUFFER, max_body_size=5 * len(PART)) as bridge:
        client = await fed(bridge, page, upload("undeclared"), [PART] * 10)
    assert client.status == 200


async def test_a_view_that_reads_nothing_is_spared_the_errors() -> None:
    """W-CALL-4: it is entered whatever becomes of the body."""
    page = Page(lambda body: by_from_thread_run(lambda: "entered"))
    async with serving(page, request_buffer=BUFFER, max_body_size=2 * len(PART)) as bridge:
        await fed(bridge, page, upload("undeclared"), [PART] * 10)
    assert page.result == "entered"


# --- what the wait costs


async def test_a_thread_that_brings_a_body_in_does_not_count() -> None:
    """W-CALL-4, W-FLOW-8: as one that reads it."""
    page = Page(lambda body: by_from_thread_run(body.read))
    async with serving(page, request_buffer=BUFFER, workers=2) as bridge:
        uploads = [upload() for _ in range(4)]
        async with calling(bridge, *uploads):
            with anyio.fail_after(5):
                # No event tells that a thread has fallen asleep.
                while bridge.stats().streaming < 4:  # noqa: ASYNC110
                    await anyio.sleep(0.002)
                await answered(bridge, Client(http_scope()))
            for client in uploads:
                client.feed(WHOLE, last=True)
    assert [client.status for client in uploads] == [200] * 4


@every_door
async def test_after_the_response_nobody_is_asked_for_the_rest(enter: Any) -> None:
    """W-CALL-4: Django's signals enter the loop in close(). A client that was answered before it
    sent its body need not send it any more.
    """
    closed = Gate()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"no, thank you"])

        def close(self) -> None:
            enter(lambda: None)
            closed.open()

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("403 Forbidden", [("Content-Length", "13")])
        return Body()

    async with serving(app, request_buffer=BUFFER, stall_timeout=30) as bridge:
        client = upload("expecting", reads=1)
        async with calling(bridge, client):
            await closed.wait()
            client.read_on()
    assert (client.status, client.body) == (403, b"no, thank you")


async def test_what_a_task_reads_after_the_request_is_gone() -> None:
    """W-CALL-4: a task that outlives its request gets an error, not the end of the body."""
    reading = Gate()
    errors: list[Exception] = []

    def view(body: Any) -> None:
        async def read_later() -> None:
            await reading.wait()
            try:
                body.read(2 * BUFFER)
            except OSError as error:
                errors.append(error)

        anyio.from_thread.run_sync(group.start_soon, read_later)

    page = Page(view)
    one_thread = serving(page, request_buffer=BUFFER, workers=1)
    async with anyio.create_task_group() as group, one_thread as bridge:
        await fed(bridge, page, upload(), [PART] * 10)
        await answered(bridge, Client(http_scope()))  # so the thread is done with the upload
        reading.open()
    assert [type(error) for error in errors] == [ClientDisconnected]
