"""Groups of images, as the frames of one patient, are resampled as wholes: by enumeration, and by doubling frames."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("py_sod_metrics", reason="needs the extra [evaluation]")
pytest.importorskip("monai", reason="needs the extra [evaluation]")

from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.scoring.image_scores import ImageScores, score_image
from unet_kvasir_seg.scoring.intervals import compare_paired, mean_and_interval, number_groups
from unet_kvasir_seg.scoring.peak import choose_peak
from unet_kvasir_seg.scoring.presence import ScoredImages, operating_point, summarise_presence
from unet_kvasir_seg.scoring.regions import find_regions
from unet_kvasir_seg.scoring.sequence_frames import sequence_groups
from unet_kvasir_seg.scoring.sequences import SequenceScores, summarise_sequences
from unet_kvasir_seg.scoring.summary import at_threshold, compare, main_scores, summarise

HOW = {"resamples": 400, "seed": 0}


def width(score: dict) -> float:
    low, high = score["ci95"]
    return high - low


def drawn(seed: int, count: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps (12, 16) of probabilities and their ground truth; every fourth shows no polyp."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(count):
        ground_truth = np.zeros((12, 16), bool)
        if index % 4:
            ground_truth[2 : 6 + index % 3, 3 : 9 + index % 5] = True
        logits = 3 * ground_truth - 1.5 + rng.normal(0, 1.4, ground_truth.shape)
        pairs.append(((1 / (1 + np.exp(-logits))).astype(np.float32), ground_truth))
    return pairs


def scored(seed: int) -> list[ImageScores]:
    return [
        score_image(f"frame {index}", probability, ground_truth, threshold=0.5, tolerance=2)
        for index, (probability, ground_truth) in enumerate(drawn(seed))
    ]


def doubled(images: list[ImageScores]) -> list[ImageScores]:
    """Each image and, right behind it, its copy."""
    return [replace(image, name=f"{image.name}{copy}") for image in images for copy in ("", " again")]


def scores_in(found: object, place: str = "") -> dict[str, list[float]]:
    """Every interval in nested results, with the place where it is."""
    if isinstance(found, dict) and "ci95" in found:
        return {place: found["ci95"]}
    parts = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return {name: ci95 for key, part in parts for name, ci95 in scores_in(part, f"{place}.{key}").items()}


def test_the_interval_is_that_of_all_resamples_of_groups():
    """Of 4 groups with 1 to 3 images, 256 draws; each weighs its images alike."""
    groups = {"a": [0.9], "b": [0.2, 0.4], "c": [0.6, 0.7, 0.5], "d": [1.0, 0.1]}
    means = np.sort([np.mean([*itertools.chain(*draw)]) for draw in itertools.product(groups.values(), repeat=4)])
    names = [name for name, values in groups.items() for _ in values]
    values = [value for part in groups.values() for value in part]
    found = mean_and_interval(values, resamples=40_000, groups=names)
    assert found["value"] == pytest.approx(np.mean(values))
    for bound, share in zip(found["ci95"], (0.025, 0.975), strict=True):
        low, high = np.quantile(means, [share - 0.004, share + 0.004], method="inverted_cdf")
        assert low - 1e-12 <= bound <= high + 1e-12


def test_doubling_every_frame_changes_no_interval_where_groups_are_known():
    values = np.random.default_rng(0).beta(6, 2, 30)
    twice, names = np.repeat(values, 2), np.repeat(np.arange(30), 2)
    alone = mean_and_interval(values)
    assert mean_and_interval(twice, groups=names)["ci95"] == pytest.approx(alone["ci95"])
    assert width(mean_and_interval(twice)) == pytest.approx(width(alone) / 2**0.5, rel=0.06)  # it looks surer


def test_doubling_the_frames_of_one_group_does_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(10), 4)
    values = np.clip(np.repeat(rng.beta(4, 2, 10), 4) + rng.normal(0, 0.02, 40), 0, 1)
    before = mean_and_interval(values, groups=patients)
    for patient in (int(values.argmin()) // 4, int(values.argmax()) // 4):
        chosen = patients == patient
        more, of_more = np.concatenate([values, values[chosen]]), np.concatenate([patients, patients[chosen]])
        assert width(mean_and_interval(more, groups=of_more)) >= width(before)
    # 4 frames of a patient that score alike are little more than one.
    singles = mean_and_interval(values[::4])
    assert width(before) == pytest.approx(width(singles), rel=0.1)
    assert width(mean_and_interval(values)) < 0.6 * width(before)


def test_images_that_are_groups_of_their_own_are_resampled_as_images():
    values = np.random.default_rng(2).random(25)
    assert mean_and_interval(values, groups=[f"case {i}" for i in range(25)]) == mean_and_interval(values)
    assert compare_paired(values, values[::-1], groups=range(25)) == compare_paired(values, values[::-1])


def test_names_of_groups_do_not_matter():
    values = np.random.default_rng(2).random(9)
    first = mean_and_interval(values, groups=list("xxyyyzzzz"))
    assert first == mean_and_interval(values, groups=[7, 7, 3, 3, 3, -1, -1, -1, -1])
    assert number_groups(["b", "a", "b", 3]).tolist() == [0, 1, 0, 2]


def test_one_group_gives_an_interval_without_width():
    assert mean_and_interval([0.25, 0.75], groups=["a", "a"]) == {"value": 0.5, "ci95": [0.5, 0.5]}


def test_a_group_for_each_image_is_wanted():
    for call in (lambda groups: mean_and_interval([1, 2, 3], groups=groups),
                 lambda groups: compare_paired([1, 2, 3], [0, 0, 0], groups=groups)):  # fmt: skip
        for groups in (["a"], ["a"] * 4, []):
            with pytest.raises(ValueError, match=f"Got {len(groups)} groups of 3 images"):
                call(groups)


def test_the_paired_test_changes_the_signs_of_groups():
    # Groups with the sums 3 and -1: every change of signs gives a sum of 2 or 4, and 2 is observed.
    found = compare_paired([1, 2, -1], [0, 0, 0], resamples=2000, groups=["a", "a", "b"])
    assert found["p_value"] == 1
    # 3 groups of one sign, with the sums 3, 1 and 4: of 8 sign changes, 2 reach 8.
    found = compare_paired([1, 2, 1, 2, 2], np.zeros(5), resamples=20_000, groups=list("aabcc"))
    assert found["p_value"] == pytest.approx(2 / 8, abs=0.02)
    assert found["images"] == 5
    # As images, 2 of 32 reach it.
    assert compare_paired([1, 2, 1, 2, 2], np.zeros(5), resamples=20_000)["p_value"] == pytest.approx(2 / 32, abs=0.01)


def test_doubling_every_frame_changes_no_paired_test():
    rng = np.random.default_rng(3)
    first, second = rng.beta(6, 2, (2, 20))
    groups = np.arange(20) // 2
    once = compare_paired(first, second, groups=groups)
    twice = compare_paired(np.repeat(first, 2), np.repeat(second, 2), groups=np.repeat(groups, 2))
    assert twice["p_value"] == once["p_value"]
    assert twice["ci95"] == pytest.approx(once["ci95"])


def test_doubling_every_frame_changes_no_score_of_a_data_set():
    images, groups = scored(0), np.array([0, 0, 1, 2, 2, 2, 3, 3, 4, 5, 5, 5])
    once = scores_in(summarise(images, **HOW, groups=groups))
    twice = scores_in(summarise(doubled(images), **HOW, groups=np.repeat(groups, 2)))
    kinds = {place.split(".")[1] for place in once}
    assert kinds == {"metrics", "strata", "lesions", "without_polyp"}
    assert once.keys() == twice.keys()
    for place, ci95 in once.items():
        assert twice[place] == pytest.approx(ci95), place
    assert scores_in(at_threshold(images, 0.5, **HOW, groups=groups)).keys() == {
        ".dice_per_image_native",
        ".iou_per_image_native",
    }
    for measure in (
        lambda found, of: at_threshold(found, 0.5, **HOW, groups=of),
        lambda found, of: main_scores(found, **HOW, groups=of),
    ):
        alike, again = measure(images, groups), measure(doubled(images), np.repeat(groups, 2))
        assert scores_in(alike)[".dice_per_image_native"] == pytest.approx(once[".metrics.dice_per_image_native"])
        assert scores_in(again)[".iou_per_image_native"] == pytest.approx(once[".metrics.iou_per_image_native"])
    others = scored(1)
    found = compare(images, others, **HOW, groups=groups)["dice_per_image_native"]
    again = compare(doubled(images), doubled(others), **HOW, groups=np.repeat(groups, 2))["dice_per_image_native"]
    assert (again["p_value"], again["ci95"]) == (found["p_value"], pytest.approx(found["ci95"]))


def test_doubling_every_frame_changes_no_measure_of_presence():
    regions = [find_regions(probability, ground_truth, 0.5) for probability, ground_truth in drawn(4)]
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    windows, frames = regions[::4] * 2, [1, 5, 9, 1, 5, 9]
    once = ScoredImages.of(regions, windows, frames, groups)
    # Frame i is now at 2 i and 2 i + 1, and each window comes twice.
    twice = ScoredImages.of(
        [one for one in regions for _ in range(2)],
        [one for one in windows for _ in range(2)],
        [2 * frame + copy for frame in frames for copy in range(2)],
        np.repeat(groups, 2),
    )
    assert once.groups.tolist() == [*groups, 0, 2, 4, 0, 2, 4]
    for measure in (
        lambda images: operating_point(images, [None] * len(images.regions), **HOW),
        lambda images: summarise_presence(images, None, **HOW),
    ):
        first, second = scores_in(measure(once)), scores_in(measure(twice))
        assert first
        for place, ci95 in first.items():
            assert second[place] == pytest.approx(ci95), place


def test_frames_of_another_data_set_are_groups_of_their_own():
    regions = [find_regions(probability, ground_truth, 0.5) for probability, ground_truth in drawn(5, count=4)]
    images = ScoredImages.of(regions, regions[:2], groups=["a", "b", "a", "a"])
    assert images.groups.tolist() == [0, 1, 0, 0, 2, 3]


def test_no_group_is_in_both_halves_that_a_peak_is_chosen_on():
    regions = [find_regions(probability, ground_truth, 0.5) for probability, ground_truth in drawn(6, count=40)]
    groups = np.arange(40) // 5
    images = ScoredImages.of(regions, groups=groups)
    how = {"split": "v", "fingerprint": "", "sensitivity": 0.9, "threshold": 0.5}
    choice = choose_peak(images, **how, cross_fit=True, **HOW)
    assert choice.halves[0] != choice.halves[1]
    of_groups = [set(choice.peaks[groups == group]) for group in range(8)]
    assert [len(found) for found in of_groups] == [1] * 8
    assert sum(found == {choice.halves[0]} for found in of_groups) == 4


def test_videos_of_one_group_are_resampled_together():
    def video(delay: float) -> SequenceScores:
        return SequenceScores(8, 0.8, 1, (delay,), 1, 0, 0.5, True)

    videos, groups = [video(1), video(2), video(5)], [0, 1, 1]
    once = scores_in(summarise_sequences(videos, **HOW, groups=groups))
    twice = scores_in(summarise_sequences([*videos, *videos], **HOW, groups=groups * 2))
    assert once[".median_delay_seconds"] == [1, 3.5]  # the first group twice, or the second: 2, 5, 2, 5
    assert twice == {place: pytest.approx(ci95) for place, ci95 in once.items()}


def test_a_video_of_two_groups_is_refused():
    sequences = {"one": [(0, 0), (1, 1)], "two": [(0, 2), (5, 3)]}
    assert sequence_groups(sequences, np.array([4, 4, 1, 1])) == [4, 1]
    assert sequence_groups(sequences, None) is None
    with pytest.raises(UserError, match="1 sequence are of more than one group: two"):
        sequence_groups(sequences, np.array([4, 4, 1, 2]))
