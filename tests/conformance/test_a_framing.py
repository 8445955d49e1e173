"""A-OUT-7: whether the server gets a list, to which many add a Content-Length, is decided by the
messages that the app sent, and never by which thread was quicker.
"""

import threading
from typing import Any

import pytest

from tests.support.wsgi_driver import (
    Gate,
    bridged,
    environ_for,
    finish,
    must_happen,
    on_every_backend,
    respond,
    start,
    stream,
)
from wsgi_asgi_bridge._crossing.caller import Caller

EVENT_STREAM = [(b"content-type", b"text/event-stream")]


async def event_stream(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})


IN_SEVERAL_MESSAGES = {
    "two parts": (start, [b"first", b"last"]),
    "a part and the end": (start, [b"first", b""]),
    "an event stream": (event_stream, [b": hello\n\n", b"data: 1\n\n", b""]),
    "nothing, then all": (start, [b"", b"all"]),
}


def result_of(bridge: Any, noted: Any = lambda: None, **request: Any) -> Any:
    """What the bridge gives a server; `noted` is called by `start_response`."""

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        assert "Content-Length" not in dict(headers)
        noted()

    return bridge(environ_for(**request), start_response)


@pytest.fixture
def held_caller(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set by the app once it has sent all: the calling thread takes nothing before that."""
    sent = threading.Event()
    take = Caller.take_from_thread

    def late(self: Caller, *args: Any) -> Any:
        must_happen(sent, "the end of the app")
        return take(self, *args)

    monkeypatch.setattr(Caller, "take_from_thread", late)
    return sent


@on_every_backend
@pytest.mark.parametrize("form", IN_SEVERAL_MESSAGES)
def test_several_messages_are_no_list_where_the_app_was_quicker(
    backend: dict[str, Any], form: str, held_caller: threading.Event
) -> None:
    """A-OUT-7."""
    begin, parts = IN_SEVERAL_MESSAGES[form]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        for part in parts[:-1]:
            await stream(send, part)
        await finish(send, parts[-1])
        held_caller.set()

    with bridged(app, backend) as bridge:
        result = result_of(bridge)
        assert not hasattr(result, "__len__")
        assert b"".join(result) == b"".join(parts)
        result.close()


@on_every_backend
@pytest.mark.parametrize("form", list(IN_SEVERAL_MESSAGES)[:3])
def test_several_messages_are_no_list_where_the_thread_was_quicker(
    backend: dict[str, Any], form: str
) -> None:
    """A-OUT-7."""
    begin, parts = IN_SEVERAL_MESSAGES[form]
    taken = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        await stream(send, parts[0])
        await taken.wait()
        for part in parts[1:-1]:
            await stream(send, part)
        await finish(send, parts[-1])

    with bridged(app, backend) as bridge:
        result = result_of(bridge, taken.open)
        assert not hasattr(result, "__len__")
        assert b"".join(result) == b"".join(parts)
        result.close()


@on_every_backend
def test_the_head_of_a_stream_is_no_list_either(backend: dict[str, Any]) -> None:
    """A-OUT-7: a server would say that the stream has no bytes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"first")
        await finish(send, b"last")

    with bridged(app, backend) as bridge:
        result = result_of(bridge, method="HEAD")
        assert not hasattr(result, "__len__")
        assert b"".join(result) == b""
        result.close()


@on_every_backend
@pytest.mark.parametrize("body", [b"all", b""])
def test_one_message_is_a_list(backend: dict[str, Any], body: bytes) -> None:
    """A-OUT-7: it is whole whoever is quicker, so that servers may say how long it is."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, body)

    with bridged(app, backend) as bridge:
        result = result_of(bridge)
        assert type(result) is list
        assert b"".join(result) == body


def test_several_messages_with_a_length_may_be_a_list(held_caller: threading.Event) -> None:
    """A-OUT-7: no server adds what is there."""
    lengths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await stream(send, b"fo")
        await finish(send, b"ur")
        held_caller.set()

    with bridged(app) as bridge:
        result = bridge(
            environ_for(), lambda _, headers: lengths.append(dict(headers)["Content-Length"])
        )
        assert result == [b"four"]
    assert lengths == ["4"]
