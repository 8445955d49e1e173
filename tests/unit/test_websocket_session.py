"""websocket_session.py: bytes of a client into ASGI messages, however they are cut."""

import gc
import itertools
import weakref
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.support.websocket_wire import BINARY, CLOSE, CONT, PING, TEXT, Frame, close_frame
from wsgi_asgi_bridge import AppError
from wsgi_asgi_bridge._protocol.websocket_session import (
    LEAST_FRAME_BYTES,
    PORTION_BYTES,
    Close,
    WebSocketSession,
    checked_accept,
    checked_close,
    payload_of,
)

ENVIRON = {
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": "c2l4dGVlbiBieXRlcy4uLg==",
}
LIMIT = 1000


def session(offer: str = "", **how: Any) -> WebSocketSession:
    environ = {**ENVIRON, "HTTP_SEC_WEBSOCKET_EXTENSIONS": offer}
    made = WebSocketSession(environ, **{"max_message_size": LIMIT, "compression": False, **how})
    made.accept({"type": "websocket.accept"}, [])
    return made


def fed(receiving: WebSocketSession, data: bytes) -> list[tuple[dict[str, Any], int]]:
    receiving.feed(data)
    messages = receiving.receive()
    while receiving.has_more:
        messages += receiving.receive()
    return messages


def taken(messages: list[tuple[dict[str, Any], int]]) -> list[str | bytes]:
    return [message["text"] if "text" in message else message["bytes"] for message, _ in messages]


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-12)
    payload = (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    whole = bytearray(Frame(BINARY, payload).masked())
    whole[0] |= 0x40  # RSV1
    return bytes(whole)


MESSAGE = st.one_of(st.text(max_size=40), st.binary(max_size=40))


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[str | bytes], bytes]:
    """Messages, and frames that carry them: whole or in fragments, with pings between."""
    messages = draw(st.lists(MESSAGE, max_size=5))
    data = b""
    for message in messages:
        payload = message.encode() if isinstance(message, str) else message
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        edges = [0, *cuts, len(payload)]
        opcode = TEXT if isinstance(message, str) else BINARY
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            fin = number == len(edges) - 2
            data += Frame(CONT if number else opcode, payload[start:end], fin).masked()
            if draw(st.booleans()):
                data += Frame(PING, b"p").masked()
    return messages, data


@settings(deadline=None)
@given(streams(), st.lists(st.integers(0, 500), max_size=8))
def test_messages_however_they_are_cut(
    stream: tuple[list[str | bytes], bytes], places: list[int]
) -> None:
    """WS-A-11: the same messages, whole, byte by byte, and cut anywhere."""
    messages, data = stream
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    for parts in ([data], pieces, [bytes([byte]) for byte in data]):
        receiving = session()
        received: list[str | bytes] = []
        for part in parts:
            received += taken(fed(receiving, part))
        assert received == messages
        assert receiving.end is None


@settings(deadline=None)
@given(st.lists(MESSAGE, max_size=5))
def test_what_is_sent_is_what_a_client_reads(messages: list[str | bytes]) -> None:
    """WS-A-9: the model is the package's own client."""
    sending = session()

    client = ClientProtocol(parse_uri("ws://example.org/"), state=State.OPEN)
    for message in messages:
        kind = "text" if isinstance(message, str) else "bytes"
        sending.send({"type": "websocket.send", kind: message})
    sending.close(4000, "bye")
    chunks, last = sending.take_output()
    assert last is False
    client.receive_data(b"".join(chunks))
    frames = client.events_received()
    assert [bytes(frame.data) for frame in frames[:-1]] == [
        message.encode() if isinstance(message, str) else message for message in messages
    ]
    assert (client.close_rcvd.code, client.close_rcvd.reason) == (4000, "bye")


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=12), st.integers(0, 12))
def test_text_that_is_not_utf8_ends_it(data: bytes, cut: int) -> None:
    """WS-A-9: 1007, exactly if Python does not decode it either; in fragments too."""
    frames = Frame(TEXT, data[:cut], False).masked() + Frame(CONT, data[cut:]).masked()
    for stream in (Frame(TEXT, data).masked(), frames):
        receiving = session()
        received = fed(receiving, stream)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            assert received == []
            assert receiving.end is not None
            assert receiving.end.code == 1007
            assert receiving.failed
        else:
            assert taken(received) == [text]
            assert receiving.end is None


def test_wrong_text_ends_a_message_before_its_last_fragment() -> None:
    """WS-A-9: its sender need not be heard out."""
    receiving = session()
    assert fed(receiving, Frame(TEXT, b"\xff", fin=False).masked()) == []
    assert receiving.end == Close(1007, "the text is not UTF-8")


def test_a_close_frame_between_fragments() -> None:
    """WS-A-9: legal (RFC 6455 5.4)."""
    receiving = session()
    half = Frame(BINARY, b"half", fin=False).masked()
    assert fed(receiving, half + close_frame(1001, "bye").masked()) == []
    assert receiving.end == Close(1001, "bye")
    assert not receiving.failed
    chunks, last = receiving.take_output()
    assert (b"".join(chunks), last) == (b"\x88\x05\x03\xe9bye", True)


@pytest.mark.parametrize(
    ("sizes", "end"),
    [
        ([LIMIT], None),
        ([LIMIT + 1], 1009),
        ([LIMIT - 1, 1], None),
        ([LIMIT, 1], 1009),
        ([1] * (LIMIT + 1), 1009),
    ],
    ids=["one", "one too large", "fragments", "fragments too large", "many"],
)
def test_the_limit_of_a_message(sizes: list[int], end: int | None) -> None:
    """WS-A-9."""
    receiving = session()
    stream = b"".join(
        Frame(CONT if number else BINARY, bytes(size), number == len(sizes) - 1).masked()
        for number, size in enumerate(sizes)
    )
    received = fed(receiving, stream)
    assert receiving.end == (end and Close(end, f"a message may have {LIMIT} bytes"))
    assert len(received) == (0 if end else 1)


PORTIONS = {
    "tiny frames": (Frame(PING).masked(), LEAST_FRAME_BYTES),
    "frames that are inflated": (deflated(bytes(LIMIT)), LEAST_FRAME_BYTES + LIMIT),
}


@pytest.mark.parametrize(("frame", "counts_for"), PORTIONS.values(), ids=PORTIONS)
def test_one_call_takes_a_portion_of_the_frames(frame: bytes, counts_for: int) -> None:
    """WS-A-11: by the number of frames, and by the bytes that they are inflated to."""
    receiving = session(compression=True, offer="permessage-deflate")
    count = -(-PORTION_BYTES // counts_for)
    receiving.feed(frame * (2 * count + 1) + frame[:1])
    frames: list[Any] = []
    recv_frame = receiving._engine.recv_frame

    def counted(frame: Any) -> None:
        frames.append(frame)
        recv_frame(frame)

    receiving._engine.recv_frame = counted
    for left in (count + 1, 1, 0):
        receiving.receive()
        assert len(frames) == 2 * count + 1 - left
        assert receiving.has_more is (left > 0)
    receiving.feed(frame[1:])
    receiving.receive()
    assert len(frames) == 2 * count + 2


def test_an_end_is_no_portion() -> None:
    """WS-A-10: what comes behind a close frame, or behind a fault, is dropped at once."""
    flood = Frame(PING).masked() * (PORTION_BYTES // LEAST_FRAME_BYTES - 1)
    for last in (close_frame(1000).masked(), Frame(TEXT, b"\xff").masked()):
        receiving = session()
        receiving.feed(flood + last + flood * 3)
        receiving.receive()
        assert receiving.end is not None
        assert not receiving.has_more
        assert not receiving._engine.reader.buffer


def test_control_frames_do_not_count_against_the_limit() -> None:
    """WS-A-9: neither before nor inside of a message, and however small the limit is."""
    receiving = session(max_message_size=10)
    ping = Frame(PING, bytes(125)).masked()
    halves = Frame(BINARY, bytes(10), False).masked() + ping + Frame(CONT).masked()
    assert taken(fed(receiving, ping + halves)) == [bytes(10)]
    assert fed(receiving, close_frame(1001, "r" * 123).masked()) == []
    assert receiving.end == Close(1001, "r" * 123)


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("compression", [True, False])
def test_a_message_over_the_limit_ends_it_where_it_stands(fin: bool, compression: bool) -> None:
    """WS-A-9: 1009, though what comes with it is a close frame."""
    receiving = session(offer="permessage-deflate", compression=compression)
    stream = Frame(BINARY, bytes(LIMIT + 1), fin).masked() + close_frame(1000).masked()
    assert fed(receiving, stream) == []
    assert receiving.end is not None
    assert receiving.end.code == 1009
    assert receiving.failed
    chunks, last = receiving.take_output()
    assert (b"".join(chunks)[2:4], last) == (b"\x03\xf1", True)


def test_nothing_is_taken_after_the_end() -> None:
    """WS-A-10: neither after our own close nor after the client's."""
    receiving = session()
    receiving.close(1000, "")
    assert fed(receiving, Frame(TEXT, b"late").masked()) == []
    assert fed(receiving, close_frame(1000).masked() + b"no frame") == []
    assert fed(receiving, b"more") == []
    assert receiving.end == Close(1000, "")
    receiving.receive_end()
    assert fed(receiving, b"more") == []
    assert not receiving.failed


def test_an_end_without_a_close_frame() -> None:
    """WS-A-9: 1006."""
    receiving = session()
    receiving.receive_end()
    assert receiving.end == Close(1006, "")
    assert receiving.failed


def test_an_empty_close_frame_is_echoed_as_it_is() -> None:
    """WS-A-9: 1005."""
    receiving = session()
    fed(receiving, Frame(CLOSE).masked())
    assert receiving.end == Close(1005, "")
    assert receiving.take_output() == ([b"\x88\x00"], True)


def test_a_session_is_freed_without_the_garbage_collector() -> None:
    """Its engine has a generator that refers to it."""
    gc.collect()
    gc.disable()
    try:
        for ends in (True, False):
            made = session()
            engine = weakref.ref(made._engine)
            if ends:
                fed(made, close_frame(1000).masked())
                made.receive_end()
            made.let_go()
            del made
            assert engine() is None
    finally:
        gc.enable()


def test_an_offer_of_extensions_that_is_malformed() -> None:
    """WS-A-1."""
    environ = {**ENVIRON, "HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate; ="}
    made = WebSocketSession(environ, max_message_size=LIMIT, compression=True)
    assert made.refusal is not None
    assert made.refusal.status == "400 Bad Request"


def test_compression_is_agreed_on_with_a_small_window() -> None:
    """WS-A-13: zlib's defaults take 300 KB for each connection."""
    made = session(offer="permessage-deflate; client_max_window_bits", compression=True)
    head = made.accept({"type": "websocket.accept"}, [])
    agreed = b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    assert b"\r\nSec-WebSocket-Extensions: " + agreed + b"\r\n" in head
    (deflate,) = made._engine.extensions
    assert deflate.compress_settings == {"memLevel": 5}


@pytest.mark.parametrize(
    "message", [{}, {"text": None}, {"text": b""}, {"bytes": ""}, {"bytes": 5}, {"text": "\ud800"}]
)
def test_what_is_no_payload(message: dict[str, Any]) -> None:
    """WS-A-12."""
    with pytest.raises(AppError, match=r"websocket\.send"):
        payload_of(message)


def test_payloads() -> None:
    """WS-A-12: bytes-like values are converted, and win over a text."""
    assert payload_of({"bytes": bytearray(b"a"), "text": "b"}) == b"a"
    assert payload_of({"bytes": memoryview(b"a")}) == b"a"
    assert payload_of({"bytes": None, "text": "h\xe9"}) == "h\xe9"


@pytest.mark.parametrize(
    "message",
    [{"code": code} for code in (0, True, 999, 1004, 1005, 1006, 1015, 2999, 5000, 1 << 70)]
    + [{"code": "1000"}, {"code": 1000.0}, {"reason": b"bye"}, {"reason": 5}, {"reason": "\ud800"}]
    + [{"reason": "x" * 124}, {"reason": "\xe9" * 62}],
    ids=str,
)
def test_what_is_no_close(message: dict[str, Any]) -> None:
    """WS-A-12."""
    with pytest.raises(AppError, match=r"websocket\.close: the (code|reason) is "):
        checked_close(message)


@pytest.mark.parametrize(
    ("message", "close"),
    [
        ({}, Close(1000, "")),
        ({"code": None, "reason": None}, Close(1000, "")),
        ({"code": 4000, "reason": "\xe9" * 61}, Close(4000, "\xe9" * 61)),
    ],
    ids=["empty", "none", "both"],
)
def test_closes(message: dict[str, Any], close: Close) -> None:
    """WS-A-9, WS-A-12: 1000 without a reason is the default."""
    assert checked_close(message) == close


def test_a_subprotocol_must_be_offered() -> None:
    """WS-A-12."""
    assert checked_accept({"subprotocol": "b"}, ["a", "b"]) == ("b", [])
    with pytest.raises(AppError, match=r"expected one that the client offers: \['a'\]"):
        checked_accept({"subprotocol": "b"}, ["a"])
