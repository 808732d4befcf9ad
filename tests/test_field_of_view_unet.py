"""The field of view: the rule on drawn layouts, the setting, and what comes back into the whole frame."""

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageDraw
from unet_kvasir_seg.benchmarks.layouts import draw_layout, in_jpeg, with_panel
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.field_of_view_unet import (
    box_within,
    brightest,
    choose_box,
    field_of_view_text,
    find_field_of_view,
    in_whole_frame,
    read_field_of_view,
)
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor


def mucosa(width: int, height: int, level: int = 130) -> np.ndarray:
    """(height, width, 3) uint8, a reddish picture that is nowhere black."""
    rows, columns = np.mgrid[0:height, 0:width]
    light = level + 0.25 * level * np.sin(rows / 31) * np.cos(columns / 43)
    return (light[..., None] * np.array([1.0, 0.6, 0.5])).astype(np.uint8)


def framed(box: tuple[int, int, int, int], size: tuple[int, int] = (640, 512), level: int = 130) -> np.ndarray:
    """A black frame of the size (width, height), with a picture in the box."""
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    left, top, right, bottom = box
    frame[top:bottom, left:right] = mucosa(right - left, bottom - top, level)
    return frame


# The rule


@pytest.mark.parametrize("box", [(200, 0, 640, 512), (0, 90, 640, 512), (0, 0, 470, 512), (131, 17, 623, 501)])
def test_a_black_border_is_cut_off_to_the_pixel(box):
    assert find_field_of_view(framed(box)) == box
    assert find_field_of_view(framed(box, level=32)) == box  # a dark picture
    large = tuple(3 * side for side in box)
    assert find_field_of_view(framed(large, (1920, 1536))) == large


@pytest.mark.parametrize("size", [(640, 512), (384, 288), (1920, 1080), (250, 333), (97, 61)])
def test_a_frame_without_a_border_is_left_as_it_is(size):
    assert find_field_of_view(mucosa(*size)) is None
    assert find_field_of_view(mucosa(*size, level=25)) is None


def test_a_dark_lumen_at_the_edge_is_picture():
    frame = mucosa(640, 512).astype(float)
    columns = np.arange(640)
    frame *= np.clip((columns - 20) / 300, 0.02, 1)[None, :, None]  # towards the left it gets as dark as 2 levels
    found = find_field_of_view(frame.astype(np.uint8))
    assert found is None or found[0] <= 60


def test_narrow_borders_and_black_corners_stay():
    assert find_field_of_view(framed((6, 5, 634, 507))) is None  # below 1.5 % of the sides
    image = Image.fromarray(mucosa(640, 512))
    pen = ImageDraw.Draw(image)
    for corner in ([(0, 0), (150, 0), (0, 150)], [(639, 511), (489, 511), (639, 361)]):
        pen.polygon(corner, "black")
    pen.rectangle((0, 360, 200, 511), "black")  # where a system shows the endoscope's position
    assert find_field_of_view(np.asarray(image)) is None


def test_text_and_small_pictures_beside_the_picture_are_cut_off():
    frame = Image.fromarray(framed((220, 20, 620, 490)))
    pen = ImageDraw.Draw(frame)
    for row in range(10, 300, 18):
        pen.text((4, row), "ID 0123456789 DR. SAMPLE", "white")
    frame.paste(Image.fromarray(mucosa(120, 100)), (20, 380))
    left, top, right, bottom = find_field_of_view(in_jpeg(np.asarray(frame), 60))
    assert abs(left - 220) <= 3
    assert (abs(top - 20), abs(right - 620), abs(bottom - 490)) <= (3, 3, 3)


def test_two_pictures_side_by_side_both_count():
    frame = framed((0, 100, 300, 400)) + framed((340, 100, 640, 400))
    assert find_field_of_view(frame) == (0, 100, 640, 400)


@pytest.mark.parametrize("level", [0, 7, 25, 255])
def test_a_frame_of_one_level_is_seen_whole(level):
    assert find_field_of_view(np.full((288, 384, 3), level, np.uint8)) is None


def test_a_frame_with_little_lit_is_seen_whole():
    assert find_field_of_view(framed((300, 200, 360, 260))) is None
    assert find_field_of_view(np.zeros((3, 5, 3), np.uint8)) is None


def test_noise_in_the_black_does_not_hide_the_border():
    frame = 12 + framed((200, 30, 640, 512)) * 0.9
    noisy = (frame + np.random.default_rng(0).normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8)
    found = find_field_of_view(noisy)
    assert np.abs(np.array(found) - (200, 30, 640, 512)).max() <= 3


def test_rectangles_of_drawn_layouts_are_found():
    """Those of benchmarks/field_of_view.py, of which it draws 200."""
    for seed in range(5000, 5012):
        layout = draw_layout(seed)
        height, width = layout.frame.shape[:2]
        found = find_field_of_view(layout.frame) or (0, 0, width, height)
        error = np.abs(np.subtract(found, layout.box)) / (width, height, width, height)
        assert error.max() <= 0.02, layout.description


def test_a_video_is_looked_at_in_its_brightest_pixels():
    dark, bright = framed((200, 0, 640, 512), level=8), framed((200, 0, 640, 512))
    assert find_field_of_view(dark) is None
    assert find_field_of_view(brightest(iter([dark, bright, dark]))) == (200, 0, 640, 512)
    assert brightest([]) is None


@pytest.mark.skipif("KVASIR_SEG_DIR" not in os.environ, reason="KVASIR_SEG_DIR names no copy of Kvasir-SEG")
def test_of_the_real_frames_those_three_with_a_border_are_cropped():
    parquet = pytest.importorskip("pyarrow.parquet")
    found = []
    for file in sorted(Path(os.environ["KVASIR_SEG_DIR"]).glob("data/*.parquet")):
        for cell in parquet.read_table(file, columns=["image"])["image"].to_pylist():
            with Image.open(io.BytesIO(cell["bytes"])) as image:
                found.append(find_field_of_view(np.asarray(image.convert("RGB"))))
    assert len(found) == 900
    boxes = [box for box in found if box is not None]
    assert len(boxes) == 3
    assert np.abs(np.array(sorted(boxes)) - [(19, 11, 357, 277), (19, 11, 357, 277), (91, 0, 361, 288)]).max() <= 3


@pytest.mark.skipif(shutil.which("node") is None, reason="the browser's rule runs in Node.js")
def test_the_browser_finds_the_same(tmp_path):
    frames = [draw_layout(seed).frame for seed in (1, 4)] + [mucosa(200, 100), framed((60, 9, 310, 251), (333, 257))]
    for name in ("field.js", "regions.js"):
        shutil.copy(ROOT / "demo" / "browser" / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.js").write_text(
        'import { readFileSync } from "node:fs";\n'
        'import { chooseBox } from "./field.js";\n'
        "const jobs = JSON.parse(process.argv[2]);\n"
        'const find = ([file, ...size]) => chooseBox("auto", new Uint8Array(readFileSync(file)), ...size);\n'
        "console.log(JSON.stringify(jobs.map(find)));\n"
    )
    jobs = []
    for number, frame in enumerate(frames):
        frame.tofile(tmp_path / f"{number}.raw")
        jobs.append([str(tmp_path / f"{number}.raw"), frame.shape[1], frame.shape[0]])
    done = subprocess.run(
        ["node", "run.js", json.dumps(jobs)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = [find_field_of_view(frame) for frame in frames]
    assert json.loads(done.stdout) == [box and list(box) for box in found]
    assert [box is None for box in found] == [False, False, True, False]


# The setting


def test_the_setting_has_one_form():
    assert read_field_of_view(None) is None
    assert read_field_of_view("none") is None
    assert read_field_of_view("auto") == "auto"
    assert read_field_of_view("80, 0,1360,1024") == read_field_of_view([80, 0, 1360, 1024]) == (80, 0, 1360, 1024)
    assert [field_of_view_text(value) for value in (None, "auto", (1, 2, 3, 4))] == ["none", "auto", "1,2,3,4"]


@pytest.mark.parametrize(
    "value",
    ["Auto", "", "1,2,3", "1,2,3,x", "-1,0,5,5", [1, 2, 3], [0, 0, 1.5, 2], [5, 0, 5, 9], [0, 9, 5, 3], 7, True],
)
def test_an_invalid_setting_is_refused(value):
    with pytest.raises(ValueError, match="field_of_view="):
        read_field_of_view(value)
    with pytest.raises(ValueError, match="field_of_view="):
        UNetImageProcessor(field_of_view=value)


def test_a_rectangle_outside_the_frame_is_refused_with_the_frames_size():
    with pytest.raises(ValueError, match="384x288"):
        choose_box((0, 0, 385, 288), np.zeros((288, 384, 3), np.uint8))
    assert box_within((0, 0, 384, 288), 288, 384) is None


def test_a_map_comes_back_into_the_whole_frame():
    whole = in_whole_frame(np.ones((2, 3), np.float32), (1, 2, 4, 4), 5, 6)
    assert whole.dtype == np.float32
    assert whole.sum() == 6
    assert whole[2:4, 1:4].all()


# The image processor


def test_images_and_masks_are_cropped_alike_and_masks_come_back():
    processor = UNetImageProcessor(size={"height": 32, "width": 32}, field_of_view=[10, 4, 74, 68])
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    mask = np.zeros((80, 100), np.uint8)
    mask[30:50, 40:60] = 1
    batch = processor(image, segmentation_maps=mask, return_tensors="pt")
    of_crop = processor(
        image[4:68, 10:74], segmentation_maps=mask[4:68, 10:74], return_tensors="pt", field_of_view="none"
    )
    assert torch.equal(batch["pixel_values"], of_crop["pixel_values"])
    assert torch.equal(batch["labels"], of_crop["labels"])

    class Outputs:
        logits = (batch["labels"][:, None] * 20.0) - 10

    (found,) = processor.post_process_semantic_segmentation(Outputs, target_sizes=[(80, 100)])
    assert found.shape == (80, 100)
    assert np.array_equal(found.numpy(), mask)


def test_auto_needs_the_rectangles_back_and_says_so():
    processor = UNetImageProcessor(size={"height": 64, "width": 64}, field_of_view="auto")
    frames = [framed((200, 0, 640, 512)), mucosa(120, 90)]
    boxes = processor.fields_of_view(frames)
    assert boxes == [(200, 0, 640, 512), None]
    batch = processor(frames, return_tensors="pt")
    alone = processor([frames[0][:, 200:], frames[1]], return_tensors="pt", field_of_view="none")
    assert torch.equal(batch["pixel_values"], alone["pixel_values"])

    class Outputs:
        logits = torch.full((2, 1, 64, 64), 5.0)

    sizes = [frame.shape[:2] for frame in frames]
    masks = processor.post_process_semantic_segmentation(Outputs, sizes, fields_of_view=boxes)
    assert masks[0].sum() == 440 * 512
    assert masks[0][:, :200].sum() == 0
    assert masks[1].sum() == 120 * 90
    with pytest.raises(ValueError, match=r"fields_of_view=processor.fields_of_view\(images\)"):
        processor.post_process_semantic_segmentation(Outputs, sizes)
    with pytest.raises(ValueError, match="Got 1 fields of view; expected 2"):
        processor.post_process_semantic_segmentation(Outputs, sizes, fields_of_view=[None])


def test_an_image_that_the_rectangle_does_not_fit_is_named():
    processor = UNetImageProcessor(field_of_view=(0, 0, 100, 100))
    with pytest.raises(ValueError, match=r"Image 1: .*64x48"):
        processor([mucosa(120, 110), mucosa(64, 48)])


def test_the_setting_is_saved_and_loaded(tmp_path):
    for setting in ("auto", [1, 2, 30, 40]):
        UNetImageProcessor(field_of_view=setting).save_pretrained(tmp_path)
        assert json.loads((tmp_path / "preprocessor_config.json").read_text())["field_of_view"] == setting
        assert UNetImageProcessor.from_pretrained(tmp_path).field_of_view == setting
    assert UNetImageProcessor.from_pretrained(tmp_path, field_of_view="none").field_of_view == "none"
    assert "field_of_view" not in UNetImageProcessor().to_dict()


def test_floats_and_grey_images_are_searched_too():
    processor = UNetImageProcessor(field_of_view="auto")
    frame = framed((200, 0, 640, 512))
    assert processor.fields_of_view(frame.astype(np.float32) / 255) == [(200, 0, 640, 512)]
    assert processor.fields_of_view(frame[..., 0]) == [(200, 0, 640, 512)]


def test_a_panel_is_drawn_around_an_image():
    (sample,) = generate(1, (120, 160), seed=3)
    frame, box = with_panel(sample["image"])
    assert frame.crop(box).tobytes() == sample["image"].tobytes()
    assert box[0] / frame.width == pytest.approx(0.3, abs=0.01)
