"""_protocol/wsgi_response.py: its transition table, row by row, and every mistake by its error."""

import contextlib
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol import wsgi_response
from wsgi_asgi_bridge._protocol.wsgi_response import ResponseState, WSGIResponse, checked_chunk
from wsgi_asgi_bridge.errors import AppError

EXPECTED = ResponseState.EXPECTED
HELD = ResponseState.HELD
SEALED = ResponseState.SEALED

FIRST = [("X-First", "1")]
SECOND = [("X-Second", "2")]


class OwnError(Exception):
    """What the app was handling when it called start_response again."""


def exc_info() -> Any:
    try:
        raise OwnError
    except OwnError:
        return sys.exc_info()


def response_in(state: ResponseState, method: str = "GET") -> WSGIResponse:
    response = WSGIResponse(method)
    if state is not EXPECTED:
        response.start("200 OK", FIRST, None)
    if state is SEALED:
        response.seal()
    assert response.state is state
    return response


STEPS: dict[str, Callable[[WSGIResponse], object]] = {
    "start": lambda response: response.start("404 Not Found", SECOND, None),
    "start with exc_info": lambda response: response.start("500 Oops", SECOND, exc_info()),
    "start with no error": lambda response: response.start("500 Oops", SECOND, (None, None, None)),
    "first chunk": lambda response: response.seal(),
    "end": lambda response: response.seal(0),
}

# The docstring's table: what each step leads to, a state or an error.
TABLE: list[tuple[ResponseState, str, ResponseState | type[Exception]]] = [
    (EXPECTED, "start", HELD),
    (EXPECTED, "start with exc_info", HELD),
    (EXPECTED, "start with no error", HELD),
    (EXPECTED, "first chunk", AppError),
    (EXPECTED, "end", AppError),
    (HELD, "start", AppError),
    (HELD, "start with exc_info", HELD),
    (HELD, "start with no error", AppError),
    (HELD, "first chunk", SEALED),
    (HELD, "end", SEALED),
    (SEALED, "start", AppError),
    (SEALED, "start with exc_info", OwnError),
    (SEALED, "start with no error", AppError),
]


@pytest.mark.parametrize(
    ("state", "step", "outcome"), TABLE, ids=[f"{state.value}-{step}" for state, step, _ in TABLE]
)
def test_each_row_of_the_table(
    state: ResponseState, step: str, outcome: ResponseState | type[Exception]
) -> None:
    """W-OUT-2, W-OUT-8."""
    response = response_in(state)
    if isinstance(outcome, ResponseState):
        STEPS[step](response)
        assert response.state is outcome
    else:
        with pytest.raises(outcome):
            STEPS[step](response)
        assert response.state is state


def test_the_table_is_the_docstrings() -> None:
    """Each state has a row there."""
    assert wsgi_response.__doc__ is not None
    for state in ResponseState:
        assert f"    {state.name} " in wsgi_response.__doc__


# --- the head


def test_a_second_call_with_exc_info_replaces_the_held_head() -> None:
    """W-OUT-2."""
    response = response_in(HELD)
    response.start("500 Oops", [("X-Second", "2"), ("Content-Length", "2")], exc_info())
    head = response.seal()
    assert head[0] == 500
    assert head[1] == [(b"x-second", b"2"), (b"content-length", b"2")]
    assert response.declared == 2


def test_a_replaced_head_takes_its_content_length_with_it() -> None:
    """W-OUT-2, W-OUT-6."""
    response = WSGIResponse("GET")
    response.start("200 OK", [("Content-Length", "3")], None)
    response.start("500 Oops", [], exc_info())
    response.seal()
    assert response.declared is None


def test_a_refused_replacement_leaves_the_head_as_it_was() -> None:
    """W-OUT-1, W-OUT-2: the app may catch the error and go on with the first head; never with half
    of each.
    """
    response = response_in(HELD)
    with pytest.raises(AppError):
        response.start("500 Oops", [("Bad Name", "x")], exc_info())
    head = response.seal()
    assert (head[0], head[1]) == (200, [(b"x-first", b"1")])


def test_second_call_is_told_what_came_and_what_the_first_said() -> None:
    """W-OUT-2."""
    with pytest.raises(AppError, match=r"'404 Not Found'.*without exc_info.*200"):
        response_in(HELD).start("404 Not Found", [], None)


def test_once_sealed_apps_error_comes_out_with_its_own_traceback() -> None:
    """W-OUT-2."""
    response = response_in(SEALED)
    info = exc_info()
    with pytest.raises(OwnError) as raised:
        response.start("500 Oops", [], info)
    assert raised.value is info[1]
    assert any(entry.name == "exc_info" for entry in raised.traceback)


def test_no_reference_to_exc_info_is_kept() -> None:
    """W-OUT-2."""

    class Local:
        pass

    def failing() -> tuple[Any, "weakref.ref[Local]"]:
        local = Local()
        try:
            raise OwnError
        except OwnError:
            return sys.exc_info(), weakref.ref(local)

    response = response_in(HELD)
    info, kept = failing()
    response.start("500 Oops", [], info)
    del info
    gc.collect()
    assert kept() is None


def test_an_error_that_is_raised_anew_is_in_no_cycle() -> None:
    """W-OUT-2: freed as soon as nobody handles it, without the garbage collector."""

    class Local:
        pass

    def failing(response: WSGIResponse) -> "weakref.ref[Local]":
        local = Local()
        try:
            raise OwnError
        except OwnError:
            info: Any = sys.exc_info()
        with contextlib.suppress(OwnError):
            response.start("500 Oops", [], info)
        del info
        return weakref.ref(local)

    gc.disable()
    try:
        kept = failing(response_in(SEALED))
        assert kept() is None
    finally:
        gc.enable()


def test_a_chunk_without_start_response_is_told_so() -> None:
    """W-OUT-8."""
    with pytest.raises(AppError, match="without calling start_response"):
        WSGIResponse("GET").seal()


def test_headers_keep_their_order_and_repeats_and_are_lower_case() -> None:
    """W-OUT-7."""
    response = WSGIResponse("GET")
    response.start("200 OK", [("Set-Cookie", "a=1"), ("X-B", "2"), ("Set-Cookie", "c=3")], None)
    assert response.seal()[1] == [
        (b"set-cookie", b"a=1"),
        (b"x-b", b"2"),
        (b"set-cookie", b"c=3"),
    ]


@pytest.mark.parametrize(
    "name", ["Connection", "keep-alive", "Transfer-Encoding", "UPGRADE", "TE", "Trailer"]
)
def test_hop_by_hop_headers_are_dropped(name: str) -> None:
    """W-OUT-7."""
    response = WSGIResponse("GET")
    response.start("200 OK", [(name, "x"), ("X-A", "1")], None)
    assert response.seal()[1] == [(b"x-a", b"1")]


def test_the_apps_own_header_list_is_not_changed() -> None:
    """PEP 3333 lets the server change it; an app that reuses a constant would not expect that."""
    headers: list[tuple[str, str]] = []
    response = WSGIResponse("GET")
    response.start("200 OK", headers, None)
    response.seal(1)
    assert headers == []


@pytest.mark.parametrize(
    ("status", "code"),
    [("200 OK", 200), ("200", 200), ("200 ", 200), ("999 Odd", 999), ("404 Caf\xe9", 404)],
)
def test_a_status_is_three_digits_and_any_reason(status: str, code: int) -> None:
    """W-OUT-1."""
    response = WSGIResponse("GET")
    response.start(status, [], None)
    assert response.seal()[0] == code


@pytest.mark.parametrize(
    "status",
    [
        "",
        "OK",
        "20 OK",
        "2000 OK",
        "099 Low",
        " 200 OK",
        "200OK",
        "200\tOK",
        "200 OK\r\nX-Injected: 1",
        "200 OK\n",
        "200 O\x00K",
        "200 O\x7fK",
        "\N{FULLWIDTH DIGIT TWO}00 OK",
        "-20 OK",
        "200 \u540d",
        200,
        None,
        b"200 OK",
        ("200 OK",),
    ],
    ids=ascii,
)
def test_a_wrong_status_is_an_error_that_shows_it(status: Any) -> None:
    """W-OUT-1."""
    response = WSGIResponse("GET")
    with pytest.raises(AppError, match="the status is") as raised:
        response.start(status, [], None)
    assert repr(status) in str(raised.value)
    assert response.state is EXPECTED


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        pytest.param(None, "None", id="none"),
        pytest.param((("X-A", "1"),), "('X-A', '1')", id="a tuple of pairs"),
        pytest.param({"X-A": "1"}, "{'X-A': '1'}", id="a dict"),
        pytest.param(iter([]), "iterator", id="an iterator"),
        pytest.param([["X-A"]], "['X-A']", id="a list of one"),
        pytest.param([{"X-A", "1"}], "{", id="a set, which has no order"),
        pytest.param([("X-A",)], "('X-A',)", id="one element"),
        pytest.param([("X-A", "1", "2")], "('X-A', '1', '2')", id="three elements"),
        pytest.param(["XA"], "'XA'", id="a str"),
        pytest.param([(b"X-A", "1")], "b'X-A'", id="a name of bytes"),
        pytest.param([(5, "1")], "5", id="a name that is a number"),
        pytest.param([("X-A", b"1")], "b'1'", id="a value of bytes"),
        pytest.param([("X-A", 1)], "1", id="a value that is a number"),
        pytest.param([("X-A", None)], "None", id="no value"),
        pytest.param([("X-A", "1\r\nX-Injected: 1")], r"'1\r\nX-Injected: 1'", id="splitting"),
        pytest.param([("X-A\r\nX-B", "1")], r"'X-A\r\nX-B'", id="splitting by the name"),
        pytest.param([("X-A", "a\tb")], r"'a\tb'", id="a tab"),
        pytest.param([("X-A", "\u540d")], "'\u540d'", id="beyond latin-1"),
        pytest.param([("X A", "1")], "'X A'", id="a name that is no token"),
        pytest.param([("", "1")], "''", id="an empty name"),
        pytest.param([("Content-Length", "-1")], "'-1'", id="a negative length"),
        pytest.param([("Content-Length", "")], "''", id="an empty length"),
        pytest.param([("Content-Length", "1.5")], "'1.5'", id="half a byte"),
        pytest.param([("Content-Length", "\xb2")], r"\xb2", id="a digit that is none"),
        pytest.param([("Content-Length", "9" * 19)], "9" * 19, id="more than any body"),
        pytest.param(
            [("Content-Length", "3"), ("content-length", "4")], "3 and 4", id="two lengths"
        ),
    ],
)
def test_wrong_headers_are_an_error_that_shows_them(headers: Any, shown: str) -> None:
    """W-OUT-1."""
    response = WSGIResponse("GET")
    with pytest.raises(AppError, match=r"start_response: ") as raised:
        response.start("200 OK", headers, None)
    assert shown in str(raised.value)
    assert response.state is EXPECTED


def test_an_error_shows_no_more_than_a_line_of_a_huge_value() -> None:
    with pytest.raises(AppError) as raised:
        WSGIResponse("GET").start("200 OK", [("x" * 10**6,)], None)  # type: ignore[list-item]
    assert len(str(raised.value)) < 1000


# --- Content-Length and the body


def started(method: str, status: str, length: str | None) -> WSGIResponse:
    response = WSGIResponse(method)
    headers = [] if length is None else [("Content-Length", length)]
    response.start(status, headers, None)
    return response


def test_equal_lengths_are_one() -> None:
    """W-OUT-6."""
    response = WSGIResponse("GET")
    response.start("200 OK", [("Content-Length", "3"), ("Content-Length", " 3 ")], None)
    assert response.seal()[1] == [(b"content-length", b"3")]


def test_a_body_that_is_known_whole_gets_its_length() -> None:
    """W-OUT-6."""
    response = started("GET", "200 OK", None)
    assert response.seal(3)[1] == [(b"content-length", b"3")]
    assert response.declared == 3


def test_an_empty_body_that_is_known_whole_has_the_length_0() -> None:
    """W-OUT-6."""
    response = started("GET", "200 OK", None)
    assert response.seal(0)[1] == [(b"content-length", b"0")]
    assert response.complete()


def test_the_apps_own_length_wins_over_the_known_one() -> None:
    """W-OUT-6: what is missing of it is then an error of the app."""
    response = started("GET", "200 OK", "5")
    assert response.seal(2)[1] == [(b"content-length", b"5")]
    response.admitted(b"ab")
    with pytest.raises(AppError, match="3 bytes short of Content-Length 5"):
        response.check_end()


@given(length=st.integers(0, 20), chunks=st.lists(st.binary(max_size=8), max_size=8))
def test_no_byte_beyond_length_is_admitted_and_all_are_counted(
    length: int, chunks: list[bytes]
) -> None:
    """W-OUT-6."""
    response = started("GET", "200 OK", str(length))
    response.seal()
    whole = b"".join(chunks)
    admitted = b""
    for chunk in chunks:
        admitted += response.admitted(chunk)
        assert response.complete() == (len(admitted) >= length)
    assert admitted == whole[:length]
    assert response.excess() == max(0, len(whole) - length)
    if len(whole) < length:
        with pytest.raises(AppError, match=f"{length - len(whole)} bytes short .* {length}"):
            response.check_end()
    else:
        response.check_end()


@given(length=st.none() | st.integers(0, 20), chunks=st.lists(st.binary(max_size=8), max_size=8))
def test_a_whole_body_is_cut_and_measured_as_its_chunks_are(
    length: int | None, chunks: list[bytes]
) -> None:
    """W-OUT-6: both ways through the same rules."""
    body = b"".join(chunks)
    response = started("GET", "200 OK", None if length is None else str(length))
    if length is not None and len(body) < length:
        with pytest.raises(AppError, match=f"{length - len(body)} bytes short of .* {length}"):
            response.whole(chunks)
        return
    head, admitted = response.whole(chunks)
    expected = len(body) if length is None else length
    assert head[1] == [(b"content-length", b"%d" % expected)]
    assert b"".join(admitted) == body[:expected]
    assert response.excess() == len(body) - expected


def test_a_whole_body_that_fits_is_not_copied() -> None:
    chunks = [b"one", b"two"]
    _, admitted = started("GET", "200 OK", "6").whole(chunks)
    assert [a is b for a, b in zip(admitted, chunks, strict=True)] == [True, True]


@given(st.lists(st.binary(max_size=8), max_size=8))
def test_without_a_length_everything_is_admitted(chunks: list[bytes]) -> None:
    """W-OUT-6."""
    response = started("GET", "200 OK", None)
    response.seal()
    for chunk in chunks:
        assert response.admitted(chunk) is chunk
    assert not response.complete()
    assert response.excess() == 0
    response.check_end()


@pytest.mark.parametrize(
    ("method", "status", "keeps_length"),
    [
        pytest.param("HEAD", "200 OK", True, id="HEAD"),
        pytest.param("HEAD", "404 Not Found", True, id="HEAD of nothing"),
        pytest.param("GET", "204 No Content", False, id="204"),
        pytest.param("GET", "304 Not Modified", False, id="304"),
        pytest.param("HEAD", "204 No Content", False, id="HEAD and 204"),
    ],
)
def test_a_bodyless_response_has_no_body_and_no_length_to_keep(
    method: str, status: str, keeps_length: bool
) -> None:
    """W-OUT-6: RFC 9110 8.6 and 6.4.1."""
    response = started(method, status, "5")
    head = response.seal(5)
    assert head[1] == ([(b"content-length", b"5")] if keeps_length else [])
    assert response.bodyless
    assert response.complete()
    for chunk in (b"", b"hell", b"hello, world"):
        assert response.admitted(chunk) == b""
        assert response.excess() == 0
        response.check_end()
    assert list(started(method, status, "5").whole([b"too long a body"])[1]) == []


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
def test_a_bodyless_response_gets_no_length_that_nobody_gave(method: str, status: str) -> None:
    """W-OUT-6: what would have been its body is not known."""
    assert started(method, status, None).seal(0)[1] == []


# --- chunks


def test_a_chunk_that_is_no_bytes_leaves_the_head_unsealed() -> None:
    """W-OUT-8, W-OUT-2: the app may still replace the head by an error page."""
    response = started("GET", "200 OK", None)
    with pytest.raises(AppError, match="type str, expected bytes"):
        response.whole([b"x", "str"])  # type: ignore[list-item]
    assert response.state is HELD


def test_bytes_are_a_chunk() -> None:
    chunk = b"x"
    assert checked_chunk(chunk) is chunk


@pytest.mark.parametrize(
    "chunk",
    ["str", None, 5, bytearray(b"x"), memoryview(b"x"), [b"x"]],
    ids=lambda c: type(c).__name__,
)
def test_anything_else_is_an_error_that_names_its_type(chunk: Any) -> None:
    """W-OUT-8."""
    with pytest.raises(AppError, match=f"type {type(chunk).__name__}, expected bytes"):
        checked_chunk(chunk)


@pytest.mark.parametrize("length", [None, "7", "5"], ids=["none", "exact", "too short"])
def test_empty_chunks_of_a_whole_body_stay_behind(length: str | None) -> None:
    """W-FLOW-7: whoever sends the body, an event loop above all, does not look at each of them."""
    empty = [b""] * 100_000
    chunks = [*empty, b"some", *empty, b"", b"end", *empty]
    head, body = started("GET", "200 OK", length).whole(chunks)
    assert list(body) == [b"some", b"end" if length != "5" else b"e"]
    assert dict(head[1])[b"content-length"] == (length or "7").encode()


def test_nothing_but_empty_chunks_is_an_empty_body() -> None:
    """W-OUT-6."""
    head, body = started("GET", "200 OK", None).whole([b""] * 100_000)
    assert (list(body), head[1]) == ([], [(b"content-length", b"0")])
