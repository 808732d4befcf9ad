"""Quantizes the network of an exported graph to int8, and leaves in float the layers where that costs accuracy.

    quantized = quantize(build_graph(model, processor, "int8"), frames)
    quantized.graph, quantized.float_layers, quantized.trials

Static quantization in the QDQ form: weights int8 a channel, activations uint8, ranges from the least and greatest
values that the given frames cause. Pre- and post-processing, and normalisations that are not part of a convolution,
stay in float32.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

from ..inference.onnx_session import FATAL_ONLY
from .graph import NETWORK

OPERATORS = (
    "Add",
    "AveragePool",
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
GAIN = 0.1  # a layer stays in float if the mean difference in probability is lower by this share without its rounding
TRIAL_FRAMES = 8
LAST_CONVOLUTIONS = 3


@dataclass(frozen=True)
class Trial:
    """What a choice of layers in float gives: mean difference in probability to the graph in float."""

    float_layers: tuple[str, ...]
    difference: float


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, and how it was chosen.

    Attributes:
        graph: The whole graph, with the inputs and outputs of the one in float.
        float_layers: Modules of the network that were left in float.
        trials: What was measured; the first has all layers in int8, the last is the choice.
    """

    graph: onnx.ModelProto
    float_layers: tuple[str, ...]
    trials: tuple[Trial, ...]


def quantize(graph: onnx.ModelProto, frames: Sequence[np.ndarray]) -> Quantized:
    """Quantize, choosing by measurement what stays in float.

    Each candidate, of the first and the last convolutions, is left in float by itself; all whose rounding makes a
    good part of the difference stay so together. The difference is measured on some of the frames.

    Args:
        graph: From `onnx_graph.build_graph`, of precision "int8".
        frames: (H, W, 3) uint8 each, as the network will see them; sizes may differ.
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
        gained = [t.float_layers[0] for t in trials[1:] if t.difference < (1 - GAIN) * trials[0].difference]
        if gained:
            best = attempt(gained)
            if trials[-1].difference > trials[0].difference:  # their roundings had cancelled out
                gained, best = [], attempt([])
    return Quantized(best, tuple(gained), tuple(trials))


class _Quantizer:
    """Quantizes one graph several times, with the ranges of one calibration.

    Args:
        graph: The graph in float.
        frames: As for `quantize`.
        folder: For files of ONNX Runtime.
    """

    def __init__(self, graph: onnx.ModelProto, frames: Sequence[np.ndarray], folder: Path):
        self.frames = frames
        self.ranges = folder / "ranges.json"
        self.source, self.target = folder / "float.onnx", folder / "int8.onnx"
        # Batch normalisations were folded into their convolutions before: shapes are all that is missing.
        quant_pre_process(graph, str(self.source), skip_optimization=True, skip_symbolic_shape=True)
        self.layers = layers_of_nodes(graph)

    def __call__(self, float_layers: Sequence[str]) -> onnx.ModelProto:
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
    """Frames as ONNX Runtime's calibration asks for them."""

    def __init__(self, frames: Sequence[np.ndarray]):
        self.frames = iter(frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        frame = next(self.frames, None)
        return None if frame is None else {"frames": frame[None], "threshold": np.array(0.5, dtype=np.float32)}


def candidates(graph: onnx.ModelProto) -> list[str]:
    """The first convolution and the last ones, the latest first: these see the image and make the logits."""
    layers = [layer_name(node) for node in graph.graph.node if node.op_type == "Conv"]
    return list(dict.fromkeys([*layers[: -LAST_CONVOLUTIONS - 1 : -1], layers[0]]))


def layers_of_nodes(graph: onnx.ModelProto) -> dict[str, str]:
    """Names of the network's nodes, and of the layers that they are quantized with.

    What follows the last convolution goes with it: rounding it would round the logits.
    """
    nodes = [node for node in graph.graph.node if node.name.startswith(f"{NETWORK}.")]
    last = max(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    return {node.name: layer_name(nodes[min(index, last)]) for index, node in enumerate(nodes)}


def layer_name(node: onnx.NodeProto) -> str:
    """The module of the network that a node is of: "decoder.3.convs.1.0"."""
    return node.name.partition("/")[0].removeprefix(f"{NETWORK}.")


def probabilities(graph: onnx.ModelProto, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(H, W) of each frame."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = _Reader(frames)
    return [session.run(["probability"], inputs.get_next())[0][0] for _ in frames]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep ONNX Runtime's quantizer from reporting to the root logger what nobody has to act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
