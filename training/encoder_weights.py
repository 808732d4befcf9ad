"""Weights that an encoder starts from: of ImageNet, through timm, or from a file."""

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..common.errors import UserError, require_extra, some
from ..encoder_unet import LITE_SCALES, EfficientNetLite, TimmEncoder
from ..inference.conversion import read_state_dict

IMAGENET, NONE = "imagenet", "none"  # values of --encoder_weights that are no files
# What EfficientNet-Lite's weights have after the encoder.
LITE_CLASSIFIER = ("conv_head.", "bn2.", "classifier.")


def load_encoder_weights(name: str, encoder: EfficientNetLite | TimmEncoder, weights: str) -> None:
    """Load the weights of an image classifier into an encoder; those after the encoder are left out.

    Args:
        name: The encoder's, as in `UNetConfig.encoder`.
        encoder: As `make_encoder` gives it.
        weights: "imagenet": timm downloads them from the Hub. Otherwise a file, safetensors or of `torch.save`, whose
            tensors have timm's names; those of EfficientNet-Lite may have other names, in timm's order.

    Raises:
        UserError: If they cannot be had, or do not fit; the message lists what does not.
    """
    timm_name = f"tf_{name}" if name in LITE_SCALES else name
    state = _imagenet_weights(timm_name) if weights == IMAGENET else read_state_dict(Path(weights).expanduser())
    if isinstance(encoder, EfficientNetLite):
        encoder.load_state_dict(_lite_weights(name, encoder, state, weights))
    else:
        encoder.features.load_state_dict(_timm_weights(name, state, weights))


def describe_weights(weights: str | None) -> str:
    """What `results.json` calls them: "imagenet", "none" or, for a file, its hash, since paths are private."""
    if weights in (None, IMAGENET, NONE):
        return weights or IMAGENET
    return f"a file, sha256:{hashlib.sha256(Path(weights).expanduser().read_bytes()).hexdigest()}"


def normalisation_of(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel that an encoder's weights expect, for images in [0, 1]."""
    if name in LITE_SCALES:
        return [0.5] * 3, [0.5] * 3
    import timm

    settings = timm.get_pretrained_cfg(name)
    return list(settings.mean), list(settings.std)


def _imagenet_weights(timm_name: str) -> Mapping[str, Tensor]:
    """The weights of a whole classifier, from the Hub or its cache."""
    require_extra("encoders", "timm")
    import timm

    try:
        return timm.create_model(timm_name, pretrained=True).state_dict()
    except Exception as error:  # the Hub's client, the network and timm raise errors of many kinds
        raise UserError(
            f"The weights of {timm_name} cannot be loaded from the Hub ({str(error).splitlines()[0]}). Check the "
            "network, or give a file: --encoder_weights path/to/weights.safetensors. To start from random weights: "
            "--encoder_weights none."
        ) from error


def _lite_weights(name: str, encoder: EfficientNetLite, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    expected = encoder.state_dict()
    if not expected.keys() & state.keys():
        # Another program's names. Its tensors come in the order of the layers, as those here do.
        names = [*expected, *(f"{LITE_CLASSIFIER[0]}{number}" for number in range(len(state) - len(expected)))]
        state = dict(zip(names, state.values(), strict=False))
    problems = [f"{entry} is missing" for entry in expected if entry not in state]
    problems += [
        f"{entry} is {list(state[entry].shape)} in place of {list(tensor.shape)}"
        for entry, tensor in expected.items()
        if entry in state and state[entry].shape != tensor.shape
    ]
    problems += [
        f"{entry} is unknown" for entry in state if entry not in expected and not entry.startswith(LITE_CLASSIFIER)
    ]
    _refuse(problems, name, source)
    return {entry: state[entry] for entry in expected}


def _timm_weights(name: str, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of an encoder of timm, which cuts them out of those of the whole classifier by itself."""
    import timm

    with torch.device("meta"):
        known = timm.create_model(name).state_dict().keys()
    # A file with timm's names may hold more layers than the encoder has, and timm would only warn of them. Names of
    # other programs, where timm knows them, are renamed when they are loaded.
    if known & state.keys():
        _refuse([f"{entry} is unknown" for entry in state if entry not in known], name, source)
    logging.getLogger("timm").setLevel(logging.ERROR)  # of the classifier, which is left out
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        save_file({entry: tensor.contiguous().clone() for entry, tensor in state.items()}, file)
        try:
            with torch.device("cpu"):
                loaded = timm.create_model(
                    name, pretrained=True, features_only=True, pretrained_cfg_overlay={"file": str(file)}
                )
        except (RuntimeError, KeyError) as error:
            _refuse([line.strip() for line in str(error).splitlines()[1:]] or [str(error)], name, source)
            raise
    return loaded.state_dict()


def _refuse(problems: list[str], name: str, source: str) -> None:
    """Raise an error that lists the problems, if there are any."""
    if problems:
        raise UserError(
            f"The weights {source} do not fit the encoder {name}: {some(problems)}. Give weights of that encoder, or "
            "another --encoder."
        )
