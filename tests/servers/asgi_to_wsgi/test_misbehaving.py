"""`ASGIToWSGI` on real servers: an app that misbehaves gets its error, the next is answered."""

import pytest

from tests.support.asgi_apps import MISBEHAVING_AFTER, MISBEHAVING_BEFORE, ASGIApp
from tests.support.asgi_sites import RunningSite, is_refused, site_fixture
from tests.support.raw_http import CutResponseError
from tests.support.wsgi_servers import (
    BROKEN_CHUNKS,
    CHUNKED_RESPONSE,
    SERVERS,
    THREADS,
    servers_with,
)

site = site_fixture(SERVERS)

chunking_site = site_fixture(servers_with(CHUNKED_RESPONSE, BROKEN_CHUNKS))


@pytest.mark.parametrize("app", MISBEHAVING_BEFORE, ids=lambda app: app.__name__)
def test_error_before_the_response(site: RunningSite, app: ASGIApp) -> None:
    """A-OUT-4: 500 or a broken connection, and no thread of the server is lost to it."""
    before = site.describe()
    for _ in range(THREADS + 1):
        with site.connect() as client:
            client.send_head("GET", f"/{app.__name__}")
            assert is_refused(client)
    assert_unharmed(site, before)


@pytest.mark.parametrize("app", MISBEHAVING_AFTER, ids=lambda app: app.__name__)
def test_error_within_the_response(site: RunningSite, app: ASGIApp) -> None:
    """A-OUT-4: the connection is broken: a cut body never looks whole."""
    before = site.describe()
    for _ in range(THREADS + 1):
        with site.connect() as client:
            client.send_head("GET", f"/{app.__name__}")
            with pytest.raises(CutResponseError):
                client.read_response()
    assert_unharmed(site, before)


def test_error_within_a_chunked_response(chunking_site: RunningSite) -> None:
    """A-OUT-4: the last chunk is never sent."""
    with chunking_site.connect() as client:
        client.send_head("GET", "/raises_within_chunked")
        client.read_head()
        assert client.read_body_exactly(4) == b"half"
        with pytest.raises(CutResponseError):
            client.read_body()
    assert chunking_site.answers_hello()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/raises_before", "LookupError: raised before the response"),
        ("/raises_after", "LookupError: raised within the response"),
        ("/raises_in_background", "LookupError: raised in the background"),
    ],
)
def test_error_is_logged_with_its_traceback(site: RunningSite, path: str, message: str) -> None:
    """A-OUT-4, A-OUT-5"""
    mark = site.process.output_size()
    with site.connect() as client:
        client.send_head("GET", path, [("connection", "close")])
        client.is_closed_by_server(5.0)
    assert site.answers_hello()
    output = site.process.output(since=mark)
    assert message in output
    assert "Traceback (most recent call last)" in output
    assert "asgi_apps.py" in output


def assert_unharmed(site: RunningSite, before: dict[str, object]) -> None:
    """The same process answers on the same loop, with no task more than before."""
    assert site.answers_hello()
    after = site.describe()
    assert after == before
