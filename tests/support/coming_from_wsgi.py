"""WSGI apps behind WSGIToASGI and the other adapters: one exchange, and what came of it."""

import asyncio
import sys
import warnings
from collections.abc import Callable
from typing import Any

import a2wsgi
from asgiref.wsgi import WsgiToAsgi

from tests.support import coming_from
from wsgi_asgi_bridge import WSGIToASGI

Scope = dict[str, Any]
Message = dict[str, Any]
Environ = dict[str, Any]

MUST_COME_SECONDS = 10.0
MUST_NOT_COME_SECONDS = 0.25
AT_ONCE = 45
"""More than any of them runs at once."""

PART = b"x" * 100_000
"""Half of a body that nobody takes for a small one."""


def uvicorn_middleware(app: Any) -> Any:
    """What uvicorn has when a2wsgi is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        from uvicorn.middleware.wsgi import _WSGIMiddleware

        return _WSGIMiddleware(app)


def starlette_middleware(app: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        from starlette.middleware.wsgi import WSGIMiddleware

        return WSGIMiddleware(app)


ADAPTERS = {
    "a2wsgi": ("a2wsgi", a2wsgi.WSGIMiddleware),
    "asgiref": ("asgiref", WsgiToAsgi),
    "uvicorn": ("uvicorn", uvicorn_middleware),
    "Starlette": ("starlette", starlette_middleware),
    "`WSGIToASGI`": ("wsgi_asgi_bridge", WSGIToASGI),
}


def patience(is_expected: bool) -> float:
    """What must come is waited for as long as it takes; what must not, for a moment."""
    return MUST_COME_SECONDS if is_expected else MUST_NOT_COME_SECONDS


def yes(is_so: object) -> str:
    return "yes" if is_so else "no"


class Exchange:
    """One request to an ASGI app in an asyncio loop of its own, and what came of it.

    `parts` are the body; where `body_ends` is False the client leaves after them, with `leaves`
    after the first part of the response. `before_last_part` and `on_body` are called, in a thread,
    before receive() gives the last part, and before send() returns from each part.
    """

    def __init__(
        self,
        scope: Scope | None = None,
        parts: tuple[bytes, ...] = (b"",),
        *,
        body_ends: bool = True,
        before_last_part: Callable[[], Any] | None = None,
        on_body: Callable[[], Any] | None = None,
        leaves: bool = False,
    ) -> None:
        self.scope = scope or http_scope()
        self.messages: list[Message] = []
        self.error: BaseException | None = None
        self._parts = list(parts)
        self._body_ends = body_ends
        self._before_last_part = before_last_part
        self._on_body = on_body
        self._leaves = leaves
        self._over = asyncio.Event()

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def headers(self) -> dict[bytes, bytes]:
        return {name.lower(): value for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    async def run(self, app: Any) -> "Exchange":
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:
            self.error = error
        return self

    async def receive(self) -> Message:
        if not self._parts:
            if self._body_ends:
                await self._over.wait()
            return {"type": "http.disconnect"}
        last = len(self._parts) == 1
        if last and self._before_last_part is not None:
            await asyncio.to_thread(self._before_last_part)
        part = self._parts.pop(0)
        more = not last or not self._body_ends
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.body":
            if self._leaves or not message.get("more_body", False):
                self._over.set()
            if self._on_body is not None:
                await asyncio.to_thread(self._on_body)


def http_scope(**changes: Any) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org")],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        **changes,
    }


def upload_scope() -> Scope:
    length = (b"content-length", b"%d" % (2 * len(PART)))
    return http_scope(method="POST", headers=[(b"host", b"example.org"), length])


def exchanged(
    factory: Any, app: Any, *exchanges: Exchange, first: Callable[[], Any] = lambda: None
) -> Exchange:
    """The first of the exchanges, all of them over; nothing of the adapter is left.

    `first` is called before the adapter, in the same task.
    """

    async def all_of_them() -> None:
        adapter = factory(app)

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            first()
            await adapter(scope, receive, send)

        try:
            async with asyncio.timeout(3 * MUST_COME_SECONDS):
                await asyncio.gather(*(exchange.run(outer) for exchange in exchanges))
        finally:
            if isinstance(adapter, WSGIToASGI):
                await adapter.aclose()
            elif hasattr(adapter, "executor"):
                adapter.executor.shutdown()

    asyncio.run(all_of_them())
    return exchanges[0]


def environ_of(factory: Any, **changes: Any) -> Environ:
    """What an app finds; empty where it is not called."""
    found: list[Environ] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        found.append({**environ, "stdout": environ["wsgi.errors"] is sys.stdout})
        start_response("200 OK", [])
        return [b"ok"]

    exchanged(factory, app, Exchange(http_scope(**changes)))
    return found[0] if found else {}


def environ_has(key: str) -> coming_from.Probe:
    return lambda factory, _: yes(key in environ_of(factory))
