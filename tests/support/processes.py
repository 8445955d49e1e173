"""Real servers in subprocesses: a command line in, a running server out, nothing left behind.

    with running_server([sys.executable, "-m", "uvicorn", APP, "--port", "{port}"]) as server:
        http.client.HTTPConnection(server.host, server.port)

The server is ready when `running_server` gives it out, leads a session of its own (so that its
workers are found and ended with it), and is reaped on every way out of the block. What it printed
is in `server.output()`; `shown_on_failure` lets pytest show it below a failed test.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

HOST = "127.0.0.1"
PROJECT_ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 30.0
TERMINATE_SECONDS = 20.0
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 3
PORT_TAKEN_MARKS = ("address already in use", "address in use", "errno 98", "eaddrinuse")

Readiness = Callable[[str, int], bool]


class ServerStartError(Exception):
    """The server ended, or did not answer in time; the message holds what it printed."""


class ServerProcess:
    """A running server: where it listens, what it printed, and what it costs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.host = HOST
        self.port = port
        self._output = output

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def is_running(self) -> bool:
        return self.process.poll() is None

    def output_size(self) -> int:
        """Bytes printed so far: a mark for `output(since=...)`."""
        return self._output.stat().st_size

    def output(self, since: int = 0) -> str:
        """What stdout and stderr of the server and its workers held, from byte `since` on."""
        return self._output.read_bytes()[since:].decode(errors="replace")

    def pids(self) -> list[int]:
        """The server and every process of its session (its workers)."""
        return pids_of_session(self.pid)

    def rss_bytes(self) -> int:
        """Resident memory now, summed over the server and its workers."""
        return sum(_status_number(pid, "VmRSS") * 1024 for pid in self.pids())

    def peak_rss_bytes(self) -> int:
        """The highest resident memory since the start or `reset_peak_rss`, summed likewise."""
        return sum(_status_number(pid, "VmHWM") * 1024 for pid in self.pids())

    def reset_peak_rss(self) -> None:
        """Begin the peak of `peak_rss_bytes` at the memory of this moment."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def cpu_seconds(self) -> float:
        """User and system time so far, summed likewise; also of children that have ended."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] for pid in self.pids()]
        ticks = sum(int(number) for stat in stats for number in stat.split()[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def thread_count(self) -> int:
        """Operating system threads, summed over the server and its workers."""
        return sum(_status_number(pid, "Threads") for pid in self.pids())

    def terminate(self) -> None:
        """Ask the server to end (SIGTERM to its first process only, as an operator does)."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """The exit code, within `timeout` seconds, else `subprocess.TimeoutExpired`."""
        return self.process.wait(timeout)

    def end(self, timeout: float = TERMINATE_SECONDS) -> None:
        """End the server and all of its workers, by force if it does not end by itself."""
        try:
            if self.is_running():
                self.terminate()
                self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            deadline = time.monotonic() + timeout
            while (left := self.pids()) and time.monotonic() < deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.poll()
                time.sleep(POLL_SECONDS)
            self.process.wait(timeout)


@contextlib.contextmanager
def running_server(
    command: Sequence[str],
    *,
    ready: Readiness | None = None,
    ready_seconds: float = READY_SECONDS,
    env: Mapping[str, str] | None = None,
    cwd: Path = PROJECT_ROOT,
) -> Iterator[ServerProcess]:
    """Start `command` with `{host}` and `{port}` filled in; give it out once it answers.

    `env` adds to the environment of the tests. `ready` is asked until it is true; by default any
    HTTP answer to `GET /` will do (`answers_http("/path")` and `accepts_connections` are others).
    """
    with tempfile.TemporaryDirectory(prefix="wsgi_asgi_bridge-server-") as directory:
        output = Path(directory) / "output"
        server = _started(command, output, ready or answers_http("/"), ready_seconds, env, cwd)
        try:
            yield server
        except BaseException as error:
            error.add_note(f"--- output of {command[0]} ---\n{server.output()}")
            raise
        finally:
            server.end()


@contextlib.contextmanager
def shown_on_failure(server: ServerProcess) -> Iterator[ServerProcess]:
    """Write what the server printed meanwhile to stdout, which pytest shows for a failed test.

    For servers that live longer than one test: use it in a function-scoped fixture.
    """
    mark = server.output_size()
    try:
        yield server
    finally:
        sys.stdout.write(f"--- server output (running: {server.is_running()}) ---\n")
        sys.stdout.write(server.output(since=mark))


def answers_http(path: str) -> Readiness:
    """Ready when `GET path` gets an answer, whatever its status."""

    def is_ready(host: str, port: int) -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", path, headers={"connection": "close"})
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    return is_ready


def accepts_connections(host: str, port: int) -> bool:
    """Ready when the port accepts a connection: for servers that speak no HTTP/1.1 there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def pids_of_session(session: int) -> list[int]:
    """Every live process of the session that process `session` leads."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _session_of(int(entry)) == session:
            pids.append(int(entry))
    return sorted(pids)


def _started(
    command: Sequence[str],
    output: Path,
    ready: Readiness,
    ready_seconds: float,
    env: Mapping[str, str] | None,
    cwd: Path,
) -> ServerProcess:
    """A server that answers. A port that someone else took in between is tried anew."""
    for attempt in range(1, PORT_ATTEMPTS + 1):
        server = _spawned(command, free_port(), output, env, cwd)
        try:
            _wait_until_ready(server, ready, ready_seconds)
        except BaseException as error:
            server.end()
            printed = server.output()
            was_taken = any(mark in printed.lower() for mark in PORT_TAKEN_MARKS)
            if isinstance(error, ServerStartError) and was_taken and attempt < PORT_ATTEMPTS:
                continue
            raise
        return server
    raise AssertionError("unreachable")


def _spawned(
    command: Sequence[str],
    port: int,
    output: Path,
    env: Mapping[str, str] | None,
    cwd: Path,
) -> ServerProcess:
    filled = [part.replace("{host}", HOST).replace("{port}", str(port)) for part in command]
    with output.open("wb") as sink:
        process = subprocess.Popen(
            filled,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**_environment(), **(env or {})},
            start_new_session=True,
        )
    return ServerProcess(process, port, output)


def _environment() -> dict[str, str]:
    """The tests' environment, with the project importable and prints unbuffered."""
    paths = [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


def _wait_until_ready(server: ServerProcess, ready: Readiness, ready_seconds: float) -> None:
    deadline = time.monotonic() + ready_seconds
    while not ready(server.host, server.port):
        if not server.is_running():
            code = server.process.returncode
            raise ServerStartError(f"ended with code {code}; it printed:\n{server.output()}")
        if time.monotonic() > deadline:
            raise ServerStartError(
                f"no answer in {ready_seconds} s; it printed:\n{server.output()}"
            )
        time.sleep(POLL_SECONDS)
    if not server.is_running():
        raise ServerStartError(f"someone else answered on its port; it printed:\n{server.output()}")


def _session_of(pid: int) -> int | None:
    """The session of a live process; None for one that is gone or waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name is in parentheses and may hold spaces and parentheses itself.
    state, _parent, _group, session, *_ = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(session)


def _status_number(pid: int, field: str) -> int:
    """A number of /proc/<pid>/status, 0 for a process that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    return 0
