"""Scores a source of predictions, a model or a folder of files, on the samples of a split.

source = ModelSource.load("me/unet", None, device="auto", dtype="float32", tta=False)
scored = score_split(source, splits, "test", Protocol(), Work(processes, KeptScores(Path("out"))))
scored.images  # one `ImageScores` for each sample; `sections.py` sums them up
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset
from PIL.Image import Image
from tqdm.auto import tqdm

from ..common.errors import UserError, counted, some
from ..common.mask_rules import USUAL_MASKS, MaskRules
from ..common.processes import Processes
from ..data.dataset import choose_split, describe_data
from ..data.division import groups_in
from ..data.mask_values import check_mask_rules
from ..data.samples import Sample, load_sample, sample_name
from ..regions_unet import check_thresholds, keep_peaks
from .image_scores import ImageScores, score_image
from .intervals import RESAMPLES, Groups
from .kept_scores import KeptScores
from .negatives import Negatives
from .peak import PeakChoice, choose_peak
from .presence import Peaks, ScoredImages
from .regions import Regions, find_regions
from .sequences import VideoFrame
from .sources import FileSource, Source
from .summary import at_threshold, best_threshold, compare, main_scores, per_image_dice

EXAMPLES = 3  # of the best images, of the median ones and of the worst

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How samples are scored.

    Attributes:
        threshold: A pixel is polyp if its probability is higher.
        surface_tolerance: Tolerance of the normalised surface Dice in pixels.
        batch_size: Images that go through the network together.
        mask_rules: How masks are read.
        peak_threshold: A region counts if its highest probability reaches it; None: each source's own, if it has one.
        negative_windows: Windows without polyp to score beside a split; None: none.
        resamples, seed: Of the bootstrap; the seed also draws the windows and cuts a split in halves.
        scores_videos: Whether what the scores of videos need is kept of each frame.
    """

    threshold: float = 0.5
    peak_threshold: float | None = None
    negative_windows: int | None = None
    surface_tolerance: float = 2.0
    batch_size: int = 8
    mask_rules: MaskRules = USUAL_MASKS
    resamples: int = RESAMPLES
    seed: int = 0
    scores_videos: bool = False

    @property
    def resampling(self) -> dict[str, int]:
        """Arguments of the functions that resample."""
        return {"resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class Tuning:
    """What is chosen on a split before another, or for the peak the same one, is scored.

    Attributes:
        threshold_on: The split whose best threshold is taken in place of the protocol's; None: it is not tuned.
        peak_on: The split whose polyps choose the peak threshold; None: it is not chosen.
        sensitivity: The share of the polyps found by the threshold alone that the peak has to keep.
    """

    threshold_on: str | None = None
    peak_on: str | None = None
    sensitivity: float = 0.98


@dataclass(frozen=True)
class Work:
    """Who scores, and what is scored already.

    Attributes:
        processes: The images are split among them.
        kept: Scores of an interrupted run, and where those of this one are kept.
    """

    processes: Processes
    kept: KeptScores


@dataclass(frozen=True)
class ScoredNegatives:
    """The images without polyp that were scored beside a split.

    Attributes:
        negatives: What they are; None: those images of the split that show no polyp.
        regions: Of each; empty if they are images of the split.
    """

    negatives: Negatives | None
    regions: Sequence[Regions]

    def beside(self, split: Sequence[Regions], groups: Groups = None) -> ScoredImages:
        """The images of the split, with their groups, and these."""
        return ScoredImages.of(split, self.regions, self.negatives.frames if self.negatives else None, groups)


@dataclass(frozen=True)
class ScoredSplit:
    """The scores of a split.

    Attributes:
        images: Scores of each image, in order.
        protocol: How they were scored, with the tuned threshold if it was tuned.
        groups: Of the images, as `groups_in` gives them, which intervals and tests resample; None: none are known.
        tuned_on: The split that the threshold was tuned on; None: it was not tuned.
        at_half: Main scores at the threshold 0.5, without a peak threshold, if it was tuned.
        negatives: The images without polyp.
        choice: The peak threshold that was chosen; None: none was.
        is_own_peak_of_split: Whether the model's own peak threshold was chosen on these very samples.
        presence_calibration: Scale and offset of the source's presence, or None.
        comparison: Public name of the source that it was compared with, and the differences.
    """

    images: Sequence[ImageScores]
    protocol: Protocol
    groups: Groups
    tuned_on: str | None
    at_half: dict[str, Any] | None
    negatives: ScoredNegatives
    choice: PeakChoice | None
    is_own_peak_of_split: bool
    presence_calibration: Sequence[float] | None
    comparison: dict[str, Any] | None

    @property
    def resampling(self) -> dict[str, Any]:
        """Arguments of the functions that resample the images of the split."""
        return {**self.protocol.resampling, "groups": self.groups}

    @property
    def peaks(self) -> Peaks:
        """The peak threshold of each image of the split and of each image without polyp beside it, in this order."""
        if self.choice is not None and self.choice.halves is not None:
            return self.choice.peaks.tolist()
        return [self.images[0].peak_threshold] * (len(self.images) + len(self.negatives.regions))

    def beside(self, split: Sequence[Regions], negatives: Sequence[Regions] | None = None) -> ScoredImages:
        """The images of the split with the images without polyp, both by their regions.

        Args:
            split: Regions of each image of the split.
            negatives: Regions of each image without polyp; None: those that were scored.
        """
        return replace(self.negatives, regions=self.negatives.regions if negatives is None else negatives).beside(
            split, self.groups
        )


def score_split(
    source: Source,
    splits: Mapping[str, Dataset],
    split: str,
    protocol: Protocol,
    work: Work,
    *,
    other: Source | None = None,
    negatives: Negatives | None = None,
    tuning: Tuning = Tuning(),
) -> ScoredSplit:
    """Score a split.

    Args:
        source: What is scored.
        splits: As `load_splits` gives them.
        split: Name of the split.
        protocol: How to score.
        work: Who does it, and what is done; each process gets the scores of all.
        other: What it is compared with on the same images, if anything. If a peak is chosen, it gets its own.
        negatives: Frames without polyp to score too; None: windows, if the protocol wants any.
        tuning: What is chosen first. A peak that is chosen on the scored split itself is cross-fitted.

    Raises:
        UserError: If a split is missing, what the protocol says of masks is true of none, or a sample cannot be
            scored; an `InvalidRunError` if the model gives NaN.
    """
    rows, at_half, comparison = choose_split(splits, split), None, None
    groups = groups_in(rows)
    check_mask_rules({split: rows, **splits}, protocol.mask_rules)
    if isinstance(source, FileSource) or isinstance(other, FileSource):
        refuse_shared_names(rows)
    for name in (tuning.threshold_on, tuning.peak_on):
        if name is not None:
            choose_split(splits, name)  # an absent one is named before the work
    if tuning.threshold_on is None and tuning.peak_on is None:
        for scored in (source, other):
            if scored is not None:
                peak_threshold_of(scored, protocol)  # so is one below the threshold
    if tuning.threshold_on is not None:
        images_alone = replace(protocol, threshold=0.5, scores_videos=False)
        tuned = score_samples(source, splits[tuning.threshold_on], images_alone, work)
        protocol = replace(protocol, threshold=best_threshold(tuned))

    choice, beside, images = score_source(source, splits, split, protocol, work, negatives, tuning)
    chosen_on = source.peak_chosen_on
    is_of_split = chosen_on is not None and chosen_on == fingerprint_of(rows)
    if tuning.threshold_on is not None:
        at_half = at_threshold(images, 0.5, **protocol.resampling, groups=groups)
    if other is not None:
        alone = replace(protocol, negative_windows=None, scores_videos=False)  # only Dice and IoU are compared
        _, _, others = score_source(other, splits, split, alone, work, None, tuning)
        with value_errors_explained():
            differences = compare(images, others, **protocol.resampling, groups=groups)
        scores = main_scores(others, **protocol.resampling, groups=groups)
        comparison = {"other": other.public_name, "metrics": differences, "scores": scores}
    return ScoredSplit(
        images=images,
        protocol=protocol,
        groups=groups,
        tuned_on=tuning.threshold_on,
        at_half=at_half,
        negatives=beside,
        choice=choice,
        is_own_peak_of_split=is_of_split,
        presence_calibration=source.presence_calibration,
        comparison=comparison,
    )


def score_source(
    source: Source,
    splits: Mapping[str, Dataset],
    split: str,
    protocol: Protocol,
    work: Work,
    negatives: Negatives | None,
    tuning: Tuning,
) -> tuple[PeakChoice | None, ScoredNegatives, list[ImageScores]]:
    """Score a split with the source's peak threshold, or one that is chosen first; arguments as for `score_split`.

    Returns:
        The choice, if any, the images without polyp, and the scores of each image of the split.
    """
    rows = splits[split]
    if tuning.peak_on is None:
        peak = peak_threshold_of(source, protocol)
        beside = score_negatives(source, rows, split, protocol, work, negatives)
        return None, beside, score_samples(source, rows, protocol, work, peak)
    choice, beside = tune_peak(source, splits, split, protocol, work, negatives, tuning)
    if tuning.peak_on != split:
        beside = score_negatives(source, rows, split, protocol, work, negatives)
    return choice, beside, score_with_choice(source, rows, protocol, work, choice)


def identity_of(rows: Dataset) -> list[Any]:
    """Tells the samples of a split from others: their fingerprint, and their names."""
    return [fingerprint_of(rows), [cell and cell["path"] for cell in rows["image"]]]


def fingerprint_of(rows: Dataset) -> str:
    """That of the samples of a split, as `describe_data` gives it, which also wants names."""
    return describe_data("a split", None, {"a split": rows})["fingerprint"]


def refuse_shared_names(rows: Dataset) -> None:
    """Refuse images of one name, as the frames of several videos may have: files of predictions are found by name.

    Raises:
        UserError: They are named.
    """
    counts = Counter(sample_name(cell, index) for index, cell in enumerate(rows["image"]))
    if shared := [name for name, count in counts.items() if count > 1]:
        raise UserError(
            f"{len(shared)} names stand for more than one image: {some(shared)}. Predictions in files are found by "
            "the names of the images, folders aside: give each image a name of its own, with the video's in front."
        )


def peak_threshold_of(source: Source, protocol: Protocol) -> float | None:
    """The peak threshold of a source's masks: the protocol's, or else the source's own, or None.

    Raises:
        UserError: If it is below the threshold.
    """
    peak = source.peak_threshold if protocol.peak_threshold is None else protocol.peak_threshold
    with value_errors_explained():
        check_thresholds(protocol.threshold, peak)
    return peak


def tune_peak(
    source: Source,
    splits: Mapping[str, Dataset],
    split: str,
    protocol: Protocol,
    work: Work,
    negatives: Negatives | None,
    tuning: Tuning,
) -> tuple[PeakChoice, ScoredNegatives]:
    """Choose a peak threshold; arguments as for `score_split`.

    Returns:
        The choice, and the images without polyp that its operating points and its calibration of presence are of.

    Raises:
        UserError: If none of the polyps is found, so that there is nothing to choose by.
    """
    assert tuning.peak_on is not None
    rows = splits[tuning.peak_on]

    def load(index: int) -> Sample:
        return load_sample(rows[index], protocol.mask_rules)

    regions = score_regions(source, load, len(rows), protocol, work, identity_of(rows))
    beside = score_negatives(source, rows, tuning.peak_on, protocol, work, negatives)
    choice = choose_peak(
        beside.beside(regions, groups_in(rows)),
        split=tuning.peak_on,
        fingerprint=fingerprint_of(rows),
        sensitivity=tuning.sensitivity,
        threshold=protocol.threshold,
        cross_fit=tuning.peak_on == split,
        **protocol.resampling,
    )
    return choice, beside


def score_with_choice(
    source: Source, rows: Dataset, protocol: Protocol, work: Work, choice: PeakChoice
) -> list[ImageScores]:
    """Score every sample with the peak threshold that was chosen without it."""
    peaks = choice.peaks[: len(rows)] if choice.is_cross_fitted else np.full(len(rows), choice.value)
    images: dict[int, ImageScores] = {}
    for peak in np.unique(peaks):
        indices = np.flatnonzero(peaks == peak)
        scored = score_samples(source, rows.select(indices), protocol, work, float(peak))
        images |= zip(indices.tolist(), scored, strict=True)
    return [images[index] for index in range(len(rows))]


def score_negatives(
    source: Source, rows: Dataset, split: str, protocol: Protocol, work: Work, negatives: Negatives | None
) -> ScoredNegatives:
    """Score images without polyp: those given, or windows of a split, if the protocol wants any.

    Args:
        source, protocol, work: As for `score_split`.
        rows, split: The split and its name.
        negatives: Frames without polyp; or None.
    """
    if negatives is None and protocol.negative_windows is not None:
        negatives = Negatives.windows_of(rows, split, protocol.negative_windows, protocol.seed, protocol.mask_rules)
    if negatives is None:
        return ScoredNegatives(None, [])
    images = [*identity_of(negatives.rows), negatives.windows]
    regions = score_regions(source, negatives.sample, len(negatives), protocol, work, images)
    return ScoredNegatives(negatives, regions)


def score_samples(
    source: Source,
    rows: Dataset,
    protocol: Protocol,
    work: Work,
    peak_threshold: float | None = None,
    load: Callable[..., Sample] = load_sample,
) -> list[ImageScores]:
    """Score every sample of a split, in order. Each process scores a part and gets the scores of all.

    Args:
        source, rows, protocol, work: What to score, and how.
        peak_threshold: Of the masks; None: every region counts.
        load: Reads a row, as `load_sample` does; may take other rows, and has to give the same samples of the same.

    Raises:
        UserError: In every process, if one of them cannot score a sample.
    """

    def score(indices: Sequence[int]) -> list[ImageScores]:
        samples = [load(rows[index], protocol.mask_rules) for index in indices]
        images = []
        for sample, maps in zip(samples, source.predict(samples), strict=True):
            with value_errors_explained():
                image = score_image(
                    sample.name,
                    maps.probability,
                    sample.ground_truth,
                    threshold=protocol.threshold,
                    tolerance=protocol.surface_tolerance,
                    peak_threshold=peak_threshold,
                    input_pair=maps.input_pair,
                )
            if protocol.scores_videos:
                mask = keep_peaks(maps.probability, protocol.threshold, peak_threshold)
                image = replace(image, video_frame=VideoFrame.of(sample.image, mask, sample.ground_truth))
            images.append(image)
        return images

    depends_on = [*identity_of(rows), asdict(protocol), peak_threshold]
    return in_shares(score, len(rows), source, protocol.batch_size, work, depends_on)


def score_regions(
    source: Source,
    load: Callable[[int], Sample],
    count: int,
    protocol: Protocol,
    work: Work,
    images: Sequence[Any],
    title: str | None = None,
) -> list[Regions]:
    """Find the regions of images, without their other scores, which take longer; work and errors as above.

    Args:
        source, protocol, work: What to score, and how.
        load: Gives the image of an index.
        count: How many images there are.
        images: Tells which images they are.
        title: Of the progress bar; None: the source's name.
    """

    def score(indices: Sequence[int]) -> list[Regions]:
        samples = [load(index) for index in indices]
        return [
            find_regions(maps.probability, sample.ground_truth, protocol.threshold)
            for sample, maps in zip(samples, source.predict(samples), strict=True)
        ]

    depends_on = [images, asdict(protocol), "regions"]
    return in_shares(score, count, source, protocol.batch_size, work, depends_on, title)


def in_shares(
    score: Callable[[Sequence[int]], list[Result]],
    count: int,
    source: Source,
    batch_size: int,
    work: Work,
    depends_on: Any,
    title: str | None = None,
) -> list[Result]:
    """Score images in batches, shared among the processes, each of which gets the scores of all, in order.

    Images that an interrupted run has scored are not scored again.

    Args:
        score: Scores the images of some indices.
        count: How many images there are.
        source: What is scored.
        batch_size: Images that are scored together.
        work: Who does it, and what is done.
        depends_on: All that the scores depend on, source and batches aside.
        title: Of the progress bar, which then goes when it is full; None: the source's name.

    Raises:
        UserError: In every process, if one of them cannot score an image.
    """
    processes, failure = work.processes, None
    mine = range(processes.index, count, processes.count)
    with work.kept.share([depends_on, source.identity, batch_size, list(mine)]) as share:
        done, before = len(share.scores), source.seconds
        if done and processes.is_main:
            tqdm.write(f"{source.name}: {counted(done, 'image')} scored by an interrupted run.", file=sys.stderr)
        look: dict[str, Any] = {"desc": title or source.name, "unit": "image", "leave": title is None}
        bar = tqdm(total=len(mine), initial=done, disable=not processes.is_main, **look)
        try:
            with bar:
                for start in range(done, len(mine), batch_size):
                    indices = mine[start : start + batch_size]
                    share.scores += score(indices)
                    bar.update(len(indices))
        except UserError as error:
            failure = error
        finally:
            share.model_seconds += source.seconds - before
            source.seconds = before + share.model_seconds
    scored = list(zip(mine, share.scores, strict=failure is None))
    parts = processes.gather((scored, failure))
    failures = [error for _, error in parts if error is not None]
    if failures:
        raise failures[0]
    of_all = [entry for part, _ in parts for entry in part]
    return [result for _, result in sorted(of_all, key=lambda entry: entry[0])]


@contextlib.contextmanager
def value_errors_explained() -> Iterator[None]:
    """Turn a ValueError of the scores, whose message names the image, into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def predict_examples(
    source: Source, rows: Dataset, scored: ScoredSplit
) -> list[tuple[str, Image, np.ndarray, np.ndarray, np.ndarray]]:
    """Predict the best, the median and the worst images once more, since no map was kept; the best come first.

    Args:
        source: What was scored.
        rows: The split.
        scored: Its scores.

    Returns:
        Title such as "best: Dice 0.981", image, ground truth (H, W) bool, probability (H, W) float32 and mask (H, W)
        bool of each.
    """
    examples = []
    dice = per_image_dice(scored.images)
    for index, kind in choose_examples(dice).items():
        sample = load_sample(rows[index], scored.protocol.mask_rules)
        probability = source.predict([sample])[0].probability
        mask = keep_peaks(probability, scored.protocol.threshold, scored.images[index].peak_threshold)
        examples.append((f"{kind}: Dice {dice[index]:.3f}", sample.image, sample.ground_truth, probability, mask))
    return examples


def choose_examples(dice: np.ndarray) -> dict[int, str]:
    """Indices of the best, the median and the worst images with their kind, the best first.

    Args:
        dice: (images,) Dice of each image.
    """
    order = np.argsort(-dice, kind="stable")
    first_median = max((len(order) - EXAMPLES) // 2, 0)
    # With few images, the groups overlap: best counts before median, median before worst.
    median = order[first_median : first_median + EXAMPLES]
    groups = {"worst": order[-EXAMPLES:], "median": median, "best": order[:EXAMPLES]}
    kind_of = {int(index): kind for kind, indices in groups.items() for index in indices}
    return {index: kind_of[index] for index in sorted(kind_of, key=lambda index: -dice[index])}
