"""Folding batch normalisations into convolutions: the same logits, and nothing left of them."""

import copy

import pytest
import torch
from torch import nn
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.folding import fold_batch_norms
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

LITE = {"encoder": "efficientnet_lite0", "decoder_channels": [4, 4, 8, 8]}


def network(**fields):
    """A network whose batch normalisations do something, as after training."""
    torch.manual_seed(0)
    built = UNetForSemanticSegmentation(UNetConfig(**fields)).eval()
    for norm in built.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.1)
    return built


@pytest.mark.parametrize(
    "fields",
    [
        {"base_channels": 4, "depth": 2, "norm": "batch"},
        {"base_channels": 4, "depth": 2, "norm": "batch", "block": "residual"},
        {"base_channels": 4, "depth": 2, "norm": "group", "num_groups": 2},
        {"norm": "batch", **LITE},
        {"norm": "none", **LITE},
    ],
)
@torch.no_grad()
def test_logits_stay_the_same(fields):
    plain = network(**fields)
    folded = copy.deepcopy(plain)
    fold_batch_norms(folded)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    images = torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(1))
    expected = plain(images).logits
    torch.testing.assert_close(folded(images).logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_predictor_leaves_its_network_as_it_is():
    """What is saved, pushed and fingerprinted has the weights that were trained."""
    plain = network(base_channels=4, depth=2, norm="batch")
    before = copy.deepcopy(plain.state_dict())
    predictor = Predictor(plain, UNetImageProcessor(size=64), choose_runtime("cpu", "float32"))
    assert predictor.model is plain
    assert predictor.model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
