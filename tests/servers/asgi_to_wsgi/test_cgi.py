"""`ASGIToWSGI` as a CGI script: one process for each request."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.support.processes import PROJECT_ROOT
from tests.support.witness import Witness

END_SECONDS = 30.0
PART = bytes(range(256)) * 4096


def answer_of(
    witness: Witness, target: str, *, app: str = "site", body: bytes = b"", **variables: str
) -> bytes:
    """What the script writes to its stdout, after which it has ended well and said nothing else."""
    path, _, query = target.partition("?")
    environment = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "test",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "192.0.2.1",
        "REQUEST_METHOD": "POST" if body else "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": "example.org",
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONFAULTHANDLER": "1",
        **({"CONTENT_LENGTH": str(len(body))} if body else {}),
        **witness.environment,
        **variables,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.cgi_site", f"tests.support.bridged_asgi:{app}"],
        env=environment,
        input=body,
        capture_output=True,
        timeout=END_SECONDS,
    )
    assert (ended.returncode, ended.stderr.decode()) == (0, "")
    return ended.stdout


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path)


def noted(witness: Witness) -> list[str]:
    return [what for what, _ in witness.notes()]


@pytest.mark.parametrize("app", ["site", "on_trio"])
def test_hello(witness: Witness, app: str) -> None:
    """A-CALL-1, A-OUT-7: byte by byte, and exit code 0."""
    answer = answer_of(witness, "/hello", app=app)
    assert answer == b"Status: 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!"


def test_lifespan_runs_around_the_request(witness: Witness) -> None:
    """A-LOOP-2: up before it, down at the script's exit."""
    answer_of(witness, "/hello")
    assert noted(witness) == ["startup", "first request", "shutdown"]


def test_what_the_client_asked(witness: Witness) -> None:
    """A-SCOPE-1, A-SCOPE-2"""
    answer = answer_of(
        witness, "/echoes_request?a=%20b", body=b"body", CONTENT_TYPE="a/b", HTTP_X_NAME="value"
    )
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (told["method"], told["path"], told["query"]) == ("POST", "/echoes_request", "a=%20b")
    assert ["x-name", "value"] in told["headers"]
    assert ["content-type", "a/b"] in told["headers"]
    assert told["body"] == "body"


def test_upload(witness: Witness) -> None:
    """A-IN-1: from the script's stdin."""
    answer = answer_of(witness, "/counts_upload", body=PART * 8)
    counted = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (counted["size"], counted["checksum"]) == (8 * len(PART), zlib.crc32(PART * 8))


def test_events(witness: Witness) -> None:
    """A-OUT-2"""
    for number in (1, 2, 3):
        witness.set_event(f"events-{number}")
    answer = answer_of(witness, "/sends_events?name=events")
    assert answer.partition(b"\r\n\r\n")[2] == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"


@pytest.mark.parametrize("app", ["site", "waits_for_background"])
def test_background_work_ends_before_the_script(witness: Witness, app: str) -> None:
    """A-OUT-5, A-OUT-9: and the lifespan's shutdown comes after it."""
    witness.set_event("work")
    answer = answer_of(witness, "/works_in_background?name=work", app=app)
    assert answer.endswith(b"\r\n\r\naccepted")
    assert noted(witness) == ["startup", "first request", "work done", "shutdown"]
