"""body.py: the blocking file over a channel."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    Blocking,
    HandTask,
    HandTurnedLoop,
    LyingLock,
    ended,
)
from wsgi_asgi_bridge._crossing.body import ChannelReader
from wsgi_asgi_bridge._crossing.channel import LoopToThread


class StalledError(TimeoutError):
    """The client sent nothing in time."""


class GoneError(ConnectionError):
    """The client left."""


class GivenUpError(ConnectionError):
    """The client had stalled before."""


def channel_of(*chunks: bytes, ended: bool = True) -> LoopToThread:
    """A body that has arrived already."""
    channel = LoopToThread(HandTurnedLoop(), 1_000_000)  # type: ignore[arg-type]
    for chunk in chunks:
        channel.put_in_loop(chunk)
    if ended:
        channel.end_in_loop()
    return channel


def reader_of(
    channel: LoopToThread,
    *,
    begin: Any = None,
    timeout: float = TINY_SECONDS,
    least: float = 0,
    memory: int = 1000,
    waiting: Any = nullcontext,
) -> ChannelReader:
    return ChannelReader(
        channel,
        begin=begin,
        timeout=timeout,
        least=least,
        memory=memory,
        waiting=waiting,
        stalled=StalledError,
        given_up=GivenUpError,
    )


def buffered(*chunks: bytes, buffer_size: int = 8) -> io.BufferedReader:
    return io.BufferedReader(reader_of(channel_of(*chunks)), buffer_size)


# --- io semantics

SIZES = st.one_of(st.none(), st.integers(-1, 30))
READS = st.one_of(
    st.tuples(st.sampled_from(["read", "readline"]), SIZES),
    st.tuples(st.just("readlines"), SIZES),
    st.tuples(st.just("readinto"), st.integers(0, 30)),
    st.tuples(st.just("next"), st.none()),
)


def outcome(file: Any, method: str, size: int | None) -> object:
    if method == "readinto":
        buffer = bytearray(size or 0)
        return file.readinto(buffer), bytes(buffer)
    if method == "next":
        return next(file, b"")
    return getattr(file, method)(size)


@settings(deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\x01", b"\n"))),
    reads=st.lists(READS, max_size=12),
    buffer_size=st.integers(1, 20),
)
def test_any_reads_of_any_chunking_equal_those_of_file_in_memory(
    chunks: list[bytes], reads: list[tuple[str, int | None]], buffer_size: int
) -> None:
    """W-IN-1."""
    ours = buffered(*chunks, buffer_size=buffer_size)
    model = io.BufferedReader(io.BytesIO(b"".join(chunks)))
    for method, size in [*reads, ("read", None), ("read", 5)]:
        assert outcome(ours, method, size) == outcome(model, method, size)


@pytest.mark.parametrize("method", ["read", "readline"])
def test_the_end_is_empty_for_ever(method: str) -> None:
    """W-IN-1."""
    body = buffered(b"x")
    assert body.read() == b"x"
    assert [getattr(body, method)() for _ in range(3)] == [b"", b"", b""]


def test_a_text_wrapper_reads_it() -> None:
    """W-IN-1: a character that two chunks share is whole."""
    whole = "caf\N{LATIN SMALL LETTER E WITH ACUTE}\nline two".encode()
    text = io.TextIOWrapper(buffered(whole[:4], whole[4:]), encoding="utf-8")
    assert text.readlines() == ["caf\N{LATIN SMALL LETTER E WITH ACUTE}\n", "line two"]


def test_it_is_readable_and_nothing_else() -> None:
    """W-IN-1."""
    body = buffered()
    assert body.readable()
    assert not body.writable()
    assert not body.seekable()


def test_a_short_read_gives_what_is_there_without_waiting() -> None:
    reader = reader_of(channel_of(b"abc", ended=False))
    assert reader.read(10) == b"abc"


def test_one_read_gathers_chunks_that_wait_and_keeps_the_rest() -> None:
    reader = reader_of(channel_of(b"ab", b"cd", b"ef"))
    assert reader.read(3) == b"abc"
    assert reader.read(2) == b"de"
    assert reader.read(9) == b"f"
    assert reader.read(9) == b""


def test_readall_gives_the_rest_of_what_a_read_began() -> None:
    reader = reader_of(channel_of(b"ab", b"cd", b"ef"))
    assert reader.read(1) == b"a"
    assert reader.readall() == b"bcdef"


def test_a_read_of_nothing_waits_for_nothing() -> None:
    """W-IN-1: size 0 gives b"" at once; the client has not sent a byte and may never."""
    begun: list[str] = []
    reader = reader_of(channel_of(ended=False), begin=lambda: begun.append("begun"))
    assert reader.read(0) == b""
    assert begun == []


def test_a_buffered_read_of_nothing_waits_for_nothing() -> None:
    """W-IN-1: as `wsgi.input` is given to the app."""
    reader = io.BufferedReader(reader_of(channel_of(ended=False)))
    assert reader.read(0) == b""
    assert reader.readline(0) == b""


def test_room_is_made_as_app_reads_and_not_as_the_reader_fetches() -> None:
    """W-IN-4: a chunk of which the app has read a byte is in memory as a whole."""
    loop = HandTurnedLoop()
    channel = LoopToThread(loop, 10)  # type: ignore[arg-type]
    channel.put_in_loop(b"0123456789")
    reader = reader_of(channel)
    with HandTask(channel.wait_for_room_in_loop()) as waiting:
        for expected, room in ((b"0123", False), (b"4", True)):
            assert not waiting.step()
            assert reader.read(len(expected)) == expected
            loop.turn()
            assert waiting.step() == room


def test_readall_makes_room_for_what_it_has_not_seen_yet() -> None:
    """W-IN-4: a body larger than the budget comes to its end."""
    loop = HandTurnedLoop()
    channel = LoopToThread(loop, 4)  # type: ignore[arg-type]
    channel.put_in_loop(b"01234567")
    channel._lock = lock = LyingLock()  # type: ignore[assignment]
    room: list[bool] = []

    def send_the_rest() -> None:
        with HandTask(channel.wait_for_room_in_loop()) as asking:
            room.append(asking.step())
        channel.put_in_loop(b"89")
        channel.end_in_loop()

    lock.after("release_from_thread", send_the_rest)
    assert ended(reader_of(channel, timeout=WAIT_SECONDS).readall) == b"0123456789"
    assert room == [True]


# --- when the body is asked for


def test_a_body_that_nobody_reads_is_never_asked_for() -> None:
    """W-IN-5: the client that waits for `100 Continue` is told to go on by the first read, and
    once.
    """
    begun: list[str] = []
    reader = reader_of(channel_of(b"abc"), begin=lambda: begun.append("begun"))
    assert reader.readable()
    assert begun == []
    reader.read(1)
    reader.read(1)
    reader.readall()
    assert begun == ["begun"]


def test_the_body_is_asked_for_before_it_is_waited_for() -> None:
    channel = channel_of(ended=False)

    def begin() -> None:
        channel.put_in_loop(b"sent at last")
        channel.end_in_loop()

    assert ended(reader_of(channel, begin=begin, timeout=WAIT_SECONDS).readall) == b"sent at last"


def test_every_sleep_for_client_is_announced_and_nothing_else() -> None:
    """W-FLOW-8: a thread that waits for its upload does not count."""
    channel = channel_of(b"here already", ended=False)
    steps: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        steps.append("away")
        try:
            yield
        finally:
            steps.append("back")

    reader = reader_of(channel, waiting=waiting)
    assert reader.read(100) == b"here already"
    assert steps == []
    with pytest.raises(StalledError):
        reader.read(100)
    assert steps == ["away", "back"]


# --- how it ends badly


@pytest.mark.parametrize("read", ["read", "readline", "readlines", "__next__"])
def test_a_client_that_sends_nothing_in_time_fails_every_read(read: str) -> None:
    """W-IN-7."""
    body = io.BufferedReader(reader_of(channel_of(ended=False)))
    with pytest.raises(StalledError):
        getattr(body, read)()


def test_a_stall_after_some_bytes_is_no_short_read() -> None:
    """W-IN-3, W-IN-7: neither `read(n)` nor `read()` gives less than was asked for and calls it the
    end.
    """
    channel = channel_of(b"abc", ended=False)
    body = io.BufferedReader(reader_of(channel), 4)
    with pytest.raises(StalledError):
        body.read()
    channel.put_in_loop(b"too late")
    channel.end_in_loop()
    for size in (None, 1, 100):
        with pytest.raises(GivenUpError):
            body.read(size)


@pytest.mark.parametrize("size", [None, -1, 100])
def test_a_client_that_leaves_before_the_end_is_no_short_read(size: int | None) -> None:
    """W-IN-3."""
    channel = channel_of(b"abc", ended=False)
    channel.break_in_loop(GoneError)
    body = io.BufferedReader(reader_of(channel), 4)
    with pytest.raises(GoneError):
        body.read(size)
    with pytest.raises(GoneError):
        body.read(size)


def test_what_arrived_can_be_read_before_the_break_is_met() -> None:
    """W-IN-3."""
    channel = channel_of(b"abc", b"def", ended=False)
    channel.break_in_loop(GoneError)
    body = io.BufferedReader(reader_of(channel), 4)
    assert body.read(6) == b"abcdef"
    with pytest.raises(GoneError):
        body.read(1)


def test_a_reader_that_sleeps_is_woken_by_the_break() -> None:
    """W-IN-3, W-FLOW-3."""
    channel = channel_of(ended=False)
    channel._lock = lock = LyingLock()  # type: ignore[assignment]
    lock.after("take_from_thread", lambda: channel.break_in_loop(GoneError))
    reading = Blocking(lambda: reader_of(channel, timeout=WAIT_SECONDS).read(1))
    with pytest.raises(GoneError):
        reading.result()
    assert lock.told
