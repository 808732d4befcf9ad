"""`evaluation.py` on frames of videos, from its command line: masks that are known, scored by hand; bad input."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import ROOT, save_tiny_model
from PIL import Image
from unet_kvasir_seg import evaluation
from unet_kvasir_seg.inference.tracks import ALERT_SECONDS
from unet_kvasir_seg.reporting.results import read_results
from unet_kvasir_seg.scoring.arguments import EvaluationArguments

SIZE = 32
PATTERN = r"(?P<sequence>[^/]+)_(?P<frame>\d+)$"
FLAGS = ("--resamples", 50, "--split", "test", "--frame_rate", 10)


def square(left: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[8:16, left : left + 8] = True
    return mask


EMPTY, HERE, BESIDE = np.zeros((SIZE, SIZE), bool), square(2), square(22)
# By video, of each frame the ground truth and the mask that is scored.
VIDEOS = {
    # There from frame 2 on, marked from frame 4 on: alerted in frame 9, after 0.7 s.
    "polyp": [(EMPTY, EMPTY)] * 2 + [(HERE, EMPTY)] * 2 + [(HERE, HERE)] * 8,
    # Six frames, of which the last is 0.5 s after the first: one alert in 0.6 s.
    "normal": [(EMPTY, BESIDE)] * 6,
}


def write(folder: Path, videos: dict = VIDEOS) -> Path:
    """A data set `frames` with one split, and the folder `masks` of what is scored, both of the same images."""
    for name in ("frames/test/images", "frames/test/masks", "masks"):
        (folder / name).mkdir(parents=True)
    for video, frames in videos.items():
        for number, (ground_truth, mask) in enumerate(frames):
            name = f"{video}_{number}.png"  # not padded: by name, frame 10 is before frame 2
            grey = 100 + 17 * len(video) % 100
            Image.new("RGB", (SIZE, SIZE), (grey, number, 90)).save(folder / "frames/test/images" / name)
            Image.fromarray(ground_truth).convert("L").save(folder / "frames/test/masks" / name)
            Image.fromarray(mask).convert("L").save(folder / "masks" / name)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path)


@pytest.fixture
def run(run_command):
    def run(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess:
        return run_command(evaluation.main, *FLAGS, *arguments, status=status)

    return run


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line that it ends with."""
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("evaluation.py: error: "))
    assert done.stderr.rstrip().endswith(line)
    return line


def videos_of(folder: Path) -> dict:
    return read_results(folder / "results.json")["evaluation"]["videos"]


def check(out: Path) -> None:
    """The scores of `VIDEOS`, worked out by hand."""
    with open(out / "sequences.csv", newline="", encoding="utf-8") as file:
        normal, polyp = csv.DictReader(file)
    assert normal == {
        **{"sequence": "normal", "frames": "6", "seconds": "0.600000", "polyps": "0", "polyps_alerted": "0"},
        **{"first_delay_seconds": "", "alerts": "1", "false_alerts": "1", "flicker": "0.000000"},
    }
    assert polyp == {
        **{"sequence": "polyp", "frames": "12", "seconds": "1.200000", "polyps": "1", "polyps_alerted": "1"},
        **{"first_delay_seconds": "0.700000", "alerts": "1", "false_alerts": "0", "flicker": f"{1 / 11:.6f}"},
    }
    videos = videos_of(out)
    assert (videos["frame_rate"], videos["alert_seconds"], videos["without_polyp"]) == (10, 0.5, 1)
    expected = {
        "polyps_alerted": 1,
        "median_delay_seconds": 0.7,
        "false_alerts_per_minute": 60 / 1.8,
        "alerts_per_minute_without_polyp": 60 / 0.6,
        "flicker": (1 / 11 + 0) / 2,
    }
    assert {name: videos[name]["value"] for name in expected} == pytest.approx(expected)
    assert [one["delays"] for one in videos["sequences"]] == [[], [pytest.approx(0.7)]]


def test_sequences_by_name(run, folder):
    done = run(
        *("--predictions", folder / "masks", "--dataset_name", folder / "frames"),
        *("--sequence_pattern", PATTERN, "--output_dir", folder / "out"),
    )
    check(folder / "out")
    assert "2 videos, 1.8 s at 10 frames per second, 1 of them without polyp" in done.stdout
    # Names of videos may be patients': they stay in the table.
    assert '"polyp"' not in (folder / "out" / "results.json").read_text()
    assert '"normal"' not in (folder / "out" / "results.json").read_text()


def test_the_table_of_an_earlier_run_does_not_stay_beside_results_without_videos(run, run_command, folder):
    flags = ("--predictions", folder / "masks", "--dataset_name", folder / "frames", "--output_dir", folder / "out")
    run(*flags, "--sequence_pattern", PATTERN)
    assert (folder / "out" / "sequences.csv").exists()
    (folder / "out" / ".settings.json").unlink()  # which earlier versions did not write; else the folder is refused
    done = run_command(evaluation.main, "--resamples", 50, "--split", "test", *flags).stdout
    assert "sequences.csv" not in done
    assert not (folder / "out" / "sequences.csv").exists()


def test_sequences_by_column(run, folder):
    cells = []
    for file in sorted((folder / "frames/test/images").iterdir()):
        video, number = file.stem.split("_")
        pair = {kind: str(folder / "frames/test" / kind / file.name) for kind in ("images", "masks")}
        cells.append({"frame": pair["images"], "label": pair["masks"], "clip": video, "number": int(number)})
    image, text, number = datasets.Image(), datasets.Value("string"), datasets.Value("int8")
    features = datasets.Features({"frame": image, "label": image, "clip": text, "number": number})
    table = datasets.Dataset.from_list(cells, features=features)
    datasets.DatasetDict({"test": table}).save_to_disk(str(folder / "table"))
    flags = ("--predictions", folder / "masks", "--dataset_name", folder / "table", "--output_dir", folder / "out")
    run(*flags, "--sequence_column", "clip", "--frame_column", "number")
    check(folder / "out")
    for columns, message in (
        (("clip", "nmber"), "no column nmber; it has the columns frame, label, clip, number"),
        (("number", "clip"), "is 'normal': expected a whole number"),
        (("clip", "frame"), "One column cannot be two of"),
        (("clip", "clip"), "One column cannot be two of"),
    ):
        sequence, frame = columns
        assert message in refused(run(*flags, "--sequence_column", sequence, "--frame_column", frame, status=2))


def test_of_a_model_two_processes_and_a_resumed_run_give_what_one_gives(run, folder):
    save_tiny_model(folder / "model", seed=0)
    flags = ["--model", folder / "model", "--dataset_name", folder / "frames", "--sequence_pattern", PATTERN]
    run(*flags, "--output_dir", folder / "one")
    one = (folder / "one" / "sequences.csv").read_bytes()
    assert "## Videos\n\n| 2 videos" in (folder / "one" / "README.md").read_text()

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, ROOT / "evaluation.py", *FLAGS, *flags, "--output_dir", folder / "two", "--device", "cpu"]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (folder / "two" / "sequences.csv").read_bytes() == one
    assert videos_of(folder / "two") == videos_of(folder / "one")

    (folder / "three" / "sequences.csv").mkdir(parents=True)  # in the way
    assert "sequences.csv cannot be written" in run(*flags, "--output_dir", folder / "three", status=2).stderr
    shutil.rmtree(folder / "three" / "sequences.csv")
    done = run(*flags, "--output_dir", folder / "three")
    assert "18 images scored by an interrupted run" in done.stderr
    assert (folder / "three" / "sequences.csv").read_bytes() == one
    assert videos_of(folder / "three") == videos_of(folder / "one")


def test_synthetic_clips_are_videos(run, folder, monkeypatch):
    monkeypatch.setattr("unet_kvasir_seg.data.clips.NUM_FRAMES", 14)
    save_tiny_model(folder / "model", seed=0)
    flags = ("--model", folder / "model", "--dataset_name", "synthetic-clips", "--synthetic_rows", 60)
    done = run(*flags, "--frame_rate", 25, "--output_dir", folder / "clips")
    with open(folder / "clips" / "sequences.csv", newline="", encoding="utf-8") as file:
        assert [(row["sequence"], row["frames"]) for row in csv.DictReader(file)] == [
            ("clip-0000", "14"),
            ("clip-0001", "14"),
        ]
    assert videos_of(folder / "clips")["without_polyp"] == 1
    assert "on 28 images of the test split of synthetic-clips, 341x256 pixels" in done.stdout
    assert "They are generated" not in done.stdout
    assert "The synthetic frames are generated" in (folder / "clips" / "README.md").read_text()


def test_bad_frames_are_refused_in_a_line(run, folder):
    flags = ("--predictions", folder / "masks", "--dataset_name", folder / "frames", "--sequence_pattern")
    first = r"/(?P<sequence>\w)(?:[a-z]*)_(?P<frame>\d+)$"
    for pattern, message in (
        ("(", "is no regular expression"),
        (r"(?P<sequence>.+)", "has no group frame"),
        (r"(?P<sequence>normal)_(?P<frame>\d+)", "does not fit 12 of 18 images"),
        (r"(?P<sequence>_)(?P<frame>\d+)", "6 frame numbers occur several times in a sequence: frame 0 of _"),
        (r"(?P<sequence>.+_\d+)(?P<frame>)$", "expected a whole number"),
        (r"(?P<sequence>(?P<frame>\w)\w+)", "expected a whole number"),
        (r"(?P<sequence>.+_(?P<frame>\d+))", "No sequence lasts 0.5 s"),
    ):
        assert message in refused(run(*flags, pattern, status=2)), pattern
    assert not (folder / "outputs").exists() or not list((folder / "outputs").rglob("results.json"))
    run(*flags, first)  # "n" and "p"
    Image.new("RGB", (SIZE, 2 * SIZE)).save(folder / "frames/test/images/polyp_5.png")
    Image.new("L", (SIZE, 2 * SIZE)).save(folder / "frames/test/masks/polyp_5.png")
    line = refused(run(*flags, PATTERN, status=2))
    assert "sequence polyp differ in size: 32x32 (frame 0), 32x64 (frame 5)" in line


def test_predictions_of_frames_of_one_name_are_refused(run, folder):
    for kind in ("images", "masks"):
        for video in ("case1", "case2"):
            target = folder / "nested" / "test" / kind / video
            target.mkdir(parents=True)
            for number in range(8):
                file = folder / "frames" / "test" / kind / f"polyp_{number}.png"
                Image.open(file).save(target / f"frame_{number}.png", compress_level=1 + len(list(target.iterdir())))
    flags = ("--dataset_name", folder / "nested", "--sequence_pattern", r"(?P<sequence>[^/]+)/frame_(?P<frame>\d+)$")
    line = refused(run(*flags, "--predictions", folder / "masks", status=2))
    assert "8 names stand for more than one image: frame_0, " in line
    save_tiny_model(folder / "model", seed=0)
    run(*flags, "--model", folder / "model", "--output_dir", folder / "out")
    with open(folder / "out" / "sequences.csv", newline="", encoding="utf-8") as file:
        assert [(row["sequence"], row["frames"]) for row in csv.DictReader(file)] == [("case1", "8"), ("case2", "8")]
    line = refused(run(*flags, "--model", folder / "model", "--compare_with", folder / "masks", status=2))
    assert "8 names stand for more than one image: frame_0, " in line


def test_a_video_of_one_frame_is_named_and_counted(run, tmp_path, caplog):
    write(tmp_path, {**VIDEOS, "single": [(HERE, HERE)]})
    flags = ("--predictions", tmp_path / "masks", "--dataset_name", tmp_path / "frames", "--sequence_pattern", PATTERN)
    run(*flags, "--output_dir", tmp_path / "out")
    assert "1 of 3 sequences last less than 0.5 s" in caplog.text
    videos = videos_of(tmp_path / "out")
    assert (videos["polyps"], videos["alerted"]) == (2, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sequence_column", "a"], "--sequence_column and --frame_column go together"),
        (["--frame_column", "a"], "--sequence_column and --frame_column go together"),
        (["--sequence_pattern", PATTERN, "--frame_column", "a"], "leave one out"),
        (["--sequence_pattern", PATTERN, "--frame_rate", "0"], "--frame_rate 0.0 cannot be"),
        (["--sequence_pattern", PATTERN, "--frame_rate", "1e-300"], "from 0.001 to 10,000"),
        (["--sequence_pattern", PATTERN, "--frame_rate", "nan"], "--frame_rate nan cannot be"),
        (["--sequence_pattern", PATTERN, "--frame_rate", "inf"], "--frame_rate inf cannot be"),
        (["--sequence_pattern", PATTERN, "--alert_seconds", "-1"], "--alert_seconds -1.0 is no time"),
        (["--sequence_pattern", PATTERN, "--alert_seconds", "nan"], "--alert_seconds nan is no time"),
        (["--sequence_pattern", PATTERN, "--tune_peak_on", "test"], "name another split"),
        ([], "--frame_rate is for videos"),
        (["--frame_rate", "25", "--alert_seconds", "1"], "--alert_seconds is for videos"),
    ],
)
def test_impossible_flags_are_refused(run, folder, flags, message):
    assert message in refused(run("--dataset_name", folder / "frames", *flags, status=2))


def test_the_default_is_the_trackers():
    assert EvaluationArguments().alert_seconds == ALERT_SECONDS
