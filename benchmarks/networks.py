"""The networks that are compared: each function builds one that takes (B, 3, H, W) and gives logits (B, 1, H, W)."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.losses_unet import bce_dice_loss
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation


@dataclass(frozen=True)
class Rival:
    """A network that is used eagerly in float32, as in its documentation's first example.

    Attributes:
        name: As in the table.
        package: The package that it needs; None: none besides this project.
        build: Builds it with random weights.
    """

    name: str
    package: str | None
    build: Callable[[], nn.Module]

    @property
    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


class Logits(nn.Module):
    """This project's network as one that gives logits alone."""

    def __init__(self, network: UNetForSemanticSegmentation):
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.network(pixel_values).logits


def card_unet(width: int) -> nn.Module:
    """The card's network, its first level of `width` channels."""
    return Logits(UNetForSemanticSegmentation(UNetConfig(base_channels=width)))


def shipped_unet() -> nn.Module:
    """The network of this clone, with random weights."""
    return Logits(UNetForSemanticSegmentation(UNetConfig.from_pretrained(TRAINED_MODEL)))


def resnet34_unet() -> nn.Module:
    """The first example of segmentation_models_pytorch, without pretrained weights: they change no time."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch.Unet("resnet34", encoder_weights=None, in_channels=3, classes=1)


def basic_unet() -> nn.Module:
    """MONAI's BasicUNet of its own widths: 32 channels at the first level, 256 at the last."""
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=1)


PEERS = (
    Rival("segmentation_models_pytorch Unet-ResNet34", "segmentation_models_pytorch", resnet34_unet),
    Rival("MONAI BasicUNet", "monai", basic_unet),
)


def card_name(width: int) -> str:
    """The table's name of the card's own snippet."""
    return f"card's snippet, width {width}"


def rivals(widths: Sequence[int]) -> list[Rival]:
    """The card's network at each width, and the peers that are installed."""
    cards = [Rival(card_name(width), None, partial(card_unet, width)) for width in widths]
    return cards + [peer for peer in PEERS if peer.is_installed]


def missing_packages() -> list[str]:
    """Packages of peers that are left out because they are not installed."""
    return [str(peer.package) for peer in PEERS if not peer.is_installed]


def forward_flops(build: Callable[[], nn.Module], images: int, image_size: int) -> int:
    """Floating-point operations of a forward pass; a multiplication and an addition are two."""
    with torch.device("meta"):
        network, pixels = build().eval(), torch.empty(images, 3, image_size, image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(pixels)
    return counter.get_total_flops()


def training_flops(build: Callable[[], nn.Module], images: int, image_size: int) -> int:
    """Floating-point operations of a forward and a backward pass, the optimizer left out."""
    with torch.device("meta"):
        network, pixels = build().train(), torch.empty(images, 3, image_size, image_size)
        labels = torch.empty(images, 1, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        bce_dice_loss(network(pixels), labels).backward()
    return counter.get_total_flops()
