"""report.html without a browser: its data, its thumbnails, and what is in its place."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from conftest import ROOT
from example_reports import boxes, page_data, save_image, save_images, save_run
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.inference.image_run import encode_png
from unet_kvasir_seg.inference.inputs import MASKS, OVERLAYS, THUMBNAILS
from unet_kvasir_seg.inference.output_folder import RUN_FILE
from unet_kvasir_seg.reporting import thumbnails
from unet_kvasir_seg.reporting.report_page import write_report

HOSTILE = (
    *("\"quotes' & <b>.png", "</script><script>document.title=1</script>.png", "<!-- <script>.png", "line\nbreak.png"),
    *(
        "escape\x1b[31m.png",
        "right-to-left \u202egnp.exe.png",
        "100 %41 # ? ;=+.png",
        "$notice ${data}.png",
        "ü 腸.png",
    ),
    *(os.fsdecode(b"not UTF-8 \xff.png"), "back\\slash.png", "javascript:alert(1).png", "a" * 251 + ".png"),
)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return save_run(tmp_path / "out")


def decoded(thumbnail: str) -> Image.Image:
    """The picture of a data URL."""
    with io.BytesIO(base64.b64decode(thumbnail.removeprefix(thumbnails.DATA_URL))) as file:
        return Image.open(file).convert("RGB")


def test_images_and_their_regions(output, tmp_path):
    save_images(output, tmp_path / "in", {"a.png": boxes(0.75, 0.5625), "b/c.png": boxes(0.25)})
    data = page_data(write_report(output))
    assert data["summary"] == "2 images, 1 with regions and 1 without."
    assert dict(data["settings"]) == {"model": "sha256:0123", "threshold": "0.5", "presence_calibration": "none"}
    first, second = data["images"]
    thumbnail = first.pop("thumbnail")
    assert first == {
        "name": "a.png",
        "presence": 0.75,
        "width": 80,
        "height": 60,
        "problem": None,
        "large": ["../in/a.png"],
        "mask": "masks/a.png",
        "probability": None,
        "regions": [
            {"box": [30, 10, 50, 20], "area": pytest.approx(200 / 4800, abs=1e-6), "probability": 0.75},
            {"box": [8, 40, 12, 44], "area": pytest.approx(16 / 4800, abs=1e-6), "probability": 0.5625},
        ],
    }
    assert (second["name"], second["presence"], second["regions"]) == ("b/c.png", 0.25, [])
    # Grey where nothing is marked, to what JPEG keeps of it; inside a region 35 % of it are (0, 229, 255).
    pixels = np.asarray(decoded(thumbnail), int)
    assert pixels.shape == (60, 80, 3)
    assert np.abs(pixels[50:, 60:] - (120, 110, 100)).max() <= 6
    assert np.abs(pixels[14:16, 38:42] - (78, 152, 154)).max() <= 6


@pytest.mark.parametrize("inside", [True, False])
def test_names_stay_text_and_urls_lead_to_files(output, tmp_path, monkeypatch, inside):
    if not inside:
        monkeypatch.setattr(thumbnails, "MAX_INSIDE_BYTES", 0)
    images = {name: boxes(0.9) for name in HOSTILE}
    save_images(output, tmp_path / "in", images)
    page = write_report(output)
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 2  # the data and the page's own
    data = page_data(page)
    assert len(data["images"]) == len(HOSTILE)
    for image in data["images"]:
        assert image["name"].isprintable()
        assert image["thumbnail"].startswith("data:") == inside
        for url in (*image["large"], image["mask"], *([] if inside else [image["thumbnail"]])):
            assert ":" not in url  # no scheme
            path = os.path.join(os.fsencode(output), unquote_to_bytes(url))
            assert Image.open(os.fsdecode(path)).size == (80, 60)


def test_what_cannot_be_shown_is_said_and_the_rest_is_kept(output, tmp_path):
    names = [f"{name}.png" for name in ("gone", "changed", "damaged", "mask", "here")]
    save_images(output, tmp_path / "in", dict.fromkeys(names, boxes(0.9)))
    damaged = tmp_path / "in" / "damaged.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    save_image(output, tmp_path / "unknown.png", "unknown.png", boxes(0.9))  # not in inputs.json, as of old runs
    mask = output / MASKS / "mask.png"
    mask.write_bytes(mask.read_bytes()[:-60])
    (tmp_path / "in" / "gone.png").unlink()
    Image.new("RGB", (80, 60)).save(tmp_path / "in" / "changed.png")
    data = page_data(write_report(output))
    problems = {image["name"]: image["problem"] for image in data["images"]}
    assert problems["here.png"] is None
    assert "no longer there" in problems["gone.png"]
    assert "changed" in problems["changed.png"]
    assert "changed" in problems["damaged.png"]
    assert "not recorded" in problems["unknown.png"]
    assert "mask is damaged" in problems["mask.png"]
    assert data["summary"] == "6 images, 6 with regions and 0 without; the files of 5 cannot be shown."
    assert {image["name"]: image["large"] for image in data["images"] if image["large"]} == {
        "here.png": ["../in/here.png"]
    }


def test_an_overlay_stands_in_for_an_image_that_is_gone(output, tmp_path):
    save_images(output, tmp_path / "in", {"a.png": boxes(0.9)})
    (tmp_path / "in" / "a.png").unlink()
    (output / OVERLAYS).mkdir()
    Image.new("RGB", (80, 60), (0, 200, 0)).save(output / OVERLAYS / "a.png")
    (image,) = page_data(write_report(output))["images"]
    assert image["large"] == ["overlays/a.png"]
    assert np.abs(np.asarray(decoded(image["thumbnail"]), int) - (0, 200, 0)).max() <= 6


def test_photographs_are_upright_and_small_regions_stay(output, tmp_path):
    """A JPEG of 1600 x 1200 pixels that is stored on its side; its only region is smaller than a thumbnail's pixel."""
    image = Image.new("RGB", (1600, 1200), (200, 0, 0))
    image.paste((0, 200, 0), (0, 0, 1600, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: the upper half becomes the right one
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "photograph.jpg", exif=exif)
    probability = np.zeros((1600, 1200), np.float32)
    probability[801:803, 302:304] = 0.9
    save_images(output, tmp_path / "in", {"photograph.jpg": probability})
    (shown,) = page_data(write_report(output))["images"]
    pixels = np.asarray(decoded(shown["thumbnail"]), int)
    assert pixels.shape == (320, 240, 3)
    assert pixels[20, 20, 0] > 150 > pixels[20, 20, 1]
    assert pixels[20, 220, 1] > 150 > pixels[20, 220, 0]
    assert pixels[160, 60, 2] > 100  # 801 / 5 and 302 / 5


@pytest.mark.parametrize(
    ("mode", "suffix", "size", "expected"),
    [
        ("RGB", ".png", (1, 1), (1, 1)),
        ("RGB", ".png", (3200, 1), (320, 1)),
        ("RGBA", ".webp", (10, 700), (5, 320)),
        ("CMYK", ".jpg", (1280, 960), (320, 240)),
        ("P", ".gif", (640, 480), (320, 240)),
        ("1", ".tif", (64, 48), (64, 48)),
        ("I;16", ".png", (640, 480), (320, 240)),
        ("F", ".tif", (640, 480), (320, 240)),
    ],
)
def test_images_of_all_kinds_and_shapes(output, tmp_path, mode, suffix, size, expected):
    (tmp_path / "in").mkdir()
    Image.new(mode, size).save(tmp_path / "in" / f"a{suffix}")
    save_images(output, tmp_path / "in", {f"a{suffix}": np.full(size[::-1], 0.9, np.float32)})
    (image,) = page_data(write_report(output))["images"]
    assert image["problem"] is None
    assert (image["width"], image["height"]) == size
    assert decoded(image["thumbnail"]).size == expected


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """The masks' hashes of thumbnails that are drawn."""
    found: list[str] = []
    draw = thumbnails._draw

    def note(content: bytes, mask: Image.Image | None, key: str) -> bytes:
        found.append(key)
        return draw(content, mask, key)

    monkeypatch.setattr(thumbnails, "_draw", note)
    return found


def test_thumbnails_inside_are_kept_when_images_go(output, tmp_path, drawn):
    save_images(output, tmp_path / "in", {"a.png": boxes(0.9), "b.png": boxes(0.8)})
    before = page_data(write_report(output))["images"]
    assert len(drawn) == 2
    assert not (output / THUMBNAILS).exists()
    (tmp_path / "in" / "a.png").unlink()
    after = page_data(write_report(output))["images"]
    assert [image["thumbnail"] for image in after] == [image["thumbnail"] for image in before]
    assert len(drawn) == 2
    # A mask of other settings makes the thumbnail anew, and the image of the old one is not shown with it.
    save_image(output, tmp_path / "in" / "b.png", "b.png", boxes(0.9, 0.9))
    assert page_data(write_report(output))["images"][1]["thumbnail"] != before[1]["thumbnail"]
    assert len(drawn) == 3


def test_large_thumbnails_are_files_and_are_not_made_again(output, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAX_INSIDE_BYTES", 1000)  # one has some 700
    names = [f"{folder}/{number}.png" for folder in ("a", "b") for number in range(4)]
    save_images(output, tmp_path / "in", dict.fromkeys(names, boxes(0.9)))
    data = page_data(write_report(output))
    assert [image["thumbnail"] for image in data["images"]] == [
        f"{THUMBNAILS}/{Path(name).with_suffix('.jpg')}" for name in names
    ]
    files = sorted((output / THUMBNAILS).rglob("*.jpg"))
    assert len(files) == len(drawn) == 8
    assert Image.open(files[0]).size == (80, 60)
    times = [file.stat().st_mtime_ns for file in files]
    files[3].unlink()  # as if the first run had been killed
    write_report(output)
    assert len(drawn) == 9
    assert [file.stat().st_mtime_ns for file in files[:3] + files[4:]] == times[:3] + times[4:]
    # What no mask stands for is removed; what another program put there is kept.
    for mask in (output / MASKS / "b").iterdir():
        mask.unlink()
    (output / THUMBNAILS / "a" / "notes.txt").write_text("mine", encoding="utf-8")
    write_report(output)
    assert sorted(file.name for file in (output / THUMBNAILS).rglob("*")) == [
        *("0.jpg", "1.jpg", "2.jpg", "3.jpg", "a", "notes.txt")
    ]
    monkeypatch.undo()
    assert page_data(write_report(output))["images"][0]["thumbnail"].startswith("data:")
    assert [file.name for file in (output / THUMBNAILS).rglob("*") if file.is_file()] == ["notes.txt"]


def test_a_killed_report_is_made_by_the_next(output, tmp_path):
    """600 images of noise, whose thumbnails take more than 8 MiB; the process is killed while it writes them."""
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in" / "0.png", compress_level=1)
    for number in range(1, 600):
        os.link(tmp_path / "in" / "0.png", tmp_path / "in" / f"{number}.png")
    probability = np.zeros((240, 320), np.float32)
    save_images(output, tmp_path / "in", {f"{number}.png": probability for number in range(600)})
    command = [sys.executable, str(ROOT / "predict.py"), "--report", "--output_dir", str(output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list((output / THUMBNAILS).glob("*.jpg")):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    times = {file: file.stat().st_mtime_ns for file in (output / THUMBNAILS).glob("*.jpg")}
    assert 0 < len(times) < 600
    assert not (output / "report.html").exists()
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    assert len(page_data(output / "report.html")["images"]) == 600
    assert len(list((output / THUMBNAILS).iterdir())) == 600  # no unfinished file is left
    assert {file: file.stat().st_mtime_ns for file in times} == times


def test_files_of_others_are_not_replaced(output, tmp_path, monkeypatch):
    save_images(output, tmp_path / "in", {"a.png": boxes(0.9)})
    page, thumbnail = output / "report.html", output / THUMBNAILS / "a.jpg"
    for content in (b"", b"<h1>My report</h1>", b"\xff"):
        page.write_bytes(content)
        with pytest.raises(UserError, match=r"report\.html is there and not from this command"):
            write_report(output)
        assert page.read_bytes() == content
    page.unlink()
    thumbnail.parent.mkdir()
    Image.new("RGB", (9, 9)).save(thumbnail)
    content = thumbnail.read_bytes()
    with pytest.raises(UserError, match=r"a\.jpg is there and not from this command"):
        write_report(output)
    assert thumbnail.read_bytes() == content
    assert not page.exists()
    thumbnail.unlink()
    page.mkdir()
    with pytest.raises(UserError, match=r"report\.html is there"):
        write_report(output)


def test_folders_without_a_run_or_without_outputs(tmp_path, output):
    with pytest.raises(UserError, match="holds no run of this command"):
        write_report(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    for content in ("", "[1]", "{}", "[" * 100_000, '"model"'):
        (output / RUN_FILE).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"run\.json is not the run\.json of this command"):
            write_report(output)
    assert sorted(file.name for file in output.iterdir()) == [RUN_FILE]
    (output / RUN_FILE).write_text('{"model": "sha256:0"}', encoding="utf-8")
    with pytest.raises(UserError, match="holds no image and no video that was segmented"):
        write_report(output)


def test_a_report_of_an_earlier_version_has_no_presence(output, tmp_path):
    mask = save_image(output, tmp_path / "in" / "a.png", "a.png", boxes(0.9))
    with Image.open(mask) as opened:
        record = json.loads(opened.info["unet-kvasir-seg"])
        del record["presence"]
        mask.write_bytes(encode_png(opened, json.dumps(record)))
    (image,) = page_data(write_report(output))["images"]
    assert (image["presence"], image["thumbnail"]) == (None, None)


@pytest.mark.parametrize("presence", ["NaN", "Infinity", "1" + "0" * 400, '"0.9"', "null"])
def test_damaged_records_are_passed_over(output, tmp_path, presence):
    mask = save_image(output, tmp_path / "in" / "a.png", "a.png", boxes(0.9))
    with Image.open(mask) as opened:
        record = json.loads(opened.info["unet-kvasir-seg"])
        del record["presence"]
        text = json.dumps(record).replace("{", f'{{"presence": {presence}, ', 1)
        mask.write_bytes(encode_png(opened, text))
    save_image(output, tmp_path / "in" / "b.png", "b.png", boxes(0.9))
    data = page_data(write_report(output))
    assert [image["name"] for image in data["images"]] == ["b.png"]
    assert data["summary"].endswith("; 1 mask or video not shown: damaged, or from another program.")


def test_a_name_that_no_file_can_have_is_passed_over(output, tmp_path):
    mask = save_image(output, tmp_path / "in" / "a.png", "a.png", boxes(0.9))
    with Image.open(mask) as opened:
        record = json.loads(opened.info["unet-kvasir-seg"]) | {"image": "half \ud800"}
        mask.write_bytes(encode_png(opened, json.dumps(record)))
    save_image(output, tmp_path / "in" / "b.png", "b.png", boxes(0.9))
    assert [image["name"] for image in page_data(write_report(output))["images"]] == ["b.png"]


def test_a_file_in_the_place_of_the_thumbnails(output, tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAX_INSIDE_BYTES", 100)
    save_images(output, tmp_path / "in", {"a.png": boxes(0.9)})
    (output / THUMBNAILS).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="thumbnails cannot be written: File exists"):
        write_report(output)
    assert not (output / "report.html").exists()


def test_odd_settings_and_an_odd_folder(tmp_path):
    deep: list = []
    for _ in range(400):
        deep = [deep]
    output = save_run(
        tmp_path / os.fsdecode(b"<b>\xff"), model=deep, threshold=float("nan"), tta=True, odd="\udcff<b>"
    )
    save_image(output, tmp_path / "a.png", "a.png", boxes(0.9))
    page = write_report(output)
    assert "<h1>Predictions: &lt;b&gt;\\udcff</h1>" in page.read_text(encoding="utf-8")
    settings = dict(page_data(page)["settings"])
    expected = {"model": "...", "threshold": "nan", "presence_calibration": "none", "tta": "True", "odd": "\\udcff<b>"}
    assert settings == expected
