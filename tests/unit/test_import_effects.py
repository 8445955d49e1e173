"""A process that only imports the package, and one that only constructs: nothing runs unasked."""

import json
import subprocess
import sys

import pytest

from tests.unit.test_package import NAME, REPOSITORY, RUNTIME_DEPENDENCIES

SCRIPT_SECONDS = 60.0

LOOK_SCRIPT = """
import json, sys, threading

def look():
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
        "loops": list(loops),
        "at_fork": [hook for hook in at_fork if hook.startswith("wsgi_asgi_bridge")],
    }

import asyncio, os
loops, at_fork = [], []
really_new = asyncio.new_event_loop
asyncio.new_event_loop = lambda: loops.append("asyncio") or really_new()
really_register = os.register_at_fork

def register_at_fork(**hooks):
    at_fork.extend(f"{hook.__module__} {when}" for when, hook in hooks.items())
    really_register(**hooks)

os.register_at_fork = register_at_fork

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

BLOCKED = {"trio", "uvloop", "websockets"}
sys.meta_path.insert(0, Blocked())

import wsgi_asgi_bridge
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI
imported = look()

def wsgi(environ, start_response): ...
async def asgi(scope, receive, send): ...

bridges = [wsgi_asgi_bridge.WSGIToASGI(wsgi), wsgi_asgi_bridge.ASGIToWSGI(asgi)]
constructed = look()
print(json.dumps({"imported": imported, "constructed": constructed}))
"""


@pytest.fixture(scope="module")
def fresh_process() -> dict[str, dict[str, list[str]]]:
    """What a new process looks like after the import, and after the construction of one bridge of
    each kind.
    """
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOOK_SCRIPT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert ran.stderr == ""
    found: dict[str, dict[str, list[str]]] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("moment", ["imported", "constructed"])
def test_no_thread_and_no_loop_before_the_first_use(
    fresh_process: dict[str, dict[str, list[str]]], moment: str
) -> None:
    """A-CALL-2, W-LIFE-1: so that servers that fork after loading the app work."""
    assert fresh_process[moment]["threads"] == ["MainThread"]
    assert fresh_process[moment]["loops"] == []


def test_the_import_registers_nothing_with_the_interpreter(
    fresh_process: dict[str, dict[str, list[str]]],
) -> None:
    """`os.register_at_fork` cannot be undone: it is called by the first bridge, once."""
    assert fresh_process["imported"]["at_fork"] == []
    assert fresh_process["constructed"]["at_fork"] == [f"{NAME}._crossing.fork after_in_child"]


def test_the_package_works_without_the_optional_ones(
    fresh_process: dict[str, dict[str, list[str]]],
) -> None:
    """trio, uvloop and websockets are extras."""
    loaded = set(fresh_process["constructed"]["loaded"])
    assert not loaded & {"trio", "uvloop", "websockets"}
    assert loaded >= RUNTIME_DEPENDENCIES
