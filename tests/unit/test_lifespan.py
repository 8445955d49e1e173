"""_protocol/lifespan.py: what each message of the app means when, one row a transition."""

import itertools

import pytest

from wsgi_asgi_bridge._protocol.lifespan import Lifespan, LifespanState
from wsgi_asgi_bridge.errors import AppError

STARTING = LifespanState.STARTING
RUNNING = LifespanState.RUNNING
STOPPING = LifespanState.STOPPING
STOPPED = LifespanState.STOPPED
UNSUPPORTED = LifespanState.UNSUPPORTED
FAILED = LifespanState.FAILED

STARTED = "lifespan.startup.complete"
NOT_STARTED = "lifespan.startup.failed"
ENDED = "lifespan.shutdown.complete"
NOT_ENDED = "lifespan.shutdown.failed"
MESSAGES = [STARTED, NOT_STARTED, ENDED, NOT_ENDED, "http.response.start", None]

LEGAL = {
    (STARTING, STARTED): RUNNING,
    (STARTING, NOT_STARTED): FAILED,
    (STOPPING, ENDED): STOPPED,
    (STOPPING, NOT_ENDED): FAILED,
}


def lifespan_in(state: LifespanState, *, required: bool = False) -> Lifespan:
    """One that came to `state` by its own steps."""
    lifespan = Lifespan(required=required)
    if state is UNSUPPORTED:
        lifespan.app_ended(None)
    elif state is FAILED:
        lifespan.accept({"type": NOT_STARTED, "message": "the first failure"})
    elif state is not STARTING:
        lifespan.accept({"type": STARTED})
        if state is not RUNNING:
            lifespan.stop()
        if state is STOPPED:
            lifespan.accept({"type": ENDED})
    assert lifespan.state is state
    return lifespan


@pytest.mark.parametrize(("state", "kind"), LEGAL, ids=str)
def test_a_legal_message_moves_the_lifespan(state: LifespanState, kind: str) -> None:
    """A-LOOP-2."""
    lifespan = lifespan_in(state)
    lifespan.accept({"type": kind})
    assert lifespan.state is LEGAL[state, kind]


@pytest.mark.parametrize(
    ("state", "kind"),
    [row for row in itertools.product(LifespanState, MESSAGES) if row not in LEGAL],
    ids=str,
)
def test_every_other_message_is_an_error_that_changes_nothing(
    state: LifespanState, kind: str | None
) -> None:
    """A-LOOP-2."""
    lifespan = lifespan_in(state)
    failure = lifespan.failure
    with pytest.raises(AppError) as raised:
        lifespan.accept({"type": kind} if kind else {})
    assert repr(kind) in str(raised.value)
    assert state.value in str(raised.value)
    assert (lifespan.state, lifespan.failure) == (state, failure)


@pytest.mark.parametrize("state", LifespanState)
def test_stop_concerns_only_a_lifespan_that_runs(state: LifespanState) -> None:
    lifespan = lifespan_in(state)
    lifespan.stop()
    assert lifespan.state is (STOPPING if state is RUNNING else state)


# What the end of the app's callable means: returned, raised, and raised where lifespan="on".
ENDINGS = {
    STARTING: (UNSUPPORTED, UNSUPPORTED, FAILED),
    RUNNING: (STOPPED, FAILED, FAILED),
    STOPPING: (STOPPED, FAILED, FAILED),
    STOPPED: (STOPPED, STOPPED, STOPPED),
    UNSUPPORTED: (UNSUPPORTED, UNSUPPORTED, UNSUPPORTED),
    FAILED: (FAILED, FAILED, FAILED),
}


@pytest.mark.parametrize("state", LifespanState)
def test_what_the_end_of_the_app_means(state: LifespanState) -> None:
    """A-LOOP-2: as uvicorn has `auto` and `on`."""
    returned, raised, raised_where_required = ENDINGS[state]
    lifespan = lifespan_in(state)
    lifespan.app_ended(None)
    assert lifespan.state is returned
    for required, expected in ((False, raised), (True, raised_where_required)):
        error = ValueError("the app's own")
        lifespan = lifespan_in(state, required=required)
        lifespan.app_ended(error)
        assert lifespan.state is expected
        if expected is FAILED and state is not FAILED:
            assert lifespan.failure is error


def test_an_app_that_returns_without_a_word_is_never_failed() -> None:
    """A-LOOP-2."""
    lifespan = Lifespan(required=True)
    lifespan.app_ended(None)
    assert lifespan.state is UNSUPPORTED


@pytest.mark.parametrize(("state", "kind"), [(STARTING, NOT_STARTED), (STOPPING, NOT_ENDED)])
def test_a_failure_says_why(state: LifespanState, kind: str) -> None:
    """A-LOOP-2."""
    lifespan = lifespan_in(state)
    lifespan.accept({"type": kind, "message": "no database"})
    assert lifespan.failure == "no database"
    silent = lifespan_in(state)
    silent.accept({"type": kind})
    assert silent.failure == "no reason given"


def test_the_end_of_the_app_does_not_cover_its_first_failure() -> None:
    lifespan = lifespan_in(FAILED)
    lifespan.app_ended(ValueError("afterwards"))
    assert lifespan.failure == "the first failure"
