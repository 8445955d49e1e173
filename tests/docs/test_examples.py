"""Every example, started as the docs print it and walked through by a real client."""

import hashlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support import pages
from tests.support.processes import (
    HOST,
    ServerProcess,
    accepts_connections,
    answers_http,
    running_server,
)
from tests.support.raw_http import Connection

TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.02
MEBIBYTE = 1024 * 1024
UPLOAD = bytes(range(256)) * (8 * MEBIBYTE // 256)
DOWNLOAD_MEBIBYTES = 64
DOWNLOAD_GROWTH_BYTES = 24 * MEBIBYTE


def wait_until(is_so: Callable[[], Any], failure: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, failure
        time.sleep(POLL_SECONDS)


def client_of(server: ServerProcess) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=TIMEOUT_SECONDS)


def assert_page_is_whole(server: ServerProcess) -> None:
    """The page says what to try, and all that it links in is there."""
    with client_of(server) as client:
        page = client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "Try this: " in page.text
        linked = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
        assert "/static/style.css" in linked
        types = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
        for path in linked:
            assert client.get(path).headers["content-type"] == types[Path(path).suffix]


# examples/flask_on_uvicorn.py


@pytest.fixture(scope="module")
def flask_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example puts its uploads."""
    return tmp_path_factory.mktemp("flask_on_uvicorn")


@pytest.fixture(scope="module")
def flask_server(flask_files: Path) -> Iterator[ServerProcess]:
    with flask_on_uvicorn(flask_files) as server:
        yield server


def flask_on_uvicorn(files: Path) -> Any:
    command = [*pages.serving_command("examples/flask_on_uvicorn.py"), "--port", "{port}"]
    return running_server(command, env={"TMPDIR": str(files)})


def test_flask_page_and_form(flask_server: ServerProcess) -> None:
    assert_page_is_whole(flask_server)
    with client_of(flask_server) as client:
        greeting = client.post("/greet", data={"name": "<Zo\xeb>"})
    assert "Hello, &lt;Zo\xeb&gt;!" in greeting.text


def test_flask_upload_is_stored_with_its_size(
    flask_server: ServerProcess, flask_files: Path
) -> None:
    with client_of(flask_server) as client:
        answer = client.post("/upload", files={"file": ("big.bin", UPLOAD)})
    assert f"big.bin: {len(UPLOAD)} bytes in " in answer.text
    (stored,) = [path for path in uploads(flask_files) if str(path) in answer.text]
    assert stored.read_bytes() == UPLOAD


def test_flask_upload_reaches_the_disk_while_it_is_sent(
    flask_server: ServerProcess, flask_files: Path
) -> None:
    """W-IN-4: half of the file is on disk before the other half is sent."""
    head = (
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="slow.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n"
    )
    tail = b"\r\n--limit--\r\n"
    half = len(UPLOAD) // 2
    before = set(uploads(flask_files))

    def on_disk() -> int:
        return sum(path.stat().st_size for path in set(uploads(flask_files)) - before)

    with Connection(flask_server.address) as client:
        client.send_head(
            "POST",
            "/upload",
            [("content-type", "multipart/form-data; boundary=limit")],
            content_length=len(head) + len(UPLOAD) + len(tail),
        )
        client.send_body(head + UPLOAD[:half])
        wait_until(lambda: on_disk() > half // 2, "nothing of the first half is on disk")
        client.send_body(UPLOAD[half:] + tail)
        answer = client.read_response()
    assert f"slow.bin: {len(UPLOAD)} bytes" in answer.text


def uploads(files: Path) -> list[Path]:
    return list(files.glob("flask_on_uvicorn-*/*"))


def test_flask_download_with_flat_memory(flask_server: ServerProcess) -> None:
    """W-FLOW-1: a download of 64 MiB does not pass through memory as a whole."""
    flask_server.reset_peak_rss()
    before = flask_server.peak_rss_bytes()
    received = 0
    with (
        client_of(flask_server) as client,
        client.stream("GET", f"/download?mib={DOWNLOAD_MEBIBYTES}") as response,
    ):
        assert response.headers["content-length"] == str(DOWNLOAD_MEBIBYTES * MEBIBYTE)
        for part in response.iter_raw():
            received += len(part)
            assert not any(part[:64])
    assert received == DOWNLOAD_MEBIBYTES * MEBIBYTE
    assert flask_server.peak_rss_bytes() - before < DOWNLOAD_GROWTH_BYTES


def test_flask_events_arrive_one_by_one(flask_server: ServerProcess) -> None:
    """W-OUT-4: each event comes when it is made; after the client has left, pages are served."""
    with Connection(flask_server.address) as client:
        client.send_head("GET", "/events")
        head = client.read_head()
        assert head.header("content-type") == "text/event-stream; charset=utf-8"
        for _ in range(2):
            event = client.read_body()
            assert event.startswith(b"data: ")
            assert event.count(b"data: ") == 1
    with client_of(flask_server) as client:
        assert client.get("/").status_code == 200


def test_flask_example_ends_while_an_event_stream_is_open(tmp_path: Path) -> None:
    """W-FLOW-6: Ctrl-C ends the server; its uploads are taken away."""
    with flask_on_uvicorn(tmp_path) as server, Connection(server.address) as client:
        client.send_head("GET", "/events")
        assert client.read_head().status == 200
        assert list(tmp_path.glob("flask_on_uvicorn-*"))
        server.process.send_signal(signal.SIGINT)
        assert server.wait(TIMEOUT_SECONDS) == 0
    assert not list(tmp_path.glob("flask_on_uvicorn-*"))


# examples/chat_on_uvicorn.py


def chat_on_uvicorn() -> Any:
    command = [*pages.serving_command("examples/chat_on_uvicorn.py"), "--port", "{port}"]
    return running_server(command)


def chat_with(server: ServerProcess) -> Any:
    return connect(f"ws://{HOST}:{server.port}/chat", proxy=None)


def test_chat_reaches_all_who_are_there() -> None:
    """WS-W-3, WS-W-7: who has left hears nothing and disturbs nobody; Ctrl-C ends the chat."""
    with chat_on_uvicorn() as server, chat_with(server) as ada, chat_with(server) as grace:
        assert_page_is_whole(server)
        with chat_with(server) as passer_by:
            passer_by.send("Somebody: hello")
            heard = [member.recv(TIMEOUT_SECONDS) for member in (ada, grace, passer_by)]
        assert heard == ["Somebody: hello"] * 3
        grace.send("Grace: hello Ada")
        heard = [member.recv(TIMEOUT_SECONDS) for member in (ada, grace)]
        assert heard == ["Grace: hello Ada"] * 2
        server.process.send_signal(signal.SIGINT)
        for member in (ada, grace):
            with pytest.raises(ConnectionClosed) as ended:
                member.recv(TIMEOUT_SECONDS)
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code in (1001, 1012)
        assert server.wait(TIMEOUT_SECONDS) == 0
        assert "Traceback" not in server.output()


# examples/fastapi_on_gunicorn.py


def fastapi_on_gunicorn() -> Any:
    command = pages.serving_command("examples.fastapi_on_gunicorn:application")
    return running_server([*command, "--bind", "{host}:{port}"], ready=accepts_connections)


@pytest.fixture(scope="module")
def fastapi_server() -> Iterator[ServerProcess]:
    with fastapi_on_gunicorn() as server:
        yield server


def test_fastapi_lifespan_runs_with_the_worker() -> None:
    """A-LOOP-2: the hooks run startup before any request, and shutdown when the worker ends."""
    with fastapi_on_gunicorn() as server:
        wait_until(lambda: "the board is up" in server.output(), "startup did not run")
        assert "the board is taken down" not in server.output()
        server.terminate()
        assert server.wait(TIMEOUT_SECONDS) == 0
        printed = server.output()
    assert printed.count("the board is up") == printed.count("the board is taken down") == 1
    assert "Traceback" not in printed


def test_fastapi_page(fastapi_server: ServerProcess) -> None:
    assert_page_is_whole(fastapi_server)


def test_fastapi_upload(fastapi_server: ServerProcess) -> None:
    with client_of(fastapi_server) as client:
        answer = client.post("/upload", files={"file": ("big.bin", UPLOAD)})
    digest = hashlib.sha256(UPLOAD).hexdigest()
    assert answer.text == f"big.bin: {len(UPLOAD)} bytes, SHA-256 {digest}"


def test_fastapi_notes_reach_every_event_stream(fastapi_server: ServerProcess) -> None:
    """A-LOOP-1, A-OUT-5: a background task of one request wakes the streams of three others."""
    with client_of(fastapi_server) as client:
        already = len(client.get("/notes").json())
        streams = [Connection(fastapi_server.address) for _ in range(3)]
        try:
            for stream in streams:
                stream.send_head("GET", "/events")
                assert stream.read_head().status == 200
            answer = client.post("/notes", json={"note": "hello"})
            assert (answer.status_code, answer.json()) == (202, {"accepted": "hello"})
            for stream in streams:
                seen = b""
                while seen.count(b"data: ") <= already:
                    seen += stream.read_body()
                assert seen.endswith(b'data: "hello"\n\n')
        finally:
            for stream in streams:
                stream.close()
        assert client.get("/notes").json()[already:] == ["hello"]


def test_fastapi_chat_pins_what_is_said() -> None:
    """WS-A-9: two clients talk, an event stream shows it, and the end of the server is 1012."""
    with (
        fastapi_on_gunicorn() as server,
        chat_with(server) as ada,
        chat_with(server) as grace,
        client_of(server) as client,
    ):
        for speaker, line in ((ada, "Ada: hello"), (grace, "Grace: <hello>")):
            speaker.send(line)
            heard = [member.recv(TIMEOUT_SECONDS) for member in (ada, grace)]
            assert heard == [line] * 2
        assert client.get("/notes").json() == ["Ada: hello", "Grace: <hello>"]
        server.terminate()
        for member in (ada, grace):
            with pytest.raises(ConnectionClosed) as ended:
                member.recv(TIMEOUT_SECONDS)
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 1012
        assert server.wait(TIMEOUT_SECONDS) == 0
        assert "Traceback" not in server.output()


def test_fastapi_example_ends_while_an_event_stream_is_open() -> None:
    """A-LOOP-2: the lifespan's shutdown runs although a client still listens."""
    with fastapi_on_gunicorn() as server, Connection(server.address) as client:
        client.send_head("GET", "/events")
        assert client.read_head().status == 200
        server.terminate()
        assert server.wait(TIMEOUT_SECONDS) == 0
        assert "the board is taken down" in server.output()


def test_an_app_served_with_no_file_written() -> None:
    """A-LOOP-2: the import string of the docs serves; lifespan runs lazily and ends at exit."""
    words = [
        word.replace("myapp.main:app", "examples.fastapi_on_gunicorn:app")
        for word in pages.serving_command("myapp.main:app")
    ]
    command_line = [*words, "--bind", "{host}:{port}"]
    with running_server(command_line, ready=accepts_connections) as server:
        assert answers_http("/docs")(HOST, server.port)
        with client_of(server) as client:
            assert client.get("/notes").json() == []
        server.terminate()
        assert server.wait(TIMEOUT_SECONDS) == 0
        printed = server.output()
    assert printed.count("the board is up") == printed.count("the board is taken down") == 1
    assert "Traceback" not in printed


# examples/mcp_in_flask.py


@pytest.fixture(scope="module")
def mcp_server() -> Iterator[ServerProcess]:
    command = [*pages.serving_command("examples/mcp_in_flask.py"), "--port", "{port}"]
    with running_server(command) as server:
        yield server


def test_mcp_page(mcp_server: ServerProcess) -> None:
    assert_page_is_whole(mcp_server)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_mcp_tools_and_page_share_the_notes(mcp_server: ServerProcess, mode: str) -> None:
    """A-OUT-2, A-LOOP-2: the `mcp` package's own client works through Flask, progress included.

    "legacy" opens a session and a standing event stream, "auto" the newest protocol.
    """
    from mcp import Client  # takes a second and a half, which each process of the tests would pay

    progress: list[float] = []

    async def note_progress(done: float, _total: float | None, _message: str | None) -> None:
        progress.append(done)

    async def walk() -> tuple[list[str], Any, Any]:
        with anyio.fail_after(TIMEOUT_SECONDS):
            async with Client(f"{mcp_server.url}/ai/mcp", mode=mode) as client:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                new = {"new": [f"{mode} 1", f"{mode} 2"]}
                added = await client.call_tool("add_notes", new, progress_callback=note_progress)
                listed = await client.call_tool("list_notes", {})
                return tools, added, listed

    with client_of(mcp_server) as page:
        added_by_form = page.post("/", data={"note": f"{mode} <by form>"})
        assert (added_by_form.status_code, added_by_form.headers["location"]) == (303, "/")
        assert f"<li>{mode} &lt;by form&gt;</li>" in page.get("/").text
        notes = page.get("/notes").json()
        tools, added, listed = anyio.run(walk)
        assert sorted(tools) == ["add_notes", "list_notes"]
        assert added.structured_content == {"result": len(notes) + 2}
        assert listed.structured_content == {"result": [*notes, f"{mode} 1", f"{mode} 2"]}
        assert page.get("/notes").json() == listed.structured_content["result"]
    assert progress == [1, 2]
