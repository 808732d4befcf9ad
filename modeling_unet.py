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

from .configuration_unet import UNetConfig

if TYPE_CHECKING:
    # Never run. Saving and loading copy the files that the text of this one names: so the pipeline, which
    # `config.json` names, goes with every model.
    from .pipeline_unet import UNetImageSegmentationPipeline  # noqa: F401

DICE_SMOOTH = 1e-6


def bce_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice loss (Milletari et al., 2016, https://arxiv.org/abs/1606.04797).

    Dice is taken per image and averaged over the batch, so that accumulated gradients and data parallelism
    give the gradients of one big batch. The computation is in float32 whatever the logits' dtype: a sum over
    an image overflows float16 and loses small polyps in bfloat16.

    Args:
        logits: (B, 1, H, W), float.
        labels: (B, 1, H, W), values in {0, 1}, any dtype.

    Returns:
        The scalar loss, float32, at least 0. An empty mask costs a Dice loss of 1 as soon as any
        probability is predicted.
    """
    logits = logits.float()
    labels = labels.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels)

    probabilities = logits.sigmoid()
    intersection = (probabilities * labels).sum(dim=(1, 2, 3))
    total = probabilities.sum(dim=(1, 2, 3)) + labels.sum(dim=(1, 2, 3))
    dice = (2 * intersection + DICE_SMOOTH) / (total + DICE_SMOOTH)
    return cross_entropy + (1 - dice).mean()


def structure_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross-entropy plus weighted IoU (PraNet; Fan et al., 2020, https://arxiv.org/abs/2006.11392, 2.3).

    A pixel weighs 1 to 6: 1 plus five times the distance of its label from the mean of the 31x31 pixels around it,
    what is outside the image being background. These weights, and the 1 that is added to both sides of the IoU, are
    those of the authors' program. Both terms are per image and averaged over the batch, in float32, as in
    `bce_dice_loss`.

    Args:
        logits: (B, 1, H, W), float.
        labels: (B, 1, H, W), values in {0, 1}, any dtype.

    Returns:
        The scalar loss, float32, at least 0.
    """
    logits = logits.float()
    labels = labels.float()
    weights = 1 + 5 * (box_mean(labels, 31) - labels).abs()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    cross_entropy = (weights * cross_entropy).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))

    probabilities = logits.sigmoid()
    intersection = (weights * probabilities * labels).sum(dim=(1, 2, 3))
    union = (weights * (probabilities + labels)).sum(dim=(1, 2, 3)) - intersection
    iou = (intersection + 1) / (union + 1)
    return (cross_entropy + 1 - iou).mean()


def box_mean(masks: Tensor, side: int) -> Tensor:
    """Mean of the `side` x `side` pixels around each, 0 outside; `side` is odd: (B, C, H, W) {0, 1} -> (B, C, H, W).

    By differences of running sums, since `avg_pool2d` adds up each square anew: for 31x31 pixels of a mask of 256x256
    that takes a CPU fifty times as long. Sums of whole numbers are exact, and on CUDA the same in every run.
    """
    sums = masks.to(torch.int32)
    before, after = side // 2 + 1, side // 2
    for axis, padding in ((2, (0, 0, before, after)), (3, (before, after, 0, 0))):
        length = sums.shape[axis]
        running = F.pad(sums, padding).cumsum(axis, dtype=torch.int32)
        sums = running.narrow(axis, side, length) - running.narrow(axis, 0, length)
    return sums / side**2


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce_dice": bce_dice_loss, "structure": structure_loss}


def make_norm(config: UNetConfig, channels: int) -> nn.Module:
    """The normalisation layer that `config.norm` names, for `channels` channels."""
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
        # A normalisation brings its own shift.
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

    The basic block of He et al., 2016, https://arxiv.org/abs/1512.03385, figure 2. Where size or channels change,
    the shortcut is an average pooling and a 1x1 convolution (ResNet-D; He et al., 2019,
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

    A plain stage has the stride 1, its halving being the pooling before it.
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
    """One level of the expanding path: (B, in, H/2, W/2) and its skip (B, skip, H, W) -> (B, out, H, W)."""

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

    def forward(self, hidden_state: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat((skip, self.upsample(hidden_state)), dim=1))


class UNetPreTrainedModel(PreTrainedModel):
    """Initialisation and the conventions of `transformers` shared by U-Net models."""

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
                # Each output pixel sees every input channel once, and no ReLU follows.
                nn.init.normal_(module.weight, std=module.in_channels**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.InstanceNorm2d):
            # Unknown to `transformers`: where a checkpoint lacks them, they would stay uninitialised memory.
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def _set_gradient_checkpointing(  # type: ignore[override]
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **kwargs
    ) -> None:
        # The reentrant variant, the default of transformers 4, gives no gradient to a stage whose input needs
        # none: the images need none, so nothing up to the classifier would be trained.
        if enable:
            gradient_checkpointing_func = partial(gradient_checkpointing_func, use_reentrant=False)
            if self.config.norm == "batch":
                gradient_checkpointing_func = partial(
                    gradient_checkpointing_func, context_fn=self._checkpoint_contexts
                )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        # The recomputation in the backward pass must not update batch norm's running statistics once more.
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
    """U-Net (Ronneberger et al., 2015, figure 1) with one logit a pixel: image -> polyp or background.

    The sigmoid of the logit is the probability of polyp; there is no second channel, so an argmax over
    channels means nothing here. `UNetImageProcessor.post_process_semantic_segmentation` makes the masks.
    """

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        config.check()
        widths = config.level_channels
        # A residual block normalises its input's sum only: the image goes through a convolution before.
        self.stem: nn.Module = nn.Identity()
        first = config.num_channels
        if config.block == "residual" or config.stem_stride > 1:
            self.stem = ConvNormAct(config, first, widths[0], config.stem_stride)
            first = widths[0]
        blocks = config.encoder_blocks or [1] * len(widths)
        strides = [1] + [1 if config.block == "plain" else 2] * config.depth
        stages = [
            EncoderStage(config, *sizes) for sizes in zip([first, *widths[:-1]], widths, blocks, strides, strict=True)
        ]
        self.encoder = nn.ModuleList(stages[:-1])
        self.pool = nn.MaxPool2d(kernel_size=2) if config.block == "plain" else nn.Identity()
        self.bottleneck = stages[-1]
        self.dropout = nn.Dropout(config.dropout)

        out_widths = list(config.decoder_channels or widths[:-1])[::-1]
        in_widths = [widths[-1], *out_widths[:-1]]
        self.decoder = nn.ModuleList(
            DecoderStage(config, *sizes) for sizes in zip(in_widths, widths[-2::-1], out_widths, strict=True)
        )
        self.classifier = nn.Conv2d(out_widths[-1], 1, kernel_size=1)
        self.enlarge = (
            nn.Upsample(scale_factor=config.stem_stride, mode="bilinear", align_corners=False)
            if config.stem_stride > 1
            else nn.Identity()
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SemanticSegmenterOutput:
        """Segment a batch of images.

        Height and width that `config.size_multiple` does not divide are padded inside, by repeating the
        border, and the logits are cropped back; where it divides them nothing is padded.

        Args:
            pixel_values: (B, num_channels, H, W), float, as `UNetImageProcessor` makes them.
            labels: (B, H, W) or (B, 1, H, W), values in {0, 1}: 1 where there is polyp.
            output_hidden_states: Return the output of each stage too.

        Returns:
            loss: Scalar float32, the one that `config.loss` names; only with `labels`.
            logits: (B, 1, H, W), in the dtype of the computation.
            hidden_states: Outputs of the `depth` encoder stages, the bottleneck and the `depth` decoder
                stages, in this order, at the padded size over `stem_stride`; only on request.

        Raises:
            ValueError: If the shapes of `pixel_values` or `labels` do not fit the network.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        self._check_pixel_values(pixel_values)
        height, width = pixel_values.shape[-2:]

        hidden_state = self.stem(self._pad(pixel_values))
        skips = []
        for stage in self.encoder:
            hidden_state = stage(hidden_state)
            skips.append(hidden_state)
            hidden_state = self.pool(hidden_state)

        hidden_state = self.dropout(self.bottleneck(hidden_state))
        hidden_states = [*skips, hidden_state]

        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            hidden_state = stage(hidden_state, skip)
            hidden_states.append(hidden_state)

        logits = self.enlarge(self.classifier(hidden_state))[..., :height, :width]

        loss = None
        if labels is not None:
            loss = LOSSES[self.config.loss](logits, self._as_logits_shape(labels, logits))

        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=tuple(hidden_states) if output_hidden_states else None
        )

    def _check_pixel_values(self, pixel_values: Tensor) -> None:
        channels, smallest = self.config.num_channels, self.config.minimum_size
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"`pixel_values` must have the shape (batch, {channels}, height, width), got "
                f"{tuple(pixel_values.shape)}. `UNetImageProcessor` makes such a batch from images."
            )
        height, width = pixel_values.shape[-2:]
        if height < smallest or width < smallest:
            raise ValueError(
                f"`pixel_values` of {height}x{width} pixels are too small: depth={self.config.depth} with "
                f"norm={self.config.norm!r} needs at least {smallest}x{smallest}. Resize the images or lower "
                "the depth."
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
                f"({batch}, 1, {height}, {width}), got {tuple(labels.shape)}. `UNetImageProcessor` resizes the "
                "masks with the images where it is given them as `segmentation_maps`."
            )
        return labels


UNetForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
