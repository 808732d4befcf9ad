"""`evaluation.py`: two at once, interruptions, and disks that cannot be written to."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, save_tiny_model
from processes import contents, finish, start, unfinished, wait_until
from unet_kvasir_seg import evaluation
from unet_kvasir_seg.common.output_lock import output_lock
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.scoring.image_scores import score_image
from unet_kvasir_seg.scoring.kept_scores import KeptScores

FLAGS = ["--dataset_name", "frames", "--resamples", 100, "--batch_size", 2, "--model", "model", "--output_dir", "out"]
SPLITS = {"train": 3, "validation": 3, "test": 5}


@pytest.fixture
def folder(tmp_path) -> Path:
    save_tiny_model(tmp_path / "model", seed=0)
    for split, count in SPLITS.items():
        write_frames(tmp_path / "frames" / split, count)
    return tmp_path


def write_frames(folder: Path, count: int) -> None:
    for kind in ("image", "mask"):
        (folder / f"{kind}s").mkdir(parents=True, exist_ok=True)
        for index, pair in enumerate(generate(count, 32, seed=count)):
            pair[kind].save(folder / f"{kind}s" / f"{index}.png")


@pytest.fixture
def run(run_command):
    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        return run_command(evaluation.main, *FLAGS, *arguments, status=status)

    return run


def results(folder: Path) -> dict:
    """Scores and tables, without times."""
    found = json.loads((folder / "out" / "results.json").read_text())
    for name in ("seconds", "model_seconds"):
        del found["evaluation"][name]
    return {"results": found, "table": (folder / "out" / "per_image.csv").read_bytes()}


def block(file: Path) -> None:
    """A folder in the place of a file, so that it cannot be written, by root neither."""
    shutil.rmtree(file, ignore_errors=True)
    (file / "in the way").mkdir(parents=True)


@pytest.mark.parametrize("file", ["per_image.csv", "figures/examples.png"])
def test_scores_outlive_a_file_that_cannot_be_written(run, folder, file):
    options = ["--tune_threshold_on", "train", "--negative_windows", 3]
    run(*options)
    uninterrupted = results(folder)
    shutil.rmtree(folder / "out")
    block(folder / "out" / file)
    done = run(*options, status=2)
    assert f"out/{file} cannot be written: " in done.stderr
    assert "Dice, mean per image" in done.stdout
    assert unfinished(folder) == []
    shutil.rmtree(folder / "out" / file)
    done = run(*options)
    assert done.stderr.count("scored by an interrupted run") == 3
    assert results(folder) == uninterrupted
    assert not (folder / "out" / ".scores").exists()


def test_scores_of_other_weights_settings_or_samples_are_not_taken(run, folder):
    block(folder / "out" / "per_image.csv")
    run(status=2)
    assert "scored by an interrupted" in run(status=2).stderr
    for change in (["--threshold", 0.4], ["--tta", "true"]):
        assert "scored by an interrupted" not in run(*change, status=2).stderr
    write_frames(folder / "frames" / "test", 6)
    assert "scored by an interrupted" not in run(status=2).stderr
    settings = folder / "model" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"height": 32', '"height": 48'))
    assert "scored by an interrupted" not in run(status=2).stderr
    shutil.rmtree(folder / "model")
    save_tiny_model(folder / "model", seed=1)
    assert "scored by an interrupted" not in run(status=2).stderr


def test_kept_scores_are_read_as_they_were_and_damaged_ones_not(tmp_path):
    kept, generator = KeptScores(tmp_path), np.random.default_rng(0)
    probability, ground_truth = generator.random((20, 30), np.float32), generator.random((20, 30)) > 0.5
    score = score_image("a\udc80", probability, ground_truth, threshold=0.5, tolerance=2.0)
    with contextlib.suppress(KeyboardInterrupt), kept.share("these") as share:
        share.scores += [score, score.regions]
        raise KeyboardInterrupt
    with kept.share("these") as share:
        for found, written in zip(share.scores, (score, score.regions), strict=True):
            assert type(found) is type(written)
            for name, value in vars(written).items():
                if isinstance(value, np.ndarray):
                    assert getattr(found, name).dtype == value.dtype
                if name != "regions":
                    np.testing.assert_equal(getattr(found, name), value)
    with kept.share("others") as share:
        assert share.scores == []
    (file,) = (tmp_path / ".scores").iterdir()
    content = file.read_bytes()
    for damaged in (content[:-9], content.replace(content[40:44], b"abcd"), b"", b"{}", content[::-1]):
        file.write_bytes(damaged)
        with kept.share("these") as share:
            assert share.scores == []


@pytest.mark.slow
def test_a_full_disk_ends_it_with_a_line_and_shows_the_scores(folder):
    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = start("evaluation.py", *FLAGS, cwd=folder, preexec_fn=limit_files, env=os.environ | {"TMPDIR": "."})
    output = finish(process, status=2)
    assert "cannot be written: File too large" in output
    assert "Dice, mean per image" in output
    assert unfinished(folder) == []


def test_an_interruption_is_one_line_and_keeps_the_scores(folder):
    write_frames(folder / "frames" / "test", 500)
    process = start("evaluation.py", *FLAGS, cwd=folder)
    seen = ""
    while not re.search(r" [1-9]\d*/500 \[[^]]*image/s", seen[-200:]):  # of the bar: some images are scored
        letter = process.stderr.read(1)
        assert letter, seen
        seen += letter
    process.send_signal(signal.SIGTERM)
    output = finish(process, status=128 + signal.SIGTERM)
    assert output.strip().splitlines()[-1] == f"evaluation.py: SIGTERM. {evaluation.KEPT}"
    assert contents(folder / "out") == {}
    assert unfinished(folder) == []
    (share,) = (folder / "out" / ".scores").iterdir()
    assert share.stat().st_size > 0


def test_a_second_evaluation_and_the_projects_folder_are_refused_before_the_work(run, folder):
    with output_lock(folder / "out", "evaluation.py"):
        done = run(status=2)
    assert "in use by evaluation.py (process" in done.stderr
    assert "image/s" not in done.stderr
    assert "the project itself" in run("--output_dir", ROOT, status=2).stderr
    assert not (ROOT / ".lock").exists()


def test_an_interruption_of_the_imports_is_one_line(folder):
    process = start("evaluation.py", *FLAGS, cwd=folder)
    wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    assert finish(process, status=128 + signal.SIGINT).strip() == f"evaluation.py: interrupted. {evaluation.KEPT}"
