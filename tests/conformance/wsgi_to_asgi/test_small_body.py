"""W-IN-2, W-IN-5: what is collected before a thread is taken, and what waits of a larger body."""

import inspect
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    answered,
    calling,
    fetched,
    http_scope,
    plain_app,
    post_scope,
    serving,
    settle,
)
from tests.support.fake_websocket import WebSocketClient
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI
from wsgi_asgi_bridge.wsgi_to_asgi import settings

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


# --- a body without a length


def app_that_tells(told: list[Any]) -> Any:
    """An app that keeps its environ and its body."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        told.append(environ | {"body": environ["wsgi.input"].read()})
        return plain_app(environ, start_response)

    return app


UNDECLARED = {
    "chunked": post_scope(None),
    "chunked, with a length": post_scope(None, headers=[(b"content-length", b"5")]),
    "chunked GET": {**post_scope(None), "method": "GET"},
    "HTTP/2": http_scope("POST", http_version="2"),
    "HTTP/2 GET": http_scope("GET", http_version="2"),
}
CHUNKINGS = {
    "at once": [b"hello world"],
    "end apart": [b"hello world", b""],
    "in pieces": [b"", b"hel", b"", b"lo wor", b"ld"],
    "byte by byte": [b"hello world"[at : at + 1] for at in range(11)],
    "exactly": [b"x" * 60, b"y" * 4, b""],
}


@pytest.mark.parametrize("parts", CHUNKINGS.values(), ids=CHUNKINGS)
@pytest.mark.parametrize("scope", UNDECLARED.values(), ids=UNDECLARED)
async def test_small_undeclared_body_gets_its_length(scope: Any, parts: list[bytes]) -> None:
    """W-IN-2: Django and Bottle read no more than CONTENT_LENGTH; a body that was de-chunked must
    not be so again.
    """
    told: list[Any] = []
    async with serving(app_that_tells(told), small_body=64) as bridge:
        await answered(bridge, Client(scope, parts))
    whole = b"".join(parts)
    assert (told[0]["body"], told[0]["CONTENT_LENGTH"]) == (whole, str(len(whole)))
    assert "HTTP_TRANSFER_ENCODING" not in told[0]


@pytest.mark.parametrize("scope", UNDECLARED.values(), ids=UNDECLARED)
async def test_larger_undeclared_body_streams(scope: Any) -> None:
    """W-IN-2: without a length, to its end; `wsgi.input_terminated` says that it has one."""
    told: list[Any] = []
    parts = [b"x" * 60, b"y" * 5, b""]
    async with serving(app_that_tells(told), small_body=64) as bridge:
        await answered(bridge, Client(scope, parts))
    assert told[0]["body"] == b"".join(parts)
    assert told[0]["wsgi.input_terminated"] is True
    assert not {"CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"} & told[0].keys()


@pytest.mark.parametrize("scope", UNDECLARED.values(), ids=UNDECLARED)
async def test_undeclared_body_that_is_empty_has_no_length(scope: Any) -> None:
    """W-IN-2: CGI has no CONTENT_LENGTH where there is no body."""
    told: list[Any] = []
    async with serving(app_that_tells(told)) as bridge:
        await answered(bridge, Client(scope, [b"", b""]))
    assert told[0]["body"] == b""
    assert not {"CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"} & told[0].keys()


async def test_slow_undeclared_body_holds_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-IN-5: as long as it comes without a pause it is collected."""
    monkeypatch.setattr(settings, "UNDECLARED_PAUSE_SECONDS", 5.0)
    told: list[Any] = []
    client = Client(post_scope(None), [b"a"], body_ends=False)
    async with serving(app_that_tells(told)) as bridge, calling(bridge, client):
        for part in (b"b", b"c"):
            await anyio.sleep(0.2)
            assert bridge.stats().threads == 0
            client.feed(part)
        client.feed(b"d", last=True)
    assert (told[0]["body"], told[0]["CONTENT_LENGTH"]) == (b"abcd", "4")


async def test_client_that_pauses_may_converse() -> None:
    """W-IN-5: a client that waits for an answer to what it has sent gets it."""
    read = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read(3) == b"abc"
        read.open()
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    client = Client(post_scope(None), [b"a", b"bc"], body_ends=False)
    async with serving(app) as bridge, calling(bridge, client):
        await read.wait()
        client.feed(b"d", last=True)
    assert client.body == b"d"


@pytest.mark.parametrize("name", ["chunked", "chunked GET", "HTTP/2"])
async def test_client_that_sends_nothing_may_converse(name: str) -> None:
    """W-IN-5: a client that waits for the first word of an answer gets it."""
    read = Gate()

    def app(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"hello"
        read.wait_in_thread()
        yield environ["wsgi.input"].read()

    client = Client(UNDECLARED[name], body_ends=False)
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda client: client.body == b"hello")
        client.feed(b", world", last=True)
        read.open()
    assert client.body == b"hello, world"


async def test_undeclared_body_whose_client_leaves_takes_no_thread() -> None:
    """W-IN-3, W-IN-5: as one with a length."""
    told: list[Any] = []
    client = Client(post_scope(None), [b"some", b"thing"], body_ends=False)
    client.leave()
    async with serving(app_that_tells(told)) as bridge:
        await client.run(bridge)
        stats = bridge.stats()
    assert (stats.threads, stats.disconnected, stats.failed, told) == (0, 1, 0, [])
    assert client.error is None


async def test_leaving_with_an_undeclared_body_takes_no_thread() -> None:
    """W-FLOW-4: the server gives the end and the disconnect in one step of the loop."""
    told: list[Any] = []
    client = Client(post_scope(None), [b"something"])
    client.leave()
    messages = client._inbox

    async def receive() -> Any:
        return messages.popleft() if messages else {"type": "http.disconnect"}

    client.receive = receive  # type: ignore[method-assign]
    async with serving(app_that_tells(told)) as bridge:
        await client.run(bridge)
        stats = bridge.stats()
    assert (stats.threads, stats.disconnected, stats.failed, told) == (0, 1, 0, [])
    assert client.error is None


async def test_websocket_handshake_has_no_transfer_encoding() -> None:
    """W-IN-2: nor has it a body."""
    told: list[Any] = []
    client = WebSocketClient()
    client.scope["headers"].append((b"transfer-encoding", b"chunked"))
    client.scope["extensions"] = {"websocket.http.response": {}}
    async with serving(app_that_tells(told)) as bridge:
        await answered(bridge, client)
    assert told[0]["body"] == b""
    assert "HTTP_TRANSFER_ENCODING" not in told[0]


@pytest.mark.parametrize("size", [10, 200_000], ids=["collected", "streamed"])
@pytest.mark.parametrize("scope", UNDECLARED.values(), ids=UNDECLARED)
async def test_undeclared_body_passes_both_bridges(scope: Any, size: int) -> None:
    """W-IN-2, A-IN-1: also that of a GET, which nothing but its input announces by then."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got, more = 0, True
        while more:
            message = await receive()
            got, more = got + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % got})

    with ASGIToWSGI(app, lifespan="off") as inner:
        client = Client(scope, [b"x" * size, b""])
        await fetched(inner, client)
    assert client.body == b"%d" % size
