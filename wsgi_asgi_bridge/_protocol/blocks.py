"""Joins an app's small chunks and splits its large ones into blocks for a server."""

from collections.abc import Iterator

__all__ = ["JOIN_BYTES", "SPLIT_BYTES", "blocks"]

JOIN_BYTES = 65536
"""Chunks that wait together are joined up to this size, since a message costs more than a copy."""

SPLIT_BYTES = 262144
"""A longer chunk is sent in pieces of this size, so that `stall_timeout` applies to each."""


def blocks(chunks: list[bytes]) -> Iterator[bytes]:
    """The same bytes in the same order, in fewer and bounded pieces, none of them empty.

    Each is made on demand, so that it keeps a loop from its other tasks for one block only, and no
    second copy of a long chunk is made.
    """
    first = size = 0  # index of the first chunk of the block being made, and its bytes so far
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
    """The chunks joined; of a single one that is not empty, that object itself."""
    if not all(chunks):
        chunks = [chunk for chunk in chunks if chunk]
    return b"".join(chunks)
