"""Middleware of both kinds: Django bridges between them and the views by itself."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from django.http import HttpRequest, HttpResponse
from django.utils.decorators import async_only_middleware, sync_only_middleware


@sync_only_middleware
def names_its_thread(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["x-sync-thread"] = threading.current_thread().name
        return response

    return middleware


@async_only_middleware
def names_its_loop(
    get_response: Callable[[HttpRequest], Awaitable[HttpResponse]],
) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    async def middleware(request: HttpRequest) -> HttpResponse:
        response = await get_response(request)
        response["x-async-loop"] = str(id(asyncio.get_running_loop()))
        return response

    return middleware
