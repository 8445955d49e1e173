"""OpenTelemetry, collected in memory: which spans there were, in which order, and whose children.

Everything takes its tracer provider by argument, so that nothing global is set.
"""

import threading
from collections.abc import Iterable
from typing import Any

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as ASGITracing
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WSGITracing
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

WAIT_SECONDS = 10.0
INSTRUMENTATION = "opentelemetry.instrumentation."
MESSAGE_SPANS = (" http send", " http receive")
"""How the spans end that the ASGI instrumentation makes of each message."""

Lineage = tuple[str, ...]


class _Ledger(SpanProcessor):
    """Writes down each span as it ends."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []
        self.changed = threading.Condition()

    def on_end(self, span: ReadableSpan) -> None:
        with self.changed:
            self.ended.append(span)
            self.changed.notify_all()


class Traces:
    """A tracer for apps, tracing for servers' sides, and what both recorded."""

    def __init__(self) -> None:
        self._ledger = _Ledger()
        self.provider = TracerProvider()
        self.provider.add_span_processor(self._ledger)
        self.tracer = self.provider.get_tracer("app")

    def asgi(self, app: Any, **options: Any) -> Any:
        return ASGITracing(app, tracer_provider=self.provider, **options)

    def wsgi(self, app: Any) -> Any:
        return WSGITracing(app, tracer_provider=self.provider)

    def span(self, name: str) -> Any:
        """A context manager: a span of the app."""
        return self.tracer.start_as_current_span(name)

    # ------------------------------------------------------------ what was recorded

    def ended(self) -> list[ReadableSpan]:
        """All spans but those of single messages, in the order of their ends."""
        with self._ledger.changed:
            spans = list(self._ledger.ended)
        return [span for span in spans if not span.name.endswith(MESSAGE_SPANS)]

    def of_messages(self) -> list[ReadableSpan]:
        with self._ledger.changed:
            return [span for span in self._ledger.ended if span.name.endswith(MESSAGE_SPANS)]

    def labels(self) -> list[str]:
        """`ended`, each by its label."""
        return [label(span) for span in self.ended()]

    def one(self, name: str) -> ReadableSpan:
        """The only span with this label."""
        (span,) = (span for span in self.ended() if label(span) == name)
        return span

    def lineages(self) -> list[Lineage]:
        """Each span as its ancestors' labels and its own, from the root on; sorted."""
        spans = self.ended()
        by_id = {span.context.span_id: span for span in spans}
        return sorted(_lineage(span, by_id) for span in spans)

    def lineage_of(self, name: str) -> Lineage:
        spans = self.ended()
        return _lineage(self.one(name), {span.context.span_id: span for span in spans})

    def trace_ids(self) -> set[int]:
        return {span.context.trace_id for span in [*self.ended(), *self.of_messages()]}

    # ------------------------------------------------------------ waiting, in a thread

    def wait_for_end_of(self, *names: str) -> None:
        """Until a span of each label has ended; raises TimeoutError."""
        self._wait(lambda: set(names) <= set(self.labels()), f"the ends of {names}")

    def wait_for(self, count: int) -> None:
        """Until `count` spans have ended; raises TimeoutError."""
        self._wait(lambda: len(self.ended()) >= count, f"the ends of {count} spans")

    def _wait(self, condition: Any, what: str) -> None:
        with self._ledger.changed:
            if not self._ledger.changed.wait_for(condition, WAIT_SECONDS):
                raise TimeoutError(f"{what} did not come; there were {self._ledger.ended}")


def label(span: ReadableSpan) -> str:
    """`asgi`, `wsgi`, `flask`, `fastapi` for the spans of requests, else the app's own name."""
    scope = span.instrumentation_scope
    if scope is None or not scope.name.startswith(INSTRUMENTATION):
        return span.name
    kind = scope.name.removeprefix(INSTRUMENTATION)
    return kind if span.name.startswith(("GET ", "POST ")) else span.name


def under(outer: Iterable[str], lineages: Iterable[Lineage]) -> list[Lineage]:
    """`lineages` with the `outer` spans, which are each other's parents, above them."""
    above = tuple(outer)
    own = [above[:length] for length in range(1, len(above) + 1)]
    return sorted([*own, *(above + lineage for lineage in lineages)])


def exceptions_of(span: ReadableSpan) -> list[str]:
    """The types of the exceptions that were recorded in this span."""
    return [
        str((event.attributes or {})["exception.type"])
        for event in span.events
        if event.name == "exception"
    ]


def _lineage(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> Lineage:
    labels = [label(span)]
    while span.parent is not None and span.parent.span_id in by_id:
        span = by_id[span.parent.span_id]
        labels.append(label(span))
    return tuple(reversed(labels))
