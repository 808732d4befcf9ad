"""Scores of videos, whose frames are given one by one: alerts, how soon they come, and flicker.

    frames = [VideoFrame.of(image, predicted, ground_truth) for ...]
    scores = score_sequence(zip(numbers, frames), rate=25.0)
    summarise_sequences([scores, ...])

An alert is a track that was marked for some time, as `inference/tracks.py` says. A per-frame score does not tell how
often an endoscopist would be disturbed: Holzwanger et al., Endoscopy 2021, 53:937.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ..common.csv_tables import open_table, write_row
from ..common.files import to_rgb
from ..inference.lesions import Lesion, find_lesions
from ..inference.tracks import ALERT_SECONDS, GAP_SECONDS, MAX_REGIONS, Tracker
from .intervals import RESAMPLES, Groups, bootstrap_weights, number_groups, resampled_sums, with_interval
from .overlap import ratio
from .regions import EIGHT_NEIGHBOURS, MIN_POLYP_PIXELS

STILL = 8.0  # grey levels; two small frames with a mean difference below it are taken to move little
STILL_SIZE = (64, 48)  # width and height of the small frames, in pixels
COLUMNS = (
    *("sequence", "frames", "seconds", "polyps", "polyps_alerted", "first_delay_seconds", "alerts", "false_alerts"),
    "flicker",
)


@dataclass(frozen=True)
class VideoFrame:
    """What the scores of a video need of a frame, small enough to keep that of every frame of a long one.

    Attributes:
        small: (h, w) uint8, the frame in grey at `STILL_SIZE`, which shows motion.
        height, width: Original size in pixels.
        packed_prediction, packed_ground_truth: uint8, the compressed masks.
    """

    small: np.ndarray
    height: int
    width: int
    packed_prediction: np.ndarray
    packed_ground_truth: np.ndarray

    @classmethod
    def of(cls, image: Image.Image, predicted: np.ndarray, ground_truth: np.ndarray) -> "VideoFrame":
        """Of an upright image and two masks (H, W) bool."""
        small = to_rgb(image).convert("L").resize(STILL_SIZE, Image.Resampling.BOX)
        height, width = ground_truth.shape
        return cls(np.asarray(small), height, width, _pack(predicted), _pack(ground_truth))

    @property
    def predicted(self) -> np.ndarray:
        """(H, W) bool."""
        return self._unpacked(self.packed_prediction)

    @property
    def ground_truth(self) -> np.ndarray:
        """(H, W) bool."""
        return self._unpacked(self.packed_ground_truth)

    def _unpacked(self, packed: np.ndarray) -> np.ndarray:
        bits = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8)
        return np.unpackbits(bits, count=self.height * self.width).reshape(self.height, self.width).astype(bool)


def _pack(mask: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.compress(np.packbits(mask).tobytes(), level=1), np.uint8)


@dataclass(frozen=True)
class SequenceScores:
    """Scores of a video.

    Attributes:
        frames: Number of its frames.
        seconds: Its length. The time between frames that are further apart than a track may bridge is left out.
        polyps: Number of polyps in the ground truth, each followed through the frames; one that leaves the view for
            longer than a track may bridge and comes back counts again.
        delays: Seconds from each alerted polyp's first frame to the first alert on it.
        alerts: Number of alerts.
        false_alerts: Those of them that never lie on a polyp.
        flicker: Mean over all pairs of successive frames that move little of the share of the marked pixels, of both
            frames together, that are marked in one of them alone; None if there is no such pair.
        shows_polyp: Whether anything is labelled in the ground truth.
    """

    frames: int
    seconds: float
    polyps: int
    delays: Sequence[float]
    alerts: int
    false_alerts: int
    flicker: float | None
    shows_polyp: bool


@dataclass
class _Alerts:
    """Alerts and polyps, as far as a video has been seen."""

    alert_seconds: float
    first_alert: dict[int, float] = field(default_factory=dict)  # seconds after each alerted polyp's first frame
    on_polyp: set[int] = field(default_factory=set)  # the alerts that lay on one

    def __post_init__(self) -> None:
        self.marked = Tracker(self.alert_seconds)
        self.polyps = Tracker()

    def add(self, number: int, seconds: float, predicted: np.ndarray, ground_truth: np.ndarray) -> None:
        """The next frame, with its masks."""
        regions, polyps = _numbered_lesions(predicted), _numbered_lesions(ground_truth)
        both = predicted & ground_truth
        pairs = set(zip(regions.labels[both].tolist(), polyps.labels[both].tolist(), strict=True))
        large = [index for index, polyp in enumerate(polyps.lesions) if polyp.pixels >= MIN_POLYP_PIXELS][:MAX_REGIONS]
        owners = self.polyps.add(number, seconds, [polyps.lesions[index] for index in large])
        tracks = self.marked.add(number, seconds, regions.lesions)
        for region, track in enumerate(tracks):
            if not track.is_alert:
                continue
            if any(one == region for one, _ in pairs):
                self.on_polyp.add(track.number)
            for polyp, owner in zip(large, owners, strict=True):
                if (region, polyp) in pairs:
                    self.first_alert.setdefault(owner.number, seconds - owner.first_seconds)

    @property
    def numbers(self) -> set[int]:
        """Numbers of the tracks that are alerts."""
        return {track.number for track in self.marked.tracks if track.is_alert}


def score_sequence(
    frames: Iterable[tuple[int, VideoFrame]], rate: float = 25.0, alert_seconds: float = ALERT_SECONDS
) -> SequenceScores:
    """Score a video.

    Args:
        frames: Each with its number, in order. Numbers may be left out, as where every fifth frame is annotated.
        rate: Frames per second, which the numbers count.
        alert_seconds: How long a track must be seen to be an alert.
    """
    alerts = _Alerts(alert_seconds)
    changes: list[float] = []
    count, length = 0, 0.0
    shows_polyp = False
    start: int | None = None
    before: tuple[int, np.ndarray, np.ndarray] | None = None  # number, small frame and predicted mask
    for number, frame in frames:
        start = number if start is None else start
        predicted, ground_truth = frame.predicted, frame.ground_truth
        alerts.add(number, (number - start) / rate, predicted, ground_truth)
        step = 1 / rate
        if before is not None:
            if (number - before[0]) / rate <= GAP_SECONDS:
                step = (number - before[0]) / rate
            if number - before[0] == 1 and _is_still(before[1], frame.small):
                changes.append(_change(before[2], predicted))
        before = number, frame.small, predicted
        count, length = count + 1, length + step
        shows_polyp = shows_polyp or bool(ground_truth.any())
    return SequenceScores(
        frames=count,
        seconds=length,
        polyps=len(alerts.polyps.tracks),
        delays=list(alerts.first_alert.values()),
        alerts=len(alerts.numbers),
        false_alerts=len(alerts.numbers - alerts.on_polyp),
        flicker=float(np.mean(changes)) if changes else None,
        shows_polyp=shows_polyp,
    )


def summarise_sequences(
    scores: Sequence[SequenceScores], resamples: int = RESAMPLES, seed: int = 0, groups: Groups = None
) -> dict[str, Any]:
    """The scores of several videos together, with intervals of the bootstrap over videos.

    Args:
        scores: Of each video.
        resamples, seed: Of the bootstrap.
        groups: Of the videos, as of one patient, which are resampled as wholes; None: none are known.

    Returns:
        Numbers of videos without polyp, of polyps and of alerted ones, and of alerts; the share of the polyps that an
        alert lies on; the median of their delays in seconds; false alerts a minute of all videos; alerts a minute of
        those without polyp; mean flicker of the videos. None where there is nothing to count.

    Raises:
        ValueError: If there is no video, or there are too few resamples for an interval.
    """
    columns: dict[str, list[Any]] = {
        "polyps": [each.polyps for each in scores],
        "alerted": [len(each.delays) for each in scores],
        "false_alerts": [each.false_alerts for each in scores],
        "seconds": [each.seconds for each in scores],
        "alerts_without": [0 if each.shows_polyp else each.alerts for each in scores],
        "seconds_without": [0.0 if each.shows_polyp else each.seconds for each in scores],
        "flicker": [each.flicker or 0.0 for each in scores],
        "has_flicker": [each.flicker is not None for each in scores],
    }
    resampled = resampled_sums(np.transpose([*columns.values()]), resamples, seed, groups)
    sums = dict(zip(columns, resampled.T, strict=True))
    return {
        "without_polyp": sum(not each.shows_polyp for each in scores),
        "polyps": sum(columns["polyps"]),
        "alerted": sum(columns["alerted"]),
        "alerts": sum(each.alerts for each in scores),
        "false_alerts": sum(columns["false_alerts"]),
        "polyps_alerted": with_interval(ratio(sums["alerted"], sums["polyps"])),
        "median_delay_seconds": _median_delay(scores, resamples, seed, groups),
        "false_alerts_per_minute": with_interval(60 * ratio(sums["false_alerts"], sums["seconds"])),
        "alerts_per_minute_without_polyp": with_interval(60 * ratio(sums["alerts_without"], sums["seconds_without"])),
        "flicker": with_interval(ratio(sums["flicker"], sums["has_flicker"])),
    }


def write_sequences_csv(scores: Mapping[str, SequenceScores], path: Path) -> None:
    """Write a table with the scores of each video; the delay is that of its polyp that was alerted soonest."""
    with open_table(path) as table:
        write_row(table, COLUMNS, line_end="\n")
        for name, each in scores.items():
            delay = f"{min(each.delays):.6f}" if each.delays else ""
            flicker = "" if each.flicker is None else f"{each.flicker:.6f}"
            counts = [each.polyps, len(each.delays), delay, each.alerts, each.false_alerts, flicker]
            write_row(table, [name, each.frames, f"{each.seconds:.6f}", *counts], line_end="\n")


def _median_delay(
    scores: Sequence[SequenceScores], resamples: int, seed: int, groups: Groups
) -> dict[str, Any] | None:
    """The median delay of all alerted polyps; those of one video, or group, are resampled together."""
    delays = np.array([delay for each in scores for delay in each.delays])
    if not delays.size:
        return None
    units = number_groups(range(len(scores)) if groups is None else groups)
    owners = np.repeat(units, [len(each.delays) for each in scores])
    medians = [float(np.median(delays))]
    for weights in bootstrap_weights(int(units.max()) + 1, resamples, seed):
        for times in weights[:, owners].astype(int):
            medians.append(float(np.median(np.repeat(delays, times))) if times.any() else np.nan)
    return with_interval(np.array(medians))


@dataclass(frozen=True)
class _Numbered:
    """The lesions of a mask, and (H, W) int, which of them each pixel belongs to; -1 is background."""

    lesions: list[Lesion]
    labels: np.ndarray


def _numbered_lesions(mask: np.ndarray) -> _Numbered:
    labels, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    places = np.full(count + 1, -1)
    places[1 + np.argsort(-pixels, kind="stable")] = np.arange(count)  # the order of `find_lesions`
    return _Numbered(find_lesions(mask, np.ones(mask.shape, np.float32)), places[labels])


def _is_still(first: np.ndarray, second: np.ndarray) -> bool:
    return float(np.abs(first.astype(np.float32) - second).mean()) < STILL


def _change(first: np.ndarray, second: np.ndarray) -> float:
    """The share of the pixels marked in either mask that are marked in one alone; 0 if none are."""
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first ^ second) / either if either else 0.0
