"""`ASGIToWSGI` on servers that fork: a bridge that the parent has used serves in each child."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asgi_sites import RunningSite, on_each, running_site
from tests.support.bridged_asgi import HELD_IN_MASTER
from tests.support.processes import PROJECT_ROOT, accepts_connections
from tests.support.witness import Witness, became_true
from tests.support.wsgi_servers import (
    CAREFULLY_FORKING_SERVERS,
    FORKING_SERVERS,
    MASTER_EXIT_HOOKS,
    WSGIServer,
    by_name,
)

BUSY = "tests.support.bridged_asgi:busy_at_the_fork()"
IDLE = "tests.support.bridged_asgi:idle_at_the_fork()"
WAIT_SECONDS = 5.0


@pytest.fixture(params=on_each(CAREFULLY_FORKING_SERVERS))
def site(request: pytest.FixtureRequest) -> Iterator[RunningSite]:
    """A server whose master has used the bridge, and has a request in flight, as it forks."""
    with running_site(request.param, BUSY, ready=accepts_connections) as site:
        yield site
        # The master cannot end before its own request has.
        site.witness.set_event(HELD_IN_MASTER)


def test_child_starts_its_own_and_the_parent_goes_on(site: RunningSite) -> None:
    """A-CALL-2, A-LOOP-2: a fork in mid-flight leaves both clean."""
    master = site.process.pid
    described = site.describe()
    worker = described["pid"]
    assert worker != master
    assert described["state"] == {"pid": worker}
    assert site.answers_hello()
    startups = [pid for what, pid in site.witness.notes() if what == "startup"]
    assert startups == [master, worker]
    site.witness.set_event(HELD_IN_MASTER)
    site.witness.wait_for(f"{HELD_IN_MASTER} through", WAIT_SECONDS)
    assert (f"{HELD_IN_MASTER} through", master) in site.witness.notes()


def test_each_process_ends_its_own_lifespan(site: RunningSite) -> None:
    """A-LOOP-2"""
    worker = site.describe()["pid"]
    site.witness.set_event(HELD_IN_MASTER)
    site.witness.wait_for(f"{HELD_IN_MASTER} through", WAIT_SECONDS)
    site.stop()
    site.wait_until_ended()
    shutdowns = [pid for what, pid in site.witness.notes() if what == "shutdown"]
    has_master = site.server.can(MASTER_EXIT_HOOKS)
    assert sorted(shutdowns) == sorted([worker, *([site.process.pid] if has_master else [])])


def test_child_that_dies_is_followed_by_one_that_serves(site: RunningSite) -> None:
    """A-CALL-2: the master forks again, long after it has used the bridge."""
    first = site.describe()["pid"]
    os.kill(first, signal.SIGKILL)
    assert became_true(lambda: first not in site.process.pids(), WAIT_SECONDS)
    second = site.describe()
    assert second["pid"] not in (first, site.process.pid)
    assert second["state"] == {"pid": second["pid"]}


@pytest.mark.parametrize("server", on_each(FORKING_SERVERS))
def test_child_of_an_idle_parent_serves(server: WSGIServer) -> None:
    """A-CALL-2: also where the fork calls no hook of Python, as uWSGI's own does."""
    with running_site(server, IDLE, ready=accepts_connections) as site:
        described = site.describe()
        assert described["pid"] != site.process.pid
        assert described["state"] == {"pid": described["pid"]}


@pytest.mark.parametrize("fork", ["os.fork", "bare"])
@pytest.mark.parametrize("use", ["serves", "nothing"])
def test_parent_and_child_end_their_own(tmp_path: Path, fork: str, use: str) -> None:
    """A-CALL-2, A-LOOP-2: a child that never served has nothing to end, and waits for nothing."""
    witness = Witness(tmp_path)
    parent = subprocess.run(
        [sys.executable, "-m", "tests.support.forked_asgi", fork, use],
        env={**os.environ, **witness.environment},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert parent.returncode == 0, parent.stderr
    started, ended = (
        [pid for what, pid in witness.notes() if what == end] for end in ("startup", "shutdown")
    )
    assert len(started) == len(set(started)) == (2 if use == "serves" else 1)
    assert sorted(ended) == sorted(started)


def test_two_children_have_a_lifespan_each() -> None:
    """A-LOOP-2: while one worker is held, the other answers."""
    server, two = by_name("gunicorn-sync-preload"), {"WEB_CONCURRENCY": "2"}
    with running_site(server, env=two, ready=accepts_connections) as site:
        with site.connect() as held:
            held.send_head("GET", "/waits_at_gate?name=held", [("connection", "close")])
            site.witness.wait_for("held waits", WAIT_SECONDS)
            free = site.describe()["pid"]
            site.witness.set_event("held")
            assert held.read_response().body == b"through"
        startups = {pid for what, pid in site.witness.notes() if what == "startup"}
        assert len(startups) == 2
        assert free in startups
        site.stop()
        site.wait_until_ended()
        shutdowns = [pid for what, pid in site.witness.notes() if what == "shutdown"]
        assert sorted(shutdowns) == sorted(startups)
