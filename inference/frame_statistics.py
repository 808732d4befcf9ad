"""Statistics of the frames that a model was trained on; frame_differences.py compares other frames with them.

    statistics = FrameStatistics.of(measured_on_training, measured_on_validation)
    settings["frame_statistics"] = statistics.to_dict()    # among the image processor's settings

A frame is measured as the network sees it, at the input size. What is kept with a model are quantiles of these
measures over all frames: a few numbers for each measure, nothing of a single frame. Imports no torch.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .prediction import BasePredictor, Prediction, PreparedImage
from .uncertainty import mask_uncertainty

VERSION = 1
SETTING = "frame_statistics"  # key among the image processor's settings
LEVELS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)  # of the quantiles that are kept
FEWEST_FRAMES = 40  # that quantiles are taken of: one for each 2.5 %
THRESHOLD = 0.5  # of the mask that the uncertainty is of, whatever a run's own is
FILM_FRAMES = 64  # of a film, at most, that are measured
FILM_SECONDS = 1.0  # between them, at least
BANDS = 32  # rows of a frame that are measured, each with the two below it
COLUMN_STEP = 4  # of the pixels that the colours are taken of
DARK = 20.0  # a grey level below which a pixel shows no tissue, but the frame around the picture or a deep lumen
SMALLEST = 0.01  # added to what a logarithm is taken of, in grey levels

# What a frame is called that lies below, or above, nearly all training frames in a measure; None: nothing is wrong.
MEASURES: dict[str, tuple[str | None, str | None]] = {
    "brightness": ("darker", "brighter"),
    "contrast": ("less contrast", "more contrast"),
    "red": ("less red", "redder"),
    "blue": ("less blue", "bluer"),
    "saturation": ("paler colours", "stronger colours"),
    "dark": ("less black around the picture", "more black around the picture"),
    "sharpness": ("less sharp", "sharper"),
    "grain": ("smoothed, as by strong compression", "noisier"),
    "presence": ("fewer polyps found", None),
    "uncertainty": (None, "less certain outlines"),
}
OF_PREDICTIONS = ("presence", "uncertainty")


class StatisticsError(ValueError):
    """Statistics that cannot be used; the message says why."""


@dataclass(frozen=True)
class FrameStatistics:
    """Quantiles of the measures.

    Attributes:
        frames: Number of frames that colours and sharpness were measured on.
        predicted_frames: Of those that presence and uncertainty were measured on.
        quantiles: By measure, at each of the `LEVELS`.
    """

    frames: int
    predicted_frames: int
    quantiles: Mapping[str, Sequence[float]]

    @classmethod
    def of(
        cls, frames: Sequence[Mapping[str, float]], predicted: Sequence[Mapping[str, float]]
    ) -> "FrameStatistics | None":
        """The statistics of measured frames.

        Args:
            frames: Measures of the frames that the model was trained on.
            predicted: Of frames that it was not trained on, of which presence and uncertainty are taken: on those of
                the training a network is too sure.

        Returns:
            None if too few frames were measured for the quantiles.
        """
        quantiles = {}
        for name in MEASURES:
            measured = predicted if name in OF_PREDICTIONS else frames
            values = [measures[name] for measures in measured if name in measures]
            if len(values) >= FEWEST_FRAMES:
                quantiles[name] = [float(f"{value:.5g}") for value in np.quantile(values, LEVELS)]
        return cls(len(frames), len(predicted), quantiles) if quantiles else None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "FrameStatistics | None":
        """Those among an image processor's settings; None if there are none.

        Raises:
            StatisticsError: If they are of another version, or damaged.
        """
        stored = settings.get(SETTING)
        if stored is None:
            return None
        if not isinstance(stored, dict):
            raise StatisticsError("are damaged: they are no table")
        if stored.get("version") != VERSION:
            version = stored.get("version")
            raise StatisticsError(f"are of version {version}, and this version of the project reads {VERSION}")
        if stored.get("levels") != list(LEVELS):
            raise StatisticsError("are damaged: their quantiles are at other levels")
        quantiles = stored.get("quantiles")
        if not isinstance(quantiles, dict) or not all(_are_quantiles(quantiles[name]) for name in quantiles):
            raise StatisticsError(f"are damaged: expected {len(LEVELS)} rising numbers for each measure")
        frames, predicted_frames = stored.get("frames"), stored.get("predicted_frames")
        if not isinstance(frames, int) or not isinstance(predicted_frames, int):
            raise StatisticsError("are damaged: they do not say of how many frames they are")
        return cls(frames, predicted_frames, quantiles)

    def to_dict(self) -> dict[str, Any]:
        """As `from_settings` reads them."""
        return {
            "version": VERSION,
            "frames": self.frames,
            "predicted_frames": self.predicted_frames,
            "levels": list(LEVELS),
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
        }


def _are_quantiles(values: Any) -> bool:
    if not isinstance(values, list) or len(values) != len(LEVELS):
        return False
    are_numbers = (isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    # JSON may state whole numbers that no float holds. The comparison is False for NaN.
    if not all(are_numbers) or not all(abs(value) <= sys.float_info.max for value in values):
        return False
    return all(low <= high for low, high in pairwise(values))


def measure_frame(predictor: BasePredictor, prepared: PreparedImage) -> dict[str, float]:
    """Colours and sharpness of a frame as the network sees it.

    To cost little, it is measured on 32 evenly spread rows and, for the second derivative, the two rows below each.

    Returns:
        By name, of the pixels: brightness and contrast (mean and standard deviation of the grey levels, 0 to 255);
        dark (share of those below 20); red and blue (share of the colour's mean in that of all three) and saturation
        (mean of 1 - min / max), both of pixels that are not dark; sharpness and grain (decimal logarithms of the root
        mean square, and of the median, of the absolute Laplacian of the green channel, which edges and fine noise
        raise respectively). Frames of less than 3 pixels in height or width have no sharpness and no grain.
    """
    height = predictor.input_height(prepared)
    step = max(1, (height - 2) // BANDS)
    tops = np.arange(0, max(height - 2, 1), step)
    rows = np.minimum(tops[:, None] + np.arange(3), height - 1)
    bands = predictor.grey_levels(prepared, rows.ravel()).reshape(*rows.shape, -1, 3)
    measures = _measure_colours(bands[:, 1, ::COLUMN_STEP].reshape(-1, 3).T.astype(np.float32))
    if height >= 3 and bands.shape[2] >= 3:
        measures |= _measure_detail(bands[..., 1].astype(np.int16))
    return {name: round(value, 6) for name, value in measures.items()}


def _measure_colours(pixels: np.ndarray) -> dict[str, float]:
    """Of pixels (3, N) float32."""
    red, green, blue = pixels
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    is_lit = grey >= DARK
    if is_lit.any():
        red, green, blue = red[is_lit], green[is_lit], blue[is_lit]
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    whole = max(float(red.mean() + green.mean() + blue.mean()), 1.0)
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "red": float(red.mean()) / whole,
        "blue": float(blue.mean()) / whole,
        "saturation": float(1 - (lowest / np.maximum(highest, 1.0)).mean()),
        "dark": float(1 - is_lit.mean()),
    }


def _measure_detail(bands: np.ndarray) -> dict[str, float]:
    """Of bands (N, 3, w) int16, three rows each."""
    above, middle, below = bands[:, 0, 1:-1], bands[:, 1], bands[:, 2, 1:-1]
    laplacian = np.abs(4 * middle[:, 1:-1] - middle[:, :-2] - middle[:, 2:] - above - below)
    counts = np.bincount(laplacian.ravel())
    values, total = np.arange(len(counts)), laplacian.size
    # The level k stands for those from k - 0.5 to k + 0.5: a median of whole numbers would be too coarse.
    reached = np.cumsum(counts)
    level = int(np.searchsorted(reached, total / 2))
    median = level + 0.5 - (reached[level] - total / 2) / counts[level]
    square = float((counts * values**2).sum()) / total
    return {
        "sharpness": math.log10(math.sqrt(square) + SMALLEST),
        "grain": math.log10(max(float(median), 0.0) + SMALLEST),
    }


def measure_prediction(prediction: Prediction) -> dict[str, float]:
    """Presence and uncertainty of a prediction; the latter only where a pixel is marked."""
    measures = {"presence": round(prediction.presence, 6)}
    probability = prediction.probability_at_input_size
    mask = probability > THRESHOLD
    if mask.any():
        measures["uncertainty"] = round(mask_uncertainty(probability, mask), 6)
    return measures


class FilmSample:
    """Measures of frames that are spread evenly over a film, of which the length need not be known.

    The first frame of each second is measured. Whenever these are more than `FILM_FRAMES`, every other one is dropped,
    and from then on frames are twice as far apart: memory does not grow with the film.
    """

    def __init__(self) -> None:
        self._seconds = FILM_SECONDS  # a stretch of the film, of which one frame is measured
        self._measures: dict[int, dict[str, float]] = {}  # by the stretch's number

    def add(self, seconds: float, predictor: BasePredictor, prepared: PreparedImage) -> None:
        """Measure a frame if it is one of the sample. Frames come in the order of their times.

        Args:
            seconds: Its time in the film.
            predictor, prepared: As for `measure_frame`.
        """
        stretch = int(seconds // self._seconds)
        if stretch in self._measures:
            return
        self._measures[stretch] = measure_frame(predictor, prepared)
        if len(self._measures) > FILM_FRAMES:
            measures, self._measures = self._measures, {}
            self._seconds *= 2
            for number, of_frame in measures.items():
                self._measures.setdefault(number // 2, of_frame)

    @property
    def measures(self) -> list[dict[str, float]]:
        """Those of each frame of the sample, in their order."""
        return list(self._measures.values())
