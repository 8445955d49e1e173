"""`python -m tests.browser.pictures`: docs/pictures/, the examples' pages as a reader sees them."""

import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from selenium import webdriver

from tests.support.processes import PROJECT_ROOT, ServerProcess

from .chromium import Tab, chromium
from .sites import SHELF_PASSWORD, SHELF_USER, fastapi_on_gunicorn, migration, script

PICTURES = PROJECT_ROOT / "docs" / "pictures"
WIDTH = 760
UPLOAD_BYTES = 8 * 1024 * 1024


def flask(tab: Tab) -> None:
    tab.wait_for(lambda: ":" in tab.text("#time"), True)
    upload(tab)


def chat(tab: Tab) -> None:
    tab.wait_for(lambda: tab.text("#chat output"), "connected")
    for count, (name, line) in enumerate([("Ada", "Is anybody here?"), ("Grace", "I am.")], 1):
        tab.fill("#chat", name=name, line=line)
        tab.wait_for(lambda count=count: len(tab.texts("#said li")), count)


def fastapi(tab: Tab) -> None:
    chat(tab)
    tab.fill("#pin", note="Tea at four.")
    tab.wait_for(lambda: len(tab.texts("#board li")), 3)
    upload(tab)


def mcp(tab: Tab) -> None:
    for count, note in enumerate(["Buy milk.", "Water the plants."], 1):
        tab.fill("form", note=note)
        tab.wait_for(lambda count=count: len(tab.texts("li")), count)


def shelf(tab: Tab) -> None:
    tab.fill("section form", name=SHELF_USER, password=SHELF_PASSWORD)
    with uploadable("holiday.mp4") as file:
        tab.fill("section form", file=file)
    tab.wait_for(lambda: tab.texts("#files li"), [f"holiday.mp4: {UPLOAD_BYTES} bytes"])


def upload(tab: Tab) -> None:
    with uploadable("holiday.mp4") as file:
        tab.fill("#upload", file=file)
        tab.wait_for(lambda: f"{UPLOAD_BYTES} bytes" in tab.text("#upload output"), True)


@contextmanager
def uploadable(name: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(bytes(UPLOAD_BYTES))
        yield str(path)


Site = Callable[[], AbstractContextManager[ServerProcess]]
PAGES: dict[str, tuple[Site, Callable[[Tab], None]]] = {
    "flask_on_uvicorn": (lambda: script("examples/flask_on_uvicorn.py"), flask),
    "chat_on_uvicorn": (lambda: script("examples/chat_on_uvicorn.py"), chat),
    "fastapi_on_gunicorn": (fastapi_on_gunicorn, fastapi),
    "mcp_in_flask": (lambda: script("examples/mcp_in_flask.py"), mcp),
    "migration": (migration, shelf),
}


def taken(chrome: webdriver.Chrome, name: str) -> None:
    """The whole page, however long it is."""
    site, walk = PAGES[name]
    with site() as server:
        tab = Tab(chrome, server.url)
        walk(tab)
        height = tab.shown().execute_script("return document.documentElement.offsetHeight + 32")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        tab.shown().set_window_size(WIDTH, height + 200)
        picture = tab.shown().execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
        (PICTURES / f"{name}.png").write_bytes(b64decode(picture["data"]))
        tab.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as chrome:
        for name in sys.argv[1:] or PAGES:
            taken(chrome, name)


if __name__ == "__main__":
    main()
