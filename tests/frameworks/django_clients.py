"""Django's test clients, made to call any WSGI or ASGI app.

They call Django by an inner door and get its response object, so no app can stand between. The
handlers here go in that door's place: they call an app as a server does and make a response object
of what it answers.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio.from_thread import start_blocking_portal
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client

from tests.frameworks.gates import WAIT_SECONDS


class Received(HttpResponse):
    """A whole response that came from an app, which has sent `request_finished` itself."""

    def close(self) -> None:
        self.closed = True


class ReceivedInPieces(StreamingHttpResponse):
    """The same while it arrives."""

    def close(self) -> None:
        self.closed = True


def received(status: int, headers: Iterable[tuple[str, str]], content: Any) -> Any:
    """The response object; its cookies are where Django's clients look for them."""
    response = Received(content) if isinstance(content, bytes) else ReceivedInPieces(content)
    response.status_code = status
    del response["Content-Type"]
    for name, value in headers:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response[name] = value
    return response


class CallsWSGIApp:
    """The handler of a `Client`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any]) -> Any:
        head: list[Any] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            head[:] = int(status[:3]), headers
            return None

        pieces = self._pieces(self._app(environ, start_response))
        # Only now is the head there for certain (PEP 3333).
        first = next(pieces, b"")
        status, headers = head
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        content = b"".join([first, *pieces]) if has_length else _with_first(first, pieces)
        response = received(status, headers, content)
        response.wsgi_request = WSGIRequest(environ)
        return response

    def _pieces(self, chunks: Any) -> Iterator[bytes]:
        try:
            yield from chunks
        finally:
            if hasattr(chunks, "close"):
                chunks.close()


def _with_first(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from pieces


class CallsASGIApp:
    """The handler of an `AsyncClient`, on asyncio."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any]) -> Any:
        file = scope.pop("_body_file", None)
        body = file.read() if file is not None else b""
        query = scope["query_string"].encode()
        messages: asyncio.Queue[Any] = asyncio.Queue()
        receive = _receive_of([{"type": "http.request", "body": body, "more_body": False}])
        called = self._app({**scope, "query_string": query}, receive, messages.put)
        task = asyncio.get_running_loop().create_task(called)
        task.add_done_callback(lambda _: messages.put_nowait(None))
        start = await messages.get()
        if start is None:
            await task
            raise AssertionError("the app ended without a response")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]
        ]
        pieces = self._pieces(messages, task)
        has_length = any(name == "content-length" for name, _ in headers)
        content = b"".join([piece async for piece in pieces]) if has_length else pieces
        response = received(start["status"], headers, content)
        response.asgi_request = ASGIRequest({**scope, "query_string": query}, None)
        return response

    async def _pieces(self, messages: Any, task: Any) -> AsyncIterator[bytes]:
        while (message := await messages.get()) is not None:
            yield message["body"]
        await task


def _receive_of(messages: list[dict[str, Any]]) -> Any:
    """Gives the messages one by one, and then waits: the client stays to the end."""

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        return await asyncio.get_running_loop().create_future()

    return receive


@dataclass
class Site:
    """A Django client as a test uses it, whether its calls are to be awaited or not."""

    client: Any
    run: Callable[..., Any]

    def get(self, path: str, **options: Any) -> Any:
        return self.run(self.client.get, path, **options)

    def post(self, path: str, data: Any, **options: Any) -> Any:
        return self.run(self.client.post, path, data, **options)

    def session(self) -> Any:
        is_async = isinstance(self.client, AsyncClient)
        return self.run(self.client.asession) if is_async else self.client.session

    def pieces(self, response: Any) -> Iterator[bytes]:
        """The body as it arrives; a response that its app gave whole is one piece."""
        if not response.streaming:
            yield response.content
        elif not response.is_async:
            yield from response.streaming_content
        else:
            arriving = aiter(response.streaming_content)
            while (piece := self.run(anext, arriving, None)) is not None:
                yield piece


@contextlib.contextmanager
def site_of_client(handler: Any = None, **options: Any) -> Iterator[Site]:
    """`Client`, with Django's own handler if none is given."""
    client = Client(enforce_csrf_checks=True, **options)
    if handler is not None:
        client.handler = handler
    yield Site(client, lambda call, *args, **kwargs: call(*args, **kwargs))


@contextlib.contextmanager
def site_of_async_client(handler: Any = None, **options: Any) -> Iterator[Site]:
    """`AsyncClient` on a loop of its own, with Django's own handler if none is given."""
    client = AsyncClient(enforce_csrf_checks=True, **options)
    if handler is not None:
        client.handler = handler
    with start_blocking_portal("asyncio") as portal:

        def run(call: Any, *args: Any, **kwargs: Any) -> Any:
            running = portal.start_task_soon(_awaited, partial(call, *args, **kwargs))
            return running.result(WAIT_SECONDS)

        try:
            yield Site(client, run)
        finally:
            run(sync_to_async(connections.close_all))


async def _awaited(call: Callable[[], Any]) -> Any:
    return await call()
