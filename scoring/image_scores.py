"""Scores of one predicted probability map against the ground truth. Only numbers are kept, never pixels.

If ground truth and prediction are both empty, Dice, IoU, precision, recall, F2 and surface Dice are 1 and HD95 is 0.
If only one of them is empty, these scores are 0 and HD95 is the image's diagonal. So a missed polyp and a false alarm
always cost, and no image is left out of a mean.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ..common.errors import install_command
from ..regions_unet import keep_peaks
from .overlap import dice, mask_counts
from .regions import EIGHT_NEIGHBOURS, Regions, find_regions
from .sequences import VideoFrame

try:
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    from py_sod_metrics import Emeasure, Smeasure, WeightedFmeasure
    from scipy import ndimage
except ImportError as error:
    raise ImportError(f"{error}. The scores need further packages: {install_command('evaluation')}") from error

LESION_IOU = 0.5  # a polyp counts as found at this IoU with its match, or above
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ImageScores:
    """What is kept of one image.

    Attributes:
        name: What the image is called.
        height, width: Original size in pixels; all scores but `input_counts` are at this size.
        true_pixels: Pixels of polyp in the ground truth.
        polyps: Connected components (8 neighbours) in the ground truth.
        counts: Pixels that are true positive, false positive and false negative.
        input_counts: The same at the input size; None for masks from a folder.
        polyp_levels, background_levels: (256,) int32, how many pixels of polyp and of background have each grey
            level. The level is 255 p, rounded with halves down, so that level >= k is the same as p > (k - 0.5) / 255.
        minmax_dice: Mean of `dice_by_level` once the map is stretched to [0, 1], as PraNet does.
        absolute_error: Mean of |p - y|.
        s_measure: Structure measure (Fan et al., ICCV 2017), by pysodmetrics. Where there is no polyp: the mean of
            1 - p; where all is polyp: the mean of p.
        e_measure: Enhanced-alignment measure (Fan et al., IJCAI 2018), by pysodmetrics: the mean of its curve,
            over the masks "level >= k" for k from 0 to 255. Where there is no polyp: the share of background in
            those masks. Its authors divide by the number of pixels less one, so it may exceed 1 by that much.
        weighted_f: Weighted F (Margolin et al., CVPR 2014; beta 1), by pysodmetrics. Where there is no polyp: 0,
            whatever is predicted. As in its authors' code, errors within 3 pixels of the image's border weigh less,
            so the score of a polyp that is missed there is above 0.
        hd95: The larger of the two directions' 95th percentiles of the distance from edge to edge, in pixels, by
            MONAI: an edge is the mask's pixels with a side on background or on the image's border.
        nsd: Normalised surface Dice, by MONAI: the share of both edges' pixels that are no further than the
            tolerance from the other edge.
        calibration: (CALIBRATION_BINS, 3) float64: pixels, sum of probabilities and pixels of polyp, by bins of
            probability of equal width; 1 belongs to the last.
        found_polyps: Components of the ground truth that match a predicted one: with an IoU of LESION_IOU or above.
        predicted_polyps: Components of the prediction.
        false_polyps: Components of the prediction that match none of the ground truth.
        regions: What is above the threshold, before the peak threshold: any other peak threshold can be scored by it.
        peak_threshold: That of the mask, which all scores of a mask are of; None: every region counts. The scores of
            the probabilities (levels, `minmax_dice` to `weighted_f`, `calibration`) do not depend on it.
        video_frame: What the scores of its video need; None if it is scored as an image alone.
    """

    name: str
    height: int
    width: int
    true_pixels: int
    polyps: int
    counts: tuple[int, int, int]
    input_counts: tuple[int, int, int] | None
    polyp_levels: np.ndarray
    background_levels: np.ndarray
    minmax_dice: float
    absolute_error: float
    s_measure: float
    e_measure: float
    weighted_f: float
    hd95: float
    nsd: float
    calibration: np.ndarray
    found_polyps: int
    predicted_polyps: int
    false_polyps: int
    regions: Regions
    peak_threshold: float | None
    video_frame: VideoFrame | None = None


def score_image(
    name: str,
    probability: np.ndarray,
    ground_truth: np.ndarray,
    *,
    threshold: float,
    tolerance: float,
    peak_threshold: float | None = None,
    input_pair: tuple[np.ndarray, np.ndarray] | None = None,
) -> ImageScores:
    """Score one image.

    S-measure, E-measure and weighted F take the probabilities as they are. Published code, and pysodmetrics by
    default, stretches each map to [0, 1] first, which turns a faint map of an image without polyp into an alarm; here
    only `minmax_dice` does so.

    Args:
        name: What the image is called, in the result and in errors.
        probability: (H, W) float in [0, 1], at the image's original size.
        ground_truth: (H, W) bool, True where there is polyp.
        threshold: The mask is where the probability is above it.
        tolerance: Of the surface Dice, in pixels.
        peak_threshold: A region of the mask counts only if its highest probability reaches it; None: every region.
        input_pair: Probability and ground truth at the input size.

    Raises:
        ValueError: If the shapes differ, the ground truth is not boolean, or a probability is not a number in [0, 1].
    """
    probability = _checked(name, probability, ground_truth)
    mask = keep_peaks(probability, threshold, peak_threshold)
    regions = find_regions(probability, ground_truth, threshold)
    probability = probability.astype(np.float64)
    levels = _grey_levels(probability)
    polyp_levels, background_levels = _level_histograms(levels, ground_truth)
    s_measure, e_measure, weighted_f = _structure_scores(probability, levels, ground_truth)
    hd95, nsd = _surface_scores(mask, ground_truth, tolerance)
    polyps, predicted_polyps, found_polyps = _lesion_counts(mask, ground_truth)
    input_counts = None
    if input_pair is not None:
        input_probability, input_ground_truth = input_pair
        input_probability = _checked(name, input_probability, input_ground_truth)
        input_counts = mask_counts(keep_peaks(input_probability, threshold, peak_threshold), input_ground_truth)
    return ImageScores(
        name=name,
        height=ground_truth.shape[0],
        width=ground_truth.shape[1],
        true_pixels=int(ground_truth.sum()),
        polyps=polyps,
        counts=mask_counts(mask, ground_truth),
        input_counts=input_counts,
        polyp_levels=polyp_levels,
        background_levels=background_levels,
        minmax_dice=_minmax_dice(probability, ground_truth),
        absolute_error=float(np.abs(probability - ground_truth).mean()),
        s_measure=s_measure,
        e_measure=e_measure,
        weighted_f=weighted_f,
        hd95=hd95,
        nsd=nsd,
        calibration=_calibration(probability, ground_truth),
        found_polyps=found_polyps,
        predicted_polyps=predicted_polyps,
        false_polyps=predicted_polyps - found_polyps,
        regions=regions,
        peak_threshold=peak_threshold,
    )


def dice_by_level(polyp_levels: np.ndarray, background_levels: np.ndarray) -> np.ndarray:
    """Dice of the masks "grey level >= k", for k from 0 to 255.

    Its mean over k is PraNet's mean Dice, as its evaluation toolbox (main.m and Fmeasure_calu.m) defines it: a map in
    256 levels is polyp where it is >= the threshold, for the thresholds 1:-1/255:0. So at k = 0 the mask is the whole
    image, and the mean of a perfect mask is below 1 by (1 - its Dice at k = 0) / 256. Three things differ from the
    toolbox:

    - If mask and ground truth are both empty, Dice is 1. In the toolbox it is 0, and so an image without polyp has 0.
    - Maps are not stretched to [0, 1] first, `ImageScores.minmax_dice` apart.
    - Levels and thresholds are integers. The toolbox compares floating-point numbers, which rounding may make unequal.

    Args:
        polyp_levels, background_levels: (..., 256), pixels of polyp and of background by grey level.

    Returns:
        (..., 256) float64.
    """
    tp, fp = (
        np.cumsum(np.asarray(levels)[..., ::-1], axis=-1, dtype=np.int64)[..., ::-1]
        for levels in (polyp_levels, background_levels)
    )
    # At k = 0 the mask is the whole image, and all polyp pixels are true positives.
    return dice(tp, fp, tp[..., :1] - tp)


def _checked(name: str, probability: np.ndarray, ground_truth: np.ndarray) -> np.ndarray:
    """The probabilities (H, W) as float32, in which a model's own masks are made.

    The type matters: 51 / 255 is not above a threshold of 0.2 in float32; in float64 it is.
    """
    if probability.shape != ground_truth.shape or ground_truth.ndim != 2 or ground_truth.size < 2:
        raise ValueError(
            f"{name}: got a probability map of shape {probability.shape} and a true mask of shape "
            f"{ground_truth.shape}; expected one shape (height, width) of two pixels or more. Resize the map "
            "to the mask's size."
        )
    if ground_truth.dtype != bool:
        raise ValueError(
            f"{name}: got a true mask of {ground_truth.dtype}; expected booleans. Binarise it first, for example by "
            "mask > 127."
        )
    probability = probability.astype(np.float32)
    invalid = np.count_nonzero(~np.isfinite(probability))
    if invalid:
        raise ValueError(
            f"{name}: {invalid} of {probability.size} probabilities are not finite; expected numbers from 0 to 1. "
            "Look at the model's weights, or run it in float32."
        )
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError(
            f"{name}: got probabilities from {probability.min():g} to {probability.max():g}; expected 0 to 1. "
            "Logits need a sigmoid, grey levels a division by 255."
        )
    return probability


def _grey_levels(probability: np.ndarray) -> np.ndarray:
    """(H, W) float64 in [0, 1] -> (H, W) integers from 0 to 255."""
    # Halves are rounded down, so that p = 0.5 is background, as it is at the threshold 0.5.
    return np.ceil(255 * probability - 0.5).astype(np.int64)


def _level_histograms(levels: np.ndarray, ground_truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(256,) int32 each: pixels of polyp and of background by grey level."""
    background, polyp = (
        np.bincount((levels + 256 * ground_truth).ravel(), minlength=512).astype(np.int32).reshape(2, 256)
    )
    return polyp, background


def _minmax_dice(probability: np.ndarray, ground_truth: np.ndarray) -> float:
    low, high = probability.min(), probability.max()
    # A map of one value cannot be stretched; MATLAB's mapminmax leaves it as it is, too.
    stretched = (probability - low) / (high - low) if high > low else probability
    # PraNet's MyTest.py saves the stretched map with halves rounded up.
    levels = np.floor(255 * stretched + 0.5).astype(np.int64)
    return float(dice_by_level(*_level_histograms(levels, ground_truth)).mean())


class _StructureMeasure(Smeasure):
    """The library's measure, without the NaN that it gives for a quarter of the image that has no pixels."""

    def ssim(self, pred: np.ndarray, gt: np.ndarray) -> float:
        return super().ssim(pred, gt) if pred.size else 0.0


def _structure_scores(
    probability: np.ndarray, levels: np.ndarray, ground_truth: np.ndarray
) -> tuple[float, float, float]:
    """S-measure, E-measure and weighted F."""
    structure, alignment, weighted = _StructureMeasure(), Emeasure(), WeightedFmeasure()
    structure.step(probability, ground_truth, normalize=False)
    # The library truncates 255 p instead of rounding it; levels are whole numbers already.
    alignment.step(levels / 255, ground_truth, normalize=False)
    weighted.step(probability, ground_truth, normalize=False)
    return (
        float(structure.get_results()["sm"]),
        float(alignment.get_results()["em"]["curve"].mean()),
        float(weighted.get_results()["wfm"]),
    )


def _surface_scores(mask: np.ndarray, ground_truth: np.ndarray, tolerance: float) -> tuple[float, float]:
    """HD95 in pixels and normalised surface Dice. MONAI gets no empty mask: it would return NaN or infinity."""
    if not (mask.any() and ground_truth.any()):
        both_empty = not (mask.any() or ground_truth.any())
        return (0.0, 1.0) if both_empty else (math.hypot(*ground_truth.shape), 0.0)
    # Copied, since torch takes neither negative strides nor, without a warning, memory that is read-only.
    predicted, true = (torch.from_numpy(array.copy())[None, None] for array in (mask, ground_truth))
    with warnings.catch_warnings():
        # MONAI warns of its own use of an argument that it is going to remove.
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(predicted, true, include_background=True, percentile=95)
        nsd = compute_surface_dice(predicted, true, class_thresholds=[tolerance], include_background=True)
    return hd95.item(), nsd.item()


def _calibration(probability: np.ndarray, ground_truth: np.ndarray) -> np.ndarray:
    """(CALIBRATION_BINS, 3): pixels, sum of probabilities, pixels of polyp."""
    bins = np.minimum((CALIBRATION_BINS * probability).astype(np.int64), CALIBRATION_BINS - 1).ravel()
    sums = [
        np.bincount(bins, weights=weights, minlength=CALIBRATION_BINS)
        for weights in (None, probability.ravel(), ground_truth.ravel())
    ]
    return np.stack(sums, axis=1).astype(np.float64)


def _lesion_counts(mask: np.ndarray, ground_truth: np.ndarray) -> tuple[int, int, int]:
    """Components of the ground truth, of the prediction, and how many of the ground truth are found.

    A component has at most one match: two components that matched it would each cover half of it or more, so they
    would fill it, touch, and be one component. So no assignment is needed, and every predicted component that matches
    none is false.
    """
    true_labels, polyps = ndimage.label(ground_truth, EIGHT_NEIGHBOURS)
    predicted_labels, predicted_polyps = ndimage.label(mask, EIGHT_NEIGHBOURS)
    true_sizes, predicted_sizes = np.bincount(true_labels.ravel()), np.bincount(predicted_labels.ravel())
    both = mask & ground_truth
    # One number for each pair of labels: sorting those is ten times faster than sorting rows of two.
    pairs, overlaps = np.unique(
        true_labels[both].astype(np.int64) * len(predicted_sizes) + predicted_labels[both], return_counts=True
    )
    unions = true_sizes[pairs // len(predicted_sizes)] + predicted_sizes[pairs % len(predicted_sizes)] - overlaps
    return int(polyps), int(predicted_polyps), int((overlaps >= LESION_IOU * unions).sum())
