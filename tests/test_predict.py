"""`predict.py` from its command line: outputs recomputed, runs that were stopped, and invalid input."""

import csv
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from conftest import ROOT, peak_megabytes, save_tiny_model
from PIL import Image, ImageOps
from skimage.measure import label, regionprops
from unet_kvasir_seg import predict
from unet_kvasir_seg.common.output_lock import output_lock
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.image_run import encode_png
from unet_kvasir_seg.inference.output_folder import RECORD
from unet_kvasir_seg.inference.overlay import draw_numbers, draw_overlay
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation


@pytest.fixture(scope="module")
def predictor(model) -> Predictor:
    return Predictor.from_pretrained(str(model), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """Images of several kinds in folders; one is without polyp at a high threshold."""
    folder = tmp_path_factory.mktemp("data") / "frames"
    (folder / "case 1" / "ä").mkdir(parents=True)
    names = ("first.jpg", "case 1/a b.png", "case 1/ä/ü.png", "-dash.png", "case 1/tall.bmp")
    for index, name in enumerate(names):
        size = (40, 56) if index % 2 else (48, 33)
        image = next(generate(1, size, seed=index))["image"]
        if name == "case 1/ä/ü.png":  # to be turned by 90 degrees clockwise
            exif = Image.Exif()
            exif[0x0112] = 6
            image.save(folder / name, exif=exif)
        else:
            image.save(folder / name)
    grey = next(generate(1, 64, seed=7))["image"].convert("L")
    Image.fromarray(np.array(grey).astype(np.uint16) * 257).save(folder / "sixteen.png")
    next(generate(1, 64, seed=8))["image"].quantize(16).save(folder / "palette.png")
    Image.new("RGB", (1, 1), (200, 80, 70)).save(folder / "pixel.png")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


@pytest.fixture
def run(run_command, model):
    def run(*arguments: object, status: int = 0, model: Path = model) -> subprocess.CompletedProcess:
        flags = ("--device", "cpu", "--dtype", "float32", "--batch_size", "3")
        flags += () if arguments[:1] == ("--report",) else ("--model", model)  # which a report alone refuses
        return run_command(predict.main, *flags, *arguments, status=status)

    return run


def images_of(folder: Path) -> list[Path]:
    suffixes = (".png", ".jpg", ".bmp")
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes and path.name[0] != ".")


def table(output: Path, name: str = "predictions.csv") -> list[dict[str, str]]:
    """The rows of a table; names as paths, of which "./-dash.png" is "-dash.png"."""
    with open(output / name, newline="", encoding="utf-8") as file:
        return [row | {"image": str(PurePosixPath(row["image"]))} for row in csv.DictReader(file)]


def written(output: Path, kind: str = "masks") -> set[str]:
    return {path.relative_to(output / kind).as_posix() for path in (output / kind).rglob("*") if path.is_file()}


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2
    return done.stderr.strip().splitlines()[-1]


def failures(done: subprocess.CompletedProcess) -> list[str]:
    """The lines that list failures."""
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    start = next(index for index, line in enumerate(lines) if "inputs were not done" in line)
    assert lines[start].startswith(f"{len(lines) - start - 1} inputs")
    return [line.strip() for line in lines[start + 1 :]]


def test_masks_overlays_and_probabilities_are_those_of_the_predictor(run, frames, predictor, tmp_path):
    done = run(frames, "--output_dir", "out", "--overlay", "--probabilities")
    expected_names = {path.relative_to(frames).with_suffix(".png").as_posix() for path in images_of(frames)}
    assert len(expected_names) == 8
    for kind in ("masks", "overlays", "probabilities"):
        assert written(tmp_path / "out", kind) == expected_names
    for path in images_of(frames):
        name = path.relative_to(frames).with_suffix(".png")
        image = ImageOps.exif_transpose(Image.open(path))
        prediction = predictor(image)
        mask = np.array(Image.open(tmp_path / "out" / "masks" / name))
        assert mask.shape == (image.height, image.width)
        np.testing.assert_array_equal(mask, prediction.mask * np.uint8(255))
        stored = np.array(Image.open(tmp_path / "out" / "probabilities" / name))
        # A batch may differ from its images by a rounding.
        np.testing.assert_allclose(stored / 65535, prediction.probability, atol=1e-5)
        overlay = np.array(Image.open(tmp_path / "out" / "overlays" / name))
        expected = draw_overlay(image, prediction.mask)
        draw_numbers(expected, [lesion.box for lesion in prediction.lesions])  # as in predictions.csv
        np.testing.assert_array_equal(overlay, np.array(expected))
    assert "8 images" in done.stdout
    assert "8/8" in done.stderr
    assert "image/s" in done.stderr


def test_rows_of_the_table_are_the_lesions_that_scikit_image_finds(run, frames, predictor, tmp_path):
    done = run(frames, "--output_dir", "out")
    found = table(tmp_path / "out")
    names = [row["image"] for row in found]
    assert len(set(names)) > 4
    assert names == sorted(names, key=lambda name: (Path(name).parent != Path("."), str(Path(name).parent), name))
    for path in images_of(frames):
        name = path.relative_to(frames).as_posix()
        probability = predictor(Image.open(path)).probability
        regions = sorted(
            regionprops(label(probability > 0.5, connectivity=2), intensity_image=probability),
            key=lambda region: -region.area,
        )
        rows = [row for row in found if row["image"] == name]
        assert [int(row["lesion"]) for row in rows] == list(range(1, len(regions) + 1))
        assert [int(row["area_pixels"]) for row in rows] == [region.area for region in regions]
        by_box = {tuple(int(row[key]) for key in ("top", "left", "bottom", "right")): row for row in rows}
        for region in regions:
            row = by_box[region.bbox]
            assert float(row["centroid_y"]) == pytest.approx(region.centroid[0], abs=0.01)
            assert float(row["centroid_x"]) == pytest.approx(region.centroid[1], abs=0.01)
            assert float(row["area_percent"]) == pytest.approx(100 * region.area / probability.size, abs=1e-4)
            assert float(row["mean_probability"]) == pytest.approx(region.intensity_mean, abs=1e-5)
    assert f"{len(found)} lesions in {len(set(names))} of 8 images" in done.stdout


def test_each_image_has_a_row_in_the_table_of_images(run, frames, predictor, tmp_path):
    run(frames, "--output_dir", "out")
    rows = table(tmp_path / "out", "images.csv")
    assert sorted(row["image"] for row in rows) == sorted(p.relative_to(frames).as_posix() for p in images_of(frames))
    for row in rows:
        probability = predictor(Image.open(frames / row["image"])).probability
        mask = probability > 0.5
        assert float(row["presence"]) == pytest.approx(probability.max(), abs=1e-5)
        assert int(row["regions"]) == label(mask, connectivity=2).max()
        assert int(row["area_pixels"]) == mask.sum()
        assert float(row["area_percent"]) == pytest.approx(100 * mask.mean(), abs=1e-3)


def test_records_without_presence_are_read(run, frames, tmp_path):
    """As the version before this one wrote them; the folder is continued, and its settings are the same."""
    run(frames / "first.jpg", "--output_dir", "out")
    expected = table(tmp_path / "out", "images.csv")
    mask, settings = tmp_path / "out" / "masks" / "first.png", tmp_path / "out" / "run.json"
    with Image.open(mask) as image:
        image.load()
        record = json.loads(image.info[RECORD])
        assert record.pop("presence") == pytest.approx(float(expected[0]["presence"]), abs=1e-6)
        mask.write_bytes(encode_png(image, json.dumps(record)))
    before = json.loads(settings.read_text())
    for name in ("peak_threshold", "presence_calibration"):
        assert before.pop(name) is None
    settings.write_text(json.dumps(before))
    assert "1 before" in run(frames / "first.jpg", "--output_dir", "out").stdout
    assert table(tmp_path / "out", "images.csv") == [expected[0] | {"presence": ""}]


@pytest.fixture(scope="module")
def careful(model, predictor, frames, tmp_path_factory) -> Path:
    """The model with a peak threshold, which drops some of the regions in `first.jpg` and keeps others."""
    probability = predictor(Image.open(frames / "first.jpg")).probability
    labels = label(probability > 0.5, connectivity=2)
    peaks = sorted(float(probability[labels == number].max()) for number in range(1, labels.max() + 1))
    assert len(set(peaks)) >= 2
    folder = tmp_path_factory.mktemp("careful")
    UNetForSemanticSegmentation.from_pretrained(model).save_pretrained(folder)
    settings = {"peak_threshold": peaks[-1], "presence_calibration": [2.0, -1.0]}
    UNetImageProcessor.from_pretrained(model, **settings).save_pretrained(folder)
    return folder


def test_the_models_peak_threshold_and_calibration_are_used(run, frames, predictor, careful, tmp_path):
    first = frames / "first.jpg"
    run(first, "--output_dir", "out", model=careful)
    own = Predictor.from_pretrained(str(careful), device="cpu", dtype="float32")(Image.open(first))
    without = predictor(Image.open(first))
    assert 0 < own.mask.sum() < without.mask.sum()
    mask = np.array(Image.open(tmp_path / "out" / "masks" / "first.png"))
    np.testing.assert_array_equal(mask, own.mask * np.uint8(255))
    (row,) = table(tmp_path / "out", "images.csv")
    assert int(row["regions"]) == len(table(tmp_path / "out")) == len(own.lesions) < len(without.lesions)
    odds = (own.peak / (1 - own.peak)) ** 2 * np.exp(-1)
    assert float(row["presence"]) == pytest.approx(odds / (1 + odds), abs=1e-5)
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (settings["peak_threshold"], settings["presence_calibration"]) == (own.peak_threshold, [2.0, -1.0])

    run(first, "--output_dir", "all", "--peak_threshold", "0.5", model=careful)
    assert len(table(tmp_path / "all")) == len(without.lesions)
    assert json.loads((tmp_path / "all" / "run.json").read_text())["peak_threshold"] == 0.5
    message = refused(run(first, "--output_dir", "out", "--peak_threshold", "0.5", model=careful, status=2))
    assert f"peak_threshold {own.peak_threshold} and not 0.5" in message


def test_a_peak_threshold_below_the_threshold_is_refused(run, frames, careful, tmp_path):
    first = frames / "first.jpg"
    flags = ("--output_dir", "out", "--threshold", "0.9")
    message = refused(run(first, *flags, "--peak_threshold", "0.8", status=2))
    assert "threshold=0.9 and peak_threshold=0.8; " in message
    assert "peak_threshold=0.9, which keeps every region" in message
    assert "the model's own" in refused(run(first, *flags, "--threshold", "1", model=careful, status=2))
    assert not (tmp_path / "out" / "run.json").exists()


def test_an_image_without_polyp_has_a_mask_and_no_row(run, frames, tmp_path):
    done = run(frames / "first.jpg", "--output_dir", "out", "--threshold", "1")
    assert np.array(Image.open(tmp_path / "out" / "masks" / "first.png")).max() == 0
    assert table(tmp_path / "out") == []
    (row,) = table(tmp_path / "out", "images.csv")
    assert (row["image"], row["regions"], row["area_pixels"], float(row["area_percent"])) == ("first.jpg", "0", "0", 0)
    assert "0 lesions in 0 of 1 image; without polyp: 1" in done.stdout


def test_threshold_and_tta_reach_the_predictor(run, frames, predictor, tmp_path):
    image = Image.open(frames / "first.jpg")
    threshold = float(np.quantile(predictor(image, tta=True).probability, 0.7))
    run(frames / "first.jpg", "--output_dir", "out", "--threshold", threshold, "--tta")
    mask = np.array(Image.open(tmp_path / "out" / "masks" / "first.png")) > 0
    expected = predictor(image, threshold=threshold, tta=True).mask
    assert 0 < expected.mean() < 0.5
    np.testing.assert_array_equal(mask, expected)


def test_the_choice_of_regions_reaches_images_and_run_json(run, frames, predictor, tmp_path):
    """What is kept are the regions of scikit-image with so many pixels, and of them the largest."""
    frame = frames / "first.jpg"
    probability = predictor(Image.open(frame)).probability
    threshold = float(np.quantile(probability, 0.6))  # the network is untrained: this makes several regions
    labels, count = label(probability > threshold, connectivity=2, return_num=True)
    areas = np.bincount(labels.ravel())[1:]
    assert count > 2
    smallest = int(np.sort(areas)[-2])
    choice = ("--threshold", threshold, "--min_area", smallest)
    run(frame, "--output_dir", "two", *choice)
    run(frame, "--output_dir", "one", *choice, "--largest_lesion")
    two, one = (
        np.asarray(Image.open(next((tmp_path / name / "masks").rglob("*.png")))) > 0 for name in ("two", "one")
    )
    np.testing.assert_array_equal(two, np.isin(labels, 1 + np.flatnonzero(areas >= smallest)))
    np.testing.assert_array_equal(one, labels == 1 + areas.argmax())
    settings = json.loads((tmp_path / "one" / "run.json").read_text())
    assert (settings["min_area"], settings["largest_lesion"]) == (smallest, True)
    message = refused(run(frame, "--output_dir", "one", *choice, status=2))
    assert "largest_lesion True and not False" in message


def test_folders_of_versions_without_a_choice_of_regions_go_on(run, frames, tmp_path):
    frame = frames / "first.jpg"
    run(frame, "--output_dir", "out")
    file = tmp_path / "out" / "run.json"
    settings = json.loads(file.read_text())
    del settings["min_area"], settings["largest_lesion"]
    file.write_text(json.dumps(settings))
    run(frame, "--output_dir", "out")
    assert "min_area 0 and not 5" in refused(run(frame, "--output_dir", "out", "--min_area", 5, status=2))


def test_a_picture_of_floats_gets_the_mask_of_the_same_picture_in_bytes(run, frames, predictor, tmp_path, caplog):
    logging.Logger.warning_once.cache_clear()  # another test may have been told already
    grey = Image.open(images_of(frames)[0]).convert("L")
    Image.fromarray(np.float32(grey) / 255).save(tmp_path / "floats.tif")
    Image.fromarray(np.float32(grey) * 257).save(tmp_path / "wide.tif")
    done = run(tmp_path / "floats.tif", tmp_path / "wide.tif", "--output_dir", tmp_path / "out", status=1)
    expected = predictor(grey).mask
    found = np.array(Image.open(tmp_path / "out" / "masks" / "floats.png")) > 0
    assert (found == expected).mean() > 0.99
    assert 0 < expected.mean() < 1
    assert "floats within [0, 1]: they are read as 0 for black" in caplog.text
    assert "do_rescale" not in caplog.text
    (failure,) = failures(done)
    assert "expected grey levels 0 to 255, or 0 to 1" in failure


def test_files_folders_and_globs_are_mixed_and_flags_may_stand_between(run, frames, tmp_path):
    for name in ("x/1/a.png", "x/2/a.png", "x/2/[b].png", "more/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((frames / "palette.png").read_bytes())
    run("x/*/a.png", "--overlay", "x/2/[b].png", "--output_dir", "out", "more", frames / "first.jpg")
    assert written(tmp_path / "out") == {"1/a.png", "2/a.png", "[b].png", "c.png", "first.png"}
    assert written(tmp_path / "out", "overlays") == written(tmp_path / "out")
    run("x/**", "--output_dir", "all", "--tta", "false")
    assert written(tmp_path / "all") == {"1/a.png", "2/a.png", "2/[b].png"}


def test_a_name_may_begin_with_a_dash(run, frames, tmp_path):
    (tmp_path / "-x.png").write_bytes((frames / "-dash.png").read_bytes())
    run("--output_dir", "out", "--", "-x.png")
    assert written(tmp_path / "out") == {"-x.png"}


def test_a_file_named_twice_is_one_input(run, frames, tmp_path):
    run(frames, frames / "first.jpg", frames, "--output_dir", "out")
    assert len(written(tmp_path / "out")) == 8


def test_a_second_run_does_only_what_is_missing(run, frames, tmp_path):
    out = tmp_path / "out"
    run(frames, "--output_dir", out)
    before = (out / "predictions.csv").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in images_of(out)}
    (out / "masks" / "first.png").unlink()
    (out / "masks" / "pixel.png").write_bytes((out / "masks" / "pixel.png").read_bytes()[:20])
    done = run(frames, "--output_dir", out)
    assert "2 images" in done.stdout
    assert "6 before" in done.stdout
    assert (out / "predictions.csv").read_bytes() == before
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"first.png", "pixel.png"}
    assert "8 images" in run(frames, "--output_dir", out, "--overlay").stdout  # since overlays are missing
    assert len(written(out, "overlays")) == 8


def write_many(folder: Path, count: int, size: int = 512) -> Path:
    """A folder of `count` images, most of them links to a few."""
    folder.mkdir()
    for index, pair in enumerate(generate(3, size, seed=20)):
        pair["image"].save(folder / f"{index:04}.jpg")
    for index in range(3, count):
        os.link(folder / f"{index % 3:04}.jpg", folder / f"{index:04}.jpg")
    return folder


def test_a_killed_run_continues_where_it_stopped(run, model, tmp_path):
    """In the folder that it took, without being told which: the first one holds other outputs."""
    folder, out = write_many(tmp_path / "many", 120), tmp_path / "outputs" / "predictions-2"
    run(folder / "0000.jpg", "--threshold", "0.4")
    # Batches of other images would differ by a rounding.
    flags = ["--model", model, "--device", "cpu", "--dtype", "float32", "--batch_size", "1"]
    command = [sys.executable, ROOT / "predict.py", folder, *flags]
    process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, stderr=subprocess.DEVNULL)
    masks = out / "masks"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and len(list(masks.glob("*.png"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    times = {path: path.stat().st_mtime_ns for path in masks.glob("*.png")}
    assert 5 <= len(times) < 120
    assert not (out / "predictions.csv").exists()
    run("--report")  # of what there is
    images = images_of_report(out)
    assert len(images) == len(times)
    assert all(image["thumbnail"] for image in images.values())
    done = run(folder, "--batch_size", "1")
    assert f"{120 - len(times)} images" in done.stdout
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    run(folder, "--output_dir", "whole", "--batch_size", "1")
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()
    assert written(out) == written(tmp_path / "whole")
    for path in masks.glob("*.png"):
        assert path.read_bytes() == (tmp_path / "whole" / "masks" / path.name).read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(model, tmp_path):
    flags = ("--model", model, "--device", "cpu", "--dtype", "float32", "--batch_size", "3", "--overlay")
    peaks = []
    for number in (20, 100):
        folder = write_many(tmp_path / str(number), number)
        peaks.append(peak_megabytes(tmp_path, "predict.py", folder, *flags, "--output_dir", f"out{number}"))
    # Probability map, image and mask of 80 images more, of 512x512 pixels, would be 165 MB.
    assert peaks[1] - peaks[0] < 40


def test_two_processes_share_the_work(run, model, frames, tmp_path):
    bad = tmp_path / "frames" / "bad.png"
    bad.parent.mkdir()
    bad.write_text("text")
    (tmp_path / "frames" / "link").symlink_to(frames)
    run("frames", "--output_dir", "one", status=1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    flags = ["--model", model, "--device", "cpu", "--dtype", "float32", "--batch_size", "3"]
    (tmp_path / "outputs" / "predictions" / "masks").mkdir(parents=True)
    (tmp_path / "outputs" / "predictions" / "masks" / "mine.png").touch()
    command = [*launch, ROOT / "predict.py", "frames", *flags]  # the main process chooses the folder for both
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.count("bad.png: is no image") == 1
    assert done.stdout.count("Done: 8 images") == 1
    assert done.stdout.count("So outputs/predictions-2 is taken.") == 1
    two_folder = tmp_path / "outputs" / "predictions-2"
    one, two = table(tmp_path / "one"), table(two_folder)
    assert len(one) == len(two) > 0
    for row, same in zip(one, two, strict=True):
        # A batch of one image and one of three differ in the last bit of the probabilities.
        assert float(row.pop("mean_probability")) == pytest.approx(float(same.pop("mean_probability")), abs=2e-6)
        assert row == same
    assert written(tmp_path / "one") == written(two_folder)


def bomb() -> bytes:
    """A PNG of a few bytes whose header states 60000x60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def test_files_that_cannot_be_used_are_listed_and_the_others_done(run, frames, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    jpeg = (frames / "first.jpg").read_bytes()
    (folder / "good.jpg").write_bytes(jpeg)
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "text.png").write_text("hello")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "empty.png").write_bytes(b"")
    animation = [Image.new("RGB", (20, 10), (shade, 0, 0)) for shade in (0, 100, 200)]
    animation[0].save(folder / "animated.gif", save_all=True, append_images=animation[1:])
    Image.new("RGB", (20, 10)).save(folder / "still.gif")
    Image.new("I", (20, 10), 70000).save(folder / "deep.tif")
    Image.new("RGB", (20, 10)).save(folder / "mail.jfif", "JPEG")
    Image.new("RGB", (20, 10)).save(folder / "phone.AVIF", "AVIF")
    (folder / "apple.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (folder / "notes.csv").write_text("frame,age")
    (folder / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    (folder / "loop").symlink_to(folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "table.xlsx").write_text("x")
    expected = {
        "in/animated.gif": "holds several images",
        "in/apple.heic": "holds an image in HEIC, which is not read here. Save it as JPEG or PNG",
        "in/bomb.png": "is too large",
        "in/deep.tif": "mode I with values",
        "in/empty.png": "is empty (0 bytes)",
        "in/loop": "links back to a folder that holds it",
        "in/nowhere.png": "which is not there",
        "in/sub/up": "links back to a folder that holds it",
        "in/text.png": "is no image",
        "in/truncated.jpg": "truncated",
        "table.xlsx": "is neither an image nor a video",
    }
    for _ in range(2):  # the second run says so again
        done = run("in", "table.xlsx", "--output_dir", "out", "--overlay", status=1)
        assert "1 other file was ignored: in/notes.csv." in done.stdout
        lines = failures(done)
        assert [line.split(": ")[0] for line in lines] == sorted(expected)
        for line, reason in zip(lines, [expected[name] for name in sorted(expected)], strict=True):
            assert reason in line
        assert written(tmp_path / "out") == {"good.png", "mail.png", "phone.png", "still.png"}
    lines = failures(run("in/**/*.png", "--output_dir", "globbed", status=1))
    assert any(line.startswith("in/loop: links back") for line in lines)
    assert len(lines) == 6
    assert written(tmp_path / "globbed") == set()


def test_outputs_of_other_settings_or_another_model_are_not_replaced(run, frames, tmp_path):
    first = frames / "first.jpg"
    run(first, "--output_dir", "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["threshold"] == 0.5
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    message = refused(run(first, "--output_dir", "out", "--threshold", "0.4", "--tta", status=2))
    assert "out holds outputs of other settings: threshold 0.5 and not 0.4, tta False and not True" in message
    other = save_tiny_model(tmp_path / "other", seed=1)
    message = refused(run(first, "--output_dir", "out", model=other, status=2))
    assert "out holds the outputs of another model" in message
    assert {path: path.read_bytes() for path in before} == before

    (tmp_path / "mine" / "masks").mkdir(parents=True)
    (tmp_path / "mine" / "masks" / "first.png").write_text("mine")
    assert "holds masks that no run of this command wrote" in refused(run(first, "--output_dir", "mine", status=2))
    (tmp_path / "out" / "run.json").write_text("{")
    assert "run.json is not" in refused(run(first, "--output_dir", "out", status=2))


def test_without_a_folder_other_settings_and_models_get_the_next_name(run, frames, tmp_path):
    first, outputs = frames / "first.jpg", tmp_path / "outputs"
    assert "Written to outputs/predictions." in run(first).stdout
    before = (outputs / "predictions" / "masks" / "first.png").read_bytes()
    done = run(first, "--threshold", "0.4")
    assert done.stdout.splitlines()[0] == (
        "outputs/predictions holds outputs of other settings: threshold 0.5 and not 0.4. "
        "So outputs/predictions-2 is taken."
    )
    assert "Written to outputs/predictions-2." in done.stdout
    other = save_tiny_model(tmp_path / "other", seed=1)
    done = run(first, model=other)
    assert done.stdout.splitlines()[0] == (
        "outputs/predictions holds the outputs of another model. So outputs/predictions-3 is taken."
    )
    # The same again goes on in the folder of each.
    for flags, used, folder in (
        ([], {}, "predictions"),
        (["--threshold", "0.4"], {}, "predictions-2"),
        ([], {"model": other}, "predictions-3"),
    ):
        done = run(frames, *flags, **used)
        assert re.search(rf"Done: 7 images .*, 1 before\. Written to outputs/{folder}\.", done.stdout)
    assert sorted(path.name for path in outputs.iterdir()) == ["predictions", "predictions-2", "predictions-3"]
    assert (outputs / "predictions" / "masks" / "first.png").read_bytes() == before
    # A folder that is named is the one that is meant.
    message = refused(run(first, "--output_dir", "outputs/predictions", "--threshold", "0.4", status=2))
    assert "outputs/predictions holds outputs of other settings: threshold 0.5 and not 0.4" in message
    # The report alone is that of the run before, or of the last one with its settings.
    assert run("--report").stdout.startswith("outputs/predictions-3/report.html: the report")
    assert run("--report", "--threshold", "0.4").stdout.startswith("outputs/predictions-2/report.html: the report")
    assert "--threshold 0.3 changes nothing" in refused(run("--report", "--threshold", "0.3", status=2))


def test_outputs_of_any_of_the_default_folders_are_no_inputs(run, frames, tmp_path):
    run(frames / "first.jpg")
    run(frames / "first.jpg", "--threshold", "0.4")
    for given in ("outputs", "outputs/predictions", "outputs/predictions-2", "."):
        assert "would take masks for images" in refused(run(given, status=2))
    assert "is among the outputs" in refused(run("outputs/predictions-2/masks/first.png", status=2))


def test_a_failed_start_leaves_no_folder(run, frames, tmp_path):
    assert "absent" in refused(run(frames / "first.jpg", model=tmp_path / "absent", status=2))
    assert not (tmp_path / "outputs").exists()


def test_flags_of_videos_are_told_to_have_no_effect_on_images(run, frames, tmp_path):
    done = run(frames / "first.jpg", "--smoothing", "0.3", "--alert_seconds", "1")
    assert done.stdout.splitlines()[0] == (
        "There is no video among the inputs: nothing depends on --smoothing and --alert_seconds."
    )
    settings = json.loads((tmp_path / "outputs" / "predictions" / "run.json").read_text())
    assert not {"smoothing", "alert_seconds"} & settings.keys()


def test_a_mask_of_another_image_or_program_is_not_replaced(run, frames, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes((frames / "first.jpg").read_bytes())
    (tmp_path / "b" / "x.png").write_bytes((frames / "palette.png").read_bytes())
    run("a", "--output_dir", "out")
    mask = tmp_path / "out" / "masks" / "x.png"
    before = mask.read_bytes()
    lines = failures(run("b", "--output_dir", "out", status=1))
    assert lines[0].startswith("b/x.png: not done, since out/masks/x.png is there, of another file")
    assert mask.read_bytes() == before
    Image.open(mask).point(lambda level: 255 - level).save(mask)  # someone's correction
    before = mask.read_bytes()
    lines = failures(run("a", "--output_dir", "out", status=1))
    assert "is there and not from this command" in lines[0]
    assert mask.read_bytes() == before


def test_two_inputs_of_one_output_are_refused(run, frames, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("x.png", "x.bmp"):
        Image.new("RGB", (8, 8)).save(folder / name)
    message = refused(run("in", "--output_dir", "out", status=2))
    assert "in/x.bmp and in/x.png would both become masks/x.png" in message
    assert not (tmp_path / "out").exists()


def test_outputs_among_the_inputs_are_refused(run, frames, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    for output in ("in", "in/out", "in/../in"):
        assert "the next run would take masks for images" in refused(run("in", "--output_dir", output, status=2))
    (tmp_path / "linked").symlink_to(folder)
    assert "would take masks" in refused(run("linked", "--output_dir", "in/out", status=2))
    run("in", "--output_dir", "out")
    before = (tmp_path / "out" / "masks" / "x.png").read_bytes()
    for given in ("out/masks", "out/masks/x.png", "out/**/*.png"):
        assert "is among the outputs" in refused(run(given, "--output_dir", "out", status=2))
    (folder / "more").symlink_to(tmp_path / "out")
    assert "would take masks" in refused(run("in", "--output_dir", "out", status=2))
    assert (tmp_path / "out" / "masks" / "x.png").read_bytes() == before
    assert [path.name for path in sorted(folder.iterdir())] == ["more", "x.png"]


def test_an_output_that_cannot_be_written_is_named(run, frames, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file/out cannot be written to" in refused(run(frames, "--output_dir", "file/out", status=2))
    assert "file cannot be written to" in refused(run(frames, "--output_dir", "file", status=2))
    run(frames / "first.jpg", "--output_dir", "out")
    (tmp_path / "out" / "overlays").write_text("x")
    message = refused(run(frames, "--output_dir", "out", "--overlay", status=2))
    assert "out/overlays is a file: expected a folder" in message


def test_not_a_number_ends_the_run(run, frames, model, tmp_path):
    broken = UNetForSemanticSegmentation.from_pretrained(model)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    UNetImageProcessor.from_pretrained(model).save_pretrained(tmp_path / "broken")
    message = refused(run(frames / "first.jpg", "--output_dir", "out", model=tmp_path / "broken", status=2))
    assert "NaN for the image" in message
    assert written(tmp_path / "out") == set()


HEAVY = ("torch", "torchvision", "transformers", "datasets", "accelerate")


def imported_by(folder: Path, *arguments: object) -> set[str]:
    """Heavy packages that `predict.py` imports in a process of its own."""
    code = (
        "import sys\n"
        "from unet_kvasir_seg.predict import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('imported:', *sorted(set({HEAVY}) & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_an_onnx_file_needs_neither_torch_nor_transformers(run, model, frames, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from unet_kvasir_seg.inference.checkpoint import load_checkpoint
    from unet_kvasir_seg.onnx_export.graph import build_graph

    network, processor = load_checkpoint(str(model))
    file = tmp_path / "model.onnx"
    file.write_bytes(build_graph(network.eval(), processor, "fp32").SerializeToString())
    flags = ("--overlay", "--probabilities", "--tta")
    assert imported_by(tmp_path, frames, "--model", file, "--output_dir", "onnx", *flags) == set()
    run(frames, "--output_dir", "torch", *flags)
    assert written(tmp_path / "onnx") == written(tmp_path / "torch")
    settings, expected = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("onnx", "torch"))
    assert settings.pop("model") != expected.pop("model")
    assert settings == expected
    equal = []
    for name in written(tmp_path / "onnx"):
        found, mask = (np.array(Image.open(tmp_path / folder / "masks" / name)) for folder in ("onnx", "torch"))
        assert found.shape == mask.shape
        equal.append(found == mask)
    # The resize may round a grey level differently.
    assert np.concatenate([pixels.ravel() for pixels in equal]).mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "No input"),
        (["nowhere.png"], "no file or folder nowhere.png"),
        (["*.jpg"], "Nothing matches *.jpg"),
        (["empty"], "The folder empty holds no image"),
        (["x.png", "--threshold", "1.5"], "--threshold 1.5 is no probability"),
        (["x.png", "--peak_threshold", "-1"], "--peak_threshold -1.0 is no probability"),
        (["x.png", "--smoothing", "1"], "--smoothing 1.0 cannot be"),
        (["x.png", "--batch_size", "0"], "--batch_size 0 is too few"),
        (["x.png", "--min_area", "-1"], "--min_area -1 cannot be"),
        (["x.png", "--alert_seconds", "-0.5"], "--alert_seconds -0.5 cannot be"),
        (["x.png", "--alert_seconds", "nan"], "--alert_seconds nan cannot be"),
        (["x.png", "--alert_seconds", "inf"], "--alert_seconds inf cannot be"),
        (["--report"], "outputs/predictions holds no run of this command: expected run.json in it"),
        (["--report", "--output_dir", "empty"], "empty holds no run of this command"),
        (["--report", "--output_dir", "x.png"], "x.png/run.json cannot be read"),
        (["--output_dir", "empty"], "No input"),
        (["--model", "me/unet", "frames/monday"], "After --model, frames/monday was taken for a model"),
        (["x.png", "--overlays"], "near it are --overlay"),
        (["-x.png"], "unknown flag '-x.png'"),
    ],
)
def test_invalid_commands_are_refused(run, tmp_path, arguments, expected):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert expected in refused(run(*arguments, status=2))
    assert not (tmp_path / "outputs").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def images_of_report(output: Path) -> dict[str, dict]:
    """What the report of a folder says of its images, by their names."""
    page = (output / "report.html").read_text(encoding="utf-8")
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return {image["name"]: image for image in json.loads(data[1])["images"]}


def test_a_report_shows_what_the_folder_holds_and_is_made_again_alone(run, frames, tmp_path):
    done = run(frames / "first.jpg", "--output_dir", "out", "--report")
    assert f"out{os.sep}report.html: the report" in done.stdout
    assert images_of_report(tmp_path / "out").keys() == {"first.jpg"}
    run(frames / "palette.png", frames / "pixel.png", "--output_dir", "out")
    before = {path: path.read_bytes() for path in tmp_path.glob("out/masks/*")}
    done = run("--report", "--output_dir", "out")
    assert done.stdout == f"out{os.sep}report.html: the report, to be opened in a browser.\n"
    images = images_of_report(tmp_path / "out")
    assert images.keys() == {"first.jpg", "palette.png", "pixel.png"}
    assert all(image["thumbnail"] for image in images.values())  # their files were found
    for row in table(tmp_path / "out", "images.csv"):
        assert images[row["image"]]["presence"] == pytest.approx(float(row["presence"]), abs=1e-6)
        assert len(images[row["image"]]["regions"]) == int(row["regions"])
    assert {path: path.read_bytes() for path in before} == before


def test_a_report_alone_refuses_flags_that_it_would_ignore(run, frames, tmp_path):
    run(frames / "first.jpg", "--output_dir", "out", "--threshold", "0.4")
    for flags, expected in (
        (["--alert_seconds", "2"], "--alert_seconds 2.0 changes nothing without INPUT: --report alone shows the "),
        (["--threshold", "0.3"], "shows the outputs of threshold 0.4 that are there"),
        (["--overlay"], "--overlay True changes nothing without INPUT"),
        (["--model", "elsewhere"], "--model elsewhere changes nothing without INPUT"),
        (["--dtype", "bfloat16"], "shows the outputs of dtype float32 that are there"),
    ):
        assert expected in refused(run("--report", "--output_dir", "out", *flags, status=2))
    assert not (tmp_path / "out" / "report.html").exists()
    run("--report", "--output_dir", "out", "--threshold", "0.4")  # as in the run
    assert images_of_report(tmp_path / "out").keys() == {"first.jpg"}


def test_a_report_of_a_folder_in_use_or_without_outputs_is_refused(run, frames, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    done = run("bad.png", "--output_dir", "out", "--report", status=2)
    assert "bad.png: " in done.stderr  # it is named first
    assert "out holds no image and no video that was segmented" in done.stderr
    run(frames / "first.jpg", "--output_dir", "out")
    with output_lock(tmp_path / "out", "another.py"):
        assert "out is in use by another.py" in refused(run("--report", "--output_dir", "out", status=2))
    for text in ("no JSON", "[]", "{}"):
        (tmp_path / "out" / "run.json").write_text(text)
        assert "run.json is not the run.json of" in refused(run("--report", "--output_dir", "out", status=2))


@pytest.mark.parametrize("name", ["report.html", "inputs.json", "tracks.csv"])
def test_files_of_another_program_are_not_replaced(run, frames, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    message = refused(run(frames / "first.jpg", "--output_dir", "mine", "--report", status=2))
    assert f"mine holds {name} that no run of this command wrote" in message
    assert (tmp_path / "mine" / name).read_text() == "mine"


def inputs_of(output: Path) -> dict[str, str]:
    return json.loads((output / "inputs.json").read_text())


def test_the_paths_of_inputs_are_kept(run, frames, tmp_path):
    run(frames, "--output_dir", "out")
    assert inputs_of(tmp_path / "out") == {
        path.relative_to(frames).as_posix(): str(path) for path in images_of(frames)
    }
    # Those of later runs are added; one that has moved gets its new path.
    (tmp_path / "new").mkdir()
    for name, other in (("added.jpg", "first.jpg"), ("first.jpg", "first.jpg"), ("pixel.png", "palette.png")):
        (tmp_path / "new" / name).write_bytes((frames / other).read_bytes())
    before = inputs_of(tmp_path / "out")
    (line,) = failures(run("new", "--output_dir", "out", status=1))
    assert "pixel.png is there, of another file of that name" in line
    new = {name: str(tmp_path / "new" / name) for name in ("added.jpg", "first.jpg")}
    assert inputs_of(tmp_path / "out") == before | new  # the other pixel.png is not the one that was done


def test_names_that_are_no_utf_8_are_in_the_inputs(run, frames, tmp_path):
    odd = tmp_path / os.fsdecode(b'bytes \xff "<b>\n.jpg')
    odd.write_bytes((frames / "first.jpg").read_bytes())
    run(odd, "--output_dir", "out")
    assert inputs_of(tmp_path / "out") == {odd.name: str(odd)}
    (tmp_path / "out" / "inputs.json").write_text("[" * 100_000)  # damaged: made again
    run(odd, "--output_dir", "out")
    assert inputs_of(tmp_path / "out") == {odd.name: str(odd)}
