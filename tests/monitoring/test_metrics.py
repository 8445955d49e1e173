"""wsgi_asgi_bridge.metrics, with the real packages: types, names, labels and values (W-STAT-1)."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry, generate_latest

from tests.support import pages
from tests.support.fake_asgi_server import answered, plain_app
from tests.support.fake_wsgi_server import REPOSITORY, hello, serve
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI, metrics
from wsgi_asgi_bridge.asgi_to_wsgi.stats import ASGIToWSGIStats
from wsgi_asgi_bridge.wsgi_to_asgi.stats import WSGIToASGIStats

STATS: dict[str, Any] = {"wsgi_to_asgi": WSGIToASGIStats, "asgi_to_wsgi": ASGIToWSGIStats}
OUTCOMES = {"completed", "rejected", "disconnected", "stalled", "failed", "closed"}


def fields_of(stats: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(stats)}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def bridges() -> Any:
    """Three bridges, of which two have answered."""
    found = {"old": WSGIToASGI(plain_app), "new": ASGIToWSGI(hello), "idle": WSGIToASGI(plain_app)}
    await answered(found["old"])
    await answered(found["old"])
    serve(found["new"])
    yield found
    await found["old"].aclose()
    found["new"].close()


# --- Prometheus


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


async def test_prometheus_collects_them(bridges: Any, registry: CollectorRegistry) -> None:
    metrics.register_prometheus(bridges, registry)
    text = generate_latest(registry).decode()
    old = 'bridge="old",direction="wsgi_to_asgi"'
    new = 'bridge="new",direction="asgi_to_wsgi"'
    idle = 'bridge="idle",direction="wsgi_to_asgi"'
    lines = text.splitlines()
    for line in (
        "# TYPE wsgi_asgi_bridge_requests_total counter",
        "# TYPE wsgi_asgi_bridge_in_flight gauge",
        f'wsgi_asgi_bridge_requests_total{{{old},outcome="completed"}} 2.0',
        f'wsgi_asgi_bridge_requests_total{{{new},outcome="completed"}} 1.0',
        f'wsgi_asgi_bridge_requests_total{{{idle},outcome="completed"}} 0.0',
        f"wsgi_asgi_bridge_threads{{{old}}} {float(bridges['old'].stats().threads)}",
        f"wsgi_asgi_bridge_threads{{{idle}}} 0.0",
        f"wsgi_asgi_bridge_running{{{new}}} 1.0",
        f"wsgi_asgi_bridge_in_flight{{{new}}} 0.0",
    ):
        assert line in lines
    assert f"wsgi_asgi_bridge_threads{{{new}}}" not in text
    assert "stalled" not in "".join(line for line in lines if new in line)


async def test_prometheus_has_every_field_once(bridges: Any, registry: CollectorRegistry) -> None:
    """Also those that are added to the stats."""
    metrics.register_prometheus(bridges, registry)
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in bridges}
    for family in registry.collect():
        for sample in family.samples:
            outcome = sample.labels.get("outcome")
            name = outcome or sample.name.removeprefix("wsgi_asgi_bridge_")
            assert family.type == ("counter" if outcome else "gauge")
            assert (name, family.type) not in found[sample.labels["bridge"]]
            found[sample.labels["bridge"]].add((name, family.type))
    for bridge, direction in (("old", "wsgi_to_asgi"), ("new", "asgi_to_wsgi")):
        kinds = dict(found[bridge])
        assert set(kinds) == fields_of(STATS[direction])
        assert {name for name, kind in kinds.items() if kind == "counter"} == (
            OUTCOMES & fields_of(STATS[direction])
        )


async def test_prometheus_sees_bridges_that_come_later(
    bridges: Any, registry: CollectorRegistry
) -> None:
    known: dict[str, Any] = {}
    metrics.register_prometheus(known, registry)
    assert b'bridge="old"' not in generate_latest(registry)
    known.update(bridges)
    assert b'bridge="old"' in generate_latest(registry)


def test_prometheus_has_one_collector_for_all(registry: CollectorRegistry) -> None:
    collector = metrics.register_prometheus({}, registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        metrics.register_prometheus({}, registry)
    registry.unregister(collector)
    metrics.register_prometheus({}, registry)


def test_prometheus_own_registry_is_the_default() -> None:
    from prometheus_client import REGISTRY

    bridge = WSGIToASGI(plain_app)
    collector = metrics.register_prometheus({"site": bridge})
    try:
        value = REGISTRY.get_sample_value(
            "wsgi_asgi_bridge_queued", {"bridge": "site", "direction": "wsgi_to_asgi"}
        )
        assert value == 0.0
    finally:
        REGISTRY.unregister(collector)


FORK_SCRIPT = """
import asyncio, os, sys
import prometheus_client
from wsgi_asgi_bridge import ASGIToWSGI, metrics

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})

bridge = ASGIToWSGI(app, lifespan="off")
metrics.register_prometheus({"site": bridge})
environ = {"REQUEST_METHOD": "GET", "SERVER_NAME": "a", "SERVER_PORT": "80",
           "SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/", "wsgi.input": None}

def completed():
    labels = {"bridge": "site", "direction": "asgi_to_wsgi", "outcome": "completed"}
    return prometheus_client.REGISTRY.get_sample_value("wsgi_asgi_bridge_requests_total", labels)

list(bridge(dict(environ), lambda *_: None))
child = os.fork()
if not child:
    before = completed()
    for _ in range(2):
        list(bridge(dict(environ), lambda *_: None))
    print("child", before, completed(), flush=True)
    bridge.close()
    os._exit(0)
os.waitpid(child, 0)
print("parent", completed())
bridge.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no fork")
def test_a_forked_process_tells_of_its_own_requests() -> None:
    """A-CALL-2: each worker of a pre-forking server counts from zero."""
    ran = subprocess.run(
        [sys.executable, "-c", FORK_SCRIPT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.splitlines() == ["child 0 2", "parent 1"], ran.stderr


# --- OpenTelemetry


def collected(reader: InMemoryMetricReader) -> Iterator[Any]:
    data = reader.get_metrics_data()
    assert data is not None
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            assert scope.scope.name == "wsgi_asgi_bridge"
            yield from scope.metrics


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    made = MeterProvider([reader])
    yield made
    made.shutdown()


async def test_opentelemetry_observes_them(
    bridges: Any, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    metrics.register_opentelemetry(bridges, provider)
    found = {metric.name.removeprefix("wsgi_asgi_bridge."): metric for metric in collected(reader)}
    old = {"bridge": "old", "direction": "wsgi_to_asgi"}
    new = {"bridge": "new", "direction": "asgi_to_wsgi"}

    def value(name: str, **attributes: str) -> Any:
        (point,) = [
            point for point in found[name].data.data_points if point.attributes == attributes
        ]
        return point.value

    assert value("requests", **old, outcome="completed") == 2
    assert value("requests", **new, outcome="completed") == 1
    assert value("threads", **old) == bridges["old"].stats().threads > 0
    assert value("in_flight", **new) == 0
    assert value("running", **new) == 1
    assert found["requests"].unit == "{request}"
    assert found["threads"].unit == "{thread}"
    assert found["running"].unit == "1"


async def test_opentelemetry_has_every_field_once(
    bridges: Any, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    """Also those that are added to the stats."""
    metrics.register_opentelemetry(bridges, provider)
    found: dict[str, list[str]] = {name: [] for name in bridges}
    for metric in collected(reader):
        name = metric.name.removeprefix("wsgi_asgi_bridge.")
        if name == "running":
            assert isinstance(metric.data, Gauge)
        else:
            assert isinstance(metric.data, Sum)
            assert metric.data.is_monotonic == (name == "requests")
        for point in metric.data.data_points:
            found[point.attributes["bridge"]].append(point.attributes.get("outcome", name))
    for bridge, direction in (("old", "wsgi_to_asgi"), ("new", "asgi_to_wsgi")):
        assert sorted(found[bridge]) == sorted(fields_of(STATS[direction]))


# --- without the packages


@pytest.mark.parametrize(
    ("register", "package", "extra"),
    [
        (metrics.register_prometheus, "prometheus_client", "prometheus"),
        (metrics.register_opentelemetry, "opentelemetry", "opentelemetry"),
    ],
)
def test_what_is_not_installed_is_named(
    register: Any, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'wsgi_asgi_bridge\[{extra}\]'"):
        register({})


# --- docs/monitoring.md


def test_the_documented_code_runs() -> None:
    from prometheus_client import REGISTRY

    text = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    block, *_ = pages.blocks("python", text)
    names: dict[str, Any] = {}
    exec(compile(block.code, "monitoring.md", "exec"), names)
    REGISTRY.unregister(names["collector"])


def test_the_documented_outcomes_are_those() -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    listed = text.partition("requests that are over (")[2].partition(")")[0]
    assert {name.strip(" `\n") for name in listed.split(",")} == set(metrics.OUTCOMES) == OUTCOMES
