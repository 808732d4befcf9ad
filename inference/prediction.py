"""What is predicted for an image, and what the predictors have in common; imports no torch.

`Predictor` computes with PyTorch, `OnnxPredictor` with ONNX Runtime; `load_predictor` opens either.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from ..common.errors import counted
from ..field_of_view_unet import Box, read_field_of_view
from ..regions_unet import (
    check_calibration,
    check_region_options,
    check_thresholds,
    keep_large,
    keep_peaks,
    presence_of,
)
from .lesions import Lesion, find_lesions
from .uncertainty import Spread, mask_uncertainty

if TYPE_CHECKING:
    from ..image_processing_unet import UNetImageProcessor

# Axes of images (..., H, W) that test-time augmentation flips: none, width, height, both.
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
# A probability map (H, W) at an image's original size, and the one (h, w) at the network's input size.
MapPair: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        probability: (H, W) float32, the probability of polyp at the image's original size.
        probability_at_input_size: (h, w) float32, that of the field of view at the network's input size.
        threshold: A pixel belongs to the mask if its probability is higher, and its region is kept.
        peak_threshold: A region of the mask is kept if its highest probability is at least this; None keeps all.
        presence_calibration: Scale and offset of `presence`; None if the model has none.
        min_area: A region of the mask is kept if it has at least so many pixels.
        largest_lesion: Whether, of the regions that are left, only the largest is kept.
        field_of_view: What the network saw of the image: left, top, right and bottom in pixels. Outside, the
            probability is 0. None: all of it.
        spread: (H, W) float32, the standard deviation of the maps whose mean `probability` is, at most 0.5: of the
            members of an ensemble, or of the image's flips. None if it was not asked for.
        single: (H, W) float32, the first of these maps; None as `spread`.
    """

    probability: np.ndarray
    probability_at_input_size: np.ndarray
    threshold: float
    peak_threshold: float | None = None
    presence_calibration: Sequence[float] | None = None
    min_area: int = 0
    largest_lesion: bool = False
    field_of_view: Box | None = None
    spread: np.ndarray | None = None
    single: np.ndarray | None = None

    def __repr__(self) -> str:
        height, width = self.probability.shape
        return f"<Prediction {width}x{height}: {counted(len(self.lesions), 'lesion')}, presence {self.presence:.3f}>"

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
    def uncertainty(self) -> float:
        """1 minus the Dice that the network itself expects of its mask, from 0 (sure) to 1.

        The expected Dice is `presence` times the soft Dice of probability map and mask, 2 * sum(p * mask) /
        (sum(p) + sum(mask)). An empty mask has a Dice of 1 if there is no polyp: 1 - `presence` is expected.
        """
        if not self.mask.any():
            return self.presence
        return 1 - self.presence * (1 - mask_uncertainty(self.probability, self.mask))

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
        field_of_view: The rectangle of it that `pixels` shows: left, top, right and bottom; None: all of it.
    """

    pixels: Any
    size: tuple[int, int]
    field_of_view: Box | None = None

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width of what the network sees, in pixels of the image."""
        if self.field_of_view is None:
            return self.size
        left, top, right, bottom = self.field_of_view
        return bottom - top, right - left


class BasePredictor(ABC):
    """Images in, predictions out: the interface of `Predictor` and `OnnxPredictor`.

    Attributes:
        model: The network, or the ONNX session.
        runtime: Device (`device`) and dtype (`dtype`) of the computation; `str(runtime)` describes it.
    """

    model: Any
    runtime: Any
    _field_of_view: Any = None  # in place of the model's own

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
        field_of_view: str | Sequence[int] | None = ...,
        uncertainty: bool = ...,
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
        field_of_view: str | Sequence[int] | None = ...,
        uncertainty: bool = ...,
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
        field_of_view: str | Sequence[int] | None = None,
        uncertainty: bool = False,
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
            field_of_view: The rectangle of the image that the network sees: "none" for all of it, "auto", or left,
                top, right and bottom in pixels. None takes `BasePredictor.field_of_view`.
            uncertainty: Also give the `spread` of the maps that are averaged; of a single model, with `tta`.

        Returns:
            The prediction; of several images a list.

        Raises:
            ValueError: For an image that cannot be used, a threshold outside [0, 1], a peak threshold below
                `threshold`, a `min_area` that is no whole number of pixels, a field of view that does not lie within
                the image, or the spread of a single map; the message says why.
        """
        how: dict[str, Any] = {"threshold": threshold, "tta": tta, "peak_threshold": peak_threshold}
        how |= {"min_area": min_area, "largest_lesion": largest_lesion, "field_of_view": field_of_view}
        how["uncertainty"] = uncertainty
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            return [self(each, **how) for each in image]
        return self.batch([image], **how)[0]

    def batch(self, images: Sequence[Any], *, field_of_view: Any = None, **how: Any) -> list[Prediction]:
        """Segment images of any sizes together; arguments and errors as for a call."""
        return self.predict_prepared([self.prepare(image, field_of_view) for image in images], **how)

    @abstractmethod
    def prepare(self, image: Any, field_of_view: str | Sequence[int] | None = None) -> PreparedImage:
        """Turn an image into what `predict_prepared` takes.

        Threads may call it, so that the next images are prepared while the network computes.

        Args:
            image, field_of_view: As for a call.

        Raises:
            ValueError: For an image that cannot be used, or a field of view outside of it; the message says why.
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
        uncertainty: bool = False,
    ) -> list[Prediction]:
        """Segment prepared images together; arguments as for a call.

        Raises:
            ValueError: For thresholds, or a `min_area`, that cannot be, and for the spread of a single map.
        """
        check_region_options(min_area, largest_lesion)
        if uncertainty and not self.averages(tta):
            raise ValueError(
                "Got uncertainty=True of one model without its flips; expected several maps, whose spread it is: add "
                "tta=True, or load several models."
            )
        peak_threshold = self.choose_peak_threshold(threshold, peak_threshold)
        calibration = self.presence_calibration
        if uncertainty:
            means, spreads = self._mean_and_spread(self.parts(prepared, tta))
        else:
            means, spreads = self.probability_maps(prepared, tta), []
        return [
            Prediction(
                *(probability, at_input_size, threshold, peak_threshold, calibration, min_area, largest_lesion),
                field_of_view=prepared[index].field_of_view,
                spread=spreads[index].deviation() if spreads else None,
                single=spreads[index].first if spreads else None,
            )
            for index, (probability, at_input_size) in enumerate(means)
        ]

    def averages(self, tta: bool) -> bool:
        """Whether predictions are means over several maps."""
        return tta

    @property
    def members(self) -> "Sequence[BasePredictor]":
        """The models whose maps are averaged; of a single model itself."""
        return [self]

    def parts(self, prepared: Sequence[PreparedImage], tta: bool) -> Iterator[list[MapPair]]:
        """What predictions are means of: one part for each flip.

        Yields:
            For each prepared image its maps, as `probability_maps` gives them.
        """
        for axes in FLIPS if tta else FLIPS[:1]:
            yield self.flip_maps(prepared, axes)

    def probability_maps(self, prepared: Sequence[PreparedImage], tta: bool) -> list[MapPair]:
        """For each prepared image `probability` and `probability_at_input_size` of its prediction."""
        return self._mean_and_spread(self.parts(prepared, tta), with_spread=False)[0]

    @staticmethod
    def _mean_and_spread(
        parts: Iterator[list[MapPair]], with_spread: bool = True
    ) -> tuple[list[MapPair], list[Spread]]:
        """Means of the parts for each image, and how they spread at the original size."""
        means = next(parts)
        spreads = [Spread(probability) for probability, _ in means] if with_spread else []
        count = 1
        for part in parts:  # added up one by one: a map of a large image takes memory
            for index, (total, other) in enumerate(zip(means, part, strict=True)):
                for sums, values in zip(total, other, strict=True):
                    np.add(sums, values, out=sums)
                if with_spread:
                    spreads[index].add(other[0])
            count += 1
        for total in means if count > 1 else []:
            for sums in total:
                np.divide(sums, count, out=sums)
        return means, spreads

    @abstractmethod
    def flip_maps(self, prepared: Sequence[PreparedImage], axes: tuple[int, ...]) -> list[MapPair]:
        """Predict for the images, flipped along some axes, and flip the maps back.

        Args:
            prepared: The images.
            axes: One of `FLIPS`.

        Returns:
            For each image its probability (H, W) at the original size, 0 outside the field of view, and (h, w) at the
            input size, float32; nothing else holds these arrays.
        """

    def input_height(self, prepared: PreparedImage) -> int:
        """Rows of a prepared image, at the network's input size."""
        return len(prepared.pixels)

    def grey_levels(self, prepared: PreparedImage, rows: np.ndarray) -> np.ndarray:
        """Rows of a prepared image as the network sees them, before it normalises them.

        Args:
            prepared: The image.
            rows: (N,) integers, which rows.

        Returns:
            (N, w, 3) uint8, RGB.
        """
        return prepared.pixels[rows]

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
    def field_of_view(self) -> str | Box | None:
        """The setting that images are prepared by: the model's own, or what it was set to; None: all of an image.

        Raises:
            ValueError: If it is set to what is no such setting.
        """
        own = self.processor_settings.get("field_of_view") if self._field_of_view is None else self._field_of_view
        return read_field_of_view(own)

    @field_of_view.setter
    def field_of_view(self, value: str | Sequence[int] | None) -> None:
        read_field_of_view(value)
        self._field_of_view = value  # None: the model's own again

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
