"""An ASGI app's WebSockets on real servers, with a real client: messages, closes, refusals."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.support.asgi_sites import RunningSite, is_refused, site_fixture
from tests.support.bridged_websockets import FEW, SMALL_MESSAGE
from tests.support.websocket_apps import GREETING
from tests.support.websocket_clients import (
    ANSWER_SECONDS,
    answer,
    close_of,
    frame,
    frame_of_server,
    handshake,
    refusal,
    upgraded,
    websocket,
)
from tests.support.witness import became_true
from tests.support.wsgi_servers import (
    CONCURRENCY,
    EARLY_BYTES,
    GREENLET_SERVERS,
    THREADS,
    WEBSOCKET_SERVERS,
)

SITE = "tests.support.bridged_websockets:site"
MEBIBYTE = 1024 * 1024
MESSAGES = {
    "text": "Zoë 漢字 🐍",
    "binary": bytes(range(256)),
    "empty-text": "",
    "empty-binary": b"",
    "large-text": "漢" * (MEBIBYTE // 3),
    "large-binary": bytes(range(256)) * (MEBIBYTE // 256),
}


kept_site = site_fixture(WEBSOCKET_SERVERS, SITE)


@pytest.fixture
def site(kept_site: RunningSite) -> Iterator[RunningSite]:
    """The server; after each test its bridge holds no connection any more."""
    yield kept_site
    assert became_true(lambda: counts(kept_site)["released_websockets"] == 0, ANSWER_SECONDS)


def counts(site: RunningSite) -> dict[str, Any]:
    counted: dict[str, Any] = json.loads(site.get("/sends_counts").body)
    return counted


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_come_back(site: RunningSite, compression: str | None) -> None:
    """WS-A-5, WS-A-11: of either kind, empty and large, in their order."""
    with websocket(site, "/echo", compression=compression, max_size=None) as client:
        assert ("sec-websocket-extensions" in client.response.headers) == bool(compression)
        for message in MESSAGES.values():
            client.send(message)
        assert [answer(client) for _ in MESSAGES] == list(MESSAGES.values())


def test_fragments_are_one_message(site: RunningSite) -> None:
    """WS-A-11: with a ping between them, which is answered meanwhile."""
    with upgraded(site, "/echo") as client:
        client.send(frame(Opcode.TEXT, "漢".encode()[:1], fin=False))
        client.send(frame(Opcode.PING, b"now?"))
        assert client.receive_until(b"now?") == frame_of_server(Opcode.PONG, b"now?")
        client.send(frame(Opcode.CONT, "漢".encode()[1:], fin=False))
        client.send(frame(Opcode.CONT, b""))
        assert client.receive_until("漢".encode()) == frame_of_server(Opcode.TEXT, "漢".encode())


def test_compression_can_be_turned_off(site: RunningSite) -> None:
    """WS-A-13"""
    with websocket(site, "/uncompressed/echo") as client:
        assert "sec-websocket-extensions" not in client.response.headers
        client.send("plain")
        assert answer(client) == "plain"


def test_trio_serves_them_as_well(site: RunningSite) -> None:
    """A-LOOP-1, A-LOOP-6, WS-A-5, WS-A-9: but not among greenlets."""
    if site.server in GREENLET_SERVERS:
        with site.connect() as client:
            client.send_head("GET", "/trio/echo", handshake())
            assert is_refused(client)
        return
    with websocket(site, "/trio/echo?name=trio", max_size=None) as client:
        for message in MESSAGES.values():
            client.send(message)
        assert [answer(client) for _ in MESSAGES] == list(MESSAGES.values())
        client.close(4000)
    site.witness.wait_for("trio left 4000", ANSWER_SECONDS)


def test_thread_can_be_kept(site: RunningSite) -> None:
    """WS-A-2: by `release="off"`; a server with one thread then refuses."""
    if not site.server.can(CONCURRENCY):
        assert refusal(site, "/kept/echo").status == 501
        return
    with websocket(site, "/kept/counts", max_size=None) as client:
        client.send("?")
        assert json.loads(answer(client))["released_websockets"] == 0
    with websocket(site, "/kept/echo?name=kept", max_size=None) as client:
        for message in MESSAGES.values():
            client.send(message)
        assert [answer(client) for _ in MESSAGES] == list(MESSAGES.values())
        client.close(4000)
    site.witness.wait_for("kept left 4000", ANSWER_SECONDS)


def test_app_is_told_of_the_handshake(site: RunningSite) -> None:
    """A-SCOPE-1, A-SCOPE-3: scope, subprotocols and headers; the first subprotocol is chosen."""
    headers = {"x-name": "value"}
    protocols = ["chat.v2", "chat.v1"]
    target = "/describes?a=%20b"
    with websocket(site, target, subprotocols=protocols, additional_headers=headers) as client:
        assert client.subprotocol == "chat.v2"
        told = json.loads(answer(client))
        assert (told["type"], told["scheme"], told["path"]) == ("websocket", "ws", "/describes")
        assert told["subprotocols"] == protocols
        assert told["headers"]["x-name"] == "value"


def test_environ_stays_that_of_the_handshake(site: RunningSite) -> None:
    """A-SCOPE-3: uWSGI uses its dict again for the next request."""
    with websocket(site, "/remembers_environ?own=1") as client:
        for _ in range(THREADS + 2):
            assert site.get("/hello?others").body == b"Hello, world!"
        client.send("now?")
        assert answer(client) == "own=1"


def test_headers_of_accept_and_a_message_at_once(site: RunningSite) -> None:
    """WS-A-12"""
    with websocket(site, "/greets") as client:
        assert client.response.headers["set-cookie"] == "seen=1; Path=/"
        assert answer(client) == GREETING


@pytest.mark.parametrize(
    ("target", "close"),
    [
        ("/closes?code=1000", (1000, "")),
        ("/closes?code=4001&reason=bye", (4001, "bye")),
        ("/returns", (1000, "")),
        ("/raises", (1011, "")),
    ],
)
def test_codes_of_the_app(site: RunningSite, target: str, close: tuple[int, str]) -> None:
    """WS-A-9, WS-A-10"""
    with websocket(site, target) as client:
        assert close_of(client) == close


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (1001, "tab closed"), (4999, "漢字")])
def test_codes_of_the_client(site: RunningSite, code: int, reason: str) -> None:
    """WS-A-9: the app gets the client's code, and the client its own back."""
    name = f"code-{code}"
    with websocket(site, f"/echo?name={name}") as client:
        client.close(code, reason)
        assert close_of(client) == (code, reason)
    site.witness.wait_for(f"{name} said {reason}", ANSWER_SECONDS)
    assert site.witness.is_noted(f"{name} left {code}")


def test_empty_close_frame(site: RunningSite) -> None:
    """WS-A-9, WS-A-10: it is answered, and then the server ends the connection."""
    with upgraded(site, "/echo?name=empty") as client:
        client.send(frame(Opcode.CLOSE, b""))
        assert client.receive_until(b"\x00") == frame_of_server(Opcode.CLOSE, b"")
        client.end_sending()
        assert client.is_closed_by_server(ANSWER_SECONDS)
    site.witness.wait_for("empty left 1005", ANSWER_SECONDS)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_is_killed(site: RunningSite, how: str) -> None:
    """WS-A-9"""
    client = upgraded(site, f"/echo?name={how}")
    getattr(client, how)()
    site.witness.wait_for(f"{how} left 1006", ANSWER_SECONDS)


def test_pings_of_the_bridge(site: RunningSite) -> None:
    """WS-A-13: who answers stays; who does not is gone."""
    with (
        websocket(site, "/pinging/echo?name=lively") as lively,
        upgraded(site, "/pinging/echo?name=dead") as dead,
    ):
        assert dead.receive_until(b"\x89") == b"\x89"
        site.witness.wait_for("dead left 1006", ANSWER_SECONDS)
        assert dead.is_closed_by_server(ANSWER_SECONDS)
        lively.send("here")
        assert answer(lively) == "here"
        assert not site.witness.is_noted("lively left 1006")


def test_first_message_in_the_packet_of_the_handshake(site: RunningSite) -> None:
    """WS-A-5: what the server has read past the head is the first that the app gets."""
    keeps = site.server.can(EARLY_BYTES)
    with upgraded(site, "/echo", frame(Opcode.TEXT, b"early")) as client:
        client.send(frame(Opcode.BINARY, b"late"))
        early = frame_of_server(Opcode.TEXT, b"early") if keeps else b""
        assert client.receive_until(b"late") == early + frame_of_server(Opcode.BINARY, b"late")


def test_more_websockets_than_threads(site: RunningSite) -> None:
    """WS-A-8: beside them ordinary requests are answered, and stats() counts them all."""
    many, threads = THREADS + 2, counts(site)["threads"]
    with ExitStack() as connections:
        clients = [connections.enter_context(websocket(site, "/joins")) for _ in range(many)]
        assert site.answers_hello()
        now = counts(site)
        assert now["released_websockets"] == many
        assert now["threads"] <= threads + THREADS, "one each"
        assert site.get("/broadcast").body == b"%d" % many
        assert [answer(client) for client in clients] == [GREETING] * many


def test_nothing_is_left_of_closed_ones(site: RunningSite) -> None:
    """WS-A-2, WS-A-6: no descriptor, whoever ended them."""

    def open_and_end_some() -> None:
        for target in ("/echo", "/returns", "/closes?code=4000", "/denies"):
            if target == "/denies":
                refusal(site, target)
            else:
                with websocket(site, target):
                    pass
        upgraded(site, "/echo").reset()

    open_and_end_some()
    assert became_true(lambda: counts(site)["released_websockets"] == 0, ANSWER_SECONDS)
    before = counts(site)["files"]
    for _ in range(3):
        open_and_end_some()
    assert became_true(lambda: counts(site)["files"] <= before, ANSWER_SECONDS), before


def test_message_that_is_too_large(site: RunningSite) -> None:
    """WS-A-9"""
    with websocket(site, "/small/echo?name=large") as client:
        client.send(b"x" * SMALL_MESSAGE)
        assert len(answer(client)) == SMALL_MESSAGE
        client.send(b"x" * (SMALL_MESSAGE + 1))
        assert close_of(client)[0] == 1009
    site.witness.wait_for("large left 1009", ANSWER_SECONDS)


def test_text_that_is_not_utf8(site: RunningSite) -> None:
    """WS-A-9"""
    with upgraded(site, "/echo") as client:
        client.send(frame(Opcode.TEXT, b"\xff"))
        assert client.receive_until(b"\xef")[0::3][0] == 0x88


def test_more_than_max_released(site: RunningSite) -> None:
    """WS-A-8: one more is answered 503; when one has left, the next is taken."""
    with ExitStack() as connections:
        first, *_ = [connections.enter_context(websocket(site, "/few/echo")) for _ in range(FEW)]
        assert refusal(site, "/few/echo").status == 503
        first.close()

        def one_more_is_taken() -> bool:
            try:
                connections.enter_context(websocket(site, "/few/echo"))
            except Exception:
                return False
            return True

        assert became_true(one_more_is_taken, ANSWER_SECONDS)


def test_refusals_of_the_app(site: RunningSite) -> None:
    """WS-A-1: by closing, and by an answer of its own."""
    assert refusal(site, "/refuses").status == 403
    denied = refusal(site, "/denies")
    assert (denied.status, denied.body) == (401, b"who are you?")
    assert denied.header("www-authenticate") == "Bearer"


def test_error_of_the_app_before_it_accepts(site: RunningSite) -> None:
    """WS-A-9: the server's own answer to an error, if it has one."""
    with site.connect() as client:
        client.send_head("GET", "/raises_before", handshake())
        assert is_refused(client)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sec_websocket_version": "12"}, 426),
        ({"sec_websocket_version": ""}, 426),
        ({"sec_websocket_key": ""}, 400),
        ({"sec_websocket_key": "c2hvcnQ="}, 400),
    ],
)
def test_malformed_handshake(site: RunningSite, changes: dict[str, str], status: int) -> None:
    """WS-A-1"""
    refused = refusal(site, "/echo", **changes)
    assert refused.status == status
    assert refused.header("sec-websocket-version") == ("13" if status == 426 else None)


def test_handshake_with_a_body(site: RunningSite) -> None:
    """WS-A-1"""
    with site.connect() as client:
        client.send_head("GET", "/echo", handshake(), content_length=2)
        client.send_body(b"hi")
        assert client.read_head().status == 400
