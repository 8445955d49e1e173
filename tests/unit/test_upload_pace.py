"""body.py: what a reader takes for a stalled client, by a clock of the test's own (W-IN-7)."""

from contextlib import nullcontext
from typing import Any

import pytest

from wsgi_asgi_bridge._crossing import body
from wsgi_asgi_bridge._crossing.body import ChannelReader

TIMEOUT_SECONDS = 60.0
LEAST = 6000


class FakeChannel:
    """Gives what a script says: after how many seconds how many bytes come."""

    def __init__(self, script: list[tuple[float, int]]) -> None:
        self.script = list(script)
        self.now = 0.0
        self.timeouts: list[float] = []

    def take_from_thread(self, timeout: float, waiting: Any) -> list[bytes] | None:
        self.timeouts.append(timeout)
        if not self.script:
            return []
        seconds, size = self.script[0]
        if seconds > timeout:
            self.now += timeout
            return None
        self.now += seconds
        del self.script[0]
        return [bytes(size)]

    def release_from_thread(self, size: int) -> None:
        pass


def outcome(
    monkeypatch: pytest.MonkeyPatch, script: list[tuple[float, int]], least: float = LEAST
) -> tuple[bool, FakeChannel]:
    """Whether the whole body was read, and how."""
    channel = FakeChannel(script)
    monkeypatch.setattr(body, "monotonic", lambda: channel.now)
    reader = ChannelReader(
        channel,  # type: ignore[arg-type]
        begin=None,
        timeout=TIMEOUT_SECONDS,
        least=least,
        memory=1000,
        waiting=nullcontext,
        stalled=TimeoutError,
        given_up=ConnectionError,
    )
    try:
        while reader.read(10_000):
            pass
    except TimeoutError:
        return False, channel
    return True, channel


@pytest.mark.parametrize(
    ("script", "least", "seconds"),
    [
        pytest.param([(10, 1)] * 100, LEAST, 60, id="a byte now and then"),
        pytest.param([(0, 5999), (100, 1)], LEAST, 60, id="not quite enough, then nothing"),
        pytest.param([(1, 99)] * 100, LEAST, 60, id="a little too slow"),
        pytest.param([(1, 6000), (61, 1)], LEAST, 61, id="enough, then nothing"),
        pytest.param([(59, 1), (59, 1), (61, 1)], 0, 178, id="nothing, at any rate"),
    ],
)
def test_client_that_sends_too_little_has_stalled(
    monkeypatch: pytest.MonkeyPatch, script: list[tuple[float, int]], least: float, seconds: float
) -> None:
    """W-IN-7: `timeout` seconds after it last had sent enough, and neither earlier nor later."""
    whole, channel = outcome(monkeypatch, script, least)
    assert (whole, channel.now) == (False, seconds)


@pytest.mark.parametrize(
    ("script", "least"),
    [
        pytest.param([(1, 100)] * 600, LEAST, id="just fast enough"),
        pytest.param([(50, 10_000)] * 10, LEAST, id="in bursts"),
        pytest.param([(59, 6000), (59, 5), (0, 5995), (59, 9)], LEAST, id="what waited counts"),
        pytest.param([(0, 1)] * 10_000, LEAST, id="nobody waited"),
        pytest.param([(59, 1)] * 100, 0, id="any rate"),
        pytest.param([(5, 10)], LEAST, id="a short body"),
    ],
)
def test_client_that_sends_enough_has_not(
    monkeypatch: pytest.MonkeyPatch, script: list[tuple[float, int]], least: float
) -> None:
    """W-IN-7."""
    whole, channel = outcome(monkeypatch, script, least)
    assert whole
    assert all(0 <= timeout <= TIMEOUT_SECONDS for timeout in channel.timeouts)


def test_what_has_come_when_the_time_is_over_is_read_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W-IN-7: the time is over while a byte comes: what is at hand then is not waited for."""
    whole, channel = outcome(monkeypatch, [(59, 1), (1, 1), (0, 6000)])
    assert whole
    assert channel.timeouts == [60, 1, 0, 60]
