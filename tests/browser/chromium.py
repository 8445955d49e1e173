"""Headless Chromium, driven by selenium: Debian's packages are chromium and chromium-driver."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.05
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser that keeps its files in `profile`."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise RuntimeError("the tests in a browser need the programs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    chrome = webdriver.Chrome(options, Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Tab:
    """A tab of the browser; each call of a method goes to it first."""

    def __init__(self, chrome: webdriver.Chrome, url: str) -> None:
        self.chrome = chrome
        chrome.switch_to.new_window("tab")
        self.window = chrome.current_window_handle
        chrome.get(url)

    def shown(self) -> webdriver.Chrome:
        self.chrome.switch_to.window(self.window)
        return self.chrome

    def close(self) -> None:
        """Another tab has to be open."""
        self.shown().close()
        self.chrome.switch_to.window(self.chrome.window_handles[0])

    def text(self, selector: str) -> str:
        return self.shown().find_element(By.CSS_SELECTOR, selector).text

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.shown().find_elements(By.CSS_SELECTOR, selector)]

    def fill(self, form: str, **fields: str) -> None:
        """Write into the form's fields and press its button."""
        found = self.shown().find_element(By.CSS_SELECTOR, form)
        for name, value in fields.items():
            field = found.find_element(By.NAME, name)
            if field.get_attribute("type") != "file":
                field.clear()
            field.send_keys(value)
        found.find_element(By.TAG_NAME, "button").click()

    def wait_for(self, what: Callable[[], Any], wanted: Any) -> None:
        """Until `what()` gives what is wanted."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (last := what()) != wanted:
            assert time.monotonic() < deadline, f"{last!r} instead of {wanted!r}"
            time.sleep(POLL_SECONDS)
