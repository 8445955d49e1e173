"""FastAPI's validation, uploads and responses, natively and through both bridges."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import (
    Cookie,
    FastAPI,
    File,
    Form,
    Header,
    Query,
    Request,
    Response,
    UploadFile,
)
from fastapi import (
    Path as PathParameter,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from tests.frameworks.apps_fastapi import fastapi_app
from tests.frameworks.both.fastapi.conftest import ClientOf
from tests.frameworks.gates import Gates
from tests.frameworks.payloads import payload, summary

# ---------------------------------------------------------------- validation


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: float = Field(gt=0)
    tags: list[str] = []


def add_item_routes(app: FastAPI) -> None:
    @app.put("/items/{number}", status_code=201)
    async def put(
        number: Annotated[int, PathParameter(ge=1)],
        item: Item,
        q: Annotated[str | None, Query(max_length=3)] = None,
        x_token: Annotated[list[str] | None, Header()] = None,
        theme: Annotated[str | None, Cookie()] = None,
    ) -> dict[str, Any]:
        return {"number": number, "item": item, "q": q, "x_token": x_token, "theme": theme}


def test_a_request_that_is_valid(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1, A-IN-1: path, query, header, cookie and body are found and converted."""
    add_item_routes(app)
    with client_of(app) as client:
        client.cookies.set("theme", "dark")
        response = client.put(
            "/items/5?q=%C3%BC",
            json={"name": "t\xe9", "price": "1.5", "tags": ["a"]},
            headers={"x-token": "one"},
        )
    assert response.status_code == 201
    assert response.json() == {
        "number": 5,
        "item": {"name": "t\xe9", "price": 1.5, "tags": ["a"]},
        "q": "\xfc",
        "x_token": ["one"],
        "theme": "dark",
    }


def test_a_request_that_is_not_valid(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1, A-IN-1: the very 422 that FastAPI writes, all its errors at once."""
    add_item_routes(app)
    with client_of(app) as client:
        response = client.put("/items/0?q=long", json={"name": "x", "tags": "a"})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "detail": [
            {
                "type": "greater_than_equal",
                "loc": ["path", "number"],
                "msg": "Input should be greater than or equal to 1",
                "input": "0",
                "ctx": {"ge": 1},
            },
            {
                "type": "string_too_long",
                "loc": ["query", "q"],
                "msg": "String should have at most 3 characters",
                "input": "long",
                "ctx": {"max_length": 3},
            },
            {
                "type": "string_too_short",
                "loc": ["body", "name"],
                "msg": "String should have at least 2 characters",
                "input": "x",
                "ctx": {"min_length": 2},
            },
            {
                "type": "missing",
                "loc": ["body", "price"],
                "msg": "Field required",
                "input": {"name": "x", "tags": "a"},
            },
            {
                "type": "list_type",
                "loc": ["body", "tags"],
                "msg": "Input should be a valid list",
                "input": "a",
            },
        ]
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 422), (b"{", 422), (b'{"name": "\xff"}', 400)],
    ids=["none", "cut", "latin"],
)
def test_a_body_that_is_no_json(
    app: FastAPI, client_of: ClientOf, body: bytes, status: int
) -> None:
    """A-IN-1: FastAPI says what is wrong with it, and no later request suffers."""
    add_item_routes(app)
    headers = {"content-type": "application/json"}
    with client_of(app) as client:
        response = client.put("/items/1", content=body, headers=headers)
        assert response.status_code == status
        assert client.put("/items/1", json={"name": "tea", "price": 1}).status_code == 201


def test_handlers_of_errors(app: FastAPI, client_of: ClientOf) -> None:
    """A-OUT-1: an app's own answers to validation errors and to its own exceptions."""

    class OutOfStock(Exception):
        pass

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        sent = (await request.body()).decode()
        said = [".".join(map(str, each["loc"])) for each in error.errors()]
        return JSONResponse({"wrong": said, "sent": sent}, status_code=400)

    @app.exception_handler(OutOfStock)
    def out_of_stock(_: Request, error: OutOfStock) -> JSONResponse:
        return JSONResponse({"sold": str(error)}, status_code=409)

    @app.get("/stock")
    async def stock() -> None:
        raise OutOfStock("no more tea")

    add_item_routes(app)
    with client_of(app) as client:
        wrong = client.put("/items/1", json={"name": "tea"})
        assert wrong.status_code == 400
        assert wrong.json() == {"wrong": ["body.price"], "sent": '{"name":"tea"}'}
        sold = client.get("/stock")
    assert (sold.status_code, sold.json()) == (409, {"sold": "no more tea"})


def test_the_schema(app: FastAPI, client_of: ClientOf) -> None:
    """A-SCOPE-1: `/openapi.json` and `/docs` name the prefix that the app is served under."""
    add_item_routes(app)
    with client_of(app, root_path="/api/v1") as client:
        schema = client.get("/api/v1/openapi.json").json()
        docs = client.get("/api/v1/docs")
    assert list(schema["paths"]) == ["/items/{number}"]
    assert {"url": "/api/v1"} in schema["servers"]
    assert "/api/v1/openapi.json" in docs.text


# ---------------------------------------------------------------- uploads and responses


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "large"])
def test_an_upload(gates: Gates, download: Path, client_of: ClientOf, size: int) -> None:
    """A-IN-1, W-IN-1: an `UploadFile` within and far above both request buffers, byte for byte."""
    data = payload(size)
    with client_of(fastapi_app(gates, download)) as client:
        response = client.post("/upload", files={"file": ("\xfcber.bin", data)})
    assert response.json() == summary("\xfcber.bin", data)


def test_uploads_beside_fields(app: FastAPI, client_of: ClientOf) -> None:
    """A-IN-1: several files and fields of one form, in an async view, with their types."""

    @app.post("/")
    async def view(
        files: list[UploadFile], name: Annotated[str, Form()], raw: Annotated[bytes, File()]
    ) -> dict[str, Any]:
        given = [[each.filename, each.content_type, (await each.read()).decode()] for each in files]
        return {"files": given, "name": name, "raw": raw.decode(), "size": files[0].size}

    sent = [
        ("files", ("1.txt", b"one", "text/plain")),
        ("files", ("2.csv", b"two", "text/csv")),
        ("raw", ("raw", b"bytes")),
    ]
    with client_of(app) as client:
        answer = client.post("/", files=sent, data={"name": "\xfc"}).json()
    assert answer == {
        "files": [["1.txt", "text/plain", "one"], ["2.csv", "text/csv", "two"]],
        "name": "\xfc",
        "raw": "bytes",
        "size": 3,
    }


def test_a_response_that_the_view_shapes(app: FastAPI, client_of: ClientOf, download: Path) -> None:
    """W-OUT-7, A-OUT-1: headers and cookies on `Response`, a model's filter, a file, no content."""

    class Public(BaseModel):
        name: str

    @app.get("/", response_model=Public)
    def view(response: Response) -> dict[str, str]:
        response.headers["x-kind"] = "shaped"
        response.set_cookie("a", "1")
        response.set_cookie("b", "2", secure=True)
        response.status_code = 203
        return {"name": "ann", "password": "secret"}

    @app.delete("/", status_code=204)
    def delete() -> None:
        pass

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(download)

    with client_of(app) as client:
        response = client.get("/")
        assert (response.status_code, response.json()) == (203, {"name": "ann"})
        assert response.headers["x-kind"] == "shaped"
        cookies = [cookie.partition(";")[0] for cookie in response.headers.get_list("set-cookie")]
        assert cookies == ["a=1", "b=2"]
        gone = client.delete("/")
        assert (gone.status_code, gone.content) == (204, b"")
        assert client.get("/file").content == download.read_bytes()
        assert client.get("/nowhere").json() == {"detail": "Not Found"}


def test_a_stream(app: FastAPI, client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-2, W-OUT-4: the first event is at the client before the second is made."""

    @app.get("/")
    async def view() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    async def events() -> AsyncIterator[str]:
        yield "data: first\n\n"
        await gates.wait_for_client_async()
        yield "data: second\n\n"

    with client_of(app) as client, client.stream("GET", "/") as response:
        lines = response.iter_lines()
        assert next(lines) == "data: first"
        gates.first_chunk_arrived.set()
        assert [line for line in lines if line] == ["data: second"]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
