"""Hashes of frames, by which near-duplicates are recognised: which of two neighbouring areas is brighter.

    first, second = frame_hash(image), frame_hash(other)    # (512,) bool
    (first != second).sum() <= MAX_DISTANCE                 # nearly one picture

Exports of one video differ in compression, size, brightness and border, so their bytes cannot be compared. The hash
recognises a frame; it does not recognise a lesion that the camera has moved past.
"""

import numpy as np
from PIL import Image

# Chosen on the 900 frames of Kvasir-SEG at 384x288: 404,550 pairs, 80,000 of them across its splits.
# - Six pairs are near-duplicates, of one frame or of two frames within a second. They differ in 6, 7, 8, 12, 52 and 55
#   of the 512 bits.
# - All other pairs differ in 141 bits or more upright, and in 132 or more if one is turned: 1 pair in 100,000 in less
#   than 147, 1 in 1,000 in less than 180, half in less than 246.
# - Synthetic frames, 200 of each of four seeds at 64, 96 and 256 pixels, upright and mirrored, differ in 132 or more.
# - Of 200 frames changed on purpose, a distance of 100 finds all after JPEG at quality 50, half or double size, a
#   stretch to 256x256, 20 % more or less brightness, 20 % more contrast, a shift by a pixel, a black border, and a
#   crop of 2.5 % at each side. After a crop of 3 % it finds 96 %, of 4 % 50 %, of 5 % 19 %.
# - Not found: six more pairs across the splits, which matching of SIFT features gave, show one lesion from two views.
#   They differ in 165 to 254 bits, as unrelated frames do. Such pairs within the training split begin at 147.
# What was tried and is worse:
# - Hashing up to the frame's edge: unrelated frames come as near as 109, since all show the endoscope's mask, an
#   octagon with a box in a corner.
# - Leaving dark borders on: a frame with side bars differs in 167 bits from the same frame without.
# - pHash of 16 x 16 bits: 52 for a near-duplicate, 42 for unrelated synthetic frames.
HASH_SIZE = 16  # differences a side, counted to the right and downwards
BITS = 2 * HASH_SIZE**2
MAX_DISTANCE = 100
DARK = 25  # grey level; side bars of recorders are not quite black
LIT_SHARE = 0.1  # a row or column with a smaller share of lit pixels belongs to the dark border
MARGIN = 0.15  # share of the lit area that is cut off at each side
REDUCED_SIDE = 64  # pixels; a square of this side is turned and hashed

# A square's eight symmetries, upright first: data sets that were augmented before their export may hold any of them.
TURNS = (None, *Image.Transpose)


def frame_hash(image: Image.Image) -> np.ndarray:
    """Hash of the middle of the lit area: (`BITS`,) bool."""
    return _difference_hash(_middle(image))


def frame_hashes(image: Image.Image) -> np.ndarray:
    """The same for each of `TURNS`, upright first: (turns, `BITS`) bool."""
    middle = _middle(image)
    return np.stack([_difference_hash(middle if turn is None else middle.transpose(turn)) for turn in TURNS])


def _middle(image: Image.Image) -> Image.Image:
    """The middle of the lit area as a grey square of `REDUCED_SIDE`."""
    grey = image.convert("L")
    left, top, right, bottom = _lit_box(np.asarray(grey))
    across, down = MARGIN * (right - left), MARGIN * (bottom - top)
    return grey.resize(
        (REDUCED_SIDE, REDUCED_SIDE),
        Image.Resampling.LANCZOS,
        box=(left + across, top + down, right - across, bottom - down),
    )


def _difference_hash(picture: Image.Image) -> np.ndarray:
    """`dhash` and `dhash_vertical` of the library imagehash, one after the other: (`BITS`,) bool."""
    wide = np.asarray(picture.resize((HASH_SIZE + 1, HASH_SIZE), Image.Resampling.LANCZOS))
    high = np.asarray(picture.resize((HASH_SIZE, HASH_SIZE + 1), Image.Resampling.LANCZOS))
    return np.concatenate([(wide[:, 1:] > wide[:, :-1]).ravel(), (high[1:] > high[:-1]).ravel()])


def _lit_box(grey: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of (H, W) grey levels without their dark border; all of them if all is dark."""
    height, width = grey.shape
    lit = grey > DARK
    columns, rows = (np.flatnonzero(lit.mean(axis) > LIT_SHARE) for axis in (0, 1))
    if not len(columns) or not len(rows):
        return 0, 0, width, height
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
