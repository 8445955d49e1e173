"""Steps through a framework's app on a real server, the same in both directions.

The apps of apps_*.py and django_project have the pages.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.frameworks.conftest import DOWNLOAD_BYTES
from tests.frameworks.gates import Gates, wait_for
from tests.frameworks.payloads import UPLOAD_BYTES, blocks_of, multipart, payload, summary

__all__ = [
    "a_file_arrives_whole",
    "a_large_upload_arrives_whole",
    "a_stream_arrives_as_it_is_made",
    "a_stream_ends_with_its_client",
    "an_upload_is_read_as_it_is_sent",
    "pages_follow_each_other",
]


def a_large_upload_arrives_whole(client: httpx.Client) -> None:
    data = payload(UPLOAD_BYTES)
    response = client.post("/upload", files={"file": ("large.bin", data)})
    assert response.json() == summary("large.bin", data)


def an_upload_is_read_as_it_is_sent(client: httpx.Client, gates: Gates) -> None:
    """The second half is sent only once the first has reached the app."""
    data = payload(UPLOAD_BYTES)
    body, headers = multipart("file", "streamed.bin", data)
    half = len(body) // 2

    def parts() -> Iterator[bytes]:
        yield from blocks_of(body[:half])
        wait_for(gates.body_reached_app, "the first half did not reach the app")
        yield from blocks_of(body[half:])

    response = client.post("/upload", content=parts(), headers=headers)
    assert response.json() == summary("streamed.bin", data)


def a_file_arrives_whole(client: httpx.Client, download: Path) -> None:
    response = client.get("/file")
    assert response.headers["content-length"] == str(DOWNLOAD_BYTES)
    got = hashlib.sha256(response.content).hexdigest()
    assert got == hashlib.sha256(download.read_bytes()).hexdigest()


def a_stream_arrives_as_it_is_made(client: httpx.Client, gates: Gates) -> None:
    """The first part is at the client before the app makes the second."""
    with client.stream("GET", "/stream") as response:
        arriving = response.iter_raw()
        received = next(arriving)
        gates.first_chunk_arrived.set()
        for part in arriving:
            received += part
    assert received == b"first second"


def a_stream_ends_with_its_client(client: httpx.Client, gates: Gates, path: str) -> None:
    """The app's generator ends soon after the client has gone."""
    with client.stream("GET", path) as response:
        assert next(response.iter_raw()).startswith(b"tick")
    wait_for(gates.stream_closed, "the generator did not end")
    assert client.get("/").status_code == 200


def pages_follow_each_other(client: httpx.Client, framework: str) -> None:
    """Errors and uploads in between."""
    for _ in range(3):
        assert client.get("/").text == f"hello from {framework}"
        assert client.get("/broken").status_code == 500
        assert client.post("/form", data={"name": "x"}).text == "hello x"
