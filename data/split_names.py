"""Names of splits: which mean the training samples, the validation samples and the test samples.

Imports nothing heavy: commands read it before they load anything.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import TypeVar, cast

Name = TypeVar("Name", str, None, str | None)

SPLIT_NAMES = {
    "train": ("train", "training", "trainset", "traindataset", "tr"),
    "validation": ("validation", "val", "valid", "dev", "valset", "validationset", "valdataset", "validationdataset"),
    "test": ("test", "testing", "testset", "testdataset", "ts"),
}


def plain(name: str) -> str:
    """A name without case, spaces, dashes and underscores: "Ground Truth" and "ground_truth" are one."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())


def known_split(name: Name) -> Name:
    """The split that a name, in any case, stands for: "train", "validation" or "test"; anything else as it is."""
    known = (split for split, aliases in SPLIT_NAMES.items() if name and plain(name) in aliases)
    return cast(Name, next(known, name))


def split_in_name(name: str) -> str:
    """The split that a word of a name says, as "train" of instances_train2017; "" if none does, or two do."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if len(word) > 2]
    found = {split for word in words if (split := known_split(word)) in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else ""


def find_split(name: str, there: Iterable[str]) -> str | None:
    """The one among the splits that are there which a user means; case does not matter, nor the folders above.

    Returns:
        None if there is no such split, or several.
    """
    names = list(there)
    kinds = (
        lambda split: split,
        lambda split: split.casefold(),
        known_split,
        lambda split: split.rsplit("/", maxsplit=1)[-1].casefold(),
    )
    for kind in kinds:
        found = [split for split in names if kind(split) == kind(name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None
