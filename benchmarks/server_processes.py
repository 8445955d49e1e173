"""Servers in processes of their own: started on loopback, awaited, measured, and always ended."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .machine import ROOT

HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 5.0
LAST_BYTES = 4096

Command = Callable[[int], list[str]]  # what starts a server on that port


class StartupError(Exception):
    """The server's process ended, or nobody listened in time."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


# Commands: the app is "benchmarks.module:attribute"


def uvicorn_command(app: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", app, "--host", HOST, "--port", str(port)]
    return [*command, "--no-access-log", "--log-level", "warning"]


def gunicorn_command(app: str, port: int, *worker: str) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", app, "--bind", f"{HOST}:{port}", "--workers", "1"]
    return [*command, "--log-level", "warning", *worker]


def gthread_command(app: str, port: int, threads: int) -> list[str]:
    return gunicorn_command(app, port, "--worker-class", "gthread", "--threads", str(threads))


def gunicorn_asgi_command(app: str, port: int) -> list[str]:
    return gunicorn_command(app, port, "--worker-class", "asgi")


def granian_command(app: str, port: int, threads: int) -> list[str]:
    command = [sys.executable, "-m", "granian", app, "--host", HOST, "--port", str(port)]
    command += ["--interface", "wsgi", "--workers", "1", "--blocking-threads", str(threads)]
    return [*command, "--no-access-log", "--log-level", "warning"]


class ServerProcess:
    """One server and its children on a port of its own; `with` it, StartupError if it cannot."""

    def __init__(self, command: Command) -> None:
        self.port = free_port()
        self.command = command(self.port)

    def __enter__(self) -> "ServerProcess":
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # so that its children end with it
        )
        try:
            self._await_listening()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _await_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartupError(self.last_words() or f"exit code {self.process.returncode}")
            try:
                socket.create_connection((HOST, self.port), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise StartupError(f"nobody listened within {START_SECONDS:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of what the server printed."""
        # By its position: the server writes through the same open file and would move with a seek.
        tail = os.pread(self.log.fileno(), LAST_BYTES, max(0, self._log_length() - LAST_BYTES))
        lines = tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _log_length(self) -> int:
        return os.fstat(self.log.fileno()).st_size

    def said(self, error: Exception) -> str:
        """What went wrong, as we saw it and as the server did."""
        return f"{type(error).__name__}: {error}; the server's last words: {self.last_words()!r}"

    def _stop(self) -> None:
        try:
            if self.process.poll() is None:
                self.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_SECONDS)
            self._kill_session()
            self.process.wait(STOP_SECONDS)
        finally:
            self.log.close()

    def _kill_session(self) -> None:
        """What is left of the server's own session, if anything is."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    # ------------------------------------------------------------ what it costs

    def cpu_seconds(self) -> float | None:
        """User and system time of the process and its children; None where there is no /proc."""
        return cpu_seconds_of(family(self.process.pid))

    def resident_bytes(self) -> int:
        """Resident memory, the children's included."""
        return sum(status_of(pid).get("VmRSS", 0) for pid in family(self.process.pid))

    def peak_resident_bytes(self) -> int:
        """The highest resident memory since `forget_peak`, of each process, added up."""
        return sum(status_of(pid).get("VmHWM", 0) for pid in family(self.process.pid))

    def forget_peak(self) -> None:
        for pid in family(self.process.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def threads(self) -> int:
        return sum(status_of(pid).get("Threads", 0) for pid in family(self.process.pid))

    def open_files(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in family(self.process.pid))


# /proc


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        fields = stat_fields(entry)
        if fields:
            parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def stat_fields(path: Path) -> list[str]:
    """The fields after the name (state, parent, ...); none for a process that has just gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds_of(pids: list[int]) -> float | None:
    ticks = 0
    for pid in pids:
        fields = stat_fields(Path(f"/proc/{pid}/stat"))
        if not fields:
            continue
        ticks += sum(int(field) for field in fields[11:15])  # its own and its reaped children's
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def status_of(pid: int) -> dict[str, int]:
    """The numbers of /proc/PID/status, those in kB as bytes."""
    numbers: dict[str, int] = {}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return numbers
    for line in lines:
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            numbers[name] = int(words[0]) * 1024
        elif len(words) == 1 and words[0].isdigit():
            numbers[name] = int(words[0])
    return numbers
