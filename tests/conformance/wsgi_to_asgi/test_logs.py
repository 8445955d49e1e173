"""What a client sends reaches the log as `repr` shows it: no line and no colour of its own."""

import pytest

from tests.support.fake_asgi_server import Client, answered, app_returning, http_scope, serving

FORGED = "\x1b[31m\r\nERROR: forged"


@pytest.mark.parametrize("field", ["method", "path"])
async def test_excess_is_logged_without_control_characters(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """W-OUT-6."""
    scope = http_scope() | {field: "/" + FORGED, "raw_path": None}
    async with serving(app_returning([b"hello"], headers=[("Content-Length", "2")])) as bridge:
        await answered(bridge, Client(scope))
    (record,) = caplog.records
    assert repr("/" + FORGED) in record.getMessage()
    assert record.getMessage().isprintable()
