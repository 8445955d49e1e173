"""message_port.py: messages between threads and one task, and how the two sides end.

Most tests play both sides in one thread: the loop is turned by hand, and the other side acts when
the port's lock is taken or given back, which are the only moments when it can.
"""

import gc
import threading
import weakref
from typing import Any

import anyio
import pytest

from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    Blocking,
    HandTask,
    HandTurnedLoop,
    ended,
    lying,
    must_happen,
    stepped,
)
from wsgi_asgi_bridge._crossing import message_port
from wsgi_asgi_bridge._crossing.loops import WaitInLoop, running_loop_handle
from wsgi_asgi_bridge._crossing.message_port import MessagePort

BUDGET = 10


class OverError(Exception):
    """What a thread gets that would send after the end."""


def make_port(loop: Any, in_budget: int = BUDGET, out_budget: int = BUDGET) -> MessagePort:
    return MessagePort(
        loop, in_budget=in_budget, out_budget=out_budget, closed=OverError, lost="lost"
    )


@pytest.fixture
def port(loop: HandTurnedLoop) -> MessagePort:
    """Opened; its first message was taken."""
    port = make_port(loop)
    port.open_from_thread("hello")
    assert stepped(port.take_in_loop()) == "hello"
    return port


@pytest.fixture
def unopened(loop: HandTurnedLoop) -> MessagePort:
    return make_port(loop)


def send(port: MessagePort, text: str, timeout: float | None = WAIT_SECONDS) -> bool:
    return port.send_from_thread(text, len(text), timeout)


def put(port: MessagePort, text: str) -> bool:
    return port.put(text, len(text))


def take(port: MessagePort) -> Any:
    return stepped(port.take_in_loop())


# --- real threads, real loops


async def test_many_threads_and_a_loop_exchange_messages_through_small_budgets() -> None:
    """Nothing is lost, doubled, or out of its sender's order."""
    port = make_port(running_loop_handle(), 30, 30)
    port.open_from_thread("hello")
    threads, each = 4, 100
    texts = [f"{number}" * (number % 5 + 1) for number in range(threads * each)]

    def sender(number: int) -> None:
        for text in range(each):
            assert port.send_from_thread((number, text), 1 + text % 20, WAIT_SECONDS)

    def receiver() -> list[str]:
        received = []
        while (text := port.receive_from_thread()) is not None:
            received.append(text)
        return received

    senders = [Blocking(lambda number=number: sender(number)) for number in range(threads)]
    receivers = [Blocking(receiver) for _ in range(threads)]

    async def feed() -> None:
        for text in texts:
            if not put(port, text):
                await port.wait_for_room_in_loop()

    taken = []
    with anyio.fail_after(2 * WAIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(feed)
            assert await port.take_in_loop() == "hello"
            for _ in range(threads * each):
                taken.append(await port.take_in_loop())
        port.end_in_loop("over")
    for thread in senders:
        await thread.result_in_loop()
    received = [await thread.result_in_loop() for thread in receivers]
    assert sorted(text for texts_of_one in received for text in texts_of_one) == sorted(texts)
    for number in range(threads):
        assert [text for by, text in taken if by == number] == list(range(each))
    assert await port.take_in_loop() is None


async def test_the_loop_never_waits_for_threads_that_sleep_in_the_port() -> None:
    """W-FLOW-7: the lock is free while others wait."""
    port = make_port(running_loop_handle())
    lock = lying(port)
    asleep = [threading.Event(), threading.Event()]
    lock.after("receive_from_thread", asleep[0].set)
    receiving = Blocking(port.receive_from_thread)
    must_happen(asleep[0])
    port.open_from_thread("hello")
    send(port, "x" * BUDGET)
    lock.after("send_from_thread", asleep[1].set)
    sending = Blocking(lambda: send(port, "y"))
    must_happen(asleep[1])
    assert port._lock.acquire(blocking=False)
    port._lock.release()
    port.end_in_loop("over")
    assert await receiving.result_in_loop() is None
    with pytest.raises(OverError):
        await sending.result_in_loop()


# --- opening


def test_the_first_message_opens_the_port_once(unopened: MessagePort) -> None:
    assert not unopened.was_opened()
    assert unopened.open_from_thread("hello")
    assert not unopened.open_from_thread("hello again")
    assert unopened.was_opened()
    assert take(unopened) == "hello"


def test_nothing_is_sent_before_the_port_is_open(unopened: MessagePort) -> None:
    with pytest.raises(OverError):
        send(unopened, "early")
    assert not unopened.close_from_thread("bye", "over")


def test_a_port_that_was_left_cannot_be_opened(unopened: MessagePort) -> None:
    assert not unopened.leave_from_thread("gone")
    with pytest.raises(OverError):
        unopened.open_from_thread("hello")
    assert take(unopened) is None
    assert not unopened.was_opened()


def test_open_or_end_whoever_is_first(unopened: MessagePort) -> None:
    """The other side ends the port just before a thread opens it."""
    lock = lying(unopened)
    lock.before("open_from_thread", lambda: unopened.end_in_loop("over", drop=True))
    with pytest.raises(OverError):
        unopened.open_from_thread("hello")
    assert lock.told
    assert not unopened.was_opened()
    assert take(unopened) is None


def test_open_before_the_end(unopened: MessagePort) -> None:
    lock = lying(unopened)
    lock.after("open_from_thread", lambda: unopened.end_in_loop("over"))
    assert unopened.open_from_thread("hello")
    assert lock.told
    assert unopened.was_opened()
    assert (take(unopened), take(unopened)) == ("hello", None)


def test_a_second_open_after_the_end_is_refused(port: MessagePort) -> None:
    port.end_in_loop("over")
    with pytest.raises(OverError):
        port.open_from_thread("hello")


# --- out


def test_one_post_wakes_the_task_for_many_messages(port: MessagePort, loop: HandTurnedLoop) -> None:
    loop.post_count = 0
    with HandTask(port.take_in_loop()) as taking:
        assert not taking.step()
        send(port, "one")
        send(port, "two")
        assert loop.post_count == 1
        assert not taking.step()
        loop.turn()
        assert taking.step()
        assert taking.result() == "one"
    assert take(port) == "two"


def test_a_message_counts_until_the_next_one_is_asked_for(port: MessagePort) -> None:
    send(port, "123456")
    assert take(port) == "123456"
    assert not send(port, "12345", 0)
    with HandTask(port.take_in_loop()) as taking:
        taking.step()
        assert send(port, "12345", 0)


def test_a_message_larger_than_the_budget_goes_alone(port: MessagePort) -> None:
    assert send(port, "x" * 3 * BUDGET, 0)
    assert not send(port, "y", 0)
    assert take(port) == "x" * 3 * BUDGET


def test_a_sender_waits_until_half_of_the_budget_is_free(port: MessagePort) -> None:
    for _ in range(5):
        send(port, "12")
    waiting = asleep(port, lambda: send(port, "x"))
    for _ in range(3):  # the first two are sent: six bytes are held
        take(port)
    assert not waiting.done()
    take(port)
    assert waiting.result() is True
    assert [take(port), take(port)] == ["12", "x"]


def test_senders_are_served_in_the_order_in_which_they_came(port: MessagePort) -> None:
    """A small message does not overtake a large one that waits."""
    send(port, "12345678")
    large = asleep(port, lambda: send(port, "x" * BUDGET))
    small = asleep(port, lambda: send(port, "y"))
    assert not send(port, "z", 0)
    taken = [take(port), take(port)]
    assert large.result() is True
    taken.append(take(port))
    assert small.result() is True
    assert [text[0] for text in taken] == ["1", "x", "y"]


def test_a_sender_gives_up_when_nothing_moves(port: MessagePort) -> None:
    send(port, "x" * BUDGET)
    assert ended(lambda: send(port, "y", TINY_SECONDS)) is False
    assert take(port) == "x" * BUDGET
    with HandTask(port.take_in_loop()) as taking:
        assert not taking.step(), "a message that was given up is not sent"


def test_a_sender_whose_time_runs_out_while_messages_move_waits_on(port: MessagePort) -> None:
    for _ in range(5):
        send(port, "12")
    lock = lying(port)
    # At the first time-out one message has been sent, too little to make room; at the second more.
    lock.before("_wait_for_room", lambda: (take(port), take(port)))
    lock.before("_wait_for_room", lambda: (take(port), take(port)), nth=2)
    assert ended(lambda: send(port, "x", TINY_SECONDS)) is True
    assert lock.told


@pytest.mark.parametrize("moment", ["before", "after"])
def test_room_is_made_in_the_moment_in_which_the_time_runs_out(
    port: MessagePort, moment: str
) -> None:
    """Before the lock is taken the message is put; after it was given up nothing is."""
    send(port, "x" * BUDGET)
    take(port)
    lock = lying(port)

    def make_room() -> None:
        with HandTask(port.take_in_loop()) as taking:
            taking.step()

    getattr(lock, moment)("_wait_for_room", make_room)
    sent = ended(lambda: send(port, "y", TINY_SECONDS))
    assert lock.told
    assert sent is (moment == "before")
    if sent:
        with HandTask(port.take_in_loop()) as taking:
            assert not taking.step(), "make_room took it"


def test_a_thread_of_the_loop_does_not_wait_for_itself(
    port: MessagePort, loop: HandTurnedLoop
) -> None:
    loop.own_threads.add(threading.get_ident())
    assert send(port, "x" * BUDGET)
    with pytest.raises(WaitInLoop):
        send(port, "y")
    with pytest.raises(WaitInLoop):
        port.receive_from_thread()
    put(port, "there")
    assert port.receive_from_thread() == "there"
    assert take(port) == "x" * BUDGET


# --- in


def test_messages_arrive_in_order(port: MessagePort) -> None:
    put(port, "one")
    put(port, "two")
    assert [port.receive_from_thread(), port.receive_from_thread()] == ["one", "two"]


def test_a_receiver_is_woken(port: MessagePort) -> None:
    receiving = asleep(port, port.receive_from_thread)
    put(port, "one")
    assert receiving.result() == "one"


def test_each_message_wakes_one_receiver(port: MessagePort) -> None:
    receiving = [asleep(port, port.receive_from_thread) for _ in range(3)]
    put(port, "one")
    put(port, "two")
    put(port, "three")
    assert sorted(each.result() for each in receiving) == ["one", "three", "two"]


def test_a_message_is_for_the_thread_that_waited_for_it(port: MessagePort) -> None:
    """A thread that comes just after the put does not take it away."""
    receiving = asleep(port, port.receive_from_thread)
    lock = port._lock
    late: list[Any] = []

    def come_late() -> None:
        with pytest.raises(TimeoutError):
            port.receive_from_thread(0)
        late.append(True)

    lock.after("put", come_late)  # type: ignore[attr-defined]
    put(port, "one")
    assert receiving.result() == "one"
    assert late == [True]


def test_a_thread_that_waits_again_and_again_needs_one_receiver(port: MessagePort) -> None:
    """Each wait gets the message that came for it, and none of before."""
    for text in ("one", "two", "three"):
        receiving = asleep(port, port.receive_from_thread)
        put(port, text)
        assert receiving.result() == text
    assert len(port._idle_receivers) == 1


def test_threads_that_wait_at_once_have_a_receiver_each(port: MessagePort) -> None:
    for _ in range(2):
        waiting = [asleep(port, port.receive_from_thread) for _ in range(3)]
        for text in ("one", "two", "three"):
            put(port, text)
        assert [each.result() for each in waiting] == ["one", "two", "three"]
    assert len(port._idle_receivers) == 3


def test_a_receiver_that_gave_up_is_not_used_again(port: MessagePort) -> None:
    """It is one that nobody has set."""
    with pytest.raises(TimeoutError):
        port.receive_from_thread(TINY_SECONDS)
    assert not port._idle_receivers


def test_a_message_that_was_received_is_kept_by_nobody(port: MessagePort) -> None:
    class Message: ...

    receiving: Blocking[Any] = asleep(port, port.receive_from_thread)
    message = Message()
    reference = weakref.ref(message)
    port.put(message, 1)
    assert receiving.result() is message
    del message, receiving
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("comes", [True, False], ids=["a message has come", "none has"])
@pytest.mark.parametrize("another", [True, False], ids=["another waits", "none waits"])
def test_a_receiver_that_is_interrupted_loses_no_message(
    port: MessagePort, monkeypatch: pytest.MonkeyPatch, comes: bool, another: bool
) -> None:
    """WS-W-7: by Ctrl-C or gevent.Timeout, whether or not it has been given the message."""
    others: list[Blocking[Any]] = []

    def interrupted(*_: Any) -> bool:
        monkeypatch.undo()
        if another:
            others.append(asleep(port, port.receive_from_thread))
        if comes:
            put(port, "first")
        raise KeyboardInterrupt

    monkeypatch.setattr(message_port, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        port.receive_from_thread()
    if not comes:
        put(port, "first")
    received = others[0].result() if another else port.receive_from_thread(0)
    put(port, "second")
    assert (received, port.receive_from_thread(0)) == ("first", "second")


def test_a_receiver_gives_up(port: MessagePort) -> None:
    with pytest.raises(TimeoutError):
        ended(lambda: port.receive_from_thread(TINY_SECONDS))
    with pytest.raises(TimeoutError):
        port.receive_from_thread(0)
    put(port, "one")
    assert port.receive_from_thread(0) == "one"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_message_comes_in_the_moment_in_which_the_time_runs_out(
    port: MessagePort, moment: str
) -> None:
    """It is received now or by the next call; it is never lost."""
    lock = lying(port)
    getattr(lock, moment)("_wait_to_receive", lambda: put(port, "late"))
    if moment == "before":
        assert ended(lambda: port.receive_from_thread(TINY_SECONDS)) == "late"
        lock.after("receive_from_thread", lambda: put(port, "next"))  # the same receiver
        assert ended(port.receive_from_thread) == "next"
    else:
        with pytest.raises(TimeoutError):
            ended(lambda: port.receive_from_thread(TINY_SECONDS))
        assert port.receive_from_thread(0) == "late"
    assert lock.told


def test_the_feeding_task_waits_until_half_of_the_budget_is_free(
    port: MessagePort, loop: HandTurnedLoop
) -> None:
    for _ in range(4):
        assert put(port, "12")
    assert not put(port, "12")
    with HandTask(port.wait_for_room_in_loop()) as waiting:
        assert not waiting.step()
        port.receive_from_thread()
        port.receive_from_thread()
        loop.turn()
        assert not waiting.step()
        port.receive_from_thread()
        loop.turn()
        assert waiting.step()


def test_room_that_was_made_before_the_feeding_task_waits(port: MessagePort) -> None:
    put(port, "x" * BUDGET)
    lock = lying(port)
    lock.before("wait_for_room_in_loop", port.receive_from_thread)
    stepped(port.wait_for_room_in_loop())
    assert lock.told


# --- endings


def test_the_threads_close(port: MessagePort) -> None:
    """What was put goes first, what has come is received first, and nothing follows."""
    put(port, "in")
    send(port, "out")
    assert port.close_from_thread("bye", "closed")
    assert not port.close_from_thread("bye again", "closed again")
    with pytest.raises(OverError):
        send(port, "late")
    put(port, "dropped")
    assert [take(port), take(port), take(port), take(port)] == ["out", "bye", None, None]
    assert port.receive_from_thread() == "in"
    assert (port.receive_from_thread(), port.receive_from_thread()) == (None, None)
    assert (port.end(), port.has_ended()) == ("closed", True)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_close_and_send(port: MessagePort, moment: str) -> None:
    """A message goes before the last one, or it is refused."""
    lock = lying(port)
    getattr(lock, moment)("send_from_thread", lambda: port.close_from_thread("bye", "closed"))
    if moment == "before":
        with pytest.raises(OverError):
            send(port, "text")
        assert take(port) == "bye"
    else:
        assert send(port, "text")
        assert [take(port), take(port)] == ["text", "bye"]
    assert lock.told
    assert take(port) is None


def endings(port: MessagePort) -> dict[str, Any]:
    return {
        "close": lambda: port.close_from_thread("bye", "over"),
        "leave": lambda: port.leave_from_thread("over"),
        "end": lambda: port.end_in_loop("over"),
        "drop": lambda: port.end_in_loop("over", drop=True),
    }


ENDINGS = ["close", "leave", "end", "drop"]


@pytest.mark.parametrize("how", ENDINGS)
def test_an_end_wakes_all_who_wait(port: MessagePort, loop: HandTurnedLoop, how: str) -> None:
    """Close against waits: senders are refused, receivers get the end, the tasks go on."""
    send(port, "x" * BUDGET)
    receiving = [asleep(port, port.receive_from_thread) for _ in range(2)]
    sending = [asleep(port, lambda: send(port, "y")) for _ in range(2)]
    endings(port)[how]()
    assert [each.result() for each in receiving] == [None, None]
    for each in sending:
        with pytest.raises(OverError):
            each.result()
    assert port.end() == "over"
    left = [] if how == "drop" else ["x" * BUDGET]
    left += ["bye"] if how == "close" else []
    assert [take(port) for _ in left] == left
    assert take(port) is None


@pytest.mark.parametrize("how", ENDINGS)
def test_an_end_wakes_the_tasks(port: MessagePort, loop: HandTurnedLoop, how: str) -> None:
    put(port, "x" * BUDGET)
    with HandTask(port.take_in_loop()) as taking, HandTask(port.wait_for_room_in_loop()) as feeding:
        assert not taking.step()
        assert not feeding.step()
        endings(port)[how]()
        loop.turn()
        assert taking.step()
        assert feeding.step()
        assert taking.result() == ("bye" if how == "close" else None)


@pytest.mark.parametrize("how", ENDINGS)
def test_an_end_just_before_a_thread_sleeps(port: MessagePort, how: str) -> None:
    """It sees the end and does not sleep."""
    lock = lying(port)
    lock.before("receive_from_thread", endings(port)[how])
    assert ended(port.receive_from_thread) is None
    assert lock.told


@pytest.mark.parametrize("how", ENDINGS)
def test_an_end_just_after_a_thread_fell_asleep(port: MessagePort, how: str) -> None:
    lock = lying(port)
    lock.after("receive_from_thread", endings(port)[how])
    assert ended(port.receive_from_thread) is None
    assert lock.told


@pytest.mark.parametrize("how", ENDINGS)
def test_an_end_in_the_moment_in_which_a_senders_time_runs_out(port: MessagePort, how: str) -> None:
    send(port, "x" * BUDGET)
    lock = lying(port)
    lock.before("_wait_for_room", endings(port)[how])
    with pytest.raises(OverError):
        ended(lambda: send(port, "y", TINY_SECONDS))
    assert lock.told


@pytest.mark.parametrize("how", ENDINGS)
def test_an_end_just_before_the_task_waits(port: MessagePort, how: str) -> None:
    lock = lying(port)
    lock.before("take_in_loop", endings(port)[how])
    assert take(port) == ("bye" if how == "close" else None)
    assert lock.told


def test_the_first_end_is_the_one_that_receivers_get(port: MessagePort) -> None:
    port.end_in_loop("first")
    port.leave_from_thread("second")
    port.end_in_loop("third")
    assert port.end() == "first"


def test_what_was_put_goes_out_unless_it_is_dropped(port: MessagePort) -> None:
    send(port, "one")
    port.end_in_loop("over")
    assert take(port) == "one"
    with pytest.raises(OverError):
        send(port, "late")
    assert take(port) is None


# --- the observer of readiness


def test_the_observer_hears_of_messages_and_of_the_end(port: MessagePort) -> None:
    seen: list[bool] = []
    port.observe(lambda: seen.append(port.is_readable()))
    put(port, "one")
    assert seen == [True]
    port.receive_from_thread()
    assert not port.is_readable()
    port.end_in_loop("over")
    assert seen == [True, True]
    port.observe(None)
    port.end_in_loop("over")
    assert seen == [True, True]


# --- a loop that is closed


def test_a_send_that_finds_the_loop_closed(port: MessagePort, loop: HandTurnedLoop) -> None:
    """The task waits for ever: the next step of each thread finds the end."""
    with HandTask(port.take_in_loop()) as taking:
        taking.step()
        loop.closed = True
        send(port, "one")
        with pytest.raises(OverError):
            send(port, "two")
        assert port.receive_from_thread() is None
        assert port.end() == "lost"


def test_threads_that_wait_find_the_loop_closed(
    port: MessagePort, loop: HandTurnedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_port, "CLOSED_LOOP_SECONDS", TINY_SECONDS)
    send(port, "x" * BUDGET)
    receiving = asleep(port, port.receive_from_thread)
    sending = asleep(port, lambda: send(port, "y", None))
    loop.closed = True
    assert receiving.result() is None
    with pytest.raises(OverError):
        sending.result()


def test_a_receiver_that_makes_room_in_a_closed_loop(
    port: MessagePort, loop: HandTurnedLoop
) -> None:
    put(port, "x" * BUDGET)
    put(port, "y")
    with HandTask(port.wait_for_room_in_loop()) as feeding:
        feeding.step()
        loop.closed = True
        assert port.receive_from_thread() == "x" * BUDGET
        assert port.receive_from_thread() == "y"
        assert port.receive_from_thread() is None


# --- memory


def test_a_port_is_freed_without_the_garbage_collector(loop: HandTurnedLoop) -> None:
    port = make_port(loop)
    port.open_from_thread("hello")
    put(port, "one")
    port.close_from_thread("bye", "over")
    reference = weakref.ref(port)
    gc.disable()
    try:
        del port
        assert reference() is None
    finally:
        gc.enable()


def asleep(port: MessagePort, call: Any) -> "Blocking[Any]":
    """A thread in a call that waits in the port."""
    before = len(port._receivers) + len(port._senders)
    lock = port._lock if hasattr(port._lock, "wait_until") else lying(port)
    blocking: Blocking[Any] = Blocking(call)
    lock.wait_until(lambda: len(port._receivers) + len(port._senders) > before)
    return blocking
