"""greenlets.py: what is different where gevent or eventlet have made greenlets of threads.

Nothing is patched here, the whole of it is in tests/servers/asgi_to_wsgi/test_greenlets.py.
"""

import asyncio
import select
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop

from wsgi_asgi_bridge._crossing import event_loop
from wsgi_asgi_bridge._crossing.event_loop import PrivateLoop, default_loop_factory
from wsgi_asgi_bridge._crossing.greenlets import (
    cooperative_loop,
    noted_in_this_greenlet_only,
    patched_by,
    unpatched_poll,
)

greenlet: Any = pytest.importorskip("greenlet")


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "patched_by", lambda: "gevent")


class Ours:
    """A loop in a greenlet of its own, whose task gives way to this one: at each `switch()`."""

    def __init__(self) -> None:
        self._main = greenlet.getcurrent()
        self._greenlet = greenlet.greenlet(self._run)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.switch()

    def switch(self) -> None:
        self._greenlet.switch()

    def _run(self) -> None:
        end = noted_in_this_greenlet_only()
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._give_way_twice())
        finally:
            end()

    async def _give_way_twice(self) -> None:
        self.loop = asyncio.get_running_loop()
        for _ in range(2):
            hooks = sys.get_asyncgen_hooks()
            assert hooks.firstiter is not None
            self._main.switch()
            assert asyncio.get_running_loop() is self.loop
            assert sys.get_asyncgen_hooks() == hooks


@pytest.fixture
def ours() -> Iterator[Ours]:
    before = greenlet.gettrace()
    ours = Ours()
    yield ours
    ours.switch()
    assert asyncio._get_running_loop() is None
    assert greenlet.gettrace() is before


def test_nothing_is_patched_here() -> None:
    assert patched_by() is None
    assert default_loop_factory() is uvloop.new_event_loop
    assert unpatched_poll() is select.poll


def test_another_greenlet_sees_no_loop(ours: Ours) -> None:
    """A-LOOP-6: in the middle of a step of the app, too."""
    assert asyncio._get_running_loop() is None
    assert sys.get_asyncgen_hooks() == (None, None)
    ours.switch()
    assert asyncio._get_running_loop() is None


def test_another_greenlet_runs_a_loop_of_its_own(ours: Ours) -> None:
    """A-LOOP-6: while ours goes on, and to the end of its generators."""
    ended = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append(asyncio.get_running_loop())

    async def theirs() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        left_open = numbers()
        assert await anext(left_open) == 1
        ours.switch()
        assert asyncio.get_running_loop() is loop
        return loop

    loop = asyncio.run(theirs())
    assert loop is not ours.loop
    assert ended == [loop]


def test_a_loop_that_begins_while_another_greenlet_runs_one() -> None:
    """A-LOOP-6: the note of the other is put away as well, and is there again at our end."""

    async def theirs() -> None:
        loop = asyncio.get_running_loop()
        ours = Ours()
        assert ours.loop is not loop
        assert asyncio.get_running_loop() is loop
        ours.switch()
        ours.switch()
        assert asyncio.get_running_loop() is loop

    asyncio.run(theirs())


@pytest.mark.usefixtures("patched")
def test_uvloop_is_not_taken() -> None:
    """A-LOOP-6"""
    assert default_loop_factory() is cooperative_loop


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize(
    ("backend", "factory"), [("asyncio", uvloop.new_event_loop), ("trio", None)]
)
def test_a_loop_that_would_stop_all_greenlets_is_refused(backend: str, factory: Any) -> None:
    """A-LOOP-6: at once, and in words."""
    with pytest.raises(RuntimeError, match="cannot run where gevent has patched threads"):
        PrivateLoop.started(backend=backend, loop_factory=factory, name="wsgi_asgi_bridge-loop")
