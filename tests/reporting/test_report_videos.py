"""What the report says of videos: time lines and tracks, and tables that are gone."""

import json
from pathlib import Path

import pytest
from example_reports import page_data, save_run, save_video
from unet_kvasir_seg.reporting.report_page import write_report
from unet_kvasir_seg.reporting.report_videos import NO_TRACKS, TIME_LINE_PARTS, time_line

TRACK = [1, 0.5, 1.5, 3, 12.5, 0.75, 0.875, 1, 10, 20, 30, 40]


def test_a_time_line_holds_the_highest_value_of_each_part():
    # A frame a second, for 1000 of them: two to each part.
    values = [0.0] * 1000
    values[0], values[501], values[999] = 0.25, 0.5, 0.75
    line = time_line(list(range(1000)), values)
    assert len(line) == TIME_LINE_PARTS == 500
    assert {index: value for index, value in enumerate(line) if value} == {0: 0.25, 250: 0.5, 499: 0.75}


@pytest.mark.parametrize(
    ("times", "values", "expected"),
    [
        ([], [], []),
        ([0], [0.5], [0.5]),
        # Four frames in 10.67 seconds: parts of 2.67, of which the first holds two frames and the third none.
        ([0, 2, 3, 8], [0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.3, 0.4]),
        ([0, 0, 0], [0.1, 0.3, 0.2], [0.3, 0.3, 0.3]),
    ],
)
def test_a_frame_stays_until_the_next(times, values, expected):
    assert time_line(times, values) == expected


def test_a_video_and_its_tracks(tmp_path: Path):
    """Presence by the calibration: sigmoid(2 logit(p) - 1) is sigmoid(-1) at 0.5, and at 0.75 sigmoid(2 ln 3 - 1)."""
    output = save_run(tmp_path / "out", presence_calibration=[2.0, -1.0])
    rows = [[0, 0.0, 0, 0, 0.5, ""], [1, 0.5, 1, 12.5, 0.75, 0.7], [2, 1.0, 0, 0, 0.5, ""]]
    save_video(output, 'a/"<clip>\n".mkv', rows, [TRACK])
    data = page_data(write_report(output))
    assert data["summary"] == "1 video with 1 alert."
    (video,) = data["videos"]
    assert video.pop("presences") == [pytest.approx(value, abs=1e-5) for value in (0.268941, 0.768037, 0.268941)]
    assert video == {
        "name": 'a/"<clip>\\n".mkv',
        "overlay": "videos/a/%22%3Cclip%3E%0A%22.mp4",
        "problems": [],
        "seconds": 1.5,
        "frames": 3,
        "areas": [0, 0.125, 0],
        "tracks": [
            {
                **{"number": 1, "alert": True, "first": 0.5, "last": 1.5, "best": 0.5, "frames": 3},
                **{"area": 0.125, "mean": 0.75, "highest": 0.875},
            }
        ],
    }


def test_videos_of_earlier_versions_and_damaged_tables(tmp_path: Path):
    output = save_run(tmp_path / "out")
    row = [0, 0.0, 1, 10, 0.5, 0.5]
    save_video(output, "a.mp4", [row], None)
    save_video(output, "b.mp4", [[0, "nan", 1, 10, 0.5, 0.5]], [TRACK])
    save_video(output, "c.mp4", [[0, 0.0, 1]], [TRACK])
    save_video(output, "d.mp4", [row], [TRACK]).with_suffix(".csv").unlink()
    save_video(output, "e.mp4", [row], []).unlink()  # the video itself
    other = save_video(output, "f.mp4", [row], []).with_suffix(".json")
    other.write_text('{"digest": "0", "problem": null}', encoding="utf-8")
    broken = save_video(output, "g.mp4", [row], []).with_suffix(".json")
    broken.write_text(json.dumps(json.loads(broken.read_text()) | {"problem": "it is cut off"}), encoding="utf-8")
    data = page_data(write_report(output))
    videos = {video["name"]: video for video in data["videos"]}
    assert videos.keys() == {"a.mp4", "b.mp4", "c.mp4", "d.mp4", "g.mp4"}
    assert data["summary"] == (  # tracks of a.mp4 are not known, and the record of f.mp4 is no longer one
        "5 videos with 3 alerts; the alerts of 1 are not known; 1 mask or video not shown: damaged, or from another "
        "program."
    )
    assert (videos["a.mp4"]["problems"], videos["a.mp4"]["tracks"]) == ([NO_TRACKS], None)
    for name in ("b.mp4", "c.mp4", "d.mp4"):
        (problem,) = videos[name]["problems"]
        assert problem.startswith("Its table of frames is gone or was changed")
        assert str(tmp_path) not in problem
        assert (videos[name]["frames"], len(videos[name]["tracks"])) == (0, 1)  # the record has the tracks
    assert videos["g.mp4"]["problems"] == ["it is cut off"]


@pytest.mark.parametrize(
    ("calibration", "seconds"),
    [([float("nan"), 0], 0.5), ([10**400, 0], 0.5), ("abc", 0.5), ([1], 0.5), (None, 1e308)],
)
def test_numbers_that_cannot_be_computed_with(tmp_path: Path, calibration, seconds):
    output = save_run(tmp_path / "out", presence_calibration=calibration)
    save_video(output, "a.mp4", [[0, 0.0, 1, 10, 0.5, 0.5], [1, seconds, 1, 10, 0.5, 0.5]], [])
    (video,) = page_data(write_report(output))["videos"]
    assert (len(video["problems"]), video["frames"], video["presences"]) == (1, 0, [])
