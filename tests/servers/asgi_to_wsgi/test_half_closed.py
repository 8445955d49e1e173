"""`ASGIToWSGI` on gunicorn and a client that shuts its sending side and waits for its answer."""

import pytest

from tests.support.asgi_sites import SITE, running_site
from tests.support.raw_http import CutResponseError
from tests.support.wsgi_servers import by_name

WAIT_SECONDS = 5.0
STAY_SECONDS = 1.3
"""Longer than the second after which the thread makes sure that its loop lives."""
WITHOUT_LOOKS = "tests.support.bridged_asgi:without_looks"


@pytest.mark.parametrize("target", [SITE, WITHOUT_LOOKS], ids=["by default", "None"])
def test_half_closed_client_of_a_silent_app(target: str) -> None:
    """A-IN-3: is taken for gone, as under uvicorn, but for `disconnect_poll=None`."""
    looks = target == SITE
    with running_site(by_name("gunicorn-gthread"), target) as site, site.connect() as client:
        client.send_head("GET", "/waits_for_disconnect_or_gate?name=half")
        site.witness.wait_for("half waits", WAIT_SECONDS)
        client.end_sending()
        if looks:
            site.witness.wait_for("half left", WAIT_SECONDS)
            with pytest.raises(CutResponseError):
                client.read_response()
        else:
            with pytest.raises(AssertionError, match="'half left' not noted"):
                site.witness.wait_for("half left", STAY_SECONDS)
            site.witness.set_event("half")
            assert client.read_response().body == b"through"
        site.witness.set_event("half")
        assert site.answers_hello()
