"""docs/how_to/: the recipes run, and give what the page shows.

tests/docs/test_how_to_servers.py has the pages of the servers.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import werkzeug.test
from mcp import Client

from tests.support import pages
from tests.support.processes import PROJECT_ROOT
from tests.support.walkthrough import Walk, assert_installs, commands, is_walked, write_files

SECONDS = 30.0
FOLDER = "docs/how_to/"
HOW_TO = {path: text for path, text in pages.PAGES.items() if path.startswith(FOLDER)}
WALKED = [path for path, text in HOW_TO.items() if is_walked(text)]


def page(name: str) -> str:
    return HOW_TO[f"{FOLDER}{name}.md"]


def test_the_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\(([^/)]+\.md)\)", page("index")))
    assert linked == {Path(path).name for path in HOW_TO} - {"index.md"}


@pytest.mark.parametrize("path", HOW_TO)
def test_what_a_page_installs_exists(path: str) -> None:
    for command in commands(HOW_TO[path]):
        if command.startswith("pip install"):
            assert_installs(command)


@pytest.mark.parametrize("path", WALKED)
def test_a_reader_follows(path: str, tmp_path: Path) -> None:
    with Walk(HOW_TO[path], tmp_path) as walk:
        walk.follow()
        if path == f"{FOLDER}mcp.md":
            assert anyio.run(visits, f"{walk.server.url}/ai/mcp") == 1


async def visits(url: str) -> int:
    """What the page says that an MCP client gets."""
    with anyio.fail_after(SECONDS):
        async with Client(url) as client:
            answer: Any = (await client.call_tool("visits", {})).structured_content
            return answer["result"]


def test_cgi(tmp_path: Path) -> None:
    """A-LOOP-2"""
    write_files(page("cgi"), tmp_path)
    (command,) = commands(page("cgi"))
    *variables, program, script = command.split()
    assert program == "python"
    answer = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT_ROOT), **dict(pair.split("=") for pair in variables)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
    )
    assert (answer.returncode, answer.stderr) == (0, b"")
    head, body = answer.stdout.split(b"\r\n\r\n")
    assert head.startswith(b"Status: 200 OK\r\n")
    assert body == b'"Hello from FastAPI"'


def file_of(name: str, file: str) -> dict[str, Any]:
    """The names that a file of a page defines."""
    (block,) = [block for block in pages.blocks("python", page(name)) if block.file == file]
    names: dict[str, Any] = {"__name__": file.removesuffix(".py")}
    exec(compile(block.code, file, "exec"), names)
    return names


CALLS_HANDLER = """
import json, sys
from {module} import handler
from tests.support.lambda_events import Context, api_gateway_v1
answer = handler(api_gateway_v1("GET", "/"), Context())
print(answer["statusCode"], answer["body"])
"""


@pytest.mark.parametrize(
    ("module", "answer"),
    [
        ("flask_function", "200 Hello from Flask"),
        ("fastapi_function", '200 "Hello from FastAPI"'),
    ],
)
def test_a_lambda_function(module: str, answer: str, tmp_path: Path) -> None:
    """In a process of its own, since nothing ever closes the bridge of a function."""
    write_files(page("serverless"), tmp_path)
    printed = subprocess.run(
        [sys.executable, "-c", CALLS_HANDLER.format(module=module)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT_ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert printed.stdout.strip() == answer


def test_a_function_that_gets_a_flask_request() -> None:
    names = file_of("serverless", "main.py")
    request = werkzeug.test.EnvironBuilder(path="/").get_request()
    with names["application"]:
        assert names["handle"](request).get_data() == b'"Hello from FastAPI"'


OF_A_CONTAINER = {"--host", "--worker-tmp-dir"}


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_a_service_starts_the_server_as_its_page_does(server: str) -> None:
    """Under systemd, and with some of the same options in a container."""
    started = commands(page(server))
    (unit,) = re.findall(rf"^ExecStart=/srv/site/.venv/bin/({server} .*)$", page("deploying"), re.M)
    assert unit in started
    (container,) = re.findall(rf'^CMD (\["{server}", .*\])$', page("deploying"), re.M)
    options = {word for word in json.loads(container) if word.startswith("-")}
    assert options - OF_A_CONTAINER <= set(" ".join(started).split())


def test_shared_hosting() -> None:
    with file_of("shared_hosting", "passenger_wsgi.py")["application"] as application:
        answer = werkzeug.test.Client(application).get(
            "/", environ_base={"wsgi.multithread": False}
        )
    assert (answer.status_code, answer.data) == (200, b'"Hello from FastAPI"')
