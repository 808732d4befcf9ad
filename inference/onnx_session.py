"""Runs an ONNX file that `export.py` wrote, in ONNX Runtime; imports neither torch nor transformers.

session = OnnxSession.load("onnx/model_int8.onnx")
mask, probability, logits = session.run(frames, threshold=0.5)  # frames: (B, H, W, 3) uint8

predictor = OnnxPredictor.load("onnx/model_int8.onnx")  # images of all kinds and mixed sizes, lesions
predictor(Image.open("frame.jpg")).mask
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..common.errors import UserError, first_line, require_extra
from ..common.files import read_file, to_rgb
from ..common.processors import usable_processors
from ..field_of_view_unet import choose_box, crop_to, in_whole_frame, read_field_of_view
from ..regions_unet import check_calibration, check_input_size, check_thresholds
from .prediction import BasePredictor, MapPair, PreparedImage
from .resize import resize_frame, resize_map

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

    from ..configuration_unet import UNetConfig
    from ..image_processing_unet import UNetImageProcessor

ONNX_SUFFIX = ".onnx"
CONTRACT_VERSION = "1"
# Name, type and number of dimensions.
INPUTS = {"frames": ("tensor(uint8)", 4), "threshold": ("tensor(float)", 0)}
OUTPUTS = {"mask": ("tensor(uint8)", 3), "probability": ("tensor(float)", 3), "logits": ("tensor(float)", 4)}
METADATA = {"fingerprint", "precision", "parameters", "config", "preprocessor"}
GPU, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
MAX_BYTES = 2**31  # a file in the format of ONNX has no more
# A tensor that lies in another file names it under the key "location". Its 8 letters follow their number, which ends
# in byte 8, or in byte 0 where it is written longer than it needs to be.
KEY_OF_OTHER_FILE = re.compile(rb"[\x00\x08]location")
FATAL_ONLY = 4  # of ONNX Runtime's levels of logging: its errors are raised too


@dataclass(frozen=True)
class OnnxRuntime:
    """Where an ONNX file computes, named as in `Runtime` of common/device.py.

    Attributes:
        device: "cuda" or "cpu".
        dtype: Of the maps that it gives; the network inside may compute in another, see `OnnxSession.precision`.
    """

    device: str
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.device}, {self.dtype}, ONNX Runtime"


@dataclass(frozen=True)
class OnnxSession:
    """A network in an ONNX file, with its pre- and post-processing.

    Attributes:
        session: ONNX Runtime's.
        metadata: The file's own entries, by name.
        digest: Hash of the file. Files of one network that were quantized on different images differ in it.
    """

    session: "InferenceSession"
    metadata: dict[str, str]
    digest: str

    @classmethod
    def load(cls, path: str | Path, cpu_only: bool = False) -> "OnnxSession":
        """Read a file.

        Args:
            path: The file.
            cpu_only: Compute on the CPU even if a GPU and the package onnxruntime-gpu are there.

        Raises:
            UserError: If it is no ONNX file, keeps tensors in other files, or is one of another contract, whose inputs
                and outputs the message shows.
        """
        require_extra("export", "onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = number_of_threads()
        present = onnxruntime.get_available_providers()
        providers = [GPU, CPU] if GPU in present and not cpu_only else [CPU]
        try:
            content = read_file(path, MAX_BYTES)
            refuse_other_files(content)
            session = onnxruntime.InferenceSession(content, options, providers=providers)
            metadata = dict(session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise UserError(
                f"{path} cannot be loaded as an ONNX file ({first_line(error)}). Expected one that export.py wrote."
            ) from error
        check_contract(session, metadata, path)
        return cls(session, metadata, f"sha256:{hashlib.sha256(content).hexdigest()}")

    @property
    def device(self) -> str:
        """Where it computes: "cuda" or "cpu"."""
        return "cuda" if GPU in self.session.get_providers() else "cpu"

    @property
    def fingerprint(self) -> str:
        """Hash of the weights that were exported, as `checkpoint.fingerprint` gives it."""
        return self.metadata["fingerprint"]

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8"."""
        return self.metadata["precision"]

    @property
    def processor_settings(self) -> dict[str, Any]:
        """Settings of the image processor, as preprocessor_config.json holds them."""
        return json.loads(self.metadata["preprocessor"])

    @cached_property
    def config(self) -> "UNetConfig":
        """Configuration of the network; needs transformers."""
        from ..configuration_unet import UNetConfig

        try:
            return UNetConfig.from_dict(json.loads(self.metadata["config"]))
        except Exception as error:  # transformers raises errors of all kinds for damaged files
            raise UserError(f"The ONNX file describes a network that cannot be ({first_line(error)}).") from error

    @cached_property
    def processor(self) -> "UNetImageProcessor":
        """The image processor that belongs to the network; needs torch and transformers."""
        from ..image_processing_unet import UNetImageProcessor

        try:
            return UNetImageProcessor(**self.processor_settings)
        except Exception as error:  # as above
            raise UserError(f"The ONNX file states an unusable image processor ({first_line(error)}).") from error

    def num_parameters(self) -> int:
        """Weights of the network that was exported."""
        return int(self.metadata["parameters"])

    def run(self, frames: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment frames of one size.

        Args:
            frames: (B, H, W, 3) uint8, RGB.
            threshold: A pixel belongs to the mask if its probability is higher.

        Returns:
            mask (B, H, W) uint8 of {0, 1}, probability (B, H, W) float32, logits (B, 1, h, w) float32.
        """
        inputs = {"frames": np.ascontiguousarray(frames), "threshold": np.array(threshold, dtype=np.float32)}
        mask, probability, logits = self.session.run(list(OUTPUTS), inputs)
        return mask, probability, logits


class OnnxPredictor(BasePredictor):
    """An ONNX file as a predictor, for images of mixed sizes."""

    def __init__(self, model: OnnxSession):
        self.model: OnnxSession = model
        self.runtime: OnnxRuntime = OnnxRuntime(model.device)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", revision: str | None = None) -> "OnnxPredictor":
        """Read a file.

        Args:
            path: The file.
            device: "auto", "cuda" or "cpu".
            revision: None, since a file has no revisions.

        Raises:
            UserError: As `OnnxSession.load`; for a revision; and if ONNX Runtime cannot compute on the device.
        """
        if revision is not None:
            raise UserError(f"The revision {revision} is of a repo on the Hub, and {path} is a file: leave one out.")
        predictor = cls(OnnxSession.load(path, cpu_only=device not in ("auto", "cuda")))
        if device not in ("auto", predictor.runtime.device):
            raise UserError(
                f"ONNX Runtime has no device {device!r} here; it has {predictor.runtime.device}. Choose that or "
                '"auto"; for "cuda" install onnxruntime-gpu in place of onnxruntime.'
            )
        return predictor

    @property
    def processor(self) -> "UNetImageProcessor":
        return self.model.processor

    @property
    def processor_settings(self) -> dict[str, Any]:
        return self.model.processor_settings

    @property
    def identity(self) -> str:
        """Hash of the file."""
        return self.model.digest

    def prepare(self, image: Any, field_of_view: str | Sequence[int] | None = None) -> PreparedImage:
        height, width = (self.processor_settings["size"][side] for side in ("height", "width"))
        setting = self.field_of_view if field_of_view is None else field_of_view
        frame = self._to_frame(image)
        if frame is None:
            return self._prepare_with_torch(image, setting)
        size, box = (frame.shape[0], frame.shape[1]), choose_box(setting, frame)
        frame = crop_to(frame, box)
        # The graph resizes too, but more slowly, and the threads that prepare images can share this work.
        return PreparedImage(resize_frame(frame, (height, width)), size, box)

    def _to_frame(self, image: Any) -> np.ndarray | None:
        """(H, W, 3) uint8, RGB, upright; None for images that need the image processor."""
        if isinstance(image, Image.Image):
            return np.asarray(to_rgb(image))
        # An array with 1 or 3 rows might as well have its channels first: the image processor decides.
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.size:
            height, _, channels = image.shape
            if channels == 3 and height not in (1, 3):
                return image
        return None

    def _prepare_with_torch(self, image: Any, setting: str | Sequence[int] | None) -> PreparedImage:
        """Arrays of floats and of other layouts, and tensors."""
        original = self.processor.upright(image)
        box = choose_box(setting, original.permute(1, 2, 0).numpy())
        unscaled: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "field_of_view": box or "none"}
        layout = {"input_data_format": "channels_first", "return_tensors": "pt"}
        levels = self.processor.preprocess(original, **unscaled, **layout)["pixel_values"][0]
        frame = levels.round().clip(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
        return PreparedImage(frame, (original.shape[-2], original.shape[-1]), box)

    def flip_maps(self, prepared: Sequence[PreparedImage], axes: tuple[int, ...]) -> list[MapPair]:
        logits = self._logits(np.stack([image.pixels for image in prepared]), axes)
        both = []
        for image, one in zip(prepared, logits, strict=True):
            seen = _sigmoid(resize_map(one, image.seen_size))
            both.append((in_whole_frame(seen, image.field_of_view, *image.size), _sigmoid(one)))
        return both

    def _logits(self, frames: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """Logits (B, h, w) of frames (B, h, w, 3), which the network sees flipped."""
        # The axes count from the end of maps, (..., h, w); frames have their channels behind.
        logits = self.model.run(np.flip(frames, [axis - 1 for axis in axes]))[2]
        return np.flip(logits[:, 0], axes)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    values = -logits
    with np.errstate(over="ignore"):  # exp of a large number is infinity, whose sigmoid is 0, as it should be
        np.exp(values, out=values)
    values += 1
    return np.divide(1, values, out=values)


def number_of_threads() -> int:
    """Threads to compute with: one for each core it may use, at most OMP_NUM_THREADS as for PyTorch."""
    cores = usable_processors()
    bound = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # "4,2" is 4 threads that each start 2
    return min(cores, int(bound)) if bound.isdecimal() and int(bound) > 0 else cores


def refuse_other_files(content: bytes) -> None:
    """Refuse an ONNX file with tensors in other files, which would be read from wherever the program was started.

    Raises:
        ValueError: If the file names another.
    """
    if KEY_OF_OTHER_FILE.search(content):
        raise ValueError("it keeps tensors in other files, which are not read")


def check_contract(session: "InferenceSession", metadata: dict[str, str], path: str | Path) -> None:
    """Refuse a file with other inputs or outputs, without the description of its network, or with a wrong one.

    Raises:
        UserError: The message shows the file's inputs and outputs, or what is wrong.
    """

    def kinds(values: "list[NodeArg]") -> dict[str, tuple[str, int]]:
        return {value.name: (value.type, len(value.shape)) for value in values}

    def shown(values: "list[NodeArg]") -> str:
        return ", ".join(f"{value.name} {value.type} {value.shape}" for value in values)

    inputs, outputs = session.get_inputs(), session.get_outputs()
    is_described = set(metadata) >= METADATA
    if kinds(inputs) != INPUTS or kinds(outputs) != OUTPUTS or not is_described:
        raise UserError(
            f"{path} is an ONNX file of another contract. It takes {shown(inputs)}; it gives {shown(outputs)}"
            f"{'' if is_described else '; it does not say of which network it is'}. Expected a file that "
            "export.py wrote, which takes frames uint8 (batch, height, width, 3) and threshold float32."
        )
    if metadata.get("contract_version") != CONTRACT_VERSION:
        raise UserError(
            f"{path} has version {metadata.get('contract_version')} of the contract, and this version of the project "
            f"reads {CONTRACT_VERSION}. It says: {metadata.get('contract')}. Export it again."
        )
    try:
        check_metadata(metadata)
    except (ValueError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} describes a network or an image processor that cannot be: {first_line(error)}. Export it again."
        ) from error


def check_metadata(metadata: dict[str, str]) -> None:
    """Check the descriptions of the network and of the image processor, which an editor may have damaged.

    Raises:
        ValueError, OverflowError, RecursionError: If they cannot be.
    """
    int(metadata["parameters"])
    for name in ("config", "preprocessor"):
        if not isinstance(json.loads(metadata[name]), dict):
            raise ValueError(f"{name!r} is no JSON object.")
    settings = json.loads(metadata["preprocessor"])
    check_thresholds(0.0, settings.get("peak_threshold"))
    check_calibration(settings.get("presence_calibration"))
    check_input_size(settings.get("size"))
    read_field_of_view(settings.get("field_of_view"))
