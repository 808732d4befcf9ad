"""U-Net for polyp segmentation as a `transformers` model.

Shapes are written (B, C, H, W): batch, channels, height, width.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import can_return_tuple

from .configuration_unet import DECODER_CHANNELS, UNetConfig
from .encoder_unet import make_encoder
from .losses_unet import LOSSES

if TYPE_CHECKING:
    # Never executed: `save_pretrained` and the Hub copy every file named in a relative import; this ships
    # pipeline_unet.py, which `config.json` names, with the model.
    from .pipeline_unet import UNetImageSegmentationPipeline  # noqa: F401


def make_norm(config: UNetConfig, channels: int) -> nn.Module:
    """A normalisation layer of the kind `config.norm` for `channels` channels."""
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    if config.norm == "group":
        return nn.GroupNorm(config.num_groups, channels)
    if config.norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


class ConvNormAct(nn.Sequential):
    """3x3 convolution, normalisation, ReLU: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, stride: int = 1):
        # A normalisation layer has its own shift.
        bias = config.norm == "none"
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=bias),
            make_norm(config, out_channels),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """The two convolutions of one level: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int):
        super().__init__(
            ConvNormAct(config, in_channels, out_channels), ConvNormAct(config, out_channels, out_channels)
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, in, H, W) -> (B, out, H/stride, W/stride).

    The basic block of He et al., 2016, https://arxiv.org/abs/1512.03385, figure 2. If size or channels change, the
    shortcut is an average pooling and a 1x1 convolution (ResNet-D; He et al., 2019,
    https://arxiv.org/abs/1812.01187, figure 2c).
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = ConvNormAct(config, in_channels, out_channels, stride)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = make_norm(config, out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.AvgPool2d(kernel_size=stride))
        if in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False))
            self.shortcut.append(make_norm(config, out_channels))

    def forward(self, hidden_state: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(self.conv1(hidden_state))) + self.shortcut(hidden_state))


class EncoderStage(GradientCheckpointingLayer):
    """One level of the contracting path: (B, in, H, W) -> (B, out, H/stride, W/stride).

    Plain stages have stride 1: the pooling before them halves the size. Residual stages halve it by stride 2.
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, blocks: int = 1, stride: int = 1):
        super().__init__()
        self.convs: nn.Sequential
        if config.block == "plain":
            self.convs = DoubleConv(config, in_channels, out_channels)
        else:
            self.convs = nn.Sequential(
                ResidualBlock(config, in_channels, out_channels, stride),
                *(ResidualBlock(config, out_channels, out_channels) for _ in range(blocks - 1)),
            )

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.convs(hidden_state)


class DecoderStage(GradientCheckpointingLayer):
    """One level of the expanding path: (B, in, H/2, W/2) and its skip (B, skip, H, W) -> (B, out, H, W).

    With 0 skip channels there is no skip.
    """

    def __init__(self, config: UNetConfig, in_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        self.upsample: nn.Module
        if config.upsampling == "transpose":
            self.upsample = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        else:
            # A 1x1 convolution and an interpolation commute; in this order the convolution costs a quarter.
            self.upsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1),
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            )
        in_widths = [skip_channels + out_channels] + [out_channels] * (config.decoder_convs - 1)
        self.convs = nn.Sequential(*(ConvNormAct(config, width, out_channels) for width in in_widths))

    def forward(self, hidden_state: Tensor, skip: Tensor | None) -> Tensor:
        upsampled = self.upsample(hidden_state)
        return self.convs(upsampled if skip is None else torch.cat((skip, upsampled), dim=1))


class UNetPreTrainedModel(PreTrainedModel):
    """Initialisation of the weights and gradient checkpointing."""

    config_class = UNetConfig
    base_model_prefix = "unet"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ("EncoderStage", "DecoderStage")  # type: ignore[assignment]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if isinstance(module, nn.Conv2d):
                # He et al., 2015, https://arxiv.org/abs/1502.01852: keeps the variance through conv and ReLU.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                # Each output pixel is a sum over the input channels alone, and no ReLU follows.
                nn.init.normal_(module.weight, std=module.in_channels**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.InstanceNorm2d):
            # `transformers` does not initialise these: without this they stay uninitialised memory if a
            # checkpoint lacks them.
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def _set_gradient_checkpointing(  # type: ignore[override]
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **kwargs
    ) -> None:
        # The reentrant variant, the default of transformers 4, computes no gradients in a stage whose input needs
        # none. The images need none, so only the classifier would be trained.
        if enable:
            gradient_checkpointing_func = partial(gradient_checkpointing_func, use_reentrant=False)
            if any(isinstance(module, nn.BatchNorm2d) for module in self.modules()):
                gradient_checkpointing_func = partial(
                    gradient_checkpointing_func, context_fn=self._checkpoint_contexts
                )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        # The recomputation in the backward pass must not update batch norm's running statistics a second time.
        return contextlib.nullcontext(), self._frozen_running_statistics()

    @contextlib.contextmanager
    def _frozen_running_statistics(self) -> Iterator[None]:
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        states = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, state in zip(norms, states, strict=True):
                norm.momentum, norm.num_batches_tracked = state


class UNetForSemanticSegmentation(UNetPreTrainedModel):
    """U-Net (Ronneberger et al., 2015, figure 1) with one logit for each pixel: image -> polyp or background.

    The sigmoid of the logit is the probability of polyp. There is only one channel, so do not take an argmax over
    channels: `UNetImageProcessor.post_process_semantic_segmentation` turns logits into masks.
    """

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        config.check()
        if config.encoder is None:
            widths = self._add_own_encoder(config)
            decoder_widths, self.enlargement = config.decoder_channels or widths[:-1], config.stem_stride
        else:
            self.backbone = make_encoder(config.encoder)
            widths = self.backbone.channels
            decoder_widths, self.enlargement = config.decoder_channels or DECODER_CHANNELS, 2
        self.dropout = nn.Dropout(config.dropout)

        *skip_widths, channels = widths
        self.decoder = nn.ModuleList()
        for skip_width, width in zip(reversed(skip_widths), reversed(decoder_widths), strict=True):
            self.decoder.append(DecoderStage(config, channels, skip_width, width))
            channels = width

        self.classifier = nn.Conv2d(channels, 1, kernel_size=1)
        self.enlarge: nn.Module = nn.Identity()
        if self.enlargement > 1:
            self.enlarge = nn.Upsample(scale_factor=self.enlargement, mode="bilinear", align_corners=False)
        self.post_init()

    def _add_own_encoder(self, config: UNetConfig) -> list[int]:
        """Add the contracting path of the paper; returns the channels of its levels, the full resolution first."""
        is_residual = config.block == "residual"
        *widths, bottleneck_width = config.level_channels
        *blocks, bottleneck_blocks = config.encoder_blocks or [1] * (config.depth + 1)
        channels = config.num_channels

        self.stem: nn.Module = nn.Identity()
        # The shortcut of a residual block must not start at the image itself.
        if is_residual or config.stem_stride > 1:
            self.stem = ConvNormAct(config, channels, widths[0], config.stem_stride)
            channels = widths[0]

        self.encoder = nn.ModuleList()
        for level in range(config.depth):
            stride = 2 if is_residual and level > 0 else 1
            self.encoder.append(EncoderStage(config, channels, widths[level], blocks[level], stride))
            channels = widths[level]
        self.pool = nn.Identity() if is_residual else nn.MaxPool2d(kernel_size=2)

        stride = 2 if is_residual else 1
        self.bottleneck = EncoderStage(config, channels, bottleneck_width, bottleneck_blocks, stride)
        return config.level_channels

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SemanticSegmenterOutput:
        """Segment a batch of images.

        If height or width is not a multiple of `config.size_multiple`, the image is padded by repeating its border,
        and the logits are cropped to the image's size. Otherwise nothing is padded.

        Args:
            pixel_values: (B, num_channels, H, W), float, as returned by `UNetImageProcessor`.
            labels: (B, H, W) or (B, 1, H, W), values in {0, 1}: 1 is polyp.
            output_hidden_states: Also return the output of each stage.

        Returns:
            loss: Scalar float32, computed by `config.loss`. None without `labels`.
            logits: (B, 1, H, W), in the dtype of the computation.
            hidden_states: Outputs of the `depth` encoder stages, the bottleneck and the `depth` decoder stages, in
                this order. The first and the last have the padded size divided by `stem_stride`. None unless
                requested.

        Raises:
            ValueError: If the shape of `pixel_values` or `labels` does not fit the network.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        self._check_pixel_values(pixel_values)
        height, width = pixel_values.shape[-2:]

        *skips, hidden_state = self._encode(self._pad(pixel_values))
        hidden_state = self.dropout(hidden_state)
        hidden_states = [*(skip for skip in skips if skip is not None), hidden_state]

        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            hidden_state = stage(hidden_state, skip)
            hidden_states.append(hidden_state)

        logits = self.enlarge(self.classifier(hidden_state))[..., :height, :width]

        loss = None
        if labels is not None:
            loss = LOSSES[self.config.loss].function(logits, self._as_logits_shape(labels, logits))

        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=tuple(hidden_states) if output_hidden_states else None
        )

    def _encode(self, pixel_values: Tensor) -> list[Tensor | None]:
        """The outputs of the encoder's levels, from the highest resolution to the lowest."""
        if self.config.encoder is not None:
            return self.backbone(pixel_values)
        hidden_state = self.stem(pixel_values)
        features: list[Tensor | None] = []
        for stage in self.encoder:
            features.append(stage(hidden_state))
            hidden_state = self.pool(features[-1])
        return [*features, self.bottleneck(hidden_state)]

    def _check_pixel_values(self, pixel_values: Tensor) -> None:
        channels, smallest = self.config.num_channels, self.config.minimum_size
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"`pixel_values` must have the shape (batch, {channels}, height, width), got "
                f"{tuple(pixel_values.shape)}. `UNetImageProcessor` turns images into such a batch."
            )
        height, width = pixel_values.shape[-2:]
        if height < smallest or width < smallest:
            raise ValueError(
                f"`pixel_values` of {height}x{width} pixels are too small: the network needs at least "
                f"{smallest}x{smallest}. Resize the images, or lower the depth of the U-Net's own encoder."
            )

    def _pad(self, pixel_values: Tensor) -> Tensor:
        multiple = self.config.size_multiple
        height, width = pixel_values.shape[-2:]
        if height % multiple == 0 and width % multiple == 0:
            return pixel_values
        return F.pad(pixel_values, (0, -width % multiple, 0, -height % multiple), mode="replicate")

    @staticmethod
    def _as_logits_shape(labels: Tensor, logits: Tensor) -> Tensor:
        if labels.ndim == 3:
            labels = labels.unsqueeze(1)
        if labels.shape != logits.shape:
            batch, _, height, width = logits.shape
            raise ValueError(
                f"`labels` must have the shape ({batch}, {height}, {width}) to match `pixel_values`, or "
                f"({batch}, 1, {height}, {width}), got {tuple(labels.shape)}. `UNetImageProcessor` resizes masks "
                "together with images if they are passed as `segmentation_maps`."
            )
        return labels


UNetForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
