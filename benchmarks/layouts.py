"""Frames as endoscopy systems lay them out: the picture in a black frame, with text and small pictures beside it.

    layout = draw_layout(seed=3)           # a synthetic picture in a random layout
    layout.frame, layout.box               # (H, W, 3) uint8; left, top, right, bottom of the picture
    frame, box = with_panel(image)         # any image, with a black border and a text panel

Nothing private is in them.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.field_of_view_unet import Box

SIZES = ((640, 512), (720, 576), (1280, 1024), (1920, 1080))  # width and height
SHAPES = ("rectangle", "rounded", "octagon", "circle")
PANELS = ("left", "right", "top")
INKS = ("white", "yellow", "lime", "cyan", "silver")
LINES = (
    "DR. SAMPLE",
    "ID: 0000000",
    "2026-01-01",
    "12:34:56",
    "Sex: -  Age: --",
    "CVP: A1/5",
    "EH: A3  CE: 0",
    "Gr: N",
)
SMALLEST_GAP = 0.03  # of the frame's width, between the picture and what is beside it


@dataclass(frozen=True)
class Layout:
    """A frame.

    Attributes:
        frame: (H, W, 3) uint8.
        box: Where the picture lies: left, top, right and bottom in pixels, right and bottom the first outside.
        description: Size, panel, shape and further effects, in words.
    """

    frame: np.ndarray
    box: Box
    description: str


def draw_layout(seed: int) -> Layout:
    """A synthetic picture in a layout that depends on the seed alone.

    A third of the pictures are dark, half darken towards the edge, half have a coloured box in a corner, half of the
    panels show a small picture. All have a noisy black of 0 to 20 grey levels, and JPEG's blocks.
    """
    generator = np.random.default_rng(seed)
    width, height = SIZES[generator.integers(len(SIZES))]
    panel, shape = str(generator.choice(PANELS)), str(generator.choice(SHAPES))
    box = _draw_box(generator, width, height, panel)
    is_dark, darkens, has_inset, has_small = generator.random(4) < (1 / 3, 0.5, 0.5, 0.5)
    size = box[3] - box[1], box[2] - box[0]
    picture = _draw_picture(generator, size, is_dark=bool(is_dark), darkens=bool(darkens))
    if has_inset:
        _draw_inset(generator, picture)
    frame = Image.new("RGB", (width, height))
    frame.paste(picture, box[:2], _outline(generator, picture.size, shape))
    _draw_panel(generator, frame, _panel_box(box, width, height, panel), small_picture=bool(has_small))
    noise, quality = generator.uniform(0, 4), int(generator.integers(30, 96))
    black = int(generator.integers(21))  # as some video signals have it, of which it is the lowest level
    noisy = black + np.asarray(frame) * ((255 - black) / 255) + generator.normal(0, noise, (height, width, 1))
    effects = {"dark": is_dark, "vignetting": darkens, "inset": has_inset, "small picture": has_small}
    words = [f"{width}x{height}", f"panel {panel}", shape, *(name for name, is_there in effects.items() if is_there)]
    words += [f"black {black}", f"noise {noise:.1f}", f"JPEG {quality}"]
    return Layout(in_jpeg(noisy.round().clip(0, 255).astype(np.uint8), quality), box, ", ".join(words))


def with_panel(image: Image.Image, share: float = 0.3, border: float = 0.05, seed: int = 0) -> tuple[Image.Image, Box]:
    """An image with a text panel at its left and a black border at its other sides.

    Args:
        image: RGB.
        share: Of the new frame's width that the panel takes.
        border: Width of the other borders, as a share of the image's sides.
        seed: Of the text.
    """
    across, down = (round(border * side) for side in image.size)
    left = round(share / (1 - share) * (image.width + across))
    frame = Image.new("RGB", (left + image.width + across, image.height + 2 * down))
    frame.paste(image, (left, down))
    box = (left, down, left + image.width, down + image.height)
    panel = _panel_box(box, *frame.size, panel="left")
    _draw_panel(np.random.default_rng(seed), frame, panel, small_picture=False)
    return frame, box


def in_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    """The frame as it is read back from a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _draw_box(generator: Generator, width: int, height: int, panel: str) -> Box:
    """The picture's rectangle: a panel at one side, at the others a border of up to 8 %, or none."""
    borders = {
        side: float(generator.choice([0, generator.uniform(0, 0.08)])) for side in ("left", "top", "right", "bottom")
    }
    borders[panel] = float(generator.uniform(0.12, 0.25) if panel == "top" else generator.uniform(0.15, 0.38))
    left, right = round(borders["left"] * width), round((1 - borders["right"]) * width)
    return left, round(borders["top"] * height), right, round((1 - borders["bottom"]) * height)


def _draw_picture(generator: Generator, size: tuple[int, int], *, is_dark: bool, darkens: bool) -> Image.Image:
    """The inner part of a synthetic frame, of the size (height, width)."""
    height, width = size
    seed = int(generator.integers(2**31))
    (sample,) = generate(1, (round(height * 0.75), round(width * 0.75)), seed=seed)
    image: Image.Image = sample["image"]
    across, down = image.width // 6, image.height // 6
    image = image.crop((across, down, image.width - across, image.height - down)).resize((width, height))
    light = np.full(size, generator.uniform(0.2, 0.45) if is_dark else generator.uniform(0.8, 1.2))
    if darkens:
        rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        light = light * (1 - generator.uniform(0.3, 0.6) * np.minimum(1, np.hypot(rows, columns)) ** 2)
    return Image.fromarray((np.asarray(image) * light[..., None]).clip(0, 255).astype(np.uint8))


def _outline(generator: Generator, size: tuple[int, int], shape: str) -> Image.Image:
    """Where the picture is seen: a mask of the size (width, height) that touches all four sides."""
    width, height = size
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    cut = round(generator.uniform(0.06, 0.28) * min(size))
    if shape == "rectangle":
        pen.rectangle((0, 0, width, height), 255)
    elif shape == "rounded":
        pen.rounded_rectangle((0, 0, width - 1, height - 1), cut, 255)
    elif shape == "octagon":
        corners = [(cut, 0), (width - cut, 0), (width, cut), (width, height - cut)]
        pen.polygon(corners + [(width - x, height - y) for x, y in corners], 255)
    else:
        pen.ellipse((0, 0, width - 1, height - 1), 255)
    return mask


def _draw_inset(generator: Generator, picture: Image.Image) -> None:
    """A green or blue box in the lower left corner, as it shows the position of the endoscope."""
    width, height = picture.size
    across, down = (round(generator.uniform(0.15, 0.3) * side) for side in (width, height))
    colour = ((20, 160, 130), (30, 60, 190), (0, 0, 0))[generator.integers(3)]
    ImageDraw.Draw(picture).rectangle((0, height - down, across, height), colour)


def _panel_box(box: Box, width: int, height: int, panel: str) -> Box:
    """The part of the frame beside the picture, without the gap."""
    gap = round(SMALLEST_GAP * width)
    if panel == "left":
        return 0, 0, box[0] - gap, height
    return (box[2] + gap, 0, width, height) if panel == "right" else (0, 0, width, box[1] - gap)


def _draw_panel(generator: Generator, frame: Image.Image, panel: Box, *, small_picture: bool) -> None:
    """Lines of text and, if wanted, a small picture below them, as far as the panel has room."""
    left, top, right, bottom = panel
    pen = ImageDraw.Draw(frame)
    size = max(9, frame.height // int(generator.integers(22, 40)))
    font, line_height = ImageFont.load_default(size=size), 1.6 * size
    row, ink = top + 0.5 * line_height, str(generator.choice(INKS))
    for _ in range(int(generator.integers(3, 12))):
        text = str(generator.choice(LINES))
        while text and left + 4 + pen.textlength(text, font) > right:
            text = text[:-1]
        if row + line_height > bottom:
            break
        pen.text((left + 4, row), text, ink, font)
        row += line_height * float(generator.choice([1, 1, 2]))
    side = round(min(0.22 * frame.height, right - left - 8, bottom - row - 8))
    if small_picture and side >= 48:
        small = _draw_picture(generator, (side, side), is_dark=False, darkens=False)
        frame.paste(small, (left + 4, round(row) + 4))
