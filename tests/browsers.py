"""Driving Debian's Chromium, headless, in windows of a desktop's and a phone's size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
# As root it has no sandbox. The other flags keep it from contacting its makers' servers.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@dataclass
class Window:
    """A page in a window.

    Attributes:
        page: Of playwright.
        requests: URLs that it has asked for.
        problems: Errors in its script.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@contextmanager
def open_window(browser: Any, size: str, timeout_seconds: int) -> Iterator[Window]:
    """A window of one of the `SIZES`, a phone's in the dark scheme. At the end, the page must fit its width."""
    scheme = "dark" if size == "phone" else "light"
    with browser.new_context(viewport=SIZES[size], color_scheme=scheme) as context:
        window = Window(context.new_page())
        window.page.set_default_timeout(1000 * timeout_seconds)
        context.on("request", lambda sent: window.requests.append(sent.url))
        window.page.on("pageerror", lambda error: window.problems.append(str(error)))
        yield window
        assert window.page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]


@contextmanager
def open_chromium() -> Iterator[Any]:
    """A browser; what it needs is imported here, since tests are skipped without it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()
