"""The card's recipe as a plain PyTorch loop, to compare `train.py` with: same network, no Trainer.

    python benchmarks/bare_loop.py --dataset_name ../kvasir-seg --base_channels 16 --epochs 2 --seeds 1 2 3
    python benchmarks/bare_loop.py --dataset_name ../kvasir-seg --base_channels 16 --epochs 2 --seeds 1 2 3 --plain

Frames are decoded and resized once and held in memory. For each seed and epoch it prints the mean training loss, the
images per second of training, and the mean Dice per image on the validation split at the input size. With --plain it
computes as a reader of the card would: in float32 and PyTorch's default memory format, with torchvision's augmentation
of PIL images one by one. The scores with and without --plain should not differ.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence

from unet_kvasir_seg.common.errors import user_errors

PROGRAM, KEPT = "bare_loop.py", "Nothing is kept: run the same command again."

with user_errors(PROGRAM, kept=KEPT):  # large libraries: Ctrl-C is answered while they are imported, too
    import torch
    from PIL import Image
    from torch import Tensor
    from unet_kvasir_seg.benchmarks.data_path import card_example
    from unet_kvasir_seg.configuration_unet import UNetConfig
    from unet_kvasir_seg.data.augmentation import BaselineAugmentation
    from unet_kvasir_seg.data.dataset import load_splits
    from unet_kvasir_seg.data.transforms import EvalTransform
    from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
    from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
    from unet_kvasir_seg.scoring.overlap import overlap_scores, pixel_counts

BATCH_SIZE = 4
LEARNING_RATE = 1e-4

# An index -> image (3, H, W) float32 in [0, 1] and labels (H, W), augmented.
Examples = Callable[[int], tuple[Tensor, Tensor]]


def in_memory(rows, image_size: int) -> tuple[Tensor, Tensor]:
    """All images (N, 3, H, W) as uint8 and their masks (N, H, W) as uint8, {0, 1}."""
    processor = UNetImageProcessor(size={"height": image_size, "width": image_size})
    examples = rows.with_transform(EvalTransform(processor))[:]
    images = torch.stack([(image * 255).round().to(torch.uint8) for image in examples["pixel_values"]])
    return images, torch.stack(examples["labels"]).to(torch.uint8)


def fast_examples(images: Tensor, masks: Tensor) -> Examples:
    """This project's augmentation: one warp of tensors."""
    augment = BaselineAugmentation()
    size = images.shape[-2], images.shape[-1]

    def example(index: int) -> tuple[Tensor, Tensor]:
        image, mask = augment(images[index, None], masks[index, None], [augment.sample_parameters(size)])
        return image[0] / 255, mask[0]

    return example


def plain_examples(images: Tensor, masks: Tensor) -> Examples:
    """The card's pipeline: torchvision's functions on PIL images."""
    frames = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    grey = [Image.fromarray(mask.numpy() * 255) for mask in masks]
    return lambda index: card_example(frames[index], grey[index], images.shape[-1])


@torch.inference_mode()
def validation_dice(model: UNetForSemanticSegmentation, images: Tensor, masks: Tensor) -> float:
    """Mean Dice per image at the input size."""
    counts = [
        pixel_counts(model(image[None] / 255).logits[:, 0] > 0, mask[None])
        for image, mask in zip(images, masks, strict=True)
    ]
    return float(overlap_scores(*torch.cat(counts).numpy().T)["dice"].mean())


def train(
    example: Examples,
    count: int,
    validation_data: tuple[Tensor, Tensor],
    *,
    seed: int,
    epochs: int,
    base_channels: int,
    plain: bool,
) -> None:
    """Train one model from `seed` on `count` samples, printing a line for each epoch."""
    torch.manual_seed(seed)
    random.seed(seed)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=base_channels))
    if not plain:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=not plain)
    steps = epochs * -(-count // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    for epoch in range(1, epochs + 1):
        model.train()
        started, losses = time.perf_counter(), []
        for indices in torch.randperm(count).split(BATCH_SIZE):
            pixel_values, labels = map(torch.stack, zip(*(example(int(i)) for i in indices), strict=True))
            with torch.autocast("cpu", torch.bfloat16, enabled=not plain):
                loss = model(pixel_values, labels=labels).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        rate = count / (time.perf_counter() - started)
        dice = validation_dice(model.eval(), *validation_data)
        print(
            f"seed {seed} epoch {epoch}: loss {sum(losses) / len(losses):.4f}, {rate:.2f} images/s, "
            f"validation Dice {dice:.4f}",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="Angelou0516/kvasir-seg", help="as of train.py")
    parser.add_argument("--base_channels", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--plain", action="store_true", help="float32, torchvision on PIL images, no memory format")
    arguments = parser.parse_args(argv)
    with user_errors(PROGRAM, OSError, kept=KEPT):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Train once with each seed."""
    splits = load_splits(arguments.dataset_name)
    train_data, validation_data = (in_memory(splits[part], arguments.image_size) for part in ("train", "validation"))
    example = (plain_examples if arguments.plain else fast_examples)(*train_data)
    for seed in arguments.seeds:
        train(
            example,
            len(train_data[0]),
            validation_data,
            seed=seed,
            epochs=arguments.epochs,
            base_channels=arguments.base_channels,
            plain=arguments.plain,
        )


if __name__ == "__main__":
    main()
