"""The HTML of results: what it says, its pictures and its downloads, and the description of the model."""

import csv
import io
import re
from typing import Any

import numpy as np
import pytest
from downloads import download_of
from PIL import Image

pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from unet_kvasir_seg.demo.render import (
    OVERLAY,
    SIDE_BY_SIDE,
    SegmentedImage,
    SegmentedVideo,
    image_html,
    model_html,
    stylesheet,
    video_html,
)
from unet_kvasir_seg.inference.prediction import Prediction
from unet_kvasir_seg.inference.video import VideoReport
from unet_kvasir_seg.reporting.known_data import KNOWN_DATA

OPACITY = 0.35


def result_of(probability: np.ndarray, name: str = "frame.png", **decision: Any) -> SegmentedImage:
    """Of an image that took 0.25 seconds; `decision` is the model's peak threshold and calibration."""
    height, width = probability.shape
    picture = Image.new("RGB", (width, height), (200, 120, 100))
    return SegmentedImage(name, picture, Prediction(probability, probability, 0.5, **decision), 0.25)


def test_a_result_is_drawn_at_any_threshold():
    probability = np.zeros((40, 60), np.float32)
    probability[10:20, 5:25] = 0.9  # 200 pixels
    probability[30:32, 50:55] = 0.4  # 10 pixels
    result = result_of(probability)
    html = image_html(result, 0.5, OPACITY, OVERLAY)
    # 200 of 2400 pixels.
    assert "<strong>1 region</strong>, 8.33 % of the image. Presence: 0.900. Inference: 0.25 s." in html
    mask = np.asarray(Image.open(io.BytesIO(download_of(html, "Download mask (PNG)"))))
    np.testing.assert_array_equal(mask, np.where(probability > 0.5, 255, 0))
    assert html.count("<img ") == 1

    html = image_html(result, 0.3, OPACITY, SIDE_BY_SIDE)
    assert "<strong>2 regions</strong>, 8.75 % of the image." in html
    rows = list(csv.DictReader(io.StringIO(download_of(html, "Download lesion table (CSV)").decode())))
    assert [(row["left"], row["top"], row["right"], row["bottom"], row["area_pixels"]) for row in rows] == [
        ("5", "10", "25", "20", "200"),
        ("50", "30", "55", "32", "10"),
    ]
    assert html.count("<img ") == 2

    assert "No polyp found" in image_html(result, 0.95, OPACITY, OVERLAY)


def test_the_models_peak_threshold_is_applied_up_to_the_sliders_threshold():
    probability = np.zeros((40, 60), np.float32)
    probability[10:20, 5:25] = 0.9
    probability[30:32, 50:55] = 0.7
    result = result_of(probability, peak_threshold=0.8, presence_calibration=[2.0, 0.0])
    html = image_html(result, 0.5, OPACITY, OVERLAY)
    assert "<strong>1 region</strong>, 8.33 % of the image. Presence: 0.988." in html  # odds of 9, squared: 81 of 82
    assert "above 0.50 and somewhere in the region at least 0.8" in html
    mask = np.asarray(Image.open(io.BytesIO(download_of(html, "Download mask (PNG)"))))
    np.testing.assert_array_equal(mask, np.where(probability > 0.8, 255, 0))
    html = image_html(result, 0.85, OPACITY, OVERLAY)  # above the peak
    assert "<strong>1 region</strong>, 8.33 % of the image." in html
    assert "above 0.85</figcaption>" in html
    probability[10:20, 5:25] = 0.7
    assert "<strong>No polyp found</strong>. Presence: 0.845." in image_html(result, 0.5, OPACITY, OVERLAY)  # 49 of 58


def test_file_names_are_escaped():
    html = image_html(result_of(np.ones((8, 8), np.float32), '<b>"x".png'), 0.5, OPACITY, OVERLAY)
    assert "<b>" not in html
    assert 'download="&lt;b&gt;&quot;x&quot;-mask.png"' in html


def test_the_table_shows_the_largest_lesions_and_counts_the_others():
    probability = np.zeros((40, 60), np.float32)
    probability[::2, ::4] = 0.9  # 20 x 15 lesions of one pixel
    probability[:3, :3] = 0.9
    html = image_html(result_of(probability), 0.5, OPACITY, OVERLAY)
    assert html.count('<th scope="row">') == 12
    found = int(re.findall(r"<strong>(\d+) regions", html)[0])
    assert f"; {found - 12} more in the CSV" in html
    assert download_of(html, "Download lesion table (CSV)").count(b"\n") == 1 + found
    assert '<th scope="row">1</th><td>9</td><td>0.38</td><td>0.900</td>' in html  # 9 of 2400 pixels


def test_a_video_with_damage_is_described(tmp_path):
    report = VideoReport(
        frames=50, seconds=2.0, rate=25.0, notes=["audio dropped"], problem="cut off at frame 50", tracks=[]
    )
    html = video_html(SegmentedVideo("<a>.mp4", tmp_path / "overlay.mp4", b"frame,area\n", report))
    assert "Not all of it could be read: cut off at frame 50." in html
    assert "50 frames, 25.0 a second where the video has 25; 0 alerts among 0 tracks; audio dropped." in html
    assert 'download="&lt;a&gt;-frames.csv"' in html
    assert "<a>" not in html
    assert download_of(html, "Download table of frames (CSV)") == b"frame,area\n"


def test_the_head_shows_the_model_and_its_dice():
    results = {
        "data": {"name": "a & b", "on_the_hub": True, "split": "test", "rows": {"test": 120}},
        "metrics": {"dice_per_image_native": {"value": 0.8125, "ci95": [0.7, 0.9]}},
        "evaluation": None,
    }
    head = model_html("tiny", 3_361_665, results)
    assert "<strong>tiny</strong>, a U-Net of 3.4 million parameters." in head
    assert "0.812</strong> (95 % interval 0.700 to 0.900)" in head
    assert "on the 120 images of the test split of a &amp; b" in head
    assert "not measured" in model_html("tiny", 1000, None)
    assert "not measured" in model_html("tiny", 1000, {**results, "metrics": {}})  # of a training
    assert "Nothing is marked" not in head
    points = [{"alarm_share": {"value": share, "ci95": [share - 0.01, share + 0.02]}} for share in (0.75, 0.125)]
    negatives = {"kind": "windows", "name": "test", "images": 500, "frames": 88}
    results["evaluation"] = {"native_size": "384x288", "operating_points": points, "negatives": negatives}
    assert "original size (384x288), on the" in model_html("tiny", 1000, results)
    quiet = "<strong>87.5 %</strong> (95 % interval 85.5 % to 88.5 %) of 500 windows without polyp of 88 frames"
    assert f"Nothing is marked on {quiet} of the test split." in model_html("tiny", 1000, results)
    local = {"name": "a local data set", "on_the_hub": False, "fingerprint": next(iter(KNOWN_DATA))}
    known = results | {"data": results["data"] | local}
    assert "on the 120 images of the test split of Kvasir-SEG." in model_html("tiny", 1000, known)
    for html in (head, model_html("tiny", 1000, None)):
        assert "Research use only. Not a medical device" in html


def test_no_text_of_a_models_files_is_taken_for_html():
    script = "<script>alert(1)</script>"
    split = f"test{script}"
    results = {
        "data": {"name": script, "on_the_hub": True, "split": split, "rows": {split: script}},
        "metrics": {"dice_per_image_native": {"value": 0.8125, "ci95": [0.7, 0.9]}},
        "evaluation": {
            "native_size": script,
            "operating_points": [{"alarm_share": {"value": 0.5, "ci95": [0.4, 0.6]}}],
            "negatives": {"kind": "frames", "name": script, "images": 500, "frames": 500},
        },
    }
    head = model_html(f'"{script}', 1000, results)
    assert "<script" not in head
    assert head.count("&lt;script&gt;alert(1)") == 6
    del results["data"]["rows"][split]
    assert "the unknown number of images" in model_html("tiny", 1000, results)
    # Where a number is expected, no text is shown at all.
    results["metrics"]["dice_per_image_native"]["value"] = script
    with pytest.raises(ValueError, match="format code"):
        model_html("tiny", 1000, results)


def test_the_colours_of_the_page_are_those_of_the_overlay():
    assert ".gradio-container { --accent: #00e5ff; --ink: #0a1428; }" in stylesheet()
    assert ".downloads a:hover { border-color: var(--accent); }" in stylesheet()
