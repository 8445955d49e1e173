"""`ASGIToWSGI` on real servers: one lifespan a process, from the first request to the exit."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asgi_sites import END_SECONDS, RunningSite, is_refused, on_each, running_site
from tests.support.processes import PROJECT_ROOT, accepts_connections
from tests.support.witness import Witness
from tests.support.wsgi_servers import SERVERS

FAILING = "tests.support.bridged_asgi:site_that_fails_to_start"
STILL_SECONDS = 0.3
DROPS_ITS_BRIDGE = """
from tests.support.asgi_apps import site
from tests.support.bridged_asgi import body_of
from wsgi_asgi_bridge import ASGIToWSGI

def serve(bridge):
    assert body_of(bridge, "/hello") == b"Hello, world!"

serve(ASGIToWSGI(site))
"""


@pytest.fixture(params=on_each(SERVERS))
def site(request: pytest.FixtureRequest) -> Iterator[RunningSite]:
    """A server that nobody has sent a request yet."""
    with running_site(request.param, ready=accepts_connections) as site:
        yield site


def test_lifespan_runs_once_from_the_first_request_to_the_exit(site: RunningSite) -> None:
    """A-LOOP-2, A-CALL-2"""
    assert site.witness.notes() == []
    assert site.answers_hello()
    described = site.describe()
    worker = described["pid"]
    assert described["state"] == {"pid": worker}
    assert site.witness.notes() == [("startup", worker), ("first request", worker)]
    site.stop()
    site.wait_until_ended()
    assert site.witness.notes()[2:] == [("shutdown", worker)]


def test_background_work_ends_before_the_lifespan(site: RunningSite) -> None:
    """A-OUT-5: the exit waits for it, and so does the app's shutdown."""
    response = site.get("/works_in_background?name=work")
    assert response.body == b"accepted"
    site.stop()
    with pytest.raises(AssertionError, match="'shutdown' not noted"):
        site.witness.wait_for("shutdown", STILL_SECONDS)
    site.witness.set_event("work")
    site.wait_until_ended()
    assert [what for what, _ in site.witness.notes()][2:] == ["work done", "shutdown"]


def test_bridge_that_only_its_server_held_is_ended_at_the_exit(tmp_path: Path) -> None:
    """A-LOOP-2: `serve(ASGIToWSGI(app))` in a function, which returns just before the exit."""
    witness = Witness(tmp_path)
    subprocess.run(
        [sys.executable, "-c", DROPS_ITS_BRIDGE],
        env={**os.environ, **witness.environment},
        cwd=PROJECT_ROOT,
        timeout=END_SECONDS,
        check=True,
    )
    assert [what for what, _ in witness.notes()] == ["startup", "first request", "shutdown"]


@pytest.mark.parametrize("server", on_each(SERVERS))
def test_failed_startup_refuses_requests(server: object) -> None:
    """A-LOOP-2: lifespan="on"; the reason is logged, and the app is not asked."""
    with running_site(server, FAILING, ready=accepts_connections) as site:
        with site.connect() as client:
            client.send_head("GET", "/hello", [("connection", "close")])
            assert is_refused(client)
        assert site.witness.is_noted("startup failed")
        assert "no database today" in site.process.output()
