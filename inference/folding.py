"""Folds batch normalisations into convolutions: less to compute, and values that are rounded once, not twice."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..modeling_unet import UNetForSemanticSegmentation


def fold_batch_norms(network: UNetForSemanticSegmentation) -> None:
    """Fold each batch normalisation into the convolution whose output it takes, in place.

    Args:
        network: On the CPU, in float32 and in evaluation mode. Its logits stay the same but for float32's rounding.
    """
    outputs: list[tuple[str, Tensor]] = []  # of the convolutions, in the order of the computation
    pairs: list[tuple[str, str]] = []  # a convolution, and the normalisation that takes its output

    def remember(name: str) -> Any:
        return lambda layer, inputs, output: outputs.append((name, output))

    def find(name: str) -> Any:
        return lambda layer, inputs: pairs.extend((conv, name) for conv, output in outputs if output is inputs[0])

    hooks = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(remember(name)))
        elif isinstance(layer, nn.BatchNorm2d):
            hooks.append(layer.register_forward_pre_hook(find(name)))
    with torch.no_grad():
        network(torch.zeros(1, network.config.num_channels, *[network.config.minimum_size] * 2))
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        # The batch normalisations of timm contain the activation that follows.
        rest = getattr(network.get_submodule(norm), "act", nn.Identity())
        network.set_submodule(conv, fuse_conv_bn_eval(network.get_submodule(conv), network.get_submodule(norm)))
        network.set_submodule(norm, rest)
