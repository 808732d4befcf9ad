"""Driving Debian's Chromium, headless, in windows of a desktop's and a phone's size."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def wait_for_view(page: Any, selector: str) -> None:
    """Wait until a part of the page begins in the upper two thirds of the window."""
    for _ in range(200):
        box = page.locator(selector).bounding_box()
        if box and 0 <= box["y"] < page.viewport_size["height"] * 2 / 3:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{selector} does not come into view: {box}")


def contrast(colour: str, other: str) -> float:
    """Ratio of two colours such as "rgb(0, 124, 143)", from 1 to 21, as WCAG 2 defines it."""
    lighter, darker = sorted((_luminance(colour), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    levels = [int(level) / 255 for level in re.findall(r"\d+", colour)]
    assert len(levels) == 3, colour  # an opaque one
    red, green, blue = (level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def hold_still(page: Any) -> None:
    """Switch transitions off, in a way that a content security policy allows."""
    page.evaluate("""() => {
        const sheet = new CSSStyleSheet();
        sheet.replaceSync("* { transition: none !important; }");
        document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    }""")


# The focused control, or the label that shows its focus: its name, outline, and rectangle.
FOCUSED = """() => {
    const control = document.activeElement;
    if (control === document.body) return null;
    const shown = getComputedStyle(control).outlineStyle === "none" ? control.closest("label") ?? control : control;
    const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(shown);
    const { left, top, right, bottom } = shown.getBoundingClientRect();
    const name = control.getAttribute("aria-label") || control.labels?.[0]?.innerText || control.innerText;
    return [name || control.tagName, outlineStyle, parseFloat(outlineWidth), outlineColor, [left, top, right, bottom]];
}"""


def check_focus(page: Any, background: str) -> list[str]:
    """Go through all controls with the tabulator key, and check that each shows its focus on the screen.

    Args:
        page: A page of Playwright.
        background: Colour of the page.

    Returns:
        The names of the controls.
    """
    names: list[str] = []
    hold_still(page)
    page.evaluate("scrollTo(0, 0)")
    page.mouse.click(1, 1)  # the first control comes after this place
    page.keyboard.press("Tab")
    while (focused := page.evaluate(FOCUSED)) is not None:
        name, style, width, colour, box = focused
        assert (style, width >= 2) == ("solid", True), focused
        assert contrast(colour, background) >= 3, focused
        with_focus = _pixels_of(page, colour, box)
        page.evaluate("document.activeElement.toggleAttribute('data-focused'); document.activeElement.blur()")
        without = _pixels_of(page, colour, box)
        # The outline's two longer sides at least, of which half may be cut off.
        assert (with_focus & ~without).sum() >= width * max(box[2] - box[0], box[3] - box[1]), focused
        page.evaluate("""() => {
            const control = document.querySelector("[data-focused]");
            control.removeAttribute("data-focused");
            control.focus({ focusVisible: true });
        }""")
        names.append(name)
        page.keyboard.press("Tab")
    return names


def _pixels_of(page: Any, colour: str, box: list[float]) -> np.ndarray:
    """Where a colour is within and around a rectangle of the window, (h, w) bool."""
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    left, top, right, bottom = (round(side) for side in box)
    picture = picture[max(top - 12, 0) : bottom + 12, max(left - 12, 0) : right + 12]
    return (np.abs(picture - [int(level) for level in re.findall(r"\d+", colour)]) <= 8).all(axis=-1)
