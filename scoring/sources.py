"""What is scored: a source of probability maps, either a model or a folder of another program's files.

source = ModelSource.load("me/unet", None, device="auto", dtype="float32", tta=False)
source.predict(samples)[0].probability  # (H, W)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..common.errors import UserError
from ..common.paths import TRAINED_MODEL, TRAINED_NAME
from ..data.samples import Sample
from ..field_of_view_unet import Box, crop_to, field_of_view_text
from ..inference.checkpoint import fingerprint
from ..inference.output_folder import PROCESSOR_SETTINGS
from ..inference.prediction import BasePredictor, PreparedImage
from ..inference.predictor import load_predictor
from .prediction_files import PredictionFiles


class InvalidRunError(UserError):
    """The model gives NaN somewhere, so that no score of the run means anything."""


@dataclass(frozen=True)
class Maps:
    """What a source predicts for one image.

    Attributes:
        probability: (H, W) float32 at the image's original size.
        input_pair: Probability (h, w) float32 and ground truth (h, w) bool at the input size; None for files.
        spread, single, field_of_view: As of `Prediction`.
    """

    probability: np.ndarray
    input_pair: tuple[np.ndarray, np.ndarray] | None
    spread: np.ndarray | None = None
    single: np.ndarray | None = None
    field_of_view: Box | None = None


class ModelSource:
    """Predictions of a network.

    Attributes:
        name: What messages, and results that are not pushed, call it: a folder by its name.
        public_name: What results call it where it is not their subject; never the name of a folder or file.
        seconds: Time spent so far on predictions, with pre- and post-processing.
        identity: All that the predictions depend on, the code aside.
        peak_threshold: The model's own: a region of its masks counts if its highest probability reaches it; or None.
        peak_chosen_on: Fingerprint of the data that `save_peak` says it was chosen on, or None.
        presence_calibration: The model's own scale and offset of presence, or None.
        field_of_view: What the network sees of an image, as --field_of_view names it.
        processor_settings: How its image processor prepares images.
    """

    def __init__(self, name: str, predictor: BasePredictor, tta: bool, is_public: bool):
        self.name = name
        weights = " and ".join(fingerprint(member.model) for member in predictor.members)
        self.public_name = name if is_public else f"a local model with the weights {weights}"
        self.predictor = predictor
        self.tta = tta
        self.seconds = 0.0
        settings = predictor.processor_settings
        self.peak_threshold: float | None = settings.get("peak_threshold")
        self.peak_chosen_on: str | None = settings.get("peak_chosen_on")
        self.presence_calibration = predictor.presence_calibration
        self.field_of_view: str | None = field_of_view_text(predictor.field_of_view)
        self.processor_settings: dict[str, Any] | None = {name: settings.get(name) for name in PROCESSOR_SETTINGS}
        configurations = [member.model.config.to_dict() for member in predictor.members]
        self.identity: list[Any] = [predictor.identity, configurations, settings]
        self.identity += [str(predictor.runtime), tta, self.field_of_view]

    @classmethod
    def load(
        cls,
        name: str | Sequence[str],
        revision: str | None,
        *,
        device: str,
        dtype: str,
        tta: bool,
        field_of_view: str | None = None,
    ) -> "ModelSource":
        """Load a model from a folder, the Hub or an ONNX file; of several names an ensemble.

        Args:
            name, revision, device, dtype: As for `load_predictor`.
            tta: Average the probabilities of each image and its flips.
            field_of_view: What the network sees of an image, as `Predictor` takes it; None: the model's own setting.

        Raises:
            UserError: If one cannot be loaded, this machine lacks the device or dtype, or they cannot be averaged.
        """
        names = [name] if isinstance(name, str) else name
        predictor = load_predictor(names if len(names) > 1 else names[0], revision, device, dtype)
        predictor.field_of_view = field_of_view
        return cls(" + ".join(map(short_name_of, names)), predictor, tta, all(map(_is_public, names)))

    def predict(self, samples: Sequence[Sample], uncertainty: bool = False) -> list[Maps]:
        """The maps of some samples, in order.

        Args:
            samples: The samples.
            uncertainty: Also give the spread of the maps that are averaged.

        Raises:
            InvalidRunError: If the network gives NaN; the message names the image.
            UserError: If an image cannot be used, or the field of view does not lie within it; so does this one.
        """
        started = time.perf_counter()
        # Only the maps are used: a peak threshold equal to the threshold switches the model's own off.
        prepared = [self._prepare(sample) for sample in samples]
        how: dict[str, Any] = {"threshold": 0.5, "peak_threshold": 0.5, "tta": self.tta, "uncertainty": uncertainty}
        predictions = self.predictor.predict_prepared(prepared, **how)
        self.seconds += time.perf_counter() - started
        for sample, prediction in zip(samples, predictions, strict=True):
            if not prediction.is_valid:
                raise InvalidRunError(
                    f"{self.name} gives NaN for the image {sample.name}: the run is invalid, and no score is kept. "
                    "Try --dtype float32; if it is that already, the weights are broken."
                )
        ground_truths = [
            self.predictor.processor.resize_mask(crop_to(sample.ground_truth, prediction.field_of_view))
            for sample, prediction in zip(samples, predictions, strict=True)
        ]
        return [
            Maps(
                prediction.probability,
                (prediction.probability_at_input_size, ground_truth.numpy() == 1),
                prediction.spread,
                prediction.single,
                prediction.field_of_view,
            )
            for prediction, ground_truth in zip(predictions, ground_truths, strict=True)
        ]

    def _prepare(self, sample: Sample) -> PreparedImage:
        try:
            return self.predictor.prepare(sample.image)
        except ValueError as error:
            raise UserError(f"The image {sample.name} cannot be used: {error}") from error


class FileSource:
    """Predictions of another program, from the files of a folder; it has no peak threshold of its own.

    Raises:
        UserError: If the folder does not hold predictions.
    """

    def __init__(self, folder: Path):
        self.name = folder.resolve().name
        self.public_name = "masks from a local folder"
        self.files = PredictionFiles(folder)
        self.seconds = 0.0
        self.peak_threshold: float | None = None
        self.peak_chosen_on: str | None = None
        self.presence_calibration: Sequence[float] | None = None
        self.field_of_view: str | None = None
        self.processor_settings: dict[str, Any] | None = None
        self.identity: list[Any] = [self.files.digest]

    def predict(self, samples: Sequence[Sample]) -> list[Maps]:
        """The maps of some samples, in order.

        Raises:
            UserError: If a file is missing, has another size than its image, or holds no probabilities.
        """
        return [Maps(self.files.probability(sample.name, sample.ground_truth.shape), None) for sample in samples]


Source: TypeAlias = ModelSource | FileSource


def short_name_of(name: str) -> str:
    """What messages call a model: a folder by its name."""
    path = Path(name).resolve()
    if path == TRAINED_MODEL:
        return TRAINED_NAME
    return path.name if path.exists() else name.split("/")[-1]


def _is_public(name: str) -> bool:
    path = Path(name).resolve()
    return path == TRAINED_MODEL or not path.exists()


def open_sources(
    model: str | Sequence[str], revision: str | None, predictions: str | None, other: str | None, **how: Any
) -> tuple[Source, Source | None]:
    """What is scored, and what it is compared with, if anything.

    Args:
        model, revision: As for `ModelSource.load`.
        predictions: The folder of predictions that is scored in place of the model; None: the model is.
        other: What it is compared with, as `open_source` takes it; None: nothing.
        how: Device, dtype, tta and field_of_view.

    Raises:
        UserError: If a model or a folder of predictions cannot be read.
    """
    source = ModelSource.load(model, revision, **how) if predictions is None else FileSource(Path(predictions))
    return source, None if other is None else open_source(other, None, **how)


def open_source(name: str, revision: str | None, **how: Any) -> Source:
    """A model; or, of a folder without a model's configuration, the predictions that it holds.

    Raises:
        UserError: If it cannot be read.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return FileSource(Path(name))
    return ModelSource.load(name, revision, **how)
