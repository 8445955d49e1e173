"""docs/how_to/: a server's commands serve the app that its page shows, which gets what it says.

Each server is started once, with routes added to the page's own app that try its claims.
"""

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support import pages
from tests.support.processes import ServerProcess
from tests.support.raw_http import Connection
from tests.support.walkthrough import (
    commands,
    is_server,
    is_walked,
    served,
    write_files,
)

SECONDS = 30.0
POLL_SECONDS = 0.02
FOLDER = "docs/how_to/"
INDEX = pages.PAGES[f"{FOLDER}index.md"]
HOW_TO = {path: text for path, text in pages.PAGES.items() if path.startswith(FOLDER)}
STARTS = [
    pytest.param(path, command, id=f"{Path(path).stem}-{number}")
    for path, text in HOW_TO.items()
    if not is_walked(text)
    for number, command in enumerate(filter(is_server, commands(text)), start=1)
]

ENDED = "ended"
"""The file to which the added routes append the type of each stream that has ended."""
OF_FLASK = """
import time
import simple_websocket
from flask import Response, request

@flask_app.get("/try/stream")
def try_stream():
    has_left = request.environ["wsgi_asgi_bridge.client_disconnected"]
    media_type = request.args["type"]
    def parts():
        try:
            yield "data: begun\\n\\n"
            end = time.monotonic() + 1
            while not app.stats().streaming and time.monotonic() < end:
                time.sleep(0.01)
            yield f"data: {app.stats().streaming}\\n\\n"
            while not has_left():
                time.sleep(0.02)
        finally:
            with open("ended", "a") as file:
                print(media_type, file=file)
    return Response(parts(), mimetype=media_type)

@flask_app.get("/try/failure")
def try_failure():
    def parts():
        yield "begun"
        raise RuntimeError("on purpose")
    return Response(parts())

@flask_app.post("/try/upload")
def try_upload():
    return str(len(request.get_data()))

@flask_app.route("/try/echo", websocket=True)
def try_echo():
    ws = simple_websocket.Server.accept(request.environ)
    ws.send(ws.receive())
    ws.send(str(app.stats().websockets))
    return ""
"""
OF_FASTAPI = """
import asyncio, time
from fastapi import Request, WebSocket
from fastapi.responses import StreamingResponse

@fastapi_app.get("/try/stream")
async def try_stream(type: str, beats: bool = False):
    async def parts():
        try:
            yield "data: begun\\n\\n"
            end = time.monotonic() + 1
            while not application.stats().released_event_streams and time.monotonic() < end:
                await asyncio.sleep(0.01)
            yield f"data: {application.stats().released_event_streams}\\n\\n"
            while beats:
                await asyncio.sleep(0.1)
                yield ": beat\\n\\n"
            await asyncio.Event().wait()
        finally:
            with open("ended", "a") as file:
                print(type, file=file)
    return StreamingResponse(parts(), media_type=type)

@fastapi_app.get("/try/failure")
async def try_failure(late: bool = False):
    async def parts():
        yield "begun"
        raise RuntimeError("on purpose")
    if late:
        return StreamingResponse(parts())
    raise RuntimeError("on purpose")

@fastapi_app.post("/try/upload")
async def try_upload(request: Request):
    return len(await request.body())

@fastapi_app.websocket("/try/echo")
async def try_echo(ws: WebSocket):
    await ws.accept()
    await ws.send_text(await ws.receive_text())
    await ws.send_text(str(application.stats().released_websockets))
    await ws.close()
"""


@dataclass(frozen=True)
class Claims:
    """What a table of "What you get" says."""

    websockets: str
    event_streams: str
    leaving: str

    @classmethod
    def of(cls, text: str) -> "Claims":
        said = dict(row[:2] for row in pages.rows(text))
        return cls(said["WebSockets"], said["Event streams"], said["A client that leaves"])


def claims_of(text: str, bridge: str) -> Claims:
    """Those for an app in that bridge; a page with two tables has that of WSGIToASGI first."""
    tables = re.findall(r"(?:^\|.+\|\n)+", pages.section("What you get", text=text), re.MULTILINE)
    return Claims.of(tables[0 if bridge == "WSGIToASGI" else -1])


@pytest.mark.parametrize("bridge", ["WSGIToASGI", "ASGIToWSGI"])
def test_the_index_says_what_the_pages_say(bridge: str) -> None:
    (title,) = [title for title in pages.headings(INDEX) if title.endswith(f": {bridge}")]
    for host, websockets, event_streams, leaving in pages.rows(pages.section(title, text=INDEX)):
        (name,) = re.findall(r"\(([^)]+\.md)\)", host)
        claims = claims_of(HOW_TO[FOLDER + name], bridge)
        assert claims.websockets.startswith(websockets), host
        assert claims.event_streams.startswith(event_streams), host
        silent = leaving in ("at once", "in 0.25 seconds")
        assert silent == ("while the app is silent" in claims.leaving), host


@pytest.mark.parametrize(("path", "command"), STARTS)
def test_a_command_serves_what_the_page_says(path: str, command: str, tmp_path: Path) -> None:
    text = HOW_TO[path]
    write_files(text, tmp_path)
    source = tmp_path / f"{target_of(command).partition(':')[0]}.py"
    code = source.read_text()
    (bridge,) = re.findall(r"^\w+ = (\w+ToWSGI|WSGIToASGI)\(", code, re.MULTILINE) or [""]
    if bridge:
        source.write_text(code + (OF_FLASK if bridge == "WSGIToASGI" else OF_FASTAPI))
    with served(command, tmp_path) as server:
        assert "Hello from " in httpx.get(server.url, timeout=SECONDS).text
        if bridge:
            claims = claims_of(text, bridge)
            assert_upload_arrives(server)
            assert_websockets(server, bridge, claims)
            assert_streams(server, bridge, claims, tmp_path)
            assert_failure_is_logged(server, command, text)


def target_of(command: str) -> str:
    """The "module:name" that the command serves."""
    (target,) = [word for word in shlex.split(command) if re.fullmatch(r"[a-z]\w*:[a-z]\w*", word)]
    return target


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_SECONDS)


def assert_upload_arrives(server: ServerProcess) -> None:
    answer = httpx.post(f"{server.url}/try/upload", content=bytes(300_000), timeout=SECONDS)
    assert answer.text == "300000"


def assert_websockets(server: ServerProcess, bridge: str, claims: Claims) -> None:
    url = f"ws://127.0.0.1:{server.port}/try/echo"
    if not claims.websockets.startswith("yes"):
        with pytest.raises(InvalidStatus):
            connect(url, open_timeout=SECONDS)
        return
    with connect(url, open_timeout=SECONDS) as client:
        client.send("hello")
        assert client.recv(SECONDS) == "hello"
        # A WebSocket of WSGIToASGI has a thread, which does not count against `workers`.
        assert ("without a thread" in claims.websockets) == (bridge == "ASGIToWSGI")
        assert client.recv(SECONDS) == "1"


def assert_streams(server: ServerProcess, bridge: str, claims: Claims, folder: Path) -> None:
    """Which thread an event stream takes, and that streams end with their clients: silent ones
    too, or with their next part.
    """
    if bridge == "WSGIToASGI":
        shown = {"outside the count of `workers`": b"1"}[claims.event_streams]
    else:
        shown = {"without a thread": b"1", "a thread each": b"0"}[claims.event_streams]
    silent_ends = "while the app is silent" in claims.leaving
    with open_stream(server, "text/event-stream", silent_ends or shown == b"1") as client:
        client.receive_until(b"data: " + shown)
    open_stream(server, "text/plain", silent_ends).close()
    both = ["text/event-stream", "text/plain"]
    wait_until(lambda: sorted(ended_in(folder)) == both, "a stream goes on without its client")


def assert_failure_is_logged(server: ServerProcess, command: str, text: str) -> None:
    """As the first line of "In the log" has it.

    Granian's WSGI logs no error that FastAPI has answered with a page of its own.
    """
    (line, *_) = pages.rows(pages.section("In the log", text=text))[0]
    logged = [line.strip("`"), "RuntimeError: on purpose"]
    target = "/try/failure?late=1" if "--interface wsgi" in command else "/try/failure"
    with Connection(server.address, SECONDS) as client:
        client.send_head("GET", target, [("connection", "close")])
        wait_until(
            lambda: all(part in server.output() for part in logged), f"no {logged} in the log"
        )


def ended_in(folder: Path) -> list[str]:
    path = folder / ENDED
    return path.read_text().splitlines() if path.exists() else []


def open_stream(server: ServerProcess, media_type: str, is_silent: bool) -> Connection:
    client = Connection(server.address, SECONDS)
    target = f"/try/stream?type={media_type}" + ("" if is_silent else "&beats=1")
    client.send_head("GET", target, [("connection", "close")])
    client.receive_until(b"data: begun")
    return client
