"""Scores of videos, whose frames are given one by one: alerts, how soon they come, and flicker.

    for sequence in group_frames(frames):
        scores = score_sequence(sequence, rate=25.0)
    summary = summarise([...])

An alert is a track that was marked for some time, as `inference/tracks.py` says. A per-frame score does not tell how
often an endoscopist would be disturbed: Holzwanger et al., Endoscopy 2021, 53:937.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..common.errors import UserError, some
from ..inference.lesions import Lesion, find_lesions
from ..inference.tracks import ALERT_SECONDS, MAX_REGIONS, Tracker

STILL = 8.0  # grey levels: mean difference of two frames, small and grey, from which on they show motion
STILL_SIZE = (64, 48)  # in pixels, of the small frames


@dataclass(frozen=True)
class ScoredFrame:
    """A frame of a video with its prediction.

    Attributes:
        number: Its place in the video, from any start.
        small: (h, w) float32, the frame in grey at `STILL_SIZE`, which shows motion.
        predicted, ground_truth: (H, W) bool.
    """

    number: int
    small: np.ndarray
    predicted: np.ndarray
    ground_truth: np.ndarray


@dataclass(frozen=True)
class SequenceScores:
    """Scores of a video.

    Attributes:
        seconds: Its length.
        polyps: Number of polyps in the ground truth, each followed through the frames; one that leaves the view for
            long and comes back counts again.
        delays: Seconds from each alerted polyp's first frame to the first alert on it.
        alerts: Number of alerts.
        false_alerts: Those of them that never lie on a polyp.
        flicker: Mean over all pairs of successive frames that move little of the share of the marked pixels, of both
            frames together, that are marked in one of them alone; None if there is no such pair.
    """

    seconds: float
    polyps: int
    delays: Sequence[float]
    alerts: int
    false_alerts: int
    flicker: float | None


def small_frame(image: Image.Image) -> np.ndarray:
    """A frame as `ScoredFrame.small` takes it."""
    return np.asarray(image.convert("L").resize(STILL_SIZE, Image.Resampling.BOX), np.float32)


def parse_names(names: Sequence[str], pattern: str) -> list[tuple[str, int]]:
    """Sequence and frame number of each frame, from its name.

    Args:
        names: Of the frames.
        pattern: A regular expression with the groups `sequence` and `frame`, found anywhere in the name.

    Raises:
        UserError: If the pattern is invalid, or does not fit all names.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"The pattern {pattern!r} of the sequences is no regular expression: {error}.") from error
    if not {"sequence", "frame"} <= compiled.groupindex.keys():
        raise UserError(
            f"The pattern {pattern!r} of the sequences needs the groups sequence and frame, as in "
            r"(?P<sequence>.+)_(?P<frame>\d+)."
        )
    found = [compiled.search(name) for name in names]
    if misfits := [name for name, match in zip(names, found, strict=True) if match is None]:
        raise UserError(f"The pattern {pattern!r} of the sequences does not fit {some(misfits)}.")
    try:
        return [(match["sequence"], int(match["frame"])) for match in found if match is not None]
    except (TypeError, ValueError) as error:
        raise UserError(f"The group frame of the pattern {pattern!r} must be a number: {error}.") from error


def check_numbers(numbers: Sequence[tuple[str, int]]) -> None:
    """Refuse frame numbers that repeat within a sequence.

    Raises:
        UserError: They are named.
    """
    seen: set[tuple[str, int]] = set()
    repeated = [pair for pair in numbers if pair in seen or seen.add(pair)]
    if repeated:
        texts = [f"{sequence} frame {number}" for sequence, number in repeated]
        raise UserError(f"Frame numbers occur several times: {some(texts)}.")


def score_sequence(
    frames: Iterable[ScoredFrame], rate: float = 25.0, alert_seconds: float = ALERT_SECONDS
) -> SequenceScores:
    """Score a video.

    Args:
        frames: In order. Numbers may be left out, as when every fifth frame is annotated.
        rate: Frames per second, which the numbers count.
        alert_seconds: How long a track must be seen to be an alert.
    """
    predicted = Tracker(alert_seconds)
    polyps = Tracker(alert_seconds=0)
    first_alert: dict[int, float] = {}  # of each polyp
    hits: set[int] = set()  # alerts on a polyp
    changes: list[float] = []
    start = last = None
    before: ScoredFrame | None = None
    for frame in frames:
        start = frame.number if start is None else start
        last = frame.number
        seconds = (frame.number - start) / rate
        marked, true = _lesions(frame.predicted), _lesions(frame.ground_truth)
        tracks = predicted.add(frame.number, seconds, marked)
        owners = polyps.add(frame.number, seconds, true)
        labels = frame.ground_truth & frame.predicted
        for polyp, owner in zip(true, owners, strict=True):
            for lesion, track in zip(marked, tracks, strict=True):
                if track.is_alert and _meet(polyp, lesion, labels):
                    hits.add(track.number)
                    first_alert.setdefault(owner.number, seconds - owner.first_seconds)
        if before is not None and _is_still(before, frame):
            changes.append(_change(before.predicted, frame.predicted))
        before = frame
    alerts = [track.number for track in predicted.tracks if track.is_alert]
    return SequenceScores(
        seconds=0.0 if start is None or last is None else (last - start + 1) / rate,
        polyps=len(polyps.tracks),
        delays=list(first_alert.values()),
        alerts=len(alerts),
        false_alerts=len(set(alerts) - hits),
        flicker=float(np.mean(changes)) if changes else None,
    )


def summarise(scores: Sequence[SequenceScores]) -> dict[str, float | int | None]:
    """The scores of several videos together.

    Returns:
        Numbers of sequences and of polyps; the share of the polyps that an alert lies on, and the median of their
        delays in seconds; false alerts a minute of all sequences; alerts a minute of those without polyp; mean flicker
        of the sequences. None where there is nothing to count.
    """
    polyps = sum(each.polyps for each in scores)
    delays = [delay for each in scores for delay in each.delays]
    without = [each for each in scores if not each.polyps]
    flicker = [each.flicker for each in scores if each.flicker is not None]
    return {
        "sequences": len(scores),
        "sequences_without_polyp": len(without),
        "polyps": polyps,
        "polyps_alerted": len(delays) / polyps if polyps else None,
        "median_delay_seconds": float(np.median(delays)) if delays else None,
        "false_alerts_per_minute": _per_minute(sum(each.false_alerts for each in scores), scores),
        "alerts_per_minute_without_polyp": _per_minute(sum(each.alerts for each in without), without),
        "flicker": float(np.mean(flicker)) if flicker else None,
    }


def _per_minute(count: int, scores: Sequence[SequenceScores]) -> float | None:
    seconds = sum(each.seconds for each in scores)
    return 60 * count / seconds if seconds else None


def _lesions(mask: np.ndarray) -> list[Lesion]:
    return find_lesions(mask, np.ones(mask.shape, np.float32))[:MAX_REGIONS]


def _meet(first: Lesion, second: Lesion, shared: np.ndarray) -> bool:
    """Whether two regions have pixels in common, of those that ground truth and prediction share."""
    left, top = (max(a, b) for a, b in zip(first.box[:2], second.box[:2], strict=True))
    right, bottom = (min(a, b) for a, b in zip(first.box[2:], second.box[2:], strict=True))
    return left < right and top < bottom and bool(shared[top:bottom, left:right].any())


def _is_still(first: ScoredFrame, second: ScoredFrame) -> bool:
    return second.number - first.number == 1 and float(np.abs(first.small - second.small).mean()) < STILL


def _change(first: np.ndarray, second: np.ndarray) -> float:
    """The share of the pixels marked in either mask that are marked in one alone; 0 if none are."""
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first ^ second) / either if either else 0.0
