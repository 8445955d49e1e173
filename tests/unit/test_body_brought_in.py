"""body.py: the rest of a body is brought in before code runs that must not wait for it."""

import errno
import io
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.interleaving import WAIT_SECONDS, Blocking, HandTurnedLoop, LyingLock, ended
from tests.unit.test_body import (
    GivenUpError,
    GoneError,
    StalledError,
    channel_of,
    outcome,
    reader_of,
)
from wsgi_asgi_bridge._crossing.channel import LoopToThread
from wsgi_asgi_bridge._crossing.loops import WaitInLoop

READS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "readline"]), st.integers(-1, 30)),
        st.tuples(st.just("readinto"), st.integers(0, 30)),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\x01", b"\n"))),
    before=READS,
    after=READS,
    buffer_size=st.integers(1, 20),
    memory=st.integers(1, 40),
)
def test_reads_before_and_after_equal_those_of_a_file_in_memory(
    chunks: list[bytes],
    before: list[tuple[str, int]],
    after: list[tuple[str, int]],
    buffer_size: int,
    memory: int,
) -> None:
    """W-CALL-4, W-IN-1: whatever has been read or buffered when the source changes."""
    reader = reader_of(channel_of(*chunks), memory=memory)
    ours = io.BufferedReader(reader, buffer_size)
    model = io.BufferedReader(io.BytesIO(b"".join(chunks)))
    for reads in (before, [*after, ("read", -1), ("read", 5)]):
        for method, size in reads:
            assert outcome(ours, method, size) == outcome(model, method, size)
        reader.buffer_rest()
    reader.discard(GoneError)
    assert ours.read() == b""  # what was read to its end stays so


def test_a_body_is_brought_in_once() -> None:
    """W-CALL-4: a view may be entered as often as it likes."""
    begun: list[str] = []
    reader = reader_of(channel_of(b"abc"), begin=lambda: begun.append("begun"))
    reader.buffer_rest()
    reader.buffer_rest()
    assert reader.read(2) == b"ab"
    reader.buffer_rest()
    assert reader.readall() == b"c"
    reader.buffer_rest()
    assert reader.readall() == b""
    assert begun == ["begun"]


def test_it_makes_room_as_it_goes() -> None:
    """W-IN-4: a body beyond the budget comes to its end."""
    channel = LoopToThread(HandTurnedLoop(), 4)  # type: ignore[arg-type]
    channel.put_in_loop(b"01234567")
    channel._lock = lock = LyingLock()  # type: ignore[assignment]
    room: list[bool] = []

    def send_the_rest() -> None:
        room.append(channel.put_in_loop(b""))
        channel.put_in_loop(b"89")
        channel.end_in_loop()

    lock.after("release_from_thread", send_the_rest)
    reader = reader_of(channel, timeout=WAIT_SECONDS)
    ended(reader.buffer_rest)
    assert room == [True]
    assert reader.readall() == b"0123456789"
    assert channel.held_in_loop() == (0, True)


def test_another_thread_that_reads_goes_on_where_it_was() -> None:
    """W-CALL-4: a parser in a thread of the app's own is the reader, and asleep in a read, when the
    view enters the loop for something else.
    """
    channel = channel_of(ended=False)
    channel._lock = lock = LyingLock()  # type: ignore[assignment]
    reader = reader_of(channel, timeout=WAIT_SECONDS)
    body = io.BufferedReader(reader, 4)
    parser = Blocking(lambda: [body.read(6), body.read()])
    lock.wait_until(lambda: channel._taker is not None)
    bringing = Blocking(reader.buffer_rest)
    channel.put_in_loop(b"0123")
    channel.put_in_loop(b"4567")
    channel.end_in_loop()
    bringing.result()
    assert parser.result() == [b"012345", b"67"]


@pytest.mark.parametrize("size", [-1, 1])
def test_what_broke_it_off_is_raised_behind_what_came(size: int) -> None:
    """W-CALL-4, W-IN-3: by every read, and not by whoever brings it in."""
    channel = channel_of(b"abc", ended=False)
    channel.break_in_loop(GoneError)
    reader = reader_of(channel)
    reader.buffer_rest()
    body = io.BufferedReader(reader, 4)
    assert body.read(3) == b"abc"
    for _ in range(2):
        with pytest.raises(GoneError):
            body.read(size)


def test_a_stall_is_raised_once_and_behind_what_came() -> None:
    """W-CALL-4, W-IN-7: what comes too late is not read any more."""
    channel = channel_of(b"abc", ended=False)
    reader = reader_of(channel)
    ended(reader.buffer_rest)
    channel.put_in_loop(b"too late")
    channel.end_in_loop()
    reader.buffer_rest()
    assert reader.read(9) == b"abc"
    with pytest.raises(StalledError):
        reader.read(9)
    for _ in range(2):
        with pytest.raises(GivenUpError):
            reader.read(9)


def test_what_is_left_at_the_end_cannot_be_read() -> None:
    """W-CALL-4: the file is closed with the request."""
    reader = reader_of(channel_of(b"abcdef"), memory=1)
    reader.buffer_rest()
    assert reader.read(2) == b"ab"
    reader.discard(GoneError)
    for _ in range(2):
        with pytest.raises(GoneError):
            reader.read(2)
    assert reader_of(channel_of(b"x")).discard(GoneError) is None


class FullDisk:
    """A file that takes nothing, not even when it is closed."""

    def writelines(self, parts: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        self.writelines(())


def test_a_full_disk_is_an_error_of_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-CALL-4: with its number and where to look; nothing is read with a gap."""
    reader = reader_of(channel_of(b"abc", b"def"), memory=1)
    monkeypatch.setattr(
        "wsgi_asgi_bridge._crossing.body.SpooledTemporaryFile", lambda memory: FullDisk()
    )
    reader.buffer_rest()
    for _ in range(2):
        with pytest.raises(OSError, match="could not be kept in a file: No space left") as caught:
            reader.read(2)
        assert caught.value.errno == errno.ENOSPC


def test_no_read_waits_in_the_loops_thread() -> None:
    """W-CALL-4: nor for the thread that brings the body in; what is there is read."""
    loop = HandTurnedLoop()
    channel = LoopToThread(loop, 100)  # type: ignore[arg-type]
    reader = reader_of(channel, timeout=WAIT_SECONDS)
    channel.put_in_loop(b"abc")

    def in_loop() -> None:
        loop.own_threads.add(threading.get_ident())
        assert reader.read(3) == b"abc"
        with reader._lock, pytest.raises(WaitInLoop):
            reader.read(1)
        with pytest.raises(WaitInLoop):
            reader.read(1)

    ended(in_loop)
    channel.end_in_loop()
    with pytest.raises(WaitInLoop):
        reader.read(1)
