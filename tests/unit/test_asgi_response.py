"""_protocol/asgi_response.py: the transition table, row by row, and every mistake by its error."""

import itertools
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol.asgi_response import ASGIResponse, ASGIResponseState
from wsgi_asgi_bridge.errors import AppError

EXPECTED = ASGIResponseState.EXPECTED
STARTED = ASGIResponseState.STARTED
TRAILERS = ASGIResponseState.TRAILERS
ENDED = ASGIResponseState.ENDED

START = {"type": "http.response.start", "status": 200}
START_WITH_TRAILERS = START | {"trailers": True}
PART = {"type": "http.response.body", "body": b"x", "more_body": True}
LAST = {"type": "http.response.body", "body": b"x"}
TRAILER = {"type": "http.response.trailers", "headers": [], "more_trailers": True}
LAST_TRAILER = {"type": "http.response.trailers", "headers": []}

OVER = (ASGIResponseState.TRAILERS, ASGIResponseState.ENDED)
MESSAGES: dict[str, dict[str, Any]] = {
    "start": START,
    "start with trailers": START_WITH_TRAILERS,
    "part": PART,
    "last": LAST,
    "trailer": TRAILER,
    "last trailer": LAST_TRAILER,
    "unknown": {"type": "http.response.unheard.of"},
    "websocket": {"type": "websocket.send", "text": "x"},
    "no type": {"status": 200},
}
LEGAL = {
    (EXPECTED, "start"): STARTED,
    (EXPECTED, "start with trailers"): STARTED,
    (STARTED, "part"): STARTED,
    (STARTED, "last"): ENDED,
    (TRAILERS, "trailer"): TRAILERS,
    (TRAILERS, "last trailer"): ENDED,
}


def response_in(state: ASGIResponseState, method: str = "GET") -> ASGIResponse:
    response = ASGIResponse(method)
    if state is not EXPECTED:
        response.accept(START_WITH_TRAILERS if state is TRAILERS else START)
    if state in (TRAILERS, ENDED):
        response.accept(LAST)
    assert response.state is state
    return response


@pytest.mark.parametrize(("state", "message"), LEGAL, ids=str)
def test_each_legal_row(state: ASGIResponseState, message: str) -> None:
    """A-OUT-1."""
    response = response_in(state)
    answer = response.accept(MESSAGES[message])
    assert response.state is LEGAL[state, message]
    assert answer == {"part": (b"x", False), "last": (b"x", True)}.get(message)


@pytest.mark.parametrize(
    ("state", "message"),
    [row for row in itertools.product(ASGIResponseState, MESSAGES) if row not in LEGAL],
    ids=str,
)
def test_every_other_row_is_an_error_that_changes_nothing(
    state: ASGIResponseState, message: str
) -> None:
    """A-OUT-1."""
    response = response_in(state)
    before = response.status, list(response.headers)
    with pytest.raises(AppError) as raised:
        response.accept(MESSAGES[message])
    assert repr(MESSAGES[message].get("type")) in str(raised.value)
    assert state.value in str(raised.value)
    assert response.state is state
    assert (response.status, response.headers) == before


@pytest.mark.parametrize("message", [None, 5, "http.response.start", [("type", "x")]], ids=repr)
def test_what_is_no_message_at_all_is_an_error_that_shows_it(message: Any) -> None:
    """A-OUT-1."""
    with pytest.raises(AppError) as raised:
        ASGIResponse("GET").accept(message)
    assert repr(message) in str(raised.value)


def test_announced_trailers_come_after_the_body_and_are_dropped() -> None:
    """A-OUT-6: WSGI has no way to send them."""
    response = ASGIResponse("GET")
    response.accept(START_WITH_TRAILERS)
    assert response.accept(PART) == (b"x", False)
    assert response.state not in OVER
    assert response.accept(LAST) == (b"x", True)
    assert response.state is TRAILERS
    assert response.state in OVER
    assert response.accept(TRAILER) is None
    assert response.accept(LAST_TRAILER) is None
    assert response.state is ENDED
    assert response.state in OVER


# --- the head


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, "200 OK"),
        (404, "404 Not Found"),
        (HTTPStatus.CREATED, "201 Created"),
        (999, "999 Unknown"),
        (299, "299 Unknown"),
    ],
)
def test_a_status_becomes_a_status_line(status: int, line: str) -> None:
    response = ASGIResponse("GET")
    response.accept(START | {"status": status})
    assert response.status == line


@pytest.mark.parametrize(
    "status",
    [None, "200", "200 OK", 200.0, True, 99, 100, 101, 103, 199, 1000, 0, -200, b"200"],
    ids=repr,
)
def test_a_wrong_status_is_an_error_that_shows_it(status: Any) -> None:
    """A-OUT-1."""
    response = ASGIResponse("GET")
    with pytest.raises(
        AppError, match=r"the status is .*, expected an int from 200 to 999"
    ) as raised:
        response.accept(START | {"status": status})
    assert repr(status) in str(raised.value)
    assert response.state is EXPECTED


def test_a_missing_status_is_an_error() -> None:
    """A-OUT-1."""
    with pytest.raises(AppError, match="the status is None"):
        ASGIResponse("GET").accept({"type": "http.response.start"})


class Raw(bytes):
    """A subclass of bytes is bytes."""


def headers_of(headers: Any) -> list[tuple[str, str]]:
    response = ASGIResponse("GET")
    response.accept(START | {"headers": headers})
    return response.headers


@pytest.mark.parametrize(
    ("headers", "native"),
    [
        pytest.param([], [], id="none"),
        pytest.param(None, [], id="headers is None"),
        pytest.param([(b"X-A", b"1")], [("X-A", "1")], id="title case"),
        pytest.param([(b"www-AUTHENTICATE", b"1")], [("Www-Authenticate", "1")], id="words"),
        pytest.param([(b"x1a-3d--b_c", b"1")], [("X1a-3d--B_c", "1")], id="odd words"),
        pytest.param([[b"x-a", b"1"]], [("X-A", "1")], id="a list as the pair"),
        pytest.param(((b"x-a", b"1"),), [("X-A", "1")], id="a tuple of pairs"),
        pytest.param([(bytearray(b"x-a"), memoryview(b"1"))], [("X-A", "1")], id="bytes-likes"),
        pytest.param(
            [(b"set-cookie", b"a"), (b"set-cookie", b"b")],
            [("Set-Cookie", "a"), ("Set-Cookie", "b")],
            id="repeats",
        ),
        pytest.param([(Raw(b"x-a"), Raw(b"1"))], [("X-A", "1")], id="a subclass of bytes"),
        pytest.param(
            [(b"content-length", b"3"), (b"Content-Length", b"3")],
            [("Content-Length", "3")],
            id="equal lengths are one",
        ),
        pytest.param([(b"x-a", b"caf\xe9")], [("X-A", "caf\xe9")], id="latin-1"),
        pytest.param([(b"x-a", b"a\tb")], [("X-A", "a b")], id="a tab is a space"),
        pytest.param([(b"x-a", b"")], [("X-A", "")], id="an empty value"),
        pytest.param(
            [(b"Transfer-Encoding", b"chunked"), (b"connection", b"close"), (b"x-a", b"1")],
            [("X-A", "1")],
            id="hop-by-hop",
        ),
    ],
)
def test_headers_become_native_ones(headers: Any, native: list[tuple[str, str]]) -> None:
    """A-OUT-1."""
    assert headers_of(headers) == native


def test_headers_may_be_a_generator() -> None:
    """A-OUT-1: the spec says an iterable."""
    assert headers_of(pair for pair in [(b"x-a", b"1")]) == [("X-A", "1")]


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        pytest.param([("x-a", "1")], "('x-a', '1')", id="str"),
        pytest.param([(b"x-a", "1")], "(b'x-a', '1')", id="a str value"),
        pytest.param([(b"x-a", 1)], "(b'x-a', 1)", id="a number"),
        pytest.param([(b"x-a",)], "(b'x-a',)", id="one element"),
        pytest.param([(b"x-a", b"1", b"2")], "(b'x-a', b'1', b'2')", id="three elements"),
        pytest.param([None], "None", id="no pair"),
        pytest.param([b"ab"], "b'ab'", id="two bytes are no pair"),
        pytest.param({b"x-a": b"1"}, "b'x-a'", id="a dict"),
        pytest.param(5, "5", id="no iterable"),
        pytest.param([(b"x a", b"1")], "b'x a'", id="a name that is no token"),
        pytest.param([(b"", b"1")], "b''", id="an empty name"),
        pytest.param([(b"x-a\r\nx-b", b"1")], r"b'x-a\r\nx-b'", id="splitting by the name"),
        pytest.param([(b"x-a", b"1\r\nx-b: 1")], r"b'1\r\nx-b: 1'", id="splitting"),
        pytest.param([(b"x-a", b"1\n")], r"b'1\n'", id="a line feed"),
        pytest.param([(b"x-a", b"\x00")], r"b'\x00'", id="a null byte"),
        pytest.param([(b"x-a", b"\x7f")], r"b'\x7f'", id="a delete"),
        pytest.param([(b"content-length", b"x")], "b'x'", id="a length that is none"),
        pytest.param([(b"content-length", b"-1")], "b'-1'", id="a negative length"),
        pytest.param([(b"content-length", b"")], "b''", id="an empty length"),
        pytest.param([(b"content-length", b"9" * 19)], "9" * 19, id="more than any body"),
        pytest.param([(b"content-length", b"3"), (b"content-length", b"4")], "4", id="two lengths"),
    ],
)
def test_wrong_headers_are_an_error_that_shows_them(headers: Any, shown: str) -> None:
    """A-OUT-1."""
    response = ASGIResponse("GET")
    with pytest.raises(AppError, match=r"http\.response\.start: ") as raised:
        response.accept(START | {"headers": headers})
    assert shown in str(raised.value)
    assert response.state is EXPECTED
    response.accept(START)  # and the app may try again


# --- the body


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param({}, (b"", True), id="an end without a body"),
        pytest.param({"body": b"x"}, (b"x", True), id="the last"),
        pytest.param({"body": b"x", "more_body": False}, (b"x", True), id="said to be the last"),
        pytest.param({"more_body": True}, (b"", False), id="an empty part"),
        pytest.param({"body": bytearray(b"x")}, (b"x", True), id="bytearray"),
        pytest.param({"body": memoryview(b"xyz")[::2]}, (b"xz", True), id="memoryview"),
    ],
)
def test_parts(message: dict[str, Any], expected: tuple[bytes, bool]) -> None:
    """A-OUT-1."""
    answer = response_in(STARTED).accept({"type": "http.response.body"} | message)
    assert answer == expected
    assert type(answer[0]) is bytes


def test_bytes_are_handed_on_as_the_same_object() -> None:
    body = b"not copied"
    answer = response_in(STARTED).accept({"type": "http.response.body", "body": body})
    assert answer is not None
    assert answer[0] is body


@pytest.mark.parametrize("body", ["str", None, 5, [b"x"]], ids=lambda body: type(body).__name__)
def test_a_body_that_is_no_bytes_is_an_error_that_names_its_type(body: Any) -> None:
    """A-OUT-1."""
    response = response_in(STARTED)
    with pytest.raises(AppError, match=f"the body is a {type(body).__name__}, expected bytes"):
        response.accept({"type": "http.response.body", "body": body})
    assert response.state is STARTED


def with_length(length: int, method: str = "GET", status: int = 200) -> ASGIResponse:
    response = ASGIResponse(method)
    headers = [(b"content-length", b"%d" % length)]
    response.accept({"type": "http.response.start", "status": status, "headers": headers})
    return response


@given(length=st.integers(0, 12), parts=st.lists(st.binary(max_size=5), min_size=1, max_size=5))
def test_the_length_is_kept_to_the_byte(length: int, parts: list[bytes]) -> None:
    """A-OUT-1: a part too much, or an end too early, is an error at that very message, and changes
    nothing.
    """
    response = with_length(length)
    sent = 0
    for position, part in enumerate(parts, 1):
        last = position == len(parts)
        message = {"type": "http.response.body", "body": part, "more_body": not last}
        total = sent + len(part)
        if total > length or (last and total < length):
            with pytest.raises(AppError, match=r"longer than|short of") as raised:
                response.accept(message)
            assert str(total) in str(raised.value)
            assert str(length) in str(raised.value)
            assert response.state is STARTED
            return
        assert response.accept(message) == (part, last)
        sent = total
    assert response.state is ENDED


def test_a_refused_part_is_not_counted() -> None:
    """A-OUT-1."""
    response = with_length(3)
    with pytest.raises(AppError):
        response.accept(PART | {"body": b"toolong"})
    assert response.accept(LAST | {"body": b"yes"}) == (b"yes", True)


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 304)]
)
def test_a_bodyless_response_lets_no_byte_through(method: str, status: int) -> None:
    """A-OUT-1: an app may answer HEAD as it answers GET."""
    for sent in (b"", b"abc", b"abcdefg"):
        response = with_length(3, method, status)
        assert response.accept(PART | {"body": sent}) == (b"", False)
        assert response.accept(LAST | {"body": sent}) == (b"", True)
        assert response.state is ENDED


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [
        ("HEAD", 200, ["3"]),
        ("GET", 204, []),
        ("GET", 304, []),
        ("HEAD", 304, []),
    ],
)
def test_only_an_answer_to_head_has_the_length_of_no_body(
    method: str, status: int, length: list[str]
) -> None:
    """A-OUT-1: RFC 9110 8.6 forbids it with 204, and 15.4.5 advises against it with 304."""
    headers = with_length(3, method, status).headers
    assert [value for name, value in headers if name == "Content-Length"] == length
