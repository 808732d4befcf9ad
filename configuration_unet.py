"""Configuration of the U-Net: what the network is, and nothing about how it is trained."""

from transformers import PretrainedConfig

NORMS = ("none", "batch", "group", "instance")
UPSAMPLINGS = ("transpose", "bilinear")

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
        base_channels: Channels of the first level; each pooling doubles them.
        depth: Number of 2x2 poolings. The input must measure at least `minimum_size` pixels a side.
        norm: Normalisation after each 3x3 convolution: "none", "batch", "group" or "instance".
        num_groups: Groups of the group normalisation; must divide `base_channels`. Unused by other norms.
        upsampling: "transpose" (2x2 transposed convolution, stride 2) or "bilinear" (1x1 convolution to
            half the channels, then bilinear interpolation).
        dropout: Probability of zeroing an element of the bottleneck's output ("drop-out layers at the end
            of the contracting path", section 3.1 of the paper).
        id2label: Names of label 0 and label 1; `label2id` follows from it.
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

        # Loading from the Hub prefixes the entries with the repo's id, and saving adds to the dict: both
        # would end up in the next checkpoint, so every instance starts from its own fresh copy.
        kwargs.pop("auto_map", None)
        self.auto_map = dict(AUTO_MAP)
        id2label = {int(label): name for label, name in (id2label or {0: "background", 1: "polyp"}).items()}
        kwargs["label2id"] = {name: label for label, name in id2label.items()}
        # Of the two, transformers 4 lets `id2label` win, with a warning only.
        num_labels = kwargs.pop("num_labels", None)
        if num_labels not in (None, 2):
            raise ValueError(
                f"`num_labels` must be 2, got {num_labels!r}: the network has one logit, which tells one "
                "foreground class from the background. Leave `num_labels` out."
            )
        super().__init__(id2label=id2label, **kwargs)
        self.check()

    @property
    def minimum_size(self) -> int:
        """Smallest height and width in pixels that the network takes.

        Instance norm needs more than one value a channel in the bottleneck, hence one factor 2 more.
        """
        return 2 ** (self.depth + 1 if self.norm == "instance" else self.depth)

    def check(self) -> None:
        """Refuse what cannot give a working network.

        The model asks again: what `from_pretrained(..., norm="batch")` overrides is set after `__init__`.

        Raises:
            ValueError: If a value, or a combination of values, cannot work.
        """
        for name, lowest in (("num_channels", 1), ("base_channels", 1), ("depth", 1), ("num_groups", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"`{name}` must be a whole number of at least {lowest}, got {value!r}.")
        if self.norm not in NORMS:
            raise ValueError(f"`norm` must be one of {', '.join(NORMS)}, got {self.norm!r}.")
        if self.upsampling not in UPSAMPLINGS:
            raise ValueError(f"`upsampling` must be one of {', '.join(UPSAMPLINGS)}, got {self.upsampling!r}.")
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {self.dropout!r}.")
        if self.norm == "group" and self.base_channels % self.num_groups != 0:
            raise ValueError(
                'norm="group" needs `base_channels` to be a multiple of `num_groups`, got '
                f"base_channels={self.base_channels} and num_groups={self.num_groups}. Choose a `num_groups` "
                f"that divides {self.base_channels}."
            )
        names = dict(self.id2label or {})
        if set(names) != {0, 1} or len(set(names.values())) != 2:
            raise ValueError(
                f"`id2label` must give labels 0 and 1 two names, got {self.id2label}: the network has one logit, "
                'which tells one foreground class from the background. Pass {0: "background", 1: "polyp"}.'
            )


UNetConfig.register_for_auto_class()
