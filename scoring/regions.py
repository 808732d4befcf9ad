"""The regions that a probability map marks, and the polyps that they lie on, as numbers: no pixel is kept.

    regions = find_regions(probability, ground_truth, threshold=0.5)
    regions.counts(peak_threshold=0.9)  # tp, fp and fn of the mask that hysteresis thresholding gives

Everything that depends on the peak threshold follows from these numbers, for any peak.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .overlap import dice

MIN_POLYP_PIXELS = 20  # smaller components of the ground truth are neither polyps to be found nor missed

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Regions:
    """The regions (8 neighbours) of one image's map whose probability is above the threshold.

    A polyp is a component (8 neighbours) of the ground truth of `MIN_POLYP_PIXELS` or more. It is found if a region
    overlaps it. A region is false if it overlaps no pixel of the ground truth.

    Attributes:
        peaks: (regions,) float32, the highest probability of each.
        pixels: (regions,) int64, its area.
        tp: (regions,) int64, its pixels that are polyp in the ground truth.
        on_polyp: (regions, polyps) bool, which region overlaps which polyp.
        true_pixels: Pixels of polyp in the ground truth.
        area: Pixels of the image.
        highest: The highest probability of the map, also where it is below the threshold.
    """

    peaks: np.ndarray
    pixels: np.ndarray
    tp: np.ndarray
    on_polyp: np.ndarray
    true_pixels: int
    area: int
    highest: float

    @property
    def polyps(self) -> int:
        """How many polyps there are to find."""
        return self.on_polyp.shape[1]

    @property
    def alarm_peak(self) -> float:
        """The highest peak threshold at which anything is marked; 0 if nothing is."""
        return float(self.peaks.max(initial=0))

    @property
    def polyp_peaks(self) -> np.ndarray:
        """(polyps,) float64, the highest peak threshold at which each polyp is found; 0 if it is not at any."""
        return np.where(self.on_polyp, self.peaks[:, None], 0).max(axis=0, initial=0).astype(np.float64)

    def kept(self, peak_threshold: float | None) -> np.ndarray:
        """(regions,) bool, which regions count: those whose peak reaches the threshold; with None all."""
        return np.full(len(self.peaks), True) if peak_threshold is None else self.peaks >= np.float32(peak_threshold)

    def counts(self, peak_threshold: float | None) -> tuple[int, int, int]:
        """Pixels that are true positive, false positive and false negative in the mask of the regions that count."""
        kept = self.kept(peak_threshold)
        tp = int(self.tp[kept].sum())
        return tp, int(self.pixels[kept].sum()) - tp, self.true_pixels - tp

    def dice(self, peak_threshold: float | None) -> float:
        """Dice of that mask; 1 if there is no polyp and nothing is marked."""
        tp, fp, fn = np.array(self.counts(peak_threshold))
        return float(dice(tp, fp, fn))

    def found_polyps(self, peak_threshold: float | None) -> int:
        """Polyps that a region that counts overlaps."""
        return int(self.on_polyp[self.kept(peak_threshold)].any(axis=0).sum())

    def false_regions(self, peak_threshold: float | None) -> int:
        """Regions that count and overlap no pixel of the ground truth."""
        return int((self.tp[self.kept(peak_threshold)] == 0).sum())

    def marked_share(self, peak_threshold: float | None) -> float:
        """Share of the image that the regions that count cover."""
        return float(self.pixels[self.kept(peak_threshold)].sum() / self.area)


def find_regions(probability: np.ndarray, ground_truth: np.ndarray, threshold: float) -> Regions:
    """Find the regions of a map.

    Args:
        probability: (H, W) float32 in [0, 1], at the image's original size.
        ground_truth: (H, W) bool, True where there is polyp.
        threshold: A pixel belongs to a region if its probability is higher.
    """
    mask = probability > np.float32(threshold)
    labels, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
    true_labels, _ = ndimage.label(ground_truth, EIGHT_NEIGHBOURS)
    is_polyp = np.bincount(true_labels.ravel()) >= MIN_POLYP_PIXELS
    is_polyp[0] = False  # the background

    region_of_pixel = labels[mask] - 1
    peaks = np.zeros(count, dtype=np.float32)
    np.maximum.at(peaks, region_of_pixel, probability[mask])
    overlaps = np.zeros((count, len(is_polyp)), dtype=bool)
    overlaps[region_of_pixel, true_labels[mask]] = True
    return Regions(
        peaks=peaks,
        pixels=np.bincount(region_of_pixel, minlength=count),
        tp=np.bincount(region_of_pixel[ground_truth[mask]], minlength=count),
        on_polyp=overlaps[:, is_polyp],
        true_pixels=int(ground_truth.sum()),
        area=ground_truth.size,
        highest=float(probability.max()),
    )
