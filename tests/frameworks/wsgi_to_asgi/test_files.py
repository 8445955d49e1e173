"""Files of Flask and Django that the server sends by itself, and ranges of them (W-OUT-10)."""

import io
from pathlib import Path

import flask
import pytest
from django.core.files import File

from tests.support.fake_asgi_server import answered, fetched, serving
from tests.support.file_clients import CONTENT, PATHSEND, ZEROCOPYSEND, FileClient, giving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "large.bin"
    file.write_bytes(CONTENT)
    return file


async def test_djangos_file(path: Path) -> None:
    """W-OUT-10: its methods are those of the file in it."""
    client = await fetched(giving(lambda: File(path.open("rb"))), FileClient(PATHSEND))
    assert (client.path, client.sent) == (str(path), CONTENT)


async def test_flasks_send_file(path: Path) -> None:
    """W-OUT-10: the whole file by its path, ranges in blocks, and 304."""
    app = flask.Flask(__name__)

    @app.get("/")
    def file() -> flask.Response:
        return flask.send_file(path)

    ranges = {b"bytes=1000000-1000009": slice(1000000, 1000010), b"bytes=-3": slice(-3, None)}
    async with serving(app) as bridge:
        for header, part in ranges.items():
            client = FileClient(PATHSEND, ZEROCOPYSEND, headers=((b"range", header),))
            await answered(bridge, client)
            assert (client.status, client.sent) == (206, CONTENT[part])
            assert client.kinds == {"http.response.body"}
        whole = FileClient(PATHSEND)
        await answered(bridge, whole)
        assert (whole.status, whole.path) == (200, str(path))
        again = FileClient(PATHSEND, headers=((b"if-none-match", whole.header("etag").encode()),))
        await answered(bridge, again)
        assert (again.status, again.sent) == (304, b"")


async def test_a_range_is_not_read_from_the_beginning() -> None:
    """W-OUT-10: the wrapper has seek(), by which Werkzeug finds the beginning."""

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            part = super().read(size)
            self.taken += len(part)
            return part

    content = Counted(bytes(2_000_000))
    app = flask.Flask(__name__)

    @app.get("/")
    def file() -> flask.Response:
        return flask.send_file(content, mimetype="a/b", etag="x", conditional=True)

    client = FileClient(headers=((b"range", b"bytes=1900000-1900099"),))
    await fetched(app, client)
    assert (client.status, len(client.sent)) == (206, 100)
    assert content.taken <= 65536
