"""Encoders from image classification that can replace the U-Net's own: EfficientNet-Lite, and those of timm.

An encoder returns feature maps at strides 2, 4, 8, 16 and 32. Shapes are written (B, C, H, W): batch, channels,
height, width.
"""

import difflib
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

try:
    import timm
except ImportError:  # only checkpoints with one of its encoders need it
    timm = None  # type: ignore[assignment]

# Kernel size, stride, expansion, channels and blocks of each stage (Tan and Le, 2019,
# https://arxiv.org/abs/1905.11946, table 1).
LITE_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LITE_STEM_CHANNELS = 32
# Factors of the channels and of the blocks (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
LITE_SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
STRIDE = 32  # of the last feature map


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: an odd total puts the extra pixel at the right and bottom.

    (B, in, H, W) -> (B, out, H / stride, W / stride), where height and width are multiples of the stride.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        total = kernel_size - stride
        # Where both sides get as much, the convolution pads by itself, which saves a padded copy of the input.
        is_equal = total % 2 == 0
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=total // 2 if is_equal else 0,
            groups=groups,
            bias=False,
        )
        self.unequal_padding = None if is_equal else (total // 2, total // 2 + 1) * 2

    def forward(self, hidden_state: Tensor) -> Tensor:
        if self.unequal_padding is not None:
            hidden_state = F.pad(hidden_state, self.unequal_padding)
        return super().forward(hidden_state)


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al., 2018, https://arxiv.org/abs/1801.04381, figure 4d).

    A 1x1 convolution to more channels, a depthwise convolution, and a 1x1 convolution to fewer channels, with a
    shortcut if size and channels stay the same. (B, in, H, W) -> (B, out, H / stride, W / stride). The names of the
    layers are timm's.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        channels = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv_pw = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = batch_norm(channels)
        self.conv_dw = depthwise(channels, kernel, stride)
        self.bn2 = batch_norm(channels)
        self.conv_pwl = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = batch_norm(out_channels)

    def forward(self, hidden_state: Tensor) -> Tensor:
        expanded = F.relu6(self.bn1(self.conv_pw(hidden_state)), inplace=True)
        filtered = F.relu6(self.bn2(self.conv_dw(expanded)), inplace=True)
        result = self.bn3(self.conv_pwl(filtered))
        return result + hidden_state if self.has_shortcut else result


class SeparableConv(nn.Module):
    """An inverted residual block without expansion: (B, in, H, W) -> (B, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv_dw = depthwise(in_channels, kernel, stride)
        self.bn1 = batch_norm(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.bn2 = batch_norm(out_channels)

    def forward(self, hidden_state: Tensor) -> Tensor:
        filtered = F.relu6(self.bn1(self.conv_dw(hidden_state)), inplace=True)
        result = self.bn2(self.conv_pw(filtered))
        return result + hidden_state if self.has_shortcut else result


class EncoderBlocks(GradientCheckpointingLayer, nn.Sequential):
    """The blocks of one stage, recomputed together under gradient checkpointing."""


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its classifier: EfficientNet with ReLU6 and without squeeze-and-excitation.

    The state dict has the names of timm's `tf_efficientnet_lite0`, `tf_efficientnet_lite1` and so on.

    Args:
        name: A name in `LITE_SCALES`.

    Attributes:
        channels: Channels of the five feature maps, at strides 2, 4, 8, 16 and 32.
    """

    def __init__(self, name: str):
        super().__init__()
        width, depth = LITE_SCALES[name]
        self.conv_stem = SameConv2d(3, LITE_STEM_CHANNELS, kernel_size=3, stride=2)
        self.bn1 = batch_norm(LITE_STEM_CHANNELS)
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        channels = LITE_STEM_CHANNELS
        for number, (kernel, stride, expansion, base_channels, base_blocks) in enumerate(LITE_STAGES):
            # The first and the last stage always have one block.
            is_scaled = 0 < number < len(LITE_STAGES) - 1
            count = math.ceil(depth * base_blocks) if is_scaled else base_blocks
            out_channels = scaled_channels(base_channels, width)
            blocks: list[nn.Module] = []
            for block in range(count):
                shape = (channels, out_channels, kernel, stride if block == 0 else 1)
                blocks.append(SeparableConv(*shape) if expansion == 1 else InvertedResidual(*shape, expansion))
                channels = out_channels
            self.blocks.append(EncoderBlocks(*blocks))
            if self._is_last_of_its_size(number):
                self.channels.append(channels)

    @staticmethod
    def _is_last_of_its_size(number: int) -> bool:
        """Whether the feature map of this stride is taken after the stage."""
        return number + 1 == len(LITE_STAGES) or LITE_STAGES[number + 1][1] == 2

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), H and W multiples of 32 -> five maps (B, C, H / 2, W / 2) to (B, C, H / 32, W / 32)."""
        hidden_state = F.relu6(self.bn1(self.conv_stem(pixel_values)), inplace=True)
        features = []
        for number, stage in enumerate(self.blocks):
            hidden_state = stage(hidden_state)
            if self._is_last_of_its_size(number):
                features.append(hidden_state)
        return features


def depthwise(channels: int, kernel: int, stride: int) -> SameConv2d:
    """A depthwise convolution: each channel has its own filter."""
    return SameConv2d(channels, channels, kernel, stride, groups=channels)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the epsilon that the published weights were trained with."""
    return nn.BatchNorm2d(channels, eps=1e-3)


def scaled_channels(channels: int, factor: float) -> int:
    """The multiple of 8 nearest to the channels times the factor, or the next one if that loses over 10 %."""
    wanted = channels * factor
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


class TimmEncoder(nn.Module):
    """An encoder of timm, with random weights.

    Args:
        name: A name in `timm.list_models()`; it may be followed by a tag of pretrained weights.

    Attributes:
        channels: Channels of the five feature maps, at strides 2, 4, 8, 16 and 32. The first is 0 for encoders that
            begin at stride 4, such as ConvNeXt.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If timm has no such encoder, or the encoder has no such feature maps.
    """

    def __init__(self, name: str):
        super().__init__()
        check_encoder(name)
        try:
            # transformers builds networks on the meta device, on which encoders that compute in `__init__` fail.
            with torch.device("cpu"):
                features: Any = timm.create_model(name, pretrained=False, features_only=True)
        except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
            raise ValueError(f"`encoder`: timm has no feature maps for {name!r} ({error}).") from error
        self.features = features
        strides, channels = features.feature_info.reduction(), features.feature_info.channels()
        self.starts_at_four = strides[0] == 4
        expected = [4, 8, 16, 32] if self.starts_at_four else [2, 4, 8, 16, 32]
        self.channels = [0] * (5 - len(expected)) + list(channels)[-len(expected) :]
        if strides[-len(expected) :] != expected or not self._gives_maps_of(expected):
            raise ValueError(
                f"`encoder`: {name!r} has feature maps at strides {strides}; needed are maps (B, C, H, W) at strides "
                "2 (or 4), ..., 32 for images of any size. Choose another encoder, such as resnet34."
            )

    @torch.no_grad()
    def _gives_maps_of(self, strides: Sequence[int]) -> bool:
        """Whether the feature maps of a small image have the expected sizes and channels.

        While transformers 4 loads a checkpoint, the weights are on the meta device, and the checkpoint is trusted.
        """
        if any(parameter.is_meta for parameter in self.parameters()):
            return True
        was_training = self.training
        try:
            with torch.device("cpu"):
                features = self.eval()(torch.zeros(1, 3, 96, 64))
        except Exception:  # encoders for one image size raise errors of many kinds
            return False
        finally:
            self.train(was_training)
        shapes = [tuple(feature.shape[1:]) for feature in features if feature is not None]
        channels = [width for width in self.channels if width]
        return shapes == [(width, 96 // stride, 64 // stride) for width, stride in zip(channels, strides, strict=True)]

    def forward(self, pixel_values: Tensor) -> list[Tensor | None]:
        """Images (B, 3, H, W), H and W multiples of 32 -> five maps, the first None if there is none at stride 2."""
        if self.starts_at_four:
            return [None, *self.features(pixel_values)]
        return list(self.features(pixel_values))[-5:]


def make_encoder(name: str) -> EfficientNetLite | TimmEncoder:
    """Build an encoder with random weights.

    Raises:
        ImportError: If it is one of timm's, and timm is not installed.
        ValueError: If timm has no such encoder, or the encoder has no usable feature maps.
    """
    return EfficientNetLite(name) if name in LITE_SCALES else TimmEncoder(name)


def check_encoder(name: str) -> None:
    """Check that there is an encoder of that name.

    Raises:
        ImportError: If it is not in this file, and timm is not installed.
        ValueError: If timm has none of that name either.
    """
    if name in LITE_SCALES:
        return
    if timm is None:
        raise ImportError(
            f"`encoder`: {name!r} is not one of {', '.join(LITE_SCALES)}, and all others need timm, which is not "
            "installed: `pip install timm`."
        )
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*LITE_SCALES, *timm.list_models()], n=3)
        raise ValueError(
            f"`encoder`: there is no {name!r}" + (f"; similar names: {', '.join(near)}." if near else " in timm.")
        )
