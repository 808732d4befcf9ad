"""What is predicted for an image, and what the predictors have in common; imports no torch.

`Predictor` computes with PyTorch, `OnnxPredictor` with ONNX Runtime; `load_predictor` opens either.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..regions_unet import (
    check_calibration,
    check_region_options,
    check_thresholds,
    keep_large,
    keep_peaks,
    presence_of,
)
from .lesions import Lesion, find_lesions

if TYPE_CHECKING:
    from ..image_processing_unet import UNetImageProcessor

# Axes of images (..., H, W) that test-time augmentation flips: none, width, height, both.
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        probability: (H, W) float32, the probability of polyp at the image's original size.
        probability_at_input_size: (h, w) float32, the same at the network's input size.
        threshold: A pixel belongs to the mask if its probability is higher, and its region is kept.
        peak_threshold: A region of the mask is kept if its highest probability is at least this; None keeps all.
        presence_calibration: Scale and offset of `presence`; None if the model has none.
        min_area: A region of the mask is kept if it has at least so many pixels.
        largest_lesion: Whether, of the regions that are left, only the largest is kept.
    """

    probability: np.ndarray
    probability_at_input_size: np.ndarray
    threshold: float
    peak_threshold: float | None = None
    presence_calibration: Sequence[float] | None = None
    min_area: int = 0
    largest_lesion: bool = False

    def __repr__(self) -> str:
        height, width = self.probability.shape
        return f"<Prediction {width}x{height}: {len(self.lesions)} lesions, presence {self.presence:.3f}>"

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool, True where there is polyp."""
        mask = keep_peaks(self.probability, self.threshold, self.peak_threshold)
        return keep_large(mask, self.min_area, self.largest_lesion)

    @cached_property
    def peak(self) -> float:
        """The highest probability of the image."""
        return float(self.probability.max())

    @property
    def presence(self) -> float:
        """The probability that the image shows a polyp at all; without calibration it is `peak`."""
        return presence_of(self.peak, self.presence_calibration)

    @property
    def is_valid(self) -> bool:
        """Whether all probabilities are finite; NaN would be thresholded to background."""
        return bool(np.isfinite(self.probability_at_input_size).all())

    @cached_property
    def lesions(self) -> list[Lesion]:
        """The connected regions of the mask, the largest first."""
        return find_lesions(self.mask, self.probability)


@dataclass(frozen=True)
class PreparedImage:
    """An image as a predictor's network takes it.

    Attributes:
        pixels: pixel_values (1, 3, h, w) float for `Predictor`, a frame (h, w, 3) uint8 for `OnnxPredictor`.
        size: Original height and width of the image.
    """

    pixels: Any
    size: tuple[int, int]


class BasePredictor(ABC):
    """Images in, predictions out: the interface of `Predictor` and `OnnxPredictor`.

    Attributes:
        model: The network, or the ONNX session.
        runtime: Device (`device`) and dtype (`dtype`) of the computation; `str(runtime)` describes it.
    """

    model: Any
    runtime: Any

    @overload
    def __call__(
        self,
        image: list[Any] | tuple[Any, ...],
        *,
        threshold: float = ...,
        tta: bool = ...,
        peak_threshold: float | None = ...,
        min_area: int = ...,
        largest_lesion: bool = ...,
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self,
        image: Any,
        *,
        threshold: float = ...,
        tta: bool = ...,
        peak_threshold: float | None = ...,
        min_area: int = ...,
        largest_lesion: bool = ...,
    ) -> Prediction: ...

    def __call__(
        self,
        image: Any,
        *,
        threshold: float = 0.5,
        tta: bool = False,
        peak_threshold: float | None = None,
        min_area: int = 0,
        largest_lesion: bool = False,
    ) -> Prediction | list[Prediction]:
        """Segment an image: PIL, numpy or torch, as `UNetImageProcessor` takes it; or several, one after the other.

        Args:
            image: RGB or grey, any size, upright or with an EXIF tag that says how to turn it. A list or a tuple of
                images, or an array or tensor (N, ...) with four axes, is several.
            threshold: A pixel belongs to the mask if its probability is higher.
            tta: Average the probabilities of the image and its three flips, for four times the work.
            peak_threshold: A region of the mask is kept if its highest probability is at least this. None takes the
                model's own, if it has one; a value equal to `threshold` keeps every region.
            min_area: A region of the mask is kept if it has at least so many pixels of the image.
            largest_lesion: Whether, of the regions that are left, only the largest is kept.

        Returns:
            The prediction; of several images a list.

        Raises:
            ValueError: For an image that cannot be used, a threshold outside [0, 1], a peak threshold below
                `threshold`, or a `min_area` that is no whole number of pixels; the message says why.
        """
        how: dict[str, Any] = {"threshold": threshold, "tta": tta, "peak_threshold": peak_threshold}
        how |= {"min_area": min_area, "largest_lesion": largest_lesion}
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            return [self(each, **how) for each in image]
        return self.batch([image], **how)[0]

    def batch(self, images: Sequence[Any], **how: Any) -> list[Prediction]:
        """Segment images of any sizes together; arguments and errors as for a call."""
        return self.predict_prepared([self.prepare(image) for image in images], **how)

    @abstractmethod
    def prepare(self, image: Any) -> PreparedImage:
        """Turn an image into what `predict_prepared` takes.

        Threads may call it, so that the next images are prepared while the network computes.

        Raises:
            ValueError: For an image that cannot be used; the message says why.
        """

    def predict_prepared(
        self,
        prepared: Sequence[PreparedImage],
        *,
        threshold: float = 0.5,
        tta: bool = False,
        peak_threshold: float | None = None,
        min_area: int = 0,
        largest_lesion: bool = False,
    ) -> list[Prediction]:
        """Segment prepared images together; arguments as for a call.

        Raises:
            ValueError: For thresholds, or a `min_area`, that cannot be.
        """
        check_region_options(min_area, largest_lesion)
        peak_threshold = self.choose_peak_threshold(threshold, peak_threshold)
        calibration = self.presence_calibration
        return [
            Prediction(probability, at_input_size, threshold, peak_threshold, calibration, min_area, largest_lesion)
            for probability, at_input_size in self.probability_maps(prepared, tta)
        ]

    @abstractmethod
    def probability_maps(self, prepared: Sequence[PreparedImage], tta: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each prepared image `probability` and `probability_at_input_size` of its prediction."""

    def choose_peak_threshold(self, threshold: float, peak_threshold: float | None = None) -> float | None:
        """The peak threshold that a call with these arguments uses: the one given, or the model's own, or None.

        Raises:
            ValueError: If it is below `threshold`, or one of the two is no probability.
        """
        if peak_threshold is None:
            peak_threshold = self.peak_threshold
        check_thresholds(threshold, peak_threshold)
        return peak_threshold

    @property
    def peak_threshold(self) -> float | None:
        """The model's own peak threshold; None if it has none."""
        return self.processor_settings.get("peak_threshold")

    @property
    def presence_calibration(self) -> Sequence[float] | None:
        """Scale and offset of `Prediction.presence`, as the model states them; None if it does not.

        Raises:
            ValueError: If they are not two finite numbers.
        """
        calibration = self.processor_settings.get("presence_calibration")
        check_calibration(calibration)
        return calibration

    @property
    @abstractmethod
    def processor(self) -> "UNetImageProcessor":
        """The image processor that belongs to the network."""

    @property
    @abstractmethod
    def processor_settings(self) -> dict[str, Any]:
        """The image processor's settings, as preprocessor_config.json holds them."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hash of everything that the probabilities depend on, settings and images apart."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The model's name of what it marks, as "polyp"."""
