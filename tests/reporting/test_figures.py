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
from unet_kvasir_seg.reporting.figures import (
    CARD_LOSSES,
    dice_by_size,
    dice_histogram,
    loss_curve,
    reliability_diagram,
    robustness_curves,
    threshold_curve,
)
from unet_kvasir_seg.reporting.grids import example_grid, pair_grid
from unet_kvasir_seg.reporting.style import BLUE, VERMILLION

DICE = [0.0, 0.52, 0.54, 0.9, 1.0]  # mean 0.592, median 0.54
SHARES = [0.01, 0.04, 0.05, 0.2, 0.5]  # two small, one medium, two large
BINS = [
    {"low": 0.0, "high": 0.25, "pixels": 2_000_000, "mean_probability": 0.1, "polyp_share": 0.05},
    {"low": 0.25, "high": 0.5, "pixels": 0, "mean_probability": None, "polyp_share": None},
    {"low": 0.5, "high": 0.75, "pixels": 30_000, "mean_probability": 0.6, "polyp_share": 0.4},
    {"low": 0.75, "high": 1.0, "pixels": 400, "mean_probability": 0.9, "polyp_share": 1.0},
]


def line(axes: Axes, label: str) -> list[list[float]]:
    """The points of the line whose label begins so."""
    (found,) = (line for line in axes.lines if str(line.get_label()).startswith(label))
    return np.column_stack(found.get_data()).tolist()


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def sheet(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def robustness(alarms: bool) -> dict:
    """Scores under two changes; the Dice of the second falls from 0.75 by 0.125 a strength."""

    def scores(dice: float) -> dict:
        share = {"value": 0.25, "ci95": [0.125, 0.375]} if alarms else None
        return {"dice_per_image_native": {"value": dice, "ci95": [dice - 0.1, dice + 0.1]}, "alarm_share": share}

    changes = [
        {"name": name, "strengths": [scores(0.75 - step * place) for place in range(1, 6)]}
        for name, step in (("noise", 0.0625), ("JPEG", 0.125))
    ]
    return {"plain": scores(0.75), "changes": changes}


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
        "validations": lambda path: loss_curve([[1, 1.2], [2, 1.1]], path, validation=[[1, 1.3, 0.2]]),
        "robustness": lambda path: robustness_curves(robustness(alarms=True), path, 3),
        "examples": lambda path: example_grid(cases, path),
        "pairs": lambda path: pair_grid([("pair", frames[0][0], frames[1][0])] * 2, path),
    }


NAMES = ("histogram", "sizes", "thresholds", "reliability", "losses", "examples", "pairs", "robustness")


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


def test_validations_are_shown_below_the_losses(tmp_path):
    validation = [[1.0, 1.5, 0.25], [2.0, 1.25, 0.5], [3.0, 1.375, 0.375]]
    losses = [[1.0, 1.2], [2.0, 1.1], [3.0, 1.0]]
    figure = loss_curve(losses, tmp_path / "x.png", validation=validation)
    upper, lower = figure.axes
    assert line(upper, "this training") == losses
    assert line(upper, "its validation") == [[1, 1.5], [2, 1.25], [3, 1.375]]
    assert lower.lines[0].get_xydata().tolist() == [[1, 0.25], [2, 0.5], [3, 0.375]]
    assert line(lower, "best: 0.500 after 2 epochs") == [[2, 0.5]]
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("epoch", "validation Dice")
    assert figure.get_suptitle() == "Loss and validation Dice, n = 3 epochs"


def test_each_change_has_a_chart_from_no_change_on(tmp_path):
    figure = robustness_curves(robustness(alarms=True), tmp_path / "x.png", 3)
    noise, jpeg = figure.axes
    assert [axes.get_title(loc="left") for axes in (noise, jpeg)] == ["noise", "JPEG"]
    assert line(jpeg, "mean Dice") == [[place, 0.75 - 0.125 * place] for place in range(6)]
    assert line(noise, "alarms") == [[place, 0.25] for place in range(6)]
    without = robustness_curves(robustness(alarms=False), tmp_path / "x.png", 3)
    assert [len(axes.lines) for axes in without.axes] == [1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_files_are_pictures_with_nothing_but_pixels(name, drawings, tmp_path):
    figure = drawings[name](tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        picture.load()
        assert (picture.format, picture.mode, picture.info) == ("PNG", "RGB", {})
        assert len(picture.resize((100, 100)).getcolors(10_000)) > 20
        if name not in ("examples", "pairs", "robustness"):
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
    imports = "import sys; from unet_kvasir_seg.reporting import figures, grids"
    code = f"{imports}; assert 'matplotlib.pyplot' not in sys.modules"
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
    ],
)
def test_bad_input_is_refused(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
