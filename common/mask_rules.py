"""How the ground truth masks of a data set are to be read."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MaskRules:
    """How masks, and images with them, are read; by default as docs/data.md says.

    Attributes:
        foreground_values: Mask values that mean polyp; None: not given.
        threshold: Mask values above this mean polyp, on the scale 0 to 255; None: not given.
        ignore_exif: True: image and mask are read as stored, whatever their EXIF tags say. False: each is turned as
            its own tag says. None: so it is, but pairs of which nobody can tell whether they then fit are refused.

    Raises:
        ValueError: If values and a threshold are given, no value, or a threshold that is no grey level.
    """

    foreground_values: Sequence[int] | None = None
    threshold: float | None = None
    ignore_exif: bool | None = None

    def __post_init__(self) -> None:
        if self.foreground_values is not None and self.threshold is not None:
            raise ValueError("--foreground_values and --mask_threshold exclude each other: leave one out.")
        if self.foreground_values is not None and len(self.foreground_values) == 0:
            raise ValueError("--foreground_values names no value: expected those that mean polyp, as 1 2.")
        if self.threshold is not None and not (self.threshold == 0 or 1 <= self.threshold < 255):
            raise ValueError(
                f"--mask_threshold {self.threshold:g} is no grey level: expected 0, or from 1 to below 255, as 127; "
                "masks of other depths are scaled to that range."
            )


USUAL_MASKS = MaskRules()
