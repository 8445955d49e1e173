"""Sentry as people set it up, in a process of its own: it patches frameworks for good.

`python -m tests.monitoring.sentry_process` makes one request to each arrangement in turn, then many
at once to a few of them, and prints as JSON what was reported for each.
"""

import asyncio
import contextlib
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import anyio
import httpx
import sentry_sdk
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from flask import Flask, stream_with_context
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.fastapi import FastApiIntegration
from sentry_sdk.integrations.flask import FlaskIntegration
from sentry_sdk.integrations.starlette import StarletteIntegration
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tests.frameworks.serving import served_by_uvicorn
from tests.monitoring.clients import get_asgi, get_wsgi
from tests.support.fake_wsgi_server import InThread
from wsgi_asgi_bridge import ASGIToWSGI, ClientDisconnected, WSGIToASGI

TOGETHER = 16
WAIT_SECONDS = 10.0

Report = dict[str, Any]


class Inbox(Transport):
    """Keeps what would have been sent."""

    reports: list[Report]

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        super().__init__(options)
        self.reports = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is None:
            return
        exceptions = (event.get("exception") or {}).get("values") or [{}]
        request = event.get("request") or {}
        self.reports.append(
            {
                "exception": exceptions[-1].get("type"),
                "method": request.get("method"),
                "url": request.get("url"),
                "query": request.get("query_string"),
                "tags": event.get("tags") or {},
                "logger": event.get("logger"),
            }
        )

    def take(self) -> list[Report]:
        reports, self.reports = self.reports, []
        return reports


def set_up(inbox: Inbox) -> None:
    """With the integrations that Sentry enables by itself for these frameworks, and its usual ones:
    what is logged as an error is reported as well.
    """
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=inbox,
        auto_enabling_integrations=False,  # it would import each framework that is installed
        integrations=[FlaskIntegration(), StarletteIntegration(), FastApiIntegration()],
        ignore_errors=[ClientDisconnected],  # the advice of docs/monitoring.md
    )


# ---------------------------------------------------------------- the innermost apps


def raw_wsgi(environ: Any, start_response: Any) -> Any:
    raise LookupError("not there")


def raw_wsgi_stream(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"first"
    raise LookupError("not there")


async def raw_asgi(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("not there")


async def raw_asgi_silent(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await receive()
    await receive()  # until the client has left


async def raw_asgi_stream(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    raise LookupError("not there")


async def raw_asgi_error_page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 500})
    await send({"type": "http.response.body", "body": b"sorry"})
    raise LookupError("not there")


def flask_app(*, raises: bool = False) -> Flask:
    """With `raises`, Flask lets the server answer: the exception travels on."""
    app = Flask("reported")
    app.config["PROPAGATE_EXCEPTIONS"] = raises

    @app.route("/error", methods=["GET", "POST"])
    def error() -> str:
        raise LookupError("not there")

    @app.route("/async-error")
    async def async_error() -> str:
        await asyncio.sleep(0)
        raise LookupError("not there")

    @app.route("/stream")
    def stream() -> Any:
        def pieces() -> Iterator[str]:
            yield "first"
            raise LookupError("not there")

        return stream_with_context(pieces())

    @app.route("/tagged/<number>")
    def tagged(number: str) -> str:
        sentry_sdk.set_tag("number", number)
        sentry_sdk.set_tag(f"only {number}", "yes")
        MEETING.wait(WAIT_SECONDS)
        raise LookupError("not there")

    return app


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.api_route("/error", methods=["GET", "POST"])
    async def error() -> str:
        raise LookupError("not there")

    @app.get("/sync-error")
    def sync_error() -> str:
        raise LookupError("not there")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "first"
            raise LookupError("not there")

        return StreamingResponse(pieces())

    async def work() -> None:
        raise LookupError("not there")

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(work)
        return "begun"

    @app.get("/tagged/{number}")
    async def tagged(number: str) -> str:
        sentry_sdk.set_tag("number", number)
        sentry_sdk.set_tag(f"only {number}", "yes")
        await anyio.to_thread.run_sync(MEETING.wait, WAIT_SECONDS)
        raise LookupError("not there")

    return app


MEETING = threading.Barrier(TOGETHER)


# ---------------------------------------------------------------- arrangements


class Layers:
    """Puts apps together, and closes the bridges among them in the end."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Layers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def w(self, app: Any) -> Any:
        return self._stack.enter_context(contextlib.closing(WSGIToASGI(app, workers=TOGETHER)))

    def a(self, app: Any) -> Any:
        mode = "auto" if isinstance(app, FastAPI) else "off"
        return self._stack.enter_context(ASGIToWSGI(app, lifespan=mode))

    @staticmethod
    def wsgi(app: Any) -> Any:
        return SentryWsgiMiddleware(app)

    @staticmethod
    def asgi(app: Any) -> Any:
        return SentryAsgiMiddleware(app)

    @staticmethod
    def shell(app: Any) -> FastAPI:
        """FastAPI with an old app at `/old`."""
        shell = FastAPI()
        shell.mount("/old", app)
        return shell

    @staticmethod
    def host(app: Any) -> Flask:
        """Flask with a new app at `/new`."""
        host = Flask("host")
        host.wsgi_app = DispatcherMiddleware(host.wsgi_app, {"/new": app})  # type: ignore[method-assign]
        return host


Arrangement = Callable[[Layers], Any]

UNDER_ASGI: dict[str, tuple[Arrangement, str]] = {
    # one bridge
    "W(flask)": (lambda of: of.w(flask_app()), "/error"),
    "W(flask), async view": (lambda of: of.w(flask_app()), "/async-error"),
    "W(flask), raises": (lambda of: of.w(flask_app(raises=True)), "/error"),
    "W(flask), stream": (lambda of: of.w(flask_app()), "/stream"),
    "W(wsgi(raw))": (lambda of: of.w(of.wsgi(raw_wsgi)), "/error"),
    "asgi(W(raw))": (lambda of: of.asgi(of.w(raw_wsgi)), "/error"),
    "asgi(W(wsgi(raw)))": (lambda of: of.asgi(of.w(of.wsgi(raw_wsgi))), "/error"),
    "asgi(W(wsgi(raw))), stream": (lambda of: of.asgi(of.w(of.wsgi(raw_wsgi_stream))), "/stream"),
    "asgi(W(flask))": (lambda of: of.asgi(of.w(flask_app())), "/error"),
    "asgi(W(flask)), raises": (lambda of: of.asgi(of.w(flask_app(raises=True))), "/error"),
    "asgi(W(flask)), stream": (lambda of: of.asgi(of.w(flask_app())), "/stream"),
    "shell(W(raw))": (lambda of: of.shell(of.w(raw_wsgi)), "/old/error"),
    "shell(W(flask))": (lambda of: of.shell(of.w(flask_app())), "/old/error"),
    "shell(W(flask)), raises": (lambda of: of.shell(of.w(flask_app(raises=True))), "/old/error"),
    "shell(W(flask)), stream": (lambda of: of.shell(of.w(flask_app())), "/old/stream"),
    # both bridges
    "W(A(fastapi))": (lambda of: of.w(of.a(fastapi_app())), "/error"),
    "W(host(A(fastapi)))": (lambda of: of.w(of.host(of.a(fastapi_app()))), "/new/error"),
    "W(host(A(fastapi))), stream": (lambda of: of.w(of.host(of.a(fastapi_app()))), "/new/stream"),
    "asgi(W(wsgi(A(fastapi))))": (
        lambda of: of.asgi(of.w(of.wsgi(of.a(fastapi_app())))),
        "/error",
    ),
    "asgi(W(wsgi(A(fastapi)))), stream": (
        lambda of: of.asgi(of.w(of.wsgi(of.a(fastapi_app())))),
        "/stream",
    ),
    "asgi(W(wsgi(A(asgi(raw)))))": (
        lambda of: of.asgi(of.w(of.wsgi(of.a(of.asgi(raw_asgi))))),
        "/error",
    ),
    "asgi(W(wsgi(A(raw)))), error page": (
        lambda of: of.asgi(of.w(of.wsgi(of.a(raw_asgi_error_page)))),
        "/error",
    ),
}
UNDER_WSGI: dict[str, tuple[Arrangement, str]] = {
    # one bridge
    "A(fastapi)": (lambda of: of.a(fastapi_app()), "/error"),
    "A(fastapi), sync view": (lambda of: of.a(fastapi_app()), "/sync-error"),
    "A(fastapi), stream": (lambda of: of.a(fastapi_app()), "/stream"),
    "A(fastapi), background": (lambda of: of.a(fastapi_app()), "/background"),
    "A(asgi(raw))": (lambda of: of.a(of.asgi(raw_asgi)), "/error"),
    "wsgi(A(raw))": (lambda of: of.wsgi(of.a(raw_asgi)), "/error"),
    "wsgi(A(asgi(raw)))": (lambda of: of.wsgi(of.a(of.asgi(raw_asgi))), "/error"),
    "wsgi(A(asgi(raw))), stream": (lambda of: of.wsgi(of.a(of.asgi(raw_asgi_stream))), "/stream"),
    "wsgi(A(raw)), error page": (lambda of: of.wsgi(of.a(raw_asgi_error_page)), "/error"),
    "wsgi(A(asgi(raw))), error page": (
        lambda of: of.wsgi(of.a(of.asgi(raw_asgi_error_page))),
        "/error",
    ),
    "wsgi(A(fastapi))": (lambda of: of.wsgi(of.a(fastapi_app())), "/error"),
    "wsgi(A(fastapi)), stream": (lambda of: of.wsgi(of.a(fastapi_app())), "/stream"),
    "host(A(fastapi))": (lambda of: of.host(of.a(fastapi_app())), "/new/error"),
    "host(A(fastapi)), stream": (lambda of: of.host(of.a(fastapi_app())), "/new/stream"),
    # both bridges
    "A(shell(W(flask)))": (lambda of: of.a(of.shell(of.w(flask_app()))), "/old/error"),
    "A(shell(W(flask))), raises": (
        lambda of: of.a(of.shell(of.w(flask_app(raises=True)))),
        "/old/error",
    ),
    "wsgi(A(shell(W(flask))))": (
        lambda of: of.wsgi(of.a(of.shell(of.w(flask_app())))),
        "/old/error",
    ),
    "wsgi(A(shell(W(flask)))), stream": (
        lambda of: of.wsgi(of.a(of.shell(of.w(flask_app())))),
        "/old/stream",
    ),
    "wsgi(A(asgi(W(wsgi(raw)))))": (
        lambda of: of.wsgi(of.a(of.asgi(of.w(of.wsgi(raw_wsgi))))),
        "/error",
    ),
}
MANY_UNDER_ASGI: dict[str, Arrangement] = {
    "W(flask)": lambda of: of.w(flask_app()),
    "W(A(fastapi))": lambda of: of.w(of.a(fastapi_app())),
}
MANY_UNDER_WSGI: dict[str, Arrangement] = {
    "A(fastapi)": lambda of: of.a(fastapi_app()),
    "A(shell(W(flask)))": lambda of: of.a(of.shell(of.w(flask_app()))),
}


# ---------------------------------------------------------------- requests


def ask_asgi(app: Any, path: str) -> None:
    asyncio.run(get_asgi(app, path))


def ask_wsgi(app: Any, path: str) -> None:
    """In a new thread, whose context knows of no other request."""
    asking(app, path).result()


def asking(app: Any, path: str) -> InThread:
    def ask() -> None:
        with contextlib.suppress(LookupError):
            get_wsgi(app, path)

    return InThread(ask)


def one_each(inbox: Inbox) -> dict[str, list[Report]]:
    reported: dict[str, list[Report]] = {}
    for ask, arrangements in ((ask_asgi, UNDER_ASGI), (ask_wsgi, UNDER_WSGI)):
        for name, (arrange, path) in arrangements.items():
            with Layers() as layers:
                ask(arrange(layers), f"{path}?q=1")
            reported[name] = inbox.take()
    return reported


def many_at_once(inbox: Inbox) -> dict[str, list[Report]]:
    reported: dict[str, list[Report]] = {}
    for ask_all, arrangements in ((ask_all_asgi, MANY_UNDER_ASGI), (ask_all_wsgi, MANY_UNDER_WSGI)):
        for name, arrange in arrangements.items():
            with Layers() as layers:
                prefix = "/old" if "shell" in name else ""
                ask_all(arrange(layers), [f"{prefix}/tagged/{n}" for n in range(TOGETHER)])
            reported[name] = inbox.take()
    return reported


def ask_all_asgi(app: Any, paths: list[str]) -> None:
    async def ask_all() -> None:
        await asyncio.gather(*(get_asgi(app, path) for path in paths))

    asyncio.run(ask_all())


def ask_all_wsgi(app: Any, paths: list[str]) -> None:
    for caller in [asking(app, path) for path in paths]:
        caller.result()


def on_uvicorn(inbox: Inbox) -> list[Report]:
    """uvicorn logs the exception that travels to it, and what is logged is reported."""
    with (
        Layers() as layers,
        served_by_uvicorn(layers.w(flask_app())) as url,
        contextlib.suppress(httpx.RemoteProtocolError),  # the response is cut
    ):
        httpx.get(f"{url}/stream")
    return inbox.take()


def left_by_the_client(inbox: Inbox) -> dict[str, Any]:
    """A WSGI server that knows that the client has left a stream while it is silent."""
    environ: dict[str, Any] = {"waitress.client_disconnected": lambda: True}
    setup_testing_defaults(environ)
    raised = None
    with Layers() as layers:
        app = layers.wsgi(layers.a(raw_asgi_silent))
        try:
            for _ in app(environ, lambda *_: None):
                pass
        except ClientDisconnected as error:
            raised = type(error).__name__
    return {"raised": raised, "reports": inbox.take()}


if __name__ == "__main__":
    # Reported they are, printed they need not be.
    logging.lastResort = None
    inbox = Inbox()
    set_up(inbox)
    result = {
        "one each": one_each(inbox),
        "many": many_at_once(inbox),
        "on uvicorn": on_uvicorn(inbox),
        "left by the client": left_by_the_client(inbox),
    }
    json.dump(result, sys.stdout)
