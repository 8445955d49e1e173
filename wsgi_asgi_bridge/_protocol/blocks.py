"""Chunks as an app makes them, blocks as a server likes them."""

from collections.abc import Iterator

__all__ = ["JOIN_BYTES", "SPLIT_BYTES", "blocks"]

JOIN_BYTES = 65536
"""Chunks that wait together are joined up to this size: a message costs more than copying it.

A larger one goes as it is.
"""

SPLIT_BYTES = 262144
"""A longer chunk is sent in pieces of this size, so that a slow client is seen to make progress
within `stall_timeout`.
"""


def blocks(chunks: list[bytes]) -> Iterator[bytes]:
    """The same bytes in the same order, in fewer and bounded pieces, none of them empty.

    Each is made when it is asked for: whoever has other work than this body, an event loop above
    all, is kept for one block at a time, and has no second copy of a long chunk.
    """
    first = size = 0  # where the block begins that is being made, and how long it is
    for place, chunk in enumerate(chunks):
        size += len(chunk)
        if size <= JOIN_BYTES:
            continue
        if first < place:
            block = _joined(chunks[first:place]) if place - first > 1 else chunks[first]
            if block:
                yield block
        first, size = place, len(chunk)
        if size > SPLIT_BYTES:
            for start in range(0, size, SPLIT_BYTES):
                yield chunk[start : start + SPLIT_BYTES]
            first, size = place + 1, 0
    rest = len(chunks) - first
    if rest:
        block = _joined(chunks[first:]) if rest > 1 else chunks[first]
        if block:
            yield block


def _joined(chunks: list[bytes]) -> bytes:
    """Of one chunk that is not empty, that very object."""
    if not all(chunks):
        chunks = [chunk for chunk in chunks if chunk]
    return b"".join(chunks)
