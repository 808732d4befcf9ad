"""The tables of a run, and the command that puts them into a document."""

import json
import os
import re
import stat

import pytest
from example_results import cells, evaluated_results, trained_results
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.reporting.tables import (
    RESULTS_MARKERS,
    main,
    results_as_text,
    results_tables,
    update_document,
)

BEGIN, END = RESULTS_MARKERS


@pytest.fixture
def results() -> dict:
    """Results of a training."""
    return trained_results()


@pytest.fixture
def evaluated() -> dict:
    """Results of the training and of an evaluation on another data set."""
    return evaluated_results()


@pytest.fixture
def readme(tmp_path):
    """A README with the markers, umlauts and Windows lines, which must stay."""
    file = tmp_path / "README.md"
    file.write_bytes(f"# Größe\r\n\r\n{BEGIN}\nold\n{END}\r\n\r\nEnde".encode())
    file.chmod(0o640)
    return file


def test_the_table_of_a_document_is_made_by_a_command(evaluated, readme, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(evaluated))
    for _ in range(2):  # a second time changes nothing
        main([str(tmp_path / "results.json"), str(readme)])
        text = readme.read_bytes().decode()
        assert text == f"# Größe\r\n\r\n{BEGIN}\n\n{results_tables(evaluated, compact=True)}\n\n{END}\r\n\r\nEnde"
    assert sorted(os.listdir(tmp_path)) == ["README.md", "results.json"]
    assert stat.S_IMODE(readme.stat().st_mode) == 0o640
    assert "README.md" in capsys.readouterr().out


def test_the_table_of_a_document_is_short_and_names_model_data_and_sizes(evaluated):
    text = results_tables(evaluated, compact=True)
    assert len(text.splitlines()) <= 45
    assert text.startswith(
        "`unet-x` on 61 images of the test split of other/frames, 384x288 pixels; threshold 0.386275"
    )
    assert cells(text, "score") == ["original size 384x288", "input size 256x192"]
    dice = evaluated["metrics"]["dice_per_image_native"]
    assert cells(text, "Dice, mean per image")[0].startswith(f"{dice['value']:.3f} [")
    assert cells(text, "small: polyp on under 4 % of the image")[0] == "21"
    assert cells(text, "images without polyp that get an alarm")[1].startswith("23 of 500: ")
    assert cells(text, "area under the ROC curve of presence")
    assert "#" not in text


def test_the_terminal_says_what_a_chosen_peak_costs_and_spares(evaluated):
    lines = results_as_text(evaluated).splitlines()
    assert lines[0] == "unet-x on 61 images of the test split of other/frames, 384x288 pixels"
    assert lines[1:3] == [
        "threshold 0.386275 (tuned on the validation split)",
        "peak threshold 0.98765 (chosen on the validation split). In brackets: 95 % bootstrap intervals.",
    ]
    assert "Polyps found, and alarms on 500 windows without polyp of 58 frames of the test split:" in lines
    (said,) = (line for line in lines if line.startswith("Peak threshold 0.98765: the highest that keeps 97.3 %"))
    scored, chosen_on = lines[: lines.index(said)], lines[lines.index(said) :]
    for part, found, alarms in ((scored, "57 of 67", "23 of 500"), (chosen_on, "63 of 67", "29 of 500")):
        assert any(line.startswith("  polyps found: ") and found in line for line in part)
        assert any(line.startswith("  images without polyp that get an alarm") and alarms in line for line in part)
    auc = evaluated["evaluation"]["negatives"]["presence_auc"]["value"]
    assert any(line.startswith("  area under the ROC curve of presence ") and f"{auc:.3f} [" in line for line in lines)
    for name in ("peak", "operating_points", "negatives"):
        del evaluated["evaluation"][name]
    text = results_as_text(evaluated)
    assert "threshold 0.386275 (tuned on the validation split). In brackets: 95 % bootstrap intervals.\n" in text
    assert "alarms" not in text


def test_the_terminal_has_the_names_and_numbers_of_the_card(evaluated):
    text = results_as_text(evaluated)
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    metrics = evaluated["metrics"]
    for name, key in (
        ("Dice, mean per image", "dice_per_image"),
        ("HD95 in pixels (lower is better)", "hd95"),
        ("calibration error (lower is better)", "ece"),
        ("mean absolute error (lower is better)", "mae"),
    ):
        digits = {"hd95": 1, "ece": 4, "mae": 4}.get(key, 3)
        value = metrics[f"{key}_native"]["value"]
        (row, *_) = (row for row in rows if row[0] == name)
        assert row[1].startswith(f"{value:.{digits}f} ["), name
    assert ["score", "original size 384x288", "input size 256x192"] in rows
    (small,) = (row for row in rows if row[0] == "small: polyp on under 4 % of the image")
    assert small[1] == "21"
    assert len(small) == 5
    assert any(row[:2] == ["polyps found", "48 of 69"] for row in rows)
    assert any(row[:2] == ["images without polyp that get a false alarm", "5 of 7"] for row in rows)
    assert "2 pairs of near-duplicates with other splits:" in text
    assert not re.search(r"_native|_network|\bece\b|\bmae\b", text)
    evaluated["evaluation"]["audit"] |= {"pairs": [], "left_out": 0, "metrics": {}}
    assert "No scored image has a near-duplicate in another split." in results_as_text(evaluated)


def test_a_comparison_shows_both_scores(evaluated):
    other = {"value": 0.123, "ci95": [0.111, 0.222]}
    evaluated["evaluation"]["comparison"]["scores"] = {"dice_per_image_native": other}
    ours = evaluated["metrics"]["dice_per_image_native"]
    first = [f"{ours['value']:.3f} [{ours['ci95'][0]:.3f}, {ours['ci95'][1]:.3f}]", "0.123 [0.111, 0.222]"]
    expected = ["Dice, mean per image", *first, "+0.046 [-0.012, +0.099]", "0.032", "61"]
    assert "Compared with their-net:" in results_as_text(evaluated)
    assert expected in [re.split(r" {2,}", line.strip()) for line in results_as_text(evaluated).splitlines()]
    rows = results_tables(evaluated).splitlines()
    assert f"| {' | '.join(expected)} |" in rows
    del evaluated["evaluation"]["comparison"]["scores"]  # as of earlier versions
    expected[2] = "-"
    assert f"| {' | '.join(expected)} |" in results_tables(evaluated).splitlines()


def test_what_was_resampled_is_said(evaluated):
    evaluated["data"]["groups"] = {"test": 12}
    assert "In brackets: 95 % bootstrap intervals over 12 groups of images.\n" in results_as_text(evaluated)
    evaluated["data"]["groups"] = {"test": 1}
    assert "intervals over a single group of images, so that they have no width.\n" in results_tables(evaluated)
    evaluated["data"]["groups"] = None
    assert "In brackets: 95 % bootstrap intervals.\n" in results_as_text(evaluated)


def test_the_terminal_says_what_videos_get(evaluated):
    lines = results_as_text(evaluated).splitlines()
    said = "2 videos, 4.07 s at 29.97 frames per second, 1 of them without polyp; a region that is followed for 0.75 s"
    start = lines.index(f"{said} is an alert:")
    alerts = evaluated["evaluation"]["videos"]["alerts_per_minute_without_polyp"]["value"]
    (line,) = (line for line in lines[start:] if line.startswith("  alerts per minute of videos without polyp"))
    assert f" {alerts:.3f} [" in line
    assert line.endswith("(13)")
    del evaluated["evaluation"]["videos"]
    assert "videos" not in results_as_text(evaluated)


def test_the_time_of_long_videos_is_written_out(evaluated):
    evaluated["evaluation"]["videos"]["sequences"][0]["seconds"] = 12345.0
    assert "2 videos, 12,347 s at" in results_as_text(evaluated)
    del evaluated["evaluation"]["videos"]["sequences"][1:]
    assert "1 video, 12,345 s at" in results_as_text(evaluated)


def test_text_without_markers_is_left_alone(readme):
    for text in (
        "no markers",
        BEGIN,
        END,
        f"{END}\n{BEGIN}",
        f"{BEGIN}\n{END}\n{BEGIN}\n{END}",
        f"{BEGIN}{BEGIN}{END}",
    ):
        readme.write_text(text)
        with pytest.raises(UserError, match="must have the line <!-- results: begin --> once"):
            update_document(readme, "table")
        assert readme.read_text() == text


@pytest.mark.parametrize(
    ("results_file", "readme_file", "message"),
    [
        ("absent.json", "README.md", "absent.json cannot be read"),
        ("results.json", "absent.md", "absent.md cannot be read or written"),
        ("other.json", "README.md", "schema version 99"),
        ("invalid.json", "README.md", "invalid: frame 17."),
    ],
)
def test_mistakes_end_with_one_line_of_the_tables_command(
    results, readme, tmp_path, capsys, results_file, readme_file, message
):
    for name, change in {
        "results.json": {},
        "other.json": {"schema_version": 99},
        "invalid.json": {"invalid": "frame 17."},
    }.items():
        (tmp_path / name).write_text(json.dumps(results | change))
    before = readme.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / results_file), str(tmp_path / readme_file)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert readme.read_bytes() == before


def test_the_help_names_the_markers(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert BEGIN in capsys.readouterr().out
