"""Links the lesions of a video's frames to tracks: a track is one lesion that is seen for some time.

    tracker = Tracker(alert_seconds=0.5)
    for frame, prediction in predictions:
        seen = tracker.add(frame.index, frame.seconds, prediction.lesions)
    tracks = tracker.tracks

Lesions are linked by the overlap of their boxes, each enlarged to bridge the camera's motion from frame to frame
(buffered IoU: Yang et al., Hard to Track Objects with Irregular Motions and Similar Appearances?, WACV 2023), so that
the sum of overlaps is largest (Hungarian algorithm). Nothing looks ahead, so that the same works on a live video.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .lesions import Lesion

COLUMNS = (
    *("video", "track", "alert", "first_seconds", "last_seconds", "frames", "largest_area_percent"),
    *("mean_probability", "highest_probability", "best_frame", "left", "top", "right", "bottom"),
)
Box = tuple[int, int, int, int]  # left, top, right and bottom, in pixels
BUFFER = 0.5  # share of its width and height by which a box is enlarged on each side
MIN_BUFFER = 0.05  # and the least, as a share of the frame's side: at the border a lesion comes into view as slivers
MIN_OVERLAP = 0.25  # share of the smaller of two enlarged boxes inside the other, from which they may be linked
GAP_SECONDS = 1.0  # a track goes on if its lesion was not marked for at most so long
ROUNDING = 1e-6  # seconds by which sums of times may be off: 0.7 - 0.2 is less than 0.5
MAX_REGIONS = 64  # of a frame; the work grows with their square, and a network that was not trained marks thousands
ALERT_SECONDS = 0.5  # as in Holzwanger et al., Endoscopy 2021, 53:937
SAME_LESION = 0.5  # share of a lesion's box inside a track's enlarged by the least, from which it is a part of that


@dataclass(eq=False, slots=True)  # a track is the same while it grows; a long film may have very many
class Track:
    """One lesion through time.

    Attributes:
        number: From 1, in the order of first sight.
        first_seconds, last_seconds: When it was first and last seen.
        frames: Number of frames that it was seen in.
        largest_share: Its largest area, as a share of the frame's.
        probability_sum: Sum over its frames of the mean probability of its pixels.
        highest_probability: The highest mean probability of its pixels in a frame: its best frame.
        best_frame: Number of that frame.
        best_box: Its box there: first column, first row, and column and row after the last, in pixels.
        box: Its box when last seen.
        is_alert: Whether it was seen for `alert_seconds` or longer.
    """

    number: int
    first_seconds: float
    last_seconds: float
    box: Box
    frames: int = 0
    largest_share: float = 0.0
    probability_sum: float = 0.0
    highest_probability: float = -1.0
    best_frame: int = 0
    best_box: Box = (0, 0, 0, 0)
    is_alert: bool = False

    def see(self, frame: int, seconds: float, parts: Sequence[Lesion], alert_seconds: float) -> None:
        """Add a frame in which it is seen as these regions, of which there may be several."""
        pixels = sum(part.pixels for part in parts)
        probability = sum(part.probability * part.pixels for part in parts) / pixels
        self.box = enclosing_box([part.box for part in parts])
        self.frames += 1
        self.last_seconds = seconds
        self.largest_share = max(self.largest_share, sum(part.share for part in parts))
        self.probability_sum += probability
        if probability > self.highest_probability:
            self.highest_probability, self.best_frame, self.best_box = probability, frame, self.box
        self.is_alert = self.is_alert or seconds - self.first_seconds >= alert_seconds - ROUNDING


def track_numbers(track: Track) -> list[float]:
    """The columns of the table from `alert` on; times and probabilities are rounded to six digits."""
    return [
        int(track.is_alert),
        round(track.first_seconds, 6),
        round(track.last_seconds, 6),
        track.frames,
        round(100 * track.largest_share, 6),
        round(track.probability_sum / track.frames, 6),
        round(track.highest_probability, 6),
        track.best_frame,
        *track.best_box,
    ]


def track_row(video: str, number: int, numbers: Sequence[float]) -> list[str]:
    """A row of the table.

    Args:
        video: Name of the video.
        number: Of the track, from 1.
        numbers: As `track_numbers` gives them.
    """
    alert, first, last, frames, percent, mean, highest, *best = numbers
    probabilities = (f"{probability:.6f}" for probability in (mean, highest))
    seconds = (f"{time:.6f}" for time in (first, last))
    row = [video, number, alert, *seconds, frames, f"{percent:.4f}", *probabilities, *best]
    return [str(cell) for cell in row]


class Tracker:
    """Links lesions, frame after frame.

    Args:
        alert_seconds: A track is an alert from the frame on in which it has been seen for so long.
        gap_seconds: A track that is not seen for longer has ended.

    Attributes:
        tracks: All tracks so far, in the order of first sight.

    Raises:
        ValueError: If a time is negative or NaN.
    """

    def __init__(self, alert_seconds: float = ALERT_SECONDS, gap_seconds: float = GAP_SECONDS):
        if not (alert_seconds >= 0 and gap_seconds >= 0):
            raise ValueError(f"alert_seconds is {alert_seconds} and gap_seconds {gap_seconds}: expected 0 or more.")
        self.alert_seconds = alert_seconds
        self.gap_seconds = gap_seconds
        self.tracks: list[Track] = []
        self._alive: list[Track] = []

    def add(self, frame: int, seconds: float, lesions: Sequence[Lesion]) -> list[Track]:
        """Link the lesions of the next frame.

        Args:
            frame: Its number.
            seconds: Its time, later than that of the frame before.
            lesions: Its lesions, the largest first.

        Returns:
            The track of each lesion, or of the `MAX_REGIONS` largest. Lesions that are parts of one track have the
            same.
        """
        lesions = lesions[:MAX_REGIONS]
        self._alive = [track for track in self._alive if seconds - track.last_seconds <= self.gap_seconds + ROUNDING]
        # A share of the side of a square with the frame's area.
        margin = MIN_BUFFER * math.sqrt(lesions[0].pixels / lesions[0].share) if lesions else 0.0
        linked = {lesion: self._alive[track] for lesion, track in _assign(lesions, self._alive, margin)}
        places = [(track.box, track) for track in self._alive]
        places += [(lesions[index].box, track) for index, track in linked.items()]
        seen = []
        for index, lesion in enumerate(lesions):
            track = linked.get(index) or _track_around(lesion, places, margin)
            if track is None:
                track = self._begin(seconds, lesion)
            places.append((lesion.box, track))
            seen.append(track)
        for track in dict.fromkeys(seen):  # each once
            parts = [lesion for lesion, owner in zip(lesions, seen, strict=True) if owner is track]
            track.see(frame, seconds, parts, self.alert_seconds)
        return seen

    def _begin(self, seconds: float, lesion: Lesion) -> Track:
        track = Track(len(self.tracks) + 1, first_seconds=seconds, last_seconds=seconds, box=lesion.box)
        self.tracks.append(track)
        self._alive.append(track)
        return track


def enclosing_box(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def buffered_overlaps(first: np.ndarray, second: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """IoU, and share of the smaller one, of enlarged boxes.

    Args:
        first, second: (N, 4) and (M, 4): left, top, right and bottom.
        least: Pixels by which each is enlarged at least.

    Returns:
        Both (N, M).
    """
    first, second = _enlarge(first, least)[:, None], _enlarge(second, least)[None]
    corner, opposite = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(opposite - corner, 0, None).prod(axis=-1)
    areas = _area(first), _area(second)
    return shared / (areas[0] + areas[1] - shared), shared / np.minimum(*areas)


def _enlarge(boxes: np.ndarray, least: float) -> np.ndarray:
    margin = np.maximum(BUFFER * (boxes[:, 2:] - boxes[:, :2]), least)
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)


def _assign(lesions: Sequence[Lesion], tracks: Sequence[Track], margin: float) -> list[tuple[int, int]]:
    """Pairs of indices of lesions and tracks that belong together, each at most once."""
    if not lesions or not tracks:
        return []
    boxes, before = ([item.box for item in items] for items in (lesions, tracks))
    iou, share = buffered_overlaps(np.array(boxes, float), np.array(before, float), margin)
    pairs = zip(*linear_sum_assignment(iou, maximize=True), strict=True)
    return [(int(lesion), int(track)) for lesion, track in pairs if share[lesion, track] >= MIN_OVERLAP]


def _track_around(lesion: Lesion, places: Sequence[tuple[Box, Track]], margin: float) -> Track | None:
    """The track of which a lesion is a part.

    Args:
        lesion: The lesion.
        places: Boxes of tracks, as last seen or in this frame.
        margin: A track's box, enlarged by so many pixels, holds most of the lesion's.
    """
    left, top, right, bottom = lesion.box
    for box, track in places:
        width = min(right, box[2] + margin) - max(left, box[0] - margin)
        height = min(bottom, box[3] + margin) - max(top, box[1] - margin)
        if width > 0 < height and width * height >= SAME_LESION * (right - left) * (bottom - top):
            return track
    return None
