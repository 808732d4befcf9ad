"""Masks and probability maps that another program wrote, as probabilities of polyp."""

import hashlib
import io
import logging
import os
import unicodedata
from pathlib import Path

import numpy as np

from ..common.errors import UserError
from ..common.files import IMAGE_SUFFIXES, image_from_bytes, read_file
from ..image_processing_unet import mask_levels

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", *IMAGE_SUFFIXES)
FULL_SCALES = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


class PredictionFiles:
    """The files of a folder, one for each image, found by the image's name without ending.

    An image file holds a mask or probabilities: with 16 bits from 0 to 65535, with 8 bits from 0 to 255, or 0 and 1 if
    no file of the folder with as many bits has a higher value. A .npy file holds the same, probabilities from 0 to 1,
    or a mask of booleans.

    Args:
        folder: Holds the files; folders in it are ignored.

    Raises:
        UserError: If it is no folder, holds no such file, or two of one name, or the scale of its values is not known.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}: expected a mask or probability map for each image in it.")
        self.folder = folder
        self._files: dict[str, Path] = {}
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
                continue
            name = unicodedata.normalize("NFC", file.stem)
            if name in self._files:
                raise UserError(
                    f"{folder} holds both {self._files[name].name} and {file.name}; a prediction is found by its "
                    "name without ending, so remove or rename one."
                )
            self._files[name] = file
        if not self._files:
            raise UserError(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}.")
        self._scales = self._scales_of_types()

    @property
    def digest(self) -> str:
        """Hash of the files and their names."""
        digest = hashlib.sha256()
        for file in self._files.values():
            digest.update(hashlib.sha256(os.fsencode(file.name)).digest())
            digest.update(hashlib.sha256(read_file(file)).digest())
        return digest.hexdigest()

    def _scales_of_types(self) -> dict[np.dtype, int]:
        """The level that means 1, of 8 and of 16 bits.

        A single file is not enough to decide: a dim map of probabilities may have no level above 1 either.
        """
        levels: dict[np.dtype, set[int]] = {}
        for file in self._files.values():
            array = _read(file)
            if array.dtype in FULL_SCALES:
                found = np.flatnonzero(np.bincount(array.ravel()))
                levels.setdefault(array.dtype, set()).update(found.tolist())
        return {dtype: self._scale(dtype, values) for dtype, values in levels.items()}

    def _scale(self, dtype: np.dtype, levels: set[int]) -> int:
        highest, full = max(levels, default=0), FULL_SCALES[dtype]
        if highest <= 1:
            return 1
        is_mask = len(levels - {0}) == 1 and highest <= full // 2
        if is_mask or (dtype == np.uint16 and highest <= 255):
            raise UserError(
                f"{self.folder}: the highest value in its files of {8 * dtype.itemsize} bits is {highest}: expected "
                f"probabilities from 0 to {full}, or masks of 0 and 1 or of 0 and {full}. Write one of these, or .npy "
                "files with probabilities from 0 to 1."
            )
        if highest <= full // 2:
            logger.warning(
                "%s: the highest value in its files of %d bits is %d of %d, a probability of %.3f.",
                *(self.folder, 8 * dtype.itemsize, highest, full, highest / full),
            )
        return full

    def probability(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """The prediction for the image `name` of `size` (height, width): (H, W) float32 in [0, 1].

        Raises:
            UserError: If it is missing, has another size, or holds no probabilities.
        """
        name = unicodedata.normalize("NFC", name)
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
        if array.dtype in self._scales:
            return (array / np.float32(self._scales[array.dtype])).astype(np.float32)
        values = array.astype(np.float32)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UserError(f"{file} holds other values than probabilities from 0 to 1. Save those, not logits.")
        return values


def _read(file: Path) -> np.ndarray:
    """(H, W) bool, uint8, uint16 or float32."""
    try:
        content = read_file(file)
        if file.suffix.lower() == ".npy":
            array = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            array = mask_levels(image_from_bytes(content))
        if array.dtype.kind not in "buif":
            raise ValueError(f"it holds {array.dtype}, not numbers")
    except (OSError, ValueError, EOFError, MemoryError) as error:  # the header of a .npy file may state any size
        raise UserError(f"The prediction {file} cannot be read ({error}). Write it again.") from error
    array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.int32 and array.size and array.min() >= 0 and array.max() <= 65535:
        return array.astype(np.uint16)  # Pillow opens some files of 16 bits so
    # Other integers are a mask of 0 and 1, or else out of range.
    return array if array.dtype in (np.bool_, *FULL_SCALES) else array.astype(np.float32)
