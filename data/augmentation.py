"""Augmentations of images and their masks together: sample parameters for each image, then apply them to a batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms import v2

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class AugmentationParameters:
    """How one image is to be augmented. Plain numbers, which workers can send to the training process.

    Attributes:
        size: Height and width of the result.
        matrix: 2 by 3, from positions in the result to positions in the image, as `warp` takes it.
    """

    size: tuple[int, int]
    matrix: list[list[float]]


@dataclass(frozen=True)
class BaselineParameters(AugmentationParameters):
    """Adds the factors of brightness and contrast, and which of the two is applied first."""

    brightness: float
    contrast: float
    brightness_first: bool


class BaselineAugmentation:
    """The model card's augmentation of images and their masks together.

    Flips (p 0.5 each) and a rotation of up to 30 degrees are applied in one resampling of image and mask, with nearest
    neighbours for the mask so that it stays {0, 1}. Areas outside the image become black background. Brightness and
    contrast of the image change by a factor of 0.7 to 1.3.
    """

    flip_probability = 0.5
    degrees = 30
    factors = (0.7, 1.3)

    def sample_parameters(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> BaselineParameters:
        """Sample the parameters for one image, from torch's global generator.

        Args:
            size: Height and width of the result.
            aspect_ratio: Width over height of the frame that the image was resized from. Not used: the card's recipe
                rotates the resized image.
        """
        matrix = self.sample_matrix(size[1] / size[0])
        brightness, contrast = _uniform(*self.factors), _uniform(*self.factors)
        return BaselineParameters(size, matrix.tolist(), brightness, contrast, brightness_first=_uniform(0, 1) < 0.5)

    def sample_matrix(self, aspect_ratio: float) -> Tensor:
        """(2, 3), as `warp` takes it, for an image of that width over height."""
        columns, rows = (-1.0 if _uniform(0, 1) < self.flip_probability else 1.0 for _ in range(2))
        angle = math.radians(_uniform(-self.degrees, self.degrees))
        cosine, sine = math.cos(angle), math.sin(angle)
        # Flips first, then a counter-clockwise rotation, as in torchvision.
        return torch.tensor(
            [[columns * cosine, -columns * sine / aspect_ratio, 0.0], [rows * sine * aspect_ratio, rows * cosine, 0.0]]
        )

    def __call__(
        self, images: Tensor, masks: Tensor, parameters: Sequence[BaselineParameters]
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch on its device.

        Args:
            images: (B, 3, H, W) uint8.
            masks: (B, H, W) uint8, {0, 1}.
            parameters: One for each image, all of one size.

        Returns:
            Images and masks of the same kind, at the parameters' size.
        """
        matrices = _as_tensor([each.matrix for each in parameters], images)
        warped, labels = warp(images, masks, matrices, parameters[0].size)
        return self.change_colours(warped, parameters).round_().to(torch.uint8), labels

    @staticmethod
    def change_colours(images: Tensor, parameters: Sequence[BaselineParameters]) -> Tensor:
        """Change brightness and contrast of images (B, 3, H, W), float in [0, 255], in place.

        Like torchvision's `ColorJitter(brightness=0.3, contrast=0.3)`, which applies the two in random order, but
        without rounding in between and in half the time.
        """
        first = [each.brightness if each.brightness_first else 1.0 for each in parameters]
        last = [1.0 if each.brightness_first else each.brightness for each in parameters]
        before = _as_tensor(first, images).view(-1, 1, 1, 1)
        contrast = _as_tensor([each.contrast for each in parameters], images).view(-1, 1, 1, 1)
        after = _as_tensor(last, images).view(-1, 1, 1, 1)
        images.mul_(before).clamp_(0, 255)
        means = (images.mean(dim=(2, 3)) @ _as_tensor(LUMINANCE, images)).view(-1, 1, 1, 1)
        return images.mul_(contrast).add_((1 - contrast) * means).clamp_(0, 255).mul_(after).clamp_(0, 255)


class NoAugmentation(BaselineAugmentation):
    """Leaves images and masks as they are: shows how much of a training set a network can learn by heart."""

    flip_probability = 0.0
    degrees = 0
    factors = (1.0, 1.0)


@dataclass(frozen=True)
class StrongParameters(AugmentationParameters):
    """Adds the parameters of the colours, blur and noise.

    Attributes:
        brightness, contrast, saturation: Factors.
        channels: A factor for each of red, green and blue.
        gamma: Exponent; 1 leaves the image as it is.
        blur: Standard deviation of the Gaussian in pixels; 0 for none.
        noise: Standard deviation of the Gaussian noise in the range's units; 0 for none.
        noise_seed: Seed of the noise.
        reduction: Share of the side that the image is reduced to, and enlarged again; 1 for neither.
        jpeg_quality: Quality that the image is saved with as JPEG, and read again; None for neither.
        motion: Length in pixels and angle in radians of the line that motion smears each point to; length 0 for none.
        interlacing: Pixels that the odd rows lie to the right, as the second field of an interlaced frame does when
            the camera moves; 0 for none.
    """

    brightness: float
    contrast: float
    saturation: float
    channels: list[float]
    gamma: float
    blur: float
    noise: float
    noise_seed: int
    reduction: float = 1.0
    jpeg_quality: int | None = None
    motion: tuple[float, float] = (0.0, 0.0)
    interlacing: int = 0


class StrongAugmentation:
    """For hundreds of epochs on few frames: one warp of image and mask, then colour, blur and noise in the image.

    The ranges of the warp are close to those of DUCK-Net (Dumitru et al., 2023, https://arxiv.org/abs/2311.02239) and
    EffiSegNet (Vezakis et al., 2024, https://arxiv.org/abs/2407.16298): flips (p 0.5 each), any rotation, scale 0.6 to
    1.5, aspect ratio within 16 %, shear up to 0.3 (17 degrees), shift up to 20 % of the side. They are applied in one
    resampling, in the frame's original aspect ratio, so that a rotated polyp keeps its shape. Areas outside the frame
    become black background.

    Brightness, contrast and saturation change by a factor of 0.7 to 1.3, each colour channel by 0.92 to 1.08, and
    with p 0.5 gamma by up to e^±0.25; Gaussian blur (p 0.2, sigma 0.5 to 1.5 pixels) and Gaussian noise (p 0.2,
    standard deviation 0.01 to 0.06 of the range).
    """

    def sample_parameters(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> StrongParameters:
        """Sample the parameters for one image, from torch's global generator.

        Args:
            size: Height and width of the result.
            aspect_ratio: Width over height of the frame that the image was resized from.
        """
        return StrongParameters(
            size,
            self.sample_matrix(aspect_ratio).tolist(),
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
    def sample_matrix(aspect_ratio: float) -> Tensor:
        """(2, 3), as `warp` takes it, for a frame of that width over height."""
        angle, shear = math.radians(_uniform(-180, 180)), _uniform(-0.3, 0.3)
        scale = math.exp(_uniform(math.log(0.6), math.log(1.5)))
        stretch = math.exp(_uniform(-0.15, 0.15) / 2)
        flips = [_uniform(0, 1) < 0.5 for _ in range(2)]
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        shearing = torch.tensor([[1.0, shear], [0.0, 1.0]])
        scaling = torch.diag(torch.tensor([stretch, 1 / stretch]) / scale)
        mirror = torch.diag(torch.tensor([-1.0 if flip else 1.0 for flip in flips]))
        # Rotation and shear happen in the frame's aspect ratio, where angles are preserved, not in the square grid.
        to_frame = torch.diag(torch.tensor([aspect_ratio, 1.0]))
        linear = torch.diag(torch.tensor([1 / aspect_ratio, 1.0])) @ rotation @ shearing @ scaling @ to_frame @ mirror
        # The grid goes from -1 to 1: 0.4 is 20 % of the side.
        shift = torch.tensor([[_uniform(-0.4, 0.4)], [_uniform(-0.4, 0.4)]])
        return torch.cat((linear, shift), dim=1)

    def __call__(self, images: Tensor, masks: Tensor, parameters: Sequence[StrongParameters]) -> tuple[Tensor, Tensor]:
        """As `BaselineAugmentation.__call__`."""
        matrices = _as_tensor([each.matrix for each in parameters], images)
        warped, labels = warp(images, masks, matrices, parameters[0].size)
        return (self.change_colours(warped.div_(255), parameters) * 255).round_().to(torch.uint8), labels

    @staticmethod
    def change_colours(images: Tensor, parameters: Sequence[StrongParameters]) -> Tensor:
        """Images (B, 3, H, W), float in [0, 1], with other colours, blur and noise."""
        brightness = _as_tensor([each.brightness for each in parameters], images).view(-1, 1, 1)
        contrast = _as_tensor([each.contrast for each in parameters], images).view(-1, 1, 1)
        saturation = _as_tensor([each.saturation for each in parameters], images).view(-1, 1, 1)
        channels = _as_tensor([each.channels for each in parameters], images)[:, :, None]
        luminance = _as_tensor(LUMINANCE, images)
        # One matrix multiplies the colour of each pixel; contrast is around the image's mean luminance.
        matrices = saturation * torch.eye(3, device=images.device) + (1 - saturation) * luminance
        matrices = matrices * channels * brightness * contrast  # (B, 3, 3)
        means = brightness * (images.mean(dim=(2, 3)) @ luminance).view(-1, 1, 1)
        changed = (matrices @ images.flatten(2)).add_((1 - contrast) * means).clamp_(0, 1).view_as(images)
        for image, each in zip(changed, parameters, strict=True):
            if each.gamma != 1:
                image.pow_(each.gamma)
            if each.reduction != 1:
                image.copy_(_reduce(image, each.reduction))
            if each.blur > 0:
                side = 2 * max(3, math.ceil(2 * each.blur)) + 1
                image.copy_(v2.functional.gaussian_blur(image, [side, side], [each.blur]))
            if each.motion[0] > 0:
                image.copy_(_smear(image, *each.motion))
            if each.interlacing != 0:
                image[:, 1::2] = image[:, 1::2].roll(each.interlacing, dims=2)
            if each.noise > 0:
                generator = torch.Generator(image.device).manual_seed(each.noise_seed)
                noise = torch.randn(image.shape, generator=generator, device=image.device)
                image.add_(noise, alpha=each.noise).clamp_(0, 1)
            if each.jpeg_quality is not None:
                image.copy_(_through_jpeg(image, each.jpeg_quality))
        return changed


class StrongColourAugmentation(StrongAugmentation):
    """The warp of `StrongAugmentation`, with colours of other endoscopes, processors and recorders.

    Brightness, contrast and saturation change by a factor of 0.6 to 1.4, each colour channel by 0.75 to 1.25 and gamma
    by up to e^±0.3; the image is grey (p 0.1), reduced to 25 to 75 % of its sides and enlarged again (p 0.2), has
    Gaussian noise (p 0.2, standard deviation 0.01 to 0.06 of the range), and is saved as JPEG of quality 20 to 70
    (p 0.1).
    """

    def sample_parameters(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> StrongParameters:
        """As `StrongAugmentation.sample_parameters`."""
        is_grey = _uniform(0, 1) < 0.1
        return StrongParameters(
            size,
            self.sample_matrix(aspect_ratio).tolist(),
            brightness=_uniform(0.6, 1.4),
            contrast=_uniform(0.6, 1.4),
            saturation=0.0 if is_grey else _uniform(0.6, 1.4),
            channels=[1.0] * 3 if is_grey else [_uniform(0.75, 1.25) for _ in range(3)],
            gamma=math.exp(_uniform(-0.3, 0.3)),
            blur=0.0,
            noise=_uniform(0.01, 0.06) if _uniform(0, 1) < 0.2 else 0.0,
            noise_seed=int(torch.randint(2**62, ())),
            reduction=_uniform(0.25, 0.75) if _uniform(0, 1) < 0.2 else 1.0,
            jpeg_quality=int(torch.randint(20, 71, ())) if _uniform(0, 1) < 0.1 else None,
        )


class RobustAugmentation(StrongColourAugmentation):
    """`StrongColourAugmentation`, and in some images one of the faults that recordings have.

    With probability `fault_share` an image gets one of these, each as often as the others: Gaussian blur (sigma 0.75
    to 5 pixels), the smear of a motion (3 to 25 pixels, any direction), a reduction to 10 to 25 % of its sides,
    Gaussian noise (standard deviation 0.06 to 0.16 of the range), JPEG of quality 5 to 20, or odd rows that lie 2 to
    12 pixels beside the even ones, as in interlaced video.
    """

    fault_share = 0.4

    def sample_parameters(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> StrongParameters:
        """As `StrongAugmentation.sample_parameters`."""
        parameters = super().sample_parameters(size, aspect_ratio)
        faults: list[dict[str, Any]] = [
            {"blur": _log_uniform(0.75, 5)},
            {"motion": (_log_uniform(3, 25), _uniform(0, math.pi))},
            {"reduction": _log_uniform(0.1, 0.25)},
            {"noise": _uniform(0.06, 0.16)},
            {"jpeg_quality": int(torch.randint(5, 21, ()))},
            {"interlacing": int(torch.randint(2, 13, ())) * (1 if _uniform(0, 1) < 0.5 else -1)},
        ]
        if _uniform(0, 1) >= self.fault_share:
            return parameters
        return replace(parameters, **faults[int(torch.randint(len(faults), ()))])


AUGMENTATIONS: dict[str, type[BaselineAugmentation] | type[StrongAugmentation]] = {
    "card": BaselineAugmentation,
    "none": NoAugmentation,
    "strong": StrongAugmentation,
    "strong_colour": StrongColourAugmentation,
    "robust": RobustAugmentation,
}


def warp(images: Tensor, masks: Tensor, matrices: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Resample images (bilinear) and their masks (nearest) once, black outside.

    Args:
        images: (B, 3, H, W).
        masks: (B, H, W), {0, 1}.
        matrices: (B, 2, 3) from (x, y, 1) in the result to (x, y) in the image. Coordinates run from -1 to 1 between
            the outer edges, as in `torch.nn.functional.affine_grid`.
        size: Height and width of the result.

    Returns:
        Images (B, 3, *size) float32 and masks (B, *size) in their own dtype.
    """
    height, width = size
    positions = matrices @ _pixel_centres(height, width, images.device)
    grid = positions.view(-1, 2, height, width).permute(0, 2, 3, 1)
    warped = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    labels = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0]
    return warped, labels.to(masks.dtype)


def _reduce(image: Tensor, share: float) -> Tensor:
    """An image (3, H, W), reduced to a share of its sides and enlarged again."""
    small = [max(1, round(share * side)) for side in image.shape[1:]]
    reduced = F.interpolate(image[None], small, mode="bilinear", antialias=True)
    return F.interpolate(reduced, image.shape[1:], mode="bilinear")[0]


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    """An image (3, H, W) float in [0, 1], saved as JPEG and read again; on the CPU, wherever it is."""
    encoded = encode_jpeg((image * 255).round_().to("cpu", torch.uint8), quality)
    return decode_jpeg(encoded).to(image.device) / 255


def _smear(image: Tensor, length: float, angle: float) -> Tensor:
    """An image (3, H, W) whose points are lines of that length in pixels, as of a camera that moves."""
    reach = math.ceil(length / 2)
    steps = torch.linspace(-length / 2, length / 2, 32 * reach)  # many in each pixel, so that all get their share
    rows = (reach + steps * math.sin(angle)).round().long()
    columns = (reach + steps * math.cos(angle)).round().long()
    side = 2 * reach + 1
    weights = torch.zeros(side, side).index_put_((rows, columns), torch.tensor(1 / len(steps)), accumulate=True)
    padded = F.pad(image[:, None], [reach] * 4, mode="replicate")
    return F.conv2d(padded, weights.to(image)[None, None])[:, 0]


@lru_cache(maxsize=8)
def _pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(3, H * W): x, y and 1 of every pixel.

    Multiplying a matrix by these planes gives the grid of `affine_grid` in a tenth of its time.
    """
    x, y = (torch.linspace(-1, 1, side) * (side - 1) / side for side in (width, height))
    planes = (x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width))
    return torch.stack(planes).flatten(1).to(device)


def _as_tensor(numbers: Sequence[Any], images: Tensor) -> Tensor:
    """Numbers as a float32 tensor on the images' device."""
    return torch.tensor(numbers, dtype=torch.float32, device=images.device)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _log_uniform(low: float, high: float) -> float:
    return math.exp(_uniform(math.log(low), math.log(high)))
