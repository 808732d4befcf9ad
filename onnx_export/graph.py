"""Exports the network with its pre- and post-processing as one ONNX graph: frames in, masks of the frames' size out.

    graph = build_graph(model, processor, "fp32")  # an onnx.ModelProto

Inputs:  `frames` (B, H, W, 3) uint8 RGB, B, H and W of at least 1; `threshold` float32, a scalar.
Outputs: `mask` (B, H, W) uint8, 1 where the probability of polyp is above the threshold, else 0; `probability`
         (B, H, W) float32; `logits` (B, 1, h, w) float32, at the input size.

The threshold has no default value: OpenVINO would treat it as a constant.
"""

import copy
import importlib.metadata
import json
from collections import Counter
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import UserError, first_line
from ..image_processing_unet import UNetImageProcessor
from ..inference.checkpoint import fingerprint
from ..inference.folding import fold_batch_norms
from ..inference.onnx_session import CONTRACT_VERSION
from ..modeling_unet import UNetForSemanticSegmentation

OPSET = 18  # the lowest that torch exports to; the lower, the more runtimes read it
CONTRACT = (
    "Inputs: frames, uint8 (batch, height, width, 3), RGB, at least 1x1, all of one size; threshold, float32 scalar. "
    "Outputs: mask, uint8 (batch, height, width), 1 where the probability of polyp is above the "
    "threshold, else 0; probability, float32 (batch, height, width); logits, float32 (batch, 1, h, w), at the "
    "input size. If the entry preprocessor states a peak_threshold, a region of the mask (8 neighbours) counts only "
    "if its highest probability reaches that: a step after this file. If it states a field_of_view, frames are "
    "cropped to that rectangle, and masks are put back into the whole frame: steps before and after this file."
)
MAX_BYTES = 2**31 - 1  # of a protobuf message, hence of an ONNX model in a single file
NETWORK = "network"  # prefix of the names of the network's nodes


def build_graph(model: UNetForSemanticSegmentation, processor: UNetImageProcessor, precision: str) -> onnx.ModelProto:
    """Export network, pre- and post-processing.

    Args:
        model: The network, in float32 and evaluation mode; it is not changed.
        processor: The image processor that belongs to it.
        precision: "fp32"; "fp16" for weights and computation in float16, except in `float_layers`; "int8" for a graph
            that is still in float32 and that `quantization.quantize` takes.

    Returns:
        The graph with metadata. Its nodes are named after the modules of the network; it holds no paths.

    Raises:
        UserError: If a setting of the processor or a layer of the network cannot be exported (the message names it),
            or the file would have 2 GiB or more.
    """
    check_processor(processor, model.config.num_channels)
    size = sum(tensor.numel() for tensor in model.state_dict().values()) * (2 if precision == "fp16" else 4)
    if size >= MAX_BYTES:
        raise UserError(
            f"The file would have {size / 2**30:.2f} GiB: expected less than 2, the limit of a single ONNX file. "
            "Export --precision fp16, or a smaller network."
        )
    module = SegmentationGraph(model, processor, precision).eval()
    height, width = 40, 56  # any size, except 1 and the input size: the exporter would treat these as constants
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8), torch.tensor(0.5)
    sizes = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "height", "width"))}
    try:
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["frames", "threshold"],
            output_names=["mask", "probability", "logits"],
            dynamic_shapes=(sizes, {}),
            verbose=False,
        )
    except Exception as error:  # torch's errors of export have no common base
        raise UserError(
            f"The network cannot be written as ONNX: {find_misfit(module) or first_line(error)}."
        ) from error
    assert program is not None
    graph = program.model_proto
    name_nodes(graph)
    strip_traces(graph)
    set_metadata(graph, metadata(model, processor, precision))
    return graph


def check_processor(processor: UNetImageProcessor, channels: int) -> None:
    """Refuse settings that the graph cannot express.

    Raises:
        UserError: The message names the setting.
    """
    settings = processor.to_dict()
    expected = {"do_resize": True, "do_rescale": True, "do_convert_rgb": True, "resample": 2}
    for name, value in expected.items():
        if settings.get(name) != value:
            raise UserError(
                f"The image processor has {name}={settings.get(name)}, and the exported graph can only have {value}: "
                "change preprocessor_config.json if the network was trained so."
            )
    for name in ("do_center_crop", "do_pad"):
        if settings.get(name):
            raise UserError(f"The image processor has {name}, which the exported graph cannot express.")
    if set(settings["size"]) != {"height", "width"}:
        raise UserError(f"The image processor resizes to {settings['size']}; expected height and width.")
    if channels != 3:
        raise UserError(f"The network takes {channels} channels; the exported graph takes RGB frames, 3.")


class SegmentationGraph(nn.Module):
    """The module that is exported: frames and threshold -> mask, probability, logits.

    Args:
        model: In float32 and evaluation mode; it is copied.
        processor: Its settings become constants.
        precision: As for `build_graph`.
    """

    def __init__(self, model: UNetForSemanticSegmentation, processor: UNetImageProcessor, precision: str):
        super().__init__()
        self.network = copy.deepcopy(model)
        fold_batch_norms(self.network)
        if precision == "fp16":
            self.network.half()
            for name, output in zip(float_layers(self.network), (torch.float16, torch.float32), strict=True):
                self.network.set_submodule(name, InFloat32(self.network.get_submodule(name), output))
        if precision == "int8":
            for stage in self.network.decoder:
                if isinstance(stage.upsample, nn.ConvTranspose2d):
                    stage.upsample = PointwiseUpsample(stage.upsample)
        self.height, self.width = processor.size["height"], processor.size["width"]
        self.factor = processor.rescale_factor
        self.normalize = processor.do_normalize
        self.mean: Tensor
        self.std: Tensor
        if self.normalize:
            # Scaling and normalisation in one step, as the image processor does it.
            self.register_buffer("mean", torch.tensor(processor.image_mean).view(-1, 1, 1) * (1 / self.factor))
            self.register_buffer("std", torch.tensor(processor.image_std).view(-1, 1, 1) * (1 / self.factor))

    def forward(self, frames: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = frames.shape[1:3]
        grey_levels = self._resize(frames.permute(0, 3, 1, 2).float(), height, width)
        pixel_values = (grey_levels - self.mean) / self.std if self.normalize else grey_levels * self.factor
        logits = self.network(pixel_values).logits.float()
        at_original_size = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        probability = at_original_size[:, 0].sigmoid()
        return (probability > threshold).to(torch.uint8), probability, logits

    def _resize(self, images: Tensor, height: int, width: int) -> Tensor:
        """(B, 3, H, W) grey levels -> (B, 3, h, w), rounded after each of the two passes as torchvision does."""
        images = torch.floor(images @ resize_weights(width, self.width).T + 0.5)
        return torch.floor(resize_weights(height, self.height) @ images + 0.5)


def resize_weights(source: int, target: int) -> Tensor:
    """Weights (target, source) of the source pixels in each target pixel, for a bilinear, antialiased resize.

    Multiplying with them replaces ONNX's Resize: OpenVINO silently ignores its `antialias`, and ONNX Runtime's
    results are off by up to 5 grey levels.
    """
    # Positions are in units of 1 / (2 source target) of the side: whole numbers, exact in float32 up to 2^24.
    pixels = (2 * torch.arange(source, dtype=torch.float32) + 1) * target
    centres = (2 * torch.arange(target, dtype=torch.float32) + 1) * source
    reach = 2 * torch.sym_max(source, target)
    weights = F.relu(1 - torch.abs(pixels[None, :] - centres[:, None]) / reach)  # type: ignore[arg-type]
    return weights / weights.sum(dim=1, keepdim=True)


def float_layers(network: UNetForSemanticSegmentation) -> list[str]:
    """Names of the layers that compute in float32 in a file of precision "fp16": the first and the last.

    The first, since on 100 validation images the worst difference in probability of the shipped weights falls from
    0.031 to 0.006 (computed in float16 by PyTorch; ONNX Runtime has no float16 arithmetic on CPUs and gains nothing).
    The last, since float16 rounds logits of about 20 to steps of about 0.02.
    """
    if network.config.encoder is not None:
        return [next(name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)), "classifier"]
    return ["encoder.0" if isinstance(network.stem, nn.Identity) else "stem", "classifier"]


class InFloat32(nn.Module):
    """A layer that computes in float32 among others in float16.

    Args:
        layer: The layer; it is converted.
        output: dtype of the result, as the next layer takes it.
    """

    def __init__(self, layer: nn.Module, output: torch.dtype):
        super().__init__()
        self.layer = layer.float()
        self.output = output

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.layer(hidden_state.float()).to(self.output)


class PointwiseUpsample(nn.Module):
    """A 2x2 transposed convolution of stride 2, computed as a 1x1 convolution whose channels are moved into pixels.

    ONNX Runtime has no int8 kernel for a transposed convolution. It keeps quantized maps with the channels last; in
    that order they move in runs of 2 C bytes, while DepthToSpace would move them byte by byte.
    """

    def __init__(self, transposed: nn.ConvTranspose2d):
        super().__init__()
        weight, bias = transposed.weight.detach(), transposed.bias
        assert bias is not None
        self.conv = nn.Conv2d(transposed.in_channels, 4 * transposed.out_channels, kernel_size=1)
        # (in, out, 2, 2) -> (2, 2, out, in): the channels of the upper left pixel first, then of the upper right.
        self.conv.weight.data = weight.permute(2, 3, 1, 0).reshape(-1, transposed.in_channels, 1, 1)
        self.conv.bias = nn.Parameter(bias.detach().repeat(4))

    def forward(self, hidden_state: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        pixels = self.conv(hidden_state).permute(0, 2, 3, 1)
        batch, height, width, channels = pixels.shape
        rows = pixels.reshape(batch, height, width, 2, channels // 2).permute(0, 1, 3, 2, 4)
        return rows.reshape(batch, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def find_misfit(module: SegmentationGraph) -> str | None:
    """Name of the first layer that cannot be exported by itself, with the reason; None if all layers can."""
    inputs: dict[str, tuple[Any, ...]] = {}
    layers = {name: layer for name, layer in module.network.named_modules() if not list(layer.children())}

    def remember(name: str) -> Any:
        def hook(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs[name] = arguments

        return hook

    hooks = [layer.register_forward_pre_hook(remember(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            module.network(torch.zeros(1, 3, module.height, module.width))
    finally:
        for hook in hooks:
            hook.remove()
    for name, arguments in inputs.items():
        try:
            torch.onnx.export(layers[name], arguments, dynamo=True, opset_version=OPSET, verbose=False)
        except Exception as error:
            reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            return f"its layer {name} ({type(layers[name]).__name__}) has no ONNX form ({reason})"
    return None


def name_nodes(graph: onnx.ModelProto) -> None:
    """Name each node after its module, such as "network.encoder.0.convs.0.0/Conv"."""
    used: Counter[str] = Counter()
    for node in graph.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), "")
        modules = [scope for scope in scopes.strip("[]").replace("'", "").split(", ") if scope.startswith(NETWORK)]
        name = f"{modules[-1] if modules else 'processing'}/{node.op_type}"
        used[name] += 1
        node.name = f"{name}_{used[name]}" if used[name] > 1 else name


def strip_traces(graph: onnx.ModelProto) -> None:
    """Remove the exporter's notes on the source code, which hold paths of this machine."""
    parts = [graph, graph.graph, *graph.functions]
    parts += [*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.value_info]
    parts += [*graph.graph.initializer, *(node for function in graph.functions for node in function.node)]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def metadata(model: UNetForSemanticSegmentation, processor: UNetImageProcessor, precision: str) -> dict[str, str]:
    """The metadata of a file: its contract, weights, configuration and image processor."""
    return {
        "contract": CONTRACT,
        "contract_version": CONTRACT_VERSION,
        "fingerprint": fingerprint(model),
        "precision": precision,
        "parameters": str(model.num_parameters()),
        "id2label": json.dumps(model.config.id2label),
        "config": model.config.to_json_string(use_diff=True),
        "preprocessor": processor.to_json_string(),
        "package_version": importlib.metadata.version("unet-kvasir-seg"),
    }


def set_metadata(graph: onnx.ModelProto, values: dict[str, str]) -> None:
    """Add entries to the metadata, and replace those of the same names."""
    onnx.helper.set_model_props(graph, {entry.key: entry.value for entry in graph.metadata_props} | values)
