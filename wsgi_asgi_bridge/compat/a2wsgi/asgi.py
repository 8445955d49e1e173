"""a2wsgi's `ASGIMiddleware`: an ASGI app under a WSGI server, by an ASGIToWSGI."""

import asyncio
import functools
import logging
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from ..._kinds import refuse_wsgi_app
from ..._options import imported_app
from ..._pickling import PickledAsNew, keeping_options
from ...asgi_to_wsgi import ASGIToWSGI
from ...asgi_to_wsgi.response import Response
from ...errors import BridgeClosed, ClientDisconnected, ServerError
from ...typing import ASGIApp, Environ, StartResponse

__all__ = ["ASGIMiddleware", "ASGIResponder"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

ERROR_BODY = b"Internal Server Error\n"


class ASGIMiddleware(PickledAsNew):
    """Makes a WSGI app of an ASGI app.

    - `wait_time`: seconds for which the end of a response waits for what the app does after it,
      which is then cancelled. None waits for ever.
    - `loop`: a running event loop in which the app runs. None runs it in the bridge's own.

    `bridge` is the ASGIToWSGI that does the work. The app gets no lifespan.
    """

    @keeping_options
    def __init__(
        self,
        app: ASGIApp | str,
        wait_time: float | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app = app
        self._wait_time = wait_time
        self.bridge: ASGIToWSGI = _bridge(wait_time)
        self._loop: asyncio.AbstractEventLoop | None = None
        if loop:  # some subclasses give False, to have no loop made
            self.loop = loop

    @property
    def app(self) -> ASGIApp:
        """The ASGI app; may be set."""
        return self._app

    @app.setter
    def app(self, app: ASGIApp | str) -> None:
        found = imported_app(app, kind="an ASGI app")
        refuse_wsgi_app(found)
        self._app: ASGIApp = found
        self._given_app = app

    @property
    def wait_time(self) -> float | None:
        """As given to the constructor."""
        return self._wait_time

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop in which the app runs. Reading it starts the bridge's own if need be."""
        if self._loop is not None:
            return self._loop
        own: Any = self.bridge._running_runtime("loop").handle.loop
        return own  # type: ignore[no-any-return]

    @loop.setter
    def loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise TypeError(f"loop is {loop!r}, expected an event loop of asyncio")
        if not loop.is_running():
            warnings.warn(
                f"loop is {loop!r}: requests wait until a thread of yours runs it. Without `loop` "
                "the bridge runs one of its own",
                RuntimeWarning,
                stacklevel=4,  # whoever called the constructor
            )
        self._loop = loop

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI app. It answers 500 itself if the app raises before the body has begun."""
        call = _Call(self._app, self._loop, cancels=self._wait_time is not None)
        return call.respond(self.bridge, environ, start_response)


class ASGIResponder:
    """One request at a time, for subclasses that choose a loop for each."""

    def __init__(
        self, app: ASGIApp, loop: asyncio.AbstractEventLoop, wait_time: float | None = None
    ) -> None:
        self.app: ASGIApp = app
        self.loop: asyncio.AbstractEventLoop = loop
        self.wait_time: float | None = wait_time

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = _Call(self.app, self.loop, cancels=self.wait_time is not None)
        return call.respond(_shared_bridge(self.wait_time), environ, start_response)


# ------------------------------------------------------------ one request


class _Call:
    """One request: the app that answers it, and in which loop."""

    def __init__(
        self, app: ASGIApp, loop: asyncio.AbstractEventLoop | None, *, cancels: bool
    ) -> None:
        self._app: Any = app
        self._loop = loop
        self._cancels = cancels
        """Whether the app is cancelled at the end of its response."""
        self._task: asyncio.Task[Any] | None = None
        """While it runs, in the bridge's loop."""
        self._cancelled = False

    def respond(
        self, bridge: ASGIToWSGI, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """In the calling thread."""

        def start_with_three(status: str, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, headers, exc_info)

        token = _call.set(self)
        try:
            response = bridge(environ, start_with_three)
        except (BridgeClosed, ServerError, ClientDisconnected):
            raise
        except Exception:
            logger.exception("the app raised before its response")
            headers = [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(ERROR_BODY))),
            ]
            start_response("500 Internal Server Error", headers, sys.exc_info())
            return [] if environ.get("REQUEST_METHOD") == "HEAD" else [ERROR_BODY]
        finally:
            _call.reset(token)
        # The server's own wrapper of a file reaches it as it is, and nothing is left to wait for.
        ours = isinstance(response, list | Response)
        return _Response(response, self) if ours else response

    async def run(self, scope: Any, receive: Any, send: Any) -> None:
        """In the bridge's loop."""
        if scope["type"] == "http":  # a WebSocket goes on when its thread has left
            self._task = asyncio.current_task()
        try:
            if self._loop is None:
                await self._app(scope, receive, send)
            else:
                await _run_in(self._loop, self._app, scope, receive, send)
        except asyncio.CancelledError:
            if not self._cancelled or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._task = None

    def response_ended(self) -> None:
        """In the calling thread, after it has waited for the app."""
        # Written in the loop before the app's first message, so before the response. If the app
        # ends meanwhile, `_cancel` sees that in the loop.
        task = self._task
        if self._cancels and task is not None:
            task.get_loop().call_soon_threadsafe(self._cancel, task)

    def _cancel(self, task: "asyncio.Task[Any]") -> None:
        """In the bridge's loop. The task's next job may be another one."""
        if self._task is task:
            self._cancelled = True
            task.cancel()


_call: ContextVar[_Call] = ContextVar("call")


async def _run_current(scope: Any, receive: Any, send: Any) -> None:
    """The app of each bridge: that of the request whose context this is."""
    await _call.get().run(scope, receive, send)


class _Response(Iterator[bytes]):
    """The response; its end waits for the app, in the iteration or in `close()`."""

    def __init__(self, response: Iterable[bytes], call: _Call) -> None:
        self._response: Any = response
        self._chunks = iter(response)
        self._call: _Call | None = call
        """None once the response has ended."""

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            try:
                self.close()
            except Exception:  # raised here, it would cut the response off
                logger.exception("the app raised after its response had ended")
            raise

    def close(self) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        try:
            if hasattr(self._response, "close"):
                self._response.close()
        finally:
            call.response_ended()


# ------------------------------------------------------------ loops


async def _run_in(
    loop: asyncio.AbstractEventLoop, app: Any, scope: Any, receive: Any, send: Any
) -> None:
    """Run the app in another loop, which another thread runs. Cancelled with it."""
    own = asyncio.get_running_loop()

    def here(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            return await function(*args)

        async def call_here(*args: Any) -> Any:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(*args), own))

        return call_here

    async def run() -> None:
        await app(scope, here(receive), here(send))

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), loop))


def _bridge(wait_time: float | None) -> ASGIToWSGI:
    wait = threading.TIMEOUT_MAX if wait_time is None else wait_time
    return ASGIToWSGI(_run_current, lifespan="off", background_wait=wait)


_shared_bridge = functools.cache(_bridge)
"""For responders, which are made for each request."""
