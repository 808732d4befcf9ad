"""Polygons of masks, filled again by pycocotools: exact where regions are small, else at most a pixel away."""

import time

import numpy as np
import pytest
import shapely
from pycocotools import mask as coco_masks
from unet_kvasir_seg.inference.annotations.frames import find_regions
from unet_kvasir_seg.inference.annotations.polygons import find_polygons
from unet_kvasir_seg.inference.annotations.run_lengths import run_lengths


def picture(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in line] for line in text.split()])


def fill(outline: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    (encoded,) = coco_masks.frPyObjects([outline.ravel().tolist()], *shape)
    return coco_masks.decode(encoded).astype(bool)


def filled(mask: np.ndarray) -> np.ndarray:
    """The pixels that the polygons of a mask cover, without their holes."""
    found = np.zeros_like(mask)
    for _, _, polygon in find_polygons(mask):
        inside = fill(polygon.exterior, mask.shape)
        for hole in polygon.holes:
            inside &= ~fill(hole, mask.shape)
        found |= inside
    return found


# Picture -> number of polygons, number of holes.
SHAPES = {
    "#": (1, 0),
    "....\n.#..\n....": (1, 0),
    "....\n.##.\n....": (1, 0),
    "....\n.##.\n.#..\n....": (1, 0),
    ".......\n.#####.\n.......": (1, 0),
    "#####\n.....": (1, 0),
    "##\n##": (1, 0),  # all of the image
    "#..\n.#.\n..#": (3, 0),  # a line whose pixels touch at corners
    "##...\n.##..\n..##.\n...##": (1, 0),
    "##..\n##..\n..##\n..##": (2, 0),
    "###\n#.#\n###": (1, 1),
    "#####\n#...#\n#.#.#\n#...#\n#####": (2, 1),  # an island in a hole
    "####\n#.##\n##.#\n####": (1, 1),  # background that touches at a corner is one hole
    "###\n#.#\n##.": (1, 0),  # and is no hole if it touches what is outside
}


@pytest.mark.parametrize("text", SHAPES)
def test_small_shapes_come_back_exactly(text):
    mask = picture(text)
    polygons = [polygon for _, _, polygon in find_polygons(mask)]
    assert (len(polygons), sum(len(polygon.holes) for polygon in polygons)) == SHAPES[text]
    np.testing.assert_array_equal(filled(mask), mask)
    for polygon in polygons:
        assert shapely.Polygon(polygon.exterior, polygon.holes).is_valid


def test_random_masks_come_back_exactly():
    random = np.random.default_rng(0)
    for _ in range(300):
        mask = random.random(random.integers(1, 9, size=2)) < random.random()
        np.testing.assert_array_equal(filled(mask), mask)


def test_an_empty_mask_has_no_polygon():
    assert find_polygons(np.zeros((5, 4), bool)) == []


def blob(seed: int) -> np.ndarray:
    """A region with a rough outline and a hole."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[:200, :260]
    angle = np.arctan2(row - 100, column - 130)
    waves = sum(random.uniform(0, 2) * np.sin(order * angle + random.uniform(0, 6)) for order in range(2, 30))
    distance = np.hypot(row - 100, column - 130)
    return (distance < 60 + waves) & (distance > 15)


@pytest.mark.parametrize("seed", range(3))
def test_outlines_lie_at_most_a_pixel_from_the_mask_with_far_fewer_points(seed):
    mask = blob(seed)
    squares = shapely.union_all([shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)])
    polygons = [shapely.Polygon(polygon.exterior, polygon.holes) for _, _, polygon in find_polygons(mask)]
    assert all(polygon.is_valid for polygon in polygons)
    written = shapely.MultiPolygon(polygons)
    assert shapely.hausdorff_distance(squares.boundary, written.boundary, densify=0.1) <= 1
    found = filled(mask)
    assert (found & mask).sum() / (found | mask).sum() >= 0.98
    assert shapely.get_num_coordinates(written) < shapely.get_num_coordinates(squares.boundary) / 3


def test_thin_lines_stay():
    mask = np.zeros((120, 160), bool)
    mask[10, 5:150] = True
    mask[20:110, 7] = True
    for step in range(60):
        mask[30 + step, 40 + step : 42 + step] = True  # a stair, one pixel wide
    found = filled(mask)
    assert (found & mask).sum() / (found | mask).sum() >= 0.98


def test_ten_thousand_specks_are_quick_and_none_is_lost():
    mask = np.zeros((1000, 1000), bool)
    mask[5::10, 5::10] = True
    started = time.process_time()
    regions = find_regions(mask, with_polygons=True)
    assert time.process_time() - started < 8
    assert len(regions) == 10_000
    assert all(len(region.polygons) == 1 for region in regions)


def test_parts_that_touch_at_a_corner_are_polygons_of_one_region():
    mask = picture("##...\n##...\n..##.\n.....\n#....")
    large, small = find_regions(mask, with_polygons=True)
    assert (large.pixels, len(large.polygons), large.left, large.top) == (6, 2, 0, 0)
    assert (small.pixels, len(small.polygons), small.left, small.top) == (1, 1, 0, 4)


def test_scores_are_of_the_region_with_their_box_and_area():
    mask = picture("##.\n...\n..#")
    lesions = [[0, 0, 2, 1, 0.5, 0.0, 2, 22.2, 0.87654321], [2, 2, 3, 3, 2.0, 2.0, 1, 11.1, 0.5]]
    assert [region.score for region in find_regions(mask, lesions, with_polygons=False)] == [0.876543, 0.5]
    mask[0, 2] = True  # changed since
    assert [region.score for region in find_regions(mask, lesions, with_polygons=False)] == [None, 0.5]


def test_run_lengths():
    mask = picture("#.#\n##.")
    assert run_lengths(mask) == [0, 1, 1, 3, 1]  # the run goes on in the next row
    assert run_lengths(mask, first_line=1, offset=2, line_length=6, total=24) == [8, 1, 1, 1, 3, 2, 8]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]


def test_run_lengths_by_columns_are_those_of_pycocotools():
    mask = blob(0)
    (region,) = find_regions(mask, with_polygons=False)
    lengths = run_lengths(region.inside.T, region.left, region.top, mask.shape[0], mask.size)
    encoded = coco_masks.frPyObjects({"counts": lengths, "size": list(mask.shape)}, *mask.shape)
    assert encoded == coco_masks.encode(np.asfortranarray(mask, np.uint8))
