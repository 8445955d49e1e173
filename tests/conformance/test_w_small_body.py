"""W-IN-2, W-IN-5: what is collected before a thread is taken, and what waits of a larger body."""

import inspect
from typing import Any

import pytest

from tests.support.asgi_driver import (
    Client,
    Gate,
    answered,
    calling,
    plain_app,
    post_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import WSGIToASGI

Environ = dict[str, Any]
PART = b"p" * 1000


# --- small_body


def test_defaults() -> None:
    """W-IN-5: 64 KiB are collected, 512 KiB wait for an app that reads."""
    parameters = inspect.signature(WSGIToASGI).parameters
    assert parameters["small_body"].default == 65536
    assert parameters["request_buffer"].default == 524288


@pytest.mark.parametrize(
    ("options", "collected"),
    [
        ({"small_body": 10}, True),
        ({"small_body": 9}, False),
        ({"small_body": 0}, False),
        ({"small_body": 1000, "request_buffer": 9}, False),
    ],
    ids=["fits", "larger", "nothing", "request_buffer"],
)
async def test_small_body_decides_what_is_collected(
    options: dict[str, int], collected: bool
) -> None:
    """W-IN-5: not `request_buffer`, of which it is a part."""
    entered = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        assert environ["wsgi.input"].read() == b"0123456789"
        return plain_app(environ, start_response)

    client = Client(post_scope(10), [b"0"], body_ends=False)
    async with serving(app, **options) as bridge, calling(bridge, client):
        if collected:
            assert await entered.stays_shut()
        else:
            await entered.wait()
        client.feed(b"123456789", last=True)
    assert client.status == 200


async def test_queued_uploads_hold_a_small_body_each() -> None:
    """W-IN-5: until a thread has taken the request no more than `small_body` and the part in hand
    are taken from the server; then `request_buffer`.
    """
    busy, gate = Gate(), Gate()
    read, go_on = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            busy.open()
            gate.wait_in_thread()
        else:
            environ["wsgi.input"].read(1)
            begun.append(uploads[int(environ["PATH_INFO"][1:])])
            read.open()
            go_on.wait_in_thread()
            assert len(environ["wsgi.input"].read()) == 99_999
        return plain_app(environ, start_response)

    begun: list[Client] = []
    scopes = [post_scope(100_000, path=f"/{number}") for number in range(3)]
    uploads = [Client(scope, [PART] * 100) for scope in scopes]
    async with (
        serving(app, workers=1, small_body=5_000, request_buffer=20_000) as bridge,
        calling(bridge, first := Client()),
    ):
        await busy.wait()
        async with calling(bridge, *uploads):
            await settle()
            assert bridge.stats().queued == 3
            assert [c.fed_bytes_taken for c in uploads] == [6_000] * 3
            gate.open()
            await read.wait()
            await begun[0].until(lambda c: c.fed_bytes_taken > 15_000)
            await settle()
            assert begun[0].fed_bytes_taken <= 21_000
            assert sorted(c.fed_bytes_taken for c in uploads)[:2] == [6_000] * 2
            go_on.open()
    assert [c.status for c in (first, *uploads)] == [200] * 4


async def test_body_of_which_nothing_more_may_wait_moves() -> None:
    """W-IN-5: `small_body=0` collects nothing, and a body still comes to its end."""
    client = Client(post_scope(100_000), [PART] * 100)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"%d" % len(environ["wsgi.input"].read())]

    async with serving(app, small_body=0) as bridge:
        await answered(bridge, client)
    assert client.body == b"100000"
