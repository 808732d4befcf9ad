"""Scores of videos, on sequences worked out by hand."""

import csv

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.scoring.sequences import (
    SequenceScores,
    VideoFrame,
    score_sequence,
    summarise_sequences,
    write_sequences_csv,
)

EMPTY = np.zeros((20, 40), bool)
GREY = 100


def square(left: int, side: int = 8) -> np.ndarray:
    mask = EMPTY.copy()
    mask[6 : 6 + side, left : left + side] = True
    return mask


def frames(predicted: list[np.ndarray], truth: list[np.ndarray], greys=None, step: int = 1):
    """Frames of one grey level each, by default the same, numbered from 5 on."""
    images = [Image.new("RGB", (40, 20), (grey,) * 3) for grey in greys or [GREY] * len(predicted)]
    found = [VideoFrame.of(*each) for each in zip(images, predicted, truth, strict=True)]
    return [(5 + step * index, frame) for index, frame in enumerate(found)]


def scores(*args, rate: float = 10, **options):
    return score_sequence(frames(*args), rate=rate, **options)


def test_a_frame_keeps_its_masks_and_a_small_picture():
    rng = np.random.default_rng(0)
    predicted, truth = rng.random((2, 19, 33)) > 0.5
    frame = VideoFrame.of(Image.new("RGB", (33, 19), (90, 90, 90)), predicted, truth)
    assert np.array_equal(frame.predicted, predicted)
    assert np.array_equal(frame.ground_truth, truth)
    assert frame.small.shape == (48, 64)
    assert set(frame.small.ravel().tolist()) == {90}
    large = VideoFrame.of(Image.new("RGB", (1920, 1080)), *np.zeros((2, 1080, 1920), bool))
    assert sum(array.nbytes for array in (large.small, large.packed_prediction, large.packed_ground_truth)) < 6000


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4])
def test_a_polyp_is_alerted_half_a_second_after_it_is_first_marked(first):
    # 10 frames a second. The polyp is there from frame 2 on, and marked two frames later: alerted 0.5 s after that,
    # wherever the rounded times fall.
    truth = [EMPTY] * first + [square(4)] * 10
    predicted = [EMPTY] * (first + 2) + [square(4)] * 8
    found = scores(predicted, truth)
    assert found.seconds == pytest.approx((10 + first) / 10)
    assert (found.frames, found.polyps, found.alerts, found.false_alerts) == (10 + first, 1, 1, 0)
    assert found.delays == [pytest.approx(0.7)]
    assert found.flicker == pytest.approx(1 / (9 + first))  # of these pairs, the mask appears in one
    assert found.shows_polyp


def test_the_time_after_which_a_track_is_an_alert():
    masks = [square(4)] * 8
    assert scores(masks, masks, alert_seconds=0.7).delays == [pytest.approx(0.7)]
    assert scores(masks, masks, alert_seconds=0.8).alerts == 0
    assert scores(masks, masks, alert_seconds=0).delays == [0]


def test_an_alert_beside_the_polyp_is_false():
    found = scores([square(30)] * 8, [square(4)] * 8)
    assert (found.polyps, found.alerts, found.false_alerts, found.delays) == (1, 1, 1, [])


def test_regions_whose_boxes_overlap_need_not_overlap():
    # Two L-shaped polyps whose boxes overlap; the region lies on one of them alone.
    first, second = EMPTY.copy(), EMPTY.copy()
    first[2:16, 2:4] = first[14:16, 2:20] = True
    second[2:4, 14:38] = second[2:16, 36:38] = True
    region = first.copy()
    region[2:16, 2:4] = False
    assert not (region & second).any()
    found = scores([region] * 8, [first | second] * 8)
    assert (found.polyps, len(found.delays), found.false_alerts) == (2, 1, 0)


def test_what_is_marked_shortly_is_no_alert():
    predicted = [square(4)] * 5 + [EMPTY] * 15 + [square(30)] * 5  # 0.4 seconds each
    found = scores(predicted, [EMPTY] * 25)
    assert (found.polyps, found.alerts, found.shows_polyp) == (0, 0, False)


def test_a_few_pixels_are_no_polyp_but_no_false_alert_either():
    speck = square(4, side=4)  # 16 pixels
    found = scores([speck] * 8, [speck] * 8)
    assert (found.polyps, found.alerts, found.false_alerts, found.shows_polyp) == (0, 1, 0, True)


def test_flicker_is_of_frames_that_move_little():
    masks = [square(4), square(4, side=4), EMPTY, EMPTY]
    found = scores(masks, [EMPTY] * 4, [0, 5, 205, 205])
    # 48 of 64 pixels change; the second pair moves; nothing is marked in the third.
    assert found.flicker == pytest.approx((48 / 64 + 0) / 2)
    assert score_sequence([]).flicker is None
    assert score_sequence([]).seconds == 0


def test_frames_that_are_not_annotated_leave_pairs_out_and_count_as_time():
    masks = [square(4)] * 4
    found = score_sequence(frames(masks, masks, step=3), rate=10)
    assert found.flicker is None
    assert found.seconds == pytest.approx(3 * 0.3 + 0.1)
    assert found.delays == [pytest.approx(0.6)]


def test_a_gap_that_no_track_bridges_is_no_time():
    masks = [square(4)] * 4
    found = score_sequence(frames(masks, masks, step=11), rate=10)
    assert (found.polyps, found.alerts) == (4, 0)
    assert found.seconds == pytest.approx(4 * 0.1)


def test_a_single_frame():
    found = scores([square(4)], [square(4)], rate=25)
    assert (found.frames, found.seconds, found.polyps, found.alerts) == (1, 0.04, 1, 0)
    assert found.flicker is None


def test_summary():
    with_polyps = scores([square(4)] * 10 + [EMPTY] * 10, [square(4)] * 10 + [square(30)] * 10)
    without = scores([square(4)] * 30, [EMPTY] * 30)
    summary = summarise_sequences([with_polyps, without], resamples=200)
    counts = ("without_polyp", "polyps", "alerted", "alerts", "false_alerts")
    assert [summary[name] for name in counts] == [1, 2, 1, 2, 1]
    values = {name: summary[name]["value"] for name in summary.keys() - counts}
    assert values == {
        "polyps_alerted": 0.5,
        "median_delay_seconds": pytest.approx(0.5),
        "alerts_per_minute_without_polyp": pytest.approx(60 / 3),
        "false_alerts_per_minute": pytest.approx(60 / 5),
        "flicker": pytest.approx((1 / 19 + 0) / 2),
    }
    # A resample has the first twice, each once, or the second twice: of 120 and 0 seconds' polyps there is one share.
    assert summary["polyps_alerted"]["ci95"] == [0.5, 0.5]
    assert summary["false_alerts_per_minute"]["ci95"] == [0, pytest.approx(20)]


def test_the_interval_of_the_delay_resamples_videos():
    def video(*delays: float) -> SequenceScores:
        return SequenceScores(8, 0.8, 3, delays, len(delays), 0, None, True)

    summary = summarise_sequences([video(1, 1, 1), video(3)], resamples=500)["median_delay_seconds"]
    assert summary == {"value": 1, "ci95": [1, 3]}  # of the second video twice, the median is 3
    assert summarise_sequences([video()], resamples=5)["median_delay_seconds"] is None


def test_where_there_is_nothing_to_count():
    empty = scores([EMPTY], [EMPTY])
    summary = summarise_sequences([empty], resamples=10)
    assert summary["polyps_alerted"] is summary["median_delay_seconds"] is summary["flicker"] is None
    assert summary["alerts_per_minute_without_polyp"] == {"value": 0, "ci95": [0, 0]}


def test_the_table(tmp_path):
    found = scores([square(4)] * 8, [square(4)] * 8)
    write_sequences_csv({"=case, 1": found, "empty": scores([EMPTY], [EMPTY])}, tmp_path / "sequences.csv")
    with open(tmp_path / "sequences.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        **{"sequence": "./=case, 1", "frames": "8", "seconds": "0.800000", "polyps": "1", "polyps_alerted": "1"},
        **{"first_delay_seconds": "0.500000", "alerts": "1", "false_alerts": "0", "flicker": "0.000000"},
    }
    assert (second["first_delay_seconds"], second["flicker"]) == ("", "")
