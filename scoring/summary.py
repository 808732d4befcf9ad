"""From the scores of single images to the results of a data set, with 95 % intervals.

Each resample of the images is scored as a data set of its own, by the same rules, which gives every score an interval;
`intervals.py` says what it means, and how groups of images, as those of one patient, are resampled as wholes. If
ground truth and prediction are both empty, Dice, IoU, precision, recall and F2 are 1; if only one of them is empty,
they are 0. Shares of lesions, or of images, are None if there are none to count, and resamples without any are left
out of the interval.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.csv_tables import open_table, write_row
from ..common.errors import counted, some
from .image_scores import CALIBRATION_BINS, ImageScores, dice_by_level
from .intervals import (
    RESAMPLES,
    Groups,
    compare_paired,
    mean_and_interval,
    number_groups,
    resampled_sums,
    with_interval,
)
from .overlap import COUNTS, OVERLAP_SCORES, overlap_scores, ratio

# Shares of an image that its polyp pixels take: small < 5 % <= medium < 20 % <= large.
SMALL_BELOW, LARGE_FROM = 0.05, 0.20
LEVELS = np.arange(1, 256)
# A pixel has the grey level LEVELS[i] or more where its probability is above THRESHOLDS[i].
THRESHOLDS = (LEVELS - 0.5) / 255
METRICS = (
    "dice_per_image_native",
    "iou_per_image_native",
    "dice_pooled_native",
    "iou_pooled_native",
    "dice_per_image_network",
    "iou_per_image_network",
    "dice_pooled_network",
    "iou_pooled_network",
    "dice_256_thresholds_native",
    "dice_256_thresholds_minmax_native",
    "precision_per_image_native",
    "recall_per_image_native",
    "f2_per_image_native",
    "accuracy_per_image_native",
    "precision_pooled_native",
    "recall_pooled_native",
    "f2_pooled_native",
    "mae_native",
    "s_measure_native",
    "e_measure_native",
    "weighted_f_native",
    "hd95_native",
    "nsd_native",
    "ece_native",
)


def per_image_dice(images: Sequence[ImageScores]) -> np.ndarray:
    """Dice of each image at its original size, (images,)."""
    return overlap_scores(*_counts(images))["dice"]


def per_image_iou(images: Sequence[ImageScores]) -> np.ndarray:
    """IoU of each image at its original size, (images,)."""
    return overlap_scores(*_counts(images))["iou"]


MAIN_SCORES: dict[str, Callable[[Sequence[ImageScores]], np.ndarray]] = {
    "dice_per_image_native": per_image_dice,
    "iou_per_image_native": per_image_iou,
}


def area_shares(images: Sequence[ImageScores]) -> np.ndarray:
    """Share of each image's area that is polyp, (images,)."""
    return _column(images, "true_pixels") / _area(images)


def summarise(
    images: Sequence[ImageScores], resamples: int = RESAMPLES, seed: int = 0, groups: Groups = None
) -> dict[str, Any]:
    """All scores of a data set.

    Metrics and lesions share the same resamples of the images, or of their groups. Each stratum, and the images
    without polyp, are resampled on their own.

    The calibration error (Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, 2015; Guo et
    al., On Calibration of Modern Neural Networks, 2017) is the mean over all pixels of |mean probability - share of
    polyp| of the pixel's bin, for the probability of polyp, not of the likelier class. Resampling adds noise to these
    absolute values and so makes them larger: the interval is shifted upwards, and may lie above a value near 0.

    Args:
        images: Scores of the images.
        resamples, seed, groups: Of the bootstrap, as for `resampled_sums`.

    Returns:
        "metrics", "strata", "lesions", "without_polyp", "calibration" and "threshold_curve" of `results.json`.

    Raises:
        ValueError: If there is no image, only some images have scores at the input size, a score is not finite (the
            message names the image), or there is not one group for each image.
    """
    per_image = _per_image(images)
    calibration = np.stack([image.calibration for image in images])
    columns = {
        **per_image,
        "images": np.ones(len(images)),
        **_named("native", _counts(images)),
        **(_named("network", _input_counts(images)) if _at_input_size(images) else {}),
        # |mean probability - polyp share| of a bin, times its pixels, is |sum of probabilities - polyp pixels|.
        **{f"calibration_{i}": calibration[:, i, 1] - calibration[:, i, 2] for i in range(CALIBRATION_BINS)},
        "pixels": calibration[:, :, 0].sum(axis=1),
        **{name: _column(images, name) for name in ("polyps", "found_polyps", "predicted_polyps", "false_polyps")},
    }
    _check_finite(images, columns)
    resampled = resampled_sums(np.stack([*columns.values()], axis=1), resamples, seed, groups)
    sums = dict(zip(columns, resampled.T, strict=True))
    return {
        "metrics": _metrics([*per_image], sums),
        "strata": _strata(images, resamples, seed, groups),
        "lesions": _lesions(sums),
        "without_polyp": _without_polyp(images, resamples, seed, groups),
        "calibration": {"bins": _calibration_bins(calibration.sum(axis=0))},
        "threshold_curve": {
            "thresholds": THRESHOLDS.tolist(),
            "dice_per_image": _dice_by_level(images)[:, LEVELS].mean(axis=0).tolist(),
        },
    }


def main_scores(
    images: Sequence[ImageScores], resamples: int = RESAMPLES, seed: int = 0, groups: Groups = None
) -> dict[str, dict[str, Any]]:
    """Mean Dice and IoU per image, which models are compared by; arguments and errors as for `summarise`."""
    return {name: mean_and_interval(score(images), resamples, seed, groups) for name, score in MAIN_SCORES.items()}


def best_threshold(images: Sequence[ImageScores]) -> float:
    """The threshold with the best mean Dice per image, among (k - 0.5) / 255 for k = 1 to 255.

    Of several equally good ones it is the nearest to 0.5, and of two equally near ones the lower.

    Raises:
        ValueError: If there is no image.
    """
    dice = _dice_by_level(images)[:, LEVELS].mean(axis=0)
    # Means that are equal but for rounding count as equal.
    best = np.flatnonzero(dice >= dice.max() - 1e-12)
    return float(THRESHOLDS[best[np.argmin(abs(LEVELS[best] - 128))]])


def at_threshold(
    images: Sequence[ImageScores],
    threshold: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Groups = None,
) -> dict[str, dict[str, Any]]:
    """Mean Dice and IoU per image at another threshold than the one that the images were scored at.

    Args:
        images: Scores of the images.
        threshold: 0.5, or another of the 255 that `best_threshold` chooses from. Only at these are masks known, since
            the probabilities are kept in 256 levels.
        resamples, seed, groups: Of the bootstrap.

    Raises:
        ValueError: If the threshold is another, or there is no image.
    """
    nearest = int(np.argmin(abs(THRESHOLDS - threshold)))
    if not abs(THRESHOLDS[nearest] - threshold) < 1e-9:
        raise ValueError(
            f"The scores at the threshold {threshold} are not known: only those at (k - 0.5) / 255 for k = 1 to 255 "
            f"are, of which {THRESHOLDS[nearest]} is the nearest. Score the images again at {threshold}."
        )
    dice = _dice_by_level(images)[:, LEVELS[nearest]]
    return {
        "dice_per_image_native": mean_and_interval(dice, resamples, seed, groups),
        "iou_per_image_native": mean_and_interval(dice / (2 - dice), resamples, seed, groups),
    }


def compare(
    first: Sequence[ImageScores],
    second: Sequence[ImageScores],
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Groups = None,
) -> dict[str, dict[str, Any]]:
    """Compare Dice and IoU of two models on the same images, matched by name, with `compare_paired`.

    Args:
        first, second: Scores of the images by each model.
        resamples, seed: Of the bootstrap and of the test.
        groups: Of the images in the order of `first`.

    Raises:
        ValueError: If a name occurs twice, occurs in only one of the two, or has a different ground truth in each; the
            message lists the names.
    """
    ours, theirs = _by_name(first, "first"), _by_name(second, "second")
    for which, alone in (("first", ours.keys() - theirs.keys()), ("second", theirs.keys() - ours.keys())):
        if alone:
            raise ValueError(
                f"Only the {which} of the two results has {counted(len(alone), 'image')}: {some(sorted(alone))}. "
                "A paired comparison needs the same images in both."
            )
    other = [name for name in ours if _ground_truth(ours[name]) != _ground_truth(theirs[name])]
    if other:
        raise ValueError(
            f"The true masks of {counted(len(other), 'image')} differ between the two results, in size or in the "
            f"number of polyp pixels: {some(other)}. A paired comparison needs the same images in both."
        )
    matched = [theirs[name] for name in ours]
    return {
        name: dict(compare_paired(score(first), score(matched), resamples, seed, groups))
        for name, score in MAIN_SCORES.items()
    }


def write_per_image_csv(images: Sequence[ImageScores], path: Path | str) -> None:
    """Write a table with the scores of each image.

    All are at original size, apart from `dice_network` at input size, which is empty for masks from a folder.
    `area_share` is the share of the image's area that is polyp.

    Raises:
        ValueError: If a score is not finite; the message names the image.
    """
    scores = _per_image(images)
    _check_finite(images, scores)
    columns: dict[str, Sequence[Any]] = {
        "name": [image.name for image in images],
        "height": [image.height for image in images],
        "width": [image.width for image in images],
        "area_share": area_shares(images).tolist(),
        "polyps": [image.polyps for image in images],
        **{name: scores[f"{name}_per_image_native"].tolist() for name in OVERLAP_SCORES},
        "accuracy": scores["accuracy_per_image_native"].tolist(),
        "dice_network": scores["dice_per_image_network"].tolist() if _at_input_size(images) else [""] * len(images),
        **{
            name: scores[f"{name}_native"].tolist()
            for name in ("mae", "s_measure", "e_measure", "weighted_f", "hd95", "nsd")
        },
        **{
            name: [getattr(image, name) for image in images]
            for name in ("found_polyps", "predicted_polyps", "false_polyps")
        },
    }
    with open_table(Path(path)) as table:
        for row in (columns, *zip(*columns.values(), strict=True)):
            write_row(table, list(row), line_end="\n")


def _per_image(images: Sequence[ImageScores]) -> dict[str, np.ndarray]:
    """The metrics that are means over images, (images,) each."""
    scores = {f"{name}_per_image_native": values for name, values in overlap_scores(*_counts(images)).items()}
    if _at_input_size(images):
        network = overlap_scores(*_input_counts(images))
        scores |= {f"{name}_per_image_network": network[name] for name in ("dice", "iou")}
    _, fp, fn = _counts(images)
    return scores | {
        "accuracy_per_image_native": 1 - (fp + fn) / _area(images),
        "dice_256_thresholds_native": _dice_by_level(images).mean(axis=1),
        "dice_256_thresholds_minmax_native": _column(images, "minmax_dice"),
        "mae_native": _column(images, "absolute_error"),
        "s_measure_native": _column(images, "s_measure"),
        "e_measure_native": _column(images, "e_measure"),
        "weighted_f_native": _column(images, "weighted_f"),
        "hd95_native": _column(images, "hd95"),
        "nsd_native": _column(images, "nsd"),
    }


def _metrics(per_image: Sequence[str], sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """All metrics with their intervals, from sums over the images and over each resample, (1 + resamples,) each."""
    scores = {name: sums[name] / sums["images"] for name in per_image}
    pooled = overlap_scores(*(sums[f"{name}_native"] for name in COUNTS))
    scores |= {f"{name}_pooled_native": values for name, values in pooled.items()}
    if "tp_network" in sums:
        pooled = overlap_scores(*(sums[f"{name}_network"] for name in COUNTS))
        scores |= {f"{name}_pooled_network": pooled[name] for name in ("dice", "iou")}
    scores["ece_native"] = sum(abs(sums[f"calibration_{i}"]) for i in range(CALIBRATION_BINS)) / sums["pixels"]
    return {name: with_interval(scores[name]) for name in METRICS if name in scores}


def _strata(images: Sequence[ImageScores], resamples: int, seed: int, groups: Groups) -> dict[str, Any]:
    """Scores by the size and by the number of the polyps, of the images with polyp."""
    shows_polyp = _column(images, "true_pixels") > 0
    with_polyp = [image for image in images if image.true_pixels]
    polyp_groups = _groups_of(groups, shows_polyp)
    shares = area_shares(with_polyp)
    numbers = _column(with_polyp, "polyps")
    strata = {
        "size": {
            "small": shares < SMALL_BELOW,
            "medium": (shares >= SMALL_BELOW) & (shares < LARGE_FROM),
            "large": shares >= LARGE_FROM,
        },
        "polyps": {"one": numbers == 1, "two": numbers == 2, "three or more": numbers >= 3},
    }
    scores = overlap_scores(*_counts(with_polyp))
    return {
        kind: {
            name: {
                "images": int(chosen.sum()),
                "metrics": {
                    f"{score}_per_image_native": mean_and_interval(
                        scores[score][chosen], resamples, seed, _groups_of(polyp_groups, chosen)
                    )
                    for score in ("dice", "iou", "recall")
                    if chosen.any()
                },
            }
            for name, chosen in parts.items()
        }
        for kind, parts in strata.items()
    }


def _lesions(sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """Detection of polyps as connected regions, from the sums over the images and over each resample."""
    true, found, predicted, false = (
        sums[name] for name in ("polyps", "found_polyps", "predicted_polyps", "false_polyps")
    )
    return {
        "true": int(true[0]),
        "found": int(found[0]),
        "predicted": int(predicted[0]),
        "false": int(false[0]),
        "sensitivity": with_interval(ratio(found, true)),
        "precision": with_interval(ratio(predicted - false, predicted)),
        "false_per_image": with_interval(false / sums["images"]),
    }


def _without_polyp(images: Sequence[ImageScores], resamples: int, seed: int, groups: Groups) -> dict[str, Any]:
    """How many images without polyp get a false alarm, of one pixel or more, and the share of the image it covers."""
    empty = [image for image in images if not image.true_pixels]
    _, fp, _ = _counts(empty)
    alarms = fp > 0
    empty_groups = _groups_of(groups, _column(images, "true_pixels") == 0)
    return {
        "images": len(empty),
        "false_alarms": int(alarms.sum()),
        "share": mean_and_interval(alarms, resamples, seed, empty_groups) if empty else None,
        "area_share": float((fp / _area(empty))[alarms].mean()) if alarms.any() else None,
    }


def _groups_of(groups: Groups, chosen: np.ndarray) -> Groups:
    """The groups of some images, which (images,) bool says."""
    return None if groups is None else number_groups(groups)[chosen]


def _calibration_bins(bins: np.ndarray) -> list[dict[str, Any]]:
    """The reliability diagram's bins of probability, from (bins, 3): pixels, sum of probabilities, polyp pixels."""
    edges = np.linspace(0, 1, len(bins) + 1)
    return [
        {
            "low": float(low),
            "high": float(high),
            "pixels": int(pixels),
            "mean_probability": float(probability / pixels) if pixels else None,
            "polyp_share": float(polyp / pixels) if pixels else None,
        }
        for low, high, (pixels, probability, polyp) in zip(edges, edges[1:], bins, strict=False)
    ]


def _dice_by_level(images: Sequence[ImageScores]) -> np.ndarray:
    """Dice of each image's mask {level >= k} for k = 0 to 255, (images, 256)."""
    if not images:
        raise ValueError("There is no image to score; expected at least one.")
    polyp = np.stack([image.polyp_levels for image in images])
    return dice_by_level(polyp, np.stack([image.background_levels for image in images]))


def _at_input_size(images: Sequence[ImageScores]) -> bool:
    """Whether the images have scores at the input size too.

    Raises:
        ValueError: If some have and some have not.
    """
    without = [image.name for image in images if image.input_counts is None]
    if 0 < len(without) < len(images):
        raise ValueError(
            f"{len(without)} of {len(images)} images have no scores at the input size: {some(without)}. "
            "Score all images with it or none."
        )
    return not without


def _counts(images: Sequence[ImageScores]) -> np.ndarray:
    """True positives, false positives and false negatives at original size, (3, images)."""
    return np.array([image.counts for image in images], dtype=np.float64).reshape(-1, 3).T


def _input_counts(images: Sequence[ImageScores]) -> np.ndarray:
    """The same at the input size."""
    return np.array([image.input_counts for image in images], dtype=np.float64).reshape(-1, 3).T


def _named(size: str, counts: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}_{size}": column for name, column in zip(COUNTS, counts, strict=True)}


def _column(images: Sequence[ImageScores], name: str) -> np.ndarray:
    return np.array([getattr(image, name) for image in images], dtype=np.float64)


def _area(images: Sequence[ImageScores]) -> np.ndarray:
    return np.array([image.height * image.width for image in images], dtype=np.float64)


def _check_finite(images: Sequence[ImageScores], columns: dict[str, np.ndarray]) -> None:
    for name, values in columns.items():
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ValueError(
                f"The image {images[wrong[0]].name} has the score {values[wrong[0]]} in {name}, as {len(wrong)} of "
                f"{len(images)} images have; expected finite numbers. No image is left out of a mean: look at the "
                "probabilities that were scored."
            )


def _by_name(images: Sequence[ImageScores], which: str) -> dict[str, ImageScores]:
    twice = [name for name, times in Counter(image.name for image in images).items() if times > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} names stand for more than one image in the {which} of the two results: {some(twice)}. "
            "Images are matched by name: give each its own."
        )
    return {image.name: image for image in images}


def _ground_truth(image: ImageScores) -> tuple[int, int, int]:
    return image.height, image.width, image.true_pixels
