"""Autobahn's cases on uvicorn: a WSGI app's echo passes what a native ASGI echo passes."""

import sys
from collections.abc import Iterator

import pytest

from tests.support.processes import ServerProcess, running_server
from tests.support.websocket_conformance import CASE_COUNT, failed_cases, verdicts_on
from tests.support.websocket_echoes import MESSAGE_ECHO, NATIVE_ECHO, SOCKET_ECHO

IMPLEMENTATIONS = ["websockets", "websockets-sansio", "wsproto"]
UVICORN = (
    *(sys.executable, "-m", "uvicorn", "tests.support.websocket_echoes:bridged", "--ws", "{ws}"),
    *("--host", "{host}", "--port", "{port}", "--no-access-log", "--log-level", "critical"),
)
NATIVE_FAILURES: dict[str, set[str]] = {
    "websockets": set(),
    "websockets-sansio": {"7.1.5"},
    "wsproto": set(),
}
"""uvicorn's own: for a close frame amid fragments it answers 1002 in place of 1000."""


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(implementation: str) -> Iterator[ServerProcess]:
    with running_server([part.replace("{ws}", implementation) for part in UVICORN]) as process:
        yield process


@pytest.mark.parametrize("echo", [NATIVE_ECHO, SOCKET_ECHO, MESSAGE_ECHO])
def test_echo_passes_every_case(server: ServerProcess, implementation: str, echo: str) -> None:
    verdicts = verdicts_on(f"ws://{server.host}:{server.port}{echo}")
    assert len(verdicts) == CASE_COUNT
    assert failed_cases(verdicts) <= NATIVE_FAILURES[implementation]
