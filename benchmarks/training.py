"""A training step: forward pass, loss, backward pass, optimizer; the batch is in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from unet_kvasir_seg.benchmarks.contest import Entry, alternate
from unet_kvasir_seg.benchmarks.inference import compute_dtype
from unet_kvasir_seg.benchmarks.matrix_multiply import matrix_multiplications
from unet_kvasir_seg.benchmarks.measurement import Measurement
from unet_kvasir_seg.benchmarks.networks import card_name, card_unet, rivals, training_flops
from unet_kvasir_seg.benchmarks.plan import Plan
from unet_kvasir_seg.common.device import choose_runtime, keep_freed_memory
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.losses_unet import bce_dice_loss
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

TRAINING = "training step"
LEARNING_RATE = 1e-4
LARGEST_NORM = 1.0  # of the gradients: Trainer's default


@dataclass(frozen=True, kw_only=True)
class EagerStep(Entry):
    """A network trained eagerly in float32, in PyTorch's own memory format.

    Attributes:
        build: The network, which gives logits.
        image_size: Side in pixels of the images.
    """

    build: Callable[[], nn.Module]
    image_size: int

    side = "rivals"

    def start(self, device: torch.device) -> Callable[[], Tensor]:
        network = self.build().train().to(device)
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.0)
        pixels, labels = random_batch(self.images, self.image_size, device)

        def step() -> Tensor:
            loss = bce_dice_loss(network(pixels), labels)
            return finish_step(loss, network, optimizer)

        return step


@dataclass(frozen=True, kw_only=True)
class TrainedStep(Entry):
    """This project's network as `train.py` trains it.

    Attributes:
        width: Channels of the first level.
        image_size: Side in pixels of the images.
        compile: Whether to compile the network.
        checkpointing: Whether activations are computed again in the backward pass instead of being kept.
    """

    width: int
    image_size: int
    compile: bool = False
    checkpointing: bool = False

    side = "this project"

    def start(self, device: torch.device) -> Callable[[], Tensor]:
        runtime = choose_runtime(device.type)
        if device.type == "cpu":
            keep_freed_memory()
        network = UNetForSemanticSegmentation(UNetConfig(base_channels=self.width)).train()
        network.to(device, memory_format=runtime.memory_format)
        if self.checkpointing:
            network.gradient_checkpointing_enable()
        forward = torch.compile(network) if self.compile else network
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
        pixels, labels = random_batch(self.images, self.image_size, device)

        def step() -> Tensor:
            with torch.autocast(device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
                loss = forward(pixels, labels=labels).loss
            return finish_step(loss, network, optimizer)

        return step


def random_batch(images: int, image_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [0, 1] and labels (B, 1, H, W) in {0, 1}."""
    pixels = torch.rand(images, 3, image_size, image_size, device=device)
    return pixels, (torch.rand(images, 1, image_size, image_size, device=device) < 0.15).long()


def finish_step(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Backward pass, clipping and optimizer, as Trainer has them; returns the loss."""
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), LARGEST_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def entries(plan: Plan, device: str) -> list[Entry]:
    """All contestants."""
    images, size = plan.training_batch, plan.image_size
    job = {"part": TRAINING, "images": images, "image_size": size}
    eager = [
        EagerStep(
            **job,
            name=rival.name,
            dtype="float32",
            flops=training_flops(rival.build, images, size),
            build=rival.build,
        )
        for rival in rivals(plan.widths)
    ]
    trained = [
        TrainedStep(
            **job,
            name=f"this project, width {width}{', compiled' if compiled else ''}",
            dtype=compute_dtype(device),
            flops=training_flops(partial(card_unet, width), images, size),
            compared_with=card_name(width),
            width=width,
            compile=compiled,
        )
        for width in plan.widths
        for compiled in (False, True)
        if not compiled or width in plan.compiled_widths
    ]
    return [*eager, *trained]


def measure(plan: Plan, devices: list[str]) -> list[Measurement]:
    """The step on each device."""
    found = []
    for device in devices:
        contestants = entries(plan, device)
        peaks = matrix_multiplications(plan, device, (entry.dtype for entry in contestants))
        found += alternate([*contestants, *peaks], device, plan.training_rounds, plan.block_seconds)
    return found
