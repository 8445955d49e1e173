"""What Quart asks of a bridge beyond a page: its serving hooks, sync views, background tasks."""

import asyncio
import threading

import quart

from tests.frameworks.gates import Gates, wait_for
from tests.frameworks.serving import caller_in_process


def test_serving_hooks_run_once_on_the_loop_of_the_requests() -> None:
    """A-LOOP-2: `before_serving` comes before the first request, `after_serving` at close."""
    app = quart.Quart("hooked")
    loops: dict[str, asyncio.AbstractEventLoop] = {}

    @app.before_serving
    async def before() -> None:
        assert "before" not in loops
        loops["before"] = asyncio.get_running_loop()

    @app.after_serving
    async def after() -> None:
        loops["after"] = asyncio.get_running_loop()

    @app.get("/")
    async def view() -> str:
        loops["view"] = asyncio.get_running_loop()
        return " ".join(loops)

    with caller_in_process(app) as client:
        assert client.get("/").text == "before view"
    assert loops["before"] is loops["view"] is loops["after"]


def test_a_sync_view_leaves_the_loop_free() -> None:
    """A-LOOP-1: a plain `def` view runs in a thread beside the loop."""
    app = quart.Quart("sync")

    @app.get("/")
    def view() -> str:
        return threading.current_thread().name

    with caller_in_process(app) as client:
        assert not client.get("/").text.startswith("wsgi_asgi_bridge-loop")


def test_a_background_task(gates: Gates) -> None:
    """A-OUT-5: `add_background_task` goes on after the response and ends before the shutdown."""
    app = quart.Quart("background")

    async def work() -> None:
        await gates.wait_for_client_async()
        gates.work_done.set()

    @app.get("/")
    async def view() -> str:
        quart.current_app.add_background_task(work)
        return "accepted"

    with caller_in_process(app) as client:
        assert client.get("/").text == "accepted"
        assert not gates.work_done.is_set()
        gates.first_chunk_arrived.set()
        wait_for(gates.work_done, "the background task did not end")


def test_a_cookie_session() -> None:
    """A-SCOPE-1: the session cookie goes out and comes back."""
    app = quart.Quart("session")
    app.secret_key = "not a secret"

    @app.get("/")
    async def visits() -> str:
        quart.session["visits"] = quart.session.get("visits", 0) + 1
        return str(quart.session["visits"])

    with caller_in_process(app) as client:
        assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
