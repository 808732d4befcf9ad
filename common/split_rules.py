"""How the samples of a data set are divided into splits, where its own splits are not to be taken as they are."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitRules:
    """How samples are divided; by default as docs/data.md says.

    Attributes:
        validation_fraction: Share of the samples to hold out for validation; None: the data set's own validation
            split or, without one, one sample in ten.
        fold, folds: Of a cross-validation with so many folds, the one, counted from 0, that is the validation split;
            None: there are no folds.
        group_column: The column that says which samples belong together, as those of one patient; None: not given.
        group_pattern: In place of the column, a regular expression that finds this in the names of the images.

    Raises:
        ValueError: If two exclude each other, or a value cannot be.
    """

    validation_fraction: float | None = None
    fold: int | None = None
    folds: int | None = None
    group_column: str | None = None
    group_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"--validation_fraction {self.validation_fraction:g} is no share of the samples: expected more than 0 "
                "and less than 1, as 0.2."
            )
        if self.group_column is not None and self.group_pattern is not None:
            raise ValueError("--group_column and --group_pattern exclude each other: leave one out.")
        for name in ("group_column", "group_pattern"):
            if getattr(self, name) == "":
                raise ValueError(f"--{name} is empty: expected what tells which samples belong together.")
        self._check_folds()
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"--group_pattern {self.group_pattern} is no regular expression: {error}. Expected one that finds "
                    "the group in the names of the images, as '(case\\d+)_'."
                ) from error

    def _check_folds(self) -> None:
        if (self.fold is None) != (self.folds is None):
            raise ValueError("--fold and --folds go together: give both, as --fold 0 --folds 5.")
        if self.fold is None or self.folds is None:
            return
        if self.validation_fraction is not None:
            raise ValueError("--validation_fraction and --folds exclude each other: leave one out.")
        if self.folds < 2:
            raise ValueError(f"--folds {self.folds} is too few: expected 2 or more.")
        if not 0 <= self.fold < self.folds:
            raise ValueError(f"--fold {self.fold} is none of --folds {self.folds}: expected 0 to {self.folds - 1}.")

    @property
    def has_groups(self) -> bool:
        """Whether samples belong together in groups."""
        return self.group_column is not None or self.group_pattern is not None

    @property
    def divides_anew(self) -> bool:
        """Whether the data set's own division into training and validation samples does not count."""
        return self.validation_fraction is not None or self.folds is not None


OWN_SPLITS = SplitRules()
