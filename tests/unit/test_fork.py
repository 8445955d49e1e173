"""fork.py: what a forked child must forget."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from wsgi_asgi_bridge._crossing import fork

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT_SECONDS = 60.0


class Counter:
    """Counts how often it was told of a fork."""

    def __init__(self) -> None:
        self.resets = 0

    def reset_after_fork(self) -> None:
        self.resets += 1


@pytest.fixture
def registrations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What is registered with the interpreter from here on, as if nobody had asked before."""
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(fork, "_registered", False)
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: calls.append(hooks), raising=False)
    return calls


def test_interpreter_is_asked_once_and_by_the_first_object_only(
    registrations: list[dict[str, object]],
) -> None:
    """A-CALL-2: `os.register_at_fork` cannot be undone."""
    kept = [Counter() for _ in range(3)]
    for counter in kept:
        fork.reset_in_child(counter)
    assert registrations == [{"after_in_child": fork._reset_all}]


def test_every_object_that_is_alive_is_reset(registrations: list[dict[str, object]]) -> None:
    """A-CALL-2."""
    kept = [Counter() for _ in range(3)]
    for counter in kept:
        fork.reset_in_child(counter)
    fork._reset_all()
    assert [counter.resets for counter in kept] == [1, 1, 1]


def test_an_object_that_registers_twice_is_reset_once(
    registrations: list[dict[str, object]],
) -> None:
    counter = Counter()
    fork.reset_in_child(counter)
    fork.reset_in_child(counter)
    fork._reset_all()
    assert counter.resets == 1


def test_objects_are_not_kept_alive(registrations: list[dict[str, object]]) -> None:
    counter = Counter()
    kept = weakref.ref(counter)
    fork.reset_in_child(counter)
    del counter
    gc.collect()
    assert kept() is None


def test_a_lock_that_the_parent_held_does_not_block_the_child(
    registrations: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-CALL-2: another thread of the parent was registering at the moment of the fork."""
    held = fork.Lock()
    held.acquire()
    monkeypatch.setattr(fork, "_lock", held)
    fork._reset_all()
    assert fork._lock is not held
    assert not fork._lock.locked()


def test_without_forks_in_this_system_nothing_is_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fork, "_registered", False)
    monkeypatch.delattr(os, "register_at_fork")
    fork.reset_in_child(Counter())
    assert fork._registered is False


FORKING_SCRIPT = """
import os
from wsgi_asgi_bridge._crossing.fork import reset_in_child

class Counter:
    resets = 0
    def reset_after_fork(self):
        self.resets += 1

first, second = Counter(), Counter()
reset_in_child(first)
reset_in_child(second)
child = os.fork()
if not child:
    grandchild = os.fork()
    if not grandchild:
        os._exit(first.resets * 10 + second.resets)
    _, status = os.waitpid(grandchild, 0)
    os._exit(os.waitstatus_to_exitcode(status) + 100 * first.resets)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), first.resets)
"""


def test_a_child_and_its_child_are_reset_and_the_parent_is_not() -> None:
    """A-CALL-2."""
    ran = subprocess.run(
        [sys.executable, "-c", FORKING_SCRIPT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert ran.stderr == ""
    # In the child each was told once; in the grandchild twice: 22, and the child's 100.
    assert ran.stdout.split() == ["122", "0"]
