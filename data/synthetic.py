"""Synthetic colonoscopy frames with exact polyp masks, for tests, demos and machines without data.

    from unet_kvasir_seg.data.synthetic import generate
    samples = generate(num_samples=400, image_size=256, seed=0)  # dicts: "image" PIL RGB, "mask" PIL L

The picture in the README:

    python -m unet_kvasir_seg.data.synthetic docs/images/synthetic.png --seed 4

A frame is painted back to front: the wall of the colon (folds around a dark lumen, vessels), distractors (bulges,
residue), polyps, bubbles, and last the effects of the camera (highlights, noise, black border). The centre of a frame
is (0, 0), and half its short side is the unit of length, so that frames of all sizes look alike.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ..common.errors import user_errors
from ..common.files import atomic_file

MIN_SIZE = 32
POLYP_COUNTS = (0.12, 0.70, 0.13, 0.05)  # shares of frames with 0, 1, 2 and 3 polyps
POLYP_KINDS = {"dome": 0.4, "lobed": 0.2, "stalked": 0.15, "flat": 0.25}  # and their shares
OUTLINE_COLOUR = (80, 255, 120)  # in the picture

Array = np.ndarray


def generate(num_samples: int, image_size: int | tuple[int, int] = 256, seed: int = 0) -> Iterator[dict]:
    """Yields `num_samples` frames as `{"image": PIL RGB, "mask": PIL L of 0 and 255}`.

    `image_size` is one side, or (height, width). Frame i depends on `seed`, i and the size alone, so a short sequence
    is the beginning of a long one.

    Raises:
        ValueError: If `num_samples` is below 1, or a side below 32 pixels.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1")
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"image_size is {image_size}; expected at least {MIN_SIZE} pixels a side")
    return (_frame(np.random.default_rng([seed, index]), height, width) for index in range(num_samples))


@dataclass
class _Canvas:
    """The scene painted so far, as float32, so that light brighter than white is kept until exposure."""

    x: Array  # (1, W), see _grid
    y: Array  # (H, 1)
    grain: Array  # (H, W) fine noise: textures, and where spots of light form
    albedo: Array  # (3, H, W) colour under white light
    light: Array  # (H, W)
    gloss: Array  # (H, W) how strongly the lamp is reflected
    mask: Array  # (H, W) bool

    def crop(self, x: float, y: float, reach: float) -> _Canvas:
        """The square from `reach` before (x, y) to `reach` after it. It consists of views: painting it paints this."""
        rows = slice(*np.searchsorted(self.y[:, 0], (y - reach, y + reach)))
        columns = slice(*np.searchsorted(self.x[0], (x - reach, x + reach)))
        fields = (self.grain, self.albedo, self.light, self.gloss, self.mask)
        return _Canvas(self.x[:, columns], self.y[rows], *(field[..., rows, columns] for field in fields))


@dataclass
class _Look:
    """How an object on the wall is painted."""

    tint: tuple[float, float, float]  # its colour divided by the wall's, for each channel
    relief: float  # height in radii, which shades it
    lift: float  # 0: lit like the wall behind it; 1: lit evenly
    softness: float  # width in radii of the soft outline
    grain: float  # strength of its texture
    shadow: float  # darkness of the wall beside it


def paint_scene(
    rng: Generator, height: int, width: int, places: Sequence[tuple[float, float]], polyp_area: float
) -> tuple[Image.Image, Array]:
    """Paint a scene with polyps at given places; returns it, and (H, W) uint8 with the numbers of the polyps, from 1.

    Args:
        rng: The randomness.
        height, width: In pixels.
        places: x and y of the polyps, in units of half the short side from the centre.
        polyp_area: Median area of a polyp, as a share of the square of the short side.
    """
    canvas = _mucosa(rng, height, width)
    _vessels(rng, canvas)
    labels = np.zeros((height, width), np.uint8)
    for number, place in enumerate(places, start=1):
        canvas.mask[:] = False
        _polyp(rng, canvas, polyp_area, place)
        labels[canvas.mask] = number
    return _expose(rng, canvas, np.ones((height, width), bool)), labels


def _frame(rng: Generator, height: int, width: int) -> dict:
    visible = visible_part(rng, height, width)
    canvas = _mucosa(rng, height, width)
    _vessels(rng, canvas)
    for _ in range(rng.integers(0, 3)):
        _bulge(rng, canvas)
    for _ in range(rng.integers(0, 3)):
        _residue(rng, canvas)
    num_polyps = int(rng.choice(len(POLYP_COUNTS), p=POLYP_COUNTS))
    for _ in range(num_polyps):
        _polyp(rng, canvas, typical_area=0.1 / num_polyps)
    if rng.random() < 0.3:
        _bubbles(rng, canvas)
    mask = (canvas.mask & visible).astype(np.uint8) * 255
    return {"image": _expose(rng, canvas, visible), "mask": Image.fromarray(mask)}


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> tuple[Array, Array]:
    """Coordinates of the pixel centres, x (1, W) and y (H, 1). The short side runs from -1 to 1."""
    short = min(height, width)
    x, y = (((2 * np.arange(n) + 1 - n) / short).astype(np.float32) for n in (width, height))
    return x[None, :], y[:, None]


@lru_cache(maxsize=256)
def _spread(cells: int, length: int) -> Array:
    """Weights (length, cells) of a bicubic resize of one axis."""
    identity = Image.fromarray(np.eye(cells, dtype=np.float32))
    return np.array(identity.resize((cells, length), Image.Resampling.BICUBIC))


def _noise(rng: Generator, height: int, width: int, cells: float, stretch: float = 1.0) -> Array:
    """Smooth noise (H, W) around 0. A bump is 1 / `cells` of the short side high and `stretch` times as wide."""
    per_pixel = cells / min(height, width)
    rows, columns = max(2, round(height * per_pixel)), max(2, round(width * per_pixel / stretch))
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    # Not `@`: BLAS would start threads, which compete with data-loading processes.
    wide = np.einsum("kl,jl->kj", coarse, _spread(columns, width))
    return np.einsum("ik,kj->ij", _spread(rows, height), wide)


def visible_part(rng: Generator, height: int, width: int) -> Array:
    """The visible part (H, W): a rectangle with cut corners, at times with a corner covered by a position map."""
    x, y = _grid(height, width)
    half_width, half_height = -x[0, 0] * rng.uniform(0.93, 1.01), -y[0, 0] * rng.uniform(0.97, 1.01)
    from_side, from_top = half_width - np.abs(x), half_height - np.abs(y)
    visible = (from_side > 0) & (from_top > 0) & (from_side + from_top > rng.uniform(0.4, 0.65))
    if rng.random() < 0.3:
        visible &= (x > rng.uniform(-0.45, -0.3) * half_width) | (y < rng.uniform(0.3, 0.4) * half_height)
    return visible


def _mucosa(rng: Generator, height: int, width: int) -> _Canvas:
    """The bare wall: a tube seen along its axis, with haustral folds as rings around the dark lumen."""
    x, y = _grid(height, width)
    bearing, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 1.5)
    along = (x - distance * math.cos(bearing)) * rng.uniform(0.8, 1.4)
    across = y - distance * math.sin(bearing)
    warp = _noise(rng, height, width, 3)
    radius = np.sqrt(along * along + across * across)
    radius *= np.maximum(1 + 0.2 * warp, 0.3)

    # A fold hides the wall behind it: brightness drops at its edge and recovers towards the next fold.
    depth = rng.uniform(1.6, 3.6) / (radius + 0.5)
    depth += 0.3 * _noise(rng, height, width, 4)
    climb = depth - np.floor(depth)
    strength = np.clip(0.25 + 0.5 * _noise(rng, height, width, 3), 0, 0.75)
    ridge = strength * np.square(np.square(climb))
    folds = 1 - strength * np.square(1 - climb) + 0.5 * ridge

    square = np.square(radius)
    light = 0.1 + square / (square + rng.uniform(0.15, 0.75) ** 2)
    light *= folds * (1.1 + 0.12 * warp - 0.2 * (x * x + y * y))
    light += _glare(rng, x, y)

    warmth = rng.normal(1, 0.08)
    flush = 1 + 0.1 * _noise(rng, height, width, 6)
    albedo = np.empty((3, height, width), np.float32)
    albedo[0] = 3.2 * rng.normal(1, 0.1)
    albedo[1] = 0.92 * warmth * flush
    albedo[2] = 0.54 * warmth * rng.normal(1, 0.06) * flush
    grain = _noise(rng, height, width, rng.uniform(40, 75), stretch=rng.uniform(0.6, 1.6))
    return _Canvas(x, y, grain, albedo, light, ridge, np.zeros((height, width), bool))


def _glare(rng: Generator, x: Array, y: Array) -> Array:
    """Overexposed wall close to the lamp, at one side of some frames."""
    bearing = rng.uniform(0, 2 * math.pi)
    nearness = x * math.cos(bearing) + y * math.sin(bearing) - rng.uniform(0.4, 1.3)
    return rng.uniform(1, 6) * np.square(np.maximum(nearness, 0))


def _vessels(rng: Generator, canvas: _Canvas) -> None:
    """Dark branching curves: random walks, which start on an earlier one, except for the first few."""
    height, width = canvas.light.shape
    short = min(height, width)
    num_roots, steps = 5, 24
    headings = rng.normal(0, 0.25, (rng.integers(20, 50), steps))
    headings[:, 0] = rng.uniform(0, 2 * math.pi, len(headings))
    headings = np.cumsum(headings, axis=1)
    walks = np.cumsum(np.stack([np.cos(headings), np.sin(headings)], axis=2), axis=1) * (0.022 * short)
    walks[:num_roots] += rng.uniform(0, 1, (num_roots, 1, 2)) * (width, height)
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    for index, walk in enumerate(walks):
        is_root = index < num_roots
        if not is_root:
            walk += walks[rng.integers(index), rng.integers(steps)]
        thickness = max(1, round(short / (128 if is_root else 256)))
        draw.line(walk.ravel().tolist(), fill=255 if is_root else 170, width=thickness)
    absorption = np.clip(0.5 + 0.6 * _noise(rng, height, width, 3), 0, 1)  # parts lie deeper in the wall
    absorption *= np.asarray(layer.filter(ImageFilter.BoxBlur(short / 320)))
    absorption *= rng.uniform(0.2, 0.8) / 255
    for channel, share in zip(canvas.albedo, (0.35, 0.75, 0.6), strict=True):
        channel *= 1 - share * absorption


def _lobe(rng: Generator, x: Array, y: Array, radius: float, aspect: float, wobble: float) -> Array:
    """1 - rho^2 of an irregular ellipse around (0, 0): positive inside, 0 on the outline."""
    angle = rng.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    long, short = radius * math.sqrt(aspect), radius / math.sqrt(aspect)
    u = x * (cosine / long) + y * (sine / long)
    v = y * (cosine / short) - x * (sine / short)
    square = u * u + v * v + 1e-6
    # Fourier terms cos(kt), sin(kt) as powers of (u + iv) / |u + iv|, which is faster than arctan2 for each pixel.
    inverse = 1 / np.sqrt(square)
    u *= inverse
    v *= inverse
    cos_k, sin_k, outline = u, v, np.ones_like(u)
    for order in (2, 3, 4):
        cos_k, sin_k = cos_k * u - sin_k * v, sin_k * u + cos_k * v
        a, b = rng.normal(0, wobble / order, 2).tolist()
        outline += a * cos_k + b * sin_k
    return 1 - square / np.square(outline)


def _paint(rng: Generator, part: _Canvas, inside: Array, radius: float, look: _Look) -> None:
    """Paint an object onto `part`, where `inside` (from `_lobe`) is positive."""
    tilt_x, tilt_y = rng.uniform(-0.5, 0.5, 2).tolist()
    covered = inside > 0
    if min(inside.shape) < 2 or not covered.any():
        return
    pixel = float(part.x[0, 1] - part.x[0, 0])
    # `inside` divided by its slope at the outline, 2 / radius, is the distance to the outline.
    alpha = np.clip(0.5 + inside * (radius / 2 / max(pixel, look.softness * radius)), 0, 1)
    dome = np.clip(inside, 0, 1)
    dome *= 1.5 - 0.5 * dome
    slope_y, slope_x = np.gradient(dome * (look.relief * radius / pixel))
    # The lamp is beside the lens: surfaces that face the viewer are bright, those tilted to the lamp brightest.
    facing = (1 - tilt_x * slope_x - tilt_y * slope_y) / np.sqrt(1 + np.square(slope_x) + np.square(slope_y))
    # An object that stands out of the wall is not shaded by the folds.
    level = max(0.5, float(part.light[covered].mean()))
    own = (part.light + look.lift * (level - part.light)) * (0.3 + 0.8 * facing)

    part.light *= 1 - look.shadow * np.clip(1 + 2 * inside, 0, 1) * (1 - alpha)
    part.light += alpha * (own - part.light)
    part.gloss += alpha * (0.6 * look.relief * facing - part.gloss)
    texture = 1 + look.grain * part.grain
    for channel, tint in zip(part.albedo, look.tint, strict=True):
        channel *= 1 + alpha * (tint * texture - 1)


def _place(
    rng: Generator, canvas: _Canvas, reach: float, place: tuple[float, float] | None = None
) -> tuple[_Canvas, Array, Array]:
    """The part of the canvas within `reach` of a place, by default a random one, and coordinates from that place."""
    x, y = place or (float(axis.max()) * rng.uniform(-0.75, 0.75) for axis in (canvas.x, canvas.y))
    part = canvas.crop(x, y, reach)
    return part, part.x - x, part.y - y


def _bulge(rng: Generator, canvas: _Canvas) -> None:
    """A long soft swelling of the wall itself: relief without a polyp."""
    radius, aspect = rng.uniform(0.15, 0.3), rng.uniform(3, 4.5)
    part, x, y = _place(rng, canvas, 3 * radius)
    look = _Look((1, 1, 1), relief=rng.uniform(0.3, 0.7), lift=0, softness=0.5, grain=0, shadow=0.15)
    _paint(rng, part, _lobe(rng, x, y, radius, aspect, wobble=0.1), radius, look)


def _residue(rng: Generator, canvas: _Canvas) -> None:
    """A thin ragged patch of stool or mucus: yellow, brown or greenish."""
    radius, aspect = rng.uniform(0.04, 0.14), rng.uniform(1, 2)
    part, x, y = _place(rng, canvas, 2 * radius)
    tint = (rng.uniform(0.6, 1), rng.uniform(0.8, 1.2), rng.uniform(0.2, 0.5))
    look = _Look(tint, relief=0.1, lift=0, softness=0.3, grain=0.2, shadow=0.1)
    _paint(rng, part, _lobe(rng, x, y, radius, aspect, wobble=0.25), radius, look)


def _polyp(rng: Generator, canvas: _Canvas, typical_area: float, place: tuple[float, float] | None = None) -> None:
    """A polyp, by default at a random place. `typical_area` is the median share of the frame that polyps cover."""
    kind = rng.choice(list(POLYP_KINDS), p=list(POLYP_KINDS.values()))
    area = min(max(typical_area * math.exp(rng.normal(0, 0.9)), 0.006), 0.5)
    radius = math.sqrt(area * 4 / math.pi)
    part, x, y = _place(rng, canvas, 2 * radius, place)
    inside = _lobe(rng, x, y, radius, rng.uniform(1, 1.7), wobble=0.12)
    if kind == "lobed":
        for shift_x, shift_y in rng.uniform(-0.7, 0.7, (rng.integers(1, 4), 2)).tolist():
            lobe = _lobe(rng, x - shift_x * radius, y - shift_y * radius, 0.6 * radius, 1.2, wobble=0.1)
            np.maximum(inside, lobe, out=inside)
    if kind == "stalked":
        bearing = rng.uniform(0, 2 * math.pi)
        away_x, away_y = math.cos(bearing) * radius, math.sin(bearing) * radius
        np.maximum(inside, _lobe(rng, x - away_x, y - away_y, 0.5 * radius, 2, wobble=0.1), out=inside)
    _paint(rng, part, inside, radius, _polyp_look(rng, flat=kind == "flat"))
    part.mask |= inside > 0


def _polyp_look(rng: Generator, flat: bool) -> _Look:
    """Redder or paler than the wall, and always rosier: blue decreases less, or increases more, than green."""
    rosiness = rng.uniform(1.25, 1.45)
    if flat:
        pale = rng.uniform(1.2, 1.45)
        tint = (pale, pale, pale * rosiness)
        return _Look(tint, rng.uniform(0.2, 0.35), lift=0.6, softness=0.15, grain=0.08, shadow=0.1)
    red, green = (1.1, rng.uniform(0.5, 0.7)) if rng.random() < 0.5 else (1.6, rng.uniform(1.35, 1.7))
    return _Look(
        tint=(red, green, green * rosiness),
        relief=rng.uniform(0.5, 0.9),
        lift=0.8,
        softness=0.05,
        grain=rng.uniform(0.08, 0.18),
        shadow=rng.uniform(0.2, 0.5),
    )


def _bubbles(rng: Generator, canvas: _Canvas) -> None:
    """Thin bright rings, a few side by side."""
    radius = rng.uniform(0.03, 0.06)
    part, x, y = _place(rng, canvas, 5 * radius)
    for shift_x, shift_y, size in rng.uniform((-3, -3, 0.4), (3, 3, 1), (rng.integers(2, 7), 3)).tolist():
        lobe = _lobe(rng, x - shift_x * radius, y - shift_y * radius, size * radius, 1.1, wobble=0)
        part.light += 0.7 * np.clip(1 - np.abs(lobe) / 0.4, 0, 1)


def _specular_spots(rng: Generator, canvas: _Canvas) -> Array:
    """Mirror images of the lamp (H, W) in [0, 1]: on wet folds, bulges and polyps alike."""
    height, width = canvas.light.shape
    spots = canvas.grain + 0.6 * _noise(rng, height, width, 5)
    spots += 2 * np.minimum(canvas.gloss, 0.5)
    spots += 0.6 * np.minimum(canvas.light, 1)
    spots -= rng.uniform(2.8, 3.8)
    spots *= 2.5
    return np.clip(spots, 0, 1, out=spots)


def _expose(rng: Generator, canvas: _Canvas, visible: Array) -> Image.Image:
    """The image that the camera records: exposure, highlights, noise, border, a slight blur. Overwrites the canvas."""
    height, width = canvas.light.shape
    colour = canvas.albedo
    colour *= canvas.light * rng.normal(1, 0.15)
    # Overexposure turns colours white, as x / (1 + x) does: red, the strongest channel, saturates first.
    colour /= 1 + colour
    spots = _specular_spots(rng, canvas)
    colour *= 1 - spots
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise *= rng.uniform(0.005, 0.02)
    colour += noise + 0.97 * spots
    colour *= visible * np.float32(255)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = np.clip(colour, 0, 255, out=colour).transpose(1, 2, 0)
    return Image.fromarray(pixels).filter(ImageFilter.BoxBlur(0.4))


def picture(columns: int = 6, cell: int = 160, seed: int = 0) -> Image.Image:
    """A picture with frames in the upper row and, below, the same frames with the outlines of their masks."""
    sheet = Image.new("RGB", (columns * cell, 2 * cell))
    for column, sample in enumerate(generate(columns, cell, seed)):
        outline = ImageChops.subtract(sample["mask"].filter(ImageFilter.MaxFilter(3)), sample["mask"])
        sheet.paste(sample["image"], (column * cell, 0))
        sheet.paste(sample["image"], (column * cell, cell))
        sheet.paste(OUTLINE_COLOUR, (column * cell, cell), outline)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a picture of synthetic frames and their masks.")
    parser.add_argument("path", help="the PNG to write, for example docs/images/synthetic.png")
    parser.add_argument("--seed", type=int, default=0, help="which frames to show (default: %(default)s)")
    arguments = parser.parse_args()
    with (
        user_errors("synthetic.py", OSError, kept="No picture is written."),
        atomic_file(Path(arguments.path)) as file,
    ):
        picture(seed=arguments.seed).save(file, "PNG", optimize=True)


if __name__ == "__main__":
    main()
