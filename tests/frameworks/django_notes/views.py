"""The walk-through in Django, and views for what only Django has."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

from django import forms
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import connection, transaction
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_exempt

from tests.frameworks.django_notes.models import Note
from tests.frameworks.django_project import shared
from tests.frameworks.gates import TICK_SECONDS
from tests.frameworks.payloads import summary_of_file


def page(_: HttpRequest) -> HttpResponse:
    return HttpResponse("hello from django")


@csrf_exempt
def form(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"hello {request.POST['name']}")


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    sent = request.FILES["file"]
    return JsonResponse(summary_of_file(sent.name, sent))


def download(_: HttpRequest) -> FileResponse:
    return FileResponse(shared.file.open("rb"))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    is_async = isinstance(request, ASGIRequest)
    return StreamingHttpResponse(async_chunks() if is_async else chunks())


def chunks() -> Iterator[bytes]:
    yield b"first "
    shared.gates.wait_for_client()
    yield b"second"


async def async_chunks() -> AsyncIterator[bytes]:
    yield b"first "
    await shared.gates.wait_for_client_async()
    yield b"second"


def endless(request: HttpRequest) -> StreamingHttpResponse:
    is_async = isinstance(request, ASGIRequest)
    return StreamingHttpResponse(async_ticks() if is_async else ticks())


def ticks() -> Iterator[bytes]:
    try:
        while not shared.gates.stream_closed.wait(TICK_SECONDS):
            yield b"tick"
    finally:
        shared.gates.stream_closed.set()


async def async_ticks() -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"tick"
            await asyncio.sleep(TICK_SECONDS)
    finally:
        shared.gates.stream_closed.set()


async def silent(_: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(tick_and_wait())


async def tick_and_wait() -> AsyncIterator[bytes]:
    try:
        yield b"tick"
        await asyncio.Event().wait()
    finally:
        shared.gates.stream_closed.set()


def broken(_: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken on purpose")


def sorry(_: HttpRequest) -> HttpResponse:
    return HttpResponse("sorry from django", status=500)


def missing(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(f"nothing at {request.path}", status=404)


def notes(request: HttpRequest) -> HttpResponse:
    """GET gives all notes and a CSRF token; POST, which must bring the token back, adds one."""
    if request.method == "POST":
        Note.objects.create(text=request.POST["text"])
    texts = list(Note.objects.order_by("id").values_list("text", flat=True))
    return JsonResponse({"notes": texts, "token": get_token(request)})


async def async_notes(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        await Note.objects.acreate(text=request.POST["text"])
    texts = [note.text async for note in Note.objects.order_by("id")]
    return JsonResponse({"notes": texts, "token": get_token(request)})


class EntryForm(forms.Form):
    text = forms.CharField(max_length=10)
    urgent = forms.BooleanField(required=False)


def entry(request: HttpRequest) -> HttpResponse:
    """A form: shown, shown again with what is wrong with it, or saved with a redirect."""
    form = EntryForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        text = form.cleaned_data["text"] + ("!" if form.cleaned_data["urgent"] else "")
        Note.objects.create(text=text)
        return redirect("/notes")
    return render(request, "entry.html", {"form": form}, status=400 if form.is_bound else 200)


def rolled_back(_: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Note.objects.create(text="never to be seen")
        raise LookupError("rolled back on purpose")


def forbidden(_: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def visits(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(str(request.session["visits"]))


def thread(_: HttpRequest) -> HttpResponse:
    """The thread that runs this view, after the ORM has used its connection there."""
    Note.objects.count()
    name = threading.current_thread().name
    return JsonResponse({"thread": name, "connected": connection.connection is not None})


async def running_loop(_: HttpRequest) -> HttpResponse:
    return HttpResponse(str(id(asyncio.get_running_loop())))


def query(request: HttpRequest) -> HttpResponse:
    return JsonResponse(dict(request.GET.lists()))
