"""Holds an ONNX file against the network in PyTorch, in float32, on the same frames.

    proof = prove(OnnxNetwork.load("model.onnx"), predictor, samples)
    proof["problems"]  # empty where the file agrees within the tolerances

The numbers are stored beside the file. No name of a frame is among them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..data.synthetic import MIN_SIZE, generate
from ..inference.onnx_session import OnnxNetwork
from ..inference.predictor import Predictor

SIZES = ((1, 1), (17, 31), (256, 256), (1072, 1920))  # (height, width) of the frames that are added to any others
THRESHOLD = 0.5

# Largest difference in probability on the same `pixel_values`. In float16 the shipped weights reach 0.0066 on one of
# 100 validation images, where the mean is 0.00002 and 99.98 % of the mask pixels are equal: 0.005 would refuse them.
WORST_PROBABILITY = {"fp32": 1e-4, "fp16": 1e-2}
# Least share of the pixels, of all frames together, that are the same in both masks.
EQUAL_PIXELS = {"fp32": 0.999, "fp16": 0.999}
# For int8, largest difference of the mean Dice against the true masks; least mean Dice between both masks without.
MEAN_DICE_DIFFERENCE = 0.002
DICE_BETWEEN = 0.95


@dataclass(frozen=True)
class Sample:
    """A frame to compare on.

    Attributes:
        frame: (H, W, 3) uint8, RGB.
        ground_truth: (H, W) bool, True where there is polyp; None where that is not known.
    """

    frame: np.ndarray
    ground_truth: np.ndarray | None


def frames_of_sizes() -> list[Sample]:
    """Synthetic frames of the sizes that tell a wrong resize from a right one; whether they show polyps is known."""
    samples = []
    for height, width in SIZES:
        row = next(generate(1, (max(height, MIN_SIZE), max(width, MIN_SIZE)), seed=height))
        samples.append(Sample(np.array(row["image"])[:height, :width], None))
    return samples


def verify(network: OnnxNetwork, predictor: Predictor, samples: Iterable[Sample]) -> dict[str, Any]:
    """Compare on some frames, and on synthetic ones of unusual sizes.

    Args:
        network: What is to be proven.
        predictor: The network that it was exported from, in float32 on the CPU.
        samples: At least one.

    Returns:
        What the JSON beside the file holds as "proof": the differences, the tolerances that they are held against, and
        as "problems" a line for each that is beyond, empty for a file that agrees.
    """
    compared = [_compare(network, predictor, sample) for sample in samples]
    of_sizes = [_compare(network, predictor, sample) for sample in frames_of_sizes()]
    proof: dict[str, Any] = {
        "images": len(compared),
        "threshold": THRESHOLD,
        "same_pixel_values": _mean_and_worst([one.network for one in compared]),
        "end_to_end": _mean_and_worst([one.native for one in compared]),
        "equal_mask_pixels": _share([*compared, *of_sizes]),
        "dice_between_masks": {
            "mean": float(np.mean([one.dice_between for one in compared])),
            "worst": min(one.dice_between for one in compared),
        },
        "dice": _dice(compared),
        "sizes": {
            f"{width}x{height}": {"worst_probability": float(one.native.max()), "equal_mask_pixels": _share([one])}
            for (height, width), one in zip(SIZES, of_sizes, strict=True)
        },
    }
    proof["tolerances"] = _tolerances(network.precision, proof)
    proof["problems"] = [
        f"{name} {entry['found']:.6g}, beyond {entry['bound']:g}"
        for name, entry in proof["tolerances"].items()
        # So that NaN is beyond any bound.
        if not (entry["found"] <= entry["bound"] if entry["is_upper"] else entry["found"] >= entry["bound"])
    ]
    return proof


@dataclass(frozen=True)
class _Comparison:
    network: np.ndarray  # (h, w) absolute difference in probability on the same pixel_values
    native: np.ndarray  # (H, W) the same end to end
    equal: np.ndarray  # (H, W) whether the masks agree
    dice_between: float
    dice: tuple[float, float] | None  # against the ground truth: PyTorch's, the file's


def _compare(network: OnnxNetwork, predictor: Predictor, sample: Sample) -> _Comparison:
    pixel_values, size = predictor.prepare(Image.fromarray(sample.frame))
    expected = predictor.from_pixels(pixel_values, [size], threshold=THRESHOLD)[0]
    logits = network.logits(pixel_values)
    mask, probability, _ = network.run(sample.frame[None], THRESHOLD)
    found = mask[0] == 1
    return _Comparison(
        network=np.abs(logits.sigmoid()[0, 0].numpy() - expected.network_probability),
        native=np.abs(probability[0] - expected.probability),
        equal=found == expected.mask,
        dice_between=_overlap(found, expected.mask),
        dice=None
        if sample.ground_truth is None
        else (_overlap(expected.mask, sample.ground_truth), _overlap(found, sample.ground_truth)),
    )


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Dice of two masks, 1 where both are empty."""
    pixels = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / pixels if pixels else 1.0


def _mean_and_worst(differences: list[np.ndarray]) -> dict[str, float]:
    return {
        "mean": float(np.mean([difference.mean() for difference in differences])),
        "worst": float(np.max([difference.max() for difference in differences])),
    }


def _share(comparisons: list[_Comparison]) -> float:
    return sum(int(one.equal.sum()) for one in comparisons) / sum(one.equal.size for one in comparisons)


def _dice(comparisons: list[_Comparison]) -> dict[str, float] | None:
    """Mean Dice per image against the ground truth; None where no ground truth is known."""
    pairs = np.array([one.dice for one in comparisons if one.dice is not None])
    if not len(pairs):
        return None
    differences = pairs[:, 1] - pairs[:, 0]
    return {
        "pytorch": float(pairs[:, 0].mean()),
        "onnx": float(pairs[:, 1].mean()),
        "mean_difference": float(differences.mean()),
        "worst_image": float(differences.min()),
    }


def _tolerances(precision: str, proof: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is held against which bound."""

    def entry(found: float, bound: float, is_upper: bool) -> dict[str, Any]:
        return {"found": found, "bound": bound, "is_upper": is_upper}

    if precision == "int8":
        if proof["dice"] is not None:
            difference = abs(proof["dice"]["mean_difference"])
            return {"difference of the mean Dice": entry(difference, MEAN_DICE_DIFFERENCE, True)}
        return {"mean Dice between the masks": entry(proof["dice_between_masks"]["mean"], DICE_BETWEEN, False)}
    worst = proof["same_pixel_values"]["worst"]
    return {
        "worst difference in probability on the same pixel_values": entry(worst, WORST_PROBABILITY[precision], True),
        "share of equal mask pixels": entry(proof["equal_mask_pixels"], EQUAL_PIXELS[precision], False),
    }
