"""Which images to label next: the measure by hand, the choice among known candidates, and `predict.py --select`."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg import predict
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.frame_hashes import BITS, MAX_DISTANCE, frame_hash
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.arguments import PredictArguments, flags_without_effect
from unet_kvasir_seg.inference.image_run import encode_png
from unet_kvasir_seg.inference.inputs import Inputs, Source
from unet_kvasir_seg.inference.output_folder import RECORD, read_record
from unet_kvasir_seg.inference.prediction import Prediction
from unet_kvasir_seg.inference.selection import Candidate, Known, Request, choose

NOTHING_KNOWN = Known(frozenset(), np.zeros((0, BITS), bool))


def prediction(values: list[list[float]], **how) -> Prediction:
    probability = np.array(values, np.float32)
    return Prediction(probability, probability, 0.5, **how)


def test_uncertainty_by_hand():
    # Marked are 0.8 and 0.6: soft Dice 2 * 1.4 / (1.5 + 2) = 0.8, times a presence of 0.8.
    assert prediction([[0.8, 0.6], [0.1, 0.0]]).uncertainty == pytest.approx(1 - 0.8 * 0.8, abs=1e-6)
    # Nothing is marked, and with a probability of 0.3 that is wrong.
    assert prediction([[0.3, 0.2]]).uncertainty == pytest.approx(0.3, abs=1e-6)
    assert prediction([[0.0, 0.0]]).uncertainty == 0
    assert prediction([[1.0, 0.0]]).uncertainty == 0
    # A peak threshold that drops the region makes the frame one where something is likely and nothing is marked.
    assert prediction([[0.9, 0.0]], peak_threshold=0.95).uncertainty == pytest.approx(0.9, abs=1e-6)
    # Calibrated to sigmoid(0 * logit + 0) = 0.5: of a sure mask half is expected.
    assert prediction([[1.0, 0.0]], presence_calibration=[0.0, 0.0]).uncertainty == pytest.approx(0.5, abs=1e-5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Unrelated frames, and a copy of the first one, nearly unchanged."""
    folder = tmp_path_factory.mktemp("pictures")
    images = [pair["image"] for pair in generate(9, 64, seed=4)]
    paths = [folder / f"{number}.png" for number in range(9)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    images[0].save(folder / "again.jpg", quality=60)
    return [*paths, folder / "again.jpg"]


def candidate(path: Path, uncertainty: float, presence: float = 1.0, is_marked: bool = True) -> Candidate:
    return Candidate(Source(str(path), path.name), path.name, path.stem, presence, uncertainty, is_marked)


def names(selection) -> list[str]:
    return [choice.candidate.source.name for choice in selection.choices]


def test_the_most_uncertain_are_chosen_in_order(pictures):
    found = [candidate(path, score) for path, score in zip(pictures, (0.1, 0.9, 0.5, 0.9, 0.2), strict=False)]
    selection = choose(found, Request(3, "uncertainty"), NOTHING_KNOWN)
    assert names(selection) == ["1.png", "3.png", "2.png"]
    assert names(choose(found, Request(9, "uncertainty"), NOTHING_KNOWN))[3:] == ["4.png", "0.png"]
    known = Known(frozenset({"1", "2"}), NOTHING_KNOWN.hashes)
    assert names(choose(found, Request(3, "uncertainty"), known)) == ["3.png", "4.png", "0.png"]


def test_a_diverse_choice_weighs_uncertainty_by_the_distance_to_what_is_chosen(pictures):
    scores = (0.9, 0.5, 0.52, 0.48, 0.5, 0.49, 0.51, 0.47, 0.5)
    found = [candidate(path, score) for path, score in zip(pictures[:9], scores, strict=True)]
    bits = [frame_hash(Image.open(path)) for path in pictures[:9]]
    expected, left = [0], list(range(1, 9))
    while len(expected) < 5:  # nobody's presence is near a half: the fifth place is like the others
        nearest = {i: min(256, *(sum(bits[i] != bits[j]) for j in expected)) for i in left}
        best = max(left, key=lambda i: scores[i] * (nearest[i] - MAX_DISTANCE))
        expected.append(best)
        left.remove(best)
    assert names(choose(found, Request(5, "diverse"), NOTHING_KNOWN)) == [f"{i}.png" for i in expected]
    assert expected != sorted(range(9), key=lambda i: -scores[i])[:5]


def test_near_duplicates_are_left_out(pictures):
    found = [candidate(path, 0.9 if path.stem in ("0", "again") else 0.1) for path in (*pictures[:4], pictures[9])]
    selection = choose(found, Request(5, "diverse"), NOTHING_KNOWN)
    assert names(selection)[0] == "0.png"
    assert set(names(selection)) == {"0.png", "1.png", "2.png", "3.png"}
    assert selection.near_duplicates == 1
    known = Known.of([Source(str(pictures[9]), "labelled.jpg")])
    selection = choose(found[:4], Request(5, "diverse"), known)
    assert set(names(selection)) == {"1.png", "2.png", "3.png"}
    assert selection.near_duplicates == 1


def test_each_fifth_place_is_for_a_presence_near_a_half(pictures):
    found = [candidate(path, 0.9, presence=0.99) for path in pictures[:6]]
    found += [candidate(pictures[6], 0.01, 0.3), candidate(pictures[7], 0.01, 0.55), candidate(pictures[8], 0.01, 0.2)]
    selection = choose(found, Request(5, "diverse"), NOTHING_KNOWN)
    assert names(selection)[4] == "7.png"
    assert [choice.why for choice in selection.choices] == ["the outline is uncertain"] * 4 + ["presence near a half"]
    assert candidate(pictures[0], 0.9, 0.9, is_marked=False).why == "nothing is marked"


def test_a_random_choice_is_that_of_its_seed(pictures):
    found = [candidate(path, 0.5) for path in pictures]
    first, again, other = (names(choose(found, Request(6, "random", seed), NOTHING_KNOWN)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 6
    selection = choose(found, Request(10, "random"), NOTHING_KNOWN)  # 0.png and again.jpg are near-duplicates
    assert len(names(selection)) == 9
    assert len({"0.png", "again.jpg"} & set(names(selection))) == 1
    assert selection.near_duplicates == 1
    assert {choice.why for choice in selection.choices} == {"random"}


def test_an_image_that_is_gone_is_named(pictures, tmp_path):
    found = [candidate(pictures[0], 0.5), candidate(tmp_path / "gone.png", 0.9)]
    selection = choose(found, Request(2, "diverse"), NOTHING_KNOWN)
    assert names(selection) == ["0.png"]
    (failure,) = selection.failures
    assert "gone.png: cannot be read (No such file or directory), so it was not selected" in str(failure)


@pytest.fixture(scope="module")
def frames(pictures, tmp_path_factory) -> Path:
    """Frames in two folders, with the same names."""
    folder = tmp_path_factory.mktemp("frames")
    for number, path in enumerate(pictures[:8]):
        case = folder / f"case{number % 2}"
        case.mkdir(exist_ok=True)
        shutil.copy(path, case / f"{number // 2}.png")
    return folder


@pytest.fixture
def run(run_command, model):
    def run(*arguments: object, status: int = 0):
        flags = ("--device", "cpu", "--dtype", "float32", "--model", model, "--output_dir", "out")
        return run_command(predict.main, *flags, *arguments, status=status)

    return run


def selected(output: Path) -> list[dict[str, str]]:
    with open(output / "selected.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def copies(output: Path) -> set[str]:
    folder = output / "selected"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_table_and_the_copies(run, frames, tmp_path):
    done = run(frames, "--select", "3", "--select_by", "uncertainty", "--select_copy")
    rows = selected(tmp_path / "out")
    assert "out/selected.csv: 3 of 8 images to label next (uncertainty)." in done.stdout
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    with open(tmp_path / "out" / "images.csv", newline="", encoding="utf-8") as file:
        scores = {row["image"]: (row["uncertainty"], row["presence"]) for row in csv.DictReader(file)}
    assert len(scores) == 8
    expected = sorted(scores, key=lambda name: -float(scores[name][0]))[:3]
    assert [row["image"] for row in rows] == expected
    assert [(row["uncertainty"], row["presence"]) for row in rows] == [scores[name] for name in expected]
    assert copies(tmp_path / "out") == set(expected)
    for name in expected:
        assert (tmp_path / "out" / "selected" / name).read_bytes() == (frames / name).read_bytes()

    # The same again writes the same; another choice would mix with the copies, and loses nothing.
    before = (tmp_path / "out" / "selected.csv").read_bytes()
    (tmp_path / "out" / "selected" / ".DS_Store").touch()  # as a Mac does where a folder was looked at
    assert "8 before" in run(frames, "--select", "3", "--select_by", "uncertainty", "--select_copy").stdout
    (tmp_path / "out" / "selected" / "notes.json").write_text("{}")
    refused = run(frames, "--select", "3", "--select_by", "uncertainty", "--select_copy", status=2).stderr
    assert "notes.json" in refused
    assert "Move" in refused
    assert (tmp_path / "out" / "selected.csv").read_bytes() == before
    assert copies(tmp_path / "out") == {*expected, "notes.json", ".DS_Store"}


def test_what_is_labelled_is_not_chosen_again(run, frames, tmp_path):
    run(frames, "--select", "3", "--select_copy")
    first = {row["image"] for row in selected(tmp_path / "out")}
    shutil.move(tmp_path / "out" / "selected", tmp_path / "labelled")
    done = run(frames, "--select", "100", "--select_copy", "--select_not", "labelled")
    assert {row["image"] for row in selected(tmp_path / "out")} | first == scores_of(frames)
    assert len(selected(tmp_path / "out")) == 5
    assert "5 of 8 images to label next (random)" in done.stdout
    assert "--select 100 asks for more images than there are to choose from." in done.stdout


def scores_of(frames: Path) -> set[str]:
    return {path.relative_to(frames).as_posix() for path in frames.rglob("*.png")}


def test_a_stopped_run_loses_no_uncertainty(run, frames, tmp_path):
    """What an earlier run has done is among the candidates, and what an earlier version has done is done again."""
    run(frames / "case0")
    masks = tmp_path / "out" / "masks"
    old = masks / "0.png"
    record = read_record(old)
    assert record is not None
    with Image.open(old) as image:
        image.load()
        without = {name: value for name, value in record.items() if name != "uncertainty"}
        old.write_bytes(encode_png(image, json.dumps(without)))
    assert "4 before" in run(frames / "case0").stdout  # it is enough for the usual outputs
    assert RECORD.encode() in old.read_bytes()
    assert read_record(old) == without
    done = run(frames / "case0", "--select", "4", "--select_by", "uncertainty")
    assert "1 image (" in done.stdout
    assert "3 before" in done.stdout
    again = read_record(old)
    assert again is not None
    assert again["uncertainty"] == pytest.approx(record["uncertainty"], abs=1e-5)  # a batch differs by a rounding
    assert again.keys() == record.keys()
    assert len(selected(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--select", "0"), "--select 0 is too few: expected 1 or more images"),
        (("--select", "3", "--select_by", "guess"), "expected random, uncertainty, diverse"),
        (("--select_copy", "--select_by", "diverse"), "--select_by and --select_copy without --select"),
        (("--select", "3", "--select_not", "nowhere"), "no file or folder nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(run, frames, tmp_path, flags, message):
    assert message in run(frames, *flags, status=2).stderr
    assert not (tmp_path / "out" / "masks").exists()


def test_frames_of_videos_are_not_selected(frames):
    arguments = PredictArguments(select=3)
    image, video = Source("a.png", "a.png"), Source("b.mp4", "b.mp4")
    (line,) = flags_without_effect(Inputs([image, video], [], []), arguments)
    assert "not among the frames of 1 video" in line
    with pytest.raises(UserError, match="--select chooses among images, and there is none among the inputs"):
        flags_without_effect(Inputs([video], [], []), arguments)


def test_an_unreadable_labelled_image_is_named(run, frames, tmp_path):
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "broken.png").write_bytes(b"no image")
    refused = run(frames, "--select", "3", "--select_not", "labelled", status=2).stderr
    assert "--select_not: labelled/broken.png" in refused
    assert not (tmp_path / "out" / "selected.csv").exists()


def test_an_image_that_fails_is_no_candidate(run, frames, tmp_path):
    shutil.copytree(frames, tmp_path / "mixed")
    (tmp_path / "mixed" / "broken.png").write_bytes(b"no image")
    run("mixed", "--select", "9", status=1)
    assert {row["image"] for row in selected(tmp_path / "out")} == scores_of(frames)


def test_a_table_that_cannot_be_written_is_named(run, frames, tmp_path):
    (tmp_path / "out" / "selected.csv").mkdir(parents=True)
    refused = run(frames, "--select", "3", status=2).stderr
    assert "out/selected.csv cannot be written: Is a directory. What was done is kept" in refused
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 8


def test_a_report_alone_selects_nothing(run_command, run, frames):
    run(frames)
    refused = run_command(predict.main, "--report", "--output_dir", "out", "--select", "3", status=2).stderr
    assert "--select 3 changes nothing without INPUT" in refused
