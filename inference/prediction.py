"""What is predicted for an image, and what the predictors have in common; imports no torch.

`Predictor` computes with PyTorch, `OnnxPredictor` with ONNX Runtime; `load_predictor` opens either.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

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
        threshold: A pixel belongs to the mask if its probability is higher.
    """

    probability: np.ndarray
    probability_at_input_size: np.ndarray
    threshold: float

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, True where there is polyp."""
        return self.probability > self.threshold

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

    def __call__(self, image: Any, *, threshold: float = 0.5, tta: bool = False) -> Prediction:
        """Segment one image: PIL, numpy or torch, as `UNetImageProcessor` takes it.

        Args:
            image: RGB or grey, any size, upright or with an EXIF tag that says how to turn it.
            threshold: A pixel belongs to the mask if its probability is higher.
            tta: Average the probabilities of the image and its three flips, for four times the work.

        Raises:
            ValueError: For an image that cannot be used; the message says why.
        """
        return self.batch([image], threshold=threshold, tta=tta)[0]

    def batch(self, images: Sequence[Any], *, threshold: float = 0.5, tta: bool = False) -> list[Prediction]:
        """Segment images of any sizes together; arguments and errors as for a call."""
        return self.predict_prepared([self.prepare(image) for image in images], threshold=threshold, tta=tta)

    @abstractmethod
    def prepare(self, image: Any) -> PreparedImage:
        """Turn an image into what `predict_prepared` takes.

        Threads may call it, so that the next images are prepared while the network computes.

        Raises:
            ValueError: For an image that cannot be used; the message says why.
        """

    @abstractmethod
    def predict_prepared(
        self, prepared: Sequence[PreparedImage], *, threshold: float = 0.5, tta: bool = False
    ) -> list[Prediction]:
        """Segment prepared images together; `threshold` and `tta` as for a call."""

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
