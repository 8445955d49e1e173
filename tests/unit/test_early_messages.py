"""early_messages.py: messages of the worker that the loop sends before the head."""

import pytest

from tests.support.interleaving import HandTurnedLoop, lying
from wsgi_asgi_bridge._crossing.channel import ThreadToLoop
from wsgi_asgi_bridge.errors import ClientDisconnected
from wsgi_asgi_bridge.wsgi_to_asgi.early_messages import EarlyMessages

LINK = ("Link", "</a>")
MESSAGE = {"type": "http.response.early_hint", "links": [b"</a>"]}


@pytest.fixture
def out(loop: HandTurnedLoop) -> ThreadToLoop:
    return ThreadToLoop(loop, 100)  # type: ignore[arg-type]


def test_a_message_wakes_the_loop_which_finds_it(out: ThreadToLoop) -> None:
    """W-OUT-12"""
    early = EarlyMessages(out)
    assert out.taken_in_loop() is None
    early.add_early_hints([LINK])
    assert out.taken_in_loop() == ([b""], False)
    assert early.taken_in_loop() == [MESSAGE]
    assert early.taken_in_loop() == []


def test_a_loop_that_comes_between_message_and_wake_up(out: ThreadToLoop) -> None:
    """W-OUT-12: it takes the message once; the wake-up that follows finds none."""
    early = EarlyMessages(out)
    taken: list[object] = []
    lying(out).before("put_from_thread", lambda: taken.append(early.taken_in_loop()))
    early.add_early_hints([LINK])
    assert taken == [[MESSAGE]]
    assert out.taken_in_loop() == ([b""], False)
    assert early.taken_in_loop() == []


def test_a_message_after_the_exchange_says_so(out: ThreadToLoop) -> None:
    """W-FLOW-3, W-OUT-12"""
    early = EarlyMessages(out)
    out.break_in_loop(lambda: ClientDisconnected("gone"))
    with pytest.raises(ClientDisconnected):
        early.add_early_hints([LINK])


def test_nothing_is_offered_that_the_server_does_not_offer(out: ThreadToLoop) -> None:
    """W-OUT-12, A-OUT-6"""
    environ: dict[str, object] = {}
    assert EarlyMessages.offered({"http.response.push": {}}, environ, out) is None
    assert environ == {}
    assert EarlyMessages.offered({"http.response.debug": {}}, environ, out) is not None
    assert list(environ) == ["wsgi_asgi_bridge.send_debug"]
