"""A bridge in the replicas of a Ray Serve deployment, on a local Ray (D-3).

`.ci/run` runs this in an environment of its own with the extra `ray`: Ray is large.
"""

import asyncio
import hashlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from tests.support.processes import PROJECT_ROOT, ServerProcess, running_server

READY_SECONDS = 120.0
WAIT_SECONDS = 60.0
REPLICAS = 2
CLIENTS = 8


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # Ray's replicas and the client alike


@pytest.fixture
def ray_environment() -> Iterator[dict[str, str]]:
    """Ray's own files in a short path, since there are sockets among them, and no report home."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield {
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), str(PROJECT_ROOT / "examples")]),
        }


@pytest.fixture
def site(ray_environment: dict[str, str]) -> Iterator[ServerProcess]:
    with running_server(
        [sys.executable, "-m", "tests.hosts.run_ray_site", "{port}"],
        ready=answers_200("/threads"),
        ready_seconds=READY_SECONDS,
        env=ray_environment,
    ) as server:
        yield server


@pytest.fixture
def example(ray_environment: dict[str, str]) -> Iterator[ServerProcess]:
    with running_server(
        [sys.executable, "examples/flask_on_ray_serve.py", "--port", "{port}"],
        ready=answers_200("/"),
        ready_seconds=READY_SECONDS,
        env=ray_environment,
    ) as server:
        yield server


def answers_200(path: str) -> Callable[[str, int], bool]:
    """Ready when the app answers; Ray's own proxy answers 404 before."""

    def is_ready(host: str, port: int) -> bool:
        try:
            return httpx.get(f"http://{host}:{port}{path}", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    return is_ready


async def pids_until(
    client: httpx.AsyncClient, wanted: int, without: int | None = None
) -> set[int]:
    """The processes that answer, asked until there are so many of them."""
    found: set[int] = set()
    numbers = itertools.count()
    deadline = time.monotonic() + WAIT_SECONDS
    while len(found) < wanted:
        assert time.monotonic() < deadline, f"only the processes {found} answered"
        answers = await asyncio.gather(*(client.get(f"/echo/{next(numbers)}") for _ in range(8)))
        found |= {each.json()["pid"] for each in answers if each.status_code == 200}
        found.discard(without or 0)
    return found


async def test_both_replicas_answer_and_a_killed_one_is_replaced(site: ServerProcess) -> None:
    """D-3: each answer is the whole answer to its own request, also while a replica is killed; the
    others say that they failed.
    """
    answered, failed, over = list[str](), list[int](), False

    async def ask(client: httpx.AsyncClient, first: int) -> None:
        for number in itertools.count(first, CLIENTS):
            if over:
                return
            answer = await client.get(f"/echo/{number}")
            if answer.status_code == 200:
                assert answer.json()["number"] == str(number)
                answered.append(str(number))
            else:
                failed.append(answer.status_code)

    async with httpx.AsyncClient(base_url=site.url, timeout=WAIT_SECONDS) as client:
        victim, survivor = await pids_until(client, REPLICAS)
        asking = [asyncio.create_task(ask(client, first)) for first in range(CLIENTS)]
        try:
            await client.post(f"/kill/{victim}")
            after = await pids_until(client, REPLICAS, without=victim)
        finally:
            over = True
            await asyncio.gather(*asking)
    assert survivor in after
    assert len(answered) == len(set(answered)) > 0
    # What was in the killed process cannot be answered; its clients are told, each of them once.
    assert len(failed) <= CLIENTS
    assert set(failed) <= {500, 503}


async def test_the_app_runs_in_the_bridges_threads(site: ServerProcess) -> None:
    """D-3: the pickled bridge starts a pool of its own in the replica."""
    async with httpx.AsyncClient(base_url=site.url, timeout=WAIT_SECONDS) as client:
        name = (await client.get("/threads")).json()["name"]
    assert name.startswith("wsgi_asgi_bridge-worker")


async def test_the_example_takes_an_upload_and_streams(example: ServerProcess) -> None:
    """64 MiB arrive whole, and a stream's lines arrive before it ends."""
    block = bytes(range(256)) * 4096
    blocks = 64

    async def body() -> AsyncIterator[bytes]:
        for _ in range(blocks):
            yield block

    async with httpx.AsyncClient(base_url=example.url, timeout=WAIT_SECONDS) as client:
        answer = (await client.post("/upload", content=body())).json()
        expected = hashlib.sha256(block * blocks).hexdigest()
        assert answer == {"bytes": blocks * len(block), "sha256": expected}
        async with client.stream("GET", "/count?to=5") as stream:
            arrived = [(time.monotonic(), line) async for line in stream.aiter_lines()]
    assert [line for _, line in arrived] == ["0", "1", "2", "3", "4"]
    assert arrived[-1][0] - arrived[0][0] > 0.2  # of the 0.4 seconds in which they were made
