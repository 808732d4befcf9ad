"""Compares an ONNX file with the network in PyTorch, in float32, on the same frames.

    verification = verify(OnnxSession.load("model.onnx"), predictor, frames)
    verification["problems"]  # empty if the file agrees within the tolerances

The numbers are stored beside the file, without the names of the frames.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..image_processing_unet import UNetImageProcessor
from ..inference.onnx_session import OnnxSession
from ..inference.predictor import Predictor
from ..scoring.overlap import mask_dice
from .images import VERIFICATION_SIZES, Frame, frames_of_unusual_sizes

THRESHOLD = 0.5

# Largest difference in probability on the same `pixel_values`. In float16 the shipped weights reach 0.0066 on one of
# 100 validation images, where the mean is 0.00002 and 99.98 % of the mask pixels are equal: 0.005 would refuse them.
MAX_PROBABILITY_DIFFERENCE = {"fp32": 1e-4, "fp16": 1e-2}
# Smallest share of the pixels, of all frames together, that are the same in both masks.
MIN_EQUAL_PIXELS = {"fp32": 0.999, "fp16": 0.999}
# For int8: largest difference of the mean Dice against the ground truth; without ground truth, smallest mean Dice
# between the two masks.
MAX_DICE_DIFFERENCE = 0.002
MIN_DICE_BETWEEN_MASKS = 0.95


def verify(session: OnnxSession, predictor: Predictor, frames: Iterable[Frame]) -> dict[str, Any]:
    """Compare the predictions on the given frames, and on synthetic ones of unusual sizes.

    Args:
        session: The file to verify.
        predictor: The network that it was exported from, in float32 on the CPU.
        frames: At least one.

    Returns:
        The section "proof" of the JSON beside the file: the differences, each tolerance with the number that was
        found, and as "problems" a line for each number out of tolerance.
    """
    comparisons = [_compare(session, predictor, frame) for frame in frames]
    of_sizes = [_compare(session, predictor, frame) for frame in frames_of_unusual_sizes()]
    between_masks = [comparison.dice_between_masks for comparison in comparisons]
    verification: dict[str, Any] = {
        "images": len(comparisons),
        "threshold": THRESHOLD,
        "same_pixel_values": _mean_and_worst([comparison.at_input_size for comparison in comparisons]),
        "end_to_end": _mean_and_worst([comparison.at_original_size for comparison in comparisons]),
        "equal_mask_pixels": _share_of_equal_pixels([*comparisons, *of_sizes]),
        "dice_between_masks": {"mean": float(np.mean(between_masks)), "worst": min(between_masks)},
        "dice": _dice(comparisons),
        "sizes": {
            f"{width}x{height}": {
                "worst_probability": float(comparison.at_original_size.max()),
                "equal_mask_pixels": _share_of_equal_pixels([comparison]),
            }
            for (height, width), comparison in zip(VERIFICATION_SIZES, of_sizes, strict=True)
        },
    }
    verification["tolerances"] = _tolerances(session.precision, verification)
    verification["problems"] = [
        f"{name} {entry['found']:.6g}, beyond {entry['bound']:g}"
        for name, entry in verification["tolerances"].items()
        if not _is_within(**entry)
    ]
    return verification


@dataclass(frozen=True)
class _Comparison:
    """The predictions of file and network for one frame.

    Attributes:
        at_input_size: (h, w) absolute difference in probability on the same pixel_values.
        at_original_size: (H, W) absolute difference in probability end to end.
        is_equal: (H, W) bool, where the masks agree.
        dice_between_masks: Dice of the two masks.
        dice_pytorch, dice_onnx: Dice of each mask against the ground truth; None if that is not known.
    """

    at_input_size: np.ndarray
    at_original_size: np.ndarray
    is_equal: np.ndarray
    dice_between_masks: float
    dice_pytorch: float | None
    dice_onnx: float | None


def _compare(session: OnnxSession, predictor: Predictor, frame: Frame) -> _Comparison:
    prepared = predictor.prepare(Image.fromarray(frame.pixels), field_of_view="none")  # a step before the graph
    # The graph thresholds alone, and a model's peak threshold is applied to what it gives: so without it here.
    (expected,) = predictor.predict_prepared([prepared], threshold=THRESHOLD, peak_threshold=THRESHOLD)
    _, _, logits = session.run(grey_levels(prepared.pixels, predictor.processor))
    masks, probabilities, _ = session.run(frame.pixels[None], THRESHOLD)
    mask = masks[0] == 1
    return _Comparison(
        at_input_size=np.abs(torch.from_numpy(logits).sigmoid()[0, 0].numpy() - expected.probability_at_input_size),
        at_original_size=np.abs(probabilities[0] - expected.probability),
        is_equal=mask == expected.mask,
        dice_between_masks=mask_dice(mask, expected.mask),
        dice_pytorch=None if frame.ground_truth is None else mask_dice(expected.mask, frame.ground_truth),
        dice_onnx=None if frame.ground_truth is None else mask_dice(mask, frame.ground_truth),
    )


def grey_levels(pixel_values: Tensor, processor: UNetImageProcessor) -> np.ndarray:
    """Frames that the graph turns into the same pixel_values: it takes grey levels, and does not resize this size.

    Args:
        pixel_values: (B, 3, h, w) float, at the input size, as `processor` makes them.
        processor: Its scaling and normalisation are undone.

    Returns:
        (B, h, w, 3) uint8; grey levels between two whole numbers are rounded.
    """
    images = pixel_values.cpu()
    if processor.do_normalize:
        mean = torch.tensor(processor.image_mean).view(-1, 1, 1)
        std = torch.tensor(processor.image_std).view(-1, 1, 1)
        images = images * std + mean
    frames = (images / processor.rescale_factor).round().clamp(0, 255).to(torch.uint8)
    return frames.permute(0, 2, 3, 1).numpy()


def _mean_and_worst(differences: Sequence[np.ndarray]) -> dict[str, float]:
    return {
        "mean": float(np.mean([difference.mean() for difference in differences])),
        "worst": float(np.max([difference.max() for difference in differences])),
    }


def _share_of_equal_pixels(comparisons: Sequence[_Comparison]) -> float:
    equal = sum(int(comparison.is_equal.sum()) for comparison in comparisons)
    return equal / sum(comparison.is_equal.size for comparison in comparisons)


def _dice(comparisons: Sequence[_Comparison]) -> dict[str, float] | None:
    """Mean Dice per image against the ground truth; None if no ground truth is known."""
    known = [comparison for comparison in comparisons if comparison.dice_onnx is not None]
    if not known:
        return None
    pytorch = np.array([comparison.dice_pytorch for comparison in known])
    onnx = np.array([comparison.dice_onnx for comparison in known])
    return {
        "pytorch": float(pytorch.mean()),
        "onnx": float(onnx.mean()),
        "mean_difference": float((onnx - pytorch).mean()),
        "worst_image": float((onnx - pytorch).min()),
    }


def _tolerances(precision: str, verification: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name: the number that was found, its bound, and whether that is an upper one."""

    def at_most(bound: float, found: float) -> dict[str, Any]:
        return {"found": found, "bound": bound, "is_upper": True}

    def at_least(bound: float, found: float) -> dict[str, Any]:
        return {"found": found, "bound": bound, "is_upper": False}

    if precision == "int8":
        if dice := verification["dice"]:
            return {"difference of the mean Dice": at_most(MAX_DICE_DIFFERENCE, abs(dice["mean_difference"]))}
        between_masks = verification["dice_between_masks"]["mean"]
        return {"mean Dice between the masks": at_least(MIN_DICE_BETWEEN_MASKS, between_masks)}
    worst = verification["same_pixel_values"]["worst"]
    equal = verification["equal_mask_pixels"]
    return {
        "worst difference in probability on the same pixel_values": at_most(
            MAX_PROBABILITY_DIFFERENCE[precision], worst
        ),
        "share of equal mask pixels": at_least(MIN_EQUAL_PIXELS[precision], equal),
    }


def _is_within(found: float, bound: float, is_upper: bool) -> bool:
    """Whether a number keeps its bound; NaN keeps none."""
    return found <= bound if is_upper else found >= bound
