"""Autobahn's cases of RFC 6455 against a server that echoes, by the package kosoku.

    python -m tests.support.websocket_conformance ws://127.0.0.1:8000/echo

kosoku changes `sys.path` and `binascii` for its cases, so it runs in a process of its own, which
prints a JSON object: the verdict on the exchange and on the close of each case.
"""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.support.processes import PROJECT_ROOT

CASES = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
"""Without 9 (speed), 12 and 13 (compression)."""

CASE_COUNT = 247
PARALLEL_CASES = 8
ANSWER_SECONDS = 20.0
RUN_SECONDS = 120.0
CONFORMING = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})


@dataclass(frozen=True)
class Verdict:
    """How a server did in one case, in Autobahn's words."""

    exchange: str
    close: str

    @property
    def passed(self) -> bool:
        return {self.exchange, self.close} <= CONFORMING


def verdicts_on(url: str, *cases: str) -> dict[str, Verdict]:
    """Run the cases, by default all of CASES, against the echo at `url` (ws://...)."""
    command = [sys.executable, "-m", __name__, url, *cases]
    run = subprocess.run(
        command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=RUN_SECONDS
    )
    assert run.returncode == 0, f"exit code {run.returncode}: {run.stderr}"
    return {case: Verdict(*pair) for case, pair in json.loads(run.stdout).items()}


def failed_cases(verdicts: dict[str, Verdict]) -> set[str]:
    return {case for case, verdict in verdicts.items() if not verdict.passed}


class _PatientProtocol:
    """The connection of a case, which drops it later than the case asks.

    Most cases drop a connection whose answer takes longer than 0.5 or 1 second. On a busy machine
    that measures the machine; whoever does not answer at all still fails the case.
    """

    def __init__(self, protocol: Any) -> None:
        object.__setattr__(self, "_protocol", protocol)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._protocol, name, value)

    def killAfter(self, secs: float) -> None:  # noqa: N802  Autobahn's name
        self._protocol.killAfter(max(secs, ANSWER_SECONDS))


def _make_cases_patient() -> None:
    from kosoku._caseindex import initialize_shims

    initialize_shims()
    base: Any = importlib.import_module("case").Case
    begin = base.__init__

    def begin_with_patience(case: Any, protocol: Any) -> None:
        begin(case, _PatientProtocol(protocol))

    base.__init__ = begin_with_patience


async def _run(url: str, cases: list[str]) -> dict[str, tuple[str, str]]:
    from kosoku import FailureError, run_fuzzingclient

    try:
        results = await run_fuzzingclient(url, cases, concurrency=PARALLEL_CASES)
    except FailureError as error:  # it holds the cases that passed too
        results = error.results
    return {
        result.case_id: (result.behavior.value, result.behavior_close.value) for result in results
    }


def _main(url: str, cases: list[str]) -> None:
    _make_cases_patient()
    json.dump(asyncio.run(_run(url, cases)), sys.stdout, indent=1)
    sys.stdout.flush()
    # The threads of kosoku's own runtime may call Python while the interpreter is being taken down,
    # and the process would then be aborted, about once in fifty runs.
    os._exit(0)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:] or list(CASES))
