"""WSGI apps named by how they behave: `tests.support.wsgi_apps:NAME`.

`by_name` serves all of them in one process: `/NAME/rest?key=value`. A request with `?id=TOKEN`
leaves what happened to it in the journal under that token, and `/journal?id=TOKEN` tells it later
(the same lines go to `wsgi.errors`, for a server whose end is the subject of the test).
"""

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

from flask import Flask, Response, request

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

MIB = 1024 * 1024
PART_BYTES = 65_536
READ_BYTES = 65_536
LARGE_BODY_BYTES = 5_000_000
LARGE_BODY = bytes(range(250)) * (LARGE_BODY_BYTES // 250)
LARGE_PARTS = [LARGE_BODY[at : at + PART_BYTES] for at in range(0, LARGE_BODY_BYTES, PART_BYTES)]
TICK_SECONDS = 0.05
"""How often the endless streams look whether they are still wanted."""

GATE_SECONDS = 30.0
"""How long an app waits for `/release` before it gives up, so that a failed test ends."""

_gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
_journal: defaultdict[str, list[str]] = defaultdict(list)
_journal_lock = threading.Lock()


def record(environ: Environ, event: str) -> None:
    """Add a line to the journal of the request, if it carries an id."""
    token = query_of(environ).get("id")
    if token is not None:
        with _journal_lock:
            _journal[token].append(event)
        environ["wsgi.errors"].write(f"journal {token}: {event}\n")
        environ["wsgi.errors"].flush()


def query_of(environ: Environ) -> dict[str, str]:
    return dict(parse_qsl(environ.get("QUERY_STRING", "")))


def download_parts(mib: int) -> Iterator[bytes]:
    """A body of `mib` MiB in which no two parts are equal."""
    filling = b"." * (PART_BYTES - 16)
    for number in range(mib * MIB // PART_BYTES):
        yield b"%016d" % number + filling


def digest_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# Responses given whole


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]


def bare(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`?status=DDD`, with a Content-Length of a body that is not there."""
    start_response(query_of(environ)["status"], [("Content-Length", "5"), ("ETag", '"1"')])
    return []


def early_hints(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A hint, if the server takes any, and a page that tells."""
    hints = environ.get("wsgi.early_hints")
    if hints is not None:
        hints([("Link", "</style.css>; rel=preload")])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"no hints" if hints is None else b"hints"]


def environ_strings(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The CGI values of the environ as JSON; its code points are the bytes that came."""
    values = {key: value for key, value in environ.items() if isinstance(value, str)}
    return _json(start_response, values)


def large_list(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """5 MB in a list of many parts."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return list(LARGE_PARTS)


def journal(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    with _journal_lock:
        events = list(_journal.get(query_of(environ)["id"], []))
    return _json(start_response, events)


# Uploads


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The body that came, read at once."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [body]


def echo_of_declared(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """No more of the body than CONTENT_LENGTH says, as Django reads it."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        raise ValueError("the body would be de-chunked again, as Bottle does")
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [body]


def upload_digest(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Read the upload in parts and tell its size and SHA-256; journal how it ended.

    `short` stands for a read that gave the end of the body before its declared length.
    """
    record(environ, "called")
    digest, size = hashlib.sha256(), 0
    try:
        while part := environ["wsgi.input"].read(READ_BYTES):
            if not size:
                record(environ, "first part")
            digest.update(part)
            size += len(part)
    except BaseException as error:
        kind = "OSError" if isinstance(error, OSError) else "other"
        record(environ, f"{kind}: {type(error).__name__}")
        raise
    declared = environ.get("CONTENT_LENGTH")
    record(environ, "short" if declared and size < int(declared) else "whole")
    return _json(start_response, {"size": size, "sha256": digest.hexdigest()})


def late_upload_digest(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`upload_digest`, but not a byte is read before `/release?id=TOKEN`."""
    record(environ, "waits")
    if not _gates[query_of(environ)["id"]].wait(GATE_SECONDS):
        raise TimeoutError(f"nobody released this request within {GATE_SECONDS} s")
    return upload_digest(environ, start_response)


def release(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Let the app go on that waits under the id of this request."""
    _gates[query_of(environ)["id"]].set()
    return _json(start_response, "released")


# Streams


class Stream:
    """An iterable response that journals its end: which thread closed it, and how often."""

    def __init__(self, environ: Environ, parts: Iterator[bytes]) -> None:
        self.environ = environ
        self.parts = parts
        self.thread = threading.get_ident()
        self.closed = 0
        record(environ, "opened")

    def __iter__(self) -> Iterator[bytes]:
        return self.parts

    def close(self) -> None:
        self.closed += 1
        where = "the same" if threading.get_ident() == self.thread else "another"
        record(self.environ, f"closed {self.closed} in {where} thread")


CLOSED_ONCE = "closed 1 in the same thread"


def download(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`?mib=N` MiB, made as they are asked for."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return Stream(environ, download_parts(int(query_of(environ)["mib"])))


def large_generator(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The 5 MB of `large_list`, in parts."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return Stream(environ, iter(LARGE_PARTS))


def event_stream(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Server-sent events without end, one every `?every=SECONDS`, else `TICK_SECONDS`."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    pause = float(query_of(environ).get("every", TICK_SECONDS))

    def events() -> Iterator[bytes]:
        number = 0
        while True:
            yield b"data: %d\n\n" % number
            number += 1
            time.sleep(pause)

    return Stream(environ, events())


def polls_for_ever(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`b""` for ever, one every `TICK_SECONDS`: PEP 3333's way to wait, for what never comes."""
    start_response("200 OK", [("Content-Type", "text/plain")])

    def nothing() -> Iterator[bytes]:
        while True:
            yield b""
            time.sleep(TICK_SECONDS)

    return Stream(environ, nothing())


# Failures


def fails_before_headers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("told to fail before the headers")


def fails_after_headers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """1,000 bytes, then an error: the client must not take them for the whole."""
    start_response("200 OK", [("Content-Type", "text/plain")])

    def parts() -> Iterator[bytes]:
        yield b"x" * 1000
        raise RuntimeError("told to fail after the headers")

    return Stream(environ, parts())


def shorter_than_declared(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Content-Length: 1000, and 10 bytes."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1000")])
    return Stream(environ, iter([b"0123456789"]))


# Flask

flask = Flask(__name__)


@flask.get("/")
def flask_page() -> str:
    return "hello from Flask"


@flask.post("/raw")
def flask_raw() -> dict[str, Any]:
    """Size and digest of the body, read from `request.stream`."""
    digest, size = hashlib.sha256(), 0
    while part := request.stream.read(READ_BYTES):
        digest.update(part)
        size += len(part)
    return {"size": size, "sha256": digest.hexdigest()}


@flask.post("/form")
def flask_form() -> dict[str, Any]:
    """Size and digest of the uploaded file of a form, and its other field."""
    upload = request.files["file"]
    data = upload.read()
    digest = hashlib.sha256(data).hexdigest()
    return {"size": len(data), "sha256": digest, "name": request.form["name"]}


@flask.get("/stream")
def flask_stream() -> Response:
    return Response((f"{number}\n" for number in range(10)), mimetype="text/plain")


# All of them in one

APPS: dict[str, App] = {
    "bare": bare,
    "download": download,
    "early_hints": early_hints,
    "echo": echo,
    "echo_of_declared": echo_of_declared,
    "environ_strings": environ_strings,
    "event_stream": event_stream,
    "fails_after_headers": fails_after_headers,
    "fails_before_headers": fails_before_headers,
    "flask": flask,
    "hello": hello,
    "journal": journal,
    "large_generator": large_generator,
    "large_list": large_list,
    "late_upload_digest": late_upload_digest,
    "polls_for_ever": polls_for_ever,
    "release": release,
    "shorter_than_declared": shorter_than_declared,
    "upload_digest": upload_digest,
}


def by_name(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The app that the first segment of the path names, mounted there."""
    _, _, rest = environ["PATH_INFO"].partition("/")
    name, slash, below = rest.partition("/")
    app = APPS.get(name)
    if app is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such app\n"]
    environ["SCRIPT_NAME"] += f"/{name}"
    environ["PATH_INFO"] = slash + below
    return app(environ, start_response)


def _json(start_response: StartResponse, value: object) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(value).encode()]
