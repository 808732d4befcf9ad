"""Layouts of folders: where the images and their masks lie, and which two files are a pair.

layouts = find_layouts(Path("PraNet"))  # of TrainDataset/ and of each data set in TestDataset/
layouts[0].name, layouts[0].match().pairs  # "TrainDataset", {"7": (image, mask), ...}

What published data sets and annotation programs call their folders and files is in the four tables below.
"""

import json
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from ..common.errors import counted, printable, some
from ..common.files import IMAGE_SUFFIXES, read_file
from .problems import refuse
from .samples import DatasetError
from .split_names import SPLIT_NAMES, known_split, plain

logger = logging.getLogger(__name__)

# Names of folders, as `plain` gives them; "train" or another word may stand before or after, as in trainMasks.
IMAGE_FOLDERS = (
    *("images", "image", "imgs", "img", "frames", "frame", "pictures", "inputs", "input", "imgdir"),
    "jpegimages",  # Pascal VOC, as CVAT and labelme export it
    *("original", "originals", "originalimages"),  # CVC-ClinicDB
    "bbdd",  # CVC-EndoSceneStill
    "etislaribpolypdb",
    "polyps",  # PICCOLO
)
MASK_FOLDERS = (
    *("masks", "mask", "segmentations", "segmentation", "segmentationmasks", "polypmasks"),
    *("labels", "label", "annotations", "annotation", "annot", "ann", "anndir", "targets", "target"),
    *("segmentationclass", "segmentationclasspng"),  # Pascal VOC, as CVAT and labelme export it
    *("groundtruth", "groundtruths", "gt", "gts"),  # CVC-ClinicDB, ETIS-LaribPolypDB
    "gtpolyp",  # CVC-EndoSceneStill, beside gtlumen and others
    "masksmachine",  # Supervisely
)
# What stands before or after the image's name in that of its mask, as frame7_mask.png; and in that of an image.
MASK_WORDS = (
    *(r"masks?", r"gts?", r"labels?", r"seg(?:m|mentation|mentations)?", r"ground[ _-]?truth", r"annot(?:ation)?"),
    r"corrected",  # PICCOLO
    r"p(?=\d)",  # ETIS-LaribPolypDB
)
IMAGE_WORDS = (r"images?", r"imgs?", r"frames?", r"(?<=_)0000")  # nnU-Net numbers an image's channels
LABEL_STUDIO_MASK = re.compile(r"task-(\d+)-annotation-")
UPLOAD_CODE = r"[0-9a-f]{8}-"  # before the name of a file that was uploaded to Label Studio

DEEPEST = 3  # folders below the given one in which layouts are looked for
# Files that say themselves which images there are.
TABLES = ("*.parquet", "*.arrow", "metadata.csv", "metadata.jsonl")
PICTURE = (
    "images/frame1.jpg  images/frame2.jpg ...",
    "masks/frame1.png   masks/frame2.png ...",
    "or train/images/ train/masks/ val/images/ val/masks/, or frame1.jpg beside frame1_mask.png (docs/data.md).",
)


@dataclass(frozen=True)
class Match:
    """The files of a layout: names are the images' paths in their folder without ending.

    Attributes:
        folder: Of the layout.
        pairs: Image and mask of each name, in order of the names.
        without_mask, without_image: The images, and the masks, that have no partner, by their names.
    """

    folder: Path
    pairs: dict[str, tuple[Path, Path]]
    without_mask: dict[str, Path]
    without_image: dict[str, Path]

    def check_complete(self) -> None:
        """Check that every file has a partner.

        Raises:
            DatasetError: If not; the message names the files.
        """
        for kind, alone in (("mask", self.without_mask), ("image", self.without_image)):
            if alone:
                rule = (
                    "Images and masks must have the same file names, their endings and words such as _mask apart; the "
                    "mask of a frame without polyp is black."
                )
                files = counted(len(alone), "file")
                found = f"{self.folder}: {files} with no {kind} of the same name: {some(list(alone))}."
                refuse(
                    DatasetError(f"{found} {rule}"), *alone.values(), each=f"has no {kind} of the same name. {rule}"
                )


@dataclass(frozen=True)
class Layout:
    """A folder of images and one of their masks.

    Attributes:
        name: The split or the data set that they are, as "train" or "TestDataset/CVC-300"; "" if there is only one.
        folder: The folder that holds both.
        images, masks: The two folders; one and the same if the masks lie beside their images.
    """

    name: str
    folder: Path
    images: Path
    masks: Path

    def match(self) -> Match:
        """Find the pairs.

        Raises:
            DatasetError: If there is none, a file has several partners, or one is a broken link.
        """
        images = image_files(self.images, nested=self.images != self.folder)
        if self.images == self.masks:
            masks = {name: images.pop(name) for name in _masks_among(images)}
        else:
            masks = image_files(self.masks)
        pairs = _pairs(self.folder, images, masks)
        if not images or not masks:
            raise DatasetError(
                f"{self.folder}: {self.images.name}/ holds {counted(len(images), 'image')} and {self.masks.name}/ "
                f"{counted(len(masks), 'mask')}. Expected files that end in {', '.join(IMAGE_SUFFIXES)} in both."
            )
        return Match(
            self.folder,
            {image: (images[image], masks[pairs[image]]) for image in sorted(pairs)},
            {name: images[name] for name in sorted(images.keys() - pairs.keys())},
            {name: masks[name] for name in sorted(masks.keys() - set(pairs.values()))},
        )


def find_layouts(folder: Path, deepest: int = DEEPEST) -> list[Layout]:
    """The layouts in a folder, or else in the folders below it; none if there is nothing of the kind.

    Raises:
        DatasetError: If it is not clear which folders are meant, or one cannot be listed.
    """
    if layouts := layouts_here(folder):
        return layouts
    if deepest == 0:
        return []
    below = {part.name: layouts for part in subfolders(folder) if (layouts := find_layouts(part, deepest - 1))}
    if len(below) == 1:  # as an archive's own folder is
        ((name, layouts),) = below.items()
        name = name if known_split(name) in SPLIT_NAMES else ""
        return [replace(layout, name=layout.name or name) for layout in layouts]
    return [
        replace(layout, name="/".join(filter(None, (name, layout.name))))
        for name, layouts in below.items()
        for layout in layouts
    ]


def layouts_here(folder: Path) -> list[Layout]:
    """The layouts whose folders lie in `folder` itself.

    Raises:
        DatasetError: If it is not clear which folders are meant, or one cannot be listed.
    """
    parts = subfolders(folder)
    masks = _folders_of(MASK_FOLDERS, parts)
    images = _folders_of(IMAGE_FOLDERS, [part for part in parts if not any(part in found for found in masks.values())])
    for part in parts:  # train/ beside train_masks/
        if plain(part.name) in masks:
            images.setdefault(plain(part.name), [part])
    if masks.keys() == {""} and not images and any(map(is_image, entries(folder))):
        images[""] = [folder]
    layouts = [
        Layout(word, folder, _only(images[word], "images"), _only(masks[word], "masks"))
        for word in sorted(images.keys() & masks.keys())
    ]
    if not layouts and not any(file for pattern in TABLES for file in folder.glob(pattern)):
        names = image_files(folder, nested=False) if _is_flat(folder) else {}
        return [Layout("", folder, folder, folder)] if names else []
    if len(layouts) == 1 and known_split(layouts[0].name) not in SPLIT_NAMES:
        layouts = [replace(layouts[0], name="")]
    return [part for layout in layouts for part in _by_split(layout)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in order of their names; hidden ones, and what macOS adds to archives, are left out."""
    return [entry for entry in entries(folder) if entry.is_dir()]


def entries(folder: Path) -> list[Path]:
    """What a folder holds, in order of the names; hidden entries are left out.

    Raises:
        DatasetError: If it cannot be listed, or holds a link to what is not there.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from error
    found = [folder / name for name in names if not name.startswith(".") and name != "__MACOSX"]
    broken = {path for path in found if path.is_symlink() and not os.path.exists(path)}
    for path in sorted(broken):
        text = f"{path} is a link to {os.readlink(path)}, which is not there. Restore that or remove the link."
        refuse(DatasetError(text), path)
    return [path for path in found if path not in broken]


def is_image(path: Path) -> bool:
    """Whether a file's name has an image's ending."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def holds_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it, but for those of COCO's panoptic segmentation.

    Raises:
        DatasetError: As `image_files` does.
    """
    return any(is_image(file) and not is_panoptic(file.relative_to(folder)) for file in files_below(folder))


def is_panoptic(path: Path) -> bool:
    """Whether a path leads into a folder such as panoptic_val2017, whose images have the names of frames."""
    return any(plain(part).startswith("panoptic") for part in path.parts[:-1])


def image_files(folder: Path, nested: bool = True) -> dict[str, Path]:
    """The images of a folder by their paths in it, without ending; those of the folders in it too, if `nested`.

    Raises:
        DatasetError: If two have the same name, or one is a broken link.
    """
    files: dict[str, Path] = {}
    ignored = []
    for file in files_below(folder) if nested else entries(folder):
        if not is_image(file):
            ignored += [] if file.is_dir() else [file.name]
            continue
        name = unicodedata.normalize("NFC", file.relative_to(folder).with_suffix("").as_posix())
        if name in files:
            error = DatasetError(
                f"{folder} holds both {files[name].name} and {file.name}; pairs are found by the name without its "
                "ending, so remove or rename one."
            )
            refuse(error, file)
            continue
        files[name] = file
    if ignored:
        logger.warning("%s: ignored files that are no images: %s", printable(str(folder)), some(ignored))
    return files


def describe_folder(folder: Path) -> str:
    """What a folder holds, for a message: "images/ (2 .jpg), labels/ (2 .txt), notes.md"."""
    described = []
    for entry in entries(folder):
        name = entry.name + ("/" if entry.is_dir() else "")
        if entry.is_dir():
            inside = Counter("folders" if part.is_dir() else part.suffix or "files" for part in entries(entry))
            name += f" ({', '.join(f'{count} {kind}' for kind, count in inside.most_common(3)) or 'empty'})"
        described.append(name)
    return some(described, most=8) or "nothing"


def files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """All files below a folder; `above` holds the real paths of the folders that it was reached through."""
    real = os.path.realpath(folder)
    if real in above:
        raise DatasetError(f"{folder} is a link to a folder above it: remove the link.")
    for entry in entries(folder):
        if entry.is_dir():
            yield from files_below(entry, above | {real})
        else:
            yield entry


def _folders_of(kinds: Sequence[str], folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The folders with images that have one of the names, by the word beside it, such as "train" of trainMasks."""
    found = defaultdict(list)
    for folder in folders:
        word = _word_beside(folder.name, kinds)
        if word is not None and holds_images(folder):
            found[word].append(folder)
    return dict(found)


def _word_beside(name: str, kinds: Sequence[str]) -> str | None:
    """ "" if a folder's name is one of the names; what stands before or after that; None if it is not in it."""
    if plain(name) in kinds:
        return ""
    kind = "|".join(sorted(kinds, key=len, reverse=True))
    # Short names need a mark between: "gt" is no part of "length".
    long = "|".join(sorted((kind for kind in kinds if len(kind) > 3), key=len, reverse=True))
    separated = re.fullmatch(rf"(?:{kind})[\W_]+(.+)|(.+)[\W_]+(?:{kind})", name.casefold())
    joined = re.fullmatch(rf"(?:{long})(.+)|(.+?)(?:{long})", plain(name))
    found = separated or joined
    return plain(found[1] or found[2]) if found else None


def _only(folders: Sequence[Path], usual: str) -> Path:
    """The one folder, or the one that has the usual name."""
    chosen = [folder for folder in folders if folder.name == usual] or list(folders)
    if len(chosen) > 1:
        raise DatasetError(
            f"{chosen[0].parent}: {some([f'{folder.name}/' for folder in chosen])} could each hold the {usual}. "
            f"Rename the right one to {usual}/, or move the other away."
        )
    return chosen[0]


def _by_split(layout: Layout) -> list[Layout]:
    """A layout for each split, if images and masks lie in folders of splits, as images/train/; or the layout."""
    if layout.folder in (layout.images, layout.masks):
        return [layout]
    images, masks = ({part.name: part for part in subfolders(kind)} for kind in (layout.images, layout.masks))
    is_split = [known_split(name) in SPLIT_NAMES for name in images | masks]
    if not is_split or not all(is_split) or images.keys() != masks.keys():
        return [replace(layout, images=_innermost(layout.images), masks=_innermost(layout.masks))]
    return [
        Layout("/".join(filter(None, (layout.name, name))), layout.folder, images[name], masks[name])
        for name in images
    ]


def _innermost(folder: Path) -> Path:
    """The folder, or what it holds if that is one folder and nothing else: train/train/ of an unpacked archive."""
    inside = entries(folder)
    return _innermost(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


def _is_flat(folder: Path) -> bool:
    """Whether masks lie beside their images, as frame7_mask.png beside frame7.jpg."""
    stems = {unicodedata.normalize("NFC", file.stem) for file in entries(folder) if is_image(file)}
    return bool(_masks_among(stems))


def _masks_among(names: Iterable[str]) -> set[str]:
    """Those of the names that are another one of them and a word for a mask."""
    known = {name.casefold() for name in names}
    return {name for name in names if (image := _without(MASK_WORDS, name)) != name.casefold() and image in known}


def _pairs(folder: Path, images: Iterable[str], masks: Iterable[str]) -> dict[str, str]:
    """The mask's name of each image that has one.

    Raises:
        DatasetError: If an image could have several, or a mask be of several.
    """
    pairs: dict[str, str] = {}
    of_image, of_mask = partial(_without, IMAGE_WORDS), partial(_without, MASK_WORDS)
    of_task = partial(_image_of_task, _images_of_tasks(folder, masks))
    # The closest match first: what has a partner is out of the question for what follows.
    steps: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
        (str, str),
        (str.casefold, str.casefold),
        (str.casefold, of_mask),
        (of_image, of_mask),
        (_without_upload_code, of_task),
    )
    for image_key, mask_key in steps:
        free_images = _by_key([name for name in images if name not in pairs], image_key)
        taken = set(pairs.values())
        free_masks = _by_key([name for name in masks if name not in taken], mask_key)
        for key in sorted(free_images.keys() & free_masks.keys()):
            for kind, others, names in (("masks", "image", free_masks[key]), ("images", "mask", free_images[key])):
                if len(names) > 1:
                    error = DatasetError(
                        f"{folder}: the {kind} {some(names)} are all of the {others} {key}. Expected one: merge them "
                        "into one file, or move the others away."
                    )
                    refuse(error, *(folder / name for name in names[1:]))
            pairs[free_images[key][0]] = free_masks[key][0]
    return pairs


def _by_key(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name in names:
        found[key(name)].append(name)
    return found


def _without(words: Sequence[str], name: str) -> str:
    """A file's name without a word before or after it, and without an image's ending, as of frame7.jpg_mask."""
    parent, slash, stem = name.casefold().rpartition("/")
    word = "|".join(words)
    bare = re.fullmatch(rf"(?:(?:{word})(?:[\W_]+|(?=\d)))?(.+?)(?:(?:[\W_]+|(?<=\d))(?:{word}))?", stem)
    stem = bare[1] if bare else stem
    ending = next((suffix for suffix in IMAGE_SUFFIXES if stem.endswith(suffix)), "")
    return parent + slash + stem.removesuffix(ending)


def _images_of_tasks(folder: Path, masks: Iterable[str]) -> dict[str, str]:
    """The image of each of Label Studio's tasks, from its JSON export in the folder; none if no mask is named so."""
    if not any(map(LABEL_STUDIO_MASK.match, masks)):
        return {}
    images: dict[str, str] = {}
    for file in folder.glob("*.json"):
        try:
            tasks = json.loads(read_file(file))
        except (OSError, ValueError):
            continue
        for task in tasks if isinstance(tasks, list) else []:
            fields = task.get("data", task) if isinstance(task, dict) else {}
            paths = [unquote(path) for path in fields.values() if isinstance(path, str)]
            names = [re.split(r"[/\\=]", path)[-1] for path in paths if path.lower().endswith(IMAGE_SUFFIXES)]
            images |= {str(task["id"]): _without_upload_code(Path(name).stem) for name in names if "id" in task}
    return images


def _image_of_task(images: Mapping[str, str], mask: str) -> str:
    task = LABEL_STUDIO_MASK.match(mask)
    return images.get(task[1], mask) if task else mask


def _without_upload_code(name: str) -> str:
    return re.sub(rf"^{UPLOAD_CODE}", "", name.casefold())
