"""Masks and probability maps that another program wrote, as probabilities of polyp."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.errors import UserError
from ..common.files import IMAGE_SUFFIXES, image_from_bytes, read_file

SUFFIXES = (".npy", *IMAGE_SUFFIXES)


class PredictionFiles:
    """The files of a folder, one for each image, found by the image's name without ending.

    An image file holds a mask or probabilities: with 16 bits from 0 to 65535, with 8 bits from 0 to 255, or 0 and 1 if
    no file of the folder has a higher value. A .npy file holds probabilities from 0 to 1, or a mask of booleans.

    Args:
        folder: Holds the files; folders in it are ignored.

    Raises:
        UserError: If it is no folder, holds no such file, or two of one name.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}: expected a mask or probability map for each image in it.")
        self.folder = folder
        self._files: dict[str, Path] = {}
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
                continue
            if file.stem in self._files:
                raise UserError(
                    f"{folder} holds both {self._files[file.stem].name} and {file.name}; a prediction is found by its "
                    "name without ending, so remove or rename one."
                )
            self._files[file.stem] = file
        if not self._files:
            raise UserError(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}.")
        # A single file is not enough to decide: a dim map of probabilities may have no level above 1 either.
        self._highest = 1 if all(_highest_level(file) <= 1 for file in self._files.values()) else 255

    def probability(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """The prediction for the image `name` of `size` (height, width): (H, W) float32 in [0, 1].

        Raises:
            UserError: If it is missing, has another size, or holds no probabilities.
        """
        if name not in self._files:
            raise UserError(
                f"{self.folder} has no prediction for the image {name}: expected {name} with one of the "
                f"endings {', '.join(SUFFIXES)}. It has {len(self._files)} such files, as {next(iter(self._files))}."
            )
        file = self._files[name]
        array = _read(file)
        if array.shape != size:
            raise UserError(
                f"{file} has the shape {array.shape} and its image {name} {size} (height, width). A prediction must "
                "have its image's own size: resize it before it is scored."
            )
        if array.dtype == np.uint16:
            return (array / np.float32(65535)).astype(np.float32)
        if array.dtype == np.uint8:
            return (array / np.float32(self._highest)).astype(np.float32)
        values = array.astype(np.float32)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UserError(f"{file} holds other values than probabilities from 0 to 1. Save those, not logits.")
        return values


def _highest_level(file: Path) -> float:
    """The highest value of an image of 8 bits; 0 for other types, whose scale is known."""
    array = _read(file)
    return float(array.max(initial=0)) if array.dtype == np.uint8 else 0.0


def _read(file: Path) -> np.ndarray:
    """(H, W) bool, uint8, uint16 or floating point."""
    try:
        content = read_file(file)
        if file.suffix.lower() == ".npy":
            array = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            array = _channel(image_from_bytes(content))
    except (OSError, ValueError, EOFError, MemoryError) as error:  # the header of a .npy file may state any size
        raise UserError(f"The prediction {file} cannot be read ({error}). Write it again.") from error
    # Other integers are a mask of 0 and 1, or else out of range.
    return array if array.dtype in (np.bool_, np.uint8, np.uint16) else array.astype(np.float32)


def _channel(image: Image.Image) -> np.ndarray:
    """(H, W) of an image: 16 bits stay 16 bits, a palette's indices stay indices, colours become grey."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image if image.mode in ("1", "L", "P", "F") else image.convert("L"))
