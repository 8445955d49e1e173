"""The benchmarks run and refuse wrong answers; docs/benchmarks.md shows the kept results."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks import echoes, in_process, plot, pythons, results, scale, stress
from benchmarks.contest import Turn, WrongAnswerError, compete, end_in_time, one_after_the_other
from benchmarks.peers import Bridge
from benchmarks.results import Figure, Part, Row, figures_of
from benchmarks.settings import FULL, peers_named
from benchmarks.tables import markdown
from tests.support.async_http import head
from tests.support.processes import PROJECT_ROOT

PEERS = {"ours", "floor", "a2wsgi"}
RUN_SECONDS = 240
HELLO = in_process.cases()[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Part], str]:
    """What a quick run wrote and printed."""
    written = tmp_path_factory.mktemp("benchmarks") / "quick.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "in-process"]
    command += ["--rounds", "1", "--peers", ",".join(PEERS), "--json", str(written)]
    limits: dict[str, Any] = {"timeout": RUN_SECONDS, "cwd": PROJECT_ROOT}
    ended = subprocess.run(command, capture_output=True, text=True, **limits)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return results.read(written), ended.stdout


def test_every_case_is_measured_for_every_contender(run: tuple[list[Part], str]) -> None:
    """None was refused: a wrong answer of ours, or of the benchmark's own floor, fails here."""
    parts, printed = run
    assert [part.name for part in parts] == ["in-process-w", "in-process-a"]
    for part in parts:
        assert len(part.rows) == 7 * 2
        assert {row.loop for row in part.rows} == {"asyncio", "uvloop"}
        for row in part.rows:
            assert row.refused == {}
            assert set(row.figures) == PEERS
            for figures in row.figures.values():
                assert figures["seconds"].median > 0
                assert figures["seconds"].of_ours or 0 > 0
        assert markdown(part) in printed


def test_a_part_says_when_with_what_and_by_which_command(run: tuple[list[Part], str]) -> None:
    part = run[0][0]
    assert part.date.endswith("+00:00")
    assert part.command.startswith("python -m benchmarks --quick --only in-process")
    assert "a2wsgi 1." in part.environment
    assert f"{os.cpu_count()} cores" in part.environment


@contextmanager
def contender(turn: Callable[[], dict[str, float]]) -> Iterator[Turn]:
    yield turn


@contextmanager
def cannot_be_built() -> Iterator[Turn]:
    raise ModuleNotFoundError("no module named 'absent'")
    yield


def test_contenders_take_turns_and_who_fails_is_named() -> None:
    order = []

    def turn(name: str) -> Callable[[], dict[str, float]]:
        def measured() -> dict[str, float]:
            order.append(name)
            if name == "tired" and order.count(name) == 2:
                raise WrongAnswerError("status 503")
            return {"seconds": 1.0}

        return measured

    rivals = {name: contender(turn(name)) for name in ("ours", "tired")}
    row = compete("case", None, None, {**rivals, "absent": cannot_be_built()}, 3)
    assert order == ["tired", "ours", "ours", "tired", "ours"]
    assert set(row.figures) == {"ours"}
    assert row.refused == {
        "tired": "WrongAnswerError: status 503",
        "absent": "ModuleNotFoundError: no module named 'absent'",
    }


def test_contenders_that_disturb_each_other_come_one_after_other() -> None:
    there: list[str] = []

    @contextmanager
    def alone(name: str) -> Iterator[Turn]:
        there.append(name)
        yield lambda: {"answered": float(len(there))}
        there.remove(name)

    rivals = {"ours": alone("ours"), "peer": alone("peer"), "absent": cannot_be_built()}
    row = one_after_the_other("case", None, rivals)
    assert [row.figures[name]["answered"].median for name in ("ours", "peer")] == [1.0, 1.0]
    assert set(row.refused) == {"absent"}


def test_a_bridge_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ended = Event(), Event()
    monkeypatch.setattr("benchmarks.contest.END_SECONDS", 0.01)
    end_in_time(Bridge(lambda: None, lambda: gate.wait(10.0) and ended.set()))
    assert not ended.is_set()
    gate.set()
    assert ended.wait(10.0)


START: dict[str, Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"14")],
}
BODY: dict[str, Any] = {"type": "http.response.body", "body": HELLO.answer}
WRONG_MESSAGES = {
    "status": [START | {"status": 500}, BODY],
    "headers": [START | {"headers": []}, BODY],
    "content": [START, BODY | {"body": b"hello, world!\n"}],
    "cut": [START, BODY | {"body": b"Hello"}],
    "no end": [START, BODY | {"more_body": True}],
    "two starts": [START, START, BODY],
    "after the end": [START, BODY, BODY],
}


@pytest.mark.parametrize("messages", WRONG_MESSAGES.values(), ids=WRONG_MESSAGES)
def test_a_wrong_answer_of_a_wsgi_to_asgi_bridge_is_seen(messages: list[dict[str, Any]]) -> None:
    async def bridge(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with asyncio.Runner() as runner:
        caller = in_process.CallingThread("w", bridge, runner)
        with pytest.raises(WrongAnswerError):
            in_process.check(caller, HELLO)


RIGHT_HEADERS = [("content-type", "text/plain"), ("content-length", "14")]
WRONG_RESPONSES: list[tuple[str, list[tuple[str, str]], list[bytes]]] = [
    ("500 Internal Server Error", RIGHT_HEADERS, [HELLO.answer]),
    ("200 OK", [], [HELLO.answer]),
    ("200 OK", RIGHT_HEADERS, [b"hello, world!\n"]),
    ("200 OK", RIGHT_HEADERS, [b"Hello"]),
]


@pytest.mark.parametrize("response", WRONG_RESPONSES, ids=["status", "headers", "content", "cut"])
def test_a_wrong_answer_of_an_asgi_to_wsgi_bridge_is_seen(response: Any) -> None:
    def bridge(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
        start_response(*response[:2])
        return response[2]  # type: ignore[no-any-return]

    with asyncio.Runner() as runner, pytest.raises(WrongAnswerError):
        in_process.check(in_process.CallingThread("a", bridge, runner), HELLO)


def test_ratios_are_of_the_same_round_and_medians_of_all() -> None:
    samples = {"ours": {"seconds": [1.0, 2.0, 4.0]}, "peer": {"seconds": [2.0, 8.0, 32.0]}}
    figures = figures_of({**samples, "liar": {"seconds": [0.1]}}, {"liar": "status 500"})
    assert set(figures) == {"ours", "peer"}
    assert figures["ours"]["seconds"][:2] == (2.0, 1.0)
    assert figures["peer"]["seconds"][:2] == (8.0, 4.0)


def test_parts_are_read_as_written_and_newer_ones_replace_older(tmp_path: Path) -> None:
    row = Row(
        "hello", "asyncio", 1, {"ours": {"seconds": Figure(1e-05, 1.0, 0.1)}}, {"x": "[1,\n2]"}
    )
    older, newer = Part("wire-w", "a title", [row]), Part("wire-w", "another", [])
    results.write(tmp_path / "kept.json", [older, Part("wire-a", "a title", [row, row])])
    assert results.read(tmp_path / "kept.json")[0] == older
    results.write(tmp_path / "kept.json", [newer])
    assert [part.title for part in results.read(tmp_path / "kept.json")] == ["a title", "another"]


def test_contenders_are_named_whole_or_by_their_first_word() -> None:
    every = dict.fromkeys(["ours", "a2wsgi", "native gthread"])
    some = FULL.__class__(peers=peers_named("ours, native"))
    assert set(some.chosen(every)) == {"ours", "native gthread"}
    assert set(FULL.__class__(peers=peers_named("all")).chosen(every)) == set(every)
    with pytest.raises(ValueError, match="nobody: not among"):
        peers_named("ours,nobody")
    assert set(command_line.STEPS) <= {path.stem for path in Path(plot.__file__).parent.iterdir()}


def test_the_page_shows_what_the_kept_results_say() -> None:
    """After a change of the results or of the table: python -m benchmarks.plot."""
    parts, text = results.read(results.KEPT), plot.PAGE.read_text("utf-8")
    assert plot.with_block(text, plot.block(parts)) == text
    assert parts[0].date in plot.PICTURE.read_text("utf-8")
    with pytest.raises(ValueError, match="0 places"):
        plot.with_block("no marks", "")


@contextmanager
def echo_server(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Opens WebSockets and answers to small frames. Gives its port."""

    def serve(client: socket.socket) -> None:
        with client:
            client.recv(4096)
            client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            while (frame := client.recv(4096)) and (echo := answer(frame)):
                client.sendall(echo)

    def accept() -> None:
        with suppress(OSError):  # shut down
            while True:
                threads.submit(serve, listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(4) as threads:
        threads.submit(accept)
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("size", [16, 125, 126, 2000])
def test_echoes_are_counted(size: int) -> None:
    message, echo = echoes.frames(size)
    with echo_server({message: echo}.__getitem__) as port, echoes.clients(port, 2, size) as both:
        figures = echoes.round_trips(both, size, 0.05)
    assert figures["trips"] >= 2
    assert figures["trips_per_second"] >= figures["trips"]


@pytest.mark.parametrize("answer", [b"\x82\x10" + bytes(16), b"\x88\x10" + echoes.BLOCK[:16], b""])
def test_a_wrong_echo_is_seen(answer: bytes) -> None:
    with (
        echo_server(lambda _: answer) as port,
        pytest.raises(WrongAnswerError),
        echoes.clients(port, 1, 16),
    ):
        pass


def test_what_a_worker_holds_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and uvicorn: all are there, get the tick, and are closed in good order."""
    monkeypatch.setattr(scale, "COUNT", 10)
    part = scale.measure("a", FULL, lambda _: None)
    assert [row.case for row in part.rows] == [f"10 {case}" for case in scale.CASES]
    for row, count in zip(part.rows, (10, 10, 20), strict=True):
        assert row.refused == {}
        assert set(row.figures) == set(scale.COMMANDS)
        assert [figures["closed"].median for figures in row.figures.values()] == [count] * 2


def test_the_benchmarks_stay_small() -> None:
    files = Path(plot.__file__).parent.glob("*.py")
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 2300


def received(call: stress.Call, answer: bytes) -> int:
    async def read() -> int:
        reader = asyncio.StreamReader()
        reader.feed_data(answer)
        reader.feed_eof()
        return await stress.receive("stays", call, reader, asyncio.Event())

    return asyncio.run(read())


def test_the_stress_compares_each_byte() -> None:
    call, whole = (
        stress.Call(head("GET", "/"), b"right"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    )
    assert received(call, b"HTTP/1.1 100 Continue\r\n\r\n" + whole + b"right") == 5
    for wrong in (whole + b"wrong", whole.replace(b": 5", b": 0"), whole.replace(b"200", b"500")):
        with pytest.raises(WrongAnswerError):
            received(call, wrong)
    with pytest.raises(stress.CutError):
        received(call, whole + b"rig")
    with pytest.raises(WrongAnswerError, match="looks whole"):
        received(stress.Call(head("GET", "/"), None), whole + b"right")


def test_the_stress_finds_what_is_left_and_what_is_not_counted() -> None:
    stats = {"in_flight": 0, "completed": 3, "failed": 1}
    before = {"here": {"tasks": 3, "descriptors": 9}, "stats": stats, "begun": 4}
    assert stress.leftovers(before, {**before, "here": dict(before["here"])}) == []
    after = {"here": {"tasks": 4, "descriptors": 9}, "stats": {**stats, "busy": 2}, "begun": 5}
    left = stress.leftovers(before, after)
    assert left[:2] == ["left: tasks: 3 -> 4", "left: busy: 0 -> 2"]
    assert left[2].startswith("counters: 5 requests")
    logs = stress.unexpected_logs(
        "ValueError: at 0x1f\nDeliberateError\nINFO: 5\n", ("Deliberate",)
    )
    assert logs == {"log: ValueError: at N": 1}


def test_the_view_for_several_pythons_works() -> None:
    """benchmarks/pythons.py: what a free-threaded Python is compared by."""
    client = pythons.flask_app.test_client()
    assert client.get("/work").data == b"%d" % sum(range(pythons.WORK))
    assert client.get("/hello").data == b"hello"
