"""`predict.py --annotations` from its command line: annotation tools' files, corrections, kills, refusals."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from processes import contents, finish, start, unfinished, wait_until
from scipy import ndimage
from unet_kvasir_seg import predict
from unet_kvasir_seg.benchmarks.annotations import iou, read_coco, read_cvat
from unet_kvasir_seg.common import errors
from unet_kvasir_seg.data.synthetic import generate

FP32 = ("--device", "cpu", "--dtype", "float32")
SINGLE = {
    "coco": ["coco.json"],
    "cvat": ["cvat.xml"],
    "label-studio": ["label-studio-interface.xml", "label-studio.json"],
    "via": ["via.json"],
}


@pytest.fixture
def run(run_command, model):
    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        return run_command(predict.main, *arguments, "--model", model, *FP32, status=status)

    return run


@pytest.fixture
def frames(tmp_path) -> Path:
    """Images of several formats, of the same stem in two folders, one that is turned by its EXIF tag."""
    folder = tmp_path / "in"
    (folder / "x y" / "ä").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    names = ("a.jpg", "x y/a.webp", "x y/ä/<&'.bmp")
    for index, name in enumerate(names):
        next(generate(1, (40, 56), seed=index))["image"].save(folder / name, **({} if index else {"exif": exif}))
    return folder


def refused(done: subprocess.CompletedProcess) -> str:
    return done.stderr.strip().splitlines()[-1]


def annotations(output: Path) -> dict[str, bytes]:
    found = contents(output / "annotations")
    found.pop("written.json")
    return found


def test_all_formats_into_one_folder(run, frames, tmp_path):
    expected: set[str] = set()
    for format, files in SINGLE.items():
        done = run("in", "--output_dir", "out", "--annotations", format)
        assert f"annotations for {format}: " in done.stdout
        expected |= set(files)
        assert set(annotations(tmp_path / "out")) == expected
    run("in", "--output_dir", "out", "--annotations", "labelme")
    run("in", "--output_dir", "out", "--annotations", "yolo")
    names = ("a", "x y/a", "x y/ä/<&'")
    expected |= {f"labelme/{name}.json" for name in names} | {f"yolo/labels/{name}.txt" for name in names}
    assert set(annotations(tmp_path / "out")) == expected | {"yolo/images.txt", "yolo/data.yaml"}
    assert not unfinished(tmp_path)


def test_what_is_written_are_the_masks_in_the_folder(run, frames, tmp_path):
    run("in", "--output_dir", "out", "--annotations", "cvat", "--annotation_masks", "--annotation_label", "serrated")
    images = ElementTree.parse(tmp_path / "out/annotations/cvat.xml").getroot().findall("image")
    assert [image.attrib["name"] for image in images] == ["a.jpg", "x y/a.webp", "x y/ä/<&'.bmp"]
    regions = 0
    for image in images:
        mask = np.array(Image.open(tmp_path / "out/masks" / Path(image.attrib["name"]).with_suffix(".png"))) > 0
        shape = int(image.attrib["height"]), int(image.attrib["width"])
        assert shape == mask.shape
        np.testing.assert_array_equal(read_cvat(ElementTree.tostring(image, "unicode"), shape), mask)
        assert {found.attrib["label"] for found in image} <= {"serrated"}
        assert all(0 < float(score.text) <= 1 for score in image.iter("attribute"))
        regions += ndimage.label(mask, np.ones((3, 3)))[1]
    assert regions == sum(map(len, images)) > 0
    assert (images[0].attrib["width"], images[0].attrib["height"]) == ("40", "56")  # upright, and stored lying


def test_masks_of_earlier_runs_and_images_without_polyp_are_listed(run, frames, tmp_path):
    run("in/a.jpg", "--output_dir", "out", "--min_area", "2000")
    Image.new("RGB", (64, 48)).save(tmp_path / "b.tif")
    done = run("b.tif", "--output_dir", "out", "--min_area", "5000", "--annotations", "coco", status=2)
    assert "other settings" in refused(done)
    assert not (tmp_path / "out/annotations").exists()
    done = run("b.tif", "--output_dir", "out", "--min_area", "2000", "--annotations", "coco")
    found = json.loads((tmp_path / "out/annotations/coco.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.jpg", "b.tif"]
    empty = {image["id"] for image in found["images"]} - {each["image_id"] for each in found["annotations"]}
    assert f"in 2 images; without polyp: {len(empty)}." in done.stdout
    assert empty


def test_the_label_is_the_models_own(run_command, frames, model, tmp_path):
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for file in model.iterdir():
        (renamed / file.name).write_bytes(file.read_bytes())
    config = json.loads((renamed / "config.json").read_text())
    config |= {"id2label": {"0": "background", "1": "adenoma"}, "label2id": {"background": 0, "adenoma": 1}}
    (renamed / "config.json").write_text(json.dumps(config))
    run_command(predict.main, "in", "--annotations", "coco", "--output_dir", "out", "--model", renamed, *FP32)
    assert json.loads((tmp_path / "out/annotations/coco.json").read_text())["categories"][0]["name"] == "adenoma"


def test_corrections_in_place_are_kept(run, frames, tmp_path):
    arguments = ("in", "--output_dir", "out", "--annotations", "labelme")
    run(*arguments)
    before = annotations(tmp_path / "out")
    corrected = tmp_path / "out/annotations/labelme/a.json"
    corrected.write_text(corrected.read_text().replace('"polyp"', '"adenoma"'))
    correction = corrected.read_bytes()
    done = run(*arguments, "--annotation_label", "lesion")
    assert "1 file of" in done.stdout
    assert "labelme/a.json" in done.stdout
    after = annotations(tmp_path / "out")
    assert after["labelme/a.json"] == correction
    assert b'"lesion"' in after["labelme/x y/a.json"]
    corrected.unlink()
    assert "kept" not in run(*arguments).stdout
    assert annotations(tmp_path / "out") == before


def test_a_file_of_all_images_that_was_changed_is_refused(run, frames, tmp_path):
    arguments = ("in", "--output_dir", "out", "--annotations", "coco")
    run(*arguments)
    file = tmp_path / "out/annotations/coco.json"
    original = file.read_bytes()
    file.write_text("mine")
    assert "was changed since it was written" in refused(run(*arguments, status=2))
    assert file.read_text() == "mine"
    file.unlink()
    run(*arguments)
    assert file.read_bytes() == original


def test_a_damaged_mask_is_named(run, frames, tmp_path):
    run("in", "--output_dir", "out")
    mask = tmp_path / "out/masks/a.png"
    content = mask.read_bytes()
    place = content.index(b"IDAT") + 8
    mask.write_bytes(content[:place] + b"\0" * 8 + content[place + 8 :])
    done = run("in", "--output_dir", "out", "--annotations", "coco", status=2)
    assert "masks/a.png cannot be read" in refused(done)
    assert not (tmp_path / "out/annotations/coco.json").exists()
    assert not unfinished(tmp_path)
    mask.unlink()
    run("in", "--output_dir", "out", "--annotations", "coco")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--annotations", "pascal"), "expected coco, labelme, cvat, label-studio, via, yolo"),
        (("--annotations", "yolo", "--annotation_masks"), "yolo has polygons alone"),
        (("--annotations", "via", "--annotation_masks"), "via has polygons alone"),
        (("--annotation_masks",), "--annotation_masks needs --annotations"),
        (("--annotation_label", "x"), "--annotation_label needs --annotations"),
        (("--annotations", "coco", "--annotation_label", " "), "is no name"),
        (("--annotations", "coco", "--annotation_label", "a\nb"), "is no name"),
    ],
)
def test_flags_that_cannot_be(run, frames, tmp_path, flags, message):
    assert message in refused(run("in", "--output_dir", "out", *flags, status=2))
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_said_before_any_work(run, frames, tmp_path, monkeypatch):
    find = errors.importlib.util.find_spec
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None if name == "shapely" else find(name))
    done = run("in", "--output_dir", "out", "--annotations", "coco", status=2)
    assert "shapely is not installed" in refused(done)
    assert "[annotations]" in refused(done)
    assert not (tmp_path / "out").exists()


def test_videos_get_none(run, frames, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    done = run("clip.mp4", "--output_dir", "out", "--annotations", "coco", status=2)
    assert "--annotations has no effect on videos" in refused(done)
    done = run("clip.mp4", "in", "--output_dir", "out", "--annotations", "coco", status=1)
    assert "--annotations has no effect on videos, which are 1 of the inputs" in done.stdout
    assert len(json.loads((tmp_path / "out/annotations/coco.json").read_text())["images"]) == 3


def test_files_of_annotations_are_no_inputs(run, frames, tmp_path):
    run("in", "--output_dir", "out", "--annotations", "yolo")
    (tmp_path / "out/annotations/yolo/images").mkdir()
    next(generate(1, 40, seed=1))["image"].save(tmp_path / "out/annotations/yolo/images/a.jpg")
    done = run("out/annotations/yolo/images", "--output_dir", "out", status=2)
    assert "is among the outputs" in refused(done)


def test_a_killed_run_leaves_complete_files_and_the_next_one_goes_on(run, model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(300):
        next(generate(1, (48, 64), seed=index % 5))["image"].save(folder / f"{index:03}.bmp")
    run("in", "--output_dir", "reference", "--annotations", "labelme")
    run("in", "--output_dir", "out")  # so that the kill comes while annotations are written
    arguments = ("in", "--output_dir", "out", "--annotations", "labelme", "--model", model, *FP32)
    process = start("predict.py", *arguments, cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("out/annotations/labelme/*.json"))) > 3, process)
    process.kill()
    finish(process, status=None)
    files = list(tmp_path.glob("out/annotations/labelme/*.json"))
    assert len(files) < 300
    assert all(json.loads(file.read_text())["imageWidth"] == 64 for file in files)
    run("in", "--output_dir", "out", "--annotations", "labelme")
    assert annotations(tmp_path / "out") == annotations(tmp_path / "reference")
    assert not unfinished(tmp_path)


def test_several_processes_write_once(frames, model, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["in", "--output_dir", "out", "--annotations", "coco", "--model", model, *FP32]
    done = subprocess.run(
        [*launch, ROOT / "predict.py", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("annotations for coco: ") == 1
    found = json.loads((tmp_path / "out/annotations/coco.json").read_text())
    assert len(found["images"]) == 3
    for image in found["images"]:
        mask = np.array(Image.open(tmp_path / "out/masks" / Path(image["file_name"]).with_suffix(".png"))) > 0
        own = [each for each in found["annotations"] if each["image_id"] == image["id"]]
        assert iou(read_coco(json.dumps({"annotations": own}), mask.shape), mask) >= 0.98


def test_a_report_alone_writes_no_annotations(run_command, run, frames, tmp_path):
    run("in", "--output_dir", "out")
    done = run_command(predict.main, "--report", "--output_dir", "out", "--annotations", "coco", status=2)
    assert "--annotations coco changes nothing without INPUT" in refused(done)


@pytest.mark.parametrize(("format", "name"), [("coco", "coco.json"), ("cvat", "cvat.xml"), ("via", "via.json")])
def test_predictions_are_read_back_as_a_data_set(run, frames, tmp_path, format, name):
    from unet_kvasir_seg.data.dataset import load_splits
    from unet_kvasir_seg.data.samples import load_sample

    exact = ["--annotation_masks"] if format != "via" else []  # which has polygons alone, without holes
    run("in", "--output_dir", "out", "--annotations", format, *exact)
    (frames / name).write_bytes((tmp_path / "out/annotations" / name).read_bytes())
    samples = [load_sample(row) for split in load_splits(str(frames / name)).values() for row in split]
    assert len(samples) == 3
    masks = [np.array(Image.open(file)) > 0 for file in sorted((tmp_path / "out/masks").rglob("*.png"))]
    found = sorted(int(sample.ground_truth.sum()) for sample in samples)
    assert found == pytest.approx(sorted(int(mask.sum()) for mask in masks), rel=0 if exact else 0.05)
    assert found[0] > 0
