"""Linking of lesions to tracks, on boxes worked out by hand and on clips with known polyps."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from conftest import ROOT
from unet_kvasir_seg.data.clips import generate_clips
from unet_kvasir_seg.inference.lesions import Lesion, find_lesions
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.inference.tracks import Tracker, buffered_overlaps, track_numbers, track_row


def lesion(left: int, top: int, width: int = 10, height: int = 10, probability: float = 0.8) -> Lesion:
    box = (left, top, left + width, top + height)
    return Lesion(box, (left + width / 2, top + height / 2), width * height, width * height / 10_000, probability)


def test_overlap_of_enlarged_boxes():
    # Enlarged by half of their size on each side: 20x20 from -5 to 15 and from 5 to 25; they share 10x20 of 600.
    boxes = np.array([[0.0, 0, 10, 10]]), np.array([[10.0, 0, 20, 10], [30.0, 0, 40, 10]])
    iou, share = buffered_overlaps(*boxes, least=0)
    assert iou.tolist() == [[pytest.approx(200 / 600), 0]]
    assert share.tolist() == [[0.5, 0]]
    # By 10 pixels at least: 30x30 from -10 to 20, and from 20 to 50.
    assert buffered_overlaps(*boxes, least=10)[1].tolist() == [[pytest.approx(20 / 30), 0]]


def test_two_lesions_that_move_side_by_side_keep_their_tracks():
    tracker = Tracker()
    for frame in range(10):
        lesions = [lesion(5 * frame, 0, probability=0.1 * frame), lesion(5 * frame, 30)]
        seen = tracker.add(frame, frame / 10, lesions[:: -1 if frame % 2 else 1])
        assert [track.number for track in seen] == ([2, 1] if frame % 2 else [1, 2])
    first, second = tracker.tracks
    assert track_row("a.mp4", first.number, track_numbers(first)) == [
        *("a.mp4", "1", "1", "0.000000", "0.900000", "10", "1.0000", "0.450000", "0.900000"),
        *("9", "45", "0", "55", "10"),
    ]
    assert (second.frames, second.best_frame, second.best_box) == (10, 0, (0, 30, 10, 40))


def test_a_track_goes_on_after_a_gap_and_ends_after_a_longer_one():
    tracker = Tracker(gap_seconds=0.5)
    assert [tracker.add(0, 0.0, [lesion(0, 0)])[0].number] == [1]
    tracker.add(1, 0.25, [])
    assert tracker.add(2, 0.5, [lesion(2, 0)])[0].number == 1
    tracker.add(3, 0.75, [])
    assert tracker.add(4, 1.25, [lesion(2, 0)])[0].number == 2


@pytest.mark.parametrize(("step", "numbers"), [(1.0, [1, 1, 1]), (1.1, [1, 2, 3])])
def test_in_a_video_of_one_frame_a_second_tracks_go_on(step, numbers):
    tracker = Tracker()
    assert [tracker.add(frame, step * frame, [lesion(frame, 0)])[0].number for frame in range(3)] == numbers


def test_an_alert_begins_after_the_stated_time():
    tracker = Tracker(alert_seconds=0.5)
    alerts = [tracker.add(frame, frame / 4, [lesion(0, 0)])[0].is_alert for frame in range(4)]
    assert alerts == [False, False, True, True]
    assert Tracker(alert_seconds=0).add(0, 0.0, [lesion(0, 0)])[0].is_alert
    late = Tracker(alert_seconds=0.5)  # from 0.2 to 0.7, whose difference is 0.49999999999999994
    assert [late.add(frame, frame / 10, [lesion(0, 0)])[0].is_alert for frame in range(2, 9)] == [False] * 5 + [
        True
    ] * 2


@pytest.mark.parametrize("seconds", [{"alert_seconds": -1}, {"gap_seconds": float("nan")}])
def test_times_that_cannot_be_are_refused(seconds):
    with pytest.raises(ValueError, match="expected 0 or more"):
        Tracker(**seconds)


def test_of_a_frame_full_of_specks_the_largest_are_followed():
    specks = [lesion(100 * column, 100 * row, 10 + (row == column == 0)) for row in range(30) for column in range(30)]
    tracker = Tracker()
    for frame in range(3):
        assert [track.number for track in tracker.add(frame, frame / 25, specks)] == list(range(1, 65))
    assert len(tracker.tracks) == 64


def test_parts_of_a_lesion_that_falls_apart_stay_one_track():
    tracker = Tracker()
    tracker.add(0, 0.0, [lesion(0, 0, 20, 10)])
    seen = tracker.add(1, 0.1, [lesion(0, 0, 9, 10, probability=0.6), lesion(12, 0, 6, 10, probability=0.9)])
    assert [track.number for track in seen] == [1, 1]
    (track,) = tracker.tracks
    assert track.frames == 2
    assert track.box == (0, 0, 18, 10)
    assert track.largest_share == 200 / 10_000
    assert track.probability_sum == pytest.approx(0.8 + (90 * 0.6 + 60 * 0.9) / 150)


def test_far_lesions_are_not_linked():
    tracker = Tracker()
    tracker.add(0, 0.0, [lesion(0, 0)])
    assert tracker.add(1, 0.04, [lesion(60, 60)])[0].number == 2


def test_parts_of_a_lesion_that_comes_into_view_are_one_track():
    """At the border it is first seen as slivers, of which none was seen before."""
    tracker = Tracker()
    parts = [lesion(0, 0, 4, 20), lesion(0, 22, 2, 4), lesion(0, 28, 1, 2), lesion(60, 0)]
    assert [track.number for track in tracker.add(0, 0.0, parts)] == [1, 1, 1, 2]
    assert [track.number for track in tracker.add(1, 0.04, [lesion(0, 0, 8, 30), lesion(60, 0)])] == [1, 2]


class Owners:
    """Which tracks follow each polyp of a clip, and in how many frames it is seen."""

    def __init__(self, rate: float):
        self.rate = rate
        self.tracker = Tracker()
        self.tracks: defaultdict[int, set[int]] = defaultdict(set)
        self.frames: Counter[int] = Counter()

    def add(self, index: int, mask: np.ndarray, labels: np.ndarray, probability: np.ndarray) -> None:
        """The next frame: what is marked, and which polyp is where."""
        lesions = find_lesions(mask, probability)
        seen: set[int] = set()
        for track, found in zip(self.tracker.add(index, index / self.rate, lesions), lesions, strict=True):
            left, top, right, bottom = found.box
            box = np.s_[top:bottom, left:right]
            for polyp in np.unique(labels[box][mask[box]]).tolist():
                self.tracks[polyp].add(track.number)
                seen.add(polyp)
        self.frames.update(seen)

    def splits(self) -> list[bool]:
        """For each polyp that was seen for a second, whether several tracks follow it."""
        return [len(self.tracks[polyp]) > 1 for polyp in self.frames if polyp and self.frames[polyp] >= self.rate]


@pytest.mark.parametrize(
    ("clips", "size", "rate"),
    [(12, (96, 128), 12.5), pytest.param(40, (288, 384), 25.0, marks=pytest.mark.slow)],
)
def test_a_polyp_that_is_visible_for_a_second_is_one_track(clips, size, rate):
    """In clips with a camera that moves, where a sixth of the masks is lost and the others are shifted at random."""
    height, width = size
    shift = height // 24  # pixels, at most in each direction
    splits = []
    for clip in generate_clips(clips, num_frames=round(4 * rate), size=size, polyps=2, rate=rate, seed=5):
        rng = np.random.default_rng(0)
        owners = Owners(rate)
        for index, frame in enumerate(clip.frames()):
            down, right = rng.integers(0, shift + 1, 2)
            shown = np.pad(frame.labels, shift // 2)[down:, right:][:height, :width] * (rng.random() > 1 / 6)
            owners.add(index, shown > 0, shown, np.ones(size, np.float32))
        splits.append(owners.splits())
    assert all(splits)  # in each clip there is such a polyp
    whole = sum(not any(each) for each in splits)
    print(f"{whole} of {clips} clips without a split")
    assert whole / clips >= 0.95


@pytest.mark.slow
def test_with_the_trained_weights_a_polyp_that_is_marked_for_a_second_is_one_track():
    predictor = Predictor.from_pretrained(str(ROOT), device="cpu", dtype="float32")
    splits = []
    for clip in generate_clips(20, seed=0):
        owners = Owners(clip.rate)
        for index, frame in enumerate(clip.frames()):
            prediction = predictor(frame.image)
            owners.add(index, prediction.mask, frame.labels, prediction.probability)
        splits.append(owners.splits())
    found = [each for each in splits if each]
    whole = sum(not any(each) for each in found)
    print(f"{whole} of {len(found)} clips without a split")
    assert len(found) >= 10
    assert whole / len(found) >= 0.9
