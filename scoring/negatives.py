"""Images without polyp that are scored beside a split: frames that the user names, or windows of its frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset

from ..common.mask_rules import USUAL_MASKS, MaskRules
from ..data.negatives import load_negatives, refuse_shared_frames
from ..data.samples import Sample, load_sample
from ..data.windows import NegativeWindow, negative_windows


@dataclass(frozen=True)
class Negatives:
    """Images without polyp.

    Attributes:
        name: Of the data set; "a local data set" stands for any folder. Of windows the name of the split.
        rows: The frames; of windows, those of the split.
        windows: Which parts of them; None: whole frames, of another data set.
        mask_rules: How masks are read.
    """

    name: str
    rows: Dataset
    windows: Sequence[NegativeWindow] | None = None
    mask_rules: MaskRules = USUAL_MASKS

    @classmethod
    def load(
        cls,
        name: str,
        splits: Mapping[str, Dataset],
        mask_rules: MaskRules = USUAL_MASKS,
        config: str | None = None,
    ) -> "Negatives":
        """Frames that the user knows to show no polyp.

        Args:
            name: As `load_negatives` takes it.
            splits: Those of the data set that is scored.
            mask_rules: How masks are read.
            config: The configuration of a data set that has several.

        Raises:
            DatasetError: If they cannot be read, show a polyp, or are frames of a split.
        """
        rows = load_negatives(name, config=config, mask_rules=mask_rules)
        for split, others in splits.items():
            refuse_shared_frames(rows, others, split)
        shown = "a local data set" if Path(name).expanduser().exists() else name
        return cls(shown, rows, mask_rules=mask_rules)

    @classmethod
    def windows_of(cls, rows: Dataset, split: str, count: int, seed: int, mask_rules: MaskRules) -> "Negatives":
        """Windows without polyp of a split, the same for the same seed.

        Raises:
            DatasetError: If a mask cannot be read, or no frame has room for a window.
        """
        return cls(split, rows, negative_windows(rows, count, seed, mask_rules), mask_rules)

    def __len__(self) -> int:
        return len(self.rows) if self.windows is None else len(self.windows)

    @property
    def kind(self) -> Literal["frames", "windows"]:
        """What they are."""
        return "frames" if self.windows is None else "windows"

    @property
    def frames(self) -> list[int] | None:
        """The place in the split of the frame that each window is of; None for frames of another data set."""
        return None if self.windows is None else [window.index for window in self.windows]

    def sample(self, index: int) -> Sample:
        """One of them, with its ground truth, in which nothing is labelled.

        Raises:
            DatasetError: If it cannot be read.
        """
        if self.windows is None:
            return load_sample(self.rows[index], self.mask_rules)
        window = self.windows[index]
        frame = load_sample(self.rows[window.index], self.mask_rules)
        ground_truth = frame.ground_truth[window.rows, window.columns]
        return replace(frame, image=window.crop(frame.image), ground_truth=np.ascontiguousarray(ground_truth))
