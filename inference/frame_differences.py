"""Whether frames are far off those that a model was trained on, by the statistics that are kept with it.

    find_differences(statistics, measured)                # [Difference("darker", 1.0)]
    find_film_differences(statistics, {"a.mp4": measured})    # [FilmDifference("darker", ("a.mp4",))]
    describe_differences(settings, measured, films)       # the lines for the user

Images count as independent of each other. The frames of a film are not: it shows one patient, and often one place for
long. Imports no torch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.special import bdtrc

from ..common.errors import some
from .frame_statistics import LEVELS, MEASURES, OF_PREDICTIONS, FrameStatistics, StatisticsError

TAIL = 0.025  # a frame is far off if it lies beyond all but this share of the training frames
FAR_SHARE = 0.5  # frames differ if more than this share of them are far off on the same side
CHANCE = 0.0005  # and if frames like those of the training would do so more rarely than this
# A film alone has to be further off, nearly throughout.
FILM_TAIL, FILM_SHARE = 0.01, 0.8
FILM_FEWEST = 10  # frames, at least a second apart

Measures: TypeAlias = Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """A respect in which frames differ from those of the training.

    Attributes:
        what: In words, such as "darker".
        share: Of the frames that are far off in it.
    """

    what: str
    share: float


@dataclass(frozen=True)
class FilmDifference:
    """A respect in which films differ from the frames of the training.

    Attributes:
        what: In words, such as "darker".
        films: The names of those of which most frames are far off in it.
    """

    what: str
    films: tuple[str, ...]


def find_differences(statistics: FrameStatistics, measured: Iterable[Measures]) -> list[Difference]:
    """In which respects frames are far off those of the training.

    They are in a measure if more than half of them lie, on the same side, beyond 97.5 % of the training frames, and
    if by chance (each frame with a probability of 2.5 %) that would happen in fewer than 5 of 10,000 sets of so many
    frames: one or two frames never are, of 3 to 5 it takes 3, of more than 5 more than half.

    Args:
        statistics: Of the training.
        measured: Measures of each frame.
    """
    frames = list(measured)
    return [
        Difference(what, float(are_far.mean()))
        for what, are_far in _respects(statistics, frames, TAIL)
        if _are_too_many(int(are_far.sum()), len(are_far))
    ]


def find_film_differences(
    statistics: FrameStatistics, films: Mapping[str, Sequence[Measures]]
) -> list[FilmDifference]:
    """In which respects films are far off the frames of the training.

    A film counts once: it is far off in a measure if more than half of its frames are. That is told if there are too
    many such films by the rule of `find_differences`, or if one of them alone is beyond doubt: of at least 10 frames,
    80 % lie beyond 99 % of the training frames. Presence and uncertainty are left out, since most of a film shows no
    polyp.

    Args:
        statistics: Of the training.
        films: Measures of the frames of each, as `FilmSample` chooses them, by the film's name.
    """
    far: dict[str, list[str]] = {}
    total: dict[str, int] = {}
    certain = set()
    for name, frames in films.items():
        for what, are_far in _respects(statistics, frames, TAIL, without=OF_PREDICTIONS):
            total[what] = total.get(what, 0) + 1
            if are_far.mean() > FAR_SHARE:
                far.setdefault(what, []).append(name)
        for what, are_far in _respects(statistics, frames, FILM_TAIL, without=OF_PREDICTIONS):
            if len(are_far) >= FILM_FEWEST and are_far.mean() >= FILM_SHARE:
                certain.add(what)
    return [
        FilmDifference(what, tuple(names))
        for what, names in far.items()
        if what in certain or _are_too_many(len(names), total[what])
    ]


def _respects(
    statistics: FrameStatistics, frames: Sequence[Measures], tail: float, without: Sequence[str] = ()
) -> Iterator[tuple[str, np.ndarray]]:
    """Each respect, and which of the frames (N,) that have its measure are far off in it."""
    low, high = LEVELS.index(tail), LEVELS.index(1 - tail)
    for name, (below, above) in MEASURES.items():
        quantiles = statistics.quantiles.get(name)
        values = np.array([measures[name] for measures in frames if name in measures])
        if quantiles is None or not len(values) or name in without:
            continue
        if below:
            yield below, values < quantiles[low]
        if above:
            yield above, values > quantiles[high]


def _are_too_many(far: int, total: int) -> bool:
    """Whether so many are far off that it is no chance."""
    return far > FAR_SHARE * total and bool(bdtrc(far - 1, total, TAIL) < CHANCE)


def describe_differences(
    settings: Mapping[str, Any], measured: Iterable[Measures], films: Mapping[str, Sequence[Measures]] | None = None
) -> str:
    """Lines for the user if frames are far off those that a model was trained on; empty if not, or if not known.

    Args:
        settings: Of the model's image processor.
        measured: Measures of each image.
        films: Of frames of each video, by its name.
    """
    try:
        statistics = FrameStatistics.from_settings(settings)
    except StatisticsError as error:
        return (
            f"The model's statistics of its training frames {error}: these frames are not compared with them. "
            "Make them anew with evaluation.py --save_statistics.\n"
        )
    if statistics is None:
        return ""
    films = {name: frames for name, frames in (films or {}).items() if frames}  # an earlier version measured none
    of_images = _line_of_images(find_differences(statistics, measured))
    return of_images + _line_of_films(find_film_differences(statistics, films), len(films))


def _line_of_images(differences: Sequence[Difference]) -> str:
    respects = ", ".join(f"{one.what} ({one.share:.0%} of them)" for one in differences)
    if not respects:
        return ""
    return f"These frames differ from those that the model was trained on: {respects}. Expect lower scores.\n"


def _line_of_films(differences: Sequence[FilmDifference], count: int) -> str:
    """With the names of the films where there are several."""
    if not differences:
        return ""
    if count == 1:
        respects = ", ".join(one.what for one in differences)
        return (
            f"The frames of the video differ from those that the model was trained on: {respects}. "
            "Expect lower scores.\n"
        )
    respects = "; ".join(f"{one.what} ({len(one.films)} of {count}: {some(one.films)})" for one in differences)
    return f"These videos differ from the frames that the model was trained on: {respects}. Expect lower scores.\n"
