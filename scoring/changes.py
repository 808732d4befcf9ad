"""What other endoscopes, recorders and examinations do to a frame: ten kinds of change, at five strengths each.

    changed = CHANGES["noise"].apply(sample, strength=3, seed=0)

After Hendrycks and Dietterich (Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, 2019,
https://arxiv.org/abs/1903.12261), with what endoscopy has in place of their fog, snow and frost. Lengths are shares of
the frame, so that large frames change as small ones do. What is drawn at random, such as a direction, depends on the
seed and the image's pixels alone, and is the same at every strength. The ground truth stays as it is, unless the frame
gets a border: then it gets the same one, without polyp.
"""

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
from torchvision.transforms.v2 import functional as F

from ..common.files import to_rgb
from ..data.samples import Sample

STRENGTHS = 5
WHITE, TEXT_GREY = (255, 255, 255), (208, 208, 208)


class Colour(NamedTuple):
    """A change of colour.

    Attributes:
        hue: How far the hue is turned, of 256 steps for the full circle.
        balance: Red is multiplied by 1 - balance and blue by 1 + balance, or the other way round.
        saturation: Factor; 0 leaves grey.
    """

    hue: int
    balance: float
    saturation: float = 1.0

    def __str__(self) -> str:
        if self.saturation == 0:
            return "grey"
        return f"hue by {self.hue} of 256, red and blue by {100 * self.balance:.3g} %"


class Brightness(NamedTuple):
    """Factors of brightness: a frame gets the one or the other."""

    darker: float
    lighter: float

    def __str__(self) -> str:
        return f"x {self.darker:.2g} or x {self.lighter:.3g}"


@dataclass(frozen=True)
class Change:
    """A kind of change.

    Attributes:
        name: What results and tables call it.
        levels: One for each strength, the weakest first.
        unit: How a level is written, as "quality {}".
        function: Changes a sample whose image is RGB, by level and random generator.
    """

    name: str
    levels: tuple[Any, ...]
    unit: str
    function: Callable[[Sample, Any, np.random.Generator], Sample]

    def apply(self, sample: Sample, strength: int, seed: int) -> Sample:
        """The sample, changed; the same for the same pixels, strength and seed.

        Args:
            sample: Of any size.
            strength: From 1 to `STRENGTHS`.
            seed: Of what is random.

        Raises:
            ValueError: If there is no such strength.
        """
        if not 1 <= strength <= len(self.levels):
            raise ValueError(f"There is no strength {strength} of {self.name}: expected 1 to {len(self.levels)}.")
        image = to_rgb(sample.image)
        of_image = zlib.crc32(image.tobytes())
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode()), of_image])
        return self.function(replace(sample, image=image), self.levels[strength - 1], generator)

    def describe(self, strength: int) -> str:
        """A strength in words: "JPEG quality 10"."""
        level = self.levels[strength - 1]
        return self.unit.format(f"{100 * level:.3g}" if "%" in self.unit else level)


def _of_image(
    function: Callable[[Image.Image, Any, np.random.Generator], Image.Image],
) -> Callable[[Sample, Any, np.random.Generator], Sample]:
    """Make a change of a sample from one of its image alone."""

    def change(sample: Sample, level: Any, generator: np.random.Generator) -> Sample:
        return replace(sample, image=function(sample.image, level, generator))

    return change


def _change_colour(image: Image.Image, colour: Colour, generator: np.random.Generator) -> Image.Image:
    turn, tip = generator.choice((-1, 1), size=2)
    balance = float(tip) * colour.balance
    turned = F.adjust_hue(image, float(turn) * colour.hue / 255)  # which torchvision multiplies by 255
    red, green, blue = turned.split()
    red, blue = red.point(lambda level: level * (1 - balance)), blue.point(lambda level: level * (1 + balance))
    return ImageEnhance.Color(Image.merge("RGB", (red, green, blue))).enhance(colour.saturation)


def _change_brightness(image: Image.Image, factors: Brightness, generator: np.random.Generator) -> Image.Image:
    return F.adjust_brightness(image, float(generator.choice(factors)))


def _defocus(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def _blur_by_motion(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """The mean of the image along a line of any direction, an odd number of pixels long, so that it is centred."""
    half = max(1, round((share * min(image.size) - 1) / 2))
    angle = generator.uniform(0, math.pi)
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((half, half), (half, half), (0, 0)), mode="edge")
    total = np.zeros(pixels.shape, dtype=np.float32)
    for place in range(-half, half + 1):
        top, left = half + round(place * math.sin(angle)), half + round(place * math.cos(angle))
        total += padded[top : top + height, left : left + width]
    return Image.fromarray(np.rint(total / (2 * half + 1)).astype(np.uint8))


def _add_noise(image: Image.Image, deviation: float, generator: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    noise = deviation * generator.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.rint(np.clip(pixels + noise, 0, 255)).astype(np.uint8))


def _compress(image: Image.Image, quality: int, generator: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    with Image.open(file) as saved:
        return saved.convert("RGB")


def _lower_resolution(image: Image.Image, factor: float, generator: np.random.Generator) -> Image.Image:
    small = [max(1, round(side / factor)) for side in image.size]
    return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def _add_highlights(image: Image.Image, count: int, generator: np.random.Generator) -> Image.Image:
    """White ellipses with soft edges; a higher count adds to those of a lower one."""
    short = min(image.size)
    shine = Image.new("L", image.size)
    draw = ImageDraw.Draw(shine)
    turns = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    for _ in range(count):
        x, y = generator.uniform(0, image.size)
        long_axis = generator.uniform(0.005, 0.025) * short
        short_axis, angle = long_axis * generator.uniform(0.3, 1), generator.uniform(0, math.pi)
        along, across = long_axis * np.cos(turns), short_axis * np.sin(turns)
        xs = x + along * math.cos(angle) - across * math.sin(angle)
        ys = y + along * math.sin(angle) + across * math.cos(angle)
        draw.polygon(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=255)
    soft = shine.filter(ImageFilter.GaussianBlur(0.003 * short))
    return Image.composite(Image.new("RGB", image.size, WHITE), image, soft)


def _interlace(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Lines in turn are displaced to the left and to the right by half the distance, as where the endoscope moves."""
    pixels = np.asarray(image).copy()
    width = image.width
    distance = round(share * width) * int(generator.choice((-1, 1)))
    first = distance // 2
    for line, shift in ((0, first), (1, first - distance)):
        columns = np.clip(np.arange(width) - shift, 0, width - 1)
        pixels[line::2] = pixels[line::2][:, columns]
    return Image.fromarray(pixels)


def _add_border(sample: Sample, share: float, generator: np.random.Generator) -> Sample:
    """Put the frame into a black one, with a panel of text on one side that takes a share of the whole width."""
    image = sample.image
    panel = round(image.width * share / (1 - share))
    margin = round(panel / 12)
    is_left = bool(generator.integers(2))
    left, right = (panel, margin) if is_left else (margin, panel)
    screen = Image.new("RGB", (image.width + panel + margin, image.height + 2 * margin))
    screen.paste(image, (left, margin))
    text = Image.new("RGB", (panel, screen.height))  # so that long lines end with the panel
    _write_text(text, min(image.size), generator)
    screen.paste(text, (0 if is_left else screen.width - panel, 0))
    ground_truth = np.pad(sample.ground_truth, ((margin, margin), (left, right)))
    return replace(sample, image=screen, ground_truth=ground_truth)


def _write_text(panel: Image.Image, short: int, generator: np.random.Generator) -> None:
    """Write on a black panel what processors show beside the frame; of nobody."""
    size = max(6, round(short / 20))
    day, month, hour, minute, second = generator.integers((1, 1, 7, 0, 0), (29, 13, 20, 60, 60)).tolist()
    date, time = f"{day:02d}/{month:02d}/2024", f"{hour:02d}:{minute:02d}:{second:02d}"
    lines = ["ID No.:", "Name:", "Sex:   Age:", "D.O.Birth:", date, time, "SCV: --", "CVP: A1/4", "D.F: ---"]
    lines += ["Eh:A5 Ce:0", "Physician:", "Comment:"]
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((size / 2, size * (1 + 1.5 * number)), line, font=font, fill=TEXT_GREY)


_COLOURS = (Colour(4, 0.06), Colour(8, 0.12), Colour(12, 0.2), Colour(16, 0.3), Colour(0, 0.0, saturation=0.0))
_FACTORS = (
    *(Brightness(0.8, 1.15), Brightness(0.65, 1.3), Brightness(0.5, 1.5), Brightness(0.4, 1.75)),
    Brightness(1 / 3, 2.0),
)
_SHORT_SIDE = "{} % of the short side"
CHANGES = {
    change.name: change
    for change in (
        Change("hue and white balance", _COLOURS, "{}", _of_image(_change_colour)),
        Change("brightness", _FACTORS, "{}", _of_image(_change_brightness)),
        Change("defocus", (0.003, 0.006, 0.009, 0.0115, 0.014), f"sigma {_SHORT_SIDE}", _of_image(_defocus)),
        Change("motion blur", (0.01, 0.02, 0.03, 0.045, 0.06), f"length {_SHORT_SIDE}", _of_image(_blur_by_motion)),
        Change("noise", (6, 12, 18, 24, 30), "sigma {} of 255", _of_image(_add_noise)),
        Change("JPEG", (60, 40, 25, 15, 10), "quality {}", _of_image(_compress)),
        Change("lower resolution", (1.5, 2, 3, 4, 6), "sides / {}", _of_image(_lower_resolution)),
        Change("specular highlights", (8, 16, 32, 64, 128), "{} spots", _of_image(_add_highlights)),
        Change("interlacing", (0.005, 0.01, 0.015, 0.02, 0.03), "{} % of the width", _of_image(_interlace)),
        Change("border with text", (0.08, 0.15, 0.23, 0.3, 0.38), "panel of {} % of the width", _add_border),
    )
}
