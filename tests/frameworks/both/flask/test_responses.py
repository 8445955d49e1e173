"""Flask's streams, files, errors and mounts, natively and behind both bridges."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
import werkzeug.exceptions

from tests.frameworks.apps_flask import flask_app
from tests.frameworks.both.flask.conftest import ClientOf
from tests.frameworks.conftest import DOWNLOAD_BYTES
from tests.frameworks.gates import Gates
from tests.frameworks.payloads import multipart, payload, summary

# ---------------------------------------------------------------- streams and files


def test_a_stream_with_context(app: flask.Flask, client_of: ClientOf, gates: Gates) -> None:
    """W-OUT-4, A-OUT-2: the generator knows its request; each piece arrives before the next."""

    @app.get("/<name>")
    def view(name: str) -> flask.typing.ResponseReturnValue:
        flask.session["streamed"] = True

        @flask.stream_with_context
        def chunks() -> Iterator[str]:
            yield f"hello {flask.request.args['who']} "
            gates.wait_for_client()
            yield f"from {flask.request.path}, {flask.session['streamed']}"

        return chunks(), {"X-Name": name}

    with client_of(app) as client:
        response = client.get("/stream?who=ann")
        pieces = iter(response.response)
        first = next(pieces)
        gates.first_chunk_arrived.set()
        rest = b"".join(pieces)
        response.close()
    assert first == b"hello ann "
    assert rest == b"from /stream, True"
    assert response.headers["X-Name"] == "stream"


def test_a_template_that_streams(app: flask.Flask, client_of: ClientOf) -> None:
    """W-OUT-4: `stream_template_string` renders piece by piece, with the request at hand."""

    @app.get("/")
    def view() -> Iterator[str]:
        source = "{% for n in numbers %}{{ n }} of {{ request.path }};{% endfor %}"
        return flask.stream_template_string(source, numbers=range(3))

    with client_of(app) as client:
        assert client.get("/").text == "0 of /;1 of /;2 of /;"


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "large"])
def test_an_upload(gates: Gates, download: Path, client_of: ClientOf, size: int) -> None:
    """W-IN-1, A-IN-1: a file within and far above both request buffers arrives byte for byte."""
    data = payload(size)
    body, headers = multipart("file", "\xfcber.bin", data)
    with client_of(flask_app(gates, download)) as client:
        response = client.post("/upload", data=body, headers=headers)
    assert response.json == summary("\xfcber.bin", data)


def test_a_form_with_repeated_fields(app: flask.Flask, client_of: ClientOf) -> None:
    """W-IN-1: fields, files, the query and their order arrive."""

    @app.post("/")
    def view() -> dict[str, Any]:
        files = flask.request.files.getlist("file")
        return {
            "tags": flask.request.form.getlist("tag"),
            "files": [[file.filename, file.mimetype, file.read().decode()] for file in files],
            "query": flask.request.args.to_dict(flat=False),
            "together": flask.request.values.getlist("tag"),
        }

    files = [(io.BytesIO(b"one"), "1.txt"), (io.BytesIO(b"two"), "2.csv")]
    with client_of(app) as client:
        answer = client.post("/?tag=q&empty=", data={"tag": ["a", "\xfc"], "file": files}).json
    assert answer == {
        "tags": ["a", "\xfc"],
        "files": [["1.txt", "text/plain", "one"], ["2.csv", "text/csv", "two"]],
        "query": {"tag": ["q"], "empty": [""]},
        "together": ["q", "a", "\xfc"],
    }


def test_a_body_beyond_flask_s_limit(app: flask.Flask, client_of: ClientOf) -> None:
    """W-IN-1: `MAX_CONTENT_LENGTH` is Flask's own to judge, also where it does not read."""
    app.config["MAX_CONTENT_LENGTH"] = 100

    @app.post("/")
    def view() -> str:
        return str(len(flask.request.get_data()))

    with client_of(app) as client:
        assert client.post("/", data=b"x" * 100).text == "100"
        assert client.post("/", data=b"x" * 200_000).status_code == 413
        assert client.post("/", data=b"x" * 100).text == "100"


def test_json_both_ways(app: flask.Flask, client_of: ClientOf) -> None:
    """W-IN-1: `get_json` and `jsonify`; a body that is no JSON is Flask's 400."""

    @app.post("/")
    def view() -> flask.typing.ResponseReturnValue:
        return flask.jsonify(given=flask.request.get_json())

    with client_of(app) as client:
        assert client.post("/", json={"a": [1, None, "\xfc"]}).json == {
            "given": {"a": [1, None, "\xfc"]}
        }
        assert client.post("/", data="{", content_type="application/json").status_code == 400
        assert client.post("/", data="{}", content_type="text/plain").status_code == 415


@pytest.fixture
def file_app(app: flask.Flask, download: Path) -> flask.Flask:
    @app.get("/file")
    def view() -> flask.Response:
        return flask.send_file(download, as_attachment=True, download_name="\xfcber.bin")

    @app.get("/memory")
    def memory() -> flask.Response:
        return flask.send_file(io.BytesIO(payload(5_000)), mimetype="text/plain")

    return app


def test_a_file(file_app: flask.Flask, client_of: ClientOf, download: Path) -> None:
    """W-ENV-7: `send_file`, through `wsgi.file_wrapper`, whole and with all that Flask says."""
    with client_of(file_app) as client:
        response = client.get("/file", buffered=True)
        headers = response.headers
        assert response.data == download.read_bytes()
        assert headers["Content-Length"] == str(DOWNLOAD_BYTES)
        assert headers["Content-Disposition"] == (
            "attachment; filename=uber.bin; filename*=UTF-8''%C3%BCber.bin"
        )
        assert headers["Cache-Control"] == "no-cache"
        assert response.last_modified is not None
        assert client.get("/memory", buffered=True).data == payload(5_000)


def test_a_file_that_the_client_has(file_app: flask.Flask, client_of: ClientOf) -> None:
    """W-OUT-6: conditional requests get their 304 without a body, HEAD its length."""
    with client_of(file_app) as client:
        etag = client.get("/file", buffered=True).headers["ETag"]
        same = client.get("/file", headers={"If-None-Match": etag}, buffered=True)
        assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", etag)
        head = client.head("/file", buffered=True)
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(DOWNLOAD_BYTES)


def test_a_part_of_a_file(file_app: flask.Flask, client_of: ClientOf) -> None:
    """W-ENV-7: ranges that can and that cannot be served."""
    with client_of(file_app) as client:
        part = client.get("/file", headers={"Range": "bytes=70000-139999"}, buffered=True)
        assert part.status_code == 206
        assert part.headers["Content-Range"] == f"bytes 70000-139999/{DOWNLOAD_BYTES}"
        assert part.data == payload(140_000)[70_000:]
        beyond = client.get("/file", headers={"Range": f"bytes={DOWNLOAD_BYTES}-"}, buffered=True)
        assert beyond.status_code == 416


# ---------------------------------------------------------------- errors


class OutOfStock(Exception):
    pass


@pytest.fixture
def failing_app(app: flask.Flask) -> flask.Flask:
    @app.get("/stock")
    def stock() -> str:
        raise OutOfStock("no more tea")

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError("on purpose")

    @app.get("/gone")
    def gone() -> str:
        flask.abort(410, description="it was here")

    @app.errorhandler(OutOfStock)
    def out_of_stock(error: OutOfStock) -> flask.typing.ResponseReturnValue:
        return {"sold": str(error)}, 409

    @app.errorhandler(werkzeug.exceptions.HTTPException)
    def as_json(
        error: werkzeug.exceptions.HTTPException,
    ) -> flask.typing.ResponseReturnValue:
        original = getattr(error, "original_exception", None)
        answer = error.get_response()
        said = {"code": error.code, "said": error.description, "original": repr(original)}
        answer.data = flask.json.dumps(said)
        answer.content_type = "application/json"
        return answer

    return app


def test_error_handlers(
    failing_app: flask.Flask, client_of: ClientOf, caplog: pytest.LogCaptureFixture
) -> None:
    """W-CALL-3: handlers by class, by kind of HTTP error and for the unexpected."""
    with client_of(failing_app) as client:
        stock = client.get("/stock")
        assert (stock.status_code, stock.json) == (409, {"sold": "no more tea"})
        gone = client.get("/gone")
        assert gone.json == {"code": 410, "said": "it was here", "original": "None"}
        broken = client.get("/broken")
        assert broken.status_code == 500
        assert broken.json["original"] == "ZeroDivisionError('on purpose')"
        assert client.get("/caf\xe9").json["code"] == 404
        wrong = client.post("/stock")
    assert wrong.status_code == 405
    assert set(wrong.allow) == {"GET", "HEAD", "OPTIONS"}
    logged = [(record.name, record.exc_info[0]) for record in caplog.records if record.exc_info]
    assert logged == [("features", ZeroDivisionError)]


def test_an_error_that_flask_passes_on(app: flask.Flask, client_of: ClientOf) -> None:
    """W-CALL-3, A-OUT-4: with TESTING the very exception comes out of the client's call."""
    app.testing = True
    raised = ValueError("broken on purpose")

    @app.get("/")
    def view() -> str:
        raise raised

    with client_of(app) as client:
        for _ in range(2):
            with pytest.raises(ValueError, match="broken on purpose") as caught:
                client.get("/")
            assert caught.value is raised


def test_an_error_in_the_middle_of_a_stream(app: flask.Flask, client_of: ClientOf) -> None:
    """W-CALL-3, A-OUT-4: the very exception comes out of the response's iteration."""
    raised = ValueError("broken on purpose")

    @app.get("/")
    def view() -> flask.Response:
        def chunks() -> Iterator[bytes]:
            yield b"begun"
            raise raised

        return flask.Response(chunks())

    with client_of(app) as client:
        response = client.get("/")
        pieces = iter(response.response)
        assert next(pieces) == b"begun"
        with pytest.raises(ValueError, match="broken on purpose") as caught:
            next(pieces)
        assert caught.value is raised
        response.close()


def test_signals(failing_app: flask.Flask, client_of: ClientOf) -> None:
    """W-CALL-2: each of Flask's signals is sent once, in the order of its documentation."""
    names = [
        "request_started",
        "got_request_exception",
        "request_finished",
        "request_tearing_down",
        "appcontext_tearing_down",
    ]
    sent: list[str] = []
    with contextlib.ExitStack() as connected, client_of(failing_app) as client:
        for name in names:

            def note(_: flask.Flask, name: str = name, **__: Any) -> None:
                sent.append(name)

            connected.enter_context(getattr(flask, name).connected_to(note, failing_app))
        client.get("/stock")
        client.get("/broken")
    assert sent == [name for name in names if name != "got_request_exception"] + names


# ---------------------------------------------------------------- where the app is mounted


@pytest.fixture
def shop() -> flask.Flask:
    app = flask.Flask("shop")
    items = flask.Blueprint("items", __name__, url_prefix="/items")

    @items.get("/<name>")
    def show(name: str) -> dict[str, Any]:
        request = flask.request
        return {
            "blueprint": request.blueprint,
            "endpoint": request.endpoint,
            "args": request.view_args,
            "script_root": request.script_root,
            "path": request.path,
            "full_path": request.full_path,
            "url": request.url,
            "root_url": request.root_url,
            "here": flask.url_for(".show", name=name),
            "home": flask.url_for("home", _external=True),
            "secure": request.is_secure,
        }

    @app.get("/")
    def home() -> flask.typing.ResponseReturnValue:
        return flask.redirect(flask.url_for("items.show", name="te\xe9"))

    app.register_blueprint(items)
    return app


def test_a_blueprint_under_a_prefix(shop: flask.Flask, client_of: ClientOf) -> None:
    """W-ENV-2, A-SCOPE-1: SCRIPT_NAME is in the links and not in the routes."""
    with client_of(shop) as client:
        answer = client.get("/items/te\xe9?q=%2F", base_url="https://shop.example:8443/m\xfcnchen")
    assert answer.json == {
        "blueprint": "items",
        "endpoint": "items.show",
        "args": {"name": "te\xe9"},
        "script_root": "/m\xfcnchen",
        "path": "/items/te\xe9",
        "full_path": "/items/te\xe9?q=%2F",
        "url": "https://shop.example:8443/m\xfcnchen/items/te\xe9?q=/",
        "root_url": "https://shop.example:8443/m\xfcnchen/",
        "here": "/m\xfcnchen/items/te%C3%A9",
        "home": "https://shop.example:8443/m\xfcnchen/",
        "secure": True,
    }


@pytest.mark.parametrize("prefix", ["", "/app"])
def test_a_redirect_under_a_prefix(shop: flask.Flask, client_of: ClientOf, prefix: str) -> None:
    """W-ENV-2: the client that follows it stays under the prefix."""
    with client_of(shop) as client:
        landed = client.get("/", base_url=f"http://shop.example{prefix}", follow_redirects=True)
    assert landed.history[0].headers["Location"] == f"{prefix}/items/te%C3%A9"
    assert landed.json["path"] == "/items/te\xe9"
    assert landed.json["script_root"] == prefix


def test_what_a_request_says(app: flask.Flask, client_of: ClientOf) -> None:
    """W-ENV-1, W-ENV-7, A-SCOPE-1: method, headers, cookies, addresses and authorization."""

    @app.route("/echo", methods=["PUT"])
    def echo() -> dict[str, Any]:
        request = flask.request
        return {
            "method": request.method,
            "agent": request.user_agent.string,
            "repeated": request.headers["X-List"].split(","),
            "cookies": request.cookies,
            "host": request.host,
            "remote_addr": request.remote_addr,
            "authorization": request.authorization["username"],
            "languages": request.accept_languages.best_match(["en", "de"]),
            "content_length": request.content_length,
            "mimetype": request.mimetype,
            "protocol": request.environ["SERVER_PROTOCOL"],
        }

    with client_of(app) as client:
        client.set_cookie("a", "1")
        client.set_cookie("b", "2 \xfc")
        answer = client.put(
            "/echo",
            data=b"body",
            content_type="text/plain; charset=utf-8",
            headers=[("X-List", "one"), ("X-List", "two"), ("Accept-Language", "de, en;q=0.5")],
            auth=("ann", "secret"),
            environ_base={"HTTP_USER_AGENT": "tester/1", "REMOTE_ADDR": "192.0.2.7"},
        )
    assert answer.json == {
        "method": "PUT",
        "agent": "tester/1",
        "repeated": ["one", " two"],
        "cookies": {"a": "1", "b": "2 \xfc"},
        "host": "localhost",
        "remote_addr": "192.0.2.7",
        "authorization": "ann",
        "languages": "de",
        "content_length": 4,
        "mimetype": "text/plain",
        "protocol": "HTTP/1.1",
    }
