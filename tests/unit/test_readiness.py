"""readiness.py: a descriptor that is readable while a port can be read."""

import gc
import select
import weakref
from typing import Any

import pytest

from tests.support.interleaving import HandTurnedLoop, LyingLock, lying
from wsgi_asgi_bridge._crossing.message_port import MessagePort
from wsgi_asgi_bridge._crossing.readiness import Readiness


@pytest.fixture
def port(loop: HandTurnedLoop) -> MessagePort:
    return MessagePort(
        loop,  # type: ignore[arg-type]
        in_budget=10,
        out_budget=10,
        closed=BrokenPipeError,
        lost="lost",
    )


@pytest.fixture
def readiness(port: MessagePort) -> Any:
    readiness = Readiness(port, has_bytes=False)
    yield readiness
    readiness.close()


def is_readable(readiness: Readiness) -> bool:
    return bool(select.select([readiness], [], [], 0)[0])


def test_it_follows_the_port(port: MessagePort, readiness: Readiness) -> None:
    readiness.update()
    assert not is_readable(readiness)
    port.put("one", 3)
    port.put("two", 3)
    assert is_readable(readiness)
    port.receive_from_thread()
    readiness.update()
    assert is_readable(readiness)
    port.receive_from_thread()
    readiness.update()
    assert not is_readable(readiness)
    port.end_in_loop("over")
    assert is_readable(readiness)


def test_it_follows_what_was_taken_out_of_the_port(readiness: Readiness) -> None:
    readiness.has_bytes = True
    readiness.update()
    assert is_readable(readiness)
    readiness.has_bytes = False
    readiness.update()
    assert not is_readable(readiness)


@pytest.mark.parametrize("moment", ["before", "holding", "after"])
def test_a_message_comes_while_the_descriptor_is_updated(
    port: MessagePort, readiness: Readiness, moment: str
) -> None:
    """The reader has taken the last message and says so; another comes in that moment."""
    port.put("one", 3)
    port.receive_from_thread()
    port.observe(None)  # while `holding`, its own update would wait for the lock: it comes after
    lock = lying(readiness)
    getattr(lock, moment)("update", lambda: port.put("two", 3))
    readiness.update()
    readiness.update()  # the put's
    assert lock.told
    assert is_readable(readiness)


def test_the_last_message_is_taken_while_a_put_updates(
    port: MessagePort, readiness: Readiness
) -> None:
    lock = lying(readiness)
    lock.before("update", port.receive_from_thread)
    port.put("one", 3)
    assert lock.told
    assert not is_readable(readiness)


def test_a_put_after_the_close(port: MessagePort, readiness: Readiness) -> None:
    """The number of the descriptor may be another's by then."""
    lock = LyingLock()
    readiness._lock = lock  # type: ignore[assignment]
    lock.before("update", readiness.close)
    port.put("one", 3)
    assert lock.told
    assert readiness.fileno() == -1
    readiness.update()


def test_it_does_not_hold_its_port(port: MessagePort) -> None:
    gc.disable()
    try:
        readiness = Readiness(port, has_bytes=False)
        own = weakref.ref(readiness)
        readiness.close()
        del readiness
        assert own() is None
        dropped = Readiness(port, has_bytes=False)
        number = dropped.fileno()
        assert number >= 0
    finally:
        gc.enable()
