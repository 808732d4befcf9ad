"""Each format of an annotation program gives the masks that were drawn."""

from pathlib import Path

import numpy as np
import pytest
from annotation_files import WRITERS, write_frames
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import load_sample


def masks_of(source: Path, **arguments) -> dict[str, np.ndarray]:
    """All masks of a data set by the names of the images."""
    rows = load_splits(str(source), needed_splits=["all"], **arguments)["all"]
    return {Path(row["image"]["path"]).name: load_sample(row).ground_truth for row in rows}


@pytest.mark.parametrize("name", WRITERS)
def test_masks_are_those_that_were_drawn(name, tmp_path):
    masks = write_frames(tmp_path / "images")
    found = masks_of(WRITERS[name](tmp_path, masks))
    assert found.keys() == masks.keys()
    for file, mask in masks.items():
        assert (found[file] == mask).all(), file
