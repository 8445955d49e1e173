"""Where and with what a run was made; and the pinning of the process to one CPU."""

import os
import platform
import resource
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEMORY_LIMIT_BYTES = 4 * 1024**3  # of this process, and of each server that it starts

OUR_PACKAGE = "wsgi_asgi_bridge"
PACKAGES = (
    "a2wsgi",
    "anyio",
    "asgiref",
    "fastapi",
    "flask",
    "granian",
    "gunicorn",
    "httptools",
    "hypercorn",
    "starlette",
    "uvicorn",
    "uvloop",
    "werkzeug",
)


def facts() -> dict[str, Any]:
    """The machine and the interpreter."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


def processor() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str | None]:
    """Ours is that of the folder that is measured, whatever is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = {package: installed_version(package) for package in PACKAGES}
    return {OUR_PACKAGE: project["version"], **others}


def installed_version(package: str) -> str | None:
    """None for what is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def limit_memory() -> None:
    """A bridge or a client that buffers without end fails, and takes no other process with it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_LIMIT_BYTES:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, hard))


@contextmanager
def pinned_to_one_cpu(wanted: bool) -> Iterator[int | None]:
    """This thread, and those it starts, on one CPU; gives its number, None where not pinned."""
    if not wanted or not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)
