"""A-OUT-8 on real servers: the error page of Starlette and FastAPI reaches the client whole, and
the server logs the traceback, once.
"""

import time
from collections.abc import Iterator

import pytest

from tests.frameworks.error_pages import PAGES
from tests.support.processes import ServerProcess, answers_http, running_server, shown_on_failure
from tests.support.raw_http import Connection
from tests.support.wsgi_servers import by_name

WAIT_SECONDS = 10.0


@pytest.fixture(scope="module", params=["gunicorn-gthread", "waitress", "werkzeug"])
def serving(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    command = by_name(request.param).command_for("tests.frameworks.error_pages:site")
    with running_server(command, ready=answers_http("/nothing")) as server:
        yield server


@pytest.mark.parametrize("page", PAGES)
def test_an_error_page_is_whole_and_its_error_in_the_servers_log(
    serving: ServerProcess, page: str
) -> None:
    """A-OUT-8."""
    mark = serving.output_size()
    raised = f"PageFailure: {page}"

    def logged() -> str:
        return serving.output(since=mark)

    with shown_on_failure(serving):
        with Connection(serving.address) as client:
            response = client.request("GET", page, [("connection", "close")])
        assert (response.status, response.text) == (500, "Internal Server Error")
        assert response.header("content-length") == str(len(response.body))
        deadline = time.monotonic() + WAIT_SECONDS
        while raised not in logged():
            assert time.monotonic() < deadline, "the error was not logged"
            time.sleep(0.01)
        # The server logs a second request after the first, and with it all of that.
        with Connection(serving.address) as client:
            assert client.request("GET", "/nothing", [("connection", "close")]).status == 404
        assert logged().count(raised) == 1
        assert logged().count("Traceback") == 1
        assert "after its response had ended" not in logged()
