"""_protocol/websocket_frames.py: what an app's WebSocket library writes and reads.

The models are the sans-I/O protocols of `websockets` and wsproto: as servers they write what the
parser reads and read what the encoder writes, as clients they judge the same bytes.
"""

import struct
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.frames import EXTERNAL_CLOSE_CODES, Frame, Opcode
from websockets.frames import Close as ModelClose
from websockets.protocol import OPEN, Protocol, Side
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, TextMessage
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from wsgi_asgi_bridge._protocol.close_codes import (
    INVALID_DATA,
    NO_STATUS,
    PROTOCOL_ERROR,
    TOO_BIG,
    is_sendable_close_code,
)
from wsgi_asgi_bridge._protocol.websocket_frames import (
    BINARY,
    CLOSE,
    MAX_HEAD_BYTES,
    PING,
    PONG,
    TEXT,
    Close,
    Event,
    FrameError,
    FrameParser,
    HeadParser,
    Ping,
    Pong,
    ResponseHead,
    close_payload,
    encode_frame,
    encode_frame_head,
)
from wsgi_asgi_bridge.errors import AppError

CODES = [*sorted(EXTERNAL_CLOSE_CODES - {1014}), 3000, 3999, 4000, 4999]
"""Those that both models know."""

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]
"""On both sides of each border between the three forms of a length."""

CONTROLS = st.one_of(
    st.builds(Ping, st.binary(max_size=125)), st.builds(Pong, st.binary(max_size=125))
)
CLOSES = st.one_of(
    st.just(Close(NO_STATUS, "")),
    st.builds(Close, st.sampled_from(CODES), st.text(max_size=30)),
)
DATA = st.one_of(st.text(max_size=300), st.binary(max_size=300))
FRAGMENTED = st.tuples(
    DATA, st.lists(st.integers(0, 300), max_size=4), st.lists(CONTROLS, max_size=3)
)
"""A message, where it is cut, and the control frames that come between its fragments."""


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """One frame as a server writes it."""
    return Frame(Opcode(opcode), payload, fin).serialize(mask=False)


def raw_frame(first: int, payload: bytes = b"") -> bytes:
    """A frame with any first byte, as the models will not write it."""
    return bytes([first, len(payload)]) + payload


def written(event: Event) -> bytes:
    """The event as one frame, by `websockets`."""
    if isinstance(event, str):
        return frame(TEXT, event.encode())
    if isinstance(event, bytes):
        return frame(BINARY, event)
    if isinstance(event, Ping):
        return frame(PING, event.payload)
    if isinstance(event, Pong):
        return frame(PONG, event.payload)
    return frame(CLOSE, b"" if event.code == NO_STATUS else ModelClose(*event).serialize())


def fragmented(
    message: str | bytes, cuts: list[int], controls: list[Ping | Pong]
) -> tuple[bytes, list[Event]]:
    """A message in fragments with a control frame after each, and the events that it makes."""
    payload = message.encode() if isinstance(message, str) else message
    borders = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    waiting, wire, events = list(controls), b"", list[Event]()
    for place, (start, end) in enumerate(pairwise(borders)):
        last = place == len(borders) - 2
        opcode = Opcode.CONT if place else TEXT if isinstance(message, str) else BINARY
        wire += frame(opcode, payload[start:end], fin=last)
        if waiting and not last:
            events.append(waiting.pop(0))
            wire += written(events[-1])
    return wire, [*events, message]


def pieces(wire: bytes, cuts: list[int]) -> Iterator[bytes]:
    borders = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in pairwise(borders):
        yield wire[start:end]


def parsed(parts: Iterator[bytes] | list[bytes], **options: Any) -> list[Event]:
    """Fed; and again as the socket does it, which asks for a small message first."""
    parts = list(parts)
    fed, asked = FrameParser(**options), FrameParser(**options)
    events = [event for part in parts for event in fed.feed(part)]
    again = list[Event]()
    for part in parts:
        message = asked.small_message(part)
        again += asked.feed(part) if message is None else [message]
    assert [(type(event), event) for event in again] == [(type(event), event) for event in events]
    return events


def parse_into(events: list[Event], wire: bytes, step: int) -> None:
    """Parse `step` bytes at a time. `events` has what came, whatever is raised."""
    parser = FrameParser()
    for start in range(0, len(wire), step):
        events.extend(parser.feed(wire[start : start + step]))


def by_wsproto(wire: bytes) -> list[Event]:
    """What wsproto, as the client, makes of the same bytes. Raises ParseFailed."""
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(wire)
    events, parts = list[Event](), list[Any]()
    for model in client.received_frames():
        payload: Any = model.payload
        if model.opcode == CLOSE:
            events.append(Close(*payload))
        elif model.opcode in (PING, PONG):
            events.append((Ping if model.opcode == PING else Pong)(bytes(payload)))
        else:
            parts.append(payload)
            if model.message_finished:
                empty: Any = "" if model.opcode == TEXT else b""
                events.append(empty.join(parts))
                parts = []
    return events


def code_by_wsproto(wire: bytes) -> int | None:
    """The code with which wsproto as the client fails the connection; None if it does not."""
    try:
        by_wsproto(wire)
    except ParseFailed as error:
        return int(error.code)
    return None


def code_by_websockets(wire: bytes, max_size: int | None = None) -> int | None:
    """The same by `websockets`."""
    client = Protocol(Side.CLIENT, state=OPEN, max_size=max_size)
    client.receive_data(wire)
    if client.parser_exc is None:
        return None
    assert client.close_sent is not None
    return client.close_sent.code


def code_of(wire: bytes, **options: Any) -> int | None:
    try:
        parsed([wire], **options)
    except FrameError as error:
        return error.close_code
    return None


# --- what the library writes


@given(st.lists(DATA | CONTROLS | FRAGMENTED, max_size=8), CLOSES | st.none(), st.data())
def test_events_are_those_that_were_written_however_the_bytes_come(
    items: list[Any], close: Close | None, data: st.DataObject
) -> None:
    """Whole, byte by byte and cut anywhere; wsproto as the client reads the same."""
    wire, expected = b"", list[Event]()
    for item in items:
        if isinstance(item, tuple) and not isinstance(item, Ping | Pong):
            part, events = fragmented(*item)
        else:
            part, events = written(item), [item]
        wire += part
        expected += events
    if close is not None:
        wire += written(close)
        expected.append(close)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=10))
    assert by_wsproto(wire) == expected
    assert parsed([wire]) == expected
    assert parsed(list(pieces(wire, cuts))) == expected
    assert parsed([wire[i : i + 1] for i in range(len(wire))]) == expected


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_every_form_of_a_length(kind: int, length: int) -> None:
    payload = b"x" * length
    message = payload.decode() if kind == TEXT else payload
    wire = frame(kind, payload)
    assert parsed([wire]) == [message]
    assert parsed(list(pieces(wire, [1, 2, 3, 9, length // 2]))) == [message]
    assert parsed([bytearray(wire), memoryview(wire)]) == [message, message]  # type: ignore[list-item]


def test_what_a_caller_does_with_its_buffer_later_changes_nothing() -> None:
    parser = FrameParser()
    buffer = bytearray(frame(BINARY, b"first") + frame(BINARY, b"second"))
    events = parser.feed(buffer)
    assert next(events) == b"first"
    buffer[:] = b"\xff" * len(buffer)
    assert list(events) == [b"second"]


def test_events_that_were_not_taken_come_with_the_next_bytes() -> None:
    """A writer that was interrupted, by its time-out say, loses nothing."""
    parser = FrameParser()
    third = frame(TEXT, b"third")
    assert next(parser.feed(frame(TEXT, b"first") + frame(TEXT, b"second") + third[:3])) == "first"
    assert list(parser.feed(third[3:])) == ["second", "third"]


def test_nothing_follows_a_close_frame() -> None:
    parser = FrameParser()
    close = written(Close(1000, "bye"))
    assert list(parser.feed(close + frame(TEXT, b"late"))) == [Close(1000, "bye")]
    assert list(parser.feed(b"\xff" * 10)) == []
    assert list(parser.feed(frame(TEXT, b"later"))) == []


def test_a_close_frame_inside_a_fragmented_message_is_legal() -> None:
    """Autobahn's case 7.1.5."""
    wire = frame(TEXT, b"half", fin=False) + written(Close(1000, ""))
    assert parsed([wire]) == by_wsproto(wire) == [Close(1000, "")]


def test_empty_fragments_without_an_end_take_no_memory() -> None:
    parser = FrameParser()
    list(parser.feed(frame(TEXT, fin=False)))
    empty = frame(Opcode.CONT, fin=False) * 1000
    tracemalloc.start()
    try:
        for _ in range(20):
            assert list(parser.feed(empty)) == []
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()
    assert list(parser.feed(frame(Opcode.CONT))) == [""]


# --- small messages


@pytest.mark.parametrize("message", ["", "text", "\xe9" * 62, b"", b"binary", b"x" * 125])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_small_message_is_taken_at_once(message: str | bytes, kind: Any) -> None:
    parser = FrameParser()
    assert parser.small_message(kind(written(message))) == message
    assert list(parser.feed(written("next"))) == ["next"]


def test_a_small_message_is_not_taken_out_of_its_order() -> None:
    """Nor after a close frame, nor beyond the limit."""
    small = frame(TEXT, b"x")
    for before in (frame(TEXT, fin=False), small[:1], small * 2, written(Close(1000, ""))):
        parser = FrameParser()
        next(parser.feed(before), None)
        assert parser.small_message(small) is None
    assert FrameParser(1).small_message(small) == "x"
    assert FrameParser(0).small_message(small) is None


@given(st.binary(max_size=6))
def test_what_is_no_small_message_is_to_be_fed(wire: bytes) -> None:
    message = FrameParser().small_message(wire)
    if message is not None:
        assert list(FrameParser().feed(wire)) == [message]


@pytest.mark.parametrize(
    "wire", [b"", b"\x82", b"\x82\x01", b"\x82\x01xy", frame(BINARY, b"x" * 126)]
)
def test_what_is_not_one_whole_short_frame_is_to_be_fed(wire: bytes) -> None:
    assert FrameParser().small_message(wire) is None


# --- close codes


@pytest.mark.parametrize("code", range(990, 1025))
def test_which_codes_of_the_registry_may_be_sent(code: int) -> None:
    assert is_sendable_close_code(code) == (code in EXTERNAL_CLOSE_CODES)


@pytest.mark.parametrize(
    ("code", "sendable"),
    [(0, False), (999, False), (2999, False), (3000, True), (4999, True), (5000, False)],
)
def test_which_codes_beyond_it_may_be_sent(code: int, sendable: bool) -> None:
    assert is_sendable_close_code(code) == sendable


def test_every_code_in_a_close_frame() -> None:
    """Both models judge it alike, but for 1014, which wsproto does not know."""
    for code in [*range(900, 1100), *range(2990, 3010), *range(4990, 5010), 0, 65535]:
        payload = struct.pack("!H", code) + b"why"
        wire = frame(CLOSE, payload)
        if is_sendable_close_code(code):
            assert parsed([wire]) == [Close(code, "why")]
            assert close_payload(code, "why") == payload
        else:
            assert code_of(wire) == PROTOCOL_ERROR
            assert close_payload(code, "why") == (b"" if code == NO_STATUS else None)
        assert code_by_websockets(wire) == code_of(wire)
        if code != 1014:
            assert code_by_wsproto(wire) == code_of(wire)


@given(st.sampled_from(CODES), st.text(max_size=200))
@example(1000, "x" * 123)
@example(1000, "x" * 124)
@example(1000, "x" + "\xe9" * 61)
@example(1000, "x" + "\xe9" * 62)
@example(1000, "xx" + "\xe9" * 62)
def test_a_long_reason_is_cut_at_a_character(code: int, reason: str) -> None:
    payload = close_payload(code, reason)
    assert payload is not None
    assert len(payload) <= 125
    parsed_code, cut = ModelClose.parse(payload).code, ModelClose.parse(payload).reason
    assert parsed_code == code
    assert reason.startswith(cut)
    assert len(payload) > 121 or cut == reason


def test_a_reason_that_no_frame_can_hold_is_replaced() -> None:
    assert close_payload(1000, "\udcff") == b"\x03\xe8?"


# --- wrong frames

WRONG = {
    "masked": (encode_frame(TEXT, b"x"), PROTOCOL_ERROR),
    "masked and empty": (encode_frame(TEXT, b""), PROTOCOL_ERROR),
    "compressed": (raw_frame(0xC1, b"x"), PROTOCOL_ERROR),
    "second reserved bit": (raw_frame(0xA1, b"x"), PROTOCOL_ERROR),
    "third reserved bit": (raw_frame(0x91, b"x"), PROTOCOL_ERROR),
    "opcode 3": (raw_frame(0x83), PROTOCOL_ERROR),
    "opcode 7": (raw_frame(0x87), PROTOCOL_ERROR),
    "opcode 11": (raw_frame(0x8B), PROTOCOL_ERROR),
    "opcode 15": (raw_frame(0x8F), PROTOCOL_ERROR),
    "fragmented ping": (raw_frame(0x09), PROTOCOL_ERROR),
    "fragmented close": (raw_frame(0x08), PROTOCOL_ERROR),
    "long ping": (bytes([0x89, 126, 0, 126]) + b"x" * 126, PROTOCOL_ERROR),
    "continuation of nothing": (raw_frame(0x80, b"x"), PROTOCOL_ERROR),
    "fragment of nothing": (raw_frame(0x00, b"x"), PROTOCOL_ERROR),
    "text inside a message": (raw_frame(0x01, b"x") + raw_frame(0x81, b"y"), PROTOCOL_ERROR),
    "binary inside a message": (raw_frame(0x01, b"x") + raw_frame(0x02, b"y"), PROTOCOL_ERROR),
    "message after message": (
        raw_frame(0x01, b"x") + raw_frame(0x80, b"y") + raw_frame(0x80, b"z"),
        PROTOCOL_ERROR,
    ),
    "half a close code": (raw_frame(0x88, b"\x03"), PROTOCOL_ERROR),
    "reason is not UTF-8": (raw_frame(0x88, b"\x03\xe8\xff"), INVALID_DATA),
    "text is not UTF-8": (raw_frame(0x81, b"caf\xe9"), INVALID_DATA),
    "surrogate": (raw_frame(0x81, b"\xed\xa0\x80"), INVALID_DATA),
    "character cut at the end": (raw_frame(0x01, b"\xc3") + raw_frame(0x80), INVALID_DATA),
}

WRONG_TEXTS = {"text is not UTF-8", "surrogate", "character cut at the end"}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_frame_is_no_small_message(name: str) -> None:
    wire, _ = WRONG[name]
    assert FrameParser().small_message(wire) is None


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_frame_gives_the_close_code_of_the_rfc(name: str) -> None:
    """Both models refuse it with the same code, but `websockets` leaves texts to its user."""
    wire, code = WRONG[name]
    assert code_by_websockets(wire) == (None if name in WRONG_TEXTS else code)
    assert code_by_wsproto(wire) == code
    assert code_of(wire) == code
    assert code_of(frame(TEXT, b"before") + wire) == code


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_frame_byte_by_byte_loses_nothing_before_it(name: str) -> None:
    wire, code = WRONG[name]
    for step in (1, 1000):
        events = list[Event]()
        with pytest.raises(FrameError, match="the app's WebSocket library sent") as caught:
            parse_into(events, frame(TEXT, b"before") + wire, step)
        assert caught.value.close_code == code
        assert events[0] == "before"


@pytest.mark.parametrize(
    "head",
    [
        bytes([0x82, 126, 0, 125]),
        bytes([0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]),
        bytes([0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_a_length_that_is_not_the_shortest_is_refused(head: bytes) -> None:
    """`websockets` lets it pass, wsproto does not."""
    assert code_by_wsproto(head) == PROTOCOL_ERROR
    assert code_of(head) == PROTOCOL_ERROR


@given(st.lists(st.integers(0, 15), min_size=1, max_size=6), st.data())
def test_any_sequence_of_frames_is_judged_as_wsproto_judges_it(
    opcodes: list[int], data: st.DataObject
) -> None:
    """First bytes of every kind, with short payloads of any bytes."""
    wire = b""
    for opcode in opcodes:
        flags = data.draw(st.sampled_from([0x80, 0x80, 0x00, 0x40, 0x10]))
        if opcode == CLOSE:
            payload = close_payload(1000) or b""
        else:
            payload = data.draw(st.sampled_from([b"", b"x", b"\xc3", b"\xa9", b"\xff"]))
        wire += raw_frame(flags | opcode, payload)
    # wsproto decodes text as it comes, the parser when it is whole: the same text is refused, but
    # of an unfinished one only wsproto knows.
    wanted = code_by_wsproto(wire)
    assert code_of(wire) == wanted or wanted == INVALID_DATA


# --- the size limit


def test_a_message_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    for size, code in ((100, None), (101, TOO_BIG)):
        for wire in (
            frame(TEXT, b"x" * size),
            frame(BINARY, b"x" * 50, fin=False) + frame(Opcode.CONT, b"x" * (size - 50)),
            frame(BINARY, b"x" * size, fin=False),
        ):
            assert code_of(wire, max_message_size=100) == code
            assert code_by_websockets(wire, max_size=100) == code


def test_a_frame_is_refused_by_its_head_before_its_payload_comes() -> None:
    head = frame(BINARY, b"x" * 70_000)[:10]
    assert code_of(head, max_message_size=69_999) == TOO_BIG
    assert code_of(head, max_message_size=70_000) is None


def test_the_limit_is_of_each_message_and_not_of_control_frames() -> None:
    wire = frame(TEXT, b"ab", fin=False) + frame(PING, b"x" * 125) + frame(Opcode.CONT, b"c")
    expected: list[Event] = [Ping(b"x" * 125), "abc"]
    assert parsed([wire * 3], max_message_size=3) == expected * 3


def test_payload_too_big_is_the_models_name_for_it() -> None:
    client = Protocol(Side.CLIENT, state=OPEN, max_size=1)
    client.receive_data(frame(TEXT, b"xx"))
    assert isinstance(client.parser_exc, PayloadTooBig)


# --- what the library reads


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_models_read_what_is_encoded(opcode: int, length: int) -> None:
    """Masked, as a server demands it of its client; a key of zero leaves the payload as it is."""
    payload = b"y" * length
    wire = encode_frame(opcode, payload)
    assert wire == encode_frame_head(opcode, length) + payload
    assert wire[1] & 0x80
    server = Protocol(Side.SERVER, state=OPEN, max_size=None)
    server.receive_data(wire)
    assert server.events_received() == [Frame(Opcode(opcode), payload)]
    peer = Connection(ConnectionType.SERVER)
    peer.receive_data(wire)
    received = b"".join(
        part.data.encode() if isinstance(part, TextMessage) else bytes(part.data)
        for part in peer.events()
        if isinstance(part, TextMessage | BytesMessage)
    )
    assert received == payload


@pytest.mark.parametrize("code", [*CODES, NO_STATUS])
def test_models_read_a_close_frame(code: int) -> None:
    payload = close_payload(code, "why")
    assert payload is not None
    server = Protocol(Side.SERVER, state=OPEN)
    server.receive_data(encode_frame(CLOSE, payload))
    assert server.close_rcvd is not None
    assert server.close_rcvd.code == code


# --- the head of the answer to the handshake

HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: \t s3pPLMBiTxaQ9kYGzzhZRbK+xOo= \r\n"
    b"Set-Cookie: a=1; note=\xe9\r\n"
    b"Set-Cookie:\r\n\r\n"
)
HEADERS = [
    (b"upgrade", b"websocket"),
    (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    (b"set-cookie", b"a=1; note=\xe9"),
    (b"set-cookie", b""),
]


@pytest.mark.parametrize("rest", [b"", b"\x81\x02hi", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_head_in_any_pieces(rest: bytes) -> None:
    """Frames in the same write are what is left; a head ends at its first empty line."""
    wire = HEAD + rest
    for cut in range(len(wire) + 1):
        parser = HeadParser()
        head = parser.feed(wire[:cut])
        if cut < len(HEAD):
            assert head is None
            head = parser.feed(wire[cut:])
            assert head == ResponseHead(101, HEADERS, rest)
        else:
            assert head == ResponseHead(101, HEADERS, wire[len(HEAD) : cut])


def test_a_head_byte_by_byte() -> None:
    parser = HeadParser()
    heads = [parser.feed(HEAD[i : i + 1]) for i in range(len(HEAD))]
    assert heads == [None] * (len(HEAD) - 1) + [ResponseHead(101, HEADERS, b"")]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 101 Switching Protocols", 101),
        (b"HTTP/1.0 400 Bad Request", 400),
        (b"HTTP/1.1 101", 101),
        (b"HTTP/1.1 101 ", 101),
    ],
)
def test_status_lines(line: bytes, status: int) -> None:
    """A status other than 101 is parsed too: the error about it should name it."""
    assert HeadParser().feed(line + b"\r\n\r\n") == ResponseHead(status, [], b"")


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"\x81\x02hi\r\n\r\n",
        b"HTTP/2 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 1010\r\n\r\n",
        b"HTTP/1.1 099 x\r\n\r\n",
        b"HTTP/1.1 101 x\ny\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 101 x\r\nno-colon\r\n\r\n",
        b"HTTP/1.1 101 x\r\n: no name\r\n\r\n",
        b"HTTP/1.1 101 x\r\nwith space : x\r\n\r\n",
        b"HTTP/1.1 101 x\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 101 x\r\na: b\nc: d\r\n\r\n",
        b"HTTP/1.1 101 x\r\na: b\x00\r\n\r\n",
        b"HTTP/1.1 101 x\r\na: b\rc\r\n\r\n",
    ],
)
def test_what_is_no_head_is_an_error_of_the_app(head: bytes) -> None:
    with pytest.raises(AppError, match=r"^the app wrote .* to the socket"):
        HeadParser().feed(head)


def test_a_head_is_bounded() -> None:
    line = b"a: " + b"x" * 96 + b"\n"  # a lone LF ends no line
    start = b"HTTP/1.1 101 x\r\n"
    most = start + b"a: " + b"x" * (MAX_HEAD_BYTES - len(start) - 7) + b"\r\n\r\n"
    assert len(most) == MAX_HEAD_BYTES
    assert HeadParser().feed(most) is not None
    with pytest.raises(AppError, match="65536 bytes"):
        HeadParser().feed(start + b"x" + most[len(start) :])
    with pytest.raises(AppError, match="65536 bytes"):
        HeadParser().feed(b"x" * MAX_HEAD_BYTES)
    parser = HeadParser()
    for _ in range(MAX_HEAD_BYTES // len(line)):
        assert parser.feed(line) is None
    with pytest.raises(AppError, match="65536 bytes"):
        parser.feed(line)
