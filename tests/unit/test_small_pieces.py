"""loop_to_thread.py, body.py: small pieces of a body are joined where they wait (W-IN-4)."""

import io
import tracemalloc
from contextlib import nullcontext
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.interleaving import TINY_SECONDS, HandTurnedLoop, LyingLock
from wsgi_asgi_bridge._crossing.body import ChannelReader
from wsgi_asgi_bridge._crossing.loop_to_thread import JOIN_BELOW_BYTES, JOINED_BYTES, LoopToThread


def channel_of(budget: int = 1_000_000) -> LoopToThread:
    return LoopToThread(HandTurnedLoop(), budget)  # type: ignore[arg-type]


def reader_of(channel: LoopToThread) -> io.BufferedReader:
    raw = ChannelReader(
        channel,
        begin=None,
        timeout=TINY_SECONDS,
        least=0,
        memory=1_000_000,
        waiting=nullcontext,
        stalled=TimeoutError,
        given_up=ConnectionError,
    )
    return io.BufferedReader(raw)


@pytest.mark.parametrize("size", [1, 2, 100, JOIN_BELOW_BYTES - 1, JOIN_BELOW_BYTES])
def test_what_waits_costs_little_more_than_its_bytes(size: int) -> None:
    """W-IN-4: 57 kB in pieces of one byte cost 16.5 MB once the first of them had been read."""
    channel = channel_of()
    file = reader_of(channel)
    count = 57_000 // size
    tracemalloc.start()
    try:
        for number in range(count):
            channel.put_in_loop(b"%c" % (number % 256) * size)
        assert file.read(1) == b"\x00"
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.3 * 57_000 + io.DEFAULT_BUFFER_SIZE + 1000


def test_small_pieces_between_large_ones_keep_their_order() -> None:
    """W-IN-1."""
    channel = channel_of()
    large = b"L" * JOIN_BELOW_BYTES
    parts = [b"a", b"b", large, b"c", large, large, b"d", b"e"]
    for part in parts:
        channel.put_in_loop(part)
    chunks = channel.take_from_thread(TINY_SECONDS)
    assert chunks == [b"ab", large, b"c", large, large, b"de"]


def test_large_piece_is_handed_over_as_the_same_object() -> None:
    """W-IN-4: joining copies nothing that is large."""
    channel = channel_of()
    large = bytes(JOIN_BELOW_BYTES)
    for part in (b"a", large, large):
        channel.put_in_loop(part)
    chunks = channel.take_from_thread(TINY_SECONDS)
    assert chunks is not None
    assert [chunk is large for chunk in chunks] == [False, True, True]


def test_joined_pieces_are_bounded() -> None:
    """W-IN-4: a piece is in memory until its last byte is read, so none grows without end."""
    channel = channel_of()
    for _ in range(300):
        channel.put_in_loop(b"x" * 1000)
    chunks = channel.take_from_thread(TINY_SECONDS)
    assert chunks is not None
    assert sum(map(len, chunks)) == 300_000
    assert max(map(len, chunks)) < JOINED_BYTES + JOIN_BELOW_BYTES
    assert len(chunks) == 5


def test_nothing_is_joined_to_what_the_thread_has_taken() -> None:
    """W-IN-1: the thread reads it while the loop puts more."""
    channel = channel_of()
    channel.put_in_loop(b"ab")
    first = channel.take_from_thread(TINY_SECONDS)
    channel.put_in_loop(b"cd")
    assert first == [b"ab"]
    assert channel.take_from_thread(TINY_SECONDS) == [b"cd"]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 2 * JOIN_BELOW_BYTES), max_size=40), step=st.integers(1, 9000))
def test_any_pieces_read_in_any_steps_are_the_body(sizes: list[int], step: int) -> None:
    """W-IN-1."""
    ends = list(accumulate(sizes, initial=0))
    body = bytes(number % 251 for number in range(ends[-1]))
    channel = channel_of()
    for begin, end in pairwise(ends):
        channel.put_in_loop(body[begin:end])
    channel.end_in_loop()
    file = reader_of(channel)
    assert b"".join(iter(lambda: file.read(step), b"")) == body


# --- the whole body, before a thread took any of it


def test_whole_body_is_whole_once_it_has_ended() -> None:
    """W-IN-5."""
    channel = channel_of()
    channel.put_in_loop(b"ab")
    assert channel.whole_in_loop() is None
    channel.end_in_loop()
    assert channel.whole_in_loop() == [b"ab"]


@pytest.mark.parametrize("why", ["taken", "broken"])
def test_body_that_was_begun_or_broken_is_not_whole(why: str) -> None:
    """W-IN-3: though its end came as well."""
    channel = channel_of()
    channel.put_in_loop(b"ab")
    if why == "taken":
        channel.take_from_thread(TINY_SECONDS)
    else:
        channel.break_in_loop(ConnectionError)
    channel.end_in_loop()
    assert channel.whole_in_loop() is None


# --- what waits until the thread first takes


def test_budget_is_smaller_until_the_thread_takes() -> None:
    """W-IN-5: many requests may wait for a thread."""
    channel = LoopToThread(HandTurnedLoop(), 100, unread_budget=10)  # type: ignore[arg-type]
    assert channel.put_in_loop(b"x" * 9)
    assert not channel.put_in_loop(b"x")
    assert not channel.put_in_loop(b"")
    channel.take_from_thread(TINY_SECONDS)
    assert channel.put_in_loop(b"")
    assert not channel.put_in_loop(b"x" * 90)


def test_short_sleep_is_not_announced() -> None:
    """W-FLOW-8: a thread that waits for the next packet of a fast client does not leave the count
    for it.
    """
    channel = channel_of()
    channel._lock = lock = LyingLock()  # type: ignore[assignment]
    lock.after("take_from_thread", lambda: channel.put_in_loop(b"soon"))

    def waiting() -> Any:
        raise AssertionError("a short sleep")

    assert channel.take_from_thread(TINY_SECONDS, waiting) == [b"soon"]
    assert lock.told
