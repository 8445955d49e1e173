"""_protocol/headers.py: the header rules that both directions share."""

import sys
from typing import Any
from wsgiref.util import is_hop_by_hop

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol.headers import (
    BODYLESS_STATUSES,
    ENVIRON_KEYS,
    HOP_BY_HOP,
    MAX_CACHED_NAME_BYTES,
    MAX_CACHED_NAMES,
    TranslationCache,
    content_length,
    environ_key,
    header_name_from_app,
    header_value_from_app,
)
from wsgi_asgi_bridge.errors import AppError, BadRequest

TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKENS = st.lists(st.sampled_from(list(TOKEN_BYTES)), min_size=1, max_size=20).map(bytes)


# --- environ_key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"host", "HTTP_HOST"),
        (b"Host", "HTTP_HOST"),
        (b"x-forwarded-for", "HTTP_X_FORWARDED_FOR"),
        (b"content-type", "CONTENT_TYPE"),
        (b"Content-Length", "CONTENT_LENGTH"),
        (b"content-encoding", "HTTP_CONTENT_ENCODING"),
        (b"cookie", "HTTP_COOKIE"),
    ],
)
def test_a_header_has_the_cgi_name(name: bytes, key: str) -> None:
    """W-ENV-1."""
    assert environ_key(name) == key


@pytest.mark.parametrize(
    "name", [b"x_forwarded_for", b"content_length", b"x-a_b", b"_", b"proxy", b"Proxy", b"PROXY"]
)
def test_a_name_that_would_spoof_another_is_dropped(name: bytes) -> None:
    """W-ENV-6."""
    assert environ_key(name) is None


@given(TOKENS, TOKENS)
@example(b"x-a", b"X-A")
def test_two_names_share_a_key_only_if_they_are_the_same_name(one: bytes, other: bytes) -> None:
    """W-ENV-6: whatever tokens a client invents."""
    if environ_key(one) is not None and one.lower() != other.lower():
        assert environ_key(one) != environ_key(other)


@given(st.binary(min_size=1, max_size=10), st.binary(min_size=1, max_size=10))
@example(b"x-acce\xdf", b"x-access")
@example(b"x-\xb5", b"x-\xff")
def test_names_that_no_server_should_let_through_spoof_nothing(one: bytes, other: bytes) -> None:
    """W-ENV-6: bytes above 127 are no part of a name, and some become letters when they are raised
    to upper case.
    """
    if environ_key(one) is not None and one.lower() != other.lower():
        assert environ_key(one) != environ_key(other)


@pytest.mark.parametrize("length", [1, MAX_CACHED_NAME_BYTES // 2, MAX_CACHED_NAME_BYTES, 10_000])
def test_a_client_that_invents_names_does_not_fill_the_memory(length: int) -> None:
    """W-ENV-5: neither by their number nor by their length."""
    ENVIRON_KEYS.clear()
    for number in range(2 * MAX_CACHED_NAMES):
        name = b"x-%d-" % number + b"a" * length
        assert ENVIRON_KEYS[name] == environ_key(name)
    assert len(ENVIRON_KEYS) <= MAX_CACHED_NAMES
    kept = sum(sys.getsizeof(name) + sys.getsizeof(key) for name, key in ENVIRON_KEYS.items())
    assert kept <= 3 * MAX_CACHED_NAMES * MAX_CACHED_NAME_BYTES


@pytest.mark.parametrize(
    ("short", "long"),
    [(b"host", b"x" * 10_000), ("Host", "X" * 10_000), (200, 1 << 100_000)],
    ids=["bytes", "str", "int"],
)
def test_short_name_is_translated_once_and_a_long_one_each_time(short: Any, long: Any) -> None:
    """W-ENV-5: whatever type the names have."""
    translated: list[Any] = []

    def translate(name: Any) -> Any:
        translated.append(name)
        return name

    remembered = TranslationCache(translate)
    for name in (short, long, short, long):
        assert remembered[name] == name
    assert translated == [short, long, long]


# --- content_length


@pytest.mark.parametrize(
    ("value", "length"), [("0", 0), ("5", 5), ("007", 7), ("9" * 18, 10**18 - 1)]
)
def test_a_content_length_is_a_number(value: str, length: int) -> None:
    assert content_length(value) == length


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "-1",
        "+5",
        "5.0",
        "0x10",
        "5 5",
        "5,5",
        " 5",
        "5\n",
        "1_0",
        "²",
        "٣",
        "\N{FULLWIDTH DIGIT FIVE}",
        "9" * 19,
        "9" * 10_000,
    ],
    ids=lambda value: repr(value[:6]),
)
def test_anything_else_is_a_bad_request_that_shows_it(value: str) -> None:
    """W-ENV-5, A-SCOPE-2; and int() never sees a run of digits that takes it quadratic time."""
    with pytest.raises(BadRequest, match="Content-Length is") as raised:
        content_length(value)
    assert repr(value[:80]) in str(raised.value)
    assert len(str(raised.value)) < 300


# --- names and values of a WSGI app


@given(TOKENS)
def test_every_token_is_a_header_name_in_lower_case(token: bytes) -> None:
    """W-OUT-7."""
    assert header_name_from_app(token.decode("ascii")) == token.lower()


@pytest.mark.parametrize(
    "name", ["", " ", "X Y", "X:", "X\r\nY", "X\n", "Ü", "名", "X\x00", "X\x7f", "(X)"], ids=ascii
)
def test_a_name_that_is_no_token_is_an_error_that_shows_it(name: str) -> None:
    """W-OUT-1."""
    with pytest.raises(AppError, match="is not a token") as raised:
        header_name_from_app(name)
    assert repr(name) in str(raised.value)


@given(st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"])))
@example("")
@example("caf\xe9 \xa0 end")
def test_latin_1_text_is_a_header_value(value: str) -> None:
    """W-OUT-1."""
    assert header_value_from_app("X-A", value) == value.encode("latin-1").strip(b" ")


@pytest.mark.parametrize("control", [*map(chr, range(0x20)), "\x7f"], ids=ascii)
@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("x", ""), ("", "x"), ("caf\xe9 ", "\xa0")], ids=ascii
)
def test_a_control_character_anywhere_is_an_error(before: str, control: str, after: str) -> None:
    """W-OUT-1: no response splitting; a tab around a value is dropped."""
    if control == "\t" and not (before and after):
        assert header_value_from_app("X-A", before + control + after) == (before + after).encode()
        return
    with pytest.raises(AppError, match="control character") as raised:
        header_value_from_app("X-A", before + control + after)
    assert repr(before + control + after) in str(raised.value)
    assert "'X-A'" in str(raised.value)


@pytest.mark.parametrize("value", ["名", "\u0100", "x\U0001f600", "\ud800"], ids=ascii)
def test_a_value_beyond_latin_1_is_an_error_that_shows_it(value: str) -> None:
    """W-OUT-1."""
    with pytest.raises(AppError, match="expected latin-1") as raised:
        header_value_from_app("X-A", value)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("value", [None, 5, b"bytes", ["x"]], ids=repr)
def test_a_value_that_is_no_str_is_an_error_that_shows_it(value: Any) -> None:
    """W-OUT-1."""
    with pytest.raises(AppError, match="expected a str") as raised:
        header_value_from_app("X-A", value)
    assert repr(value) in str(raised.value)


# --- the constant sets


def test_hop_by_hop_headers_are_those_of_the_rfcs() -> None:
    """W-OUT-7, A-OUT-1: RFC 9110 7.6.1 and PEP 3333's wsgiref list."""
    for name in HOP_BY_HOP - {b"proxy-connection", b"trailer"}:
        assert is_hop_by_hop(name.decode())
    for name in ("connection", "keep-alive", "te", "trailers", "transfer-encoding", "upgrade"):
        assert name.encode() in HOP_BY_HOP
    assert b"content-length" not in HOP_BY_HOP


def test_bodyless_statuses_are_those_of_the_rfc() -> None:
    """W-OUT-6, of final ones."""
    assert {204, 304} == BODYLESS_STATUSES
