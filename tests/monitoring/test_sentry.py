"""Sentry through one bridge and through both: an error of the innermost app is reported once, with
its request, whichever of the layers have Sentry around them.

Sentry knows an error again by a context variable that it sets where it reports one. So these tests
stand on what the bridges do with contexts in both directions: W-CALL-2, A-LOOP-3.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.monitoring.clients import SITE
from tests.monitoring.sentry_process import (
    MANY_UNDER_ASGI,
    MANY_UNDER_WSGI,
    TOGETHER,
    UNDER_ASGI,
    UNDER_WSGI,
)
from tests.support.processes import PROJECT_ROOT, answers_http, running_server
from tests.support.raw_http import Connection, CutResponseError
from tests.support.wsgi_servers import by_name

MARK = "reported: "
"""What sentry_site.py prints before each report; importing it would set Sentry up here."""
PROCESS_SECONDS = 300.0
REPORT_SECONDS = 10.0


@pytest.fixture(scope="module")
def reported() -> dict[str, Any]:
    """What Sentry would have been sent, for each arrangement of apps."""
    done = subprocess.run(
        # It imports eventlet, which warns of itself.
        [
            *(sys.executable, "-W", "error", "-W", "ignore:::sentry_sdk.utils"),
            *("-m", "tests.monitoring.sentry_process"),
        ],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arrangement", [*UNDER_ASGI, *UNDER_WSGI])
def test_an_error_is_reported_once_with_its_request(
    reported: dict[str, Any], arrangement: str
) -> None:
    """W-CALL-2, W-CALL-3, A-LOOP-3, A-OUT-4: the very exception travels, and what Sentry noted
    about it travels along."""
    _, path = {**UNDER_ASGI, **UNDER_WSGI}[arrangement]
    (report,) = reported["one each"][arrangement]
    assert report["exception"] == "LookupError"
    assert (report["method"], report["url"], report["query"]) == ("GET", f"{SITE}{path}", "q=1")


@pytest.mark.parametrize("arrangement", [*MANY_UNDER_ASGI, *MANY_UNDER_WSGI])
def test_what_one_request_says_of_itself_is_in_no_other_s_report(
    reported: dict[str, Any], arrangement: str
) -> None:
    """W-CALL-2, A-LOOP-3: sixteen requests meet in the app after each has set tags of its own."""
    reports = reported["many"][arrangement]
    assert len(reports) == TOGETHER
    numbers = {report["url"].rsplit("/", 1)[1] for report in reports}
    assert numbers == {str(number) for number in range(TOGETHER)}
    for report in reports:
        number = report["url"].rsplit("/", 1)[1]
        assert report["tags"] == {"number": number, f"only {number}": "yes"}


def test_a_client_that_leaves_need_not_be_reported(reported: dict[str, Any]) -> None:
    """A-IN-3: what docs/monitoring.md says of `ignore_errors`."""
    assert reported["left by the client"] == {"raised": "ClientDisconnected", "reports": []}


# Sentry reports what is logged as an error, and servers log what travels to them.


def test_an_error_that_uvicorn_logs_as_well_is_reported_once(reported: dict[str, Any]) -> None:
    """W-CALL-2, W-CALL-3."""
    (report,) = reported["on uvicorn"]
    assert report["exception"] == "LookupError"
    assert report["url"].endswith("/stream")


@pytest.mark.parametrize(
    ("site", "paths"),
    [
        ("one_bridge", ["/stream", "/stream", "/error"]),
        ("both_bridges", ["/old/stream", "/stream", "/old/error"]),
    ],
)
def test_an_error_that_gunicorn_logs_as_well_is_reported_once(site: str, paths: list[str]) -> None:
    """A-LOOP-3, A-OUT-4: on the one thread of a sync worker, where one request follows the other in
    one context; the last of them shows that nothing came after the others.
    """
    command = by_name("gunicorn-sync").command_for(f"tests.monitoring.sentry_site:{site}")
    with running_server(command, ready=answers_http("/docs")) as server:
        statuses: list[int] = []
        for path in paths:
            with Connection(server.address) as client:
                client.send_head("GET", path)
                statuses.append(client.read_head().status)
                with contextlib.suppress(CutResponseError, ConnectionError):
                    while client.read_body():
                        pass
        last = f'{paths[-1]}"'
        deadline = time.monotonic() + REPORT_SECONDS
        while last not in server.output():
            assert time.monotonic() < deadline, "the last error was not reported"
            time.sleep(0.01)
        reports = [
            json.loads(line.removeprefix(MARK))
            for line in server.output().splitlines()
            if line.startswith(MARK)
        ]
    assert statuses == [200, 200, 500]
    assert [report["exception"] for report in reports] == ["LookupError"] * 3
    assert [report["url"] for report in reports] == [f"{server.url}{path}" for path in paths]
