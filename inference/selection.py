"""Chooses which images to label next, of those that a run of `predict.py` has segmented.

    found = candidates(Path("out"), done)                           # from the records in the masks
    choose(found, Request(100), Known.of(labelled)).choices         # the best first
    select_images(output, done, Request(100), labelled)             # all of it, and writes selected.csv

A label of nearly the same frame teaches a network little. That of a frame of which it is uncertain may teach it more;
docs/annotate.md has what was measured.
"""

import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from ..common.csv_tables import open_table, write_row
from ..common.errors import UserError, counted, describe_error, printable, some
from ..common.files import image_from_bytes, read_file
from ..common.frame_hashes import BITS, MAX_DISTANCE, frame_hash
from ..common.prefetch import prefetch_map
from ..common.progress import show_progress
from .arguments import SELECT_BY
from .image_run import READ_PIXELS, THREADS, pixels_to_read
from .inputs import IMAGE_OUTPUT, MASKS, SELECTED, Failure, Source, find_inputs
from .output_folder import SCORES, SELECTION, OutputFolder, cannot_write, read_record

RANDOM, UNCERTAINTY, DIVERSE = SELECT_BY
HASHED = 10  # times the number to choose: so many images are compared
PRESENCE_EVERY = 5  # each fifth place is for an image of which it is not known whether it shows a polyp
NEAR_A_HALF = 0.25  # farthest that its presence is from 0.5
UNLIKE = BITS // 2  # bits that unrelated frames differ in, on average; no frame counts as more unlike
COLUMNS = ("rank", "image", "uncertainty", "presence", "why")


@dataclass(frozen=True)
class Candidate:
    """An image that was segmented.

    Attributes:
        source: The image.
        target: Where its copy would be written, below the output folder.
        digest: Hash of its file.
        presence: As `Prediction.presence`.
        uncertainty: As `Prediction.uncertainty`.
        is_marked: Whether its mask has any region.
    """

    source: Source
    target: str
    digest: str
    presence: float
    uncertainty: float
    is_marked: bool

    @property
    def is_near_a_half(self) -> bool:
        return abs(self.presence - 0.5) <= NEAR_A_HALF

    @property
    def why(self) -> str:
        """Why a label of it is worth having, in words."""
        if self.is_near_a_half:
            return "presence near a half"
        return "the outline is uncertain" if self.is_marked else "nothing is marked"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        count: The highest number of images.
        by: "random": any, but no near-duplicates of chosen or labelled images. "uncertainty": the most uncertain,
            however alike. "diverse": one after the other, the image with the highest product of its uncertainty and
            the number of bits, above `MAX_DISTANCE`, by which its hash differs from the nearest hash of the chosen and
            labelled images; so near-duplicates are left out here too. Each fifth place is for the image whose presence
            is nearest to a half, if it is within 0.25.
        seed: Of the random choice.
        copies: Whether to copy the chosen images into `selected/`, each into the folders that it lies in.
    """

    count: int
    by: str = RANDOM
    seed: int = 0
    copies: bool = False


@dataclass(frozen=True)
class Choice:
    """An image to label, and why."""

    candidate: Candidate
    why: str


@dataclass
class Selection:
    """What `choose` found.

    Attributes:
        choices: The best first.
        near_duplicates: Images that were passed over, since a chosen or a labelled one is nearly the same.
        failures: Images that could no longer be read.
    """

    choices: list[Choice] = field(default_factory=list)
    near_duplicates: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """Images that are labelled already.

    Attributes:
        digests: Hashes of their files: these are never chosen.
        hashes: (N, `BITS`) bool, as of `frame_hash`: nor is one that is nearly the same, but for `UNCERTAINTY`.
    """

    digests: frozenset[str]
    hashes: np.ndarray

    @classmethod
    def of(cls, sources: Sequence[Source]) -> "Known":
        """Read them.

        Raises:
            UserError: If one cannot be read.
        """
        digests, hashes = [], []
        for source, (digest, bits) in zip(sources, _read_all(sources), strict=True):
            if isinstance(bits, str):
                raise UserError(f"--select_not: {source.path} {bits}. Mend it, or move it away.")
            digests.append(digest)
            hashes.append(bits)
        return cls(frozenset(digests), np.array(hashes, bool).reshape(-1, BITS))


def find_labelled(named: str | None, outputs: Sequence[Path]) -> list[Source]:
    """The images of --select_not: a folder, a file or a glob.

    Args:
        named: Its value; None if it is not given.
        outputs: As for `find_inputs`.

    Raises:
        UserError: If it names no image, or something that cannot be used.
    """
    if named is None:
        return []
    found = find_inputs([named], *outputs)
    if found.failures:
        raise UserError(f"--select_not: {found.failures[0]}")
    if not found.images:
        raise UserError(f"--select_not {named} names no image: expected the images that are labelled already.")
    return found.images


def candidates(output: Path, done: Iterable[Source]) -> list[Candidate]:
    """Images whose masks a run has written, from the records in these, in order of their names.

    Args:
        output: The output folder.
        done: The inputs whose outputs are complete; videos among them are passed over.

    Raises:
        UserError: If a mask is no longer that of this run.
    """
    found = []
    for source in done:
        if source.is_video:
            continue
        record = read_record(output / source.output(MASKS, IMAGE_OUTPUT))
        if record is None or not record.keys() >= {*SCORES}:
            raise UserError(f"The mask of {source.path} was changed while this ran. Run the same command again.")
        target = source.output(SELECTED, PurePath(source.name).suffix)
        presence, uncertainty = (record[name] for name in SCORES)
        found.append(Candidate(source, target, record["digest"], presence, uncertainty, bool(record["lesions"])))
    return sorted(found, key=lambda candidate: candidate.source.name)


def choose(found: Sequence[Candidate], request: Request, known: Known) -> Selection:
    """Choose images to label.

    Args:
        found: Those to choose from.
        request: How many, and how.
        known: Images that are labelled already.
    """
    count = request.count
    new = [candidate for candidate in found if candidate.digest not in known.digests]
    if request.by == RANDOM:
        pool = random.Random(request.seed).sample(new, len(new))[: HASHED * count]
        return _choose_unlike(pool, request, known)
    new.sort(key=lambda candidate: -candidate.uncertainty)
    if request.by == UNCERTAINTY:
        return Selection([Choice(candidate, candidate.why) for candidate in new[:count]])
    return _choose_unlike(_to_compare(new, count), request, known)


def _to_compare(ordered: Sequence[Candidate], count: int) -> list[Candidate]:
    """The most uncertain images, and those with a presence nearest to a half, the most uncertain first."""
    half = sorted((one for one in ordered if one.is_near_a_half), key=lambda one: abs(one.presence - 0.5))
    names = {one.source.name for one in (*ordered[: HASHED * count], *half[: HASHED * count])}
    return [one for one in ordered if one.source.name in names]


def _choose_unlike(pool: Sequence[Candidate], request: Request, known: Known) -> Selection:
    """Choose from a pool, without near-duplicates of what is chosen or known; if by chance, in the pool's order."""
    selection = Selection()
    read, hashes = _hashed(pool, selection.failures)
    uncertainty = np.array([one.uncertainty for one in read])
    from_half = np.array([abs(one.presence - 0.5) for one in read])
    distance = np.full(len(read), UNLIKE)
    for bits in known.hashes:
        distance = np.minimum(distance, _distances(hashes, bits))
    is_free = np.ones(len(read), bool)
    while len(selection.choices) < request.count and (can_be := is_free & (distance > MAX_DISTANCE)).any():
        for_presence = can_be & (from_half <= NEAR_A_HALF)
        if request.by == RANDOM:
            index = int(can_be.argmax())
        elif len(selection.choices) % PRESENCE_EVERY == PRESENCE_EVERY - 1 and for_presence.any():
            index = int(np.where(for_presence, from_half, np.inf).argmin())
        else:
            index = int(np.where(can_be, uncertainty * (distance - MAX_DISTANCE), -1.0).argmax())
        selection.choices.append(Choice(read[index], RANDOM if request.by == RANDOM else read[index].why))
        is_free[index] = False
        distance = np.minimum(distance, _distances(hashes, hashes[index]))
    selection.near_duplicates = int((is_free & (distance <= MAX_DISTANCE)).sum())
    return selection


def _hashed(pool: Sequence[Candidate], failures: list[Failure]) -> tuple[list[Candidate], np.ndarray]:
    """The images that can be read, and their hashes (N, `BITS`) bool; the others are added to the failures."""
    read, hashes = [], []
    for candidate, (_, bits) in zip(pool, _read_all([one.source for one in pool], shown=True), strict=True):
        if isinstance(bits, str):
            failures.append(Failure(candidate.source.path, f"{bits}, so it was not selected"))
        else:
            read.append(candidate)
            hashes.append(bits)
    return read, np.array(hashes, bool).reshape(-1, BITS)


def _distances(hashes: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(N,) number of bits in which each of (N, `BITS`) differs from (`BITS`,)."""
    return np.count_nonzero(hashes != one, axis=1)


def _read_all(sources: Sequence[Source], shown: bool = False) -> list[tuple[str, np.ndarray | str]]:
    """For each image, the hash of its file, and `frame_hash` or why it cannot be read."""

    def read(source: Source) -> tuple[str, np.ndarray | str]:
        try:
            content = read_file(source.path)
            return hashlib.sha256(content).hexdigest(), frame_hash(image_from_bytes(content))
        except OSError as error:
            return "", f"cannot be read ({error.strerror or error})"
        except Exception as error:  # Pillow's readers raise errors of all kinds for damaged files
            return "", describe_error(error)

    limits = {"threads": THREADS, "ahead": 2 * THREADS, "size": pixels_to_read, "largest_sum": READ_PIXELS}
    found = []
    with (
        closing(prefetch_map(read, sources, **limits)) as results,
        show_progress("Comparing", "image", len(sources), shown=shown) as progress,
    ):
        for result in results:
            found.append(result)
            progress.update()
    return found


def select_images(
    output: OutputFolder, done: Iterable[Source], request: Request, labelled: Sequence[Source]
) -> list[Failure]:
    """Choose images, write `selected.csv` and, on request, copies of them, and print what was chosen.

    Args:
        output: The output folder.
        done: The inputs whose outputs are complete.
        request: How many, and how.
        labelled: Images that are labelled already.

    Returns:
        The images that could not be selected.

    Raises:
        UserError: If a labelled image cannot be read, something cannot be written, or the folder of the copies holds
            files that are not of this choice. These are kept.
    """
    found = candidates(output.path, done)
    selection = choose(found, request, Known.of(labelled))
    if request.copies:
        _write_copies(output, selection)
    _write_table(output, selection.choices)
    near = counted(selection.near_duplicates, "near-duplicate")
    notes = f"; {near} of these or of labelled ones left out" if selection.near_duplicates else ""
    number = f"{len(selection.choices):,} of {counted(len(found), 'image')} to label next"
    table = printable(str(output.path / SELECTION))
    print(f"{table}: {number} ({request.by}){notes}.")
    if len(selection.choices) < request.count:
        print(f"--select {request.count} asks for more images than there are to choose from.")
    return selection.failures


def _write_copies(output: OutputFolder, selection: Selection) -> None:
    """Copy the chosen images; one that has changed since it was segmented is a failure, and is no longer chosen."""
    folder = output.path / SELECTED
    wanted = {output.path / choice.candidate.target for choice in selection.choices}
    # Hidden files are those of file managers, as .DS_Store.
    there = [Path(parent, name) for parent, _, files in os.walk(folder) for name in files if not name.startswith(".")]
    if others := sorted(str(path) for path in there if path not in wanted):
        raise UserError(
            f"{folder} holds files that are not of this choice: {some(others)}. Nothing was selected, and they are "
            f"kept. Move {folder} away, or leave --select_copy out."
        )
    copied = []
    for choice in selection.choices:
        source, target = choice.candidate.source, output.path / choice.candidate.target
        try:
            content = read_file(source.path)
            if hashlib.sha256(content).hexdigest() != choice.candidate.digest:
                raise ValueError("was changed while this ran, so it was not selected")
            if not target.exists():
                output.write(target, content)
            elif read_file(target) != content:
                raise ValueError(f"was not selected, since {target} is there and differs from it: move that away")
        except (OSError, ValueError) as error:
            selection.failures.append(Failure(source.path, describe_error(error)))
        else:
            copied.append(choice)
    selection.choices[:] = copied


def _write_table(output: OutputFolder, choices: Sequence[Choice]) -> None:
    table = output.path / SELECTION
    output.check()
    try:
        with open_table(table) as file:
            write_row(file, COLUMNS)
            for rank, choice in enumerate(choices, start=1):
                one = choice.candidate
                scores = (f"{one.uncertainty:.6f}", f"{one.presence:.6f}")
                write_row(file, [rank, one.source.name, *scores, choice.why])
    except OSError as error:
        raise cannot_write(table, error) from error
