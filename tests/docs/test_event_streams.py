"""docs/event_streams.md: its table says what the tests on real servers find."""

import re
from pathlib import Path

from tests.servers.asgi_to_wsgi.test_event_streams import KEEPING, RELEASING
from tests.support.wsgi_servers import CHUNKED_RESPONSE, WSGIServer

PAGE = Path(__file__).parents[2] / "docs" / "event_streams.md"
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)


def named(cell: str) -> set[str]:
    """The servers of one row, as tests/support/wsgi_servers.py calls them."""
    first, *others = (word.lower() for word in re.sub(r"\(.*\)", "", cell).split())
    if others:
        return {f"{first}-{kind.strip(',')}" for kind in others}
    return {first}


def rows() -> dict[str, tuple[str, str]]:
    found = ROW.findall(PAGE.read_text())[1:]  # without the title
    return {name: (how, end) for names, how, end in found for name in named(names)}


def title(server: WSGIServer) -> str:
    return server.name.removesuffix("-preload")


def test_the_table_of_servers() -> None:
    table = rows()
    assert set(table) == {title(server) for server in (*RELEASING, *KEEPING)}
    for server in RELEASING:
        how, end = table[title(server)]
        assert re.fullmatch("without a (green )?thread", how)
        last = "with a last chunk" if server.can(CHUNKED_RESPONSE) else "with the connection"
        assert end.strip() == last
    for server in KEEPING:
        how, end = table[title(server)]
        assert "thread each" in how
        assert end.strip() == ""
