"""From encoded frames and masks to training examples, on one core."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF
from unet_kvasir_seg.benchmarks.contest import Entry, alternate
from unet_kvasir_seg.benchmarks.measurement import Measurement
from unet_kvasir_seg.benchmarks.plan import Plan
from unet_kvasir_seg.common.device import keep_freed_memory
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.data.transforms import TrainTransform
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor

DATA_PATH = "data path"
JPEG_QUALITY = 95
CACHE_BYTES = 2**30  # train.py's default
CARD_COLOURS = transforms.ColorJitter(brightness=0.3, contrast=0.3)

EncodedPair = tuple[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class CardPipeline(Entry):
    """`card_example` of each frame: torchvision's functions on PIL images one by one, as a user would write it.

    Attributes:
        pairs: Encoded frames and masks.
        image_size: Side in pixels of the examples.
    """

    pairs: list[EncodedPair] = field(repr=False)
    image_size: int

    side = "rivals"

    def start(self, device: torch.device) -> Callable[[], list[tuple[Tensor, Tensor]]]:
        torch.set_num_threads(1)
        return lambda: [card_example(_opened(image), _opened(mask), self.image_size) for image, mask in self.pairs]


@dataclass(frozen=True, kw_only=True)
class TransformedRows(Entry):
    """This project's `TrainTransform`, which takes rows as `load_splits` gives them.

    Attributes:
        pairs: Encoded frames and masks.
        image_size: Side in pixels of the examples.
        cache_bytes: Memory for resized samples of earlier epochs; 0: all are decoded again, as in the first epoch.
    """

    pairs: list[EncodedPair] = field(repr=False)
    image_size: int
    cache_bytes: int

    side = "this project"

    def start(self, device: torch.device) -> Callable[[], dict[str, list[Tensor]]]:
        torch.set_num_threads(1)
        keep_freed_memory()  # as train.py does
        processor = UNetImageProcessor(size={"height": self.image_size, "width": self.image_size})
        transform = TrainTransform(processor, cache_bytes=self.cache_bytes)
        return lambda: transform(as_rows(self.pairs))


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def card_example(image: Image.Image, mask: Image.Image, image_size: int) -> tuple[Tensor, Tensor]:
    """One frame and its grey mask -> image (3, H, W) in [0, 1] and labels (H, W), with random augmentation."""
    size = [image_size] * 2
    image, mask = TF.resize(image.convert("RGB"), size), TF.resize(mask, size, InterpolationMode.NEAREST)
    for flip in (TF.hflip, TF.vflip):
        if random.random() < 0.5:
            image, mask = flip(image), flip(mask)
    angle = random.uniform(-30, 30)
    image, mask = TF.rotate(image, angle, InterpolationMode.BILINEAR), TF.rotate(mask, angle)
    return TF.to_tensor(CARD_COLOURS(image)), (TF.to_tensor(mask)[0] > 0.5).long()


def as_rows(pairs: list[EncodedPair]) -> dict[str, list]:
    """The columns `image`, `mask` and `index`, as the transforms take them."""
    images, masks = ([{"bytes": content, "path": None} for content in column] for column in zip(*pairs, strict=True))
    return {"image": images, "mask": masks, "index": list(range(len(pairs)))}


def encoded_pairs(count: int, size: tuple[int, int]) -> list[EncodedPair]:
    """Synthetic frames of that width and height and their masks, both as JPEG, as in Kvasir-SEG."""
    width, height = size
    return [(_jpeg(row["image"]), _jpeg(row["mask"])) for row in generate(count, (height, width))]


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def entries(plan: Plan, frame_size: tuple[int, int]) -> list[Entry]:
    """All contestants, on frames of that width and height."""
    job = {
        "part": f"{DATA_PATH}, frames of {frame_size[0]}x{frame_size[1]}",
        "images": plan.data_frames,
        "pairs": encoded_pairs(plan.data_frames, frame_size),
        "image_size": plan.image_size,
    }
    card = CardPipeline(**job, name="card's pipeline")
    ours = {"this project, first epoch": 0, "this project, later epochs": CACHE_BYTES}
    return [
        card,
        *(TransformedRows(**job, name=name, compared_with=card.name, cache_bytes=left) for name, left in ours.items()),
    ]


def measure(plan: Plan, devices: list[str]) -> list[Measurement]:
    """Frames of each size; always on a CPU."""
    return [
        measurement
        for frame_size in plan.data_frame_sizes
        for measurement in alternate(entries(plan, frame_size), "cpu", plan.data_rounds, plan.block_seconds)
    ]
