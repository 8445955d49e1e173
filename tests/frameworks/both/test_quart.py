"""Quart's documented features, driven by its own test client, natively and through both bridges.

Quart stands on asyncio, so its client runs there and on uvloop.
"""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import quart
from quart.testing import QuartClient
from quart.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage

from tests.frameworks.apps_quart import quart_app
from tests.frameworks.both_bridges import Served
from tests.frameworks.conftest import DOWNLOAD_BYTES
from tests.frameworks.gates import WAIT_SECONDS, Gates, wait_for
from tests.frameworks.payloads import payload, summary

ClientOf = Callable[[quart.Quart], AbstractAsyncContextManager[QuartClient]]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def client_of(asgi_served: Served) -> ClientOf:
    """Quart's client of an app whose `asgi_app` is wrapped, as Quart tells middleware to do."""

    @contextlib.asynccontextmanager
    async def client_of(app: quart.Quart) -> AsyncIterator[QuartClient]:
        # The client itself would wait for ever for a piece that does not come.
        with contextlib.ExitStack() as serving, anyio.fail_after(WAIT_SECONDS):
            app.asgi_app = serving.enter_context(asgi_served(app.asgi_app))
            async with app.test_app() as tested:
                yield tested.test_client()
            # In a thread: closing waits, and is not to hold the client's loop.
            await anyio.to_thread.run_sync(serving.close)

    return client_of


@pytest.fixture
def app() -> quart.Quart:
    app = quart.Quart("features")
    app.secret_key = "not a secret"
    return app


async def test_a_session_and_a_flashed_message(app: quart.Quart, client_of: ClientOf) -> None:
    """A-SCOPE-1, W-OUT-7: the signed cookie goes out and back; a message is seen once."""

    @app.post("/save")
    async def save() -> ResponseReturnValue:
        quart.session["saves"] = quart.session.get("saves", 0) + 1
        await quart.flash("gespeichert \u2713", "success")
        return quart.redirect(quart.url_for("home"))

    @app.get("/")
    async def home() -> ResponseReturnValue:
        messages = quart.get_flashed_messages(with_categories=True)
        return {"saves": quart.session["saves"], "messages": messages}

    async with client_of(app) as client:
        async with client.session_transaction() as session:
            session["saves"] = 41
        landed = await client.post("/save", follow_redirects=True)
        assert await landed.get_json() == {
            "saves": 42,
            "messages": [["success", "gespeichert \u2713"]],
        }
        assert await (await client.get("/")).get_json() == {"saves": 42, "messages": []}


async def test_functions_around_requests_and_serving(app: quart.Quart, client_of: ClientOf) -> None:
    """A-LOOP-2: each hook runs once where it belongs, those of serving around all requests."""
    steps: list[str] = []

    @app.before_serving
    async def before_serving() -> None:
        steps.append("before serving")

    @app.after_serving
    async def after_serving() -> None:
        steps.append("after serving")

    @app.before_request
    async def before() -> None:
        quart.g.name = quart.request.headers["x-name"]
        steps.append("before")

    @app.after_request
    async def after(response: quart.Response) -> quart.Response:
        steps.append("after")
        response.headers["x-name"] = quart.g.name
        return response

    @app.teardown_request
    async def teardown(error: BaseException | None) -> None:
        steps.append(f"teardown {error}")

    @app.get("/")
    async def view() -> str:
        @quart.after_this_request
        async def with_cookies(response: quart.Response) -> quart.Response:
            response.set_cookie("a", "1")
            response.set_cookie("b", "2")
            return response

        steps.append("view")
        return "seen"

    async with client_of(app) as client:
        response = await client.get("/", headers={"x-name": "ann"})
        assert response.headers["x-name"] == "ann"
        cookies = response.headers.getlist("set-cookie")
        assert [cookie.partition(";")[0] for cookie in cookies] == ["a=1", "b=2"]
    assert steps == [
        "before serving",
        *("before", "view", "after", "teardown None"),
        "after serving",
    ]


async def test_error_handlers(app: quart.Quart, client_of: ClientOf) -> None:
    """A-OUT-1: by class, by status, and for the unexpected; the site lives on."""

    class OutOfStock(Exception):
        pass

    @app.get("/stock")
    async def stock() -> str:
        raise OutOfStock("no more tea")

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError("on purpose")

    @app.errorhandler(OutOfStock)
    async def out_of_stock(error: OutOfStock) -> ResponseReturnValue:
        return {"sold": str(error)}, 409

    @app.errorhandler(500)
    async def sorry(error: Any) -> ResponseReturnValue:
        return repr(error.original_exception), 500

    @app.errorhandler(404)
    async def missing(_: Exception) -> ResponseReturnValue:
        return f"nothing at {quart.request.path}", 404

    app.config["PROPAGATE_EXCEPTIONS"] = False
    async with client_of(app) as client:
        sold = await client.get("/stock")
        assert (sold.status_code, await sold.get_json()) == (409, {"sold": "no more tea"})
        broken_page = await client.get("/broken")
        assert broken_page.status_code == 500
        assert await broken_page.get_data(as_text=True) == "ZeroDivisionError('on purpose')"
        nowhere = await client.get("/caf\xe9")
        assert await nowhere.get_data(as_text=True) == "nothing at /caf\xe9"
        assert (await client.post("/stock")).status_code == 405


async def test_a_stream_with_context(app: quart.Quart, client_of: ClientOf, gates: Gates) -> None:
    """A-OUT-2, W-OUT-4: the generator knows its request; each piece arrives before the next."""

    @app.get("/stream")
    async def view() -> ResponseReturnValue:
        @quart.stream_with_context
        async def chunks() -> AsyncIterator[str]:
            yield f"hello {quart.request.args['who']} "
            await gates.wait_for_client_async()
            yield f"from {quart.request.path}"

        return chunks()

    async with client_of(app) as client, client.request("/stream?who=ann") as connection:
        await connection.send_complete()
        assert await connection.receive() == b"hello ann "
        gates.first_chunk_arrived.set()
        assert await connection.receive() == b"from /stream"
    assert connection.status_code == 200


async def test_a_body_that_is_sent_in_pieces(
    app: quart.Quart, client_of: ClientOf, gates: Gates
) -> None:
    """A-IN-1, W-IN-2: the view has the first piece before the client has sent the second."""

    @app.post("/")
    async def view() -> str:
        parts: list[bytes] = []
        async for part in quart.request.body:
            parts.append(part)
            gates.body_reached_app.set()
        return f"{len(b''.join(parts))}"

    async with client_of(app) as client, client.request("/", method="POST") as connection:
        await connection.send(b"x" * 1_000_000)
        failure = "the view did not get the first piece"
        await anyio.to_thread.run_sync(wait_for, gates.body_reached_app, failure)
        await connection.send(b"x")
        await connection.send_complete()
    response = await connection.as_response()
    assert await response.get_data(as_text=True) == "1000001"


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "large"])
async def test_an_upload(gates: Gates, download: Path, client_of: ClientOf, size: int) -> None:
    """A-IN-1, W-IN-1: a file within and far above both request buffers arrives byte for byte."""
    data = payload(size)
    file = FileStorage(io.BytesIO(data), filename="file.bin")
    async with client_of(quart_app(gates, download)) as client:
        response = await client.post("/upload", files={"file": file})
        assert await response.get_json() == summary("file.bin", data)


async def test_a_file(gates: Gates, download: Path, client_of: ClientOf) -> None:
    """A-OUT-2: `send_file` arrives whole, with its type and length."""
    async with client_of(quart_app(gates, download)) as client:
        whole = await client.get("/file")
        assert await whole.get_data() == payload(DOWNLOAD_BYTES)
        assert whole.headers["content-length"] == str(DOWNLOAD_BYTES)
        assert whole.mimetype == "application/octet-stream"


async def test_a_background_task(app: quart.Quart, client_of: ClientOf) -> None:
    """A-OUT-5: it runs after the response, and is over when serving is."""
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append("work")

    @app.get("/")
    async def view() -> str:
        app.add_background_task(work)
        return "accepted"

    async with client_of(app) as client:
        assert await (await client.get("/")).get_data() == b"accepted"
    assert done == ["work"]
