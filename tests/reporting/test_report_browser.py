"""report.html in a real browser: Debian's Chromium, headless, with the page opened from disk."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import CHROMIUM, SIZES, open_chromium, open_window
from example_reports import boxes, save_image, save_images, save_run, save_video
from PIL import Image
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.image_run import encode_png, in_16_bits
from unet_kvasir_seg.inference.inputs import PROBABILITIES, Source
from unet_kvasir_seg.inference.output_folder import write_inputs
from unet_kvasir_seg.reporting.report_page import write_report

pytest.importorskip("playwright.sync_api", reason="driving a browser needs pip install playwright")
av = pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")

HOSTILE = '</script><img src=x onerror=document.title=1>\n\u202e".png'
# In the order of their presence, which without a calibration is the highest probability.
IMAGES = {
    "frame 10.png": boxes(0.625, 0.9375),
    "frame 9.png": boxes(0.875),
    HOSTILE: boxes(0.5625),
    "clear.png": boxes(0.25),
}
RATE = 10  # of the video, in frames per second
TRACKS = [  # alert, first and last second, frames, largest area in %, mean and highest probability, best frame, box
    [0, 0.5, 0.7, 3, 2.0, 0.75, 0.8, 6, 1, 1, 9, 9],
    [1, 1.0, 2.5, 16, 12.5, 0.9, 0.95, 20, 2, 2, 20, 20],
]


def save_clip(file: Path, seconds: int) -> None:
    """A video of frames that become brighter."""
    with av.open(str(file), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(RATE * seconds):
            pixels = np.full((64, 96, 3), 255 * index // (RATE * seconds), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A page of six images and a video of four seconds."""
    folder = tmp_path_factory.mktemp("run # 100 %41")
    output = save_run(folder / "out")
    (folder / "in").mkdir()
    Image.new("RGB", (80, 60), (200, 0, 0)).save(folder / "in" / "scan.tif")  # which Chromium does not show
    save_images(output, folder / "in", IMAGES | {"scan.tif": boxes(0.125), "gone.png": boxes(0.0625)})
    (folder / "in" / "gone.png").unlink()
    (output / PROBABILITIES).mkdir()
    probability = encode_png(Image.fromarray(in_16_bits(IMAGES["frame 9.png"])))
    (output / PROBABILITIES / "frame 9.png").write_bytes(probability)
    rows = [[index, index / RATE, 1, 5, 0.5, 0.5] for index in range(4 * RATE)]
    save_clip(save_video(output, "clip 1.mp4", rows, TRACKS), seconds=4)
    return write_report(output)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture(params=["desktop"])
def page(request, chromium, report) -> Iterator[Any]:
    """The page. At the end, it has asked for files alone, had no error, and fits the window's width."""
    with open_window(chromium, request.param, timeout_seconds=20) as window:
        window.page.on("console", lambda message: window.problems.append(message.text))
        window.page.goto(report.as_uri())
        yield window.page
        assert window.page.title() == "Predictions: out"
    assert window.problems == []
    assert window.requests
    assert {url.partition(":")[0] for url in window.requests} <= {"file", "data"}


def names(page: Any) -> list[str]:
    """Of the images in the grid."""
    return page.locator("#grid .name").all_inner_texts()


def wait_until(page: Any, expression: str) -> None:
    """Wait until an expression of JavaScript is true. Playwright's own way needs what the page's policy forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def is_loaded(page: Any, selector: str) -> bool:
    """Whether a picture is there and has pixels, once it is through."""
    wait_until(page, f"document.querySelector({json.dumps(selector)})?.complete")
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).naturalWidth") > 0


def printed(name: str) -> str:
    return name.replace("\n", "\\n").replace("\u202e", "\\u202e")


def test_sorting_and_filters(page):
    by_presence = [*map(printed, IMAGES), "scan.tif", "gone.png"]
    assert names(page) == by_presence
    assert page.get_by_role("status").inner_text() == "6 of 6 images"
    first = page.get_by_role("button", name="frame 10.png")
    assert first.inner_text().splitlines() == ["frame 10.png", "presence 93.8 %", "2 regions, area 4.5 %"]
    assert page.get_by_role("button", name="clear.png").inner_text().splitlines()[1:] == [
        "presence 25.0 %",
        "no region",
    ]

    sort = page.get_by_label("Sort by").select_option
    sort("doubt")  # distances from 0.5: 1/16, 1/4, 3/8, 3/8, 7/16, 7/16; ties by name, where 9 comes before 10
    assert names(page) == [printed(HOSTILE), "clear.png", "frame 9.png", "scan.tif", "frame 10.png", "gone.png"]
    sort("area")  # 216, 200 and 200 pixels
    assert names(page)[:3] == ["frame 10.png", printed(HOSTILE), "frame 9.png"]
    sort("name")
    assert names(page) == [printed(HOSTILE), "clear.png", "frame 9.png", "frame 10.png", "gone.png", "scan.tif"]

    page.get_by_label("Presence at least").fill("26")
    page.get_by_label("Presence at most").fill("90")
    assert names(page) == [printed(HOSTILE), "frame 9.png"]
    page.get_by_label("Name contains").fill("FRAME")
    assert names(page) == ["frame 9.png"]
    assert page.get_by_role("status").inner_text() == "1 of 6 images"
    for label, value in (("Presence at least", "0"), ("Presence at most", "100"), ("Name contains", "")):
        page.get_by_label(label).fill(value)
    show = page.get_by_role("combobox", name="Show").select_option
    show("no")
    assert names(page) == ["clear.png", "gone.png", "scan.tif"]
    show("problem")
    assert names(page) == ["gone.png"]
    page.get_by_label("Name contains").press("Enter")  # does not reload the page
    assert names(page) == ["gone.png"]


@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_an_image_large_with_outline_probability_and_regions(page):
    page.get_by_role("button", name="frame 9.png").click()
    viewer = page.get_by_role("dialog", name="frame 9.png")
    assert viewer.get_by_role("status").inner_text() == "presence 87.5 %; 1 region, area 4.2 %; 2 of 6"
    picture = viewer.get_by_role("img", name=re.compile("frame 9.png: presence 87.5 %"))
    assert picture.get_attribute("src").endswith("in/frame%209.png")
    for selector in ("#frame img", "#frame .mask"):
        assert is_loaded(page, selector)
    assert page.locator("#frame .map").count() == 0
    viewer.get_by_label("Probability map").check()
    assert is_loaded(page, "#frame .map")
    # Drawn over each other at the same place.
    boxes_of_layers = [page.locator("#frame img").nth(index).bounding_box() for index in range(3)]
    assert boxes_of_layers[0] == boxes_of_layers[1] == boxes_of_layers[2]
    assert boxes_of_layers[0]["width"] / boxes_of_layers[0]["height"] == pytest.approx(80 / 60, abs=0.01)
    viewer.get_by_label("Outline").uncheck()
    assert page.locator("#frame .mask").count() == 0
    cells = viewer.get_by_role("cell").all_inner_texts()
    assert cells == ["1", "87.5 %", "4.17 %", "30, 10, 50, 20"]
    assert viewer.get_by_role("link").all_inner_texts() == ["image", "mask", "probability"]
    viewer.get_by_role("button", name="Next").click()
    assert page.get_by_role("dialog", name=printed(HOSTILE)).is_visible()
    assert is_loaded(page, "#frame img")
    assert not viewer.get_by_label("Probability map").is_visible()
    assert page.get_by_text("predict.py --probabilities").is_visible()


def test_what_cannot_be_shown_is_said(page):
    page.get_by_role("button", name="scan.tif").click()
    page.get_by_text("This browser cannot find or show the image's file: shown is a picture of it.").wait_for()
    assert is_loaded(page, "#frame img")
    page.get_by_role("button", name="Next").click()
    problem = page.locator("#viewer-problem")
    assert problem.inner_text() == "Its file is no longer there."
    assert is_loaded(page, "#frame .mask")
    page.get_by_role("button", name="Previous").click()
    page.get_by_role("button", name="Previous").click()
    assert page.get_by_role("dialog", name="clear.png").is_visible()
    assert not problem.is_visible()
    assert page.get_by_role("link", name="image", exact=True).is_visible()


def focused(page: Any) -> str:
    return page.evaluate("document.activeElement.querySelector('.name')?.textContent ?? document.activeElement.id")


def test_keyboard(page):
    page.get_by_label("Name contains").focus()
    page.keyboard.press("Tab")
    assert focused(page) == "frame 10.png"
    page.keyboard.press("Tab")
    assert "name" not in focused(page)  # one step leads out of the grid
    page.keyboard.press("Shift+Tab")
    for key, expected in (("ArrowRight", "frame 9.png"), ("ArrowLeft", "frame 10.png"), ("ArrowLeft", "frame 10.png")):
        page.keyboard.press(key)
        assert focused(page) == expected
    page.keyboard.press("End")
    assert focused(page) == "gone.png"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog")
    assert viewer.get_by_role("heading", name="frame 10.png").is_visible()
    assert focused(page) == "viewer-title"
    for key, expected in (
        *(("ArrowLeft", "frame 10.png"), ("ArrowRight", "frame 9.png"), ("ArrowRight", printed(HOSTILE))),
        *(
            ("ArrowRight", "clear.png"),
            ("ArrowRight", "scan.tif"),
            ("ArrowRight", "gone.png"),
            ("ArrowRight", "gone.png"),
        ),
    ):
        page.keyboard.press(key)
        assert viewer.get_by_role("heading").inner_text() == expected
    page.get_by_role("button", name="Next").focus()  # at the end it does nothing, and keeps the focus
    page.keyboard.press("Enter")
    assert focused(page) == "next"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    viewer.wait_for(state="hidden")
    wait_until(page, "document.activeElement.textContent.startsWith('scan.tif')")  # the image that was shown last
    page.keyboard.press("ArrowRight")
    assert focused(page) == "gone.png"


def test_names_and_roles(page):
    """What a screen reader tells of the page, as Chromium's accessibility tree has it."""
    tree = page.locator("body").aria_snapshot()
    for expected in (
        'heading "Predictions: out" [level=1]',
        'navigation "Parts of this page"',
        'region "Videos"',
        'heading "clip 1.mp4" [level=3]',
        'slider "Time in clip 1.mp4"',
        'table "Tracks of clip 1.mp4"',
        'columnheader "best frame"',
        'button "0:01.0, show track 2"',
        'region "Images"',
        'combobox "Sort by"',
        'slider "Presence at least 0 %"',
        'searchbox "Name contains"',
        "listitem",
        'button "frame 9.png presence 87.5 % 1 region, area 4.2 %"',
    ):
        assert expected in tree, expected
    assert "Research use only. Not a medical device" in tree


@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_a_video_can_be_searched(page):
    player = page.get_by_label("clip 1.mp4", exact=True)
    wait_until(page, "document.querySelector('video').readyState >= 1")
    assert player.evaluate("video => [video.duration, video.seekable.end(0)]") == [4, 4]
    assert page.get_by_text("40 frames, 0:04.0; 2 tracks, 1 alert.").is_visible()

    def seeked(to: float) -> None:
        wait_until(page, f"Math.abs(document.querySelector('video').currentTime - {to}) < 0.05")
        wait_until(page, "!document.querySelector('video').seeking")

    slider = page.get_by_role("slider", name="Time in clip 1.mp4")
    size = slider.bounding_box()
    slider.click(position={"x": size["width"] * 0.75, "y": 20})
    seeked(3)
    assert slider.get_attribute("aria-valuetext") == "0:03.0"
    slider.press("Home")
    seeked(0)
    slider.press("ArrowRight")  # five seconds, of which there are four
    seeked(4)
    page.get_by_role("button", name="0:01.0, show track 2").click()
    seeked(1)
    page.get_by_role("button", name="0:02.0, show track 2").click()  # its best frame, 20 of 10 a second
    seeked(2)
    # Bars of the tracks: from 0.5 to 0.7 and from 1.0 to 2.5 of 4 seconds, on a drawing that is 1000 wide.
    bars = page.locator(".timeline rect").evaluate_all(
        "all => all.map(bar => [bar.x, bar.width].map(l => l.baseVal.value))"
    )
    assert bars == [pytest.approx([125, 50], abs=0.1), pytest.approx([250, 375], abs=0.1)]
    assert page.locator(".timeline rect.alert").count() == 1
    cells = page.get_by_role("row").nth(2).get_by_role("cell").all_inner_texts()
    assert cells == ["2", "yes", "0:01.0", "0:02.5", "0:02.0", "16", "12.5 %", "90.0 %", "95.0 %"]


def test_of_many_tracks_the_alerts_come_first(chromium, tmp_path):
    output = save_run(tmp_path / "out")
    tracks = [[number % 10 == 0, number, number + 1, 3, 2.0, 0.75, 0.8, 0, 1, 1, 9, 9] for number in range(60)]
    save_video(output, "long.mp4", [[number, number, 0, 0, 0.25, ""] for number in range(70)], tracks)
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(write_report(output).as_uri())
        alerts = page.get_by_role("table", name="Alerts of long.mp4").get_by_role("row")
        assert alerts.count() == 1 + 6
        assert alerts.nth(2).get_by_role("cell").all_inner_texts()[:4] == ["11", "yes", "0:10.0", "0:11.0"]
        page.get_by_role("button", name="Show all 60 tracks").press("Enter")
        assert page.get_by_role("table", name="Tracks of long.mp4").get_by_role("row").count() == 1 + 60
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Tracks of long.mp4"
        assert page.locator(".timeline rect").count() == 60
        assert page.locator(".timeline rect.alert").count() == 6


def test_the_policy_keeps_the_page_from_asking_elsewhere(chromium, report):
    """Whatever a script in it might do: of a picture, a request and a form, none is sent."""
    attempt = """() => new Promise(resolve => {
        const refused = [];
        document.addEventListener("securitypolicyviolation", event => {
            if (refused.push(event.effectiveDirective) === 3) resolve(refused.sort());
        });
        new Image().src = "http://127.0.0.1:9/picture.png";
        fetch("http://127.0.0.1:9/").catch(() => {});
        const form = document.body.appendChild(document.createElement("form"));
        form.action = "http://127.0.0.1:9/";
        form.submit();
    })"""
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(report.as_uri())
        assert page.evaluate(attempt) == ["connect-src", "form-action", "img-src"]


def test_a_video_that_cannot_be_played(chromium, tmp_path):
    output = save_run(tmp_path / "out")
    save_video(output, "one.mp4", [[0, 0.0, 0, 0, 0.25, ""]], [])
    save_video(output, "old.mp4", [[0, 0.0, 0, 0, 0.25, ""], [1, 0.1, 0, 0, 0.25, ""]], None)
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(write_report(output).as_uri())
        page.get_by_text("This browser cannot play the video.").first.wait_for()
        assert page.get_by_text("1 frame, 0:00.0; 0 tracks, 0 alerts.").is_visible()
        assert page.get_by_text("2 frames, 0:00.2.").is_visible()
        assert page.get_by_text("Its tracks were not recorded").count() == 1
        assert not page.get_by_role("heading", name="Images").is_visible()
        assert page.get_by_text("2 videos with 0 alerts; the alerts of 1 are not known.").is_visible()


@pytest.mark.slow
def test_five_thousand_images(chromium, tmp_path, capsys):
    """Seconds until the pictures of the first view are there, and milliseconds from a choice to the next picture."""
    output, folder = save_run(tmp_path / "out"), tmp_path / "in"
    rng = np.random.default_rng(0)
    frames = [sample["image"] for sample in generate(20, (288, 384), seed=1)]
    images = [f"case {number % 10}/frame {number}.jpg" for number in range(5000)]
    for number, name in enumerate(images):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frames[number % 20].save(folder / name)
        probability = np.zeros((288, 384), np.float32)
        top, left = rng.integers(0, 200, 2)
        probability[top : top + 60, left : left + 80] = rng.uniform(0.5, 1)
        save_image(output, folder / name, name, probability)
    write_inputs(output, [Source(str(folder / name), name) for name in images])
    report = write_report(output)
    assert len(list(output.glob("thumbnails/*/*.jpg"))) == 5000
    with chromium.new_context(viewport=SIZES["desktop"]) as context:
        page = context.new_page()
        requests: list[str] = []
        context.on("request", lambda sent: requests.append(sent.url))
        page.goto(report.as_uri())
        seen = (
            "[...document.querySelectorAll('#grid img')].filter(img => img.getBoundingClientRect().top < innerHeight)"
        )
        wait_until(page, f"{seen}.length && {seen}.every(img => img.complete && img.naturalWidth)")
        first = page.evaluate("performance.now()")
        sort = """order => new Promise(resolve => {
            const started = performance.now();
            document.getElementById("sort").value = order;
            document.getElementById("sort").dispatchEvent(new Event("input", { bubbles: true }));
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - started)));
        })"""
        times = {order: round(page.evaluate(sort, order)) for order in ("area", "name", "doubt", "presence")}
        with capsys.disabled():
            print(f"\n5,000 images: first view after {first / 1000:.2f} s, sorted within {times} ms")
        assert page.get_by_role("status").inner_text() == "5,000 of 5,000 images"
        page.get_by_label("Sort by").select_option("name")
        assert names(page)[:2] == ["case 0/frame 0.jpg", "case 0/frame 10.jpg"]
        page.locator("#grid button").first.focus()
        page.keyboard.press("End")
        assert focused(page) == "case 9/frame 4999.jpg"
        assert {url.partition(":")[0] for url in requests} == {"file"}
