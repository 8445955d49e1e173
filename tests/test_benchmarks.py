"""The benchmarks run, and refuse wrong answers; counts are too small to mean anything."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest

from benchmarks import apps, contest, hostile, in_process_a, in_process_w, memory, on_the_wire
from benchmarks.contest import Contest, WrongAnswerError, rotations
from benchmarks.floor_on_the_wire import asgi_floor
from benchmarks.measuring import Cost, ratio_of
from benchmarks.peers import Bridge, contender_names
from benchmarks.results import Row
from benchmarks.server_processes import ServerProcess
from benchmarks.settings import SMOKE, contenders_named
from benchmarks.stress_servers import Samples, measure_server, stress_servers

ROOT = Path(__file__).resolve().parent.parent
RUN_SECONDS = 120
LOOPS = {"asyncio", "uvloop"}
CASES = {"in-process-w": 7, "in-process-a": 7}


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
    assert len(rows) == CASES[name] * len(LOOPS)
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


OURS_ALONE = replace(SMOKE, only_contenders=frozenset({"ours"}), client="own", answer_seconds=10.0)


def test_real_servers_are_loaded_by_the_own_client() -> None:
    told: list[str] = []
    with_the_floor = replace(OURS_ALONE, only_contenders=frozenset({"ours", "floor"}))
    part = on_the_wire.measure_w(with_the_floor, told.append)
    assert [row.case for row in part.rows] == [
        "uvicorn + Flask hello",
        "uvicorn + Flask, view sleeps 5 ms",
    ]
    for row in part.rows:
        assert row.refused == {}
        assert set(row.samples) == {"ours", "floor"}
        for samples in row.samples.values():
            assert samples["requests_per_second"][0] > 0
            assert samples["cpu_seconds"][0] >= 0
    assert told[0] == "starting ours for uvicorn + Flask hello"


def test_the_floor_hands_an_asgi_app_over() -> None:
    floor, answer = asgi_floor(apps.asgi_hello), in_process_a.Answer()
    assert floor.call({"PATH_INFO": "/"}, answer.start_response) == [apps.HELLO]
    floor.end()
    assert answer.status == "200 OK"
    assert ("Content-Length", str(len(apps.HELLO))) in answer.headers


def test_ordinary_requests_are_timed_while_clients_misbehave() -> None:
    row = Row("attacked")
    (command,) = stress_servers("wsgi", OURS_ALONE).values()
    attack = hostile.ATTACKS["50 slow uploads of 32 KiB"]
    measure = partial(hostile.attack_server, attack=attack, settings=OURS_ALONE)
    measure_server(row, "ours", command, measure)
    assert row.refused == {}
    samples = row.samples["ours"]
    assert samples["answered"] == [1.0]
    assert len(samples["attacked_seconds"]) == OURS_ALONE.hostile_requests
    assert {"tasks_left", "threads_left", "open_files_left", "cpu_afterwards"} < set(samples)


def test_a_large_body_and_what_is_left_are_weighed() -> None:
    row = Row("weighed")
    (command,) = stress_servers("asgi", OURS_ALONE).values()
    every = memory.measures(OURS_ALONE)
    cases = ["upload 1 MiB, slow client", "2 dropped streams"]

    def measure(server: ServerProcess) -> Samples:
        return every[cases[0]](server) | every[cases[1]](server)

    measure_server(row, "ours", command, measure)
    assert row.refused == {}
    assert {"growth_bytes", "seconds", "tasks_left"} < set(row.samples["ours"])


def test_a_server_that_does_not_start_is_named_with_its_last_words() -> None:
    row = Row("never")
    words = [sys.executable, "-c", "raise SystemExit('no such app')"]
    measure_server(row, "broken", lambda port: words, lambda server: {})
    assert row.refused == {"broken": "did not start: no such app"}
    assert row.samples == {}


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


def test_who_fails_under_load_is_named_and_the_others_go_on() -> None:
    turns_of: dict[str, int] = {"ours": 0, "tired": 0}

    def load(call: Callable[..., Any], count: int) -> Cost:
        name = call()
        turns_of[name] += 1
        if name == "tired" and turns_of[name] == 2:
            raise WrongAnswerError("status 503")
        return Cost(1.0, 1.0, 0.0)

    builders = {name: partial(Bridge, partial(str, name), lambda: None) for name in turns_of}
    row = Contest(lambda name, call: None, load, replace(SMOKE, rounds=5)).hold(
        Row("case"), builders
    )
    assert turns_of == {"ours": 6, "tired": 2}  # ours: the warm-up and five rounds
    assert set(row.samples) == {"ours"}
    assert row.refused == {"tired": "wrong under load: WrongAnswerError: status 503"}
    assert row.failed == ["tired"]


def test_a_wsgi_to_asgi_bridge_that_hangs_is_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(in_process_w, "CHECK_SECONDS", 0.05)
    with pytest.raises(WrongAnswerError, match=r"no end within 0\.05 s"):
        asyncio.run(in_process_w.check(apps.hello_case(), hangs, is_floor=False))


def test_a_timeout_of_the_bridge_is_told_from_ours() -> None:
    async def times_out(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("of the bridge")

    with pytest.raises(TimeoutError, match="of the bridge"):
        asyncio.run(in_process_w.check(apps.hello_case(), times_out, is_floor=False))


def test_an_asgi_to_wsgi_bridge_that_hangs_is_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Event()

    def hangs(app: Any, new_loop: Any) -> Bridge:
        return Bridge(lambda *_: gate.wait(), lambda: None)

    monkeypatch.setattr(in_process_a, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(in_process_a, "ASGI_TO_WSGI", {"hangs": hangs})
    only = replace(SMOKE, only_contenders=frozenset({"hangs"}))
    try:
        row = in_process_a.compete(apps.hello_case(), 1, "any", asyncio.new_event_loop, only)
    finally:
        gate.set()
    assert row.refused == {"hangs": "wrong: WrongAnswerError: no end within 0.05 s"}


def test_a_bridge_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ended = Event(), Event()

    def end() -> None:
        gate.wait()
        ended.set()

    monkeypatch.setattr(contest, "END_SECONDS", 0.05)
    rescue = Timer(10.0, gate.set)  # whoever waits for the end fails below instead of hanging
    rescue.start()
    contest.end_in_time(Bridge(lambda: None, end))
    rescue.cancel()
    rescue.join()
    assert not ended.is_set()
    gate.set()
    assert ended.wait(10.0)


def test_a_server_that_answers_wrong_is_named_and_gets_no_load() -> None:
    class Wrong(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Not on the test's output."""

    row = Row("hello")
    with HTTPServer(("127.0.0.1", 0), Wrong) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            process = ServerProcess(lambda port: ["no", "command"])
            process.port = server.server_port
            process.said = str  # type: ignore[assignment, method-assign]
            load = on_the_wire.Load("hello", "/hello", 1, b"Hello")
            on_the_wire.measure_load(row, load, {"liar": process}, SMOKE, lambda what: None)
        finally:
            server.shutdown()
            thread.join()
    assert row.refused == {"liar": "wrong: 503 b''"}
    assert row.samples == {}


def test_contenders_are_asked_for_by_name_or_by_the_first_word_of_it() -> None:
    some = replace(SMOKE, only_contenders=contenders_named("ours, native"))
    assert some.takes("ours")
    assert some.takes("native gthread")
    assert not some.takes("a2wsgi")
    every = replace(SMOKE, only_contenders=contenders_named("all"))
    assert all(every.takes(name) for name in contender_names())
    with pytest.raises(ValueError, match="nobody: not among"):
        contenders_named("ours,nobody")


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
