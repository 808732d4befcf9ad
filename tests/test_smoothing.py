"""The benchmark of smoothing over time: its scores by hand, its table in a document, and bad input."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import save_tiny_model
from unet_kvasir_seg.data.clips import generate_clips
from unet_kvasir_seg.inference.prediction import Prediction

pytest.importorskip("av", reason='the benchmark needs pip install -e ".[video]"')

from unet_kvasir_seg.benchmarks import smoothing
from unet_kvasir_seg.benchmarks.smoothing import (
    MARKERS,
    SMOOTHINGS,
    SmoothedClip,
    row,
    score_clip,
    score_masks,
    smooth,
)
from unet_kvasir_seg.scoring.sequences import SequenceScores

SIZE = (48, 64)


class GroundTruth:
    """A predictor that knows the masks of a clip: 0.9 where there is polyp, 0.2 elsewhere."""

    def __init__(self, clip):
        self.known = {frame.image.tobytes(): frame.labels > 0 for frame in clip.frames()}

    def batch(self, images):
        maps = [np.where(self.known[image.tobytes()], 0.9, 0.2).astype(np.float32) for image in images]
        return [Prediction(probability, probability, 0.5) for probability in maps]


def test_maps_are_smoothed_as_those_of_a_video_are():
    (clip,) = generate_clips(1, num_frames=3, size=SIZE)
    maps = [np.full(SIZE, value, np.float32) for value in (0.8, 0.4, 0.0)]
    predictions = [Prediction(probability, probability, 0.5) for probability in maps]
    found = [one.probability[0, 0] for one in smooth(list(clip.frames()), predictions, 0.75)]
    assert found == pytest.approx([0.8, 0.75 * 0.8 + 0.25 * 0.4, 0.75 * 0.7])


def test_scores_of_known_masks():
    (clip,) = generate_clips(1, num_frames=40, size=SIZE, polyps=1, seed=2)
    frames = list(clip.frames())
    shown = [frame.labels > 0 for frame in frames]
    right = score_masks(clip, frames, shown)
    assert (right.dice, right.video.false_alerts) == (1, 0)
    nothing = score_masks(clip, frames, [np.zeros(SIZE, bool)] * 40)
    assert (nothing.dice, nothing.video.alerts, nothing.video.flicker) == (0, 0, 0)
    (without,) = generate_clips(1, num_frames=4, size=SIZE, polyps=0)
    assert score_masks(without, list(without.frames()), [np.ones(SIZE, bool)] * 4).dice is None


def test_a_clip_is_scored_with_each_peak_at_each_smoothing():
    (clip,) = generate_clips(1, num_frames=100, size=SIZE, polyps=1, seed=2)
    found = score_clip(clip, GroundTruth(clip), peaks=[0.95, None], batch_size=8)
    assert found.keys() == {(peak, smoothing) for peak in (0.95, None) for smoothing in SMOOTHINGS}
    assert found[None, 0.0].dice == 1
    assert found[0.95, 0.0].dice == 0  # no probability reaches the peak
    assert 0 < found[None, 0.9].dice < found[None, 0.3].dice <= 1  # the mask lags behind the camera


def test_a_row_of_the_table():
    video = SequenceScores(100, 4.0, 2, [0.5, 0.7], 3, 1, 0.25, shows_polyp=True)
    without = replace(video, polyps=0, delays=[], alerts=2, false_alerts=2, flicker=0.05, shows_polyp=False)
    clips = [SmoothedClip(video, 0.8), SmoothedClip(without, None)]
    values = [cell.split(" [")[0] for cell in row(0.992322, 0.3, clips)]
    assert values == ["0.992", "0.3", "0.150", "0.800", "1.000", "0.600", "22.500", "30.000"]
    assert row(None, 0.0, clips)[:2] == ["none", "0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clips", "1"], "--clips 1 is too few"),
        (["--batch_size", "0"], "--batch_size 0 is too few"),
        (["--model", "no/where/at/all"], "no/where/at/all"),
    ],
)
def test_bad_input_is_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        smoothing.main(flags)
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("smoothing.py: error: ")
    assert message in error


def test_a_document_without_a_place_for_the_table_is_named_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(smoothing, "measure", lambda arguments: pytest.fail("measured"))
    (tmp_path / "notes.md").write_text("no markers\n")
    for name, message in (("notes.md", f"must have the line {MARKERS[0]} once"), ("absent.md", "cannot be read")):
        with pytest.raises(SystemExit) as ended:
            smoothing.main(["--document", str(tmp_path / name)])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_puts_its_table_into_a_document(tmp_path, capsys):
    save_tiny_model(tmp_path / "model", seed=0)
    document = tmp_path / "table.md"
    document.write_text(f"before\n{MARKERS[0]}\n{MARKERS[1]}\nafter\n")
    smoothing.main(["--clips", "2", "--model", str(tmp_path / "model"), "--document", str(document)])
    text = document.read_text()
    assert len(re.findall(r"^\| none \| 0(\.\d)? \|", text, flags=re.MULTILINE)) == len(SMOOTHINGS)
    assert capsys.readouterr().out.strip() in text
    assert text.startswith("before")
