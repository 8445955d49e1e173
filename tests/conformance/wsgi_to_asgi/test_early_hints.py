"""`wsgi.early_hints`, by the server's `http.response.early_hint` (W-OUT-12)."""

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    answered,
    calling,
    failure_of,
    fetched,
    http_scope,
    nothing_left,
    serving,
)
from wsgi_asgi_bridge import AppError, ClientDisconnected

HINT = "http.response.early_hint"
LINK = ("Link", "</a.css>; rel=preload")
MESSAGE = {"type": HINT, "links": [b"</a.css>; rel=preload"]}


def hinting_client(**options: Any) -> Client:
    return Client(http_scope(extensions={HINT: {}}), **options)


def app_that(step: Callable[[Any], object], body: Any = (b"page",)) -> Callable[..., Any]:
    """Calls `step` with `wsgi.early_hints`, and then answers."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        step(environ["wsgi.early_hints"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body() if callable(body) else body

    return app


def pieces() -> Iterator[bytes]:
    yield b"pa"
    yield b"ge"


BODIES: list[Any] = [[b"page"], (b"pa", b"ge"), pieces]


@pytest.mark.parametrize("body", BODIES, ids=["list", "tuple", "generator"])
async def test_links_go_out_before_the_head(body: Any) -> None:
    """W-OUT-12: in order, and the response is what it would have been."""
    second = ("link", " </b.js> ")

    def step(hints: Any) -> None:
        hints([LINK, second])
        hints(pair for pair in [LINK])

    client = await fetched(app_that(step, body), hinting_client())
    assert client.early == [
        {"type": HINT, "links": [b"</a.css>; rel=preload", b"</b.js>"]},
        MESSAGE,
    ]
    assert (client.status, client.body, client.complete) == (200, b"page", True)


async def test_a_link_that_is_given_while_another_is_sent_precedes_the_head() -> None:
    """W-OUT-12: the head stands as well by then, and the loop has not taken what follows it."""
    first_is_sent, head_stands = Gate(), Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ["wsgi.early_hints"]([LINK])
        first_is_sent.wait_in_thread()
        environ["wsgi.early_hints"]([("Link", "</b.js>")])
        start_response("200 OK", [])
        yield b"page"
        head_stands.open()

    client = hinting_client(reads=0)
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.blocked_in_send)
        first_is_sent.open()
        await head_stands.wait()
        client.read_on()
    assert client.early == [MESSAGE, {"type": HINT, "links": [b"</b.js>"]}]
    assert (client.body, client.complete) == (b"page", True)


async def test_a_hint_that_crosses_the_head_is_not_sent() -> None:
    """W-OUT-12: a thread of the app's own may have looked just before the head was put."""
    head_is_out = Gate()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"pa"
        head_is_out.wait_in_thread()
        hints = environ["wsgi.early_hints"]
        hints.__self__.closed = False  # as that thread has seen it
        hints([LINK])
        yield b"ge"

    client = hinting_client()
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"pa")
        head_is_out.open()
    assert client.early == []
    assert (client.body, client.complete) == (b"page", True)


@pytest.mark.parametrize("body", [[], [b""]], ids=["empty list", "empty chunk"])
async def test_a_response_without_a_byte(body: Any) -> None:
    """W-OUT-12"""
    client = await fetched(app_that(lambda hints: hints([LINK]), body), hinting_client())
    assert (client.early, client.body, client.complete) == ([MESSAGE], b"", True)


async def test_links_do_not_wait_for_the_response() -> None:
    """W-OUT-12: they are on their way while the app works."""
    gate = Gate()

    def step(hints: Any) -> None:
        hints([LINK])
        gate.wait_in_thread()

    client = hinting_client()
    async with serving(app_that(step)) as bridge, calling(bridge, client):
        await client.until(lambda c: c.early)
        assert not client.started
        gate.open()
        await client.until_ended()
    assert client.body == b"page"


async def test_a_server_that_offers_none() -> None:
    """W-OUT-12: the key is missing, so that the app can tell."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"%d" % ("wsgi.early_hints" in environ)]

    for extensions in ({}, None, {"http.response.push": {}}):
        client = await fetched(app, Client(http_scope(extensions=extensions)))
        assert client.body == b"0"


async def test_after_the_head_nothing_is_sent() -> None:
    """W-OUT-12: as gunicorn ignores them then."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        for _ in range(3):
            environ["wsgi.early_hints"]([LINK])
            yield b"b"

    client = await fetched(app, hinting_client())
    assert (client.body, client.early) == (b"abbb", [])


@pytest.mark.parametrize(
    "pair",
    [
        ("Link", "</a>\r\nSet-Cookie: a=b"),
        ("Link", "</a>\n"),
        ("Link", "\x00"),
        ("Link", "\u20ac"),
        ("Link", b"</a>"),
        ("Li nk", "</a>"),
        ("X-Other\n", "a"),
        ("X-Other", "a\r\nb"),
        (b"Link", "</a>"),
        (1, "a"),
        ("Link",),
        5,
    ],
    ids=repr,
)
async def test_links_are_checked_as_headers_are(pair: Any) -> None:
    """W-OUT-12, W-OUT-1: no header can be injected, and nothing of a wrong list is sent."""
    client = hinting_client()
    error, _ = await failure_of(app_that(lambda hints: hints([LINK, pair])), client)
    assert isinstance(error, AppError)
    assert client.early == []
    assert client.messages == []


async def test_headers_that_asgi_cannot_carry_are_left_out() -> None:
    """W-OUT-12: the extension knows links alone."""

    def step(hints: Any) -> None:
        hints([("Content-Security-Policy", "default-src 'self'"), LINK])
        hints([("X-Other", "a")])
        hints([])

    client = await fetched(app_that(step), hinting_client())
    assert client.early == [MESSAGE]


async def test_an_app_that_raises_after_a_hint() -> None:
    """W-CALL-3, W-OUT-12: the server answers 500 as ever."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.early_hints"]([LINK])
        raise ValueError("after the hint")

    client = hinting_client()
    error, _ = await failure_of(app, client)
    assert (str(error), client.early, client.messages) == ("after the hint", [MESSAGE], [])


async def test_a_client_that_leaves_in_the_middle() -> None:
    """W-FLOW-3, W-OUT-12: the next hint says so."""
    gone, raised = Gate(), []

    def step(hints: Any) -> None:
        hints([LINK])
        gone.wait_in_thread()
        try:
            hints([LINK])
        except ClientDisconnected as error:
            raised.append(type(error))
            raise

    client = hinting_client()
    async with (
        nothing_left(),
        serving(app_that(step), stall_timeout=0.1) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.early)
        client.leave()
        with anyio.fail_after(5):
            while not bridge.stats().disconnected:  # noqa: ASYNC110 - no event tells of it
                await anyio.sleep(0.002)
        gone.open()
        await client.until_ended()
    assert raised == [ClientDisconnected]
    assert client.early == [MESSAGE]


async def test_a_hint_kept_beyond_the_request_does_nothing() -> None:
    """W-OUT-12"""
    kept: list[Any] = []
    async with nothing_left(), serving(app_that(kept.append)) as bridge:
        client = await answered(bridge, hinting_client())
        kept[0]([LINK])
    assert client.early == []
