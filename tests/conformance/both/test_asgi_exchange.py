"""An ASGI app behind both bridges in one process behaves as it does without them."""

from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from tests.support.both import asgi_behind_both, like
from tests.support.fake_asgi_server import Client, answered, calling, http_scope, post_scope
from tests.support.fake_wsgi_server import (
    Gate,
    finish,
    respond,
    start,
    stream,
    whole_body,
)


class AppFailure(Exception):
    """What the apps here raise."""


# --- an ASGI app: what arrives


async def test_an_asgi_app_keeps_its_headers(anyio_backend: Any) -> None:
    headers = [(b"set-cookie", b"a=1"), (b"x-b", b"1"), (b"set-cookie", b"b=2"), (b"x-b", b"\xe9")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"body", status=418, headers=[*headers, (b"content-length", b"4")])

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = await answered(both)
    assert client.status == 418
    assert client.messages[0]["headers"] == [*headers, (b"content-length", b"4")]
    assert client.body == b"body"


async def test_each_part_arrives_before_the_next_is_made(anyio_backend: Any) -> None:
    """A-OUT-2, W-OUT-4."""
    gates = [Gate() for _ in range(3)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for number, gate in enumerate(gates):
            await stream(send, b"%d" % number)
            await gate.wait()
        await finish(send)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            for number, gate in enumerate(gates):
                await client.until(lambda c, size=number + 1: c.body_bytes == size)
                await anyio.to_thread.run_sync(gate.open)
    assert client.body == b"012"
    assert client.complete


async def test_asgi_app_answers_each_part_of_the_request_as_it_comes(
    anyio_backend: Any,
) -> None:
    """W-IN-4, A-IN-1, A-OUT-2."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        while (message := await receive())["more_body"]:
            await stream(send, message["body"])
        await finish(send, message["body"])

    # Larger than what either bridge collects of a body of this length, and than what it reads at
    # a time.
    part = b"x" * 600_000
    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client(post_scope(2 * len(part)), body_ends=False)
        async with calling(both, client):
            client.feed(part)
            await client.until(lambda c: c.body_bytes > 0)
            client.feed(part, last=True)
    assert client.body == 2 * part


# --- an ASGI app: how it ends


async def test_asgi_apps_very_exception_comes_out_before_the_response(
    anyio_backend: Any,
) -> None:
    """A-OUT-4, W-CALL-3."""
    failure = AppFailure("before the start")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise failure

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            pass
    assert client.error is failure
    assert not client.messages


async def test_an_asgi_apps_very_exception_comes_out_in_mid_stream(anyio_backend: Any) -> None:
    """A-OUT-4, W-CALL-3."""
    failure = AppFailure("after the start")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"so far")
        raise failure

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            pass
    assert client.error is failure
    assert client.body == b"so far"
    assert not client.complete


async def test_an_asgi_app_learns_in_receive_that_its_client_left(anyio_backend: Any) -> None:
    """A-IN-2, A-IN-3: the outer bridge tells the inner one, though nothing is being sent."""
    told = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        await start(send)
        await stream(send, b"an event")
        message = await receive()
        assert message == {"type": "http.disconnect"}
        await anyio.to_thread.run_sync(told.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            await client.until(lambda c: c.body == b"an event")
            client.leave()
        await anyio.to_thread.run_sync(told.wait_in_thread)
    assert client.error is None


async def test_an_asgi_app_learns_early_that_its_client_left(
    anyio_backend: Any,
) -> None:
    """A-IN-3: a long computation that nobody waits for any more."""
    begun, told = Gate(), Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await anyio.to_thread.run_sync(begun.open)
        message = await receive()
        assert message == {"type": "http.disconnect"}
        await anyio.to_thread.run_sync(told.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            await anyio.to_thread.run_sync(begun.wait_in_thread)
            client.leave()
        await anyio.to_thread.run_sync(told.wait_in_thread)


async def test_send_raises_in_an_asgi_app_whose_client_left(anyio_backend: Any) -> None:
    """A-OUT-3."""
    raised: list[BaseException] = []
    ended, left = Gate(), Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        try:
            await stream(send, b"first")
            await left.wait()
            while True:
                await stream(send, b"x" * 100_000)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(ended.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            await client.until(lambda c: c.body == b"first")
            client.leave()
            await anyio.to_thread.run_sync(left.open)
        await anyio.to_thread.run_sync(ended.wait_in_thread)
    # Or it is cancelled, where it was told in the middle of something else.
    assert isinstance(raised[0], OSError) or "ancel" in type(raised[0]).__name__


async def test_background_work_of_asgi_app_goes_on_after_its_response(
    anyio_backend: Any,
) -> None:
    """A-OUT-5: the response does not wait for it."""
    answered_gate, done = Gate(), Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"done")
        await answered_gate.wait()
        await anyio.to_thread.run_sync(done.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        assert (await answered(both)).body == b"done"
        await anyio.to_thread.run_sync(answered_gate.open)
        await anyio.to_thread.run_sync(done.wait_in_thread)


# --- an ASGI app: beside the message


async def test_what_server_and_middleware_put_into_scope_reaches_app(
    anyio_backend: Any,
) -> None:
    """A-SCOPE-3, W-ENV-8: and what the middle put into environ; a session changed inside has
    changed outside.
    """
    user = object()
    session, state = {"visits": 1}, {"request_id": 7}
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        scope["session"]["visits"] += 1
        scope["state"]["seen"] = True
        await respond(send, b"ok")

    def middle(inner: Any) -> Any:
        def middleware(environ: dict[str, Any], start_response: Any) -> Any:
            del environ["HTTP_X_SECRET"]
            environ["middle.key"] = user
            return inner(environ, start_response)

        return middleware

    scope = http_scope(
        headers=[(b"x-secret", b"1")],
        session=session,
        state=state,
        user=user,
        extensions={"http.response.push": {}},
    )
    async with asgi_behind_both(app, like(anyio_backend), middle=middle) as both:
        assert (await answered(both, Client(scope))).body == b"ok"
    assert seen["user"] is user
    assert session == {"visits": 2}
    assert state == {"request_id": 7, "seen": True}
    assert seen["wsgi_environ"]["middle.key"] is user
    assert b"x-secret" not in dict(seen["headers"])
    assert seen["extensions"] == {"http.response.pathsend": {}}  # by W's wsgi.file_wrapper
