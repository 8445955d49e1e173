"""The matrix of event loops, and the check that no test leaves a thread of ours behind."""

import gc
import importlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

LEFTOVER_WAIT_SECONDS = 10.0

# sentry-sdk imports eventlet, whose own resolver imports trio among patched sockets, which fails.
os.environ["EVENTLET_NO_GREENDNS"] = "yes"


def pytest_collection_finish() -> None:
    """Leave what all test modules have imported out of the garbage collector's runs.

    Many tests make it run; among a million objects that took a quarter of the whole run's time.
    """
    importlib.import_module("hypothesis")  # asks the collector who refers to trio's random numbers
    gc.collect()
    gc.freeze()


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every async test runs on the three loops that servers run on."""
    return request.param


def threads_of_ours() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("wsgi_asgi_bridge")]


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """After each test every thread of ours has ended, or ends within a bounded wait."""
    before = set(threads_of_ours())
    yield
    deadline = time.monotonic() + LEFTOVER_WAIT_SECONDS
    left = set(threads_of_ours()) - before
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = {t for t in left if t.is_alive()}
    assert not left, f"threads left after the test: {sorted(t.name for t in left)}"
