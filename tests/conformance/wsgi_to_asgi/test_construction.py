"""W-CALL-1: what the constructor takes, and what it refuses."""

from typing import Any

import pytest

from tests.support.fake_asgi_server import (
    fetched,
    plain_app,
)
from wsgi_asgi_bridge import WSGIToASGI

IMPORTABLE = "tests.support.fake_asgi_server:plain_app"


# --- the constructor


async def test_app_by_import_string() -> None:
    """W-CALL-2: `"package.module:attribute"` names the app."""
    assert (await fetched(IMPORTABLE)).body == b"hello"


@pytest.mark.parametrize(
    ("app", "named"),
    [
        (None, "None"),
        (42, "42"),
        ("", "''"),
        ("no.colon.in.it", "no.colon.in.it"),
        (":app", ":app"),
        ("tests.support.fake_asgi_server:", "tests.support.fake_asgi_server:"),
        ("tests.no_such_module:app", "no_such_module"),
        ("tests.support.fake_asgi_server:no_such_name", "no_such_name"),
        ("tests.support.fake_asgi_server:DEADLINE_SECONDS", "10.0"),
    ],
)
def test_wrong_app_is_refused_at_construction(app: Any, named: str) -> None:
    """W-CALL-1: what is no app raises at once, and the message names it."""
    with pytest.raises((TypeError, ValueError, ImportError)) as caught:
        WSGIToASGI(app)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("workers", 0),
        ("workers", -1),
        ("workers", "4"),
        ("workers", 1.5),
        ("workers", None),
        ("max_queued", -1),
        ("max_queued", "many"),
        ("max_streams", -1),
        ("stream_after", -0.5),
        ("stream_after", "1"),
        ("request_buffer", 0),
        ("request_buffer", "64k"),
        ("small_body", -1),
        ("small_body", None),
        ("response_buffer", 0),
        ("response_buffer", -1),
        ("max_body_size", -1),
        ("max_body_size", "1M"),
        ("max_header_repeats", 0),
        ("stall_timeout", 0),
        ("stall_timeout", -1.0),
        ("stall_timeout", "60"),
        ("min_upload_rate", -1),
        ("min_upload_rate", None),
        ("min_upload_rate", 0.5),
        ("shutdown_timeout", -1.0),
        ("shutdown_timeout", "30"),
        ("environ", 42),
        ("environ", {1: "x"}),
    ],
)
def test_wrong_option_is_refused_at_construction(option: str, value: Any) -> None:
    """W-ENV-9: a wrong argument raises at construction, and the message names the option."""
    with pytest.raises((TypeError, ValueError)) as caught:
        WSGIToASGI(plain_app, **{option: value})
    assert option in str(caught.value)


def test_options_are_keywords_only() -> None:
    """W-CALL-1: a number after the app is a mistake, not a count of workers."""
    with pytest.raises(TypeError):
        WSGIToASGI(plain_app, 40)  # type: ignore[misc]
