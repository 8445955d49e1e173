"""`ASGIToWSGI` on real servers: the response ends at its last message, its work goes on."""

from collections.abc import Iterator

import pytest

from tests.support.asgi_sites import RunningSite, on_each, running_site
from tests.support.processes import shown_on_failure
from tests.support.wsgi_servers import SERVERS, THREADS

DONE_SECONDS = 5.0


@pytest.fixture(scope="module", params=on_each(SERVERS))
def shared_site(request: pytest.FixtureRequest) -> Iterator[RunningSite]:
    with running_site(request.param) as site:
        yield site


@pytest.fixture
def site(shared_site: RunningSite) -> Iterator[RunningSite]:
    with shown_on_failure(shared_site.process):
        yield shared_site


def test_background_work_holds_neither_response_nor_thread(site: RunningSite) -> None:
    """A-OUT-5: more works than the server has threads, and it still answers."""
    tasks = site.describe()["tasks"]
    for _ in range(THREADS + 1):
        assert site.get("/works_in_background?name=work").body == b"accepted"
    assert site.answers_hello()
    assert not site.witness.is_noted("work done")
    site.witness.set_event("work")
    site.witness.wait_for("work done", DONE_SECONDS)
    assert site.waiting_tasks_become(tasks, DONE_SECONDS)
    assert [what for what, _ in site.witness.notes()].count("work done") == THREADS + 1
