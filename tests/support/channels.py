"""The events that the two channels between a thread and a loop make."""

import pytest

from wsgi_asgi_bridge._crossing.thread_event import ThreadEvent


def gates_made(monkeypatch: pytest.MonkeyPatch) -> list[ThreadEvent]:
    """Every event of a channel, as it is made from now on."""
    gates: list[ThreadEvent] = []

    def make_gate() -> ThreadEvent:
        gates.append(ThreadEvent())
        return gates[-1]

    for module in ("thread_to_loop", "loop_to_thread"):
        monkeypatch.setattr(f"wsgi_asgi_bridge._crossing.{module}.ThreadEvent", make_gate)
    return gates
