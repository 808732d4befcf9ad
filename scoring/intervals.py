"""How sure a mean score is: bootstrap intervals over images, and a paired test of two models.

Intervals are those of the percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
13). A resample draws as many images as there are, with replacement; the 95 % interval spans the middle 95 % of the
resamples' scores. It says how much a score depends on the choice of the images, and nothing about another training.
If all images have the same score, so has every resample, and the interval has no width.

Frames of one patient are not independent. Where groups of images are known, as by patient, a resample draws as many
groups as there are, each with all of its images (cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their
Application, 1997, section 3.8). So more frames of the same patients do not make a score look surer.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

# Not `scipy.stats.bootstrap` and `permutation_test`: both refuse a single image. For 1,000 images, 45 columns and
# 10,000 resamples, `bootstrap` takes 3 times as long as this, and `permutation_test` 8 times. `bootstrap` gives an
# interval of NaN if a resample has nothing to score; here that resample is left out. The tests compare with both.
RESAMPLES = 10_000
PERCENTILES = (2.5, 97.5)
# What tells the group of each image, in order of the images; None: each image is a group of its own.
Groups: TypeAlias = Sequence[Hashable] | np.ndarray | None
# Draws in a block: few enough for a processor's cache, where counting them is fastest.
BLOCK = 2**17


def bootstrap_weights(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample draws each image, in blocks of resamples, which bounds the memory.

    Yields:
        (rows, images) float64 whole numbers; each row is a resample and adds up to `images`. There are `resamples`
        rows in all, and they depend on the arguments alone.

    Raises:
        ValueError: If there is no image, or no resample is asked for.
    """
    if images < 1 or resamples < 1:
        raise ValueError(f"Got {images} images and {resamples} resamples; expected at least one of each.")
    generator = np.random.default_rng(seed)
    for rows in _blocks(resamples, images):
        draws = generator.integers(images, size=(rows, images))
        draws += images * np.arange(rows)[:, None]
        yield np.bincount(draws.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def number_groups(groups: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """(images,) int, the number of each image's group: 0, 1, ... in the order in which the groups first appear."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def sums_of_groups(columns: np.ndarray, groups: Groups) -> np.ndarray:
    """Add up the rows of each group.

    Args:
        columns: (images, columns).
        groups: Of the images.

    Returns:
        (groups, columns), in the order in which the groups first appear; `columns` itself without groups.

    Raises:
        ValueError: If there is not one group for each image.
    """
    if groups is None:
        return columns
    if len(groups) != len(columns):
        raise ValueError(f"Got {len(groups)} groups of {len(columns)} images; expected the group of each image.")
    numbers = number_groups(groups)
    sums = np.zeros((numbers.max(initial=-1) + 1, columns.shape[1]))
    np.add.at(sums, numbers, columns)
    return sums


def resampled_sums(
    columns: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, groups: Groups = None
) -> np.ndarray:
    """Add columns up over all images, and over each bootstrap resample of them, or of their groups.

    Args:
        columns: (images, columns), one row an image. Resamples of groups differ in their number of images: a mean over
            images needs a column of ones too.
        resamples, seed: How many resamples, and the seed that they are drawn by.
        groups: Of the images, which are resampled as wholes.

    Returns:
        (1 + resamples, columns) float64: row 0 holds the sums over the images themselves, the other rows those over
        the resamples. A score computed from the rows goes to `with_interval`.

    Raises:
        ValueError: If there is no image, a number is not finite, or there is not one group for each image.
    """
    columns = np.asarray(columns, dtype=np.float64)
    if columns.ndim != 2 or len(columns) == 0:
        raise ValueError(f"Got columns of the shape {columns.shape}; expected (images, columns), at least one image.")
    if not np.isfinite(columns).all():
        row, column = np.argwhere(~np.isfinite(columns))[0]
        raise ValueError(
            f"Row {row} of column {column} is {columns[row, column]}; expected finite numbers. Score that image "
            "again: no image is left out of a mean."
        )
    of_groups = sums_of_groups(columns, groups)
    blocks = (weights @ of_groups for weights in bootstrap_weights(len(of_groups), resamples, seed))
    return np.concatenate([columns.sum(axis=0, keepdims=True), *blocks])


def with_interval(scores: np.ndarray) -> dict[str, Any] | None:
    """The score of the images with its 95 % interval.

    Args:
        scores: (1 + resamples,), of the images and of each resample, computed from `resampled_sums`. NaN if there is
            nothing to score, such as the share of found polyps where there is no polyp.

    Returns:
        {"value", "ci95": [low, high]}; None if the images have no score. Resamples without one are left out.

    Raises:
        ValueError: If the images have a score and no resample has.
    """
    if np.isnan(scores[0]):
        return None
    resampled = scores[1:][~np.isnan(scores[1:])]
    if len(resampled) == 0:
        raise ValueError(f"None of {len(scores) - 1} resamples has anything to score; take more, such as {RESAMPLES}.")
    return {"value": float(scores[0]), "ci95": _middle(resampled)}


def mean_and_interval(
    values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, groups: Groups = None
) -> dict[str, Any]:
    """The mean of (images,) values with its 95 % interval: {"value", "ci95": [low, high]}.

    With a single image, or a single group, both bounds are the mean.

    Args:
        values: (images,).
        resamples, seed, groups: As for `resampled_sums`.

    Raises:
        ValueError: If there is no value, or one is not finite, or there is not one group for each value.
    """
    values = np.asarray(values)
    sums = resampled_sums(np.stack([values, np.ones_like(values)], axis=1), resamples, seed, groups)
    means = sums[:, 0] / sums[:, 1]
    return {"value": float(means[0]), "ci95": _middle(means[1:])}


def compare_paired(
    first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, groups: Groups = None
) -> dict[str, float | int | list[float]]:
    """Compare the scores of two models on the same images.

    The p-value is that of the two-sided permutation test: if the models are alike, each image's difference may as well
    have the other sign. It is the share of random sign changes whose mean difference is at least as far from 0 as the
    observed one, which counts among them (Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010); so it
    is at least 1 / (1 + resamples). The differences of a group change their sign together.

    Args:
        first, second: (images,) scores, of the same images in the same order.
        resamples, seed, groups: As for `resampled_sums`.

    Returns:
        {"difference": mean of first - second, "ci95": [low, high], "p_value", "images"}.

    Raises:
        ValueError: If the shapes differ, there is no image, a score is not finite, or there is not one group for each
            image.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"Got scores of the shapes {first.shape} and {second.shape}; expected one score an image, (images,), "
            "of the same images."
        )
    differences = first - second
    mean = mean_and_interval(differences, resamples, seed, groups)
    of_groups = sums_of_groups(differences[:, None], groups)[:, 0]
    # Sums that are equal but for rounding count as equal.
    bound = abs(of_groups.sum()) - 1e-12 * abs(differences).sum()
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(resamples, len(of_groups)):
        signs = 2.0 * generator.integers(2, size=(rows, len(of_groups))) - 1
        extreme += int((abs(signs @ of_groups) >= bound).sum())
    return {
        "difference": mean["value"],
        "ci95": mean["ci95"],
        "p_value": (1 + extreme) / (1 + resamples),
        "images": len(differences),
    }


def _middle(resampled: np.ndarray) -> list[float]:
    """The bounds of the middle 95 %."""
    return [float(bound) for bound in np.percentile(resampled, PERCENTILES)]


def _blocks(resamples: int, images: int) -> Iterator[int]:
    """Sizes of blocks that add up to `resamples`: of at most `BLOCK` draws, or of one resample if that has more."""
    rows = max(BLOCK // images, 1)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)
