"""Several data sets in one folder: their scores worked out by hand, and what one that fails costs the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("monai", reason='the scores need pip install -e ".[evaluation]"')

from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.mask_rules import USUAL_MASKS
from unet_kvasir_seg.common.processes import OneProcess
from unet_kvasir_seg.common.split_rules import SplitRules
from unet_kvasir_seg.scoring.kept_scores import KeptScores
from unet_kvasir_seg.scoring.run import Protocol, Work
from unet_kvasir_seg.scoring.sources import InvalidRunError, Maps
from unet_kvasir_seg.scoring.test_sets import load_sets, public_names, write_test_sets_csv

SIDE = 8
PROTOCOL = Protocol(resamples=200)


class BrightnessSource:
    """Takes the grey level of a pixel for the probability of polyp."""

    name = public_name = "brightness"
    seconds = 0.0
    peak_threshold = None
    identity = ("brightness",)

    def predict(self, samples):
        return [Maps(np.asarray(one.image.convert("L"), dtype=np.float32) / 255, None) for one in samples]


class NoSource(BrightnessSource):
    """Predicts nothing anywhere."""

    name = public_name = "nothing"
    identity = ("nothing",)

    def predict(self, samples):
        return [Maps(np.zeros(one.ground_truth.shape, dtype=np.float32), None) for one in samples]


def columns(first: int, last: int) -> np.ndarray:
    """White between two columns, of 8 by 8 pixels."""
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[:, first:last] = 255
    return mask


def save(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for kind, pixels in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")


@pytest.fixture
def folder(tmp_path) -> Path:
    """CVC-300 with a frame that is found and one that is found by half; Kvasir with one that is missed."""
    folder = tmp_path / "TestDataset"
    save(folder / "CVC-300", "1", columns(0, 2), columns(0, 2))
    save(folder / "CVC-300", "2", columns(1, 3), columns(0, 2))
    save(folder / "Kvasir", "1", columns(0, 0), columns(0, 2))
    return folder


def load(folder: Path, **how):
    return load_sets(folder, USUAL_MASKS, **how)


def score(sets, tmp_path: Path, source=None, other=None, protocol: Protocol = PROTOCOL) -> dict:
    work = Work(OneProcess(), KeptScores(tmp_path))
    return sets.score(source or BrightnessSource(), other, protocol, work)


def values(scores: dict) -> dict[str, float]:
    return {name: score["value"] for name, score in scores.items()}


def test_scores_of_each_set_and_their_mean(folder, tmp_path):
    section = score(load(folder), tmp_path)
    first, second = section["sets"]
    assert [(one["name"], one["images"]) for one in section["sets"]] == [("CVC-300", 2), ("Kvasir", 1)]
    # Of 16 pixels each, the frames of CVC-300 find 16 and 8, and mark 0 and 8 that are none: Dice 1 and 1/2, IoU 1 and
    # 1/3, pooled 2 * 24 / (2 * 24 + 8 + 8). At the lowest of 256 thresholds the whole frame is marked: Dice
    # 2 * 16 / (16 + 64).
    expected = {
        "dice_per_image_native": 0.75,
        "dice_pooled_native": 0.75,
        "iou_per_image_native": 2 / 3,
        "dice_256_thresholds_minmax_native": (0.4 + 255 * 0.75) / 256,
    }
    assert values(first["scores"]) == pytest.approx(expected)
    missed = dict.fromkeys(expected, 0.0) | {"dice_256_thresholds_minmax_native": 0.4 / 256}
    assert values(second["scores"]) == pytest.approx(missed)
    # Each set weighs the same, though one has twice the images.
    means = {name: (expected[name] + missed[name]) / 2 for name in expected}
    assert values(section["mean"]) == pytest.approx(means)
    # A resample of CVC-300 has the first frame twice, the second twice, or both: 1, 0.5 or 0.75. Kvasir's is 0.
    assert first["scores"]["dice_per_image_native"]["ci95"] == [0.5, 1.0]
    assert section["mean"]["dice_per_image_native"]["ci95"] == [0.25, 0.5]
    assert (section["threshold"], section["peak_threshold"], section["failed"]) == (0.5, None, [])


def test_pooled_dice_weighs_pixels(folder, tmp_path):
    save(folder / "CVC-300", "3", columns(0, 8), columns(0, 8))  # 64 pixels, all found
    scores = values(score(load(folder), tmp_path)["sets"][0]["scores"])
    assert scores["dice_per_image_native"] == pytest.approx(2.5 / 3)
    assert scores["dice_pooled_native"] == pytest.approx(2 * 88 / (2 * 88 + 8 + 8))


def test_a_set_has_the_same_scores_whatever_lies_beside_it(folder, tmp_path):
    both = score(load(folder), tmp_path)["sets"][0]
    save(folder / "A", "1", columns(0, 2), columns(0, 2))
    assert score(load(folder), tmp_path)["sets"][1] == both


def test_an_image_of_another_size_is_resized_to_its_mask(folder, tmp_path):
    image = np.kron(columns(0, 2), np.ones((3, 3), dtype=np.uint8))
    save(folder / "ETIS-LaribPolypDB", "1", image, columns(0, 2))
    entry = score(load(folder), tmp_path)["sets"][1]
    assert entry["name"] == "ETIS-LaribPolypDB"
    assert entry["scores"]["dice_per_image_native"]["value"] == 1
    save(folder / "ETIS-LaribPolypDB", "1", image[:, :20], columns(0, 2))  # other proportions
    sets = load(folder)
    assert score(sets, tmp_path)["failed"] == ["ETIS-LaribPolypDB"]
    assert "measures 20x24 pixels and its mask 8x8" in sets.failures["ETIS-LaribPolypDB"]


def test_a_link_to_nowhere_and_a_folder_without_pairs_lose_no_other_set(folder, tmp_path):
    (folder / "gone").symlink_to("nowhere")
    (folder / "half" / "images").mkdir(parents=True)
    (folder / "half" / "masks").mkdir()
    Image.fromarray(columns(0, 2)).save(folder / "half" / "images" / "1.png")
    sets = load(folder)
    assert "is a link to nowhere, which is not there" in sets.failures["gone"]
    assert sets.failures["half"].endswith("metadata.jsonl with file_name and mask_file_name.")
    assert sorted(score(sets, tmp_path)["failed"]) == ["another set 1", "another set 2"]


def test_masks_saved_as_jpeg_are_read_by_their_two_levels(folder, tmp_path):
    """As the field's files have them: noise around 0 and 255."""
    mask = columns(0, 2).astype(int) + np.arange(SIDE)[:, None] * np.where(columns(0, 2) > 0, -1, 1)
    save(folder / "CVC-ClinicDB", "1", columns(0, 2), mask.astype(np.uint8))
    entry = score(load(folder), tmp_path)["sets"][1]
    assert values(entry["scores"])["dice_per_image_native"] == 1


def test_one_set_that_fails_does_not_lose_the_others(folder, tmp_path):
    before = score(load(folder), tmp_path)
    save(folder / "CVC-ClinicDB", "1", columns(0, 2), columns(0, 2))
    (folder / "CVC-ClinicDB" / "images" / "1.png").write_bytes(b"no image")
    save(folder / "ward 7", "1", columns(0, 2), columns(0, 2))
    (folder / "ward 7" / "masks" / "1.png").unlink()
    (folder / "notes").mkdir()
    sets = load(folder)
    section = score(sets, tmp_path)
    assert (section["sets"], section["mean"]) == (before["sets"], before["mean"])
    assert sorted(sets.failures) == ["CVC-ClinicDB", "notes", "ward 7"]
    assert "1.png cannot be read" in sets.failures["CVC-ClinicDB"]
    # What may be published names no folder but those of the field.
    assert sorted(section["failed"]) == ["CVC-ClinicDB", "another set 1", "another set 2"]
    assert "ward" not in str(section)

    write_test_sets_csv(sets, section, tmp_path / "sets.csv")
    lines = (tmp_path / "sets.csv").read_text().splitlines()
    assert lines[0].startswith("set,images,dice_per_image_native,")
    assert lines[1].startswith("CVC-300,2,0.75,0.75,")
    assert [line.split(",")[0] for line in lines[3:]] == list(sets.failures)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "holds no folder"),
        (lambda folder: (folder / "a" / "images").mkdir(parents=True), "no data set that can be scored"),
        (lambda folder: save(folder, "1", columns(0, 2), columns(0, 2)), "is a data set itself"),
    ],
)
def test_a_folder_without_data_sets_is_refused(make, message, tmp_path):
    make(tmp_path / "sets")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "sets")


def test_sets_of_which_none_can_be_scored_are_refused_with_the_reasons(folder, tmp_path):
    for name in ("CVC-300", "Kvasir"):
        (folder / name / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"(?s)no data set that can be scored.*CVC-300: .*cannot be read.*Kvasir: "):
        score(load(folder), tmp_path)


def test_a_model_that_gives_nan_fails_them_all(folder, tmp_path):
    class Broken(BrightnessSource):
        def predict(self, samples):
            raise InvalidRunError("NaN")

    with pytest.raises(InvalidRunError):
        score(load(folder), tmp_path, Broken())


def test_two_models_are_compared_on_each_set(folder, tmp_path):
    section = score(load(folder), tmp_path, other=NoSource())
    differences = [one["difference"] for one in section["sets"]]
    assert [one["difference"] for one in differences] == [0.75, 0.0]
    assert [one["images"] for one in differences] == [2, 1]
    assert section["other"] == "nothing"


def test_groups_are_resampled_as_wholes(folder, tmp_path):
    sets = load(folder, split_rules=SplitRules(group_pattern="(.*)/"))  # all of a folder's frames are one group
    score_of_two = score(sets, tmp_path)["sets"][0]["scores"]["dice_per_image_native"]
    assert score_of_two == {"value": 0.75, "ci95": [0.75, 0.75]}


def test_the_peak_threshold_is_stated_and_counts(folder, tmp_path):
    dim = (0.6 * columns(0, 2)).astype(np.uint8)  # probability 0.6
    save(folder / "CVC-300", "3", dim, columns(0, 2))
    protocol = replace(PROTOCOL, peak_threshold=0.7)
    section = score(load(folder), tmp_path, protocol=protocol)
    assert section["peak_threshold"] == 0.7
    scores = values(section["sets"][0]["scores"])
    assert scores["dice_per_image_native"] == pytest.approx(0.5)  # 1, 0.5 and 0
    # PraNet's stretches the map to [0, 1], whatever the thresholds of the masks.
    assert scores["dice_256_thresholds_minmax_native"] == pytest.approx((0.4 + 255 * 2.5 / 3) / 256)


def test_names_that_may_be_published():
    assert public_names(["CVC-300", "ward 7"]) == {"CVC-300": "CVC-300", "ward 7": "another set"}
    assert public_names(["a", "b"]) == {"a": "another set 1", "b": "another set 2"}
