"""blocks.py: chunks as an app makes them, blocks as a server likes them."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol.blocks import JOIN_BYTES, SPLIT_BYTES, blocks

LANDMARKS = [
    *(JOIN_BYTES + off for off in (-1, 0, 1)),
    *(SPLIT_BYTES + off for off in (-1, 0, 1)),
    2 * SPLIT_BYTES,
    2 * SPLIT_BYTES + 1,
]
SIZES = st.one_of(st.integers(0, 50), st.integers(0, JOIN_BYTES), st.sampled_from(LANDMARKS))
_BYTES = bytes(range(251)) * (2 * SPLIT_BYTES // 251 + 2)


def chunks_of(sizes: list[int]) -> list[bytes]:
    """Chunks of these sizes, none like its neighbour."""
    return [_BYTES[number % 251 : number % 251 + size] for number, size in enumerate(sizes)]


@settings(deadline=None)
@given(st.lists(SIZES, max_size=12))
@example([JOIN_BYTES, JOIN_BYTES])
@example([SPLIT_BYTES + 1, 1])
@example([1, SPLIT_BYTES + 1])
def test_the_same_bytes_in_the_same_order(sizes: list[int]) -> None:
    chunks = chunks_of(sizes)
    assert b"".join(blocks(chunks)) == b"".join(chunks)


@settings(deadline=None)
@given(st.lists(SIZES, max_size=12))
def test_no_block_is_longer_than_allowed_and_none_is_empty(sizes: list[int]) -> None:
    """W-FLOW-5: pieces of `SPLIT_BYTES`, so that a slow client is seen to make progress."""
    made = list(blocks(chunks_of(sizes)))
    assert all(len(block) <= SPLIT_BYTES for block in made)
    assert all(made)


@settings(deadline=None)
@given(st.lists(SIZES, max_size=12))
def test_two_neighbours_that_fit_into_one_block_are_one_block(sizes: list[int]) -> None:
    """A message costs more than copying it; only the pieces of a split chunk may be small beside
    each other.
    """
    made = [len(block) for block in blocks(chunks_of(sizes))]
    fitting = [(a, b) for a, b in pairwise(made) if a + b <= JOIN_BYTES]
    splits = sum(size > SPLIT_BYTES for size in sizes)
    assert len(fitting) <= splits


@pytest.mark.parametrize("size", [JOIN_BYTES, JOIN_BYTES + 1, SPLIT_BYTES])
@pytest.mark.parametrize(
    ("before", "after"),
    [((), ()), ((b"x",), ()), ((), (b"x",)), ((b"",), (b"",)), ((b"x", b"y"), (b"x",))],
    ids=["alone", "after one", "before one", "between empty ones", "in the middle"],
)
def test_a_large_chunk_is_passed_through_as_the_same_object(
    size: int, before: tuple[bytes, ...], after: tuple[bytes, ...]
) -> None:
    """64 KiB and more are never copied."""
    large = bytes(size)
    assert any(block is large for block in blocks([*before, large, *after]))


def test_a_small_chunk_alone_is_the_same_object() -> None:
    chunk = b"a whole response"
    (block,) = blocks([chunk])
    assert block is chunk


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([b""], [], id="one empty chunk"),
        pytest.param([b"", b""], [], id="only empty chunks"),
        pytest.param([b"", b"x", b""], [b"x"], id="empty ones fall away"),
        pytest.param([b"a", b"b", b"c"], [b"abc"], id="small ones are joined"),
    ],
)
def test_small_cases(chunks: list[bytes], expected: list[bytes]) -> None:
    assert list(blocks(chunks)) == expected


def test_joining_stops_at_the_bound() -> None:
    half = bytes(JOIN_BYTES // 2)
    assert [len(block) for block in blocks([half, half, half])] == [JOIN_BYTES, JOIN_BYTES // 2]


def test_a_huge_chunk_is_split_and_its_neighbours_stay() -> None:
    huge = bytes(2 * SPLIT_BYTES + 5)
    lengths = [len(block) for block in blocks([b"x", huge, b"y"])]
    assert lengths == [1, SPLIT_BYTES, SPLIT_BYTES, 5, 1]


# --- W-FLOW-7: whoever asks for a block has only that one made


class CountedChunk(bytes):
    """Counts the pieces that are cut out of it."""

    cuts = 0

    def __getitem__(self, key: Any) -> Any:
        self.cuts += 1
        return super().__getitem__(key)


def test_a_huge_chunk_is_cut_as_its_pieces_are_asked_for() -> None:
    huge = CountedChunk(4 * SPLIT_BYTES)
    made = blocks([huge])
    assert huge.cuts == 0
    assert [(len(block), huge.cuts) for block in made] == [
        (SPLIT_BYTES, count) for count in (1, 2, 3, 4)
    ]


def test_small_chunks_are_joined_as_their_blocks_are_asked_for() -> None:
    """What comes after the first block has not been looked at but for the chunk that was one too
    many.
    """
    half = bytes(JOIN_BYTES // 2)
    chunks = [half] * 6
    made = blocks(chunks)
    assert len(next(made)) == JOIN_BYTES
    chunks[3:] = [b"changed"]
    assert list(made) == [half + b"changed"]
