"""A FastAPI app on gunicorn: lifespan, a shared board, a WebSocket, an event stream, an upload.

Run it from the project's root:

    gunicorn -c examples/gunicorn_conf.py examples.fastapi_on_gunicorn:application

The board lives in one process, so gunicorn_conf.py asks for one worker process with many threads.
All the threads share the board, because one event loop runs all their requests. WebSockets and
event streams take no thread: the loop serves them.
"""

import asyncio
import hashlib
import itertools
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import (
    BackgroundTasks,
    Body,
    Depends,
    FastAPI,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from wsgi_asgi_bridge import ASGIToWSGI

BLOCK_BYTES = 64 * 1024
HERE = Path(__file__).parent

logger = logging.getLogger("gunicorn.error")


class Board:
    """Notes that all requests share, and a condition to wait on for the next one."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.changed = asyncio.Condition()

    async def pin(self, note: str) -> None:
        async with self.changed:
            self.notes.append(note)
            self.changed.notify_all()

    async def follow(self) -> AsyncIterator[str]:
        """The notes pinned so far, then each new one as it comes."""
        for position in itertools.count():
            async with self.changed:
                while position == len(self.notes):
                    await self.changed.wait()
            yield self.notes[position]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    logger.info("the board is up")
    yield {"board": Board()}
    logger.info("the board is taken down")


def the_board(connection: HTTPConnection) -> Board:
    board: Board = connection.state.board
    return board


SharedBoard = Annotated[Board, Depends(the_board)]

app = FastAPI(title="FastAPI on gunicorn", lifespan=lifespan)
app.mount("/static", StaticFiles(directory=HERE / "static"))


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(HERE / "templates" / "fastapi_on_gunicorn.html")


@app.get("/notes")
async def notes(board: SharedBoard) -> list[str]:
    return board.notes


@app.post("/notes", status_code=202)
async def pin_later(
    board: SharedBoard, tasks: BackgroundTasks, note: Annotated[str, Body(embed=True)]
) -> dict[str, str]:
    """Answers at once; a background task pins the note after that."""
    tasks.add_task(board.pin, note)
    return {"accepted": note}


@app.get("/events")
async def events(board: SharedBoard) -> StreamingResponse:
    """Every note, as a server-sent event, until the client leaves."""

    async def lines() -> AsyncIterator[str]:
        yield ": listening\n\n"  # a WSGI server sends the head with the first part of the body
        async for note in board.follow():
            yield f"data: {json.dumps(note)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.websocket("/chat")
async def chat(websocket: WebSocket, board: SharedBoard) -> None:
    """Pins what this client says, and tells it every note."""

    async def tell() -> None:
        with suppress(WebSocketDisconnect):  # the loop below ends as well
            async for note in board.follow():
                await websocket.send_text(note)

    await websocket.accept()
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(tell())
        async for line in websocket.iter_text():
            await board.pin(line)
        telling.cancel()


@app.post("/upload")
async def upload(file: UploadFile) -> PlainTextResponse:
    digest, size = hashlib.sha256(), 0
    while block := await file.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return PlainTextResponse(f"{file.filename}: {size} bytes, SHA-256 {digest.hexdigest()}")


# Event streams that are open at shutdown are cut after two seconds: they have no end of their own.
application = ASGIToWSGI(app, shutdown_timeout=2)
