"""Bodies that travel in the tests, and the summary an app gives of what reached it."""

import hashlib
from collections.abc import Iterator
from typing import IO

BLOCK_BYTES = 65_536
UPLOAD_BYTES = 6 * 1024 * 1024
BOUNDARY = "frontier"


def payload(size: int) -> bytes:
    """Bytes without a short period, so that a lost or doubled block changes the digest."""
    block = b"".join(number.to_bytes(4, "big") for number in range(BLOCK_BYTES // 4))
    blocks = (bytes([number % 251]) + block for number in range(size // len(block) + 1))
    return b"".join(blocks)[:size]


def summary(name: str | None, data: bytes) -> dict[str, object]:
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def summary_of_file(name: str | None, file: IO[bytes]) -> dict[str, object]:
    """The summary of an upload, read block by block as an app should."""
    digest, size = hashlib.sha256(), 0
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return {"name": name, "bytes": size, "sha256": digest.hexdigest()}


def multipart(field: str, name: str, data: bytes) -> tuple[bytes, dict[str, str]]:
    """A form with one file as a browser sends it: the body and its headers."""
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
        "content-length": str(len(body)),
    }
    return body, headers


def blocks_of(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), BLOCK_BYTES):
        yield data[start : start + BLOCK_BYTES]
