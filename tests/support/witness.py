"""What a server's processes and a test tell each other outside HTTP: notes and gates.

A server that handles one request at a time cannot be asked anything while it streams, so the apps
write down what happens to them, and wait at gates that the test opens. Both are plain files in the
directory that `DIRECTORY_VARIABLE` names: they work across forks, and in any server.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

DIRECTORY_VARIABLE = "ASGI_WITNESS_DIRECTORY"
POLL_SECONDS = 0.01


class Witness:
    """The notes and gates of one server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._notes = directory / "notes"

    @property
    def environment(self) -> dict[str, str]:
        """What the server's environment must hold for its apps to find this witness."""
        return {DIRECTORY_VARIABLE: str(self.directory)}

    # Both sides

    def note(self, what: str) -> None:
        """Write down that `what` happened in this process; one write, so lines never mix."""
        line = f"{what} {os.getpid()}\n".encode()
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def is_gate_open(self, name: str) -> bool:
        return self._gate(name).exists()

    # The test's side

    def forget(self) -> None:
        """Remove all notes and close all gates, for the next test of the same server."""
        for file in self.directory.iterdir():
            file.unlink()

    def set_event(self, name: str) -> None:
        """Let everyone through who waits at this gate, or comes to it later."""
        self._gate(name).touch()

    def notes(self) -> list[tuple[str, int]]:
        """What happened, in order, each with the id of the process that it happened in."""
        if not self._notes.exists():
            return []
        lines = (line.rpartition(" ") for line in self._notes.read_text().splitlines())
        return [(what, int(pid)) for what, _, pid in lines]

    def is_noted(self, what: str) -> bool:
        return any(noted == what for noted, _ in self.notes())

    def wait_for(self, what: str, seconds: float) -> None:
        """Wait until `what` is noted; fail with all notes when it is not within `seconds`."""
        if not became_true(lambda: self.is_noted(what), seconds):
            raise AssertionError(f"{what!r} not noted within {seconds} s; noted: {self.notes()}")

    def _gate(self, name: str) -> Path:
        return self.directory / f"gate-{name}"


def became_true(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` held at some moment of the next `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def witness_of_this_process() -> Witness:
    """The witness that the test named in the environment of this server."""
    return Witness(Path(os.environ[DIRECTORY_VARIABLE]))
