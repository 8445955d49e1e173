"""Starlette's errors, streams, files and bodies, natively and through both bridges."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

from tests.frameworks.apps_starlette import starlette_app
from tests.frameworks.both.starlette.conftest import ClientOf
from tests.frameworks.conftest import DOWNLOAD_BYTES
from tests.frameworks.gates import Gates, wait_for
from tests.frameworks.payloads import payload, summary

# ---------------------------------------------------------------- errors


class OutOfStock(Exception):
    pass


async def stock(_: Request) -> Response:
    raise OutOfStock("no more tea")


async def teapot(_: Request) -> Response:
    raise HTTPException(418, "short and stout", headers={"x-handle": "here"})


async def broken(_: Request) -> Response:
    raise ZeroDivisionError("on purpose")


async def out_of_stock(request: Request, error: Exception) -> Response:
    return JSONResponse({"sold": str(error), "at": request.url.path}, status_code=409)


def not_found(request: Request, error: HTTPException) -> Response:
    return PlainTextResponse(f"{error.detail}: {request.url.path}", status_code=404)


async def server_error(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"sorry: {error!r}", status_code=500)


def failing_app(**options: Any) -> Starlette:
    routes = [Route("/stock", stock), Route("/teapot", teapot), Route("/broken", broken)]
    return Starlette(routes=routes, **options)


def test_exception_handlers(client_of: ClientOf) -> None:
    """A-OUT-1: handlers by class and by status, async and not, and `HTTPException` with headers."""
    app = failing_app(exception_handlers={OutOfStock: out_of_stock, 404: not_found})
    with client_of(app) as client:
        sold = client.get("/stock")
        assert (sold.status_code, sold.json()) == (409, {"sold": "no more tea", "at": "/stock"})
        tea = client.get("/teapot")
        assert (tea.status_code, tea.text) == (418, "short and stout")
        assert tea.headers["x-handle"] == "here"
        missing = client.get("/caf\xe9")
        assert (missing.status_code, unquote(missing.text)) == (404, "Not Found: /caf\xe9")
        wrong = client.post("/stock")
        assert wrong.status_code == 405
        assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("options", "page"),
    [
        ({}, "Internal Server Error"),
        ({"exception_handlers": {500: server_error}}, "sorry: ZeroDivisionError('on purpose')"),
        (
            {"exception_handlers": {Exception: server_error}},
            "sorry: ZeroDivisionError('on purpose')",
        ),
        ({"debug": True}, "ZeroDivisionError: on purpose"),
    ],
    ids=["plain", "500", "Exception", "debug"],
)
def test_an_unexpected_error(client_of: ClientOf, options: dict[str, Any], page: str) -> None:
    """A-OUT-5: Starlette sends its page and raises on; the page goes out, and the site lives on."""
    with client_of(failing_app(**options), raise_server_exceptions=False) as client:
        response = client.get("/broken")
        assert response.status_code == 500
        assert page in response.text
        assert client.get("/teapot").status_code == 418


def test_an_error_before_the_response(client_of: ClientOf) -> None:
    """W-CALL-3, A-OUT-4: what nobody turned into a page comes out as the very object."""
    raised = ValueError("broken on purpose")

    async def view(_: Request) -> Response:
        raise raised

    with client_of(Router([Route("/", view)])) as client:
        for _ in range(2):
            with pytest.raises(ValueError, match="broken on purpose") as caught:
                client.get("/")
            assert caught.value is raised


def test_an_error_in_the_middle_of_a_stream(client_of: ClientOf) -> None:
    """W-CALL-3, A-OUT-4: what has begun is not ended; the very object comes out."""
    raised = ValueError("broken on purpose")

    async def view(_: Request) -> Response:
        return StreamingResponse(chunks())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"begun"
        raise raised

    with client_of(Router([Route("/", view)])) as client:
        with pytest.raises((ValueError, ExceptionGroup)) as caught:
            client.get("/")
        error: BaseException = caught.value
        while isinstance(error, BaseExceptionGroup):
            [error] = error.exceptions
        assert error is raised


# ---------------------------------------------------------------- streams, files, bodies


def test_a_stream(client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-2, W-OUT-4: the first piece is at the client before the second is made."""

    async def view(_: Request) -> Response:
        return StreamingResponse(chunks(), media_type="text/plain", headers={"x-kind": "stream"})

    async def chunks() -> AsyncIterator[str]:
        yield "first "
        await gates.wait_for_client_async()
        yield "second"

    app = Starlette(routes=[Route("/", view)])
    with client_of(app) as client, client.stream("GET", "/") as response:
        pieces = response.iter_bytes()
        first = next(pieces)
        gates.first_chunk_arrived.set()
        rest = b"".join(pieces)
    assert (first, rest) == (b"first ", b"second")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-kind"] == "stream"
    assert "content-length" not in response.headers


def test_a_stream_of_a_plain_generator(client_of: ClientOf) -> None:
    """A-OUT-2: Starlette runs it in threads; many pieces keep their order."""

    async def view(_: Request) -> Response:
        return StreamingResponse(f"line {number}\n" for number in range(500))

    with client_of(Starlette(routes=[Route("/", view)])) as client:
        assert client.get("/").text == "".join(f"line {number}\n" for number in range(500))


class Ticks:
    """An endless body; no generator, since Starlette leaves those to the garbage collector."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await anyio.sleep(0.001)
        return b"tick"


def test_a_stream_whose_client_leaves(client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-3, W-FLOW-6: an endless response is over when the client closes it."""

    class NotesItsEnd(StreamingResponse):
        async def __call__(self, *args: Any) -> None:
            try:
                await super().__call__(*args)
            finally:
                gates.stream_closed.set()

    async def view(_: Request) -> Response:
        return NotesItsEnd(Ticks())

    with client_of(Starlette(routes=[Route("/", view)])) as client:
        with client.stream("GET", "/") as response:
            assert next(response.iter_bytes()).startswith(b"tick")
        wait_for(gates.stream_closed, "the response did not end")


@pytest.fixture
def file_app(download: Path) -> Starlette:
    async def view(_: Request) -> Response:
        return FileResponse(download, filename="\xfcber.bin")

    static = StaticFiles(directory=download.parent)
    return Starlette(routes=[Route("/file", view), Mount("/static", static, name="static")])


def test_a_file(file_app: Starlette, client_of: ClientOf, download: Path) -> None:
    """A-OUT-2: `FileResponse` whole, its head, and ranges of it."""
    with client_of(file_app) as client:
        whole = client.get("/file")
        assert whole.content == download.read_bytes()
        assert whole.headers["content-length"] == str(DOWNLOAD_BYTES)
        assert whole.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%BCber.bin"
        head = client.head("/file")
        assert (head.content, head.headers["content-length"]) == (b"", str(DOWNLOAD_BYTES))
        part = client.get("/file", headers={"range": "bytes=70000-139999"})
        assert (part.status_code, part.content) == (206, payload(140_000)[70_000:])
        assert part.headers["content-range"] == f"bytes 70000-139999/{DOWNLOAD_BYTES}"
        several = client.get("/file", headers={"range": "bytes=0-9,100-109"})
        assert several.status_code == 206
        assert several.headers["content-type"].startswith("multipart/byteranges; boundary=")
        assert several.content.count(b"Content-Range: bytes ") == 2
        assert client.get("/file", headers={"range": f"bytes={DOWNLOAD_BYTES}-"}).status_code == 416


def test_static_files(file_app: Starlette, client_of: ClientOf, download: Path) -> None:
    """W-OUT-6: a file that the client has is 304 without a body; one that is not there is 404."""
    with client_of(file_app) as client:
        first = client.get("/static/download.bin")
        assert first.content == download.read_bytes()
        etag = first.headers["etag"]
        same = client.get("/static/download.bin", headers={"if-none-match": etag})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
        assert client.get("/static/nothing").status_code == 404
        assert client.get("/static/..%2f..%2fetc/passwd").status_code == 404


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "large"])
def test_an_upload(gates: Gates, download: Path, client_of: ClientOf, size: int) -> None:
    """A-IN-1, W-IN-1: a file within and far above both request buffers arrives byte for byte."""
    data = payload(size)
    with client_of(starlette_app(gates, download)) as client:
        response = client.post("/upload", files={"file": ("\xfcber.bin", data)})
        assert response.json() == summary("\xfcber.bin", data)
        assert response.headers["x-stamp"] == "POST"


async def echo_stream(request: Request) -> Response:
    return Response(b"".join([part async for part in request.stream()]))


async def form_fields(request: Request) -> Response:
    async with request.form() as form:
        return JSONResponse(
            {"tags": form.getlist("tag"), "query": request.query_params.multi_items()}
        )


async def given_json(request: Request) -> Response:
    return JSONResponse({"given": await request.json(), "again": json.loads(await request.body())})


def test_bodies_of_requests(client_of: ClientOf) -> None:
    """A-IN-1: as a stream that is sent back, as a form, as JSON that is asked for twice."""
    routes = [Route("/echo", echo_stream), Route("/form", form_fields), Route("/json", given_json)]
    for route in routes:
        route.methods = {"POST"}
    with client_of(Starlette(routes=routes)) as client:
        data = payload(1_000_000)
        assert client.post("/echo", content=data).content == data
        assert (
            client.post("/echo", content=(part for part in (b"no", b"", b"length"))).content
            == b"nolength"
        )
        fields = client.post("/form?q=1&q=%C3%BC&e=", data={"tag": ["a", "\xfc"]}).json()
        assert fields == {"tags": ["a", "\xfc"], "query": [["q", "1"], ["q", "\xfc"], ["e", ""]]}
        value = {"a": [1, None, "\xfc"]}
        assert client.post("/json", json=value).json() == {"given": value, "again": value}
