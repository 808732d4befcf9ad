"""The page of demo/browser/ in a real browser: Debian's Chromium, headless, with Python's http.server."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from browsers import CHROMIUM, SIZES, check_focus, contrast, open_chromium, open_window, wait_for_view
from conftest import ROOT, save_tiny_model
from PIL import Image, ImageOps
from scipy import ndimage
from unet_kvasir_seg.benchmarks.layouts import with_panel
from unet_kvasir_seg.common.files import MAX_SIDE, to_rgb
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.checkpoint import load_checkpoint
from unet_kvasir_seg.inference.lesions import COLUMNS, find_lesions, lesion_numbers
from unet_kvasir_seg.inference.onnx_session import OnnxPredictor, OnnxSession
from unet_kvasir_seg.inference.overlay import NUMBERED, draw_numbers, draw_overlay, number_places
from unet_kvasir_seg.inference.prediction import BasePredictor
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.regions_unet import keep_peaks, presence_of

onnx = pytest.importorskip("onnx", reason='the page needs a model of pip install -e ".[export]"')
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("playwright.sync_api", reason="driving a browser needs pip install playwright")

from unet_kvasir_seg.onnx_export.graph import build_graph  # noqa: E402 - it needs onnx

PAGE_FOLDER = ROOT / "demo" / "browser"


class Server:
    """`python -m http.server` of a folder, on a free port of the loopback if none is given."""

    def __init__(self, folder: Path, port: int = 0):
        command = [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        self.address = found[0]

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder that a user serves: the files of demo/browser/ and an exported model."""
    folder = tmp_path_factory.mktemp("site")
    for entry in PAGE_FOLDER.iterdir():
        if entry.name != "onnx":
            (folder / entry.name).symlink_to(entry)
    model, processor = load_checkpoint(str(save_tiny_model(folder / "tiny", seed=0)))
    with torch.no_grad():  # probabilities far from 0.5, as trained weights give them
        model.classifier.weight *= 20
        model.classifier.bias *= 20
    model.save_pretrained(folder / "tiny")
    (folder / "onnx").mkdir()
    content = build_graph(model.eval(), processor, "fp32").SerializeToString()
    (folder / "onnx" / "model.onnx").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def network(site) -> OnnxSession:
    return OnnxSession.load(site / "onnx" / "model.onnx", cpu_only=True)


@pytest.fixture
def server(site) -> Iterator[Server]:
    server = Server(site)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    if not (PAGE_FOLDER / "node_modules" / "onnxruntime-web").exists():
        pytest.skip("there is no onnxruntime-web: npm ci in demo/browser/")
    with open_chromium() as browser:
        yield browser


@pytest.fixture(params=["desktop"])
def page(request, chromium, server) -> Iterator[Any]:
    """The page with its model. At the end, all requests went to this machine and the page fits the window's width."""
    with open_window(chromium, request.param, timeout_seconds=60) as window:
        window.page.goto(server.address)
        window.page.get_by_text("onnx/model.onnx, on the CPU (WebAssembly").wait_for()
        yield window.page
    assert window.problems == []
    assert any(url.endswith("ort-wasm-simd-threaded.wasm") for url in window.requests)
    for url in window.requests:
        assert url.startswith(("data:", "blob:")) or urlsplit(url).hostname == "127.0.0.1", url


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> Path:
    """A frame of 403x301 pixels."""
    file = tmp_path_factory.mktemp("frame") / "frame.png"
    next(generate(1, (301, 403), seed=1))["image"].save(file)
    return file


def segment(page: Any, file: Path) -> None:
    page.get_by_label("Image", exact=True).set_input_files(file)
    page.locator("figcaption").get_by_text(f"{file.name}, ").wait_for()


def download_mask(page: Any, folder: Path) -> np.ndarray:
    """The mask (H, W) bool that the page saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download mask (PNG)").click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    with Image.open(file) as saved:
        saved.load()
    assert (saved.format, saved.mode) == ("PNG", "L")  # as predict.py writes masks
    mask = np.asarray(saved)
    assert set(np.unique(mask)) <= {0, 255}
    return mask > 0


def download_table(page: Any, folder: Path) -> list[dict[str, str]]:
    """The rows of the lesion table that the page saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download lesion table (CSV)").click()
    download.value.save_as(folder / download.value.suggested_filename)
    with open(folder / download.value.suggested_filename, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == list(COLUMNS)
    return rows


def picture(page: Any, name: str) -> np.ndarray:
    """The picture in the page, (H, W, 3) int16."""
    url = page.get_by_role("img", name=name, exact=True).evaluate("canvas => canvas.toDataURL()")
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"), np.int16)


def expected_mask(network: OnnxSession, image: Image.Image, threshold: float = 0.5) -> np.ndarray:
    return network.run(np.asarray(image.convert("RGB"))[None], threshold)[0][0] == 1


@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_the_mask_equals_onnx_runtimes(page, network, frame, tmp_path):
    assert page.get_by_text("Not a medical device").is_visible()
    image = Image.open(frame).convert("RGB")
    segment(page, frame)
    status = page.get_by_text("Inference: ").inner_text()
    expected = expected_mask(network, image)
    mask = download_mask(page, tmp_path)
    assert (tmp_path / "frame-mask.png").exists()
    assert 0.2 < expected.mean() < 0.8
    assert (mask == expected).mean() >= 0.999
    count = len(find_lesions(mask, mask.astype(np.float32)))
    found = f"{count} region{'s' * (count != 1)}, {100 * mask.mean():.2f} % of the image"
    assert re.fullmatch(rf"{re.escape(found)}\. Presence: [01]\.\d{{3}}\. Inference: \d+ ms\.", status)

    page.get_by_label("Threshold").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.get_by_text("403x301 pixels: polyps outlined where the probability is above 0.52").wait_for()
    page.get_by_label("Threshold").fill("0.6")
    moved, expected_moved = download_mask(page, tmp_path), expected_mask(network, image, 0.6)
    assert (expected_moved != expected).mean() > 0.01
    assert (moved == expected_moved).mean() >= 0.999
    # The time of the inference is the same, so no image was segmented again.
    assert page.get_by_text("Inference: ").inner_text().rpartition(": ")[2] == status.rpartition(": ")[2]

    boxes = [lesion.box for lesion in find_lesions(moved, moved.astype(np.float32))]
    expected = draw_overlay(image, moved)
    draw_numbers(expected, boxes)
    difference = np.abs(picture(page, "frame.png with the polyp outlined") - np.array(expected)).max(axis=-1)
    places = [place for place in number_places(image.size, boxes) if place]
    assert places
    for left, top, right, bottom in places:
        label = difference[top:bottom, left:right].copy()
        difference[top:bottom, left:right] = 0
        assert label[[0, -1]].max() <= 1  # digits of another font differ, but not what is around them
        assert label[:, [0, -1]].max() <= 1
    assert difference.max() <= 1  # JavaScript rounds halves up, numpy to even numbers
    page.get_by_label("Show the overlay").uncheck()
    np.testing.assert_array_equal(picture(page, "frame.png"), image)
    page.get_by_label("Threshold").fill("1")
    page.get_by_text("No polyp found. Presence: ").wait_for()


def model_with(site: Path, name: str, **settings: Any) -> Path:
    """The model of the page with other settings of its image processor."""
    graph = onnx.load(site / "onnx" / "model.onnx")
    (entry,) = (entry for entry in graph.metadata_props if entry.key == "preprocessor")
    entry.value = json.dumps(json.loads(entry.value) | settings)
    onnx.save(graph, site / "onnx" / f"{name}.onnx")
    return site / "onnx" / f"{name}.onnx"


def test_the_models_peak_threshold_is_applied(page, server, site, network, frame, tmp_path):
    """Read from the file's metadata; at a threshold above it, every region counts."""
    image = Image.open(frame)
    predictor = OnnxPredictor(network)
    every = predictor(image)
    peaks = sorted(float(every.probability[lesion_pixels].max()) for lesion_pixels in regions_of(every.mask))
    assert len(peaks) >= 3
    decision = {"peak_threshold": peaks[len(peaks) // 2], "presence_calibration": [0.5, -1.0]}
    careful = OnnxPredictor.load(model_with(site, "careful", **decision))
    expected = careful(image)
    assert 0 < expected.mask.sum() < every.mask.sum()

    page.goto(f"{server.address}?model=onnx/careful.onnx")
    page.get_by_text(f"A region counts if its probability reaches {decision['peak_threshold']} somewhere.").wait_for()
    segment(page, frame)
    mask = download_mask(page, tmp_path)
    assert (mask == expected.mask).mean() >= 0.999
    assert (mask != every.mask).any()
    assert f"Presence: {expected.presence:.3f}." in page.get_by_text("Inference: ").inner_text()
    above = (decision["peak_threshold"] + 1) / 2
    page.get_by_label("Threshold").fill(f"{above:.2f}")
    above = float(f"{above:.2f}")
    assert above > decision["peak_threshold"]
    assert (download_mask(page, tmp_path) == (every.probability > above)).mean() >= 0.999


def compare_with_predictor(page: Any, predictor: BasePredictor, file: Path, setting: Any) -> np.ndarray:
    """Segment a file in the page, and compare mask and table with those of a predictor; returns the mask."""
    expected = predictor(Image.open(file), field_of_view=setting)
    segment(page, file)
    mask = download_mask(page, file.parent)
    assert mask.shape == expected.mask.shape
    assert (mask == expected.mask).mean() >= 0.999
    found = [
        [int(row[side]) for side in ("left", "top", "right", "bottom")] for row in download_table(page, file.parent)
    ]
    assert found == [list(lesion.box) for lesion in find_lesions(mask, mask.astype(np.float32))]
    assert f"Presence: {expected.presence:.3f}." in page.get_by_text("Inference: ").inner_text()
    return mask


@pytest.mark.slow
def test_the_models_field_of_view_is_the_predictors(page, server, site, tmp_path):
    """The networks of PyTorch and of the page see the picture alone, and masks are of the whole frame."""
    picture = next(generate(1, (300, 400), seed=4))["image"].crop((60, 45, 340, 255)).resize((320, 240))
    picture = picture.point(lambda level: 40 + level * 0.8)  # nowhere black
    frame, (left, top, right, bottom) = with_panel(picture, seed=1)
    frame.save(tmp_path / "bordered.png")
    picture.save(tmp_path / "picture.png")
    predictor = Predictor.from_pretrained(str(site / "tiny"), device="cpu", dtype="float32")
    whole = predictor(frame).mask
    box = [left, top, right, bottom]
    settings = {
        "auto": "auto",
        "box": box,
        "text": ",".join(map(str, box)),
        "odd": [left - 7, top, right, bottom - 11],
    }
    for name, setting in settings.items():
        model_with(site, name, field_of_view=setting)
        page.goto(f"{server.address}?model=onnx/{name}.onnx")
        page.get_by_text(f"onnx/{name}.onnx, on the CPU").wait_for()
        mask = compare_with_predictor(page, predictor, tmp_path / "bordered.png", setting)
        assert (mask != whole).mean() > 0.01
        outside = mask.copy()
        outside[top:bottom, left - 7 : right] = False
        assert not outside.any()
    # Of the rectangle that is loaded now, the picture alone is too small; auto finds no border in it.
    page.get_by_label("Image", exact=True).set_input_files(tmp_path / "picture.png")
    page.get_by_text(f"does not lie within these {picture.width}x{picture.height} pixels").wait_for()
    assert not page.get_by_role("button", name="Download mask (PNG)").is_visible()
    page.goto(f"{server.address}?model=onnx/auto.onnx")
    page.get_by_text("onnx/auto.onnx, on the CPU").wait_for()
    compare_with_predictor(page, predictor, tmp_path / "picture.png", "none")


def regions_of(mask: np.ndarray) -> list[np.ndarray]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [labels == label for label in range(1, count + 1)]


def test_regions_and_presence_are_those_of_python(page):
    decide = """async ([levels, width, threshold, peak, calibration]) => {
        const { keepPeaks, presenceOf } = await import("./regions.js");
        const mask = keepPeaks(Float32Array.from(levels), width, threshold, peak);
        return [[...mask], presenceOf(Math.max(...levels), calibration)];
    }"""
    generator = np.random.default_rng(0)
    kept = 0
    for _ in range(200):
        shape = generator.integers(1, 40, 2)
        probability = ndimage.uniform_filter(generator.random(shape), 2).astype(np.float32)
        threshold, peak = sorted(generator.uniform(0.3, 0.9, 2).tolist())
        calibration = generator.normal(0, 3, 2).tolist()
        arguments = [probability.ravel().tolist(), int(shape[1]), threshold, peak, calibration]
        mask, presence = page.evaluate(decide, arguments)
        expected = keep_peaks(probability, threshold, peak)
        np.testing.assert_array_equal(np.reshape(mask, shape), expected)
        assert presence == pytest.approx(presence_of(float(probability.max()), calibration), abs=1e-9)
        kept += 0 < expected.sum() < (probability > threshold).sum()
    assert kept > 20
    # Without a peak threshold, or with one at the threshold, every region counts, and presence is the highest value.
    for peak in (None, 0.5):
        mask, presence = page.evaluate(decide, [[0.6, 0.5, 0.7], 3, 0.5, peak, None])
        assert (mask, presence) == ([1, 0, 1], 0.7)


def test_another_model_segments_the_image_again(page, site, frame, tmp_path):
    segment(page, frame)
    graph = onnx.load(site / "onnx" / "model.onnx")
    (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name == "network.classifier.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) - 1, bias.name))
    onnx.save(graph, tmp_path / "strict.onnx")
    before = download_mask(page, tmp_path)
    page.get_by_label("Another model").set_input_files(tmp_path / "strict.onnx")
    page.get_by_text("strict.onnx, on the CPU (WebAssembly").wait_for()
    page.get_by_text("Inference: ").wait_for()
    mask = download_mask(page, tmp_path)
    assert mask.mean() < before.mean() - 0.05
    expected = expected_mask(OnnxSession.load(tmp_path / "strict.onnx", cpu_only=True), Image.open(frame))
    assert (mask == expected).mean() >= 0.999


def test_photographs_are_turned_upright(page, network, frame, tmp_path):
    photograph = tmp_path / "photograph.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.open(frame).save(photograph, exif=exif, quality=95)
    segment(page, photograph)
    expected = expected_mask(network, ImageOps.exif_transpose(Image.open(photograph)))
    assert expected.shape == (403, 301)
    assert (download_mask(page, tmp_path) == expected).mean() >= 0.995  # the browser decodes JPEG slightly differently


def test_alpha_is_dropped_and_colours_are_kept(page, network, frame, tmp_path):
    """As `to_rgb` of common/files.py does, which predict.py and the other page read images with."""
    image = Image.open(frame)
    alpha = Image.linear_gradient("L").resize(image.size)
    alpha.paste(0, (0, 0, 200, 301))  # half of it fully transparent
    shown = image.copy()
    shown.putalpha(alpha)
    shown.save(tmp_path / "alpha.png")
    shown.convert("LA").save(tmp_path / "grey.png")
    shown.save(tmp_path / "alpha.webp", lossless=True, exact=True)
    image.quantize(64).save(tmp_path / "palette.png", transparency=0)
    for name in ("alpha.png", "grey.png", "alpha.webp", "palette.png"):
        segment(page, tmp_path / name)
        rgb = to_rgb(Image.open(tmp_path / name))
        assert (download_mask(page, tmp_path) == expected_mask(network, rgb)).mean() >= 0.999
        page.get_by_label("Show the overlay").uncheck()
        np.testing.assert_array_equal(picture(page, name), rgb)
        page.get_by_label("Show the overlay").check()


def test_the_mask_is_the_file_that_pillow_reads(page):
    """Of several shapes, of zeros, ones and noise."""
    save = """async ([values, width, height]) => {
        const { maskFile } = await import("./files.js");
        return [...new Uint8Array(await (await maskFile(Uint8Array.from(values), width, height)).arrayBuffer())];
    }"""
    generator = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 300), (300, 1), (17, 31), (64, 64)):
        for mask in (np.zeros((height, width)), np.ones((height, width)), generator.integers(0, 2, (height, width))):
            mask = mask.astype(np.uint8)
            content = bytes(page.evaluate(save, [mask.ravel().tolist(), width, height]))
            with Image.open(io.BytesIO(content)) as saved:
                saved.verify()  # the checksums
            with Image.open(io.BytesIO(content)) as saved:
                assert saved.mode == "L"
                np.testing.assert_array_equal(np.asarray(saved), 255 * mask)


def test_the_lesion_table_is_that_of_predict(page, network, frame, tmp_path):
    odd_name = tmp_path / "=1+1;a.png"  # which a spreadsheet would run
    odd_name.write_bytes(frame.read_bytes())
    for file in (frame, odd_name):
        segment(page, file)
        prediction = OnnxPredictor(network)(Image.open(frame))
        rows = download_table(page, tmp_path)
        assert len(rows) == len(prediction.lesions)
        assert {row["image"] for row in rows} == {"./=1+1;a.png" if file is odd_name else "frame.png"}
        for number, (row, lesion) in enumerate(zip(rows, prediction.lesions, strict=True), start=1):
            assert row["lesion"] == str(number)
            values = [float(row[column]) for column in COLUMNS[2:]]
            assert values == pytest.approx(lesion_numbers(lesion), rel=0.02, abs=0.5)  # another runtime's sums
    shown = page.locator("#rows tr").all_inner_texts()
    assert len(shown) == min(len(rows), NUMBERED)
    for text, row in zip(shown, rows, strict=False):
        number, pixels, percent, probability = text.split()
        assert (number, pixels) == (row["lesion"], row["area_pixels"])
        assert float(percent) == pytest.approx(float(row["area_percent"]), abs=0.0051)
        assert float(probability) == pytest.approx(float(row["mean_probability"]), abs=0.00051)
    page.get_by_label("Threshold").fill("1")
    page.get_by_text("No polyp found. Presence: ").wait_for()
    assert not page.locator("#regions").is_visible()
    assert download_table(page, tmp_path) == []


def test_regions_and_the_places_of_their_numbers_are_those_of_python(page):
    find = """async ([levels, mask, width]) => {
        const { findRegions } = await import("./regions.js");
        const regions = findRegions(Uint8Array.from(mask), Float32Array.from(levels), width);
        return regions.map(({ box, centroid, pixels, share, probability }) => [
            ...box, ...centroid, pixels, 100 * share, probability,
        ]);
    }"""
    place = """async ([size, boxes]) => (await import("./overlay.js")).numberPlaces(...size, boxes)"""
    generator = np.random.default_rng(0)
    seen = 0
    for _ in range(40):
        shape = tuple(generator.integers(1, 60, 2).tolist())
        probability = ndimage.uniform_filter(generator.random(shape), 4).astype(np.float32)
        mask = probability > np.quantile(probability, generator.uniform(0.5, 1))
        arguments = [probability.ravel().tolist(), mask.astype(int).ravel().tolist(), shape[1]]
        numbers = page.evaluate(find, arguments)
        lesions = find_lesions(mask, probability)
        assert len(numbers) == len(lesions)
        for found, lesion in zip(numbers, lesions, strict=True):
            assert found == pytest.approx(lesion_numbers(lesion), rel=1e-9)
        boxes = [lesion.box for lesion in lesions]
        # 325 and 455 are two and a half and three and a half times 130, the shorter side for each pixel of a contour.
        for size in ((shape[1], shape[0]), (400, 325), (455, 455), (1280, 720)):
            expected = number_places(size, boxes)
            assert page.evaluate(place, [size, boxes]) == [place and list(place) for place in expected]
        seen += len(lesions)
    assert seen > 200


def test_each_wrong_kind_of_file_has_its_line(page, site, frame, tmp_path):
    """As they come: with an ending that says what they are, and without one that does."""
    alert = page.get_by_role("alert")
    choose = {
        "image": page.get_by_label("Image", exact=True).set_input_files,
        "model": page.get_by_label("Another model").set_input_files,
    }

    def tell(where: str, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        choose[where](tmp_path / name)
        alert.get_by_text(f"{name} {message}").wait_for()
        assert page.get_by_text("onnx/model.onnx, on the CPU").is_visible()
        assert not page.locator("#outcome").is_visible()

    content = (site / "onnx" / "model.onnx").read_bytes()
    tell("image", "net.onnx", content, "is a model, not an image. Choose it under “Another model”.")
    tell("image", "net.png", content, "is no image that this browser reads.")  # its ending says that it is one
    image = frame.read_bytes()
    for name in ("frame.png", "frame.onnx", "frame"):
        tell("model", name, image, "is an image, not a model. Choose it under “Image”.")
    for kind in ("JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.open(frame).save(buffer, kind)
        tell("model", f"frame.{kind}", buffer.getvalue(), "is an image, not a model.")
    tell("image", "frame.tif", (tmp_path / "frame.TIFF").read_bytes(), "is no image that this browser reads.")
    tell("image", "scan.dcm", bytes(128) + b"DICM" + bytes(64), "is no image that this browser reads.")
    clip = b"\0\0\0\x20ftypisom" + bytes(64)
    tell("image", "clip.mp4", clip, "is a video. This page takes images; app.py and predict.py take videos too.")
    tell("model", "clip.bin", clip, "is a video, not a model. Expected an .onnx file that export.py wrote.")
    weights = (len(b"{}") + 6).to_bytes(8, "little") + b'{"a":{}}'
    tell("model", "model.safetensors", weights, "holds weights that are no ONNX file, or is an archive.")
    tell("image", "model.safetensors", weights, "holds weights or is an archive, and is no image.")
    tell("model", "weights.pt", b"PK\x03\x04" + bytes(30), "holds weights that are no ONNX file, or is an archive.")
    tell("model", "config.json", b'{"model_type": 1}', "is no model. Expected an .onnx file that export.py wrote.")
    tell("image", "notes.txt", b"Of the patient", "is no image that this browser reads.")
    for where in choose:
        tell(where, "empty.onnx", b"", "is empty (0 bytes).")


def test_dropped_and_pasted_files_are_told_apart(page, site, frame):
    """One image or model at a time, whatever its name is."""
    alert = page.get_by_role("alert")
    give = """([event, files]) => {
        const given = new DataTransfer();
        for (const [name, content] of files) {
            given.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name));
        }
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(event === "drop"
            ? new DragEvent("drop", { ...options, dataTransfer: given })
            : new ClipboardEvent("paste", { ...options, clipboardData: given }));
    }"""
    image = base64.b64encode(frame.read_bytes()).decode()
    model = base64.b64encode((site / "onnx" / "model.onnx").read_bytes()).decode()
    for event in ("drop", "paste"):
        page.evaluate(give, [event, [["a.png", image]]])
        page.locator("figcaption").get_by_text("a.png, ").wait_for()
        page.evaluate(give, [event, [["a.png", image], ["b.png", image]]])
        alert.get_by_text("These are 2 files. Give one at a time.").wait_for()
        assert not page.locator("#outcome").is_visible()
        page.evaluate(give, [event, []])
        alert.get_by_text("There is no file in it.").wait_for()
        page.evaluate(give, [event, [[f"{event}ed", model]]])
        page.get_by_text(f"{event}ed, on the CPU (WebAssembly").wait_for()
        assert alert.count() == 0


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_on_a_phone_the_result_comes_into_view(page, frame, tmp_path):
    height = SIZES["phone"]["height"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"This is no picture.")
    for file, shown in ((frame, "frame.png, "), (broken, "broken.png is no image")):
        page.evaluate("scrollTo(0, 0)")
        page.get_by_label("Image", exact=True).set_input_files(file)
        page.locator("#result").get_by_text(shown).wait_for()
        wait_for_view(page, "#result")
        if file is frame:
            picture_box = page.locator("#picture").bounding_box()
            assert picture_box["y"] + picture_box["height"] <= height


@pytest.mark.parametrize("page", SIZES, indirect=True)  # of a light and a dark theme
def test_every_control_shows_the_focus_of_the_keyboard(page, frame):
    segment(page, frame)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    names = check_focus(page, background)
    downloads = ["Download mask (PNG)", "Download lesion table (CSV)"]
    assert names == ["Image", *downloads, "Threshold", "Show the overlay", "Another model"]
    texts = "[...document.querySelectorAll('p, label, th, td, output')].map((part) => getComputedStyle(part).color)"
    assert min(contrast(colour, background) for colour in page.evaluate(texts)) >= 4.5


def test_bad_files_get_a_message_and_the_old_result_is_removed(page, server, site, frame, tmp_path):
    segment(page, frame)
    alert = page.get_by_role("alert")
    choose_image = page.get_by_label("Image", exact=True).set_input_files
    choose_model = page.get_by_label("Another model").set_input_files
    outcome = page.locator("#outcome")
    assert outcome.is_visible()

    broken, empty, huge = (tmp_path / f"{name}.png" for name in ("broken", "empty", "huge"))
    broken.write_bytes(b"This is no picture.")
    empty.write_bytes(b"")
    Image.new("1", (10_000, 10_000)).save(huge)
    Image.new("1", (1, MAX_SIDE + 1)).save(tmp_path / "thin.png")
    choose_image(broken)
    alert.get_by_text("broken.png is no image that this browser reads.").wait_for()
    assert not outcome.is_visible()
    assert page.get_by_text("No image yet.").is_visible()
    choose_image(empty)
    alert.get_by_text("empty.png is empty (0 bytes).").wait_for()
    choose_image(huge)
    alert.get_by_text("huge.png is too large (10000x10000 pixels): at most 16.8 million pixels").wait_for()

    choose_image(tmp_path / "thin.png")
    alert.get_by_text("thin.png is too large (1x16385 pixels)").wait_for()

    Image.open(frame).quantize(8).save(tmp_path / "clear.gif", transparency=0)  # whose colour the browser drops
    choose_image(tmp_path / "clear.gif")
    alert.get_by_text("clear.gif has transparent parts, whose colours this browser cannot read.").wait_for()

    segment(page, frame)
    for number, settings in enumerate(({"peak_threshold": "<b>1</b>"}, {"presence_calibration": [1]})):
        damaged = onnx.load(site / "onnx" / "model.onnx")
        (entry,) = (entry for entry in damaged.metadata_props if entry.key == "preprocessor")
        entry.value = json.dumps(settings)
        onnx.save(damaged, tmp_path / f"damaged{number}.onnx")
        choose_model(tmp_path / f"damaged{number}.onnx")
        alert.get_by_text(f"damaged{number}.onnx: its peak_threshold or presence_calibration is damaged").wait_for()
    (tmp_path / "no.onnx").write_bytes(b"This is no model.")
    choose_model(tmp_path / "no.onnx")
    alert.get_by_text("no.onnx cannot be loaded as an ONNX file").wait_for()
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in ("pixels", "scores")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["pixels"], ["scores"])], "other", *([v] for v in values)
    )
    other = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(other, tmp_path / "other.onnx")
    choose_model(tmp_path / "other.onnx")
    message = (
        "other.onnx is an ONNX file of another contract. It takes pixels float32 [N,4]; it gives scores float32 [N,4]."
    )
    alert.get_by_text(message).wait_for()

    assert page.get_by_text("onnx/model.onnx, on the CPU").is_visible()  # the earlier model stays in use
    assert not outcome.is_visible()
    choose_model(site / "onnx" / "model.onnx")  # a model that can be used segments the image again
    page.locator("figcaption").get_by_text("frame.png, ").wait_for()
    frame_again = tmp_path / "again.png"
    frame_again.write_bytes(frame.read_bytes())
    segment(page, frame_again)
    assert alert.count() == 0

    page.goto(f"{server.address}?model=onnx/absent.onnx")
    alert.get_by_text("There is no model at onnx/absent.onnx.").wait_for()
    page.goto(f"{server.address}?model=http://127.0.0.2/model.onnx")
    alert.get_by_text("http://127.0.0.2/model.onnx is on another machine").wait_for()
    page.goto(server.address)
    page.get_by_text("onnx/model.onnx, on the CPU (WebAssembly").wait_for()


def test_it_works_without_network_and_server(page, server, network, frame, tmp_path):
    assert page.evaluate("crossOriginIsolated")  # which WebAssembly needs for threads
    server.stop()
    page.context.set_offline(True)
    expected = expected_mask(network, Image.open(frame))
    for _ in range(2):
        segment(page, frame)
        assert (download_mask(page, tmp_path) == expected).mean() >= 0.999
        page.reload()
        page.get_by_text("onnx/model.onnx, on the CPU (WebAssembly").wait_for()

    # Another site that is served on the same port later is left alone.
    (tmp_path / "index.html").write_text("<p>Something else</p>")
    page.context.set_offline(False)
    other = Server(tmp_path, urlsplit(server.address).port or 0)
    try:
        for _ in range(2):
            page.goto(server.address)
            page.get_by_text("Something else").wait_for()
        assert not page.evaluate("crossOriginIsolated")
        assert page.evaluate("navigator.serviceWorker.getRegistration().then(found => found === undefined)")
        assert page.evaluate("caches.keys()") == []
    finally:
        other.stop()


class OtherProgram(BaseHTTPRequestHandler):
    """Another program on the page's port."""

    headers_sent: ClassVar[dict[str, str]] = {"Content-Type": "text/html"}
    status = 200

    def do_GET(self) -> None:
        is_redirected = self.status == 302 and self.path != "/login"
        self.send_response(302 if is_redirected else self.status if self.status != 302 else 200)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        if is_redirected:
            self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(b"<p>Something else</p>")

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@pytest.mark.parametrize(
    ("status", "address", "headers"),
    [
        (200, "", {}),  # one that answers so at every address
        (200, "", {"Cache-Control": "private, no-store"}),
        (200, "patients/7", {}),
        (302, "", {}),  # to its login
        (401, "index.html", {}),
    ],
)
def test_another_program_on_the_port_is_left_alone(page, server, status, address, headers):
    server.stop()
    handler = type("Handler", (OtherProgram,), {"status": status, "headers_sent": OtherProgram.headers_sent | headers})
    with ThreadingHTTPServer(("127.0.0.1", urlsplit(server.address).port or 0), handler) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        page.goto(server.address + address)
        page.get_by_text("Something else").wait_for()
        page.wait_for_function("navigator.serviceWorker.getRegistration().then(found => !found)")
        assert page.evaluate("caches.keys()") == []
        page.evaluate("fetch('style.css').then(answer => answer.text())")  # of a name that the page has too
        page.reload()
        page.get_by_text("Something else").wait_for()
        assert not page.evaluate("crossOriginIsolated")
        assert page.evaluate("caches.keys()") == []
        other.shutdown()


class NoStore(SimpleHTTPRequestHandler):
    """Serves a folder, some of whose files are not to be kept."""

    def do_GET(self) -> None:
        del self.headers["If-Modified-Since"]  # it has the browser keep what it got from the server before
        super().do_GET()

    def end_headers(self) -> None:
        if self.path in ("/onnx/model.onnx", "/style.css"):
            self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


def test_only_the_pages_own_files_are_kept_and_none_that_must_not_be(page, server, site):
    kept = """async () => (await (await caches.open("polyp-segmentation")).keys()).map(({ url }) => url)"""
    (site / "patients.json").write_text("[]")
    page.evaluate("fetch('patients.json?name=mary').then(answer => answer.text())")
    names = {url.removeprefix(server.address) for url in page.evaluate(kept)}
    own = {path.name for path in PAGE_FOLDER.glob("*.js")} - {"service-worker.js"}
    others = {name for name in names if not name.startswith("node_modules/onnxruntime-web/")}
    assert others == {"", "style.css", "onnx/model.onnx", *own}

    server.stop()
    with ThreadingHTTPServer(
        ("127.0.0.1", urlsplit(server.address).port or 0), partial(NoStore, directory=str(site))
    ) as strict:
        Thread(target=strict.serve_forever, daemon=True).start()
        page.goto(f"{server.address}?model=onnx/model.onnx")
        page.get_by_text("onnx/model.onnx, on the CPU (WebAssembly").wait_for()
        page.evaluate("fetch('style.css').then(answer => answer.text())")  # the browser had it in its memory
        left = {url.removeprefix(server.address) for url in page.evaluate(kept)}
        assert left == names - {"style.css", "onnx/model.onnx"}  # earlier copies are deleted too
        strict.shutdown()


def test_the_lock_file_names_no_registry():
    assert "://" not in (PAGE_FOLDER / "package-lock.json").read_text()
