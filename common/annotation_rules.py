"""How the files of annotation programs are to be read."""

from collections.abc import Sequence
from dataclasses import dataclass

NEGATIVE, SKIP = "negative", "skip"


@dataclass(frozen=True)
class AnnotationRules:
    """Which regions are polyp, and what an image without any annotation is.

    Attributes:
        labels: The labels whose regions are polyp; None: the only one that there is.
        unlabelled: "negative": an image without annotation is a frame without polyp. "skip": it is left out.

    Raises:
        ValueError: If no label is named, or `unlabelled` is another word.
    """

    labels: Sequence[str] | None = None
    unlabelled: str = SKIP

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) == 0:
            raise ValueError("--labels names no label: expected those that mean polyp, as polyp adenoma.")
        if self.unlabelled not in (NEGATIVE, SKIP):
            raise ValueError(
                f"--unlabelled {self.unlabelled} is not known: expected {SKIP}, to leave images without annotation "
                f"out, or {NEGATIVE}, if they show no polyp."
            )

    @property
    def is_given(self) -> bool:
        """Whether anything differs from the defaults: then there have to be annotations."""
        return self.labels is not None or self.unlabelled != SKIP


USUAL_ANNOTATIONS = AnnotationRules()
