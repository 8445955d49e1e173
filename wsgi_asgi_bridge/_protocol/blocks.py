"""Chunks as an app makes them, blocks as a server likes them."""

__all__ = ["JOIN_BYTES", "SPLIT_BYTES", "blocks"]

JOIN_BYTES = 65536
"""Chunks that wait together are joined up to this size: a message costs more than copying it.

A larger one goes as it is.
"""

SPLIT_BYTES = 262144
"""A longer chunk is sent in pieces of this size, so that a slow client is seen to make progress
within `stall_timeout`.
"""


def blocks(chunks: list[bytes]) -> list[bytes]:
    """The same bytes in the same order, in fewer and bounded pieces.

    No empty ones unless the only chunk is empty. May be `chunks` itself.
    """
    if not chunks or (len(chunks) == 1 and len(chunks[0]) <= SPLIT_BYTES):
        return chunks
    if not all(chunks):
        chunks = [chunk for chunk in chunks if chunk]
    made: list[bytes] = []
    first = size = 0  # where the block begins that is being made, and how long it is
    for place, chunk in enumerate(chunks):
        size += len(chunk)
        if size <= JOIN_BYTES:
            continue
        if first < place:
            made.append(b"".join(chunks[first:place]))  # of one chunk, that very object
        first, size = place, len(chunk)
        if size > SPLIT_BYTES:
            made += (chunk[start : start + SPLIT_BYTES] for start in range(0, size, SPLIT_BYTES))
            first, size = place + 1, 0
    if first < len(chunks):
        made.append(b"".join(chunks[first:]))
    return made
