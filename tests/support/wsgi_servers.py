"""The WSGI servers that the tests run, as a table: how each is started, ended, and what it can do.

`python -m tests.support.wsgi_servers NAME pkg.mod:attr PORT` runs one of those that have no command
line of their own.
"""

import contextlib
import importlib
import os
import signal
import sys
import warnings
import wsgiref.simple_server
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.processes import HOST

THREADS = 8
SCRIPTS = Path(sys.executable).parent

# What a server may lack. The reason stands in the table; tests take `servers_with(...)`.
CONCURRENCY = "handles requests at the same time"
KEEP_ALIVE = "answers several requests on one connection"
CHUNKED_UPLOAD = "takes a chunked upload"
CHUNKED_RESPONSE = "sends a body of unknown length in chunks"
BROKEN_CHUNKS = "breaks such a body off when its iterable raises"
STREAMED_UPLOAD = "calls the app while the body is still arriving"
MASTER_EXIT_HOOKS = "runs the hooks of Python's exit in its master, too"
ASKS_LATE = "asks for a body that its client holds back only when wsgi.input is read, or never"
SILENT_LEAVE = "shows a client that leaves while the app is silent"
RELEASE = "gives the connection of an event stream away"
WEBSOCKET = "shows its connection, so that a WebSocket can be taken over"
EARLY_BYTES = "keeps what a client sends together with the head of a GET"

COLLECTS = "collects the whole body before it calls the app"
ASKS_AT_ONCE = "sends 100 Continue before it calls the app"
NO_SOCKET = "nothing in its environ tells whether the client is there"
NO_CONNECTION = "nothing in its environ leads to the connection"


@dataclass(frozen=True)
class WSGIServer:
    """One server: `command` holds the places {target} and {port}."""

    name: str
    command: tuple[str, ...]
    stop_signal: signal.Signals = signal.SIGTERM
    lacks: Mapping[str, str] = field(default_factory=dict)

    def command_for(self, target: str) -> list[str]:
        """The command line that serves `target` ("pkg.mod:attr"), {port} left open."""
        return [part.replace("{target}", target) for part in self.command]

    def with_options(self, *options: str) -> "WSGIServer":
        return replace(self, command=(*self.command, *options))

    def can(self, capability: str) -> bool:
        return capability not in self.lacks


def servers_with(*capabilities: str) -> list[WSGIServer]:
    return [server for server in SERVERS if all(server.can(c) for c in capabilities)]


def _gunicorn(name: str, *options: str, lacks: Mapping[str, str]) -> WSGIServer:
    bind = ("--bind", f"{HOST}:{{port}}", "--no-control-socket")
    command = (str(SCRIPTS / "gunicorn"), *options, *bind, "{target}")
    return WSGIServer(name, command, lacks={ASKS_LATE: ASKS_AT_ONCE, **lacks})


def _served_by_this_module(name: str, lacks: Mapping[str, str]) -> WSGIServer:
    command = (sys.executable, "-m", "tests.support.wsgi_servers", name, "{target}", "{port}")
    # SIGTERM would end a bare Python at once, without the hooks of its exit.
    return WSGIServer(name, command, signal.SIGINT, lacks)


CLOSES_AFTER_EACH = "closes the connection after each response"
_ONE_AT_A_TIME = {CONCURRENCY: "one process with one thread", KEEP_ALIVE: CLOSES_AFTER_EACH}
_GTHREAD = ("--worker-class", "gthread", "--threads", str(THREADS))

SERVERS = (
    _gunicorn("gunicorn-sync", lacks=_ONE_AT_A_TIME),
    _gunicorn("gunicorn-sync-preload", "--preload", lacks=_ONE_AT_A_TIME),
    _gunicorn("gunicorn-gthread", *_GTHREAD, lacks={}),
    _gunicorn("gunicorn-gthread-preload", *_GTHREAD, "--preload", lacks={}),
    WSGIServer(
        "waitress",
        (
            str(SCRIPTS / "waitress-serve"),
            f"--listen={HOST}:{{port}}",
            f"--threads={THREADS}",
            # Without it waitress reads nothing while a request runs, not even the end.
            "--channel-request-lookahead=1",
            # By default it lets 16 MiB wait for a slow client, which would hide what we hold.
            "--outbuf-high-watermark=1048576",
            "{target}",
        ),
        signal.SIGINT,
        {
            STREAMED_UPLOAD: COLLECTS,
            ASKS_LATE: COLLECTS,
            RELEASE: NO_CONNECTION,
            WEBSOCKET: NO_CONNECTION,
        },
    ),
    WSGIServer(
        "cheroot",
        (
            str(SCRIPTS / "cheroot"),
            "--bind",
            f"{HOST}:{{port}}",
            "--threads",
            str(THREADS),
            "{target}",
        ),
        signal.SIGINT,
        {SILENT_LEAVE: NO_SOCKET, ASKS_LATE: ASKS_AT_ONCE},
    ),
    _served_by_this_module("werkzeug", {KEEP_ALIVE: CLOSES_AFTER_EACH, ASKS_LATE: ASKS_AT_ONCE}),
    _served_by_this_module(
        "wsgiref",
        {
            **_ONE_AT_A_TIME,
            CHUNKED_UPLOAD: "its wsgi.input is the bare connection, chunk sizes and all",
            CHUNKED_RESPONSE: "speaks HTTP/1.0",
            SILENT_LEAVE: NO_SOCKET,
        },
    ),
    WSGIServer(
        "uwsgi",
        (
            str(SCRIPTS / "pyuwsgi"),
            "--http-socket",
            f"{HOST}:{{port}}",
            "--module",
            "{target}",
            "--master",
            "--enable-threads",
            "--threads",
            str(THREADS),
            # Not --die-on-term: then a worker that is busy, be it with the last step of a request
            # that is answered already, ends without Python's exit hooks.
            "--hook-master-start",
            "unix_signal:15 gracefully_kill_them_all",
            "--need-app",
        ),
        lacks={
            KEEP_ALIVE: CLOSES_AFTER_EACH,
            MASTER_EXIT_HOOKS: "runs them in its workers only",
            CHUNKED_UPLOAD: "gives the chunks by its own uwsgi.chunked_read() only",
            CHUNKED_RESPONSE: "ends such a body by closing the connection",
            SILENT_LEAVE: NO_SOCKET,
            EARLY_BYTES: "reads them and shows them to nobody",
        },
    ),
    WSGIServer(
        "granian",
        (
            str(SCRIPTS / "granian"),
            "--interface",
            "wsgi",
            "--host",
            HOST,
            "--port",
            "{port}",
            "--blocking-threads",
            str(THREADS),
            "{target}",
        ),
        lacks={
            BROKEN_CHUNKS: "sends the last chunk as if all were well, for any WSGI app",
            SILENT_LEAVE: NO_SOCKET,
            RELEASE: NO_CONNECTION,
            WEBSOCKET: NO_CONNECTION,
        },
    ),
)


# Those whose threads are greenlets. gunicorn patches Python in its worker: after it has imported
# the app, with --preload.
GREENLET_SERVERS = (
    _gunicorn("gunicorn-gevent", "--worker-class", "gevent", lacks={}),
    _gunicorn("gunicorn-gevent-preload", "--worker-class", "gevent", "--preload", lacks={}),
    _served_by_this_module("gevent.pywsgi", {SILENT_LEAVE: NO_SOCKET}),
    _served_by_this_module(
        "eventlet",
        {
            SILENT_LEAVE: NO_SOCKET,
            RELEASE: "says that every request is HTTP/1.0",
            WEBSOCKET: "says that every request is HTTP/1.0",
        },
    ),
)


def by_name(name: str) -> WSGIServer:
    return next(server for server in (*SERVERS, *GREENLET_SERVERS) if server.name == name)


# One row a way of taking a connection over: the other rows start these servers differently.
WEBSOCKET_SERVERS = tuple(
    server
    for server in (*SERVERS, *GREENLET_SERVERS)
    if server.can(WEBSOCKET) and not server.name.endswith("-preload")
)

# The servers that load the app before they fork.
FORKING_SERVERS = (
    by_name("gunicorn-sync-preload"),
    by_name("gunicorn-gthread-preload"),
    by_name("uwsgi"),
)
# The same for a master whose threads are at work as it forks. uWSGI has to be told to take the
# interpreter's lock first: else a thread that holds it just then leaves the child locked for ever,
# whatever the app.
CAREFULLY_FORKING_SERVERS = (
    *FORKING_SERVERS[:-1],
    by_name("uwsgi").with_options("--py-call-uwsgi-fork-hooks"),
)


def _serve_with_werkzeug(app: Callable[..., Any], port: int) -> None:
    from werkzeug.serving import run_simple

    run_simple(HOST, port, app, threaded=True)


def _serve_with_wsgiref(app: Callable[..., Any], port: int) -> None:
    wsgiref.simple_server.make_server(HOST, port, app).serve_forever()


def _serve_with_eventlet(app: Callable[..., Any], port: int) -> None:
    import eventlet.wsgi

    # By default it collects 4096 bytes before it sends a chunk.
    options = {"log_output": False, "minimum_chunk_size": 1}
    eventlet.wsgi.server(eventlet.listen((HOST, port)), app, **options)


def _serve_with_gevent(app: Callable[..., Any], port: int) -> None:
    import gevent.pywsgi

    server = gevent.pywsgi.WSGIServer((HOST, port), app, log=None)
    # KeyboardInterrupt would be raised in whichever greenlet runs just then.
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.serve_forever()


def _patch_with_gevent() -> None:
    import gevent.monkey

    gevent.monkey.patch_all()


def _patch_with_eventlet() -> None:
    # Its own resolver imports trio, which it then cannot patch.
    os.environ["EVENTLET_NO_GREENDNS"] = "yes"
    warnings.filterwarnings("ignore", module="eventlet")
    import eventlet

    eventlet.monkey_patch()


def _main(name: str, target: str, port: str) -> None:
    if patch := {"eventlet": _patch_with_eventlet, "gevent.pywsgi": _patch_with_gevent}.get(name):
        patch()
    module, _, attribute = target.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    serve = {
        "werkzeug": _serve_with_werkzeug,
        "wsgiref": _serve_with_wsgiref,
        "eventlet": _serve_with_eventlet,
        "gevent.pywsgi": _serve_with_gevent,
    }[name]
    with contextlib.suppress(KeyboardInterrupt):  # The way that these are ended.
        serve(app, int(port))


if __name__ == "__main__":
    _main(*sys.argv[1:])
