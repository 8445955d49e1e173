"""A WSGI app under real ASGI servers: pages, environ, errors."""

import json

import pytest

from tests.servers.wsgi_to_asgi.conftest import OBSERVED
from tests.support.asgi_servers import Ability, AsgiServer, Served, waited_for
from tests.support.processes import running_server, shown_on_failure
from tests.support.raw_http import CutResponseError
from tests.support.wsgi_apps import CLOSED_ONCE

SILENT_SECONDS = 1.0


def environ_of(served: Served, target: bytes) -> dict[str, str]:
    return json.loads(served.get(target).body)


def test_hello(served: Served) -> None:
    """W-OUT-6: a one-element list is answered with its length."""
    response = served.get("/hello")
    assert (response.status, response.body) == (200, b"hello\n")
    assert response.header("content-type") == "text/plain"
    assert response.header("content-length") == "6"


@pytest.mark.parametrize("status", [204, 304])
def test_response_without_a_body_has_no_length_of_one(served: Served, status: int) -> None:
    """W-OUT-6: the client waits for no byte, and the connection goes on where the server counts."""
    with served.connect() as client:
        for _ in range(2):
            response = client.get(f"/bare?status={status}")
            assert (response.status, response.body, response.header("etag")) == (status, b"", '"1"')
            assert response.header("content-length") is None


@pytest.mark.parametrize("status", [100, 101, 103])
def test_interim_status_is_no_response(served: Served, status: int) -> None:
    """W-OUT-1: the client would take what follows on the connection for the response."""
    assert served.get(f"/bare?status={status}").status == 500


def test_requests_follow_each_other_on_one_connection(served: Served) -> None:
    with served.connect() as client:
        bodies = [client.request("POST", "/echo", body=b"%d" % number).body for number in range(5)]
    assert bodies == [b"0", b"1", b"2", b"3", b"4"]


def test_flask_page_and_stream(served: Served) -> None:
    assert served.get("/flask/").text == "hello from Flask"
    assert served.get("/flask/stream").text == "".join(f"{number}\n" for number in range(10))


def test_which_server_takes_early_hints(served: Served) -> None:
    """W-OUT-12: hypercorn alone, over HTTP/2, and the app can tell; see test_early_hints.py."""
    takes_them = served.server.name == "hypercorn-h2c"
    assert served.get("/early_hints").body == (b"hints" if takes_them else b"no hints")


def test_environ_names_the_request(served: Served) -> None:
    """W-ENV-2, W-ENV-4, W-ENV-7."""
    environ = environ_of(served, b"/environ_strings/a%20b?q=%E9&x=1")
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SCRIPT_NAME"] == "/environ_strings"
    assert environ["PATH_INFO"] == "/a b"
    assert environ["QUERY_STRING"] == "q=%E9&x=1"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["SERVER_PORT"] == str(served.process.port)
    assert environ["HTTP_HOST"] == f"127.0.0.1:{served.process.port}"
    assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize("path", [b"/%E9", b"/%C3%A9", b"/%FF/%00", b"/a%2Fb"])
def test_path_bytes_survive(served: Served, path: bytes) -> None:
    """W-ENV-3: bytes that are no UTF-8 reach the app as they came."""
    environ = environ_of(served, b"/environ_strings" + path)
    expected = {
        b"/%E9": b"/\xe9",
        b"/%C3%A9": b"/\xc3\xa9",
        b"/%FF/%00": b"/\xff/\x00",
        b"/a%2Fb": b"/a/b",
    }[path]
    assert environ["PATH_INFO"].encode("latin-1") == expected
    target = environ.get("REQUEST_URI", environ.get("RAW_URI", ""))
    assert target == "/environ_strings" + path.decode()


def test_repeated_headers_and_cookies_are_joined(served: Served) -> None:
    """W-ENV-5."""
    headers = [("x-part", "1"), ("cookie", "a=1"), ("x-part", "2"), ("cookie", "b=2")]
    with served.connect() as client:
        environ = json.loads(client.get("/environ_strings", headers).body)
    # Proxies and servers may join the fields themselves, with a space after the comma.
    assert environ["HTTP_X_PART"].replace(" ", "") == "1,2"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"


def test_app_fails_before_headers(served: Served) -> None:
    """W-CALL-3: the server answers 500 and logs the app's own error."""
    mark = served.process.output_size()
    assert served.get("/fails_before_headers").status == 500
    # Some servers log after they have answered.
    error = "RuntimeError: told to fail before the headers"
    waited_for(lambda: served.process.output(since=mark), lambda log: error in log, "log")
    served.assert_answers(1)


@pytest.mark.parametrize(
    ("app", "whole"), [("fails_after_headers", 1000), ("shorter_than_declared", 10)]
)
def test_app_fails_after_headers(served: Served, app: str, whole: int) -> None:
    """W-CALL-3, W-OUT-6: a cut body never looks complete."""
    token = f"{app}-{served.server.name}"
    with served.connect() as client:
        client.send_head("GET", f"/{app}?id={token}")
        assert client.read_head().status == 200
        assert len(client.read_body_exactly(whole)) == whole
        if served.can(Ability.FAILED_RESPONSES_BREAK):
            with pytest.raises(CutResponseError):
                client.read_body()
        else:
            client.set_timeout(SILENT_SECONDS)
            with pytest.raises(TimeoutError):
                client.read_body()
    assert served.wait_for_journal(token, CLOSED_ONCE) == ["opened", CLOSED_ONCE]
    served.assert_answers(1)


def test_root_path(asgi_server: AsgiServer) -> None:
    """W-ENV-2: with servers that put root_path before the path, and with those that do not."""
    command = asgi_server.command_for(OBSERVED, root_path="/under")
    with running_server(command) as process, shown_on_failure(process):
        served = Served(asgi_server, process)
        prefix = b"" if asgi_server.prefixes_path else b"/under"
        environ = environ_of(served, prefix + b"/environ_strings/%E9/rest")
        assert environ["SCRIPT_NAME"] == "/under/environ_strings"
        assert environ["PATH_INFO"].encode("latin-1") == b"/\xe9/rest"
