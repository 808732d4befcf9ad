"""Which video each frame is of: by names and by columns; and what cannot be."""

import io
import logging

import datasets
import pytest
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.scoring.sequence_frames import check_sequences, sequences_by_column, sequences_by_name

PATTERN = r"(?P<sequence>.+)_(?P<frame>\d+)"


def encoded(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def named(*names: str | None, in_files: bool = False) -> datasets.Dataset:
    """Rows with images of these names; in files, the names are their paths."""
    cells = [{"bytes": None if in_files else b"x", "path": name} for name in names]
    return datasets.Dataset.from_dict({"image": cells}, datasets.Features({"image": datasets.Image(decode=False)}))


def columns(sequence: list, frame: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"sequence": sequence, "frame": frame})


def test_frames_are_grouped_and_put_in_order_by_their_numbers():
    found = sequences_by_name(named("b_12.png", "a_1_010.jpg", "a_1_9.jpg"), PATTERN, "x")
    assert found == {"a_1": [(9, 2), (10, 1)], "b": [(12, 0)]}


def test_names_are_paths_below_the_data_set(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    pattern = r"^(?P<sequence>[^/]+)/image(?P<frame>\d+)$"
    for folder in ("real", "link", "./link", str(tmp_path / "link")):
        for path in (f"{folder}/case1/image7.JPG", str(tmp_path / "real/case1/image7.png")):
            found = sequences_by_name(named(path, in_files=True), pattern, folder)
            assert found == {"case1": [(7, 0)]}, (folder, path)
    archived = named(f"zip://case1/image7.png::{tmp_path}/train.zip", in_files=True)
    assert sequences_by_name(archived, pattern, "real") == {"case1": [(7, 0)]}
    downloaded = named(f"{tmp_path}/hub/snapshots/{'0a' * 20}/case1/image7.png", in_files=True)
    assert sequences_by_name(downloaded, pattern, "me/polyps") == {"case1": [(7, 0)]}
    assert sequences_by_name(named("case1/image7"), pattern, "real") == {"case1": [(7, 0)]}


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        (["a_1", "b"], PATTERN, "does not fit 1 of 2 images: b."),
        (["a_1", "a_2", "a_01"], PATTERN, "1 frame numbers occur several times in a sequence: frame 1 of a."),
        (["_1"], r"(?P<sequence>.*)_(?P<frame>\d+)", "finds no sequence in _1."),
        (["a_x"], r"(?P<sequence>.+)_(?P<frame>.)", "The frame number of a_x is 'x': expected a whole number"),
        (["a_1"], r"(?P<sequence>.+)_(?P<frame>\d+)?x?$", None),
        (["a_"], r"(?P<sequence>.+)_(?P<frame>\d+)?", "The frame number of a_ is None"),
        (["a_1"], "(", "is no regular expression"),
        (["a_1"], r"(?P<sequence>.+)", "has no group frame: expected both"),
        (["a_1", None], PATTERN, "have no names"),
    ],
)
def test_names_that_cannot_be_read(names, pattern, message):
    if message is None:
        assert sequences_by_name(named(*names), pattern, "x") == {"a": [(1, 0)]}
        return
    with pytest.raises(UserError, match=message.replace(".", r"\.")) as error:
        sequences_by_name(named(*names), pattern, "x")
    assert "\n" not in str(error.value)


def test_columns_of_several_types():
    assert sequences_by_column(columns(["b", "a", "a"], [3, 9, 1])) == {"a": [(1, 2), (9, 1)], "b": [(3, 0)]}
    assert sequences_by_column(columns([7, 7], [2.0, 1.0])) == {"7": [(1, 1), (2, 0)]}
    assert sequences_by_column(columns([7, 7], ["02", "1"])) == {"7": [(1, 1), (2, 0)]}
    # Numbers of frames before an event, and numbers that passed through a table of floats.
    assert sequences_by_column(columns(["a"] * 3, ["3.0", "-5", "+1"])) == {"a": [(-5, 1), (1, 2), (3, 0)]}


@pytest.mark.parametrize(
    ("sequence", "frame", "message"),
    [
        (["a", None], [1, 2], "empty in row 1"),
        (["a", ""], [1, 2], "empty in row 1"),
        (["a", " "], [1, 2], "empty in row 1"),
        ([1.0, float("nan")], [1, 2], "empty in row 1"),
        ([["a"], ["b"]], [1, 2], "neither text nor numbers in row 0, row 1: name a column that does"),
        (["a", "a"], ["1.5", "2"], r"The frame number of row 0 is '1\.5'"),
        (["a", "a"], [float("nan"), 2.0], "The frame number of row 0 is nan"),
        (["a", "a"], ["x" * 9000, "2"], r"The frame number of row 0 is 'x{12}\.\.\.x{13}': expected"),
        (["a", "a"], [1, None], "The frame number of row 1 is None"),
        (["a", "a"], [1.5, 2.0], "The frame number of row 0 is 1.5"),
        (["a", "a"], ["1", "x\n"], r"The frame number of row 1 is 'x\\n'"),
        (["a", "a"], [True, False], "The frame number of row 0 is True"),
        (["a", "a"], [1e300, 1.0], r"The frame number of row 0 is 1e\+300"),
        (["a", "a"], ["1", "1000000000001"], "whole number of at most 1,000,000,000,000"),
        (["a", "b", "a"], [4, 4, 4], "frame 4 of a"),
    ],
)
def test_cells_that_cannot_be_read(sequence, frame, message):
    with pytest.raises(UserError, match=message):
        sequences_by_column(columns(sequence, frame))


def sized(*sizes: tuple[int, int]) -> datasets.Dataset:
    cells = [{"bytes": encoded(size), "path": None} for size in sizes]
    return datasets.Dataset.from_dict({"image": cells}, datasets.Features({"image": datasets.Image(decode=False)}))


def test_several_videos_of_one_name_are_refused():
    rows = sized((40, 20), (40, 20), (20, 40))
    check_sequences({"a": [(0, 0), (30, 1)], "b": [(0, 2)]}, rows, rate=100, alert_seconds=0.1)
    with pytest.raises(UserError, match=r"sequence a differ in size: 40x20 \(frame 0\), 20x40 \(frame 30\)"):
        check_sequences({"a": [(0, 0), (30, 2)], "b": [(0, 1)]}, rows, rate=100, alert_seconds=0.1)


def test_videos_too_short_for_an_alert(caplog):
    rows = sized(*[(40, 20)] * 4)
    videos = {"long": [(0, 0), (5, 1)], "gap": [(0, 2), (11, 3)]}  # 0.5 s, and a gap of 1.1
    with caplog.at_level(logging.WARNING):
        check_sequences(videos, rows, rate=10, alert_seconds=0.5)
    assert "1 of 2 sequences last less than 0.5 s" in caplog.text
    assert "gap" in caplog.text
    with pytest.raises(UserError, match=r"longest is long, 0\.5 s of 2 frames at 10 frames per second"):
        check_sequences(videos, rows, rate=10, alert_seconds=0.6)
    caplog.clear()
    check_sequences(videos, rows, rate=12, alert_seconds=0.0)
    assert caplog.text == ""
