"""The new half: what has moved to FastAPI, and what was never anywhere else."""

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Annotated, Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import StreamingResponse

from . import old, settings, store
from .session import FlaskSession

session = FlaskSession(old.app)
router = APIRouter()


# ---------------------------------------------------------------- what a request needs


def database() -> Iterator[sqlite3.Connection]:
    """The connection of this request."""
    with closing(store.connect()) as db:
        yield db


def logged_in_user(request: Request) -> dict[str, Any]:
    """Whoever has logged in on the old half. A connection of its own: event streams keep none."""
    login = session.read(request.cookies).get("login")
    with closing(store.connect()) as db:
        user = store.user_of_login(db, login)
    if user is None:
        raise HTTPException(401, "Please log in.")
    return dict(user)


Database = Annotated[sqlite3.Connection, Depends(database)]
User = Annotated[dict[str, Any], Depends(logged_in_user)]


# ---------------------------------------------------------------- moved from the old half


@router.head("/files.json", include_in_schema=False)  # Flask answers HEAD by itself, FastAPI not
@router.get("/files.json")
def list_files(db: Database, user: User) -> list[dict[str, Any]]:
    return [dict(file) for file in store.files(db, user["id"])]


# ---------------------------------------------------------------- new


@router.get("/api/me")
def me(user: User) -> dict[str, Any]:
    return {"name": user["name"]}


@router.put("/api/files/{name}", status_code=201)
async def put_file(name: str, user: User, request: Request) -> dict[str, Any]:
    """The request's body as a file, written to disk while it arrives.

    No other site's page can send a PUT without being asked for leave first, which is never given
    (CORS); so this needs no token as the old half's forms do.
    """
    with store.arriving_file() as path:
        size = 0
        async with await anyio.open_file(path, "wb") as file:
            async for block in request.stream():
                size += len(block)
                if size > settings.MAX_UPLOAD_BYTES:
                    raise HTTPException(413, f"More than {settings.MAX_UPLOAD_BYTES} bytes.")
                await file.write(block)

        def kept() -> int:
            with closing(store.connect()) as db:
                return store.keep_file(db, user["id"], name, path)

        return {"name": name, "size": await to_thread.run_sync(kept)}


@router.get("/api/events")
async def events(user: User) -> StreamingResponse:
    """Each file of the user as a server-sent event, those that come later as well."""

    async def lines() -> AsyncIterator[str]:
        yield ":\n\n"  # a WSGI server sends the head with the first part of the body
        last = 0
        while True:
            for file in await to_thread.run_sync(store.new_files, user["id"], last):
                last = file["id"]
                yield f"data: {json.dumps(dict(file))}\n\n"
            await anyio.sleep(settings.POLL_SECONDS)

    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )
