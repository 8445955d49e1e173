"""Files that the ASGI server sends by itself, on real servers. granian alone offers it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asgi_servers import SERVERS, AsgiServer
from tests.support.file_clients import FOLDER
from tests.support.processes import ServerProcess, running_server, shown_on_failure
from tests.support.raw_http import Response

CONTENT = os.urandom(3_000_000)
NAME = "large.bin"
FRAMEWORKS = ["flask", "django", "starlette"]
SENT_BY_ITSELF = {"granian": "http.response.pathsend"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / NAME).write_bytes(CONTENT)
    return folder


@pytest.fixture(scope="module", params=[pytest.param(server, id=server.name) for server in SERVERS])
def server(request: pytest.FixtureRequest) -> AsgiServer:
    return request.param


@pytest.fixture(scope="module")
def shared_process(server: AsgiServer, folder: Path) -> Iterator[ServerProcess]:
    command = server.command_for("tests.support.file_sites:three_apps")
    with running_server(command, env={FOLDER: str(folder)}) as process:
        yield process


@pytest.fixture
def process(shared_process: ServerProcess) -> Iterator[ServerProcess]:
    with shown_on_failure(shared_process):
        yield shared_process


def asked(
    server: AsgiServer, process: ServerProcess, target: str, *headers: tuple[str, str], **how: str
) -> tuple[Response, str]:
    """The answer, and the extension by which the file went."""
    with server.client(process.address) as client:
        client.send_head(how.get("method", "GET"), target, headers)
        response = client.read_response()
    with server.client(process.address) as client:
        return response, client.get("/sent").text


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_whole_file(server: AsgiServer, process: ServerProcess, framework: str) -> None:
    """W-OUT-10: whole, with its length; through both bridges too."""
    response, sent = asked(server, process, f"/{framework}/{NAME}")
    assert response.status == 200
    assert response.body == CONTENT
    assert response.header("content-length") == str(len(CONTENT))
    assert sent == SENT_BY_ITSELF.get(server.name, "")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_head_range_and_the_question_whether_it_has_changed(
    server: AsgiServer, process: ServerProcess, framework: str
) -> None:
    """W-OUT-6, W-OUT-10"""
    target = f"/{framework}/{NAME}"
    head, _ = asked(server, process, target, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    if framework == "django":
        return  # it knows neither ranges nor etags of files
    part, sent = asked(server, process, target, ("range", "bytes=2000000-2999998"))
    assert (part.status, part.body, sent) == (206, CONTENT[2_000_000:2_999_999], "")
    if framework == "flask":
        again, _ = asked(server, process, target, ("if-none-match", head.header("etag") or ""))
        assert (again.status, again.body) == (304, b"")


def test_a_file_that_is_removed_with_the_response(
    server: AsgiServer, process: ServerProcess, folder: Path
) -> None:
    """W-OUT-10: a server that opens it by its name would come too late."""
    for _ in range(5):
        response, sent = asked(server, process, f"/django/removed/{NAME}")
        assert (response.status, response.body == CONTENT, sent) == (200, True, "")
    assert os.listdir(folder) == [NAME]


def test_requests_that_follow_on_the_connection(server: AsgiServer, process: ServerProcess) -> None:
    """W-OUT-10: the file's end is where the next response begins."""
    with server.client(process.address) as client:
        for framework in FRAMEWORKS:
            assert client.get(f"/{framework}/{NAME}").body == CONTENT
        assert client.get("/flask").body == b"ready"


def test_client_that_leaves_in_the_middle(server: AsgiServer, process: ServerProcess) -> None:
    """W-OUT-10: the next one is served."""
    for _ in range(3):
        with server.client(process.address) as client:
            client.send_head("GET", f"/flask/{NAME}")
            client.read_head()
            assert client.read_body_exactly(1000) == CONTENT[:1000]
            client.reset()
    assert asked(server, process, f"/flask/{NAME}")[0].body == CONTENT
