"""From the rows of a data set to what the network takes: decoding, augmentation, image processor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class AugmentationParameters:
    """What an augmentation drew for one row; plain numbers, so that it travels from a worker as it is.

    Attributes:
        size: Height and width of the result.
        matrix: 2 by 3, from places in the result to places in the image, as `warp` takes it.
    """

    size: tuple[int, int]
    matrix: list[list[float]]


@dataclass(frozen=True)
class BaselineParameters(AugmentationParameters):
    """As `Draw`, with the factors of brightness and contrast and which of them comes first."""

    brightness: float
    contrast: float
    brightness_first: bool


class BaselineAugmentation:
    """The model card's augmentation of images and their masks together.

    Flips (p 0.5 each) and a rotation of up to 30 degrees are one resampling of both, the mask by the nearest pixel so
    that it stays {0, 1}; what the rotation uncovers becomes black background. Brightness and contrast change by a
    factor of 0.7 to 1.3, in the image alone.
    """

    flip_probability = 0.5
    degrees = 30
    factors = (0.7, 1.3)

    def draw(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> BaselineParameters:
        """Draw for one row, from torch's global generator.

        Args:
            size: Height and width of the result.
            aspect_ratio: Width over height of the frame that the image was resized from. It changes nothing here: the
                card turns the resized image.
        """
        matrix = self.draw_matrix(size[1] / size[0])
        brightness, contrast = _uniform(*self.factors), _uniform(*self.factors)
        return BaselineParameters(size, matrix.tolist(), brightness, contrast, brightness_first=_uniform(0, 1) < 0.5)

    def draw_matrix(self, aspect_ratio: float) -> Tensor:
        """(2, 3) from places in the result to places in an image of that width over height, as `warp` takes it."""
        columns, rows = (-1.0 if _uniform(0, 1) < self.flip_probability else 1.0 for _ in range(2))
        angle = math.radians(_uniform(-self.degrees, self.degrees))
        cosine, sine = math.cos(angle), math.sin(angle)
        # Turned counter-clockwise, as torchvision does, after the flips.
        return torch.tensor(
            [[columns * cosine, -columns * sine / aspect_ratio, 0.0], [rows * sine * aspect_ratio, rows * cosine, 0.0]]
        )

    def __call__(self, images: Tensor, masks: Tensor, draws: Sequence[BaselineParameters]) -> tuple[Tensor, Tensor]:
        """Augment images (B, 3, H, W) uint8 and masks (B, H, W) uint8, {0, 1}, on their device, as it was drawn.

        What comes back is of the same kind, at the size that was drawn.
        """
        warped, labels = warp(images, masks, _per_row(images, [draw.matrix for draw in draws]), draws[0].size)
        return self.change_colours(warped, draws).round_().to(torch.uint8), labels

    @staticmethod
    def change_colours(images: Tensor, draws: Sequence[BaselineParameters]) -> Tensor:
        """(B, 3, H, W) float in [0, 255] -> the same, changed in place.

        What torchvision's `ColorJitter(brightness=0.3, contrast=0.3)` does, the two in either order, without its
        rounding in between, in half of its time.
        """
        before, contrast, after = (
            _per_row(images, factors).view(-1, 1, 1, 1)
            for factors in (
                [draw.brightness if draw.brightness_first else 1.0 for draw in draws],
                [draw.contrast for draw in draws],
                [1.0 if draw.brightness_first else draw.brightness for draw in draws],
            )
        )
        images.mul_(before).clamp_(0, 255)
        means = (images.mean(dim=(2, 3)) @ _per_row(images, LUMINANCE)).view(-1, 1, 1, 1)
        return images.mul_(contrast).add_((1 - contrast) * means).clamp_(0, 255).mul_(after).clamp_(0, 255)


@dataclass(frozen=True)
class StrongParameters(AugmentationParameters):
    """As `Draw`, with what changes the colours.

    Attributes:
        brightness, contrast, saturation: Factors.
        channels: A factor for each of red, green and blue.
        gamma: Exponent; 1 leaves the image as it is.
        blur: Standard deviation of the Gaussian in pixels; 0 for none.
        noise: Standard deviation of the Gaussian noise in the range's units; 0 for none.
        noise_seed: What the noise is made from.
    """

    brightness: float
    contrast: float
    saturation: float
    channels: list[float]
    gamma: float
    blur: float
    noise: float
    noise_seed: int


class StrongAugmentation:
    """For hundreds of epochs on few frames: one warp of image and mask, then colour, blur and noise in the image.

    The ranges of the warp are near those of DUCK-Net (Dumitru et al., 2023, https://arxiv.org/abs/2311.02239) and
    EffiSegNet (Vezakis et al., 2024, https://arxiv.org/abs/2407.16298): flips (p 0.5 each), any rotation, scale 0.6 to
    1.5, proportions within 16 %, shear up to 0.3 (17 degrees), shift up to 20 % of the side. They are one resampling,
    in the frame's own proportions, so that a turned polyp keeps its shape; what lies outside the frame is black.

    Brightness, contrast and saturation change by a factor of 0.7 to 1.3, each colour channel by 0.92 to 1.08, and
    with p 0.5 gamma by up to e^±0.25; Gaussian blur (p 0.2, sigma 0.5 to 1.5 pixels) and Gaussian noise (p 0.2,
    standard deviation 0.01 to 0.06 of the range).
    """

    def draw(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> StrongParameters:
        """Draw for one row, from torch's global generator.

        Args:
            size: Height and width of the result.
            aspect_ratio: Width over height of the frame that the image was resized from.
        """
        return StrongParameters(
            size,
            self.draw_matrix(aspect_ratio).tolist(),
            brightness=_uniform(0.7, 1.3),
            contrast=_uniform(0.7, 1.3),
            saturation=_uniform(0.7, 1.3),
            channels=[_uniform(0.92, 1.08) for _ in range(3)],
            gamma=math.exp(_uniform(-0.25, 0.25)) if _uniform(0, 1) < 0.5 else 1.0,
            blur=_uniform(0.5, 1.5) if _uniform(0, 1) < 0.2 else 0.0,
            noise=_uniform(0.01, 0.06) if _uniform(0, 1) < 0.2 else 0.0,
            noise_seed=int(torch.randint(2**62, ())),
        )

    @staticmethod
    def draw_matrix(aspect_ratio: float) -> Tensor:
        """(2, 3) from places in the result to places in the image, as `warp` takes it."""
        angle, shear = math.radians(_uniform(-180, 180)), _uniform(-0.3, 0.3)
        scale = math.exp(_uniform(math.log(0.6), math.log(1.5)))
        stretch = math.exp(_uniform(-0.15, 0.15) / 2)
        flips = [_uniform(0, 1) < 0.5 for _ in range(2)]
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        shearing = torch.tensor([[1.0, shear], [0.0, 1.0]])
        scaling = torch.diag(torch.tensor([stretch, 1 / stretch]) / scale)
        mirror = torch.diag(torch.tensor([-1.0 if flip else 1.0 for flip in flips]))
        # Between the unit square of the grid and the proportions of the frame, where angles are angles.
        to_frame = torch.diag(torch.tensor([aspect_ratio, 1.0]))
        linear = torch.diag(torch.tensor([1 / aspect_ratio, 1.0])) @ rotation @ shearing @ scaling @ to_frame @ mirror
        # The grid goes from -1 to 1: 0.4 is 20 % of the side.
        shift = torch.tensor([[_uniform(-0.4, 0.4)], [_uniform(-0.4, 0.4)]])
        return torch.cat((linear, shift), dim=1)

    def __call__(self, images: Tensor, masks: Tensor, draws: Sequence[StrongParameters]) -> tuple[Tensor, Tensor]:
        """As `BaselineAugmentation.__call__`."""
        warped, labels = warp(images, masks, _per_row(images, [draw.matrix for draw in draws]), draws[0].size)
        return (self.change_colours(warped.div_(255), draws) * 255).round_().to(torch.uint8), labels

    @staticmethod
    def change_colours(images: Tensor, draws: Sequence[StrongParameters]) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> the same, changed."""
        brightness, contrast, saturation = (
            _per_row(images, factors).view(-1, 1, 1)
            for factors in zip(*((draw.brightness, draw.contrast, draw.saturation) for draw in draws), strict=True)
        )
        channels = _per_row(images, [draw.channels for draw in draws])[:, :, None]
        luminance = _per_row(images, LUMINANCE)
        # Each pixel's colour times one matrix, and contrast around the image's mean luminance.
        matrices = saturation * torch.eye(3, device=images.device) + (1 - saturation) * luminance
        matrices = matrices * channels * brightness * contrast  # (B, 3, 3)
        means = brightness * (images.mean(dim=(2, 3)) @ luminance).view(-1, 1, 1)
        changed = (matrices @ images.flatten(2)).add_((1 - contrast) * means).clamp_(0, 1).view_as(images)
        for image, draw in zip(changed, draws, strict=True):
            if draw.gamma != 1:
                image.pow_(draw.gamma)
            if draw.blur > 0:
                image.copy_(v2.functional.gaussian_blur(image, [7, 7], [draw.blur]))
            if draw.noise > 0:
                generator = torch.Generator(image.device).manual_seed(draw.noise_seed)
                noise = torch.randn(image.shape, generator=generator, device=image.device)
                image.add_(noise, alpha=draw.noise).clamp_(0, 1)
        return changed


AUGMENTATIONS: dict[str, type[BaselineAugmentation] | type[StrongAugmentation]] = {
    "card": BaselineAugmentation,
    "strong": StrongAugmentation,
}


def warp(images: Tensor, masks: Tensor, matrices: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Resample images (bilinear) and their masks (nearest) once, black outside.

    Args:
        images: (B, 3, H, W).
        masks: (B, H, W), {0, 1}.
        matrices: (B, 2, 3) from (x, y, 1) in the result to (x, y) in the image, both from -1 to 1 between the outer
            edges, as `torch.nn.functional.affine_grid` takes them.
        size: Height and width of the result.

    Returns:
        The images (B, 3, *size), float32, and the masks (B, *size), of their own dtype.
    """
    height, width = size
    places = matrices @ _pixel_centres(height, width, images.device)
    grid = places.view(-1, 2, height, width).permute(0, 2, 3, 1)
    warped = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    labels = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0]
    return warped, labels.to(masks.dtype)


@lru_cache(maxsize=8)
def _pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(3, H * W): x, y and 1 of every pixel.

    A matrix by these planes is the product that `affine_grid` makes, in a tenth of its time.
    """
    x, y = (torch.linspace(-1, 1, side) * (side - 1) / side for side in (width, height))
    planes = (x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width))
    return torch.stack(planes).flatten(1).to(device)


def _per_row(images: Tensor, numbers: Sequence[Any]) -> Tensor:
    """Numbers as a float32 tensor on the images' device."""
    return torch.tensor(numbers, dtype=torch.float32, device=images.device)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
