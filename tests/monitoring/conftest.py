"""Tracing for one test: its spans, and the proof that OpenTelemetry had nothing to complain of."""

import logging
from collections.abc import Iterator

import flask
import pytest
from fastapi import FastAPI

from tests.monitoring.traced_apps import traced_fastapi, traced_flask
from tests.monitoring.traces import Traces


@pytest.fixture
def traces(caplog: pytest.LogCaptureFixture) -> Iterator[Traces]:
    """Fails the test when OpenTelemetry logged a problem: a context detached where it was not
    attached, a span ended twice, or written to after its end.
    """
    recorded = Traces()
    with caplog.at_level(logging.WARNING, "opentelemetry"):
        yield recorded
    for phase in ("setup", "call"):
        complaints = [
            record.getMessage()
            for record in caplog.get_records(phase)
            if record.name.startswith("opentelemetry") and record.levelno >= logging.WARNING
        ]
        assert not complaints


@pytest.fixture
def flask_app(traces: Traces) -> flask.Flask:
    return traced_flask(traces)


@pytest.fixture
def fastapi_app(traces: Traces) -> Iterator[FastAPI]:
    with traced_fastapi(traces) as app:
        yield app
