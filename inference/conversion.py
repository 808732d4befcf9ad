"""Converts the weights of another plain U-Net into the state dict of `UNetForSemanticSegmentation`.

    model = convert_model(read_state_dict(Path("unet.pth")), concat="skip-first")

Names of modules do not matter: layers are assigned by the shapes of their weights, and those of one shape by the
similarity of their names. If any weight does not fit, nothing is converted, and the error lists all misfits.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..common.errors import UserError
from ..configuration_unet import UNetConfig
from ..modeling_unet import UNetForSemanticSegmentation

PICKLES = (".pt", ".pth", ".bin")
# Keys of the state dict in checkpoints that also hold the optimizer, the epoch, ...
MAX_NESTS = 5
NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")
CONCATS = ("skip-first", "upsampled-first")

# Module name -> parameter name -> tensor. The shape of a layer is that of its weight.
Layers = dict[str, dict[str, Tensor]]
Shape = tuple[int, ...]


def convert_state_dict(
    state_dict: Mapping[str, Any], norm: str | None = None, num_groups: int = 8, concat: str = "skip-first"
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Rename the tensors of a plain U-Net to the state dict of `UNetForSemanticSegmentation`.

    Outputs in eval mode stay equal. Biases of convolutions before a normalisation are folded into it.

    Args:
        state_dict: With any module names, in any order. It is not changed.
        norm: As in `UNetConfig`; by default "batch" if there are running statistics, otherwise "none".
        num_groups: Groups of group normalisation; shapes do not show it.
        concat: Order in which the decoder concatenates: "skip-first" or "upsampled-first".

    Returns:
        The architecture, and new float32 tensors on the CPU for all of its parameters and buffers.

    Raises:
        UserError: If weights are missing, left over, of a wrong shape or ambiguous; the message lists them.
    """
    if concat not in CONCATS:
        raise UserError(f"`concat` must be one of {', '.join(CONCATS)}, got {concat!r}.")
    unusable = {str(name): reason for name, value in state_dict.items() if (reason := why_unusable(name, value))}
    layers = group_by_layer({name: value for name, value in state_dict.items() if str(name) not in unusable})
    config = infer_config(layers, norm, num_groups)
    with torch.device("meta"):
        slots = group_by_layer(UNetForSemanticSegmentation(config).state_dict())

    wanted = slots
    if config.norm == "instance" and not any(len(shape) == 1 for shape in names_by_shape(layers)):
        # PyTorch's instance norm has no parameters unless asked for.
        wanted = {name: slot for name, slot in slots.items() if slot["weight"].ndim > 1}
    misfits = [f"{name}: {reason}" for name, reason in unusable.items()] + find_misfits(layers, wanted, config)
    if misfits:
        raise UserError(
            f"Nothing was converted: these do not fit a plain U-Net of base_channels={config.base_channels}, "
            f"depth={config.depth}, num_channels={config.num_channels}, norm={config.norm}, "
            f"upsampling={config.upsampling}, which the shapes suggest:",
            details=misfits,
        )
    return config, fill(slots, layers, match_layers(layers, wanted), concat)


def convert_model(state_dict: Mapping[str, Any], **options: Any) -> UNetForSemanticSegmentation:
    """Make the model, in eval mode, that computes what the plain U-Net does; `options` of `convert_state_dict`."""
    config, tensors = convert_state_dict(state_dict, **options)
    model = UNetForSemanticSegmentation(config)
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def why_unusable(name: Any, value: Any) -> str | None:
    """Why an entry of a state dict cannot be used; None if it is a named tensor of real, finite numbers."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return f"a value of type {type(value).__name__}, no tensor with a name"
    if value.is_complex() or value.is_quantized or value.layout != torch.strided:
        return f"a tensor of {value.dtype}, {value.layout}; expected plain real numbers"
    return None if value.float().isfinite().all() else "holds NaN or infinity"


def group_by_layer(state_dict: Mapping[str, Tensor]) -> Layers:
    layers: Layers = defaultdict(dict)
    for name, tensor in state_dict.items():
        module, _, parameter = name.rpartition(".")
        layers[module][parameter] = tensor
    return dict(layers)


def weight_shape(layer: Mapping[str, Tensor]) -> Shape:
    return tuple(layer["weight"].shape) if "weight" in layer else ()


def names_by_shape(layers: Layers) -> dict[Shape, list[str]]:
    names = defaultdict(list)
    for name, layer in layers.items():
        names[weight_shape(layer)].append(name)
    return dict(names)


def infer_config(layers: Layers, norm: str | None, num_groups: int) -> UNetConfig:
    """Infer the architecture from the shapes.

    Raises:
        UserError: If the shapes are not those of a U-Net, or the kind of normalisation is ambiguous.
    """
    names = names_by_shape(layers)
    owners = {shape[0]: of_shape[0] for shape, of_shape in names.items() if shape[2:] == (3, 3)}
    widths = sorted(owners)
    if len(widths) < 2 or widths != [widths[0] * 2**level for level in range(len(widths))]:
        found = ", ".join(f"{width} (as {owners[width]})" for width in widths) or "none"
        raise UserError(
            f"This is no plain U-Net of {len(layers)} layers: its 3x3 convolutions must have output channels that "
            f"double from level to level, got {found}."
        )
    base = widths[0]
    inputs = {shape[1] for shape in names if shape[0:1] == (base,) and shape[2:] == (3, 3)} - {base, 2 * base}
    if len(inputs) != 1:
        raise UserError(
            f"The input's channels cannot be told: one 3x3 convolution with {base} output channels must take "
            f"neither {base} nor {2 * base}, got {sorted(inputs) or 'none such'}."
        )
    halving = any(shape[2:] == (1, 1) and shape[1] == 2 * shape[0] and shape[0] >= base for shape in names)
    try:
        return UNetConfig(
            num_channels=inputs.pop(),
            base_channels=base,
            depth=len(widths) - 1,
            norm=infer_norm(layers) if norm is None else norm,
            num_groups=num_groups,
            upsampling="bilinear" if halving and not any(shape[2:] == (2, 2) for shape in names) else "transpose",
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def infer_norm(layers: Layers) -> str:
    if any("running_mean" in layer for layer in layers.values()):
        return "batch"
    vectors = [name for name, layer in layers.items() if len(weight_shape(layer)) == 1]
    if vectors:
        raise UserError(
            f"{vectors[0]} and {len(vectors) - 1} more layers normalise without running statistics. Group and "
            "instance normalisation look alike: name yours, --norm group --num_groups N or --norm instance."
        )
    return "none"


def find_misfits(layers: Layers, slots: Layers, config: UNetConfig) -> list[str]:
    """List what is missing, left over or of a wrong shape in `layers`, compared with the network's `slots`."""
    places, present = names_by_shape(slots), names_by_shape(layers)
    misfits = []
    for name, layer in layers.items():
        shape = weight_shape(layer)
        slot = slots[places[shape][0]] if shape in places else {}
        for parameter, tensor in layer.items():
            if reason := why_misfit(parameter, tensor, shape, slot, config):
                misfits.append(f"{f'{name}.{parameter}'.lstrip('.')} {tuple(tensor.shape)}: {reason}")
        for parameter in slot.keys() - layer.keys() & {"running_mean", "running_var"}:
            misfits.append(f"{name}.{parameter}: missing")
    for shape, wanted in places.items():
        got = present.get(shape, [])
        if len(got) != len(wanted):
            misfits.append(
                f"weights of shape {shape}: got {len(got)} ({', '.join(got) or 'missing'}), expected {len(wanted)} "
                f"(here {', '.join(wanted)})"
            )
    return misfits


def why_misfit(
    parameter: str, tensor: Tensor, weight: Shape, slot: Mapping[str, Tensor], config: UNetConfig
) -> str | None:
    """Why a parameter does not fit the network's layer (`slot`) with the same weight shape; None if it fits."""
    if weight == (2, config.base_channels, 1, 1):
        return (
            "a head of two logits with a softmax; this network has one logit with a sigmoid. If label 1 is the "
            "polyp, replace the head's weight and bias x by x[1:] - x[:1]: the probabilities are the same"
        )
    if not slot:
        return "no layer of this network has such a weight"
    if parameter == "bias" and "bias" not in slot:
        if config.norm == "group":
            return "a bias before group normalisation cannot be folded into it"
        fits = tensor.shape == weight[:1]
    else:
        fits = parameter in slot and tensor.shape == slot[parameter].shape
    return None if fits else "this layer has no such parameter, or of another shape"


def match_layers(layers: Layers, slots: Layers) -> dict[str, str]:
    """Assign a layer to each slot: by shape if only one layer has it, otherwise by similarity of names.

    Returns:
        The layer's name for each slot's name.

    Raises:
        UserError: If the names are ambiguous, or a layer stands between a convolution and its normalisation.
    """
    present = names_by_shape(layers)
    places = sorted(names_by_shape(slots).items(), key=lambda item: (len(item[0]) == 1, len(item[1])))
    sources: dict[str, str] = {}
    for shape, wanted in places:
        # Names are compared with those of layers that were assigned before: a level's second convolution with the
        # first, whose shape is unique; a normalisation with its convolution.
        is_norm = len(shape) == 1
        anchors = [name[:-1] + "0" if is_norm else name.replace(".convs.1.", ".convs.0.") for name in wanted]
        if len(wanted) == 1:
            sources[wanted[0]] = present[shape][0]
        else:
            sources |= zip(wanted, pair_by_name([sources[name] for name in anchors], present[shape]), strict=True)
        if is_norm:
            for slot, anchor in zip(wanted, anchors, strict=True):
                check_neighbours(sources[anchor], sources[slot])
    return sources


def pair_by_name(anchors: Sequence[str], candidates: Sequence[str]) -> Sequence[str]:
    """Order `candidates`, all of one shape, so that their names are most similar to those of `anchors`."""

    def closeness(order: Sequence[str]) -> list[int]:
        return [sum(parts) for parts in zip(*map(kinship, anchors, order), strict=True)]

    best, second = sorted(itertools.permutations(candidates), key=closeness, reverse=True)[:2]
    if closeness(best) == closeness(second):
        raise UserError(
            f"Nothing was converted: {', '.join(candidates)} have one shape, and their names do not show which of "
            f"them follows which of {', '.join(anchors)}. Give them similar names, such as enc1.conv1, enc1.conv2."
        )
    return best


def kinship(first: str, second: str) -> tuple[int, int]:
    """Similarity of two names: how many words they share at start and end, then how close differing numbers are."""
    one, other = (re.findall(r"[^\W\d_]+|\d+", name.lower()) for name in (first, second))
    start = shared_start(one, other)
    one, other = one[start:], other[start:]
    numbers = [int(word) for word in one[:1] + other[:1] if word.isdecimal()]
    distance = abs(numbers[0] - numbers[1]) if len(numbers) == 2 else 0
    return start + shared_start(one[::-1], other[::-1]), -distance


def shared_start(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def check_neighbours(convolution: str, norm: str) -> None:
    """Refuse a `Sequential` with a layer without weights, probably a ReLU, between convolution and normalisation."""
    block, _, index = convolution.rpartition(".")
    norm_block, _, norm_index = norm.rpartition(".")
    numbered = index.isdecimal() and norm_index.isdecimal()
    if numbered and block == norm_block and int(norm_index) != int(index) + 1:
        raise UserError(
            f"Nothing was converted: {norm} does not stand right behind {convolution}. This network computes "
            "convolution, normalisation, ReLU; one that takes the ReLU first has other outputs."
        )


def fill(slots: Layers, layers: Layers, sources: Mapping[str, str], concat: str) -> dict[str, Tensor]:
    """Make the network's state dict: each slot gets the tensors of its source, or neutral ones (scale 1, shift 0)."""
    tensors = {}
    for name, slot in slots.items():
        layer = layers[sources[name]] if name in sources else {}
        for parameter, like in slot.items():
            neutral = torch.full(like.shape, int(parameter == "weight"), dtype=like.dtype)
            tensors[f"{name}.{parameter}"] = layer.get(parameter, neutral).detach().to("cpu", like.dtype, copy=True)
        if "running_mean" in slot and "bias" in (convolution := layers[sources[name[:-1] + "0"]]):
            # (x + bias) - mean = x - (mean - bias). Instance norm needs no fold: it subtracts any bias itself.
            tensors[f"{name}.running_mean"] -= convolution["bias"].detach().to("cpu", torch.float32)
        if concat == "upsampled-first" and re.fullmatch(r"decoder\.\d+\.convs\.0\.0", name):
            weight = tensors[f"{name}.weight"]  # (C, 2C, 3, 3)
            tensors[f"{name}.weight"] = weight.roll(weight.shape[0], dims=1)
    return tensors


def read_state_dict(source: Path) -> Mapping[str, Any]:
    """Read the state dict in a file, or in `model.safetensors` of a folder. Of pickles only tensors are loaded.

    Raises:
        UserError: If there is no file, it is broken, or loading it would run code.
    """
    file = source / "model.safetensors" if source.is_dir() else source
    if not file.is_file():
        raise UserError(f"There is no file {file}.")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file} is broken, or not in the safetensors format: {error}.") from error
    if file.suffix not in PICKLES:
        raise UserError(f"{file} must end in .safetensors, {', '.join(PICKLES)}, or be a folder.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises nearly anything on a broken file
        raise UserError(
            f"{file} is broken, or holds objects other than tensors, which are refused since loading them can run "
            "code. Where you trust it, save `model.state_dict()` with `safetensors.torch.save_file`."
        ) from error
    for _ in range(MAX_NESTS):
        nest = next((key for key in NESTS if key in content), None) if isinstance(content, Mapping) else None
        content = content if nest is None else content[nest]
    if not isinstance(content, Mapping) or any(key in content for key in NESTS):
        raise UserError(f"{file} holds a {type(content).__name__}, expected a state dict: names and tensors.")
    for name, value in content.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and _states_too_much(value):
            raise UserError(f"{file} is damaged: {name} states {value.numel():,} values and holds fewer.")
    return content


def _states_too_much(tensor: Tensor) -> bool:
    """Whether a tensor repeats its values in memory; a file of a few bytes can state one that no machine holds."""
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
