"""Scores of videos, on sequences worked out by hand."""

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.scoring.sequences import (
    ScoredFrame,
    check_numbers,
    parse_names,
    score_sequence,
    small_frame,
    summarise,
)

EMPTY = np.zeros((20, 40), bool)
STILL = np.zeros((48, 64), np.float32)


def square(left: int, side: int = 8) -> np.ndarray:
    mask = EMPTY.copy()
    mask[6 : 6 + side, left : left + side] = True
    return mask


def frames(predicted: list[np.ndarray], truth: list[np.ndarray], small=None) -> list[ScoredFrame]:
    pictures = small or [STILL] * len(predicted)
    return [
        ScoredFrame(number, *each) for number, each in enumerate(zip(pictures, predicted, truth, strict=True), start=5)
    ]


def test_a_polyp_is_alerted_half_a_second_after_it_is_first_marked():
    # 10 frames a second. The polyp is there from frame 2 on, and marked from frame 4 on: seen for 0.5 s in frame 9.
    truth = [EMPTY] * 2 + [square(4)] * 10
    predicted = [EMPTY] * 4 + [square(4)] * 8
    scores = score_sequence(frames(predicted, truth), rate=10)
    assert scores.seconds == pytest.approx(1.2)
    assert (scores.polyps, scores.alerts, scores.false_alerts) == (1, 1, 0)
    assert scores.delays == [pytest.approx(0.7)]
    assert scores.flicker == pytest.approx(1 / 11)  # of 11 pairs, the mask appears in one


def test_an_alert_beside_the_polyp_is_false():
    scores = score_sequence(frames([square(30)] * 8, [square(4)] * 8), rate=10)
    assert (scores.polyps, scores.alerts, scores.false_alerts, scores.delays) == (1, 1, 1, [])


def test_what_is_marked_shortly_is_no_alert():
    predicted = [square(4)] * 5 + [EMPTY] * 15 + [square(30)] * 5  # 0.4 seconds each
    scores = score_sequence(frames(predicted, [EMPTY] * 25), rate=10)
    assert (scores.polyps, scores.alerts) == (0, 0)


def test_flicker_is_of_frames_that_move_little():
    masks = [square(4), square(4, side=4), EMPTY, EMPTY]
    moved = [STILL, STILL, STILL + 200, STILL + 200]
    scores = score_sequence(frames(masks, [EMPTY] * 4, moved))
    # 48 of 64 pixels change; the second pair moves; nothing is marked in the third.
    assert scores.flicker == pytest.approx((48 / 64 + 0) / 2)
    assert score_sequence([]).flicker is None


def test_pairs_with_a_frame_between_them_do_not_count_for_flicker():
    first, second = frames([square(4), EMPTY], [EMPTY] * 2)
    later = ScoredFrame(second.number + 1, second.small, second.predicted, second.ground_truth)
    assert score_sequence([first, second]).flicker == 1
    assert score_sequence([first, later]).flicker is None


def test_small_frames_are_grey():
    assert small_frame(Image.new("RGB", (384, 288), (10, 10, 10))).tolist() == np.full((48, 64), 10.0).tolist()


def test_summary():
    with_polyps = score_sequence(
        frames([square(4)] * 10 + [EMPTY] * 10, [square(4)] * 10 + [square(30)] * 10), rate=10
    )
    without = score_sequence(frames([square(4)] * 30, [EMPTY] * 30), rate=10)
    summary = summarise([with_polyps, without])
    assert (summary["sequences"], summary["sequences_without_polyp"]) == (2, 1)
    assert (summary["polyps"], summary["polyps_alerted"]) == (2, 0.5)
    assert summary["median_delay_seconds"] == pytest.approx(0.5)
    assert summary["alerts_per_minute_without_polyp"] == pytest.approx(60 / 3)
    assert summary["false_alerts_per_minute"] == pytest.approx(60 / 5)
    assert summary["flicker"] == pytest.approx((1 / 19 + 0) / 2)
    assert set(summarise([]).values()) == {0, None}


def test_names():
    pattern = r"(?P<sequence>.+)_(?P<frame>\d+)"
    assert parse_names(["a_1_007.jpg", "b_12.png"], pattern) == [("a_1", 7), ("b", 12)]
    for names, given, message in (
        (["a_1", "b"], pattern, "does not fit b"),
        (["a_1"], "(", "is no regular expression"),
        (["a_1"], r"(?P<sequence>.+)", "needs the groups sequence and frame"),
        (["a_x"], "(?P<sequence>.+)_(?P<frame>.)", "must be a number"),
    ):
        with pytest.raises(UserError, match=message):
            parse_names(names, given)
    check_numbers([("a", 1), ("b", 1), ("a", 2)])
    with pytest.raises(UserError, match="several times: a frame 1"):
        check_numbers([("a", 1), ("b", 1), ("a", 1)])
