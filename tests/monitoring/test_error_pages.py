"""A-OUT-8 under OpenTelemetry's WSGI middleware, which does not stand a `close()` that raises: its
span would never end, and the thread's next requests would be traced below it.
"""

from typing import Any

import pytest
from opentelemetry import trace

from tests.monitoring.clients import get_wsgi
from tests.monitoring.sentry_process import raw_asgi_error_page
from tests.monitoring.traces import Traces
from tests.support.fake_wsgi_server import InThread, bridged, on_every_backend


@on_every_backend
def test_the_span_of_an_error_page_ends_and_leaves_no_context(
    traces: Traces, backend: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-8: so there the error is logged."""

    def one_thread() -> None:
        for _ in range(2):
            answer = get_wsgi(traces.wsgi(bridge), "/")
            assert (answer.status_code, answer.text) == (500, "sorry")
            assert not trace.get_current_span().get_span_context().is_valid

    with bridged(raw_asgi_error_page, backend) as bridge:
        InThread(one_thread).result()
    assert traces.lineages() == [("wsgi",), ("wsgi",)]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["the app raised after its response had ended"] * 2
