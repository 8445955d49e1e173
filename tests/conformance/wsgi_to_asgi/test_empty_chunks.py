"""W-OUT-11: an empty chunk, PEP 3333's way to poll, is a step like any other."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    TrackedBody,
    calling,
    http_scope,
    plain_app,
    post_scope,
    serving,
    settle,
    tick,
)
from wsgi_asgi_bridge import BridgeClosed, ClientDisconnected

Environ = dict[str, Any]
QUICK: dict[str, Any] = {"stream_after": 0.05}
"""The client of a request that takes longer than a moment is looked for, and this is a moment."""
POLL_SECONDS = 0.002


class Polls:
    """Empty chunks for ever, or for as long as a test may take."""

    def __init__(self) -> None:
        self.begun = Gate()
        self._pause = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(int(DEADLINE_SECONDS / POLL_SECONDS)):
            yield b""
            self.begun.open()
            self._pause.wait(POLL_SECONDS)


def body_of(before: list[bytes], polls: Polls) -> TrackedBody:
    def chunks() -> Iterable[bytes]:
        yield from before
        yield from polls

    return TrackedBody(chunks())


BEFORE = pytest.mark.parametrize(
    "before", [[], [b"", b"first"]], ids=["before the first bytes", "after them"]
)


def leave(client: Client) -> None:
    client.leave()


def cancel(client: Client) -> None:
    client.cancel()


@BEFORE
@pytest.mark.parametrize("end", [leave, cancel])
async def test_client_that_is_gone_is_noticed_at_an_empty_chunk(
    before: list[bytes], end: Callable[[Client], None]
) -> None:
    """W-OUT-11, W-FLOW-3, W-FLOW-6: the iteration stops, close() runs, the thread is free."""
    polls = Polls()
    body = body_of(before, polls)

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])
        return body

    client = Client()
    async with serving(app, **QUICK) as bridge, calling(bridge, client):
        await polls.begun.wait()
        if before:
            await client.until(lambda c: c.body == b"first")
        else:
            assert not client.started  # the headers are still held (W-OUT-2)
        end(client)
        await body.closed.wait()
        await client.until_ended()
    assert body.closes == 1
    assert bridge.stats().busy == 0
    assert bridge.stats().disconnected == 1


HELD_BACK = post_scope(5, headers=[(b"expect", b"100-continue")])
LARGE_HELD_BACK = post_scope(100, headers=[(b"expect", b"100-continue")])


async def test_client_that_left_while_its_body_was_held_is_noticed() -> None:
    """W-OUT-11, W-FLOW-3: asking whether it is there asks it for its body, so not before
    `stall_timeout`.
    """
    polls = Polls()
    body = body_of([], polls)

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])
        return body

    client = Client(HELD_BACK, body_ends=False)
    async with serving(app) as bridge, calling(bridge, client):
        await polls.begun.wait()
        client.leave()
        tick(bridge, 0.0, 0.0, 59.0)
        await settle()
        assert not body.closed
        assert client.receive_calls == 0
        tick(bridge, 1000.0)
        await body.closed.wait()
        await client.until_ended()
    assert bridge.stats().disconnected == 1


@pytest.mark.parametrize("scope", [post_scope(100), LARGE_HELD_BACK], ids=["sent", "held back"])
async def test_client_that_left_a_body_that_nobody_reads_is_noticed(scope: Any) -> None:
    """W-OUT-11, W-FLOW-3: as behind one of an app that streams its response."""
    polls = Polls()
    body = body_of([], polls)

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])
        return body

    client = Client(scope, [b"x" * 10] * 9, body_ends=False)
    async with (
        serving(app, small_body=16) as bridge,
        calling(bridge, client),
    ):
        await polls.begun.wait()
        client.leave()
        tick(bridge, 0.0, 0.0, 59.0)
        await settle()
        assert not body.closed
        # One that held its body back is asked for it; then what has come is seen to be left.
        for now in (1000.0, 1000.0, 2000.0):
            tick(bridge, now)
            await settle()
        await body.closed.wait()
        await client.until_ended()
    assert bridge.stats().disconnected == 1


async def test_body_of_an_app_that_only_works_is_kept() -> None:
    """W-IN-4: one that has given nothing yet may read it after any time."""

    entered, gate = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    client = Client(post_scope(100), [b"x" * 10] * 10)
    async with serving(app, small_body=16) as bridge, calling(bridge, client):
        await entered.wait()
        for now in (0.0, 0.0, 1000.0, 2000.0):
            tick(bridge, now)
            await settle()
        gate.open()
    assert client.body == b"x" * 100


async def test_client_that_waits_is_asked_for_its_body_at_last() -> None:
    """W-IN-5: what it sends then is there for the app."""
    entered, asked = Gate(), threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        assert asked.wait(DEADLINE_SECONDS)
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    client = Client(HELD_BACK, body_ends=False)
    async with serving(app) as bridge, calling(bridge, client):
        await entered.wait()
        tick(bridge, 0.0, 0.0, 59.0)
        await settle()
        assert client.receive_calls == 0
        tick(bridge, 1000.0)
        await client.until(lambda client: client.waiting_in_receive)
        client.feed(b"whole", last=True)
        asked.set()
    assert client.body == b"whole"


@BEFORE
async def test_shutdown_is_noticed_at_an_empty_chunk(before: list[bytes]) -> None:
    """W-OUT-11, W-LIFE-1: after `shutdown_timeout` the app finds the bridge closed."""
    polls = Polls()
    body = body_of(before, polls)

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])
        return body

    client = Client()
    async with serving(app, shutdown_timeout=0.05) as bridge, calling(bridge, client):
        await polls.begun.wait()
        await bridge.aclose()
        await body.closed.wait()
    assert body.closes == 1
    assert isinstance(client.error, BridgeClosed)


@pytest.mark.parametrize(
    ("method", "status", "length", "sent"),
    [
        ("GET", "200 OK", "5", b"whole"),
        ("GET", "200 OK", "3", b"who"),
        ("HEAD", "200 OK", "5", b""),
        ("GET", "204 No Content", "0", b""),
    ],
)
async def test_end_of_the_length_is_noticed_at_an_empty_chunk(
    method: str, status: str, length: str, sent: bytes
) -> None:
    """W-OUT-11, W-OUT-6: nothing may follow, so nothing is waited for."""
    body = body_of([b"", b"whole"], Polls())

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response(status, [("Content-Length", length)])
        return body

    client = Client(http_scope(method))
    async with serving(app) as bridge, calling(bridge, client):
        await body.closed.wait()
    assert (client.body, client.complete, client.error) == (sent, True, None)
    assert body.steps <= 3
    assert bridge.stats().completed == 1


@pytest.mark.parametrize("length", [None, "5"], ids=["no length", "a length that is reached"])
@pytest.mark.parametrize("end", [leave, cancel])
async def test_writes_of_nothing_are_steps(
    length: str | None, end: Callable[[Client], None]
) -> None:
    """W-OUT-11: write(b"") raises as any write() does once the client is gone; past the
    Content-Length, where the response is whole and only a cancellation can come, then.
    """
    polls = Polls()
    errors: list[BaseException] = []
    over = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", length)] if length else [])
        write(b"whole")
        try:
            for nothing in polls:
                write(nothing)
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            over.open()
        return []

    client = Client()
    async with serving(app, **QUICK) as bridge, calling(bridge, client):
        await polls.begun.wait()
        await client.until(lambda c: c.body == b"whole")
        (cancel if length else end)(client)
        await over.wait()
    assert [type(error) for error in errors] == [ClientDisconnected]


async def test_first_write_sends_the_headers_be_it_of_nothing() -> None:
    """W-OUT-2: PEP 3333 has the headers sent by the first write(), and by no empty chunk."""
    gate = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("201 Created", [])
        write(b"")
        gate.wait_in_thread()
        return []

    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.started)
        assert client.status == 201
        gate.open()
    assert client.complete


@pytest.mark.parametrize("how", ["before the first bytes", "after them", "write"])
async def test_thread_that_polls_counts_as_streaming(how: str) -> None:
    """W-OUT-11, W-FLOW-8: two pollers on two workers leave their places to others."""
    both = [Polls(), Polls()]
    meeting = threading.Barrier(2, timeout=DEADLINE_SECONDS)

    def app(environ: Environ, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/meet":
            meeting.wait()
            return plain_app(environ, start_response)
        polls = both[int(environ["PATH_INFO"][1:])]
        write = start_response("200 OK", [])
        if how != "write":
            return body_of([b"first"] if how == "after them" else [], polls)
        for nothing in polls:
            write(nothing)
        return []

    pollers = [Client(http_scope(path=f"/{number}")) for number in range(2)]
    others = [Client(http_scope(path="/meet")) for _ in range(2)]
    async with serving(app, workers=2, **QUICK) as bridge, calling(bridge, *pollers):
        for polls in both:
            await polls.begun.wait()
        async with calling(bridge, *others):
            pass
        assert bridge.stats().streaming == 2
        for client in pollers:
            client.leave()
    assert [other.body for other in others] == [b"hello"] * 2


async def test_poller_takes_a_step_of_its_own_thread_only() -> None:
    """W-OUT-11: what follows the empty chunks arrives, in order and whole."""

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("X-A", "b")])
        for number in range(200):
            yield b""
            yield b"%d," % number

    client = Client()
    async with serving(app) as bridge:
        with anyio.fail_after(DEADLINE_SECONDS):
            await client.run(bridge)
    assert client.header("x-a") == "b"
    assert client.body == b"".join(b"%d," % number for number in range(200))
