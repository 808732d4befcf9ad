"""Items in batches."""

import pytest
from unet_kvasir_seg.common.batches import batches


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [[0]]), (4, [[0, 1], [2, 3]]), (5, [[0, 1], [2, 3], [4]])]
)
def test_batches_of_two(count, expected):
    assert list(batches(iter(range(count)), 2)) == expected


def test_no_item_is_asked_for_before_its_batch():
    asked = []
    found = batches((asked.append(item) or item for item in range(6)), 3)
    assert next(found) == [0, 1, 2]
    assert asked == [0, 1, 2]
