"""Flask's sessions, the functions around a view, and async views, natively and behind both."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import flask
import pytest
import werkzeug.exceptions
from werkzeug.test import Client

from tests.frameworks.both.flask.conftest import ClientOf
from tests.frameworks.both_bridges import wsgi_behind_both

# ---------------------------------------------------------------- sessions and flash


def test_a_session(app: flask.Flask, client_of: ClientOf) -> None:
    """W-ENV-5, A-SCOPE-1: the signed cookie goes out and comes back, changes, and is taken away."""

    @app.get("/visits")
    def visits() -> dict[str, Any]:
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        return {"visits": flask.session["visits"], "new": flask.session.new}

    @app.post("/logout")
    def logout() -> str:
        flask.session.clear()
        return "bye"

    with client_of(app) as client:
        with client.session_transaction() as session:
            session["visits"] = 41
        assert client.get("/visits").json == {"visits": 42, "new": False}
        assert client.get("/visits").json == {"visits": 43, "new": False}
        with client.session_transaction() as session:
            assert session["visits"] == 43
        assert "Expires=Thu, 01 Jan 1970" in client.post("/logout").headers["Set-Cookie"]
        assert client.get("/visits").json["visits"] == 1


def test_a_permanent_session_varies_by_cookie(app: flask.Flask, client_of: ClientOf) -> None:
    """W-OUT-7: the attributes of the cookie and the `Vary` header arrive as Flask wrote them."""
    app.config.update(SESSION_COOKIE_SAMESITE="Lax", SESSION_COOKIE_SECURE=True)

    @app.get("/")
    def view() -> str:
        flask.session.permanent = True
        flask.session["user"] = "ann"
        return "known"

    with client_of(app) as client:
        response = client.get("/", base_url="https://localhost")
    name, *attributes = response.headers["Set-Cookie"].split("; ")
    assert name.startswith("session=")
    assert attributes[0].startswith("Expires=")
    assert attributes[1:] == ["Secure", "HttpOnly", "Path=/", "SameSite=Lax"]
    assert response.headers["Vary"] == "Cookie"


def test_a_flashed_message(app: flask.Flask, client_of: ClientOf) -> None:
    """W-OUT-7: a message flashed before a redirect is seen once, after it."""

    @app.post("/save")
    def save() -> flask.typing.ResponseReturnValue:
        flask.flash("gespeichert \u2713", "success")
        flask.flash("twice", "warning")
        return flask.redirect(flask.url_for("home"))

    @app.get("/")
    def home() -> flask.typing.ResponseReturnValue:
        return flask.jsonify(flask.get_flashed_messages(with_categories=True))

    with client_of(app) as client:
        landed = client.post("/save", follow_redirects=True)
        assert [response.status_code for response in landed.history] == [302]
        assert landed.request.path == "/"
        assert landed.json == [["success", "gespeichert \u2713"], ["warning", "twice"]]
        assert client.get("/").json == []


# ---------------------------------------------------------------- around a view


def test_functions_around_a_view_run_in_their_order(app: flask.Flask, client_of: ClientOf) -> None:
    """W-CALL-2: `before_request`, `after_this_request`, `after_request`, `g`, and two cookies."""

    @app.before_request
    def before() -> None:
        flask.g.steps = ["before"]

    @app.after_request
    def after(response: flask.Response) -> flask.Response:
        flask.g.steps.append("after")
        response.headers["X-Steps"] = " ".join(flask.g.steps)
        return response

    @app.get("/")
    def view() -> str:
        @flask.after_this_request
        def with_cookies(response: flask.Response) -> flask.Response:
            flask.g.steps.append("this")
            response.set_cookie("theme", "dark")
            response.set_cookie("lang", "de", max_age=60)
            return response

        flask.g.steps.append("view")
        return "seen"

    @app.get("/other")
    def other() -> str:
        return "plain"

    with client_of(app) as client:
        response = client.get("/")
        assert response.headers["X-Steps"] == "before view this after"
        cookies = response.headers.getlist("Set-Cookie")
        assert [cookie.partition(";")[0] for cookie in cookies] == ["theme=dark", "lang=de"]
        plain = client.get("/other")
    assert plain.headers["X-Steps"] == "before after"
    assert "Set-Cookie" not in plain.headers


def test_a_function_before_the_view_answers(app: flask.Flask, client_of: ClientOf) -> None:
    """W-CALL-2: what `before_request` returns is the response; the view is not called."""
    called: list[str] = []

    @app.before_request
    def refuse() -> flask.typing.ResponseReturnValue:
        return {"error": "login first"}, 401, {"WWW-Authenticate": 'Basic realm="site"'}

    @app.get("/")
    def view() -> str:
        called.append("view")
        return "secret"

    with client_of(app) as client:
        response = client.get("/")
    assert (response.status_code, response.json) == (401, {"error": "login first"})
    assert response.headers["WWW-Authenticate"] == 'Basic realm="site"'
    assert called == []


class TakenDown:
    """What an app's teardown functions and `call_on_close` have seen."""

    def __init__(self, app: flask.Flask) -> None:
        self.seen: list[tuple[str, BaseException | None]] = []
        app.teardown_request(lambda exc: self.seen.append(("request", exc)))
        app.teardown_appcontext(lambda exc: self.seen.append(("appcontext", exc)))

    def closed(self) -> None:
        self.seen.append(("closed", None))


@pytest.mark.parametrize("path", ["/page", "/list", "/stream", "/handled", "/raised"])
def test_teardown_functions_are_called_once(
    app: flask.Flask, client_of: ClientOf, path: str
) -> None:
    """W-OUT-5: teardown once with what was raised, then `close()` once, however the view ends.

    Not `stream_with_context`: Flask 3.1 tears its context down a second time, by itself.
    """
    taken_down = TakenDown(app)
    raised = LookupError("broken on purpose")
    app.config["PROPAGATE_EXCEPTIONS"] = True

    def answer(body: Any) -> flask.Response:
        response = flask.Response(body)
        response.call_on_close(taken_down.closed)
        return response

    @app.get("/page")
    def page() -> flask.Response:
        return answer(b"page")

    @app.get("/list")
    def listed() -> flask.Response:
        return answer([b"a", b"list"])

    @app.get("/stream")
    def stream() -> flask.Response:
        return answer(chunk for chunk in (b"str", b"eam"))

    @app.get("/handled")
    def handled() -> flask.Response:
        raise werkzeug.exceptions.Conflict

    @app.errorhandler(409)
    def conflict(_: Exception) -> flask.typing.ResponseReturnValue:
        return answer(b"handled"), 409

    @app.get("/raised")
    def fails() -> flask.Response:
        raise raised

    with client_of(app) as client:
        if path == "/raised":
            with pytest.raises(LookupError) as caught:
                client.get(path)
            assert caught.value is raised
        else:
            client.get(path, buffered=True)
    error = raised if path == "/raised" else None
    torn_down = [("request", error), ("appcontext", error)]
    if path == "/raised":
        assert taken_down.seen == torn_down
    else:
        assert taken_down.seen == [*torn_down, ("closed", None)]


def test_a_stream_that_is_closed_early(app: flask.Flask, client_of: ClientOf) -> None:
    """W-OUT-5: the generator is left, and teardown runs, once, when the client closes."""
    taken_down = TakenDown(app)
    ended: list[str] = []

    @app.get("/")
    def view() -> flask.Response:
        def endless() -> Iterator[bytes]:
            try:
                while True:
                    yield b"tick" * 1_000
            finally:
                ended.append("endless")

        response = flask.Response(endless())
        response.call_on_close(taken_down.closed)
        return response

    with client_of(app) as client:
        response = client.get("/")
        assert next(iter(response.response)).startswith(b"tick")
        response.close()
    assert ended == ["endless"]
    assert [name for name, _ in taken_down.seen] == ["request", "appcontext", "closed"]


# ---------------------------------------------------------------- errors


class OutOfStock(Exception):
    pass


# ---------------------------------------------------------------- async views


def test_async_functions_of_every_kind(app: flask.Flask, client_of: ClientOf) -> None:
    """W-CALL-2: `async def` before, view, error handler, after and teardown of one request."""
    steps: list[str] = []

    async def step(name: str) -> None:
        await asyncio.sleep(0)
        steps.append(name)

    @app.before_request
    async def before() -> None:
        await step("before")

    @app.get("/<int:number>")
    async def view(number: int) -> str:
        doubled = await asyncio.gather(*(asyncio.sleep(0, n * 2) for n in range(number)))
        await step(flask.request.path)
        if not number:
            raise OutOfStock
        return str(doubled)

    @app.errorhandler(OutOfStock)
    async def out_of_stock(_: OutOfStock) -> tuple[str, int]:
        await step("handler")
        return "none", 409

    @app.after_request
    async def after(response: flask.Response) -> flask.Response:
        await step("after")
        return response

    @app.teardown_request
    async def teardown(_: BaseException | None) -> None:
        await step("teardown")

    with client_of(app) as client:
        assert client.get("/3").text == "[0, 2, 4]"
        refused = client.get("/0")
    assert (refused.status_code, refused.text) == (409, "none")
    assert steps == [
        *("before", "/3", "after", "teardown"),
        *("before", "/0", "handler", "after", "teardown"),
    ]


def test_async_views_share_the_private_loop(app: flask.Flask) -> None:
    """W-CALL-2, A-LOOP-1: behind both bridges the views' loop is the one of the outer bridge."""
    loops: list[tuple[str, asyncio.AbstractEventLoop]] = []

    @app.get("/")
    async def view() -> str:
        loops.append((threading.current_thread().name, asyncio.get_running_loop()))
        return "awaited"

    with wsgi_behind_both(app) as bridged:
        client = Client(bridged)
        assert [client.get("/").text for _ in range(2)] == ["awaited"] * 2
    assert loops[0] == loops[1]
    assert loops[0][0].startswith("wsgi_asgi_bridge-loop")
