"""WSGI apps that read their body, and what they got."""

from collections.abc import Callable
from typing import Any

from tests.support.fake_asgi_server import (
    Client,
    fetched,
    plain_app,
    post_scope,
)


def app_that_reads(
    use: Callable[[Any], object], results: list[object]
) -> Callable[[dict[str, Any], Any], list[bytes]]:
    """An app that keeps what `use` makes of its wsgi.input, or the exception it raises."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            results.append(use(environ["wsgi.input"]))
        except Exception as error:
            results.append(error)
        return plain_app(environ, start_response)

    return app


async def result_of(
    use: Callable[[Any], object], parts: list[bytes], length: int | None, **options: Any
) -> object:
    """What `use` made of the wsgi.input for a body that came in these parts."""
    results: list[object] = []
    await fetched(app_that_reads(use, results), Client(post_scope(length), parts), **options)
    assert len(results) == 1
    return results[0]
