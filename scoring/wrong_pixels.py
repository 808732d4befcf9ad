"""How well uncertainty points at the pixels where a mask is wrong.

judged = judge_uncertainty(source, rows, scored, work)
summarise_uncertainty(judged, scored)["maps"]["spread"]["auroc"]

Three maps are judged: the spread of the maps that were averaged, and as baselines min(p, 1 - p), which orders pixels
as p (1 - p) and the entropy of p do, of their mean and of the first of them alone. Pixels outside the field of view do
not count: the network never saw them, and its certainty there is none. Of each image only two histograms are kept for
each map, of the wrong and of the right pixels, so that no map has to stay in memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.samples import load_sample
from ..field_of_view_unet import crop_to
from ..regions_unet import keep_peaks
from .intervals import resampled_sums, with_interval
from .run import ScoredSplit, Work, identity_of, in_shares, value_errors_explained
from .sources import Maps, ModelSource, Source

MAPS = ("spread", "entropy of the mean", "entropy of the first map alone")
# Between bins of uncertainty: even in the logarithm up to 0.01, where most pixels are, and even from there on.
EDGES = np.concatenate([np.logspace(-6, -2, 120, endpoint=False), np.linspace(0.01, 0.5, 197)])
BINS = len(EDGES) + 1
COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)


def judge_uncertainty(source: Source, rows: Dataset, scored: ScoredSplit, work: Work) -> list[np.ndarray]:
    """Predict the samples of a split once more, and compare where the masks are wrong with the uncertainty.

    Args:
        source: The model, or the models, that was scored; it averages several maps.
        rows: The split.
        scored: Its scores, with the thresholds of the masks.
        work: Who does it; each process gets the outcome of all.

    Returns:
        For each image (maps, 2, BINS) int64: numbers of right and of wrong pixels.

    Raises:
        UserError: If the model gives NaN, or a sample cannot be read.
    """
    assert isinstance(source, ModelSource)

    def judge(indices: Sequence[int]) -> list[np.ndarray]:
        samples = [load_sample(rows[index], scored.protocol.mask_rules) for index in indices]
        counts = []
        for index, sample, maps in zip(indices, samples, source.predict(samples, uncertainty=True), strict=True):
            mask = keep_peaks(maps.probability, scored.protocol.threshold, scored.images[index].peak_threshold)
            counts.append(count_wrong(maps, mask != sample.ground_truth))
        return counts

    peaks = [image.peak_threshold for image in scored.images]
    depends_on = ["wrong pixels in the field of view", *identity_of(rows), scored.protocol.threshold, peaks]
    return in_shares(judge, len(rows), source, scored.protocol.batch_size, work, depends_on)


def count_wrong(maps: Maps, is_wrong: np.ndarray) -> np.ndarray:
    """Histograms of the pixels of an image, by each of the `MAPS`; only those in the field of view.

    Args:
        maps: With spread and single.
        is_wrong: (H, W) bool.

    Returns:
        (maps, 2, BINS) int64: right, then wrong.
    """
    assert maps.spread is not None
    assert maps.single is not None
    seen = maps.field_of_view
    probabilities = (crop_to(p, seen) for p in (maps.probability, maps.single))
    uncertainties = [crop_to(maps.spread, seen), *(np.minimum(p, 1 - p) for p in probabilities)]
    return np.stack([count_pixels(uncertainty, crop_to(is_wrong, seen)) for uncertainty in uncertainties])


def count_pixels(uncertainty: np.ndarray, is_wrong: np.ndarray) -> np.ndarray:
    """Histograms of the right and of the wrong pixels.

    Args:
        uncertainty: (H, W) float, from 0 to 1.
        is_wrong: (H, W) bool.

    Returns:
        (2, BINS) int64: right, then wrong; the bins go from certain to uncertain.
    """
    bins = np.searchsorted(EDGES, uncertainty, side="right")
    return np.bincount((bins + BINS * is_wrong).ravel(), minlength=2 * BINS).reshape(2, BINS)


def summarise_uncertainty(judged: Sequence[np.ndarray], scored: ScoredSplit) -> dict[str, Any]:
    """The section "uncertainty" of `results.json`.

    Args:
        judged: Of `judge_uncertainty`.
        scored: The scores of the split.

    Raises:
        UserError: If there are too few resamples for an interval.
    """
    counts = np.stack(judged)
    pixels = np.stack([counts[:, 0].sum(axis=(1, 2)), counts[:, 0, 1].sum(axis=1)], axis=1)
    with value_errors_explained():
        all_of_them, wrong = resampled_sums(pixels, **scored.resampling).T
        return {
            "threshold": scored.protocol.threshold,
            "wrong": with_interval(wrong / all_of_them),
            "maps": {name: _summarise_map(counts[:, number], scored) for number, name in enumerate(MAPS)},
        }


def _summarise_map(counts: np.ndarray, scored: ScoredSplit) -> dict[str, Any]:
    """Of one map, with its counts (images, 2, BINS)."""
    sums = resampled_sums(counts.reshape(len(counts), -1), **scored.resampling).reshape(-1, 2, BINS)
    return {
        "auroc": with_interval(auroc(sums)),
        "aurc": with_interval(aurc(sums)),
        "risk": [{"coverage": share, "risk": risk_at(sums[0], share)} for share in COVERAGES],
    }


def auroc(counts: np.ndarray) -> np.ndarray:
    """The probability that a wrong pixel is less certain than a right one; pixels of one bin are a draw.

    Args:
        counts: (N, 2, BINS), numbers of right and of wrong pixels.

    Returns:
        (N,) float64; NaN where no pixel, or every pixel, is wrong.
    """
    right, wrong = counts[:, 0], counts[:, 1]
    more_certain = right.cumsum(axis=1) - right / 2
    with np.errstate(invalid="ignore"):
        return (wrong * more_certain).sum(axis=1) / (wrong.sum(axis=1) * right.sum(axis=1))


def aurc(counts: np.ndarray) -> np.ndarray:
    """The area under the curve of risk against coverage: the share of wrong pixels among the most certain ones.

    (Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.) Within a bin, wrong pixels
    are spread evenly.

    Args:
        counts: (N, 2, BINS), as for `auroc`.

    Returns:
        (N,) float64.
    """
    shares = np.linspace(0, 1, 1001)[1:]
    return np.array([_risk(one, shares).mean() for one in counts])


def risk_at(counts: np.ndarray, share: float) -> float:
    """The share of wrong pixels among this share of the pixels, the most certain ones; counts (2, BINS)."""
    return float(_risk(counts, np.array([share]))[0])


def _risk(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The same of several shares, (S,)."""
    covered = np.concatenate([[0.0], counts.sum(axis=0).cumsum()])
    wrong = np.concatenate([[0.0], counts[1].cumsum()])
    wanted = shares * covered[-1]
    return np.interp(wanted, covered, wrong) / wanted
