"""Loads a trained network with its image processor, and describes and identifies its weights."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.files import read_file
from ..common.local_paths import is_hub_id, near_paths
from ..configuration_unet import DECODER_CHANNELS, FIELDS_OF_OWN_ENCODER, UNetConfig
from ..image_processing_unet import UNetImageProcessor
from ..modeling_unet import UNetForSemanticSegmentation
from .onnx_session import OnnxSession

MAX_SETTINGS_BYTES = 2**20  # of config.json and preprocessor_config.json, which have some thousand


def load_checkpoint(name: str, revision: str | None = None) -> tuple[UNetForSemanticSegmentation, UNetImageProcessor]:
    """Load the network, in float32, and the image processor from a folder or a repo on the Hub.

    Args:
        name: A folder or an id on the Hub.
        revision: Branch, tag or commit on the Hub.

    Raises:
        UserError: If there is none, it is damaged, or its weights are those of another network.
    """
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and not is_hub_id(name, "model"):
        raise UserError(
            f"There is no checkpoint {name}{near_paths(name)}: expected a folder of train.py, or the id of a repo on "
            "the Hub such as me/unet."
        )
    try:
        if folder is not None:
            _check_settings(folder / "config.json", "model_type")
        model, loading = UNetForSemanticSegmentation.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    except Exception as error:  # transformers raises errors of all kinds for damaged files
        raise UserError(
            f"The checkpoint {name} cannot be loaded: {_in_one_line(error)}. Expected a folder of train.py, "
            "with config.json and model.safetensors, or the id of such a repo on the Hub."
        ) from error
    misfits = sorted({str(key) for kind in ("missing_keys", "unexpected_keys") for key in loading[kind]})
    if misfits:
        raise UserError(
            f"The checkpoint {name} is not one of this network: {len(misfits)} weights are missing or unknown "
            f"({', '.join(misfits[:3])}, ...). Convert another U-Net's weights with convert.py."
        )
    try:
        if folder is not None:
            _check_settings(folder / "preprocessor_config.json", "size")
        processor = UNetImageProcessor.from_pretrained(name, revision=revision)
    except Exception as error:  # as above
        raise UserError(
            f"The checkpoint {name} has no usable image processor ({_in_one_line(error)}). Expected "
            "preprocessor_config.json beside the weights: copy it from the training's folder, or write it with "
            "UNetImageProcessor().save_pretrained()."
        ) from error
    return model, processor


def _check_settings(file: Path, key: str) -> None:
    """Check that a file holds a JSON object with a key; transformers would take defaults for what is not there.

    Raises:
        ValueError: If not; the message names the file.
    """
    try:
        settings = json.loads(read_file(file, MAX_SETTINGS_BYTES))
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is damaged: {_in_one_line(error)}") from error
    if not isinstance(settings, dict) or key not in settings:
        raise ValueError(f"{file.name} is damaged: it has no {key}")


def _in_one_line(error: Exception) -> str:
    """All of an error's message, whose first line alone may not say what is wrong."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def fingerprint(model: UNetForSemanticSegmentation | OnnxSession) -> str:
    """Hash of the weights' names, shapes, dtypes and values; for an ONNX file, of the weights that were exported."""
    return model.fingerprint if isinstance(model, OnnxSession) else fingerprint_of(model.state_dict())


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """The fingerprint of a network with these weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def describe_model(
    model: UNetForSemanticSegmentation | OnnxSession,
    processor: UNetImageProcessor,
    name: str,
    repository: str | None,
) -> dict[str, Any]:
    """The section "model" of `results.json`: name, number of parameters, input size, and architecture.

    Fields of the configuration that do not describe this architecture are left out.
    """
    config = model.config
    unused = {"id2label", "kwargs", "base_channels"} | ({"num_groups"} if config.norm != "group" else set())
    if config.encoder is None:
        architecture = {"channels": config.level_channels}
    else:
        architecture = {"decoder_channels": config.decoder_channels or DECODER_CHANNELS}
        unused |= FIELDS_OF_OWN_ENCODER.keys()
    fields = [field for field in inspect.signature(UNetConfig).parameters if field not in unused]
    return {
        "name": name,
        "repository": repository,
        "parameters": model.num_parameters(),
        "image_size": [processor.size["height"], processor.size["width"]],
        **{field: getattr(config, field) for field in fields},
        **architecture,
        **({"format": "onnx", "precision": model.precision} if isinstance(model, OnnxSession) else {}),
    }
