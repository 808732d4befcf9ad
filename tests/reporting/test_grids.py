"""The pictures that show frames: what stands where, and what it looks like."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from unet_kvasir_seg.inference.overlay import PREDICTION_COLOUR
from unet_kvasir_seg.reporting.grids import LARGEST_SIDE, example_grid, pair_grid

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
DARKEST, BRIGHTEST = (68, 1, 84), (253, 231, 36)  # the ends of viridis


def case(size: tuple[int, int] = (48, 36), colour: tuple[int, int, int] = RED, title: str = "best: 0.98") -> tuple:
    """A case of one colour: polyp in the left half, predicted in the right."""
    width, height = size
    left = np.broadcast_to(np.arange(width) < width // 2, (height, width))
    return title, Image.new("RGB", size, colour), left, (~left).astype(np.float32), ~left


def shown_texts(figure: Figure) -> list[Text]:
    """All texts that are shown, from top to bottom and from left to right."""
    axes_off = [axes for axes in figure.findobj(Axes) if not axes.axison]
    hidden = {text for axes in axes_off for axis in (axes.xaxis, axes.yaxis) for text in axis.findobj(Text)}
    visible = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    found = [text for text in visible if text not in hidden]
    boxes = {text: text.get_window_extent() for text in found}
    return sorted(found, key=lambda text: (-round(boxes[text].y1, -1), boxes[text].x0))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in shown_texts(figure)]


def cells(figure: Figure) -> list[Axes]:
    """The axes that show a picture."""
    return [axes for axes in figure.findobj(Axes) if axes.images]


def area(axes: Axes, path: Path) -> np.ndarray:
    """The pixels of a cell's picture, (h, w, 3), without its edge."""
    pixels = np.asarray(Image.open(path))
    box = axes.get_window_extent()
    top, bottom = len(pixels) - box.y1, len(pixels) - box.y0
    return pixels[round(top) + 2 : round(bottom) - 2, round(box.x0) + 2 : round(box.x1) - 2]


def test_an_example_is_image_ground_truth_probability_and_contours(tmp_path):
    path = tmp_path / "x.png"
    figure = example_grid([case(title="best: 0.98"), case(title="worst: 0.01", colour=GREEN)], path)
    assert texts(figure)[:7] == [
        "Image, ground truth and prediction, n = 2 images",
        "best: 0.98",
        *("image", "ground truth", "prediction", "contours"),
        "worst: 0.01",
    ]
    explained = sorted(shown_texts(figure)[7:], key=lambda text: text.get_window_extent().x0)
    assert [text.get_text() for text in explained[:3]] == ["0", "probability", "1"]
    assert {text.get_text() for text in explained[3:]} == {"prediction", "ground truth"}
    shown = cells(figure)
    assert len(shown) == 8
    pixels = np.asarray(Image.open(path))
    for row, colour in ((shown[:4], RED), (shown[4:], GREEN)):
        image, ground_truth, probability, contours = (area(axes, path) for axes in row)
        height, width, _ = image.shape
        quarter, three_quarters = (height // 2, width // 4), (height // 2, 3 * width // 4)
        assert (image == colour).all()
        assert (tuple(ground_truth[quarter]), tuple(ground_truth[three_quarters])) == (WHITE, BLACK)
        assert (tuple(probability[quarter]), tuple(probability[three_quarters])) == (DARKEST, BRIGHTEST)
        assert tuple(contours[quarter]) == colour
        tint = 0.65 * np.array(colour) + 0.35 * np.array(PREDICTION_COLOUR)
        np.testing.assert_allclose(contours[three_quarters], tint, atol=1)
        # Nothing is painted between the cells of a row, and between the rows.
        boxes = [axes.get_window_extent() for axes in row]
        top, bottom = (len(pixels) - round(edge) for edge in (boxes[0].y1, boxes[0].y0))
        for left, right in pairwise(boxes):
            assert (pixels[top:bottom, round(left.x1) + 2 : round(right.x0) - 2] == 255).all()
        assert (pixels[bottom + 2, :] == 255).all()


def test_pictures_have_one_height_and_keep_their_aspect(tmp_path):
    sizes = ((80, 50), (40, 50), (320, 200), (50, 100), (1920, 1200))
    colours = (RED, GREEN, BLUE, (255, 0, 255), (0, 255, 255))
    path = tmp_path / "x.png"
    figure = example_grid([case(size, colour) for size, colour in zip(sizes, colours, strict=True)], path)
    shown = cells(figure)
    for row, colour in enumerate(colours):
        assert (area(shown[4 * row], path) == colour).all()
    boxes = [axes.get_window_extent() for axes in shown]
    heights = [box.height for box in boxes]
    assert heights == pytest.approx([heights[0]] * len(heights), rel=0.12)  # the first row has headings too
    assert heights[4:] == pytest.approx([heights[4]] * len(heights[4:]), abs=1)
    for column in range(4):  # in the middle of their cells
        centres = [(box.x0 + box.x1) / 2 for box in boxes[column::4]]
        assert centres == pytest.approx([centres[0]] * len(centres), abs=1)
    for (width, height), box in zip(np.repeat(sizes, 4, axis=0), boxes, strict=True):
        assert box.width / box.height == pytest.approx(width / height, rel=0.02)
    for first, second in pairwise(boxes):
        assert second.x0 > first.x1 or second.y1 < first.y0  # none covers the next
    assert max(max(axes.images[0].get_array().shape[:2]) for axes in shown) <= LARGEST_SIDE


@pytest.mark.parametrize("size", [(400, 20), (20, 400), (1, 1)])
def test_strips_and_single_pixels_fit_into_a_cell(tmp_path, size):
    figure = example_grid([case(size)], tmp_path / "x.png")
    width, height = Image.open(tmp_path / "x.png").size
    assert 900 < width < 1200
    assert height < 1000
    assert all(axes.get_window_extent().width < width / 4 for axes in cells(figure))


def test_pictures_are_readable_at_400_pixels(tmp_path):
    figure = example_grid([case()] * 3, tmp_path / "x.png")
    width, _ = Image.open(tmp_path / "x.png").size
    letters = [text.get_window_extent().height for text in shown_texts(figure)]
    assert min(letters) * 400 / width > 5
    assert min(axes.get_window_extent().width for axes in cells(figure)) * 400 / width > 50


def test_pairs_stand_side_by_side(tmp_path):
    path = tmp_path / "x.png"
    red, black = Image.new("RGB", (30, 30), RED), Image.new("L", (30, 30), 0)
    figure = pair_grid([("a\nb", red, black), ("word " * 12, black, red)], path)
    title, first, second = texts(figure)
    assert (title, first) == ("Near-duplicates, n = 2 pairs", "a\nb")
    assert second.replace("\n", " ") == ("word " * 12).strip()
    assert max(len(row) for row in second.splitlines()) < 40
    shown = sorted(cells(figure), key=lambda axes: axes.get_window_extent().x0)
    for axes, colour in zip(shown, [RED, BLACK, BLACK, RED], strict=True):
        assert (area(axes, path) == colour).all()
    sides = [side for axes in shown for side in axes.get_window_extent().size]
    assert sides == pytest.approx([sides[0]] * 8, abs=1)  # square, and of one size
    bottoms = [axes.get_window_extent().y0 for axes in shown]
    assert bottoms == pytest.approx([bottoms[0]] * 4, abs=30)


@pytest.mark.parametrize(
    ("given", "total", "title", "rows"),
    [
        (1, None, "Near-duplicates, n = 1 pair", 1),
        (13, None, "Near-duplicates, n = 13 pairs, 12 shown", 6),
        (12, 31, "Near-duplicates, n = 31 pairs, 12 shown", 6),
    ],
)
def test_of_many_pairs_twelve_are_shown(tmp_path, given, total, title, rows):
    red = Image.new("RGB", (40, 20), RED)
    figure = pair_grid([("pair", red, red)] * given, tmp_path / "x.png", total=total)
    assert texts(figure) == [title] + ["pair"] * min(given, 12)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    column = (pixels[:, : len(pixels[0]) // 4] == RED).all(axis=2).any(axis=1).astype(int)
    assert (np.diff(column) == 1).sum() == rows


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: example_grid([], path), "no cases"),
        (lambda path: pair_grid([], path), "no pairs"),
        (
            lambda path: example_grid([(*case()[:3], np.zeros((3, 4), np.float32), case()[4])], path),
            r"best: 0.98: the probability map has the shape \(3, 4\) and its image, of 48x36 pixels, \(36, 48\)",
        ),
    ],
)
def test_grids_of_bad_input_are_refused(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
