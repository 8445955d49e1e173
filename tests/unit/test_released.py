"""released.py: how many connections there may be, whatever becomes of each."""

from typing import Any

from wsgi_asgi_bridge.asgi_to_wsgi.released import WEBSOCKET, ReleasedConnections


class Connection:
    kind = WEBSOCKET


def _three() -> Any:
    return Connection(), Connection(), Connection()


def test_a_connection_makes_room_once() -> None:
    """WS-A-8: one that keeps its thread takes none and makes none."""
    no_loop: Any = None
    released = ReleasedConnections(no_loop, 1)
    kept, first, second = _three()
    assert released.reserve(kept, limited=False)
    released.discard(kept)
    assert released.reserve(first)
    released.took_over(first)
    assert not released.reserve(second)
    assert released.count(WEBSOCKET) == 1
    released.discard(first)
    released.discard(first)
    assert released.count(WEBSOCKET) == 0
    assert released.reserve(second)
    assert not released.reserve(first)
