"""The pictures of an evaluation: what they show against values worked out by hand, and the files."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.overlay import PREDICTION_COLOUR
from unet_kvasir_seg.reporting.figures import (
    BLUE,
    CARD_LOSSES,
    CELL_WIDTH,
    GAP,
    MARGIN,
    VERMILLION,
    dice_by_size,
    dice_histogram,
    example_grid,
    loss_curve,
    pair_grid,
    reliability_diagram,
    threshold_curve,
)

DICE = [0.0, 0.52, 0.54, 0.9, 1.0]  # mean 0.592, median 0.54
SHARES = [0.01, 0.04, 0.05, 0.2, 0.5]  # two small, one medium, two large
BINS = [
    {"low": 0.0, "high": 0.25, "pixels": 2_000_000, "mean_probability": 0.1, "polyp_share": 0.05},
    {"low": 0.25, "high": 0.5, "pixels": 0, "mean_probability": None, "polyp_share": None},
    {"low": 0.5, "high": 0.75, "pixels": 30_000, "mean_probability": 0.6, "polyp_share": 0.4},
    {"low": 0.75, "high": 1.0, "pixels": 400, "mean_probability": 0.9, "polyp_share": 1.0},
]
RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


def case(size: tuple[int, int] = (48, 36), colour: tuple[int, int, int] = RED, title: str = "best: 0.98") -> tuple:
    """A case of one colour: polyp in the left half, predicted in the right."""
    width, height = size
    left = np.broadcast_to(np.arange(width) < width // 2, (height, width))
    return title, Image.new("RGB", size, colour), left, (~left).astype(np.float32), ~left


def line(axes: Axes, label: str) -> list[list[float]]:
    """The points of the line whose label begins so."""
    (found,) = (line for line in axes.lines if str(line.get_label()).startswith(label))
    return np.column_stack(found.get_data()).tolist()


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def sheet(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def drawings() -> dict:
    """Functions that draw one of each picture to a path."""
    frames = [(row["image"], np.asarray(row["mask"]) > 0) for row in generate(3, 64, seed=1)]
    cases = [("case", image, mask, np.full(mask.shape, 0.3, np.float32), mask) for image, mask in frames]
    return {
        "histogram": lambda path: dice_histogram(DICE, path),
        "sizes": lambda path: dice_by_size(DICE, SHARES, path, 0.05, 0.2),
        "thresholds": lambda path: threshold_curve([0.2, 0.5, 0.8], [0.6, 0.7, 0.1], 0.5, path),
        "reliability": lambda path: reliability_diagram(BINS, 0.05, path),
        "losses": lambda path: loss_curve([[1, 1.2], [2, 1.1]], path),
        "examples": lambda path: example_grid(cases, path),
        "pairs": lambda path: pair_grid([("pair", frames[0][0], frames[1][0])] * 2, path),
    }


NAMES = ("histogram", "sizes", "thresholds", "reliability", "losses", "examples", "pairs")


def test_a_histogram_counts_the_images(tmp_path):
    axes = dice_histogram(DICE, tmp_path / "x.png").axes[0]
    # Twenty bins of 0.05: 0.52 and 0.54 are in the eleventh, 0.9 opens the nineteenth, 1 belongs to the last.
    expected = [0] * 20
    expected[0], expected[10], expected[18], expected[19] = 1, 2, 1, 1
    assert [bar.get_height() for bar in axes.patches] == expected
    assert [bar.get_x() for bar in axes.patches] == pytest.approx([0.05 * index for index in range(20)])
    assert [x for x, _ in line(axes, "mean")] == pytest.approx([0.592, 0.592])
    assert [x for x, _ in line(axes, "median")] == pytest.approx([0.54, 0.54])
    assert legend(axes) == ["mean 0.592", "median 0.540"]
    assert axes.get_xlabel() == "Dice of an image at its original size"
    assert axes.get_ylabel() == "number of images"
    assert axes.figure.get_suptitle() == "Distribution of Dice, n = 5 images"


def test_sizes_are_grouped_at_the_cut_points(tmp_path):
    axes = dice_by_size(DICE, SHARES, tmp_path / "x.png", 0.05, 0.2).axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(points, np.column_stack(([1, 4, 5, 20, 50], DICE)))
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["small\nn = 2", "medium\nn = 1", "large\nn = 2"]
    means = [row for row in axes.lines if row.get_color() == VERMILLION]
    assert [row.get_ydata()[0] for row in means] == pytest.approx([0.26, 0.54, 0.95])
    assert means[1].get_xdata() == pytest.approx((5, 20))
    cuts = [row.get_xdata()[0] for row in axes.lines if row.get_linestyle() == "--"]
    assert cuts == pytest.approx([5, 20])
    assert legend(axes) == ["mean", "cuts: 5 %, 20 %"]
    assert axes.get_xlabel() == "polyp, % of the image's area (log scale)"
    assert axes.figure.get_suptitle() == "Dice by polyp size, n = 5 images"


def test_a_group_without_images_has_no_mean(tmp_path):
    axes = dice_by_size([0.4], [1.0], tmp_path / "x.png", 0.05, 0.2).axes[0]
    assert [text.get_text() for text in axes.texts] == ["small\nn = 0", "medium\nn = 0", "large\nn = 1"]
    (mean,) = (row for row in axes.lines if row.get_color() == VERMILLION)
    assert mean.get_ydata() == pytest.approx([0.4, 0.4])
    assert mean.get_xdata()[1] > 100  # the image with polyp all over is inside


def test_thresholds_used_and_best_are_marked(tmp_path):
    thresholds, dice = [0.1, 0.3, 0.4, 0.6, 0.9], [0.5, 0.8, 0.6, 0.7, 0.8]
    figure = threshold_curve(thresholds, dice, 0.45, tmp_path / "x.png", images=1234)
    axes = figure.axes[0]
    assert axes.lines[0].get_color() == BLUE
    np.testing.assert_allclose(axes.lines[0].get_data(), (thresholds, dice))
    # A quarter of the way from 0.6 to 0.7; of the two with 0.8, 0.3 is nearer to a half than 0.9.
    assert line(axes, "used") == [pytest.approx([0.45, 0.625])]
    assert line(axes, "best") == [pytest.approx([0.3, 0.8])]
    assert legend(axes) == ["used 0.45: Dice 0.625", "best 0.3: Dice 0.800"]
    assert figure.get_suptitle() == "Dice by threshold, n = 1,234 images"


def test_reliability_leaves_empty_bins_out(tmp_path):
    figure = reliability_diagram(BINS, 0.0432, tmp_path / "x.png")
    upper, lower = figure.axes
    assert line(upper, "perfect") == [[0, 0], [1, 1]]
    assert line(upper, "measured") == [[0.1, 0.05], [0.6, 0.4], [0.9, 1.0]]
    assert legend(upper) == ["perfect", "measured, ECE 0.043"]
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in lower.patches]
    assert bars == [(0, 0.25, 2_000_000), (0.5, 0.25, 30_000), (0.75, 0.25, 400)]
    assert lower.get_yscale() == "log"
    # Powers of ten from 100 to 1,000,000, every second one.
    assert [text.get_text() for text in lower.get_yticklabels()] == ["100", "10 k", "1 M"]
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("predicted probability of polyp", "pixels")
    assert figure.get_suptitle() == "Calibration, n = 2.03 M pixels"


def test_losses_are_shown_beside_the_cards(tmp_path):
    figure = loss_curve([[1.0, 1.21], [2.0, 1.09], [2.5, 1.0]], tmp_path / "x.png")
    axes = figure.axes[0]
    assert line(axes, "this training") == [[1, 1.21], [2, 1.09], [2.5, 1.0]]
    assert line(axes, "origin's card") == [list(pair) for pair in CARD_LOSSES]
    assert CARD_LOSSES == ((1, 1.10), (10, 0.90), (20, 0.70), (30, 0.51), (40, 0.19), (50, 0.075))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "mean loss (BCE + Dice)")
    assert figure.get_suptitle() == "Training loss, n = 2.5 epochs"
    figure = loss_curve([[1.0, 0.9]], tmp_path / "x.png", loss="structure")
    assert [line.get_label() for line in figure.axes[0].lines] == ["this training"]
    assert figure.axes[0].get_ylabel() == "mean loss (weighted BCE + IoU)"


def test_an_example_is_image_ground_truth_probability_and_contours(tmp_path):
    figure = example_grid([case(title="best: 0.98"), case(title="worst: 0.01", colour=GREEN)], tmp_path / "x.png")
    assert texts(figure)[:7] == [
        "Image, ground truth and prediction, n = 2 images",
        "image",
        "ground truth",
        "prediction",
        "contours",
        "best: 0.98",
        "worst: 0.01",
    ]
    assert texts(figure)[7:] == ["0", "probability", "1", "prediction", "ground truth"]
    pixels = sheet(tmp_path / "x.png")
    cell_height = CELL_WIDTH * 36 // 48
    lefts = [MARGIN + column * (CELL_WIDTH + GAP) for column in range(4)]
    tops = [int(np.flatnonzero((pixels[:, lefts[0]] == colour).all(1))[0]) for colour in (RED, GREEN)]
    for top, colour in zip(tops, (RED, GREEN), strict=True):
        image, ground_truth, probability, contours = (
            pixels[top : top + cell_height, left : left + CELL_WIDTH] for left in lefts
        )
        assert (image == colour).all()
        quarter, three_quarters = (cell_height // 2, CELL_WIDTH // 4), (cell_height // 2, 3 * CELL_WIDTH // 4)
        assert tuple(ground_truth[quarter]) == WHITE
        assert tuple(ground_truth[three_quarters]) == BLACK
        # The ends of viridis.
        assert tuple(probability[quarter]) == (68, 1, 84)
        assert tuple(probability[three_quarters]) == (253, 231, 36)
        assert tuple(contours[quarter]) == colour
        tint = 0.65 * np.array(colour) + 0.35 * np.array(PREDICTION_COLOUR)
        np.testing.assert_allclose(contours[three_quarters], tint, atol=1)
        # Nothing is painted between the rows and beside the cells.
        assert (pixels[top + cell_height, : lefts[3]] == 255).all()
        assert (pixels[top : top + cell_height, lefts[1] - GAP : lefts[1]] == 255).all()


def test_thumbnails_have_one_height_and_keep_their_aspect(tmp_path):
    sizes = ((80, 50), (40, 50), (320, 200), (50, 100))
    colours = (RED, GREEN, (0, 0, 255), (255, 0, 255))
    cases = [case(size, colour) for size, colour in zip(sizes, colours, strict=True)]
    example_grid(cases, tmp_path / "x.png")
    column = sheet(tmp_path / "x.png")[:, MARGIN : MARGIN + CELL_WIDTH]
    for (width, height), colour in zip(sizes, colours, strict=True):
        rows, columns = np.nonzero((column == colour).all(axis=2))
        shown_height, shown_width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert shown_height == round(CELL_WIDTH / 1.6)
        assert shown_width == pytest.approx(shown_height * width / height, abs=1)
        assert (columns.min() + columns.max()) / 2 == pytest.approx((CELL_WIDTH - 1) / 2, abs=1)


@pytest.mark.parametrize("size", [(400, 20), (20, 400), (1, 1)])
def test_strips_and_single_pixels_fit_into_a_cell(tmp_path, size):
    example_grid([case(size)], tmp_path / "x.png")
    height, width, _ = sheet(tmp_path / "x.png").shape
    assert width == 2 * MARGIN + 4 * CELL_WIDTH + 3 * GAP
    assert height < 2 * CELL_WIDTH + 300


def test_pairs_stand_side_by_side(tmp_path):
    red, black = Image.new("RGB", (30, 30), RED), Image.new("L", (30, 30), 0)
    figure = pair_grid([("a\nb", red, black), ("word " * 12, black, red)], tmp_path / "x.png")
    assert texts(figure)[:2] == ["Near-duplicates, n = 2 pairs", "a\nb"]
    assert texts(figure)[2].replace("\n", " ") == ("word " * 12).strip()
    assert max(len(row) for row in texts(figure)[2].splitlines()) < 40
    pixels = sheet(tmp_path / "x.png")
    is_red, is_black = ((pixels == colour).all(axis=2).sum(axis=0) == CELL_WIDTH for colour in (RED, BLACK))
    # Square cells: red, black, black, red.
    (red_columns,), (black_columns,) = np.nonzero(is_red), np.nonzero(is_black)
    assert (len(red_columns), len(black_columns)) == (2 * CELL_WIDTH, 2 * CELL_WIDTH)
    assert red_columns[CELL_WIDTH - 1] < black_columns[0]
    assert black_columns[-1] < red_columns[CELL_WIDTH]


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
    column = (sheet(tmp_path / "x.png")[:, MARGIN] == RED).all(axis=1).astype(int)
    assert (np.diff(column) == 1).sum() == rows


@pytest.mark.parametrize("name", NAMES)
def test_files_are_pictures_with_nothing_but_pixels(name, drawings, tmp_path):
    figure = drawings[name](tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        picture.load()
        assert (picture.format, picture.mode, picture.info) == ("PNG", "RGB", {})
        assert len(picture.resize((100, 100)).getcolors(10_000)) > 20
        if name not in ("examples", "pairs"):
            assert picture.size == (750, 540)
    # Nothing is cut off at the edges.
    pixels = sheet(tmp_path / "x.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    assert isinstance(figure, Figure)


def test_files_repeat_byte_for_byte_also_in_threads(drawings, tmp_path):
    def draw(number: int) -> list[bytes]:
        paths = [tmp_path / f"{number}-{name}.png" for name in NAMES]
        for name, path in zip(NAMES, paths, strict=True):
            drawings[name](path)
        return [path.read_bytes() for path in paths]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(draw, range(2))
    assert first == second == draw(2)


def test_the_users_settings_of_matplotlib_do_not_matter(drawings, tmp_path):
    settings = {
        "axes.facecolor": "black",
        "axes.linewidth": 5,
        "figure.dpi": 30,
        "figure.facecolor": "black",
        "font.family": "monospace",
        "font.size": 30,
        "grid.linestyle": ":",
        "savefig.bbox": "tight",
        "text.color": "white",
        "xtick.color": "white",
    }
    for name in NAMES:
        drawings[name](tmp_path / "plain.png")
        with matplotlib.rc_context(settings):
            drawings[name](tmp_path / "set.png")
        assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "set.png").read_bytes(), name


def test_pyplot_is_not_used():
    code = "import sys, unet_kvasir_seg.reporting.figures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: dice_histogram([], path), r"dice has the shape \(0,\); expected \(N,\) with at least one value"),
        (lambda path: dice_histogram([0.5, np.nan], path), "dice holds nan at index 1; expected numbers from 0 to 1"),
        (lambda path: dice_histogram([0.5, 50], path), "dice holds 50 at index 1"),
        (lambda path: dice_by_size([0.5, 1], [0.5], path, 0.05, 0.2), "dice has 2 values and area_share 1"),
        (lambda path: dice_by_size([0.5], [0.0], path, 0.05, 0.2), "1 values of area_share are 0; leave out images"),
        (lambda path: threshold_curve([0.5], [0.5, 1], 0.5, path), "thresholds has 1 values and dice 2"),
        (lambda path: reliability_diagram(BINS[1:2], 0, path), "None of the 1 bins holds a pixel"),
        (lambda path: loss_curve([], path), "no training losses"),
        (lambda path: example_grid([], path), "no cases"),
        (lambda path: pair_grid([], path), "no pairs"),
        (
            lambda path: example_grid([(*case()[:3], np.zeros((3, 4), np.float32), case()[4])], path),
            r"best: 0.98: the probability map has the shape \(3, 4\) and its image, of 48x36 pixels, \(36, 48\)",
        ),
    ],
)
def test_what_bad_input_gets(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
