"""Runs an ONNX file that `export.py` wrote, in ONNX Runtime.

    network = OnnxNetwork.load("onnx/model_int8.onnx")
    mask, probability, logits = network.run(frames, threshold=0.5)  # frames: (B, H, W, 3) uint8

`Predictor.from_pretrained("onnx/model_int8.onnx")` has one inside, for images of all kinds, mixed sizes and lesions.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UserError, first_line, require_extra
from ..configuration_unet import UNetConfig
from ..image_processing_unet import UNetImageProcessor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

CONTRACT_VERSION = "1"
# Name, type and number of dimensions.
INPUTS = {"frames": ("tensor(uint8)", 4), "threshold": ("tensor(float)", 0)}
OUTPUTS = {"mask": ("tensor(uint8)", 3), "probability": ("tensor(float)", 3), "logits": ("tensor(float)", 4)}
GPU, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
FATAL_ONLY = 4  # of ONNX Runtime's levels of logging: its errors are raised too


@dataclass(frozen=True)
class OnnxNetwork:
    """A network in an ONNX file, with its pre- and post-processing.

    Attributes:
        session: ONNX Runtime's.
        metadata: What the file says of itself, by name.
        config: Of the network.
        processor: The image processor that belongs to it.
        digest: Hash of the file: two of one network, calibrated on other images, differ in it.
    """

    session: "InferenceSession"
    metadata: dict[str, str]
    config: UNetConfig
    processor: UNetImageProcessor
    digest: str

    @classmethod
    def load(cls, path: str | Path, cpu_only: bool = False) -> "OnnxNetwork":
        """Read a file; on a CPU it computes with as many threads as torch does.

        Args:
            path: The file.
            cpu_only: Leave a GPU alone, which the package onnxruntime-gpu would take.

        Raises:
            UserError: If it is no ONNX file, or one of another contract, whose inputs and outputs the message shows.
        """
        require_extra("export", "onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        present = onnxruntime.get_available_providers()
        providers = [GPU, CPU] if GPU in present and not cpu_only else [CPU]
        try:
            content = Path(path).read_bytes()
            session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise UserError(
                f"{path} cannot be loaded as an ONNX file ({first_line(error)}). Expected one that export.py wrote."
            ) from error
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        check_contract(session, metadata, path)
        return cls(
            session,
            metadata,
            UNetConfig.from_dict(json.loads(metadata["config"])),
            UNetImageProcessor(**json.loads(metadata["preprocessor"])),
            f"sha256:{hashlib.sha256(content).hexdigest()}",
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device("cuda" if GPU in self.session.get_providers() else "cpu")

    def num_parameters(self) -> int:
        """Weights of the network that was exported."""
        return int(self.metadata["parameters"])

    @property
    def fingerprint(self) -> str:
        """Hash of the weights that were exported, as `checkpoint.fingerprint` gives it."""
        return self.metadata["fingerprint"]

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8"."""
        return self.metadata["precision"]

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

    def logits(self, pixel_values: Tensor) -> Tensor:
        """What the network says of images at its own size.

        Args:
            pixel_values: (B, 3, h, w) as `processor` makes them of images of grey levels; the file takes grey levels,
                so those between two are rounded.

        Returns:
            (B, 1, h, w) float32, on the CPU.

        Raises:
            ValueError: For images of another size than the network's.
        """
        expected = (self.processor.size["height"], self.processor.size["width"])
        if tuple(pixel_values.shape[-2:]) != expected:
            raise ValueError(
                f"Got pixel_values of {tuple(pixel_values.shape[-2:])} (height, width); expected the input size, "
                f"{expected}."
            )
        images = pixel_values.cpu()
        if self.processor.do_normalize:
            mean, std = (
                torch.tensor(values).view(-1, 1, 1) for values in (self.processor.image_mean, self.processor.image_std)
            )
            images = images * std + mean
        frames = (images / self.processor.rescale_factor).round().clamp(0, 255).to(torch.uint8)
        return torch.from_numpy(self.run(frames.permute(0, 2, 3, 1).numpy())[2])


def check_contract(session: "InferenceSession", metadata: dict[str, str], path: str | Path) -> None:
    """Refuse a file that takes or gives something else, or does not say of which network it is.

    Raises:
        UserError: The message shows what the file takes and gives.
    """

    def kinds(values: "list[NodeArg]") -> dict[str, tuple[str, int]]:
        return {value.name: (value.type, len(value.shape)) for value in values}

    def shown(values: "list[NodeArg]") -> str:
        return ", ".join(f"{value.name} {value.type} {value.shape}" for value in values)

    inputs, outputs = session.get_inputs(), session.get_outputs()
    expected = {"fingerprint", "precision", "parameters", "config", "preprocessor"}
    if kinds(inputs) != INPUTS or kinds(outputs) != OUTPUTS or not expected <= set(metadata):
        raise UserError(
            f"{path} is an ONNX file of another contract. It takes {shown(inputs)}; it gives {shown(outputs)}"
            f"{'' if expected <= set(metadata) else '; it does not say of which network it is'}. Expected a file that "
            "export.py wrote, which takes frames uint8 (batch, height, width, 3) and threshold float32."
        )
    if metadata.get("contract_version") != CONTRACT_VERSION:
        raise UserError(
            f"{path} has version {metadata.get('contract_version')} of the contract, and this version of the project "
            f"reads {CONTRACT_VERSION}. It says: {metadata.get('contract')}. Export it again."
        )
