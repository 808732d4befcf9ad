"""Makes the graph of a precision. For int8 it quantizes the network, except layers whose rounding costs much accuracy.

    graph = make_graph(model, processor, "int8", frames).graph

Step by step:

    quantized = quantize(build_graph(model, processor, "int8"), frames)
    quantized.graph, quantized.float_layers, quantized.trials

Static quantization in the QDQ format: weights int8 per channel, activations uint8, with ranges from the smallest and
largest values on the given frames. Pre- and post-processing, and normalisations that are not folded into a
convolution, stay in float32.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

from ..image_processing_unet import UNetImageProcessor
from ..inference.onnx_session import FATAL_ONLY
from ..modeling_unet import UNetForSemanticSegmentation
from .graph import NETWORK, build_graph, float_layers, set_metadata

OPERATORS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "MaxPool",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Slice",
    "Transpose",
)
MIN_GAIN = 0.1  # a layer stays in float if that lowers the mean difference in probability by more than this share
TRIAL_FRAMES = 8  # that the differences are measured on
LAST_CONVOLUTIONS = 3  # how many of them may stay in float


@dataclass(frozen=True)
class Trial:
    """A choice of layers that stay in float, and its mean difference in probability to the graph in float."""

    float_layers: tuple[str, ...]
    difference: float


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, and how it was chosen.

    Attributes:
        graph: The complete graph, with the inputs and outputs of the one in float.
        float_layers: Names of the network's modules that stay in float.
        trials: All that were measured; the first has all layers in int8, the last is the choice.
    """

    graph: onnx.ModelProto
    float_layers: tuple[str, ...]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class MadeGraph:
    """A graph, and what the report says about how it was made.

    Attributes:
        graph: The graph.
        float_layers: Names of the layers that stay in float32, in a graph of lower precision.
        calibration: For int8, the number of images, and the difference in probability of each trial of `quantize`.
    """

    graph: onnx.ModelProto
    float_layers: list[str]
    calibration: dict[str, Any] | None


def make_graph(
    model: UNetForSemanticSegmentation,
    processor: UNetImageProcessor,
    precision: str,
    calibration_frames: Sequence[np.ndarray],
) -> MadeGraph:
    """Export the network in a precision.

    Args:
        model: In float32 and evaluation mode; it is not changed.
        processor: The image processor that belongs to it.
        precision: "fp32", "fp16" or "int8".
        calibration_frames: For int8, frames to calibrate on, as for `quantize`.

    Raises:
        UserError: As `build_graph`.
    """
    graph = build_graph(model, processor, precision)
    layers = float_layers(model) if precision == "fp16" else []
    calibration = None
    if precision == "int8":
        quantized = quantize(graph, calibration_frames)
        graph, layers = quantized.graph, list(quantized.float_layers)
        differences = {", ".join(trial.float_layers) or "none": trial.difference for trial in quantized.trials}
        calibration = {"images": len(calibration_frames), "difference_by_float_layers": differences}
    set_metadata(graph, {"float_layers": json.dumps(layers)})
    return MadeGraph(graph, layers, calibration)


def quantize(graph: onnx.ModelProto, frames: Sequence[np.ndarray]) -> Quantized:
    """Quantize, and choose by measurement which layers stay in float.

    The candidates, the first and the last convolutions, are left in float one at a time. Those that each lower the
    difference by more than `MIN_GAIN` then stay in float together. The difference is measured on some of the frames.

    Args:
        graph: From `graph.build_graph`, of precision "int8".
        frames: (H, W, 3) uint8 each, like those that the network will see; sizes may differ.
    """
    trial_frames = frames[:: max(len(frames) // TRIAL_FRAMES, 1)][:TRIAL_FRAMES]
    expected = probabilities(graph, trial_frames)
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantizer = _Quantizer(graph, frames, Path(folder))
        trials = []

        def attempt(layers: Sequence[str]) -> onnx.ModelProto:
            quantized = quantizer(layers)
            found = probabilities(quantized, trial_frames)
            differences = [np.abs(a - b).mean() for a, b in zip(found, expected, strict=True)]
            trials.append(Trial(tuple(layers), float(np.mean(differences))))
            return quantized

        best = attempt([])
        for layer in candidates(graph):
            attempt([layer])
        gained = [t.float_layers[0] for t in trials[1:] if t.difference < (1 - MIN_GAIN) * trials[0].difference]
        if gained:
            best = attempt(gained)
            if trials[-1].difference > trials[0].difference:  # their rounding errors had cancelled each other out
                gained, best = [], attempt([])
    return Quantized(best, tuple(gained), tuple(trials))


class _Quantizer:
    """Quantizes one graph several times with the ranges of a single calibration.

    Args:
        graph: The graph in float.
        frames: As for `quantize`.
        folder: For ONNX Runtime's files; the caller deletes it.
    """

    def __init__(self, graph: onnx.ModelProto, frames: Sequence[np.ndarray], folder: Path):
        self.frames = frames
        self.ranges = folder / "ranges.json"
        self.source, self.target = folder / "float.onnx", folder / "int8.onnx"
        # Only to infer shapes: batch normalisations are folded already.
        quant_pre_process(graph, str(self.source), skip_optimization=True, skip_symbolic_shape=True)
        self.layers = layers_of_nodes(graph)

    def __call__(self, float_layers: Sequence[str]) -> onnx.ModelProto:
        """The graph with all layers but these in int8."""
        quantize_static(
            str(self.source),
            str(self.target),
            _Reader(self.frames),
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node for node, layer in self.layers.items() if layer not in float_layers],
            calibration_cache_path=self.ranges,
        )
        return onnx.load(self.target)


class _Reader(CalibrationDataReader):
    """Hands frames to ONNX Runtime's calibration, one at a time."""

    def __init__(self, frames: Sequence[np.ndarray]):
        self.frames = iter(frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        frame = next(self.frames, None)
        return None if frame is None else {"frames": frame[None], "threshold": np.array(0.5, dtype=np.float32)}


def candidates(graph: onnx.ModelProto) -> list[str]:
    """Names of the last convolutions, which make the logits, the very last first, and of the first convolution."""
    layers = [layer_name(node) for node in graph.graph.node if node.op_type == "Conv"]
    return list(dict.fromkeys([*layers[: -LAST_CONVOLUTIONS - 1 : -1], layers[0]]))


def layers_of_nodes(graph: onnx.ModelProto) -> dict[str, str]:
    """For the name of each node of the network, the name of the layer that it is quantized with.

    Nodes after the last convolution belong to its layer: rounding them would round the logits.
    """
    nodes = [node for node in graph.graph.node if node.name.startswith(f"{NETWORK}.")]
    last = max(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    return {node.name: layer_name(nodes[min(index, last)]) for index, node in enumerate(nodes)}


def layer_name(node: onnx.NodeProto) -> str:
    """Name of the module that a node belongs to, such as "decoder.3.convs.1.0"."""
    return node.name.partition("/")[0].removeprefix(f"{NETWORK}.")


def probabilities(graph: onnx.ModelProto, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The probability map (H, W) of each frame."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = _Reader(frames)
    return [session.run(["probability"], inputs.get_next())[0][0] for _ in frames]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages of ONNX Runtime's quantizer to the root logger, which need no action."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
