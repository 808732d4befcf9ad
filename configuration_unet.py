"""Configuration of the U-Net: its architecture and its loss. `train.py` makes a flag of each field."""

import reprlib
from itertools import pairwise
from typing import Any

from transformers import PretrainedConfig

from .encoder_unet import STRIDE, check_encoder
from .losses_unet import LOSSES

NORMS = ("none", "batch", "group", "instance")
UPSAMPLINGS = ("transpose", "bilinear")
BLOCKS = ("plain", "residual")
STEM_STRIDES = (1, 2)
# Bounds far beyond any network that is trained: a file of a few bytes can state one that no machine holds.
MAX_DEPTH = 12  # an image must have 2**depth pixels a side
MAX_CONVOLUTIONS = 1000
MAX_PARAMETERS = 2**30  # 4 GB in float32; the default has 31 million
# Defaults of the fields that describe the U-Net's own encoder. Another `encoder` leaves them without effect.
FIELDS_OF_OWN_ENCODER = {
    "base_channels": 64,
    "depth": 4,
    "channels": None,
    "block": "plain",
    "encoder_blocks": None,
    "stem_stride": 1,
}
DECODER_CHANNELS = [32, 48, 64, 128]  # default of a network with another `encoder`

# What the Auto classes load from a Hub repo or a clone with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_unet.UNetConfig",
    "AutoModel": "modeling_unet.UNetForSemanticSegmentation",
    "AutoModelForSemanticSegmentation": "modeling_unet.UNetForSemanticSegmentation",
}


class UNetConfig(PretrainedConfig):
    """Architecture of a `UNetForSemanticSegmentation` with one foreground class.

    The defaults give U-Net (Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597, figure 1) with
    padded convolutions: 3 -> 64 -> 128 -> 256 -> 512 -> 1024 channels, 31,031,745 parameters.

    Args:
        num_channels: Channels of the input image.
        base_channels: Channels of the first level; each pooling doubles them. Ignored if `channels` is given.
        depth: Number of 2x2 poolings. Height and width of an image must be at least `minimum_size`.
        norm: Normalisation after each 3x3 convolution: "none", "batch", "group" or "instance".
        num_groups: Groups of group normalisation; must divide all channels. Ignored by other norms.
        upsampling: "transpose" (2x2 transposed convolution, stride 2) or "bilinear" (1x1 convolution, then bilinear
            interpolation).
        dropout: Probability of zeroing an element of the bottleneck's output ("drop-out layers at the end
            of the contracting path", section 3.1 of the paper).
        channels: Channels of the `depth` + 1 levels, full resolution first. None: `base_channels`, doubled by each
            pooling.
        block: Encoder levels of two "plain" convolutions, or of "residual" blocks (He et al., 2016,
            https://arxiv.org/abs/1512.03385, figure 2), which halve the size by a stride instead of a pooling. nnU-Net
            ResEnc (Isensee et al., 2024, https://arxiv.org/abs/2404.09556) has a residual encoder too.
        encoder_blocks: Residual blocks of each level. None: one. Not for plain levels.
        stem_stride: 2: a first convolution halves the image, so that the levels work on a quarter of the pixels, and
            the logits are interpolated to the input's size. 1: neither.
        decoder_channels: Channels of the `depth` decoder stages, highest resolution first. None: those of the
            encoder's levels.
        decoder_convs: 3x3 convolutions of each decoder stage; nnU-Net ResEnc has 1.
        encoder: Encoder from image classification that replaces the U-Net's own: "efficientnet_lite0", "..._lite1",
            "..._lite2", or one of timm's, such as "resnet34", if timm is installed. Four decoder stages lead from its
            feature maps of stride 32 back to stride 2, and the logits are interpolated to the input's size.
        loss: Training loss, a name in `losses_unet.LOSSES`, such as "bce_dice" or "structure", which gives
            more weight to outlines (PraNet; Fan et al., 2020, https://arxiv.org/abs/2006.11392).
        id2label: Names of labels 0 and 1; `label2id` is derived from it.
        kwargs: Passed to `PretrainedConfig`.

    Raises:
        ValueError: If a value, or a combination of values, cannot give a working network.
    """

    model_type = "unet_kvasir_seg"

    def __init__(
        self,
        num_channels: int = 3,
        base_channels: int = 64,
        depth: int = 4,
        norm: str = "none",
        num_groups: int = 8,
        upsampling: str = "transpose",
        dropout: float = 0.0,
        channels: list[int] | None = None,
        block: str = "plain",
        encoder_blocks: list[int] | None = None,
        stem_stride: int = 1,
        decoder_channels: list[int] | None = None,
        decoder_convs: int = 2,
        encoder: str | None = None,
        loss: str = "bce_dice",
        id2label: dict[int, str] | None = None,
        **kwargs,
    ):
        self.num_channels = num_channels
        self.base_channels = base_channels
        self.depth = depth
        self.norm = norm
        self.num_groups = num_groups
        self.upsampling = upsampling
        self.dropout = dropout
        self.channels = channels
        self.block = block
        self.encoder_blocks = encoder_blocks
        self.stem_stride = stem_stride
        self.decoder_channels = decoder_channels
        self.decoder_convs = decoder_convs
        self.encoder = encoder
        self.loss = loss

        # Loading from the Hub prefixes the entries with the repo's id, and saving adds to the dict. Every instance
        # starts from a fresh copy, so that neither ends up in the next checkpoint.
        kwargs.pop("auto_map", None)
        kwargs.pop("custom_pipelines", None)
        self.auto_map = dict(AUTO_MAP)
        id2label = {int(label): name for label, name in (id2label or {0: "background", 1: "polyp"}).items()}
        kwargs["label2id"] = {name: label for label, name in id2label.items()}
        # If the two disagree, transformers 4 ignores `num_labels` with a mere warning.
        num_labels = kwargs.pop("num_labels", None)
        if num_labels not in (None, 2):
            raise ValueError(
                f"`num_labels` must be 2, got {num_labels!r}: the network has one logit, which tells one "
                "foreground class from the background. Leave `num_labels` out."
            )
        super().__init__(id2label=id2label, **kwargs)
        self.check()

    @property
    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """By task, the class that `pipeline()` loads with `trust_remote_code=True`.

        A fresh dict at each access, since `pipeline()` puts classes into it, which `config.json` cannot hold.
        """
        return {
            "image-segmentation": {
                "impl": "pipeline_unet.UNetImageSegmentationPipeline",
                "pt": ["AutoModelForSemanticSegmentation"],
            }
        }

    def to_dict(self) -> dict[str, Any]:
        """All fields, as written to `config.json`."""
        return super().to_dict() | {"custom_pipelines": self.custom_pipelines}

    @property
    def level_channels(self) -> list[int]:
        """Channels of the `depth` + 1 encoder levels, the full resolution first, the bottleneck last."""
        return self.channels or [self.base_channels * 2**level for level in range(self.depth + 1)]

    @property
    def size_multiple(self) -> int:
        """Images whose height and width are multiples of this need no padding."""
        return STRIDE if self.encoder else self.stem_stride * 2**self.depth

    @property
    def minimum_size(self) -> int:
        """Smallest height and width in pixels that the network takes.

        Twice as large with instance norm, and with group norm of one channel a group: they need more than one value
        per channel in the bottleneck.
        """
        is_single = self.norm == "group" and self.encoder is None and self.level_channels[-1] == self.num_groups
        return self.size_multiple * (2 if self.norm == "instance" or is_single else 1)

    def check(self) -> None:
        """Check that the fields give a working network.

        The model calls this too, since `from_pretrained(..., norm="batch")` changes fields after `__init__`.

        Raises:
            ValueError: If a value, or a combination of values, cannot work.
        """
        self._check_counts()
        self._check_lists()
        self._check_total()
        self._check_choices()
        self._check_encoder()
        self._check_blocks()
        self._check_groups()
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {self.dropout!r}.")
        names = dict(self.id2label or {})
        if set(names) != {0, 1} or len(set(names.values())) != 2:
            raise ValueError(
                f"`id2label` must give labels 0 and 1 two names, got {self.id2label}: the network has one logit, "
                'which tells one foreground class from the background. Pass {0: "background", 1: "polyp"}.'
            )

    def _check_counts(self) -> None:
        for name in ("num_channels", "base_channels", "depth", "num_groups", "decoder_convs"):
            value = getattr(self, name)
            if not _is_count(value):
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {_shown(value)}.")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"`depth` must be at most {MAX_DEPTH}, got {_shown(self.depth)}.")

    def _check_lists(self) -> None:
        for name, entries, parts in (
            ("channels", self.depth + 1, "levels"),
            ("encoder_blocks", self.depth + 1, "levels"),
            ("decoder_channels", self.depth, "decoder stages"),
        ):
            values = getattr(self, name)
            if values is None:
                continue
            if not isinstance(values, list | tuple) or not all(_is_count(value) for value in values):
                raise ValueError(f"`{name}` must be a list of whole numbers of at least 1, got {_shown(values)}.")
            if len(values) != entries:
                raise ValueError(
                    f"`{name}` must have {entries} entries, one for each of the {parts} of depth={self.depth}, got "
                    f"{len(values)}: {_shown(values)}."
                )

    def _check_total(self) -> None:
        """Refuse a network that is too large, by its 3x3 convolutions: nearly all of its parameters."""
        widths = self.level_channels
        blocks = self.encoder_blocks or [1] * len(widths)
        stages = self.decoder_channels or widths[:-1]
        convolutions = 2 * sum(blocks) + self.decoder_convs * len(stages)
        if convolutions > MAX_CONVOLUTIONS:
            raise ValueError(
                f"The network must have at most {MAX_CONVOLUTIONS} convolutions, got {_shown(convolutions)}: choose "
                "lower `encoder_blocks` and `decoder_convs`."
            )
        weights = self.num_channels * widths[0]
        weights += sum(before * width for before, width in pairwise(widths))
        weights += sum((2 * count - 1) * width**2 for count, width in zip(blocks, widths, strict=True))
        weights += sum((skip + width) * width for skip, width in zip(widths, stages, strict=False))
        weights += sum((self.decoder_convs - 1) * width**2 for width in stages)
        if 9 * weights > MAX_PARAMETERS:
            raise ValueError(
                f"The network must have at most {MAX_PARAMETERS:,} parameters, got {_shown(9 * weights)} or more: "
                "choose fewer channels."
            )

    def _check_choices(self) -> None:
        choices = {"norm": NORMS, "upsampling": UPSAMPLINGS, "block": BLOCKS, "loss": tuple(LOSSES)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {_shown(getattr(self, name))}.")
        if isinstance(self.stem_stride, bool) or self.stem_stride not in STEM_STRIDES:
            raise ValueError(f"`stem_stride` must be 1 or 2, got {_shown(self.stem_stride)}.")

    def _check_encoder(self) -> None:
        if self.encoder is None:
            return
        if not isinstance(self.encoder, str):
            raise ValueError(f"`encoder` must be a name, got {_shown(self.encoder)}.")
        check_encoder(self.encoder)
        without_effect = [name for name, default in FIELDS_OF_OWN_ENCODER.items() if getattr(self, name) != default]
        if without_effect:
            raise ValueError(
                f"`encoder` {self.encoder!r} replaces the U-Net's own, which {', '.join(without_effect)} describe: "
                "leave them out, or leave out the encoder."
            )
        if self.num_channels != 3:
            raise ValueError(f"`encoder` {self.encoder!r} takes images of 3 channels, got {self.num_channels}.")

    def _check_blocks(self) -> None:
        if self.block == "residual" and self.norm == "none":
            raise ValueError(
                'block="residual" needs a normalisation, got norm="none": each sum would double the variance. '
                'Choose norm="batch", "group" or "instance".'
            )
        if self.block == "plain" and self.encoder_blocks is not None:
            raise ValueError(
                f'`encoder_blocks` counts residual blocks, got {self.encoder_blocks!r} with block="plain". Choose '
                'block="residual" or leave it out.'
            )

    def _check_groups(self) -> None:
        if self.norm != "group":
            return
        if self.channels is None and self.base_channels % self.num_groups != 0:
            raise ValueError(
                'norm="group" needs `base_channels` to be a multiple of `num_groups`, got '
                f"base_channels={self.base_channels} and num_groups={self.num_groups}. Choose a `num_groups` "
                f"that divides {self.base_channels}."
            )
        for name in ("channels", "decoder_channels"):
            misfits = [value for value in getattr(self, name) or [] if value % self.num_groups != 0]
            if misfits:
                raise ValueError(
                    f'norm="group" needs `{name}` to be multiples of `num_groups`, got {misfits[0]} and '
                    f"num_groups={self.num_groups}. Choose a `num_groups` that divides all of {getattr(self, name)}."
                )


def _shown(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    short = reprlib.Repr()
    short.maxlist, short.maxstring = 20, 100
    return short.repr(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


UNetConfig.register_for_auto_class()
