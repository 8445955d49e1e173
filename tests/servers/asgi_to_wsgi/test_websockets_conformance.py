"""Autobahn's cases on gunicorn gthread: framing, fragments, control frames, UTF-8, closes."""

from tests.support.asgi_sites import running_site
from tests.support.websocket_conformance import CASE_COUNT, failed_cases, verdicts_on
from tests.support.wsgi_servers import by_name

SITE = "tests.support.bridged_websockets:site"


def test_every_case_passes() -> None:
    """WS-A-5, WS-A-9, WS-A-10, WS-A-11"""
    with running_site(by_name("gunicorn-gthread"), SITE) as site:
        verdicts = verdicts_on(f"ws://{site.process.host}:{site.process.port}/uncompressed/echo")
    assert len(verdicts) == CASE_COUNT
    assert failed_cases(verdicts) == set()
