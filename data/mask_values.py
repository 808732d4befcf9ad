"""Whether what a user says of masks, values or a threshold that mean polyp, is true of any mask of a data set."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from datasets import IterableDataset

from ..common.errors import some
from ..common.mask_rules import MaskRules
from ..image_processing_unet import binarize_mask, mask_levels
from .columns import Split
from .samples import DatasetError, decode_mask, errors_name_the_mask, is_empty

STREAM_SAMPLES = 1000  # of a stream, which could have any number


def check_mask_rules(splits: Mapping[str, Split], mask_rules: MaskRules) -> None:
    """Refuse foreground values of which one occurs in no mask, or a threshold that no mask exceeds.

    Masks are read until all values were found, mostly in the first few; if one never occurs, that is all masks, or of
    a stream the first `STREAM_SAMPLES`. Streams come last.

    Args:
        splits: As `load_splits` gives them.
        mask_rules: Without values and threshold, nothing is read.

    Raises:
        DatasetError: If so, or a mask cannot be read; the message lists the values that were found.
    """
    missing = None if mask_rules.foreground_values is None else set(mask_rules.foreground_values)
    if missing is None and mask_rules.threshold is None:
        return
    found: set[float] = set()
    masks_read = 0
    for rows in sorted(splits.values(), key=lambda rows: isinstance(rows, IterableDataset)):
        is_stream = isinstance(rows, IterableDataset)
        for row in islice(rows, STREAM_SAMPLES) if is_stream else rows.select_columns(["mask", "index"]):
            if is_empty(row["mask"]):
                continue
            levels = _levels(row, mask_rules)
            if missing is None:
                if levels.any():
                    return
            else:
                found.update(np.unique(levels).tolist())
                missing -= found
                if not missing:
                    return
            masks_read += 1
    if masks_read == 0:
        return
    read = f"the {masks_read} masks that were read"
    if missing is None:
        raise DatasetError(
            f"--mask_threshold {mask_rules.threshold:g}: none of {read} has a level above that. Give a lower one, or "
            "leave it out, as for masks of 0 and 1."
        )
    given = " ".join(str(value) for value in mask_rules.foreground_values or ())
    absent, present = ([f"{value:g}" for value in sorted(values)] for values in (missing, found))
    raise DatasetError(
        f"--foreground_values {given}: none of {read} holds {some(absent)}; they hold {some(present, 10)}. Name only "
        "values that occur; masks of two grey levels, or of 0 and 1, need none."
    )


def _levels(row: Mapping[str, Any], mask_rules: MaskRules) -> np.ndarray:
    """What is compared with the foreground values, or where the mask exceeds the threshold: (H, W)."""
    mask = decode_mask(row, mask_rules).pixels
    with errors_name_the_mask(row):
        if mask_rules.threshold is not None:
            return binarize_mask(mask, threshold=mask_rules.threshold)
        return mask_levels(mask, mask_rules.foreground_values)
