"""W-IN-3: a thread of the app's own that reads in the moment in which its exchange ends."""

from contextlib import nullcontext
from typing import Any

from wsgi_asgi_bridge.wsgi_to_asgi.exchange import Exchange


class _EndsMeanwhile(Exchange):
    """One whose end comes as soon as somebody has looked whether it is there."""

    __slots__ = ("_looks",)

    def __init__(self) -> None:  # no request is needed for a look
        self._looks: list[Any] = [_Call(), None]

    @property
    def _call(self) -> Any:  # type: ignore[override]
        return self._looks.pop(0)


class _Call:
    def waiting(self) -> Any:
        return nullcontext("the call's")


def test_exchange_that_ends_as_a_thread_begins_to_wait() -> None:
    """W-IN-3: the read ends with the exchange's own error, not with that of an attribute."""
    with _EndsMeanwhile()._waiting_worker() as waiting:
        assert waiting == "the call's"
