"""`ASGIToWSGI` on real servers: the response ends at its last message, its work goes on."""

from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.wsgi_servers import SERVERS, THREADS

DONE_SECONDS = 5.0


site = site_fixture(SERVERS)


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
