"""Inference: from frames (PIL) to masks of their sizes, one frame a call (latency) and many (throughput)."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from unet_kvasir_seg.benchmarks.contest import Entry, alternate
from unet_kvasir_seg.benchmarks.matrix_multiply import matrix_multiplications
from unet_kvasir_seg.benchmarks.measurement import Measurement
from unet_kvasir_seg.benchmarks.networks import card_name, card_unet, forward_flops, rivals, shipped_unet
from unet_kvasir_seg.benchmarks.plan import Plan
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

LATENCY, THROUGHPUT = "latency", "throughput"


@dataclass(frozen=True, kw_only=True)
class Snippet(Entry):
    """The card's own snippet around a network: eager, float32, torchvision on PIL, a threshold.

    Attributes:
        build: The network, which gives logits.
        image_size: Side in pixels of the network's input.
        frame_size: Width and height of the frames.
    """

    build: Callable[[], nn.Module]
    image_size: int
    frame_size: tuple[int, int]

    side = "rivals"

    def start(self, device: torch.device) -> Callable[[], list[np.ndarray]]:
        network = self.build().eval().to(device)
        to_pixels = transforms.Compose([transforms.Resize((self.image_size,) * 2), transforms.ToTensor()])
        frames = same_frames(self.images, self.frame_size)

        @torch.no_grad()
        def segment() -> list[np.ndarray]:
            pixels = torch.stack([to_pixels(frame) for frame in frames]).to(device)
            masks = (network(pixels).sigmoid() > 0.5)[:, 0].cpu().numpy()
            pictures = [Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks]
            return [
                np.asarray(picture.resize(frame.size, Image.Resampling.NEAREST)) > 0
                for picture, frame in zip(pictures, frames, strict=True)
            ]

        return segment


@dataclass(frozen=True, kw_only=True)
class Predicted(Entry):
    """This project's `Predictor` with its defaults.

    Attributes:
        checkpoint: Folder of network and image processor.
        compile: Whether to compile the network.
        frame_size: Width and height of the frames.
    """

    checkpoint: Path
    compile: bool
    frame_size: tuple[int, int]

    side = "this project"

    def compiled(self) -> "Predicted":
        """The same, compiled."""
        changes: dict[str, Any] = {"name": f"{self.name}, compiled", "compile": True}
        return replace(self, **changes)

    def start(self, device: torch.device) -> Callable[[], list[np.ndarray]]:
        predictor = Predictor.from_pretrained(str(self.checkpoint), device=device.type, compile=self.compile)
        frames = same_frames(self.images, self.frame_size)
        return lambda: [prediction.mask for prediction in predictor.batch(frames)]


def same_frames(images: int, size: tuple[int, int]) -> list[Image.Image]:
    """The same synthetic frame of that width and height, `images` times."""
    width, height = size
    return [next(generate(1, (height, width)))["image"]] * images


def save_random_network(folder: Path, width: int, image_size: int) -> Path:
    """A checkpoint of the card's network, its first level of `width` channels, with random weights."""
    checkpoint = folder / f"width-{width}-size-{image_size}"
    UNetForSemanticSegmentation(UNetConfig(base_channels=width)).save_pretrained(checkpoint)
    UNetImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(checkpoint)
    return checkpoint


def compute_dtype(device: str) -> str:
    """The dtype that this project computes in by default."""
    return str(choose_runtime(device).dtype).removeprefix("torch.")


def entries(plan: Plan, part: str, images: int, device: str, folder: Path) -> list[Entry]:
    """All contestants of a part, `images` frames a call."""
    size, frame_size = plan.image_size, plan.frame_size
    job = {"part": part, "images": images, "frame_size": frame_size}
    eager = [
        Snippet(
            **job,
            name=rival.name,
            dtype="float32",
            flops=forward_flops(rival.build, images, size),
            build=rival.build,
            image_size=size,
        )
        for rival in rivals(plan.widths)
    ]
    shipped_size = UNetImageProcessor.from_pretrained(TRAINED_MODEL).size["height"]
    shipped = Predicted(
        **job,
        name="this project, weights of this clone",
        dtype=compute_dtype(device),
        flops=forward_flops(shipped_unet, images, shipped_size),
        checkpoint=TRAINED_MODEL,
        compile=False,
    )
    predicted = [
        Predicted(
            **job,
            name=f"this project, width {width}",
            dtype=compute_dtype(device),
            flops=forward_flops(partial(card_unet, width), images, size),
            compared_with=card_name(width),
            checkpoint=save_random_network(folder, width, size),
            compile=False,
        )
        for width in plan.widths
    ]
    compiled = [predicted[plan.widths.index(width)] for width in plan.compiled_widths]
    if compiled:
        compiled.append(shipped)
    return [*eager, *predicted, shipped, *(entry.compiled() for entry in compiled)]


def measure(plan: Plan, devices: list[str]) -> list[Measurement]:
    """Latency and throughput on each device."""
    found = []
    parts = ((LATENCY, 1, plan.latency_rounds), (THROUGHPUT, plan.throughput_batch, plan.throughput_rounds))
    with tempfile.TemporaryDirectory() as folder:
        for device in devices:
            for part, images, rounds in parts:
                contestants = entries(plan, part, images, device, Path(folder))
                peaks = matrix_multiplications(plan, device, (entry.dtype for entry in contestants))
                found += alternate([*contestants, *peaks], device, rounds, plan.block_seconds)
    return found
