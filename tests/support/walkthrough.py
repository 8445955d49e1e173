"""A page of docs/ as its reader follows it: files are written, commands run, answers compared.

Such a page has these blocks, and the walk takes them in their order:

- a block below a line that ends in "`name`:" is the file of that name; if the line begins with
  "Add to", it is added to the file
- `sh`: commands, one a line
- `text`: what the last command prints; "..." stands for anything. In a WebSocket's client a line
  that begins with "> " is typed, one that begins with "< " is received
- `log`: what is in the server's log by then, in any order
- "**Press Ctrl-C**" ends the server
- `python` without a name is for reading; tests/docs/test_pages.py runs it

The environment of the tests stands for the reader's, and a free port for 8000.
"""

import contextlib
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.pages import PROJECT, Block, blocks
from tests.support.processes import ServerProcess, accepts_connections, running_server

PORT = "8000"
SCRIPTS = Path(sys.executable).parent
SERVERS = ("uvicorn", "hypercorn", "granian", "daphne", "gunicorn", "waitress-serve", "uwsgi")
PREPARES = ("python3 -m venv", "mkdir ")
"""Commands for which the test has an environment and a folder already."""
SECONDS = 20.0
POLL_SECONDS = 0.02
STOP = "**Press Ctrl-C**"

KNOWN_PACKAGES = {
    re.split(r"[^\w-]", requirement)[0].lower()
    for extra in PROJECT["optional-dependencies"].values()
    for requirement in extra
}

_REQUIREMENT = re.compile(r"(?P<name>[\w./-]+)(?:\[(?P<extras>[\w,]+)\])?")


def commands(text: str) -> list[str]:
    return [line for block in blocks("sh", text) for line in block.code.splitlines()]


def is_walked(text: str) -> bool:
    """Whether a page asks its servers itself; the others only say how to start them."""
    return any(command.startswith("curl ") for command in commands(text))


def is_server(command: str) -> bool:
    return shlex.split(command)[0] in SERVERS


def write_files(text: str, folder: Path) -> None:
    """Every file of the page, as it is at the page's end."""
    for block in blocks(None, text):
        if block.file:
            write_file(block, folder)


def write_file(block: Block, folder: Path) -> None:
    path = folder / str(block.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") + "\n\n" if block.adds else ""
    path.write_text(before + block.code, encoding="utf-8")


def served(command: str, folder: Path) -> contextlib.AbstractContextManager[ServerProcess]:
    """The server that the command starts in `folder`, on a port of its own."""
    program, *arguments = shlex.split(command)
    assert any(PORT in word for word in arguments), command
    words = [str(SCRIPTS / program), *(word.replace(PORT, "{port}") for word in arguments)]
    # gunicorn's control socket would be the same file for all who run it.
    env = {"GUNICORN_CMD_ARGS": "--no-control-socket"}
    return running_server(words, ready=accepts_connections, env=env, cwd=folder)


def assert_installs(command: str) -> None:
    """What the page installs exists: an extra of the project has it."""
    for word in shlex.split(command)[2:]:
        requirement = _REQUIREMENT.fullmatch(word)
        assert requirement is not None, word
        if requirement["name"].endswith("/wsgi_asgi_bridge"):
            extras = set((requirement["extras"] or "").split(",")) - {""}
            assert extras <= set(PROJECT["optional-dependencies"]), word
        else:
            assert requirement["name"].lower() in KNOWN_PACKAGES, word


def assert_shows(expected: str, actual: str) -> None:
    """`actual` is what the page shows; "..." there stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    assert re.fullmatch(pattern, actual.strip(), re.DOTALL), f"not {expected!r}, but {actual!r}"


class Walk(contextlib.ExitStack):
    """One reader of one page. `follow()` does all that it says; the block's end ends the rest."""

    def __init__(self, text: str, folder: Path) -> None:
        super().__init__()
        self._text = text
        self._folder = folder
        self._server: ServerProcess | None = None
        self._answer: Any = None
        self._open: list[Any] = []  # an iterator that is freed would close its response

    def follow(self) -> None:
        position = 0
        for block in blocks(None, self._text):
            if STOP in "\n".join(self._text.splitlines()[position : block.line - 1]):
                self._press_ctrl_c()
            self._take(block)
            position = block.line

    @property
    def server(self) -> ServerProcess:
        assert self._server is not None, "no server runs yet"
        return self._server

    def _take(self, block: Block) -> None:
        if block.file:
            write_file(block, self._folder)
        elif block.language == "sh":
            for line in block.code.splitlines():
                self._run(line)
        elif block.language == "text":
            self._compare(block.code)
        elif block.language == "log":
            self._find_in_log(block.code)
        else:
            assert block.language == "python", f"line {block.line}: nobody knows what to do with it"

    def _run(self, command: str) -> None:
        if command.startswith("pip install"):
            assert_installs(command)
        elif is_server(command):
            if self._server is not None:
                self._press_ctrl_c()
            self._server = self.enter_context(served(command, self._folder))
        elif command.startswith("curl "):
            self._answer = self._curl(shlex.split(command)[1:])
        elif command.startswith("websockets "):
            url = self._on_its_port(command.split()[1])
            self._answer = self.enter_context(connect(url, open_timeout=SECONDS))
        else:
            assert command.startswith(PREPARES), f"nobody runs this here: {command}"

    def _on_its_port(self, url: str) -> str:
        return url.replace(f":{PORT}", f":{self.server.port}")

    def _curl(self, words: list[str]) -> Any:
        """What curl prints, or with -N the lines of a response that goes on."""
        url = self._on_its_port(words.pop())
        client = self.enter_context(httpx.Client(timeout=SECONDS))
        if words == ["-N"]:
            response = self.enter_context(client.stream("GET", url))
            self._open.append(lines := response.iter_lines())
            return lines
        if not words:
            return client.get(url).text
        option, value = words
        if option == "-d":
            form = {"content-type": "application/x-www-form-urlencoded"}
            return client.post(url, content=value, headers=form).text
        name, _, file = value.partition("=@")
        assert option == "-F", option
        return client.post(url, files={name: (file, (self._folder / file).read_bytes())}).text

    def _compare(self, expected: str) -> None:
        if isinstance(self._answer, ClientConnection):
            for line in expected.splitlines():
                if line.startswith("> "):
                    self._answer.send(line[2:])
                else:
                    assert line == f"< {self._answer.recv(SECONDS)}"
        elif isinstance(self._answer, str):
            assert_shows(expected, self._answer)
        else:
            for line in expected.splitlines():
                assert_shows(line, next(self._answer))

    def _find_in_log(self, expected: str) -> None:
        for line in expected.splitlines():
            parts = ".*".join(re.escape(part) for part in line.split("..."))
            deadline = time.monotonic() + SECONDS
            while not re.search(parts, self.server.output()):
                assert time.monotonic() < deadline, f"{line!r} is not in the log"
                time.sleep(POLL_SECONDS)

    def _press_ctrl_c(self) -> None:
        self.server.process.send_signal(signal.SIGINT)
        assert self.server.wait(SECONDS) in (0, -signal.SIGINT)
