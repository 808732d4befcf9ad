"""The page of app.py in a real browser: Debian's Chromium, headless, in windows of a desktop's and a phone's size."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsers import CHROMIUM, SIZES, check_focus, contrast, hold_still, open_chromium, wait_for_view
from conftest import ROOT
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
sync_api = pytest.importorskip("playwright.sync_api", reason="driving a browser needs pip install playwright")
av = pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from unet_kvasir_seg import app  # noqa: E402 - after what it needs
from unet_kvasir_seg.data.synthetic import generate  # noqa: E402
from unet_kvasir_seg.inference.predictor import load_predictor  # noqa: E402

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The page of `python app.py`, on a free port, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, app.__file__, "--port", str(port), "--dtype", "float32"]
    folder = tmp_path_factory.mktemp("elsewhere")
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield found[0]
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(folder.iterdir()) == []  # the page leaves no file in the folder where it was started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture(params=SIZES)
def page(request, chromium, address) -> Iterator[Any]:
    """The page. At the end, all requests went to this machine and the page fits the window's width."""
    with chromium.new_context(viewport=SIZES[request.param]) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        requests: list[str] = []
        context.on("request", lambda sent: requests.append(sent.url))
        page.on("websocket", lambda socket: requests.append(socket.url))
        page.goto(address)
        page.get_by_role("heading", name="Polyp segmentation").wait_for()
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[request.param]["width"]
        assert requests
        for url in requests:
            assert url.startswith(("data:", "blob:")) or urlsplit(url).hostname == "127.0.0.1", url


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> Path:
    """A frame of 1920x1072 pixels."""
    file = tmp_path_factory.mktemp("frame") / "frame.png"
    next(generate(1, (1072, 1920), seed=1))["image"].save(file, compress_level=1)
    return file


def upload(page: Any, file: Path) -> None:
    page.locator("#image input[type=file]").set_input_files(file)


def choose_example(page: Any, number: int) -> None:
    """Click an example until its result is shown: clicks are lost while gradio still builds the page."""
    shown = page.locator("#result").get_by_text(f"synthetic-{number}.jpg: polyps outlined where the probability")
    for _ in range(4):
        page.get_by_label(f"Synthetic example {number}").click()
        with suppress(sync_api.TimeoutError):
            shown.wait_for(timeout=15_000)
            return
    raise AssertionError(f"example {number} gave no result")


def upload_video(page: Any, file: Path) -> None:
    """Choose a video in its tab, and reload the page to try again: choices are lost while gradio still builds it."""
    for _ in range(5):
        with suppress(sync_api.TimeoutError):
            page.get_by_role("tab", name="Video").click()
            page.get_by_role("button", name="Segment video").wait_for(timeout=10_000)
            page.locator("#video input[type=file]").first.set_input_files(file, timeout=10_000)
            page.get_by_text(file.name).first.wait_for(timeout=20_000)
            return
        page.reload()
        page.get_by_role("heading", name="Polyp segmentation").wait_for()
    raise AssertionError(f"{file.name} was not taken")


def test_an_image_is_segmented_redrawn_and_downloaded(page, frame, tmp_path):
    assert page.get_by_text("Not a medical device").is_visible()
    choose_example(page, 2)
    result = page.locator("#result")
    assert result.get_by_text("above 0.50").is_visible()

    page.get_by_label("Remove Image").click()
    result.get_by_text("No image is held here").wait_for()
    upload(page, frame)
    result.get_by_text(f"{frame.name}: polyps outlined where the probability is above 0.50").wait_for()
    status = result.get_by_role("status")
    inference = status.inner_text().rpartition("Inference: ")[2]
    picture = result.get_by_role("img").get_attribute("src")

    page.get_by_label("range slider for Threshold").focus()
    page.keyboard.press("ArrowRight")  # 0.51: the keyboard moves it
    result.get_by_text("above 0.51").wait_for()
    page.get_by_label("number input for Threshold").fill("0.9")
    result.get_by_text("above 0.90").wait_for()
    assert result.get_by_role("img").get_attribute("src") != picture
    # The time of the inference is the same; tests/demo/test_page.py counts that no second one runs.
    assert status.inner_text().rpartition("Inference: ")[2] == inference

    page.get_by_label("Side by side").check()
    result.get_by_role("img").nth(1).wait_for()
    assert result.get_by_text(f"{frame.name}, 1920x1072 pixels").is_visible()

    with page.expect_download() as download:
        page.get_by_role("link", name="Download mask (PNG)").click()
    download.value.save_as(tmp_path / "mask.png")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download lesion table (CSV)").click()
    download.value.save_as(tmp_path / "lesions.csv")
    expected = load_predictor(str(ROOT), dtype="float32")(Image.open(frame), threshold=0.9)
    assert expected.mask.any()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), expected.mask * np.uint8(255))
    rows = (tmp_path / "lesions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(expected.lesions)
    assert rows[1].startswith(f"{frame.name},1,{','.join(map(str, expected.lesions[0].box))},")


def test_unusable_files_get_a_message_and_the_result_stays(page, tmp_path):
    choose_example(page, 1)
    result = page.locator("#result")
    kept = result.get_by_text("synthetic-1.jpg: polyps outlined")

    broken, huge = tmp_path / "broken.png", tmp_path / "huge.png"
    broken.write_bytes(b"This is no picture.")
    Image.new("1", (10_000, 10_000)).save(huge)
    upload(page, broken)
    result.get_by_role("alert").get_by_text("broken.png is no image of a format that is read here").wait_for()
    upload(page, huge)
    message = "huge.png is too large (10000x10000 pixels): at most 16.8 million pixels are decoded."
    result.get_by_role("alert").get_by_text(message).wait_for()
    assert kept.is_visible()
    choose_example(page, 2)
    assert result.get_by_role("alert").count() == 0


def test_a_video_is_segmented_and_plays(page, tmp_path):
    clip = tmp_path / "clip.M2TS"  # an ending of which the browser does not know that it is a video's
    with av.open(str(clip), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 96, 64
        for row in generate(20, (64, 96), seed=3):
            container.mux(stream.encode(av.VideoFrame.from_image(row["image"])))
        container.mux(stream.encode())
    upload_video(page, clip)
    page.get_by_role("button", name="Segment video").click()
    page.locator("#told").get_by_text("20 frames").wait_for()
    wait_for_view(page, "#told")
    video = page.locator("#player video")
    video.wait_for()
    played = video.evaluate(
        """async (video) => {
            video.muted = true;
            video.playbackRate = 4;
            const ended = new Promise((done, fail) => {
                video.addEventListener("ended", done);
                video.addEventListener("error", () => fail(video.error.message));
            });
            await video.play();
            await ended;
            return [video.duration, video.videoWidth, video.videoHeight];
        }"""
    )
    assert played == [2, 96, 64]
    assert page.get_by_role("link", name="Download table of frames (CSV)").is_visible()


@pytest.fixture(params=["light", "dark"])
def themed(request, chromium, address) -> Iterator[Any]:
    """The page in a theme, with all of its controls."""
    with chromium.new_context(viewport=SIZES["desktop"], color_scheme=request.param) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        choose_example(page, 1)
        yield page


# Of the chosen and the other view: text, its background, and the circle, whose dot is white.
VIEWS = """() => [":checked", ":not(:checked)"].map((which) => {
    const circle = document.querySelector(`#view input${which}`);
    const label = circle.closest("label");
    const [ofLabel, ofCircle] = [getComputedStyle(label), getComputedStyle(circle)];
    return [label.innerText, ofLabel.color, ofLabel.backgroundColor, ofCircle.backgroundColor];
})"""


def test_the_chosen_view_stands_out_in_both_themes(themed):
    hold_still(themed)
    for view, other in (("Side by side", "Overlay"), ("Overlay", "Side by side")):
        themed.get_by_label(view, exact=True).click()  # the mouse stays over it, and it has the focus
        themed.locator("#result img").nth(0 if view == "Overlay" else 1).wait_for()
        for hovered in (view, other, None):
            if hovered:
                themed.get_by_label(hovered, exact=True).hover()
            else:
                themed.mouse.move(0, 0)
            chosen, left = themed.evaluate(VIEWS)
            assert (chosen[0], left[0]) == (view, other)
            text, background, circle = chosen[1:]
            assert contrast(text, background) >= 4.5
            assert contrast(circle, background) >= 4.5
            assert contrast(circle, "rgb(255, 255, 255)") >= 4.5  # the dot
            assert background != left[2]
            assert contrast(left[1], left[2]) >= 4.5


def test_every_control_shows_the_focus_of_the_keyboard(themed):
    background = themed.evaluate("getComputedStyle(document.body).backgroundColor")
    names = check_focus(themed, background)
    assert {"Image", "Remove Image", "Synthetic example 3", "Download mask (PNG)", "Settings"} <= set(names)
    sliders = ("Threshold", "Overlay opacity")
    assert {f"range slider for {slider}" for slider in sliders} <= set(names)
    assert {"Overlay", "Side by side"} <= {name.strip() for name in names}

    themed.get_by_label("Remove Image").click()
    themed.get_by_role("tab", name="Video").click()
    themed.get_by_role("button", name="Segment video").wait_for()
    names = check_focus(themed, background)
    assert {"range slider for Smoothing over time", "Segment video"} <= set(names)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_on_a_phone_the_result_comes_into_view(page, frame, tmp_path):
    height = SIZES["phone"]["height"]

    def tops() -> tuple[float, float]:
        """Where the result and the input begin, in pixels from the window's top."""
        boxes = (page.locator(part).bounding_box() for part in ("#result", "#image"))
        first, second = (box["y"] for box in boxes)
        return first, second

    page.locator("#image input[type=file]").wait_for(state="attached")
    page.wait_for_function("document.querySelectorAll('#examples button').length === 3")
    assert tops()[0] > height
    choose_example(page, 1)
    wait_for_view(page, "#result")
    page.get_by_label("Remove Image").click()
    page.locator("#result").get_by_text("No image is held here").wait_for()
    (tmp_path / "broken.png").write_bytes(b"This is no picture.")
    for file, shown in ((frame, "frame.png: polyps outlined"), (tmp_path / "broken.png", "broken.png is no image")):
        page.evaluate("scrollTo(0, 0)")
        upload(page, file)
        page.locator("#result").get_by_text(shown).wait_for()
        wait_for_view(page, "#result")
        assert tops()[1] < 0
