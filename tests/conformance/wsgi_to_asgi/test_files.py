"""Files that the app gives by `wsgi.file_wrapper`, and the server sends by itself (W-OUT-10)."""

import gzip
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import (
    answered,
    app_returning,
    calling,
    failure_of,
    fetched,
    nothing_left,
    serving,
    settle,
    tick,
)
from tests.support.file_clients import CONTENT, PATHSEND, ZEROCOPYSEND, FileClient, giving
from wsgi_asgi_bridge import AppError, ClientStalled

LENGTH = ("Content-Length", str(len(CONTENT)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "large.bin"
    file.write_bytes(CONTENT)
    return file


def opened(path: Path, offset: int = 0, **options: Any) -> Any:
    file = open(path, **({"mode": "rb"} | options))  # noqa: SIM115
    file.seek(offset)
    return file


# --- which files go


@pytest.mark.parametrize("headers", [[], [LENGTH]], ids=["no length", "length"])
async def test_a_whole_file_goes_by_its_path(path: Path, headers: list[Any]) -> None:
    """W-OUT-10: one message, under the head that it would have had anyway; the file is closed."""
    files: list[Any] = []

    def make() -> Any:
        files.append(opened(path))
        return files[-1]

    async with nothing_left():
        client = await fetched(giving(make, *headers), FileClient(PATHSEND, ZEROCOPYSEND))
        streamed = await fetched(giving(make, *headers), FileClient())
    assert client.messages[1:] == [{"type": PATHSEND, "path": str(path)}]
    assert client.messages[0] == streamed.messages[0]
    assert streamed.kinds == {"http.response.body"}
    assert client.sent == streamed.sent == CONTENT
    assert [file.closed for file in files] == [True, True]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, len(CONTENT)), (700_000, None), (5, 300_000), (0, 1)]
)
async def test_a_part_of_a_file_goes_by_its_descriptor(
    path: Path, offset: int, length: int | None
) -> None:
    """W-OUT-10: from where the file stands, up to Content-Length, in pieces."""
    headers = [] if length is None else [("Content-Length", str(length))]
    app = giving(lambda: opened(path, offset), *headers)
    async with nothing_left():
        client = await fetched(app, FileClient(ZEROCOPYSEND))
        by_path = await fetched(app, FileClient(PATHSEND))
        streamed = await fetched(app, FileClient())
    expected = CONTENT[offset : None if length is None else offset + length]
    assert client.sent == by_path.sent == streamed.sent == expected
    assert client.kinds == {ZEROCOPYSEND}
    assert all(message["count"] <= 262144 for message in client.messages[1:])
    whole = length == len(CONTENT)
    assert by_path.kinds == ({PATHSEND} if whole else {"http.response.body"})


@pytest.mark.parametrize("extensions", [(), (PATHSEND, ZEROCOPYSEND)], ids=["none", "both"])
async def test_a_file_longer_than_content_length_is_no_excess(
    path: Path, extensions: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """W-OUT-10, W-OUT-6: PEP 3333 ends it there: nothing is read beyond, no warning is logged."""
    app = giving(lambda: opened(path, 10), ("Content-Length", "100000"))
    client = await fetched(app, FileClient(*extensions))
    assert client.sent == CONTENT[10:100010]
    assert caplog.records == []


class Shouting(io.FileIO):
    """A file whose bytes are not those on the disk."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size).upper()


class BufferedShouting(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size).upper()


class ShoutingBelow(io.FileIO):
    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        buffer[:count] = bytes(buffer[:count]).upper()
        return count


def replaced_read(path: Path) -> Any:
    file, other = opened(path), Shouting(path)
    close = file.close
    file.read = other.read
    file.close = lambda: (close(), other.close())
    return file


def a_line_at_a_time(path: Path) -> Any:
    file = opened(path)
    file.read = file.readline
    return file


def temporary(path: Path) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(path.read_bytes())
    file.seek(0)
    return file


def piped(path: Path) -> Any:
    read, write = os.pipe()
    os.write(write, b"pipe")
    os.close(write)
    return open(read, "rb")


STREAMED: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "BytesIO": (lambda path: io.BytesIO(b"abc"), b"abc"),
    "gzip": (gzip.GzipFile, b"abc"),
    "a pipe": (piped, b"pipe"),
    "an own read()": (Shouting, b"ABC"),
    "an own read() of a buffer": (lambda path: BufferedShouting(io.FileIO(path)), b"ABC"),
    "an own readinto() below": (lambda path: io.BufferedReader(ShoutingBelow(path)), b"ABC"),
    "a replaced read()": (replaced_read, b"ABC"),
    "another method for read()": (a_line_at_a_time, b"abc"),
    "open for writing": (lambda path: opened(path, mode="r+b"), b"abc"),
    "a temporary file": (lambda path: temporary(path), b"abc"),
    "an empty file": (lambda path: opened(Path(os.devnull)), b""),
    "its end": (lambda path: opened(path, 3), b""),
}


@pytest.mark.parametrize("name", STREAMED)
async def test_what_is_no_plain_file_is_read(tmp_path: Path, name: str) -> None:
    """W-OUT-10: only its `read()` knows its bytes."""
    path = tmp_path / "abc"
    path.write_bytes(gzip.compress(b"abc") if name == "gzip" else b"abc")
    make, expected = STREAMED[name]
    client = await fetched(giving(lambda: make(path)), FileClient(PATHSEND, ZEROCOPYSEND))
    assert client.sent == expected
    assert client.kinds == {"http.response.body"}


class StandIn:
    """A file with the methods of another one, as Django's `File` is."""

    def __init__(self, file: Any) -> None:
        self.read, self.close, self.seek = file.read, file.close, file.seek


PLAIN: dict[str, Callable[[Path], Any]] = {
    "unbuffered": io.FileIO,
    "one that stands for it": lambda path: StandIn(opened(path)),
    "a subclass with read() as it is": type("Named", (io.FileIO,), {"label": "x"}),
}


@pytest.mark.parametrize("name", PLAIN)
async def test_what_reads_a_plain_file_goes_by_its_path(path: Path, name: str) -> None:
    """W-OUT-10"""
    async with nothing_left():
        client = await fetched(giving(lambda: PLAIN[name](path)), FileClient(PATHSEND))
    assert (client.path, client.sent) == (str(path), CONTENT)


async def test_a_file_opened_as_text_is_an_error(path: Path) -> None:
    """W-OUT-8, W-OUT-10: as ever."""
    error, client = await failure_of(
        giving(lambda: opened(path, mode="r", encoding="latin-1")),
        FileClient(PATHSEND, ZEROCOPYSEND),
    )
    assert isinstance(error, AppError)
    assert client.messages == []


async def test_a_file_that_cannot_be_read_is_an_error(path: Path) -> None:
    """W-CALL-3, W-OUT-10: as ever, although the server could read it."""
    error, client = await failure_of(
        giving(lambda: io.FileIO(path, "a")), FileClient(PATHSEND, ZEROCOPYSEND)
    )
    assert isinstance(error, io.UnsupportedOperation)
    assert client.messages == []


async def test_a_closed_file_is_an_error(path: Path) -> None:
    """W-CALL-3, W-OUT-10"""

    def make() -> Any:
        file = opened(path)
        file.close()
        return file

    error, client = await failure_of(giving(make), FileClient(PATHSEND, ZEROCOPYSEND))
    assert isinstance(error, ValueError)
    assert client.messages == []


async def test_a_file_shorter_than_content_length_is_an_error(path: Path) -> None:
    """W-OUT-6, W-OUT-10: the same for every server."""
    app = giving(lambda: opened(path), ("Content-Length", str(len(CONTENT) + 1)))
    error, client = await failure_of(app, FileClient(PATHSEND, ZEROCOPYSEND))
    assert isinstance(error, AppError)
    assert "1 bytes short" in str(error)
    assert not client.complete


async def test_a_wrapper_of_the_apps_own_making_is_iterated(path: Path) -> None:
    """W-OUT-10: a subclass may change the blocks."""

    def body(environ: Any) -> Any:
        class Upper(environ["wsgi.file_wrapper"]):  # type: ignore[misc]
            def __next__(self) -> bytes:
                return super().__next__().upper()

        return Upper(opened(path))

    client = await fetched(app_returning(body), FileClient(PATHSEND, ZEROCOPYSEND))
    assert client.sent == CONTENT.upper()


async def test_a_file_after_write_is_read(path: Path) -> None:
    """W-OUT-3, W-OUT-10"""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"before")
        return environ["wsgi.file_wrapper"](opened(path))

    client = await fetched(app, FileClient(PATHSEND, ZEROCOPYSEND))
    assert client.sent == b"before" + CONTENT


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
async def test_a_response_without_a_body_names_no_file(
    path: Path, method: str, status: str
) -> None:
    """W-OUT-6, W-OUT-10: the file is closed, nothing of it sent."""
    async with nothing_left():
        client = await fetched(
            giving(lambda: opened(path), status=status),
            FileClient(PATHSEND, ZEROCOPYSEND, method=method),
        )
    assert client.messages[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


async def test_an_app_that_forgets_start_response(path: Path) -> None:
    """W-OUT-8, W-OUT-10"""
    async with nothing_left():
        error, client = await failure_of(
            lambda environ, start_response: environ["wsgi.file_wrapper"](opened(path)),
            FileClient(PATHSEND, ZEROCOPYSEND),
        )
    assert isinstance(error, AppError)
    assert "start_response" in str(error)
    assert client.messages == []


# --- the name


def renamed_over(path: Path) -> Any:
    """The name leads to another file by now."""
    file = opened(path)
    other = path.with_suffix(".new")
    other.write_bytes(b"other" * 1000)
    os.replace(other, path)
    return file


def removed(path: Path) -> Any:
    file = opened(path)
    path.unlink()
    return file


def by_number(path: Path) -> Any:
    return open(os.open(path, os.O_RDONLY), "rb")


def by_bytes(path: Path) -> Any:
    return open(os.fsencode(path), "rb")


def relative(path: Path) -> Any:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)
    try:
        return open(path.name, "rb")
    finally:
        os.fchdir(here)
        os.close(here)


@pytest.mark.parametrize("make", [renamed_over, removed, by_number, by_bytes, relative])
async def test_a_name_that_does_not_lead_to_the_file_is_not_given(
    path: Path, make: Callable[[Path], Any]
) -> None:
    """W-OUT-10: the bytes are those of the file that the app has opened."""
    async with nothing_left():
        client = await fetched(giving(lambda: make(path)), FileClient(PATHSEND))
    assert (client.path, client.sent) == (None, CONTENT)


async def test_a_link_to_the_file_is_a_name_of_it(path: Path, tmp_path: Path) -> None:
    """W-OUT-10"""
    link = tmp_path / "link"
    link.symlink_to(path)
    client = await fetched(giving(lambda: opened(link)), FileClient(PATHSEND))
    assert (client.path, client.sent) == (str(link), CONTENT)


async def test_a_close_that_removes_the_file_runs_before_its_name_is_used(path: Path) -> None:
    """W-OUT-10, W-OUT-5: granian opens it later; the bytes come from the open file instead."""
    closes: list[str] = []

    def make() -> Any:
        file = opened(path)
        close = file.close

        def close_and_remove() -> None:
            closes.append("closed")
            close()
            path.unlink()

        file.close = close_and_remove
        return file

    async with nothing_left():
        client = await fetched(giving(make, LENGTH), FileClient(PATHSEND))
    assert (client.path, client.sent) == (None, CONTENT)
    assert closes == ["closed"]


@pytest.mark.parametrize("removes", [False, True], ids=["stays", "removed"])
@pytest.mark.parametrize("extension", [PATHSEND, ZEROCOPYSEND])
async def test_a_close_that_raises_is_reported_after_the_body(
    path: Path, removes: bool, extension: str
) -> None:
    """W-CALL-3, W-OUT-10: as after a body that the bridge has read."""

    def make() -> Any:
        file = opened(path)
        close = file.close

        def broken() -> None:
            close()
            if removes:
                path.unlink()
            raise ValueError("close")

        file.close = broken
        return file

    async with nothing_left():
        error, client = await failure_of(giving(make), FileClient(extension))
        assert (type(error), str(error)) == (ValueError, "close")
        error = client.error = None  # its traceback holds the file
    assert (client.sent, client.complete) == (CONTENT, True)


# --- the thread, the client


@pytest.mark.parametrize("extension", [PATHSEND, ZEROCOPYSEND])
async def test_a_slow_download_holds_no_thread(path: Path, extension: str) -> None:
    """W-FLOW-1, W-OUT-10: its thread serves others while the client reads."""
    client = FileClient(extension, reads=1)
    app = giving(lambda: opened(path))
    async with nothing_left(), serving(app, workers=1) as bridge, calling(bridge, client):
        await client.until(lambda c: c.started and c.blocked_in_send)
        with anyio.fail_after(5):
            while bridge.stats().busy:  # noqa: ASYNC110 - no event tells of it
                await anyio.sleep(0.002)
        other = FileClient()
        await answered(bridge, other)
        assert other.sent == CONTENT
        client.read_on()
        await client.until_ended()
        assert client.sent == CONTENT
        assert bridge.stats().completed == 2


@pytest.mark.parametrize("extension", [PATHSEND, ZEROCOPYSEND])
async def test_a_client_that_leaves_meanwhile(path: Path, extension: str) -> None:
    """W-FLOW-2, W-OUT-10: it is counted, and the descriptor is closed when send() has ended."""
    client = FileClient(extension, reads=1, raises_when_gone=True)
    async with (
        nothing_left(),
        serving(giving(lambda: opened(path))) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.started and c.blocked_in_send)
        client.leave()
        await client.until_ended()
        assert client.error is None
        stats = bridge.stats()
        assert (stats.in_flight, stats.completed, stats.disconnected) == (0, 0, 1)


@pytest.mark.parametrize("extension", [PATHSEND, ZEROCOPYSEND])
async def test_a_server_that_cancels_meanwhile(path: Path, extension: str) -> None:
    """W-FLOW-6, W-OUT-10"""
    client = FileClient(extension, reads=1)
    async with (
        nothing_left(),
        serving(giving(lambda: opened(path))) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.started and c.blocked_in_send)
        client.cancel()
        await client.until_ended()
        assert bridge.stats().disconnected == 1


async def test_a_send_that_fails(path: Path) -> None:
    """W-FLOW-2, W-OUT-10"""
    client = FileClient(PATHSEND, send_fails_at=1)
    async with nothing_left(), serving(giving(lambda: opened(path))) as bridge:
        await answered(bridge, client)
        assert bridge.stats().disconnected == 1


async def test_a_path_has_no_stall_that_the_bridge_could_see(path: Path) -> None:
    """W-FLOW-5, W-OUT-10: one send() is the whole download, however long the client takes."""
    client = FileClient(PATHSEND, reads=1)
    async with (
        serving(giving(lambda: opened(path))) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.started and c.blocked_in_send)
        tick(bridge, 0.0, 1000.0)
        await settle()
        assert client.blocked_in_send
        assert bridge.stats().stalled == 0
        client.read_on()
        await client.until_ended()
        assert bridge.stats().completed == 1
    assert client.sent == CONTENT


async def test_a_piece_of_a_file_stalls_as_any_other(path: Path) -> None:
    """W-FLOW-5, W-OUT-10"""
    client = FileClient(ZEROCOPYSEND, reads=2)
    async with nothing_left():
        async with (
            serving(giving(lambda: opened(path)), stall_timeout=0.05) as bridge,
            calling(bridge, client),
        ):
            await client.until_ended()
            assert bridge.stats().stalled == 1
        assert isinstance(client.error, ClientStalled)
        client.error = None  # its traceback holds the file
    assert len(client.messages) == 2


async def test_other_tasks_run_between_the_pieces(tmp_path: Path) -> None:
    """W-FLOW-7, W-OUT-10: a server whose send() never waits does not keep the loop to itself."""
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 64 * 262144)
    turns = 0

    class Eager(FileClient):
        async def send(self, message: dict[str, Any]) -> None:
            if message["type"] == ZEROCOPYSEND:
                counted.append(turns)
            self.messages.append(message)

    counted: list[int] = []
    client = Eager(ZEROCOPYSEND)

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(turning)
        await settle()
        await fetched(giving(lambda: opened(path)), client, response_buffer=262144)
        group.cancel_scope.cancel()
    assert len(counted) == 64
    assert len(set(counted)) > 16
