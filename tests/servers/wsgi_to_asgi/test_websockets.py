"""A WSGI app's WebSockets on every ASGI server, by both faces, with real clients."""

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import quote
from uuid import uuid4

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.asgi_servers import waited_for
from tests.support.asgi_websocket_clients import WAIT_SECONDS, end_of, kill
from tests.support.asgi_websocket_servers import SERVERS, Ability, ServedWebSockets, WebSocketServer
from tests.support.processes import ServerProcess, running_server, shown_on_failure
from tests.support.wsgi_websocket_apps import (
    COOKIE,
    FAREWELL,
    GREETING,
    MAX_MESSAGE_BYTES,
    MIB,
    PONGS,
    REFUSAL,
    SUBPROTOCOL,
    WELCOME,
)

OBSERVED = "tests.support.wsgi_websocket_apps:observed"
FACES = ["socket", "message"]
MEMBERS = 20


@pytest.fixture(scope="module", params=[pytest.param(row, id=row.name) for row in SERVERS])
def row(request: pytest.FixtureRequest) -> WebSocketServer:
    return request.param


@pytest.fixture(scope="module")
def process(row: WebSocketServer) -> Iterator[ServerProcess]:
    with running_server(row.server.command_for(OBSERVED)) as process:
        yield process


@pytest.fixture
def served(row: WebSocketServer, process: ServerProcess) -> Iterator[ServedWebSockets]:
    """After each test nothing is in flight in its bridge."""
    with shown_on_failure(process):
        served = ServedWebSockets(row.server, process, row)
        yield served
        served.wait_for_stats(in_flight=0, websockets=0, busy=0, streaming=0)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return request.param


# --- messages


@pytest.mark.parametrize(
    "message",
    ["hello", "caf\xe9 \u20ac \U0001f40d", b"bytes", bytes(range(256)), "x" * MIB, b"y" * MIB],
    ids=["text", "unicode", "binary", "all bytes", "1 MiB of text", "1 MiB"],
)
def test_messages_come_back_as_they_were(
    served: ServedWebSockets, face: str, message: str | bytes
) -> None:
    with served.open(f"/{face}/echo") as client:
        for _ in range(3):
            client.send(message)
            assert client.recv(WAIT_SECONDS) == message


def test_empty_messages_are_messages(served: ServedWebSockets, face: str) -> None:
    """WS-W-9."""
    with served.open(f"/{face}/echo") as client:
        for message in ("", b"", "end"):
            client.send(message)
        expected = ["", b"", "end"] if served.has(Ability.EMPTY_MESSAGES) else ["end"]
        assert [client.recv(WAIT_SECONDS) for _ in expected] == expected


def test_fragments_are_one_message(served: ServedWebSockets, face: str) -> None:
    """WS-W-9."""
    with served.open(f"/{face}/echo") as client:
        client.send(["frag", "ment", "", "ed"])
        assert client.recv(WAIT_SECONDS) == "fragmented"


def test_many_messages_keep_their_order(served: ServedWebSockets, face: str) -> None:
    with served.open(f"/{face}/echo") as client:
        sent: list[str | bytes] = [f"{n}" if n % 2 else b"%d" % n for n in range(200)]
        for message in sent:
            client.send(message)
        assert [client.recv(WAIT_SECONDS) for _ in sent] == sent


def test_client_s_ping_is_answered(served: ServedWebSockets, face: str) -> None:
    with served.open(f"/{face}/echo") as client:
        assert client.ping(b"are you there").wait(WAIT_SECONDS)
        client.send("hello")
        assert client.recv(WAIT_SECONDS) == "hello"


def test_app_s_pings_are_answered(served: ServedWebSockets) -> None:
    """WS-W-8: also where the library waits for them by `select()`."""
    with served.open("/pings") as client:
        assert client.recv(WAIT_SECONDS) == f"{PONGS} pongs"
        assert end_of(client) == (1000, "")


def test_chat_of_twenty(served: ServedWebSockets, face: str) -> None:
    """Each hears everything, in one order; an ordinary request beside them is answered. Twice as
    many as the pool has workers.
    """
    target = f"/{face}/chat?room={uuid4()}"
    said = [f"I am {number}" for number in range(MEMBERS)]
    with ExitStack() as stack:
        members = [stack.enter_context(served.open(target)) for _ in said]
        assert [member.recv(WAIT_SECONDS) for member in members] == [WELCOME] * MEMBERS
        assert served.get("/hello").body == b"hello\n"
        for member, line in zip(members, said, strict=True):
            member.send(line)
        heard = [[member.recv(WAIT_SECONDS) for _ in said] for member in members]
    assert sorted(map(str, heard[0])) == sorted(said)
    assert heard == [heard[0]] * MEMBERS


# --- ends


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (3001, "bye"), (4999, "caf\xe9")])
def test_app_closes(served: ServedWebSockets, face: str, code: int, reason: str) -> None:
    """WS-W-6."""
    with served.open(f"/{face}/closes?code={code}&reason={quote(reason)}") as client:
        client.send("close")
        assert end_of(client) == (code, reason if served.has(Ability.APPS_REASON) else "")


def test_app_returns_without_a_close(served: ServedWebSockets, face: str) -> None:
    """WS-W-5: what it has sent arrives before."""
    with served.open(f"/{face}/says_farewell") as client:
        client.send("go")
        assert client.recv(WAIT_SECONDS) == FAREWELL
        assert end_of(client) == (1000, "")


def test_app_raises(served: ServedWebSockets, face: str) -> None:
    """WS-W-5."""
    mark = len(served.process.output())
    with served.open(f"/{face}/raises") as client:
        client.send("go")
        assert end_of(client)[0] == 1011
    waited_for(
        served.process.output,
        lambda output: "RuntimeError: told to fail" in output[mark:],
        "error of the app in the server's log",
    )


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (4001, "caf\xe9")])
def test_client_closes(served: ServedWebSockets, face: str, code: int, reason: str) -> None:
    """WS-W-7."""
    token = uuid4().hex
    with served.open(f"/{face}/echo?id={token}") as client:
        client.send("hello")
        assert client.recv(WAIT_SECONDS) == "hello"
        client.close(code, reason)
    if face == "message":
        expected = "closed"
    elif served.has(Ability.CLIENTS_CODE):
        known = reason if served.has(Ability.CLIENTS_REASON) else ""
        expected = f"closed {code} {known}".strip()
    else:
        expected = "closed 1005"
    assert served.wait_for_journal(token, expected) == [expected]


def test_client_is_killed(served: ServedWebSockets, face: str) -> None:
    """WS-W-7: the app's library finds the end, and no close frame before it."""
    token = uuid4().hex
    client = served.open(f"/{face}/echo?id={token}")
    client.send("hello")
    assert client.recv(WAIT_SECONDS) == "hello"
    kill(client)
    expected = "closed" if face == "message" else "closed 1005"
    assert served.wait_for_journal(token, expected) == [expected]


def test_client_is_killed_while_the_app_sends(served: ServedWebSockets, face: str) -> None:
    """WS-W-7, WS-W-10: the sender wakes."""
    token = uuid4().hex
    client = served.open(f"/{face}/talks_for_ever?id={token}")
    client.send("talk")
    assert client.recv(WAIT_SECONDS) == "x" * 65_536
    kill(client)
    assert served.wait_for_journal(token, "send raised") == ["send raised"]


def test_message_beyond_the_limit(served: ServedWebSockets, face: str) -> None:
    """`max_message_size` passes, one byte more closes with 1009."""
    with served.open(f"/{face}/echo") as client:
        client.send(b"x" * MAX_MESSAGE_BYTES)
        assert client.recv(WAIT_SECONDS) == b"x" * MAX_MESSAGE_BYTES
        client.send(b"x" * (MAX_MESSAGE_BYTES + 1))
        assert end_of(client)[0] == (1009 if served.has(Ability.CODES_BELOW_3000) else 1011)


# --- the handshake


def test_refusal_before_the_handshake(served: ServedWebSockets) -> None:
    """WS-W-4."""
    with pytest.raises(InvalidStatus) as refused:
        served.open("/refuses")
    response = refused.value.response
    if served.has(Ability.REFUSAL_WITH_BODY):
        assert (response.status_code, response.body) == (401, REFUSAL)
        assert response.headers["x-realm"] == "chat"
    else:
        assert response.status_code == 403


def test_head_in_pieces_with_a_cookie_and_a_frame_behind_it(served: ServedWebSockets) -> None:
    """WS-W-3."""
    with served.open("/by_hand") as client:
        cookie = client.response.headers.get("set-cookie")  # type: ignore[union-attr]
        assert client.recv(WAIT_SECONDS) == GREETING
        assert end_of(client) == (1000, "")
    assert cookie == (COOKIE if served.has(Ability.HEADERS_OF_ACCEPT) else None)


def test_subprotocol(served: ServedWebSockets) -> None:
    """WS-W-2, WS-W-3: the app chooses among those that the client offers."""
    with served.open("/socket/echo", ["chat.v1", SUBPROTOCOL]) as client:
        assert client.subprotocol == SUBPROTOCOL
    with served.open("/socket/echo", ["chat.v1"]) as client:
        assert client.subprotocol is None
    with served.open("/socket/echo") as client:
        assert client.subprotocol is None
