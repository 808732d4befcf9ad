"""The tables of a run, and the command that puts them into a document."""

import json
import os
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
    assert (
        "threshold 0.3863 (the best on validation), peak threshold 0.98765 (chosen on the validation split)." in lines
    )
    assert "Polyps found, and alarms on 500 windows without polyp of 58 frames of the test split:" in lines
    (said,) = (line for line in lines if line.startswith("Peak threshold 0.98765: the highest that keeps 97.3 %"))
    scored, chosen_on = lines[: lines.index(said)], lines[lines.index(said) :]
    for part, found, alarms in ((scored, "57 of 67", "23 of 500"), (chosen_on, "63 of 67", "29 of 500")):
        assert any(line.startswith("  polyps found: ") and found in line for line in part)
        assert any(line.startswith("  images without polyp that get an alarm") and alarms in line for line in part)
    auc = evaluated["evaluation"]["negatives"]["presence_auc"]["value"]
    assert any(line.startswith("  AUC of presence ") and f"{auc:.4f}" in line for line in lines)
    for name in ("peak", "operating_points", "negatives"):
        del evaluated["evaluation"][name]
    text = results_as_text(evaluated)
    assert "threshold 0.3863 (the best on validation).\n" in text
    assert "alarms" not in text


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
