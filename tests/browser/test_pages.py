"""The examples' pages as their readers see them: two tabs, an event stream, an upload."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from selenium import webdriver

from tests.support.processes import HOST, PROJECT_ROOT, free_port

from .chromium import Tab
from .pictures import PAGES, PICTURES
from .sites import fastapi_on_gunicorn, script

UPLOAD_BYTES = 4 * 1024 * 1024
UPLOAD_BYTES_PER_SECOND = 2 * 1024 * 1024
STYLE = "return getComputedStyle(document.querySelector('section')).borderTopLeftRadius"
# Keeps each value that the bar has had.
WATCH_BAR = """
  const bar = document.querySelector('progress');
  window.seen = [];
  new MutationObserver(() => window.seen.push(bar.value))
    .observe(bar, { attributes: true, attributeFilter: ['value'] });
"""


@contextmanager
def tabs(chrome: webdriver.Chrome, url: str, count: int) -> Iterator[list[Tab]]:
    opened: list[Tab] = []
    try:
        for _ in range(count):
            opened.append(Tab(chrome, url))
        yield opened
    finally:
        for tab in opened:
            tab.close()


def talk(ada: Tab, grace: Tab) -> None:
    """Each says a line, and both see both in the order in which they were said."""
    said: list[str] = []
    for tab in (ada, grace):
        tab.wait_for(lambda tab=tab: tab.text("#chat output"), "connected")
    for tab, name, line in ((ada, "Ada", "hello"), (grace, "Grace", "<b>hello</b> Ada")):
        tab.fill("#chat", name=name, line=line)
        said.append(f"{name}: {line}")
        for reader in (ada, grace):
            reader.wait_for(lambda reader=reader: reader.texts("#said li"), said)


def test_two_tabs_talk_in_a_flask_sock_chat_on_uvicorn(chrome: webdriver.Chrome) -> None:
    with script("examples/chat_on_uvicorn.py") as server, tabs(chrome, server.url, 2) as both:
        talk(*both)


def test_two_tabs_talk_in_a_fastapi_chat_on_gunicorn(chrome: webdriver.Chrome) -> None:
    """What they say comes by the event stream as well."""
    with fastapi_on_gunicorn() as server, tabs(chrome, server.url, 2) as both:
        talk(*both)
        for tab in both:
            said = tab.texts("#said li")
            tab.wait_for(lambda tab=tab: tab.texts("#board li"), said)


def test_an_event_source_opens_the_next_stream_when_one_ends(chrome: webdriver.Chrome) -> None:
    """The second server has none of the first one's notes."""
    port = free_port()
    with fastapi_on_gunicorn(port):
        tab = Tab(chrome, f"http://{HOST}:{port}")
        tab.fill("#pin", note="before the end")
        tab.wait_for(lambda: tab.texts("#board li"), ["before the end"])
    try:
        with fastapi_on_gunicorn(port):
            answer = httpx.post(f"http://{HOST}:{port}/notes", json={"note": "after it"})
            assert answer.status_code == 202
            tab.wait_for(lambda: tab.texts("#board li"), ["after it"])
    finally:
        tab.close()


@pytest.mark.parametrize("example", ["flask", "fastapi"])
def test_an_upload_shows_how_far_it_is(
    chrome: webdriver.Chrome, tmp_path: Path, example: str
) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(UPLOAD_BYTES))
    flask = example == "flask"
    site = script("examples/flask_on_uvicorn.py") if flask else fastapi_on_gunicorn()
    with site as server, tabs(chrome, server.url, 1) as (tab,):
        tab.shown().set_network_conditions(
            latency=1, upload_throughput=UPLOAD_BYTES_PER_SECOND, download_throughput=2**30
        )
        tab.shown().execute_script(WATCH_BAR)
        tab.fill("#upload", file=str(file))
        wanted = f"large.bin: {UPLOAD_BYTES} bytes"
        tab.wait_for(lambda: tab.text("#upload output")[: len(wanted)], wanted)
        seen = tab.shown().execute_script("return window.seen")
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert any(0 < value < 1 for value in seen)
    assert seen[-1] == 1


def test_the_docs_show_a_picture_of_each_page() -> None:
    texts = [page.read_text("utf-8") for page in (PROJECT_ROOT / "docs").glob("*.md")]
    shown = set(re.findall(r"\]\(pictures/(\w+)\.png\)", "".join(texts)))
    assert shown == set(PAGES) == {picture.stem for picture in PICTURES.glob("*.png")}


def test_the_pages_share_their_style(chrome: webdriver.Chrome) -> None:
    with script("examples/mcp_in_flask.py") as server, tabs(chrome, server.url, 1) as (tab,):
        assert f"{server.url}/ai/mcp" in tab.text(".try")
        tab.fill("form", note="<i>milk</i>")
        tab.wait_for(lambda: tab.texts("li"), ["<i>milk</i>"])
        assert tab.shown().execute_script(STYLE) == "9.6px"
