"""The frames that int8 is calibrated on and that an exported file is verified on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..common.errors import UserError, counted
from ..common.files import IMAGE_SUFFIXES, image_from_bytes, read_file, to_rgb
from ..common.mask_rules import USUAL_MASKS, MaskRules
from ..data.columns import Split
from ..data.dataset import load_splits
from ..data.layouts import layouts_here
from ..data.mask_values import check_mask_rules
from ..data.synthetic import MIN_SIZE, generate
from ..data.transforms import load_seen_sample
from ..image_processing_unet import UNetImageProcessor

MIN_CALIBRATION_IMAGES = 16  # with fewer, the ranges depend on which images they are
MAX_VERIFICATION_IMAGES = 100
SYNTHETIC_FRAMES, SYNTHETIC_SIZE = 8, (288, 384)
VERIFICATION_SIZES = ((1, 1), (17, 31), (256, 256), (1072, 1920))  # (height, width); a wrong resize shows in these


@dataclass(frozen=True)
class Frame:
    """An image to verify on.

    Attributes:
        pixels: (H, W, 3) uint8, RGB.
        ground_truth: (H, W) bool, True for polyp; None if it is not known.
    """

    pixels: np.ndarray
    ground_truth: np.ndarray | None


@dataclass(frozen=True)
class FrameSets:
    """Frames for the two uses.

    Attributes:
        source: Description of where they come from, without paths.
        calibration: (H, W, 3) uint8 each; empty if none are needed.
        verification: At least one.
    """

    source: str
    calibration: list[np.ndarray]
    verification: list[Frame]


def load_frames(
    name: str | None,
    processor: UNetImageProcessor,
    *,
    calibration_images: int,
    config: str | None = None,
    mask_rules: MaskRules = USUAL_MASKS,
) -> FrameSets:
    """Load frames, so that none is used for both calibration and verification.

    Args:
        name: A folder of images, a data set as `load_splits` takes it, or None for synthetic frames.
        processor: Turns images upright and converts them to RGB.
        calibration_images: Number of frames to calibrate on, at most; 0 for none.
        config: The configuration of a data set that has several.
        mask_rules: How masks are read.

    Raises:
        UserError: If the images cannot be read, or are too few to calibrate on.
    """
    if name is None:
        return FrameSets(f"{SYNTHETIC_FRAMES} synthetic frames", [], synthetic_frames())
    if files := images_of_folder(Path(name).expanduser()):
        return frames_of_folder(name, files, processor, calibration_images)
    return frames_of_dataset(name, config, processor, calibration_images, mask_rules)


def synthetic_frames() -> list[Frame]:
    """Frames of one size, with their ground truth."""
    rows = generate(SYNTHETIC_FRAMES, SYNTHETIC_SIZE, seed=0)
    return [Frame(np.array(row["image"]), np.array(row["mask"]) > 0) for row in rows]


def frames_of_unusual_sizes() -> list[Frame]:
    """Synthetic frames without ground truth, one for each of `VERIFICATION_SIZES`."""
    frames = []
    for height, width in VERIFICATION_SIZES:
        row = next(generate(1, (max(height, MIN_SIZE), max(width, MIN_SIZE)), seed=height))
        frames.append(Frame(np.array(row["image"])[:height, :width], None))
    return frames


def images_of_folder(path: Path) -> list[Path]:
    """The images of a folder; empty for a data set, whose images have masks, a metadata file or are in subfolders."""
    if not path.is_dir() or any(path.glob("metadata.*")) or layouts_here(path):
        return []
    return sorted(
        file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def frames_of_folder(
    name: str, files: Sequence[Path], processor: UNetImageProcessor, calibration_images: int
) -> FrameSets:
    """Frames of plain images. With calibration, one image in five is for verification and the others to calibrate on.

    Raises:
        UserError: If one cannot be read, or there are too few to calibrate on.
    """
    calibration: list[Path] = []
    verification = list(files)
    if calibration_images:
        check_count(len(files), name)
        verification = spread(files, max(len(files) // 5, 1))
        calibration = spread([file for file in files if file not in verification], calibration_images)
    return FrameSets(
        "a folder of images",
        [read_frame(file, processor) for file in calibration],
        [Frame(read_frame(file, processor), None) for file in spread(verification, MAX_VERIFICATION_IMAGES)],
    )


def frames_of_dataset(
    name: str, config: str | None, processor: UNetImageProcessor, calibration_images: int, mask_rules: MaskRules
) -> FrameSets:
    """Frames of a data set: of its training split to calibrate on; of validation, or else test, to verify on.

    Raises:
        UserError: If it cannot be loaded, or there are too few samples to calibrate on.
    """
    splits = load_splits(name, config=config)
    if not splits:
        raise UserError(f"{name} has no split for training, validation or test: name its folders or splits so.")
    check_mask_rules(splits, mask_rules)
    calibration: list[Frame] = []
    if calibration_images:
        if "train" not in splits:
            raise UserError(f"{name} has no training split to calibrate on; it has {', '.join(splits)}.")
        check_count(len(splits["train"]), name)
        calibration = read_samples(splits["train"], calibration_images, processor, mask_rules)
    split = next(split for split in ("validation", "test", "train") if split in splits)
    verification = read_samples(splits[split], MAX_VERIFICATION_IMAGES, processor, mask_rules)
    shown_name = "a local data set" if Path(name).expanduser().exists() else name
    return FrameSets(
        f"{shown_name}, verified on its {split} split", [frame.pixels for frame in calibration], verification
    )


def check_count(images: int, name: str) -> None:
    """Refuse to calibrate on too few images.

    Raises:
        UserError: If there are fewer than `MIN_CALIBRATION_IMAGES`.
    """
    if images < MIN_CALIBRATION_IMAGES:
        raise UserError(
            f"{name} has {counted(images, 'image')} to calibrate on: expected {MIN_CALIBRATION_IMAGES} or more "
            "like those to segment."
        )


def spread(entries: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the entries, evenly spread, since neighbours are often frames of one video."""
    count = min(len(entries), most)
    return [entries[index * len(entries) // count] for index in range(count)]


def read_samples(rows: Split, most: int, processor: UNetImageProcessor, mask_rules: MaskRules) -> list[Frame]:
    """At most `most` frames of a split, with their ground truth.

    Raises:
        DatasetError: If an image or a mask cannot be used; the message names it.
    """
    frames = []
    for index in spread(range(len(rows)), most):
        sample = load_seen_sample(rows[index], processor, mask_rules)
        frames.append(Frame(to_frame(sample.image, processor), sample.ground_truth))
    return frames


def read_frame(file: Path, processor: UNetImageProcessor) -> np.ndarray:
    """Read an image as (H, W, 3) uint8, upright.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        image = to_rgb(image_from_bytes(read_file(file)))
        (box,) = processor.fields_of_view(image)
        return to_frame(image.crop(box) if box else image, processor)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} {error}. Replace or remove it.") from error


def to_frame(image: Image.Image, processor: UNetImageProcessor) -> np.ndarray:
    """(H, W, 3) uint8 of an image of any mode."""
    return np.ascontiguousarray(processor.upright(image).permute(1, 2, 0).numpy())
