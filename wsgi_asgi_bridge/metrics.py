"""The bridges' `stats()` as metrics of Prometheus or OpenTelemetry, by those packages themselves.

Both take a mapping of names to bridges, read again at each collection, and give:

- `wsgi_asgi_bridge_requests_total` (OpenTelemetry: `wsgi_asgi_bridge.requests`): requests that are
  over, by `outcome`;
- a gauge for each other field of the stats, `wsgi_asgi_bridge_in_flight` for example. OpenTelemetry
  has up-down counters for them, except for `running`.

Each value has the labels `bridge`, its name in the mapping, and `direction`. A process tells of its
own bridges only. docs/monitoring.md says what that means for servers with several.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from .asgi_to_wsgi import ASGIToWSGI
from .asgi_to_wsgi.stats import ASGIToWSGIStats
from .asgi_to_wsgi.stats import Counts as ASGIToWSGICounts
from .wsgi_to_asgi import WSGIToASGI
from .wsgi_to_asgi.stats import Counts as WSGIToASGICounts
from .wsgi_to_asgi.stats import WSGIToASGIStats

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector, CollectorRegistry

__all__ = ["Bridges", "register_opentelemetry", "register_prometheus"]

Bridges = Mapping[str, WSGIToASGI | ASGIToWSGI]
"""Bridges by the names that tell them apart."""

NAME = "wsgi_asgi_bridge"
REQUESTS = "Requests that are over, by their outcome."


def _names(*classes: Any) -> list[str]:
    return list(dict.fromkeys(field.name for each in classes for field in fields(each)))


PRESENT_COUNTS = ("background",)
"""Counted up and down."""
OUTCOMES = [
    name for name in _names(WSGIToASGICounts, ASGIToWSGICounts) if name not in PRESENT_COUNTS
]
"""The fields that count since the start; the others say what is now."""
PRESENT = [name for name in _names(WSGIToASGIStats, ASGIToWSGIStats) if name not in OUTCOMES]

UNITS = {
    "threads": "{thread}",
    "idle": "{thread}",
    "busy": "{thread}",
    "streaming": "{thread}",
    "queued": "{request}",
    "in_flight": "{request}",
    "background": "{call}",
    "websockets": "{connection}",
    "released_websockets": "{connection}",
    "released_event_streams": "{connection}",
}
"""Of OpenTelemetry, in UCUM; for others "1"."""


def register_prometheus(
    bridges: Bridges, registry: "CollectorRegistry | None" = None
) -> "Collector":
    """Register a collector with prometheus_client, and return it.

    `registry`: None takes prometheus_client's own. Its `unregister()` takes the collector. A
    registry takes one collector for all bridges: for a second one it raises ValueError. Raises
    ImportError if prometheus_client is not installed.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError as error:
        raise _not_installed("prometheus_client", "prometheus") from error
    collector = _PrometheusCollector(bridges)
    (REGISTRY if registry is None else registry).register(collector)
    return collector


def register_opentelemetry(bridges: Bridges, meter_provider: "MeterProvider | None" = None) -> None:
    """Make observable instruments of OpenTelemetry.

    `meter_provider`: None takes the global one. Call it once for each provider. Raises ImportError
    if opentelemetry-api is not installed.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise _not_installed("opentelemetry-api", "opentelemetry") from error
    meter = metrics.get_meter(NAME, meter_provider=meter_provider)
    meter.create_observable_counter(
        f"{NAME}.requests", [_observed(bridges, OUTCOMES)], "{request}", REQUESTS
    )
    for name in PRESENT:
        if name == "running":  # not a number of anything: its sum means nothing
            create: Callable[..., object] = meter.create_observable_gauge
        else:
            create = meter.create_observable_up_down_counter
        create(f"{NAME}.{name}", [_observed(bridges, [name])], UNITS.get(name, "1"), _help(name))


def _not_installed(package: str, extra: str) -> ImportError:
    return ImportError(f"{package} is not installed: pip install '{NAME}[{extra}]'")


def _help(name: str) -> str:
    owners = [each.__name__ for each in (WSGIToASGIStats, ASGIToWSGIStats) if name in _names(each)]
    return f"{name!r} of {' and '.join(owners)}."


def _values(bridges: Bridges, names: Iterable[str]) -> Iterator[tuple[str, str, str, int]]:
    """The bridge's name, its direction, the field and its value, of each field that a bridge has.

    One call of `stats()` for each bridge.
    """
    for bridge_name, bridge in list(bridges.items()):
        direction = "wsgi_to_asgi" if isinstance(bridge, WSGIToASGI) else "asgi_to_wsgi"
        stats = bridge.stats()
        for name in names:
            if hasattr(stats, name):
                yield bridge_name, direction, name, int(getattr(stats, name))


class _PrometheusCollector:
    """A collector as prometheus_client defines it."""

    def __init__(self, bridges: Bridges) -> None:
        self._bridges = bridges

    def describe(self) -> "list[Metric]":
        """The names alone, by which the registry finds a second collector."""
        return list(self._families().values())

    def collect(self) -> "list[Metric]":
        families = self._families()
        for bridge, direction, name, value in _values(self._bridges, OUTCOMES + PRESENT):
            if name in OUTCOMES:
                families["requests"].add_metric([bridge, direction, name], value)
            else:
                families[name].add_metric([bridge, direction], value)
        return list(families.values())

    def _families(self) -> dict[str, Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = ["bridge", "direction"]
        requests = CounterMetricFamily(f"{NAME}_requests", REQUESTS, labels=[*labels, "outcome"])
        present = {
            name: GaugeMetricFamily(f"{NAME}_{name}", _help(name), labels=labels)
            for name in PRESENT
        }
        return {"requests": requests, **present}


def _observed(
    bridges: Bridges, names: list[str]
) -> "Callable[[CallbackOptions], Iterable[Observation]]":
    """The callback of an instrument: what it observes of these fields."""
    from opentelemetry.metrics import Observation

    def observe(_: "CallbackOptions") -> "Iterable[Observation]":
        for bridge, direction, name, value in _values(bridges, names):
            attributes = {"bridge": bridge, "direction": direction}
            if name in OUTCOMES:
                attributes["outcome"] = name
            yield Observation(value, attributes)

    return observe
