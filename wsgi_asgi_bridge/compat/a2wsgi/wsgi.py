"""a2wsgi's `WSGIMiddleware`: a WSGI app under an ASGI server, by a WSGIToASGI."""

import os
import sys
import threading
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, NoReturn

from ..._kinds import refuse_asgi_app
from ..._options import imported_app
from ..._pickling import PickledAsNew, keeping_options
from ...typing import Environ, Receive, Scope, Send, StartResponse, WSGIApp
from ...wsgi_to_asgi import WSGIToASGI

__all__ = ["WSGIMiddleware", "WSGIResponder"]

QUEUED_MESSAGE_BYTES = 65536
"""What a message of a2wsgi's queue is taken for: the bridge counts bytes."""


class WSGIMiddleware(PickledAsNew):
    """Makes an ASGI 3 app of a WSGI app.

    - `workers`: threads that run the app.
    - `send_queue_size`: how much of a response waits for its client, in blocks of 64 KiB.

    `bridge` is the WSGIToASGI that does the work, `executor` stands for its threads.
    """

    @keeping_options
    def __init__(self, app: WSGIApp | str, workers: int = 10, send_queue_size: int = 10) -> None:
        self.app = app
        self.send_queue_size: int = send_queue_size
        if send_queue_size < 1:
            warnings.warn(
                f"send_queue_size={send_queue_size} meant a queue without a bound; the bridge has "
                "one, of 10 blocks. A larger send_queue_size makes it wider",
                RuntimeWarning,
                stacklevel=3,
            )
            send_queue_size = 10
        self.bridge: WSGIToASGI = WSGIToASGI(
            _run_current,
            workers=workers,
            response_buffer=send_queue_size * QUEUED_MESSAGE_BYTES,
            environ=_script_name(),
        )
        self._executor = _Executor(self.bridge, workers)

    @property
    def app(self) -> WSGIApp:
        """The WSGI app; may be set."""
        return self._app

    @app.setter
    def app(self, app: WSGIApp | str) -> None:
        found = imported_app(app, kind="a WSGI app: a callable (environ, start_response)")
        refuse_asgi_app(found)
        self._app: WSGIApp = found
        self._given_app = app

    @property
    def executor(self) -> ThreadPoolExecutor:
        """An executor with as many threads as `workers`; its `shutdown()` closes the bridge."""
        return self._executor

    @executor.setter
    def executor(self, executor: object) -> NoReturn:
        raise AttributeError(
            "the app runs in the bridge's own threads, which no executor replaces; give their "
            "number: WSGIMiddleware(app, workers=...)"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app. Raises what the app raised, and what it answered itself by `exc_info`."""
        call = _Call(self._app)
        token = _call.set(call)
        try:
            await self.bridge(scope, receive, send)
        finally:
            _call.reset(token)
        if call.answered_error is not None:
            try:
                raise call.answered_error
            finally:
                call.answered_error = None  # break the cycle: its traceback refers to this frame


class WSGIResponder:
    """Here so that it can be imported. Raises NotImplementedError at construction."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            "WSGIResponder is a part of a2wsgi's engine, which the bridge does not have; await "
            "WSGIMiddleware(app)(scope, receive, send) instead, and make what you have overridden "
            "a middleware around that, or around the app"
        )


class _Call:
    """One request: the app that answers it, and the error that the app has answered itself.

    The worker writes `answered_error`, and the loop reads it once the request has ended there.
    """

    __slots__ = ("answered_error", "app")

    def __init__(self, app: WSGIApp) -> None:
        self.app: WSGIApp = app
        self.answered_error: BaseException | None = None

    def run(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """In the worker's thread."""

        def start_noted(status: str, headers: Any, exc_info: Any = None, /) -> Any:
            self.answered_error = None if exc_info is None else exc_info[1]
            return start_response(status, headers, exc_info)

        return self.app(environ, start_noted)


_call: ContextVar[_Call] = ContextVar("call")


def _run_current(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The app of each bridge: that of the request whose context this is."""
    return _call.get().run(environ, start_response)


class _Executor(ThreadPoolExecutor):
    """Runs what is submitted to it, in threads of its own, since requests have the bridge's."""

    def __init__(self, bridge: WSGIToASGI, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="WSGI")
        self._bridge = bridge

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._bridge.close()
        else:
            name = "wsgi_asgi_bridge-close"
            threading.Thread(target=self._bridge.close, name=name, daemon=True).start()


def _script_name() -> dict[str, str] | None:
    """The process's SCRIPT_NAME, which a2wsgi prefers to the scope's `root_path`."""
    name = os.environ.get("SCRIPT_NAME")
    if not name:
        return None
    encoded = name.encode(sys.getfilesystemencoding(), "surrogateescape")
    return {"SCRIPT_NAME": encoded.decode("latin-1")}
