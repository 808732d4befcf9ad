"""The card's recipe as a plain PyTorch loop, to hold `train.py` against: same network, no Trainer.

    python benchmarks/bare_loop.py --dataset_name ../kvasir-seg --base_channels 16 --epochs 2 --seeds 1 2 3

Frames are decoded and resized once and held in memory. For each seed and epoch it prints the mean training
loss, the images per second of training, and the per-image mean Dice on the validation split at 256x256.
"""

import argparse
import time

import torch
from torch import Tensor
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.augmentation import CardAugmentation, EvalTransform
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

BATCH_SIZE = 4
LEARNING_RATE = 1e-4


def in_memory(rows) -> tuple[Tensor, Tensor]:
    """All images (N, 3, 256, 256) as uint8 and their masks (N, 256, 256)."""
    examples = rows.with_transform(EvalTransform(UNetImageProcessor()))[:]
    images = torch.stack([(image * 255).round().to(torch.uint8) for image in examples["pixel_values"]])
    return images, torch.stack(examples["labels"])


@torch.inference_mode()
def validation_dice(model: UNetForSemanticSegmentation, images: Tensor, masks: Tensor) -> float:
    """Mean over images of 2|A and B| / (|A| + |B|) at the network's size."""
    scores = []
    for image, mask in zip(images, masks, strict=True):
        predicted = model(image[None] / 255).logits[0, 0] > 0
        scores.append(2 * (predicted & (mask == 1)).sum() / (predicted.sum() + mask.sum()))
    return torch.stack(scores).mean().item()


def train(seed: int, epochs: int, base_channels: int, train_data: tuple, validation_data: tuple) -> None:
    """Train one model from `seed`, printing a line an epoch."""
    torch.manual_seed(seed)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=base_channels))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    images, masks = train_data
    steps = epochs * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    augment = CardAugmentation()

    for epoch in range(1, epochs + 1):
        model.train()
        started, losses = time.perf_counter(), []
        for indices in torch.randperm(len(images)).split(BATCH_SIZE):
            pairs = [augment(images[i], masks[i]) for i in indices]
            pixel_values = torch.stack([image for image, _ in pairs]) / 255
            labels = torch.stack([mask for _, mask in pairs])
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(pixel_values, labels=labels).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        rate = len(images) / (time.perf_counter() - started)
        dice = validation_dice(model.eval(), *validation_data)
        print(
            f"seed {seed} epoch {epoch}: loss {sum(losses) / len(losses):.4f}, {rate:.2f} images/s, "
            f"validation Dice {dice:.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="Angelou0516/kvasir-seg", help="as of train.py")
    parser.add_argument("--base_channels", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    arguments = parser.parse_args()

    splits = load_splits(arguments.dataset_name)
    train_data, validation_data = in_memory(splits["train"]), in_memory(splits["validation"])
    for seed in arguments.seeds:
        train(seed, arguments.epochs, arguments.base_channels, train_data, validation_data)


if __name__ == "__main__":
    main()
