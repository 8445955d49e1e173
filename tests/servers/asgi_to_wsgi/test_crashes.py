"""`ASGIToWSGI` on real servers: what crashes or blocks beside a request harms no other."""

import pytest

from tests.support.asgi_apps import CRASHING_BESIDE, ASGIApp
from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.wsgi_servers import CONCURRENCY, by_name, servers_with

WAIT_SECONDS = 5.0


site = site_fixture(servers_with(CONCURRENCY))
site_on_plain_asyncio = site_fixture(
    [by_name("gunicorn-gthread")], "tests.support.bridged_asgi:on_plain_asyncio"
)


@pytest.mark.parametrize("app", CRASHING_BESIDE, ids=lambda app: app.__name__)
def test_crash_beside_a_request_harms_no_other(site: RunningSite, app: ASGIApp) -> None:
    """A-LOOP-5: a request in flight meanwhile ends well, and so do those that come after."""
    assert_crash_harms_no_other(site, app)


@pytest.mark.parametrize("app", CRASHING_BESIDE, ids=lambda app: app.__name__)
def test_crash_without_uvloop(site_on_plain_asyncio: RunningSite, app: ASGIApp) -> None:
    """A-LOOP-5: asyncio's own loop comes out of run_forever() where uvloop's may not."""
    assert_crash_harms_no_other(site_on_plain_asyncio, app)


def test_blocked_loop_serves_everyone_afterwards(site: RunningSite) -> None:
    """A-LOOP-5: a second's block delays the others and loses none."""
    before = site.describe()
    with site.connect() as blocking, site.connect() as other:
        blocking.send_head("GET", "/blocks_loop?name=it", [("connection", "close")])
        site.witness.wait_for("it blocks", WAIT_SECONDS)
        other.send_head("GET", "/hello", [("connection", "close")])
        assert other.read_response().body == b"Hello, world!"
        assert blocking.read_response().body == b"survived"
    assert site.describe() == before


def assert_crash_harms_no_other(site: RunningSite, app: ASGIApp) -> None:
    """A request that waits while `app` crashes several times is answered, and so is the next."""
    before, held = site.describe(), f"held-by-{app.__name__}"
    with site.connect() as other:
        other.send_head("GET", f"/waits_at_gate?name={held}")
        site.witness.wait_for(f"{held} waits", WAIT_SECONDS)
        for _ in range(3):
            assert site.get(f"/{app.__name__}").body == b"survived"
        assert site.answers_hello()
        site.witness.set_event(held)
        assert other.read_response().body == b"through"
    assert site.describe() == before
