"""_crossing/contexts.py: what was set in one context, set again in another."""

import weakref
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest
from asgiref.local import Local
from asgiref.sync import SyncToAsync

from wsgi_asgi_bridge._crossing.contexts import (
    ContextMirror,
    changes,
    notes_on,
    own_context,
    unchanged,
)

first: ContextVar[Any] = ContextVar("first")
second: ContextVar[Any] = ContextVar("second", default="default")


def context(**values: Any) -> Context:
    """One in which the named variables are set."""
    made = Context()
    for name, value in values.items():
        made.run({"first": first, "second": second}[name].set, value)
    return made


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth of this comparison is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_two_snapshots_without_a_change_are_the_same() -> None:
    made = context(first=1)
    assert unchanged(made, made.copy())
    assert not unchanged(made, context(first=2))
    assert not unchanged(made, context(first=1, second=2))
    assert not unchanged(made, context())


def test_values_that_cannot_be_compared_are_a_change_where_new() -> None:
    made = context(first=Incomparable())
    assert unchanged(made, made.copy())
    assert not unchanged(made, context(first=Incomparable()))


def test_changes_are_told_by_identity() -> None:
    value, other = [1], [1]
    before = context(first=value)
    assert changes(before, context(first=value)) == {}
    assert changes(before, context(first=other))[first] is other
    assert changes(before, context(first=value, second=None)) == {second: None}
    assert changes(before, context()) == {}


def test_what_asgiref_notes_of_a_thread_is_no_change() -> None:
    """Told to another thread it would be wrong there, and hide what that thread has itself."""
    local = Local()
    made = Context()

    def note() -> None:
        local.key = "value"
        SyncToAsync.thread_sensitive_context.set(object())  # type: ignore[arg-type]
        SyncToAsync.deadlock_context.set(True)

    made.run(note)
    assert len(made) == 3
    assert changes(Context(), made) == {}


def test_notes_on_an_error_hold_it_or_a_weak_reference_to_it() -> None:
    class Raised(Exception):
        pass

    error, other = Raised(), Raised()
    weak = weakref.ref(error)
    assert notes_on(error, {first: error}) == {first: error}
    assert notes_on(error, {first: weak, second: "user"}) == {first: weak}
    assert notes_on(error, {first: other, second: weakref.ref(other)}) == {}


def run_in_empty_context(test: Any) -> Any:
    def in_empty_context() -> None:
        Context().run(test)

    in_empty_context.__name__ = test.__name__
    in_empty_context.__doc__ = test.__doc__
    return in_empty_context


@run_in_empty_context
def test_an_echo_sets_and_takes_back() -> None:
    first.set("mine")
    echo = ContextMirror()
    echo.apply({first: 1, second: 2})
    assert (first.get(), second.get()) == (1, 2)
    echo.apply({first: 3})
    assert (first.get(), second.get()) == (3, "default")
    echo.apply({})
    assert (first.get(), second.get()) == ("mine", "default")
    assert second not in copy_context()


@run_in_empty_context
def test_what_the_caller_sets_meanwhile_stands() -> None:
    echo = ContextMirror()
    echo.apply({first: 1, second: 1})
    first.set("mine")
    echo.apply({first: 1, second: 2})
    assert (first.get(), second.get()) == ("mine", 2)
    echo.apply({})
    assert (first.get(), second.get()) == ("mine", "default")


@run_in_empty_context
def test_the_echo_of_a_request_is_gone_for_the_next() -> None:
    ContextMirror(context_lasts=True).apply({first: 1})
    assert first.get() == 1
    assert first not in own_context()
    assert first not in copy_context()


@run_in_empty_context
def test_the_mirror_in_a_task_is_gone_for_the_next_request() -> None:
    first.set("mine")
    ContextMirror().apply({first: 1, second: 2})
    assert first.get() == 1
    for _ in range(2):
        own = own_context()
        assert (own[first], second in own) == ("mine", False)
    assert (first.get(), second.get()) == ("mine", 2)


@run_in_empty_context
def test_echoes_in_one_context_are_all_gone_for_the_next_request() -> None:
    outer, inner = ContextMirror(context_lasts=True), ContextMirror(context_lasts=True)
    outer.apply({first: "outer"})
    assert first not in own_context()
    inner.apply({first: "inner", second: "inner"})
    outer.apply({first: "outer at its end"})
    inner.apply({first: "inner", second: "inner at its end"})
    assert first.get() == "outer at its end"
    own = own_context()
    assert first not in own
    assert second not in own
    assert first not in copy_context()
    assert second not in copy_context()


@run_in_empty_context
def test_a_later_mirror_goes_back_to_what_another_had_set() -> None:
    ContextMirror().apply({first: "earlier"})
    later = ContextMirror()
    later.apply({first: "later"})
    later.apply({})
    assert first.get() == "earlier"
    assert first not in own_context()


@run_in_empty_context
def test_request_in_copy_of_context_takes_nothing_from_original() -> None:
    """As of a task: neither sees the echo, whoever comes first."""
    ContextMirror(context_lasts=True).apply({first: 1})
    copy = copy_context()
    assert first not in copy.run(own_context)
    assert first.get() == 1
    assert first not in own_context()
    assert first not in copy.run(own_context)


@run_in_empty_context
def test_only_what_is_an_echo_is_gone_for_the_next_request() -> None:
    first.set("the caller's")
    ContextMirror().apply({second: 1})
    second.set("the caller's too")
    assert own_context()[first] == "the caller's"
    assert own_context()[second] == "the caller's too"


@run_in_empty_context
def test_an_echo_in_another_context_stays_where_it_is() -> None:
    """A server may call in one context and iterate in another."""
    echo = ContextMirror()
    echo.apply({first: 1})
    elsewhere = copy_context()
    elsewhere.run(echo.apply, {second: 2})
    assert elsewhere[second] == 2
    assert first.get() == 1
    elsewhere.run(echo.apply, {})
    assert second not in elsewhere
    assert first not in elsewhere.run(own_context)
    assert first.get() == 1


@pytest.mark.parametrize("value", [None, False, 0, ""])
def test_an_empty_value_is_a_value(value: Any) -> None:
    def run() -> None:
        echo = ContextMirror()
        echo.apply(changes(Context(), context(first=value)))
        assert first.get("missing") == value
        echo.apply({})
        assert first.get("missing") == "missing"

    Context().run(run)
