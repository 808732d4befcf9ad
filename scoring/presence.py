"""Does a model tell frames with polyp from frames without, and what does a peak threshold cost and spare?

All of it follows from the `Regions` of each image. Images without polyp are whole frames, or windows of frames of the
scored split; intervals are those of the bootstrap over frames, to which their windows belong (cluster bootstrap), or
over groups of frames, as those of one patient, where these are known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..regions_unet import presence_of
from .intervals import Groups, bootstrap_weights, number_groups, resampled_sums, with_interval
from .overlap import ratio
from .regions import Regions

SPECIFICITIES = (0.95, 0.99)
FROC_PEAKS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)

Peaks = Sequence[float | None]


@dataclass(frozen=True)
class ScoredImages:
    """The images of a split, and images without polyp.

    Attributes:
        regions: (images,) of each image.
        frames: (images,) int, which frame each is or is a part of.
        groups: (images,) int, from 0 on without gaps: images of one group are resampled together. Those of the split
            come first. Without known groups they are the frames.
        in_split: (images,) bool, whether it is an image of the split.
        is_negative: (images,) bool, whether it is one of the images without polyp on which alarms are counted.
    """

    regions: Sequence[Regions]
    frames: np.ndarray
    groups: np.ndarray
    in_split: np.ndarray
    is_negative: np.ndarray

    @classmethod
    def of(
        cls,
        split: Sequence[Regions],
        negatives: Sequence[Regions] = (),
        frames: Sequence[int] | None = None,
        groups: Groups = None,
    ) -> "ScoredImages":
        """A split and the images without polyp that are scored beside it.

        Args:
            split: Regions of each image of the split.
            negatives: Regions of each image without polyp. If there are none, those images of the split that show no
                polyp are the negatives.
            frames: Of windows, the place in the split of the frame of each; None: negatives are frames of their own.
            groups: Of the images of the split. A window is of its frame's group, a frame of another data set is a
                group of its own.
        """
        places = np.arange(len(split) + len(negatives))
        in_split = places < len(split)
        regions = [*split, *negatives]
        if frames is not None:
            places[len(split) :] = frames
        numbers = number_groups(range(len(split)) if groups is None else groups)
        further = numbers.max(initial=-1) + 1 + np.arange(len(negatives))
        shows_nothing = np.array([image.true_pixels == 0 for image in regions])
        units = np.concatenate([numbers, further if frames is None else numbers[places[len(split) :]]])
        return cls(regions, places, units, in_split, ~in_split if negatives else shows_nothing)

    @property
    def shows_polyp(self) -> np.ndarray:
        """(images,) bool, whether there is a polyp to find."""
        return np.array([image.polyps > 0 for image in self.regions])


def operating_point(images: ScoredImages, peaks: Peaks, resamples: int, seed: int) -> dict[str, Any]:
    """What the regions find and falsely mark that reach a peak threshold.

    Args:
        images: The images.
        peaks: (images,) the peak threshold of each; None: every region counts.
        resamples, seed: Of the bootstrap.

    Returns:
        "polyps", "found", "negatives", "alarms": their numbers. And, each with its interval, or None if there is
        nothing to count: "found_share" of the polyps; "sensitivity", the share of the frames with polyp that have a
        region on a polyp; "dice_per_image_native" of the split's images; "false_per_image", false regions an image,
        the negatives among them; of the negatives "alarm_share", those with a region, and "marked_share", the mean
        share of the image that is marked.
    """
    pairs = list(zip(images.regions, peaks, strict=True))
    found = np.array([image.found_polyps(peak) for image, peak in pairs])
    alarms = np.array([image.kept(peak).any() for image, peak in pairs]) & images.is_negative
    columns = {
        "images": np.ones(len(pairs)),
        "split": images.in_split,
        "dice": images.in_split * np.array([image.dice(peak) for image, peak in pairs]),
        "polyps": np.array([image.polyps for image in images.regions]),
        "found": found,
        "with_polyp": images.shows_polyp,
        "seen": found > 0,
        "false": np.array([image.false_regions(peak) for image, peak in pairs]),
        "negatives": images.is_negative,
        "alarms": alarms,
        "marked": images.is_negative * np.array([image.marked_share(peak) for image, peak in pairs]),
    }
    of_images = np.stack([column.astype(np.float64) for column in columns.values()], axis=1)
    sums = dict(zip(columns, resampled_sums(of_images, resamples, seed, images.groups).T, strict=True))

    def share(part: str, whole: str) -> dict[str, Any] | None:
        return with_interval(ratio(sums[part], sums[whole]))

    return {
        "polyps": int(sums["polyps"][0]),
        "found": int(sums["found"][0]),
        "negatives": int(sums["negatives"][0]),
        "alarms": int(sums["alarms"][0]),
        "found_share": share("found", "polyps"),
        "sensitivity": share("seen", "with_polyp"),
        "dice_per_image_native": share("dice", "split"),
        "false_per_image": share("false", "images"),
        "alarm_share": share("alarms", "negatives"),
        "marked_share": share("marked", "negatives"),
    }


def froc(images: ScoredImages, resamples: int, seed: int) -> list[dict[str, Any]]:
    """The free-response curve: polyps found against false regions an image, for the peaks of `FROC_PEAKS`.

    Returns:
        A point for the threshold alone, whose "peak_threshold" is None, and for each peak, with "found_share" and
        "false_per_image" of `operating_point`.
    """
    peaks: list[float | None] = [None, *FROC_PEAKS]
    points = [operating_point(images, [peak] * len(images.regions), resamples, seed) for peak in peaks]
    return [
        {"peak_threshold": peak, **{name: point[name] for name in ("found_share", "false_per_image")}}
        for peak, point in zip(peaks, points, strict=True)
    ]


def presence_auc(
    images: ScoredImages, calibration: Sequence[float] | None, resamples: int, seed: int
) -> dict[str, Any] | None:
    """Area under the ROC curve of presence: how often a frame with polyp has a higher one than an image without.

    This is Mann and Whitney's statistic; ties count one half.

    Args:
        images: The images.
        calibration: Of presence; None: presence is the highest probability of the map.
        resamples, seed: Of the bootstrap.

    Returns:
        The area with its interval; None if there are not both kinds of image.
    """
    presence = np.array([presence_of(image.highest, calibration) for image in images.regions])
    with_polyp, without = presence[images.shows_polyp], np.sort(presence[images.is_negative])
    order = np.argsort(presence[images.is_negative], kind="stable")
    below, up_to = (np.searchsorted(without, with_polyp, side) for side in ("left", "right"))
    areas = []
    for of_polyps, of_negatives in _weights(images, resamples, seed):
        # Negatives, counted as often as they were drawn, whose presence is at most that of the i-th lowest.
        counted = np.pad(of_negatives[:, order].cumsum(axis=1), ((0, 0), (1, 0)))
        lower = (counted[:, below] + counted[:, up_to]) / 2
        areas.append(ratio((of_polyps * lower).sum(axis=1), of_polyps.sum(axis=1) * counted[:, -1]))
    return with_interval(np.concatenate(areas))


def sensitivity_at_specificity(
    images: ScoredImages, specificity: float, resamples: int, seed: int
) -> dict[str, Any] | None:
    """Share of the frames with polyp that have a region on a polyp, where few enough images without polyp are marked.

    The peak threshold is the lowest that leaves the share `specificity` of the negatives without a region. Each
    resample chooses its own.

    Returns:
        "specificity"; "peak_above", the probability above which regions count, chosen on these images; "sensitivity",
        with its interval. None if there are not both kinds of image.
    """
    seen_until = np.array([image.polyp_peaks.max(initial=0) for image in images.regions])[images.shows_polyp]
    alarm_until = np.array([image.alarm_peak for image in images.regions])[images.is_negative]
    if not (len(seen_until) and len(alarm_until)):
        return None
    order = np.argsort(-alarm_until, kind="stable")
    shares, bounds = [], []
    for of_polyps, of_negatives in _weights(images, resamples, seed):
        alarms = of_negatives[:, order].cumsum(axis=1)
        allowed = (1 - specificity) * alarms[:, -1:] + 1e-9  # against rounding, as of 1 - 0.95
        # The first image that would be one alarm too many: regions count above its highest.
        bound = alarm_until[order][np.argmax(alarms > allowed, axis=1)]
        seen = seen_until > bound[:, None]
        share = ratio((of_polyps * seen).sum(axis=1), of_polyps.sum(axis=1))
        shares.append(np.where(alarms[:, -1] > 0, share, np.nan))
        bounds.append(bound)
    return {
        "specificity": specificity,
        "peak_above": float(bounds[0][0]),
        "sensitivity": with_interval(np.concatenate(shares)),
    }


def _weights(images: ScoredImages, resamples: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each frame with polyp and each image without counts: once, and then as each resample draws its group.

    Yields:
        (rows, frames with polyp) and (rows, negatives). The first row is that of the images themselves.
    """
    count = int(images.groups.max()) + 1
    of_polyps, of_negatives = images.groups[images.shows_polyp], images.groups[images.is_negative]
    yield np.ones((1, len(of_polyps))), np.ones((1, len(of_negatives)))
    for weights in bootstrap_weights(count, resamples, seed):
        yield weights[:, of_polyps], weights[:, of_negatives]


def summarise_presence(
    images: ScoredImages, calibration: Sequence[float] | None, resamples: int, seed: int
) -> dict[str, Any]:
    """The measures that depend on no chosen peak: "presence_auc", "at_specificity" and "froc" of `results.json`."""
    at_specificity = [sensitivity_at_specificity(images, one, resamples, seed) for one in SPECIFICITIES]
    return {
        "presence_auc": presence_auc(images, calibration, resamples, seed),
        "at_specificity": [point for point in at_specificity if point is not None],
        "froc": froc(images, resamples, seed),
    }
