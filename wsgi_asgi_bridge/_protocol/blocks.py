"""Chunks as an app makes them, blocks as a server likes them."""

from collections.abc import Sequence

__all__ = ["JOIN_BYTES", "SPLIT_BYTES", "blocks"]

JOIN_BYTES = 65536
"""Chunks that wait together are joined up to this size: a message costs more than copying it.

A larger one goes as it is.
"""

SPLIT_BYTES = 262144
"""A longer chunk is sent in pieces of this size, so that a slow client is seen to make progress
within `stall_timeout`.
"""


def blocks(chunks: Sequence[bytes]) -> Sequence[bytes]:
    """The same bytes in the same order, in fewer and bounded pieces.

    No empty ones unless the only chunk is empty.
    """
    if not chunks or (len(chunks) == 1 and len(chunks[0]) <= SPLIT_BYTES):
        return chunks
    made: list[bytes] = []
    small: list[bytes] = []
    size = 0
    for chunk in chunks:
        if size and size + len(chunk) > JOIN_BYTES:
            made.append(small[0] if len(small) == 1 else b"".join(small))
            small, size = [], 0
        if len(chunk) > SPLIT_BYTES:
            made += (
                chunk[start : start + SPLIT_BYTES] for start in range(0, len(chunk), SPLIT_BYTES)
            )
        elif chunk:
            small.append(chunk)
            size += len(chunk)
    if small:
        made.append(small[0] if len(small) == 1 else b"".join(small))
    return made
