"""The benchmarks run, and refuse wrong answers; counts are too small to mean anything."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import apps, in_process_a, in_process_w
from benchmarks.contest import Contest, WrongAnswerError, rotations
from benchmarks.measuring import Cost, ratio_of
from benchmarks.peers import Bridge
from benchmarks.results import Row
from benchmarks.settings import SMOKE

ROOT = Path(__file__).resolve().parent.parent
RUN_SECONDS = 120
LOOPS = {"asyncio", "uvloop"}
CASES_OF_ONE_DIRECTION = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON that a run wrote, and what it printed."""
    written = tmp_path_factory.mktemp("benchmarks") / "smoke.json"
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--json", str(written)]
    command += ["--only", "in-process", "--only", "latency", "--unpinned"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert ended.returncode == 0, ended.stderr
    return json.loads(written.read_text()), ended.stdout


def part_of(run: tuple[dict[str, Any], str], name: str) -> dict[str, Any]:
    return next(part for part in run[0]["parts"] if part["part"] == name)


def test_the_json_says_when_where_and_with_what(run: tuple[dict[str, Any], str]) -> None:
    report = run[0]
    assert report["format"] == 1
    assert report["command"][:4] == ["python", "-m", "benchmarks", "--smoke"]
    assert report["date"].endswith("+00:00")
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["python"] == sys.version.split()[0]
    assert report["versions"]["a2wsgi"]


@pytest.mark.parametrize("name", ["in-process-w", "in-process-a"])
def test_every_case_is_measured_for_every_contender(
    run: tuple[dict[str, Any], str], name: str
) -> None:
    """None was refused: a wrong answer of ours, or of the benchmark's own floor, fails here."""
    rows = part_of(run, name)["rows"]
    assert len(rows) == CASES_OF_ONE_DIRECTION * len(LOOPS)
    assert {row["loop"] for row in rows} == LOOPS
    for row in rows:
        assert row["refused"] == {}, row
        assert set(row["contenders"]) == {"ours", "a2wsgi", "floor"}
        for metrics in row["contenders"].values():
            assert set(metrics) == {"seconds", "cpu_seconds", "switches"}
            seconds = metrics["seconds"]
            assert len(seconds["samples"]) == 2
            assert min(seconds["samples"]) > 0
            low, high = sorted(seconds["samples"])
            assert low <= seconds["median"] <= high
            median, lower, upper = seconds["ours_is_better_by"]
            assert 0 < lower <= median <= upper


def test_latency_is_measured_in_both_directions(run: tuple[dict[str, Any], str]) -> None:
    rows = part_of(run, "latency")["rows"]
    assert [row["case"] for row in rows] == ["WSGI app", "WSGI app", "ASGI app", "ASGI app"]
    for row in rows:
        assert row["refused"] == {}, row
        for metrics in row["contenders"].values():
            assert set(metrics) == {"median_seconds", "p95_seconds"}


def test_a_table_a_part_is_printed(run: tuple[dict[str, Any], str]) -> None:
    report, printed = run
    for part in report["parts"]:
        assert f"## {part['part']}: {part['title']}" in printed
    assert "ours / floor" in printed
    assert "a2wsgi / ours" in printed


START: dict[str, Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"14")],
}
BODY: dict[str, Any] = {"type": "http.response.body", "body": apps.HELLO}
WRONG_MESSAGES = {
    "status": [START | {"status": 500}, BODY],
    "headers": [START | {"headers": []}, BODY],
    "content": [START, BODY | {"body": b"hello, world!\n"}],
    "cut": [START, BODY | {"body": b"Hello"}],
    "no end": [START, BODY | {"more_body": True}],
    "two starts": [START, START, BODY],
    "after the end": [START, BODY, BODY],
}


@pytest.mark.parametrize("messages", WRONG_MESSAGES.values(), ids=WRONG_MESSAGES.keys())
def test_a_wrong_answer_of_a_wsgi_to_asgi_bridge_is_seen(messages: list[dict[str, Any]]) -> None:
    async def bridge(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with pytest.raises(WrongAnswerError):
        asyncio.run(in_process_w.check(apps.hello_case(), bridge, is_floor=False))


RIGHT_HEADERS = [("content-type", "text/plain"), ("content-length", "14")]
WRONG_RESPONSES: dict[str, tuple[str, list[tuple[str, str]], list[bytes]]] = {
    "status": ("500 Internal Server Error", RIGHT_HEADERS, [apps.HELLO]),
    "headers": ("200 OK", [], [apps.HELLO]),
    "content": ("200 OK", RIGHT_HEADERS, [b"hello, world!\n"]),
    "cut": ("200 OK", RIGHT_HEADERS, [b"Hello"]),
}


@pytest.mark.parametrize("response", WRONG_RESPONSES.values(), ids=WRONG_RESPONSES.keys())
def test_a_wrong_answer_of_an_asgi_to_wsgi_bridge_is_seen(response: Any) -> None:
    status, headers, blocks = response

    def bridge(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status, headers)
        return blocks

    with pytest.raises(WrongAnswerError):
        in_process_a.check(apps.hello_case(), bridge, is_floor=False)


def test_who_answers_wrong_is_named_and_not_timed() -> None:
    timed, ended = [], []

    def check(name: str, call: Callable[..., Any]) -> None:
        if name == "liar":
            raise WrongAnswerError("status 500")

    def load(call: Callable[..., Any], count: int) -> Cost:
        timed.append(call())
        return Cost(1.0, 1.0, 0.0)

    def builder(name: str) -> Callable[[], Bridge]:
        return lambda: Bridge(lambda: name, lambda: ended.append(name))

    def absent() -> Bridge:
        raise ImportError("no module named 'absent'")

    builders = {"ours": builder("ours"), "liar": builder("liar"), "absent": absent}
    row = Contest(check, load, SMOKE).hold(Row("case"), builders)
    assert set(timed) == {"ours"}
    assert set(row.samples) == {"ours"}
    assert row.refused == {
        "liar": "wrong: WrongAnswerError: status 500",
        "absent": "absent: no module named 'absent'",
    }
    assert sorted(ended) == ["liar", "ours"]


def test_the_order_rotates_and_ratios_are_of_the_same_round() -> None:
    assert list(rotations("abc", 4)) == [list("abc"), list("bca"), list("cab"), list("abc")]
    row = Row("case")
    row.samples = {
        "ours": {"seconds": [1.0, 2.0, 4.0], "requests_per_second": [30.0, 20.0, 10.0]},
        "peer": {"seconds": [2.0, 8.0, 32.0], "requests_per_second": [10.0, 10.0, 10.0]},
    }
    slower = row.advantage("peer", "seconds")
    assert slower is not None
    assert (slower.median, slower.low, slower.high) == (4.0, 3.0, 6.0)
    fewer = row.advantage("peer", "requests_per_second")
    assert fewer is not None
    assert fewer.median == 2.0
    assert ratio_of([1.0], []) is None
