"""`predict.py` on files that attack it: each is one line at the end, and the other frames are done."""

import csv
import os
import subprocess
from pathlib import Path

import pytest
from hostile_files import overlapping_tiff, png_of_size
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from unet_kvasir_seg import predict
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.output_folder import RECORD


@pytest.fixture
def run(run_command, model):
    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        return run_command(predict.main, "--model", model, "--device", "cpu", *arguments, status=status)

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three good frames."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index, pair in enumerate(generate(3, 48, seed=1)):
        pair["image"].save(folder / f"good{index}.png")
    return folder


def failures(done: subprocess.CompletedProcess) -> list[str]:
    """The lines below the one that counts them."""
    lines = done.stderr.splitlines()
    start = next(index for index, line in enumerate(lines) if "inputs were not done" in line)
    assert lines[start].startswith(f"{len(lines) - start - 1} inputs")
    return [line.strip() for line in lines[start + 1 :]]


def masks(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "out" / "masks").iterdir()}


def test_endless_huge_and_costly_files_do_not_keep_the_others_from_being_done(run, folder, tmp_path):
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    (folder / "pipe.png").symlink_to(tmp_path / "pipe.png")
    with open(folder / "holes.png", "wb") as file:
        file.truncate(2**43)
    with open(folder / "holes.mp4", "wb") as file:
        file.truncate(2**42)
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "long.png").write_bytes(png_of_size(1, 80_000_000))
    (folder / "tags.tif").write_bytes(overlapping_tiff(5000))
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    reasons = {
        "holes.mp4": "is too large (4398047 MB)",
        "holes.png": "is too large (8796093 MB)",
        "long.png": "is too large (1x80000000 pixels): each side may have at most 16384",
        "pipe.png": "is no regular file",
        "script.png": "is no image of a format that is read here",
        "tags.tif": "refers to the same bytes again and again",
        "zero.mp4": "is no regular file",
        "zero.png": "is no regular file",
    }
    lines = failures(run("in", "--output_dir", "out", status=1))
    assert [line.split(": ")[0] for line in lines] == [f"in/{name}" for name in reasons]
    for line, reason in zip(lines, reasons.values(), strict=True):
        assert reason in line
    assert masks(tmp_path) == {"good0.png", "good1.png", "good2.png"}
    (line,) = failures(run(tmp_path / "pipe.png", "--output_dir", "out", status=1))  # named by itself
    assert "is no regular file" in line


def test_names_reach_the_terminal_without_escapes_and_line_breaks(run, folder):
    name = "\x1b[2J\nDone: all\udcff.png"
    (folder / name).write_text("no image")
    done = run("in", "--output_dir", "out", status=1)
    (line,) = failures(done)
    assert line.startswith(r"in/\x1b[2J\nDone: all\udcff.png: is no image")
    done = run("absent\x1b\nDone\udcff.png", "--output_dir", "out", status=2)
    assert done.stderr == "predict.py: error: There is no file or folder absent\\x1b\\nDone\\udcff.png.\n"
    (folder / "\x1b[2J\n.jpg").symlink_to(folder / "good0.png")
    (folder / "\x1b[2J\n.bmp").symlink_to(folder / "good1.png")
    done = run("in", "--output_dir", "out", status=2)
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stdout + done.stderr


def test_names_are_no_formulas_in_the_tables(run, folder, tmp_path):
    names = ("=1+1.png", "+1+1.png", "-1+1.png", "@A1.png", "\t=1+1.png")
    for name in names:
        Image.open(folder / "good0.png").save(folder / name)
    run("in", "--output_dir", "out")
    for table in ("images.csv", "predictions.csv"):
        with open(tmp_path / "out" / table, newline="", encoding="utf-8") as file:
            cells = {row["image"] for row in csv.DictReader(file)}
        assert {f"./{name}" for name in names} <= cells
        assert not any(cell.lstrip().startswith(tuple("=+-@")) for cell in cells)


@pytest.mark.parametrize(
    "text",
    ["no JSON", "[" * 100_000, "5", "[]", "null", '{"image": 1, "digest": "", "lesions": []}', '{"lesions": [[1]]}'],
    ids=["text", "deep", "number", "list", "null", "wrong types", "too little"],
)
def test_a_mask_whose_record_was_damaged_is_one_line_and_is_kept(run, folder, tmp_path, text):
    run("in", "--output_dir", "out")
    mask = tmp_path / "out" / "masks" / "good1.png"
    info = PngInfo()
    info.add_text(RECORD, text)
    Image.open(mask).save(mask, pnginfo=info)
    before = mask.read_bytes()
    (line,) = failures(run("in", "--output_dir", "out", status=1))
    assert line == (
        "in/good1.png: not done, since out/masks/good1.png is there and not from this command: move it away"
    )
    assert mask.read_bytes() == before
    with open(tmp_path / "out" / "images.csv", newline="", encoding="utf-8") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["good0.png", "good2.png"]


def test_a_mask_that_was_replaced_by_a_device_or_a_bomb_is_made_again(run, folder, tmp_path):
    run("in", "--output_dir", "out")
    folder_of_masks = tmp_path / "out" / "masks"
    before = {path: path.read_bytes() for path in folder_of_masks.iterdir()}
    (folder_of_masks / "good0.png").unlink()
    (folder_of_masks / "good0.png").symlink_to("/dev/zero")
    (folder_of_masks / "good1.png").write_bytes(png_of_size(60_000, 60_000))
    done = run("in", "--output_dir", "out")
    assert "2 images" in done.stdout
    assert {path: path.read_bytes() for path in before} == before
    assert not (folder_of_masks / "good0.png").is_symlink()


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "\x00"])
def test_a_run_file_that_was_damaged_is_one_line(run, folder, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(text)
    done = run("in", "--output_dir", "out", status=2)
    assert len(done.stderr.splitlines()) == 1
    assert "run.json is not the run.json of this command" in done.stderr
