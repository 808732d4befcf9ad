"""Pretrained weights for an encoder: from ImageNet through timm, or from a file."""

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

IMAGENET, NONE = "imagenet", "none"  # values of --encoder_weights that are not files
# Layers of EfficientNet-Lite behind the encoder.
LITE_CLASSIFIER = ("conv_head.", "bn2.", "classifier.")


def load_encoder_weights(name: str, encoder: EfficientNetLite | TimmEncoder, weights: str) -> None:
    """Load the weights of an image classifier into an encoder. The classifier's last layers are left out.

    Args:
        name: Name of the encoder, as in `UNetConfig.encoder`.
        encoder: What `make_encoder` returned for it.
        weights: "imagenet": timm downloads the weights from the Hub. Otherwise a file of safetensors or `torch.save`
            with timm's names of the tensors; for EfficientNet-Lite, other names in timm's order work too.

    Raises:
        UserError: If the weights cannot be loaded, or do not fit the encoder; the message lists what does not.
    """
    timm_name = f"tf_{name}" if name in LITE_SCALES else name
    state = _imagenet_weights(timm_name) if weights == IMAGENET else read_state_dict(_weights_file(weights))
    if isinstance(encoder, EfficientNetLite):
        encoder.load_state_dict(_lite_weights(name, encoder, state, weights))
    else:
        encoder.features.load_state_dict(_timm_weights(name, state, weights))


def describe_weights(weights: str | None) -> str:
    """How `results.json` names the weights: "imagenet", "none" or, for a file, its hash, since paths are private.

    Raises:
        UserError: If the file does not exist.
    """
    if weights in (None, IMAGENET, NONE):
        return weights or IMAGENET
    return f"a file, sha256:{hashlib.sha256(_weights_file(weights).read_bytes()).hexdigest()}"


def _weights_file(weights: str) -> Path:
    file = Path(weights).expanduser()
    if not file.is_file():
        raise UserError(
            f"--encoder_weights must be {IMAGENET}, {NONE} or a file of weights, got {weights}, which is no file."
        )
    return file


def normalisation_of(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each colour channel, in [0, 1], that the encoder was trained with."""
    if name in LITE_SCALES:
        return [0.5] * 3, [0.5] * 3
    import timm

    settings = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
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
        # Names of another program: the tensors are taken in their order, which is that of the layers here too.
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
    """The part of a classifier's weights that one of timm's encoders has. timm selects it."""
    import timm

    with torch.device("meta"):
        known = timm.create_model(name).state_dict().keys()
    # timm only warns of layers in the file that the encoder lacks. Names of other programs that timm knows, such as
    # those of torchvision, are translated when the file is loaded.
    if known & state.keys():
        _refuse([f"{entry} is unknown" for entry in state if entry not in known], name, source)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it would warn of the classifier, which is left out on purpose
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
