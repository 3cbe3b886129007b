"""A real browser without a window: the Chromium that is on the machine, driven by Playwright, which brings none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_FLAGS = (
    "--no-sandbox",  # CI is root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Chromium:
    """Debian's Chromium, or whatever goes by one of its names."""

    names = ("chromium", "chromium-browser", "google-chrome")

    @classmethod
    def program(cls) -> str | None:
        """Where it is."""
        return next(filter(None, map(shutil.which, cls.names)), None)

    @classmethod
    def reason_without(cls) -> str | None:
        """It is missing."""
        return None if cls.program() else "chromium is not on this machine: apt-get install chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, for as long as a block runs.

    Not longer than a test: Playwright keeps an event loop running in the thread, in which others could start none.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=Chromium.program(), args=_FLAGS, headless=True)
        yield browser
        browser.close()
