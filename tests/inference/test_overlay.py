"""Overlays, pixel by pixel against pictures drawn by hand."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from unet_kvasir_seg.inference.overlay import (
    ALERT_COLOUR,
    GROUND_TRUTH_COLOUR,
    HALO_COLOUR,
    PREDICTION_COLOUR,
    contour_width,
    draw_alert,
    draw_numbers,
    draw_overlay,
    number_places,
)

MUCOSA = (200, 110, 90)
# 0.65 of mucosa and 0.35 of the contour's colour, (0, 229, 255): 130, 151.65 and 147.75.
TINTED = (130, 152, 148)
COLOURS = {".": MUCOSA, "h": HALO_COLOUR, "c": PREDICTION_COLOUR, "t": TINTED}


def plain(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height), MUCOSA)


def is_colour(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W) bool."""
    return (np.asarray(image) == colour).all(axis=-1)


def drawn(picture: list[str]) -> np.ndarray:
    """(H, W, 3) from rows of letters."""
    return np.array([[COLOURS[letter] for letter in row] for row in picture], dtype=np.uint8)


def masked(picture: list[str]) -> np.ndarray:
    """(H, W) bool of the contours and tints."""
    return np.array([[letter in "ct" for letter in row] for row in picture])


def disk(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(x, y) <= radius


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(
            [
                "...........",
                "...hhhhh...",
                "..hccccch..",
                "..hctttch..",
                "..hctttch..",
                "..hccccch..",
                "...hhhhh...",
            ],
            id="inside the image",
        ),
        pytest.param(
            [
                "ccccch....",
                "ctttch....",
                "ctttch....",
                "ccccch....",
                "hhhhh...hh",
                ".......hcc",
                ".......hcc",
            ],
            id="at the border, two of them",
        ),
        pytest.param(["cccc", "cttc", "cttc", "cccc"], id="the whole image"),
        pytest.param([".h.", "hch", ".h."], id="one pixel"),
        pytest.param(["c"], id="an image of one pixel"),
        pytest.param(
            [
                ".hhhhhhh.",
                "hccccccch",
                "hctccctch",
                "hcchhhcch",
                "hcch.hcch",
                "hcchhhcch",
                "hctccctch",
                "hccccccch",
                ".hhhhhhh.",
            ],
            id="with a hole",
        ),
    ],
)
def test_pictures_drawn_by_hand(picture):
    overlay = draw_overlay(plain(len(picture), len(picture[0])), masked(picture))
    np.testing.assert_array_equal(np.asarray(overlay), drawn(picture))


@pytest.mark.parametrize(("opacity", "inside"), [(0, MUCOSA), (0.5, (100, 170, 172)), (1, PREDICTION_COLOUR)])
def test_the_tint_follows_the_opacity(opacity, inside):
    mask = np.ones((5, 5), bool)
    assert draw_overlay(plain(5, 5), mask, opacity=opacity).getpixel((2, 2)) == inside


def test_the_frame_of_an_alert_pixel_by_pixel():
    """Contours of one pixel: three pixels outside the box is its frame, with halo on both sides."""
    image = plain(100, 100)
    draw_alert(image, (40, 50, 60, 70), number=7)
    row = [image.getpixel((x, 60)) for x in range(100)]
    edges = [HALO_COLOUR, ALERT_COLOUR, HALO_COLOUR]
    assert row == [MUCOSA] * 36 + edges + [MUCOSA] * 22 + edges + [MUCOSA] * 36
    column = [image.getpixel((55, y)) for y in range(46, 100)]
    assert column == edges + [MUCOSA] * 22 + edges + [MUCOSA] * 26
    above = np.asarray(image)[:46]  # the number
    assert is_colour(image, ALERT_COLOUR)[:46].sum() > 20
    assert (above[:, :37] == MUCOSA).all()
    assert (above[:, 55:] == MUCOSA).all()


@pytest.mark.parametrize("box", [(0, 0, 60, 40), (0, 0, 1, 1), (59, 39, 60, 40), (55, 0, 60, 40), (0, 35, 60, 40)])
def test_the_frame_of_an_alert_at_the_border_is_inside(box):
    image = plain(40, 60)
    draw_alert(image, box, number=123)
    white = np.argwhere(is_colour(image, ALERT_COLOUR))
    left, top = max(box[0] - 3, 0), max(box[1] - 3, 0)
    right, bottom = min(box[2] + 3, 60) - 1, min(box[3] + 3, 40) - 1
    corners = {(top, left), (top, right), (bottom, left), (bottom, right)}
    assert corners <= {tuple(place) for place in white.tolist()}


# In 100x100 pixels: contours and halos of 1 pixel, digits in 7x11 (0.62 of 11, rounded up), with the contour's width
# around them: numbers of one digit take 9x13 pixels, those of two 16x13.
@pytest.mark.parametrize(
    ("boxes", "places"),
    [
        # Box from column 40 to 60: its middle is 50, from which half of 9 is taken, rounded down: (40 + 60 - 9) // 2.
        pytest.param([(40, 50, 60, 70)], [(45, 36, 54, 49)], id="above the box and its halo"),
        pytest.param([(40, 5, 60, 70)], [(45, 71, 54, 84)], id="below where there is no room above"),
        pytest.param([(98, 50, 100, 60)], [(91, 36, 100, 49)], id="within the image at its right side"),
        pytest.param([(0, 50, 2, 60)], [(0, 36, 9, 49)], id="within the image at its left side"),
        pytest.param([(10, 0, 60, 100)], [(61, 43, 70, 56)], id="at the right side"),
        pytest.param([(50, 0, 100, 100)], [(40, 43, 49, 56)], id="at the left side"),
        pytest.param([(0, 0, 100, 100)], [(2, 2, 11, 15)], id="inside"),
        pytest.param(
            [(40, 50, 60, 70), (30, 30, 70, 48)],
            [(45, 71, 54, 84), (45, 16, 54, 29)],
            id="not on another box: below",
        ),
        pytest.param(
            [(40, 0, 60, 100), (61, 40, 90, 60), (10, 40, 39, 60)],
            # Beside it are other boxes, and above and below it the image ends.
            [(42, 2, 51, 15), (71, 26, 80, 39), (20, 26, 29, 39)],
            id="not on other boxes: inside",
        ),
        pytest.param(
            [(0, 0, 100, 100), (40, 50, 60, 70)],
            [(2, 2, 11, 15), (45, 36, 54, 49)],
            id="on a box that is everywhere",
        ),
        pytest.param(
            [(0, 0, 100, 100), (0, 0, 2, 2)],
            # Below, at the right side and inside it would be on the other number, and elsewhere outside of the image.
            [(2, 2, 11, 15), None],
            id="never on another number",
        ),
    ],
)
def test_places_of_numbers_worked_out_by_hand(boxes, places):
    assert number_places((100, 100), boxes) == places


def test_at_most_twelve_lesions_are_numbered_and_none_where_no_number_fits():
    boxes = [(x, y, x + 2, y + 2) for y in (20, 50, 80) for x in (10, 30, 50, 70, 90)]
    places = number_places((100, 100), boxes)
    assert len(places) == 12
    assert [place[2] - place[0] for place in places] == [9] * 9 + [16] * 3
    assert number_places((8, 8), [(2, 2, 4, 4)]) == [None]
    image = plain(8, 8)
    draw_numbers(image, [(2, 2, 4, 4)])
    assert is_colour(image, MUCOSA).all()


def test_numbers_are_written_within_their_places():
    image = plain(300, 400)
    boxes = [(100, 100, 200, 200), (250, 40, 300, 60)]
    draw_numbers(image, boxes)
    pixels = np.asarray(image)
    outside = np.ones((300, 400), bool)
    texts = []
    for left, top, right, bottom in number_places(image.size, boxes):
        label = pixels[top:bottom, left:right]
        assert (label[[0, -1]] == HALO_COLOUR).all()
        assert (label[:, [0, -1]] == HALO_COLOUR).all()
        texts.append((label != HALO_COLOUR).any(axis=-1))
        assert texts[-1].sum() >= 8  # a digit
        outside[top:bottom, left:right] = False
    assert (pixels[outside] == MUCOSA).all()
    assert not np.array_equal(*texts)  # a 1 and a 2


def test_an_empty_mask_changes_nothing_and_the_image_is_not_changed():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    empty, full = np.zeros((7, 9), bool), np.ones((7, 9), bool)
    np.testing.assert_array_equal(np.asarray(draw_overlay(image, empty, empty)), pixels)
    assert draw_overlay(image, empty) is not image
    draw_overlay(image, full, full)
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_contours_are_as_wide_as_the_shorter_side_asks():
    sizes = ((1, 1), (384, 288), (288, 384), (480, 640), (1920, 1080))
    assert [contour_width(size) for size in sizes] == [1, 2, 2, 4, 8]
    mask = np.zeros((288, 384), bool)
    mask[100:200, 100:200] = True
    for width, colours in ((None, "hcct"), (5, "hhccccct")):
        row = np.asarray(draw_overlay(plain(288, 384), mask, width=width))[150]
        left = 100 - colours.count("h")
        expected = [MUCOSA, *(COLOURS[letter] for letter in colours)]
        assert [tuple(pixel.tolist()) for pixel in row[left - 1 : left + len(colours)]] == expected


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_the_contour_is_as_wide_all_around(width):
    """Against exact Euclidean distances: an octagon strays from a circle by less than a tenth, and half a pixel."""
    noise = np.random.default_rng(width).standard_normal((90, 120))
    mask = ndimage.gaussian_filter(noise, 6) > 0.02
    overlay = draw_overlay(plain(90, 120), mask, width=width)
    padded = np.pad(mask, 1)  # outside of the image there is no polyp
    depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    contour, halo = is_colour(overlay, PREDICTION_COLOUR), is_colour(overlay, HALO_COLOUR)
    assert contour[mask & (depth <= 0.9 * width)].all()
    assert not contour[depth > 1.1 * width + 0.5].any()
    assert not contour[~mask].any()
    halo_width = max(1, width // 2)
    distance = ndimage.distance_transform_edt(~mask)
    assert halo[~mask & (distance <= 0.9 * halo_width)].all()
    assert is_colour(overlay, MUCOSA)[distance > 1.1 * halo_width + 0.5].all()


def test_the_ground_truth_is_a_dashed_contour_without_a_tint():
    ground_truth = disk(80, 30)
    overlay = draw_overlay(plain(80, 80), np.zeros((80, 80), bool), ground_truth)
    rim = ground_truth & ~ndimage.binary_erosion(ground_truth)
    dashes, gaps = is_colour(overlay, GROUND_TRUTH_COLOUR), is_colour(overlay, MUCOSA)
    assert not dashes[~rim].any()
    assert 0.4 < dashes[rim].mean() < 0.6
    assert (dashes | gaps)[ground_truth].all()
    # The dashes are 4 pixels long, 8 with the gap: at least one for each 12 pixels of the circle's 188.
    _, number = ndimage.label(dashes, structure=np.ones((3, 3)))
    assert number >= 188 / 12


def test_all_sides_of_the_ground_truth_are_dashed():
    ground_truth = np.zeros((60, 80), bool)
    ground_truth[10:50, 20:80] = True
    dashes = is_colour(draw_overlay(plain(60, 80), np.zeros_like(ground_truth), ground_truth), GROUND_TRUTH_COLOUR)
    for side in (dashes[10, 24:76], dashes[49, 24:76], dashes[14:46, 20], dashes[14:46, 79]):
        # Four pixels of each, at most, between one change and the next.
        changes = np.flatnonzero(np.diff(side.astype(int)))
        assert np.diff(changes).tolist() == [4] * (len(changes) - 1)
        assert len(changes) >= len(side) // 4 - 1


def test_the_prediction_shows_in_the_gaps_of_the_ground_truth():
    mask = disk(80, 30)
    overlay = draw_overlay(plain(80, 80), mask, mask)
    rim = mask & ~ndimage.binary_erosion(mask)
    ground_truth, prediction = is_colour(overlay, GROUND_TRUTH_COLOUR), is_colour(overlay, PREDICTION_COLOUR)
    assert (ground_truth ^ prediction)[rim].all()
    assert 0.4 < prediction[rim].mean() < 0.6
    assert is_colour(overlay, TINTED)[mask & ~rim].all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_images_of_other_modes(mode):
    if mode in ("I", "I;16"):
        # 257 levels of 16 bits are one of 8 bits.
        pixels = np.full((6, 7), 100 * 257, np.int32 if mode == "I" else np.uint16)
        image = Image.fromarray(pixels)
        assert image.mode == mode
    else:
        image = Image.new("L", (7, 6), 255 if mode == "1" else 100).convert(mode)
    mask = np.zeros((6, 7), bool)
    mask[4:, 5:] = True
    overlay = draw_overlay(image, mask)
    assert (overlay.mode, overlay.size) == ("RGB", (7, 6))
    assert overlay.getpixel((0, 0)) == ((255,) * 3 if mode == "1" else (100,) * 3)
    assert overlay.getpixel((6, 5)) == PREDICTION_COLOUR


def test_masks_in_any_memory_order():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:25] = True
    expected = draw_overlay(plain(20, 30), mask, mask).tobytes()
    assert draw_overlay(plain(20, 30), np.asfortranarray(mask), mask[::-1, ::-1][::-1, ::-1]).tobytes() == expected


def test_exif_rotation_is_applied_before_drawing():
    image = plain(6, 9)
    image.getexif()[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    mask = np.zeros((9, 6), bool)
    mask[2, 3] = True
    overlay = draw_overlay(image, mask)
    assert overlay.size == (6, 9)
    assert overlay.getpixel((3, 2)) == PREDICTION_COLOUR


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.ones((4, 6), bool)}, r"mask has the shape \(4, 6\) and its image, of 5x4 pixels, \(4, 5\)"),
        ({"mask": np.ones((1, 4, 5), bool)}, r"mask has the shape \(1, 4, 5\)"),
        ({"ground_truth": np.ones((5, 4), bool)}, r"ground truth has the shape \(5, 4\)"),
        ({"mask": np.full((4, 5), 0.2)}, "mask holds float64; expected booleans. Compare probabilities"),
        ({"opacity": 35}, "opacity is 35; expected a number from 0 to 1"),
        ({"opacity": float("nan")}, "opacity is nan"),
        ({"width": 0}, "width is 0; expected at least 1"),
    ],
)
def test_invalid_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_overlay(plain(4, 5), **({"mask": np.zeros((4, 5), bool)} | arguments))
