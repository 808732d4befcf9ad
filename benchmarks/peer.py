"""segmentation_models_pytorch's Unet in a plain loop, as its users write it: a peer of `recipes/pretrained.yaml`.

    pip install -e ".[benchmark]"
    python benchmarks/peer.py --dataset_name $D --encoder_weights lite2.pth --epochs 36
    python evaluation.py --predictions outputs/peer/masks --dataset_name $D --split validation --output_dir outputs/b

The network has the same encoder with the same weights, and the package's own decoder. The loop follows the package's
example of binary segmentation: its Dice loss, a cosine schedule from 2e-4 to 1e-5, the weights of the last epoch; with
AdamW, flips, and the recipe's input size and batch, on the device and in the precision that the recipe is trained in.
Afterwards it writes a mask of each validation image at original size. Started again with the same flags, it continues
after the last epoch that was completed.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_kvasir_seg.common.errors import user_errors

PROGRAM, KEPT = "peer.py", "The state after the last epoch is kept: run the same command again to go on."

with user_errors(PROGRAM, kept=KEPT):  # large libraries: Ctrl-C is answered while they are imported, too
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from torch import Tensor, nn
    from unet_kvasir_seg.common.device import Runtime, choose_runtime, keep_freed_memory
    from unet_kvasir_seg.common.files import atomic_file
    from unet_kvasir_seg.common.output_lock import output_lock
    from unet_kvasir_seg.data.columns import Split
    from unet_kvasir_seg.data.dataset import load_splits
    from unet_kvasir_seg.data.samples import load_sample
    from unet_kvasir_seg.encoder_unet import make_encoder
    from unet_kvasir_seg.training.encoder_weights import load_encoder_weights, normalisation_of

LITE = "efficientnet_lite2"
LEARNING_RATE, LAST_LEARNING_RATE = 2e-4, 1e-5


def build(encoder: str, encoder_weights: str) -> nn.Module:
    """The package's Unet, (B, 3, H, W) -> logits (B, 1, H, W), its EfficientNet-Lite with the given weights."""
    import segmentation_models_pytorch

    network = segmentation_models_pytorch.Unet(f"tu-tf_{encoder}", encoder_weights=None, in_channels=3, classes=1)
    weights = make_encoder(encoder)
    load_encoder_weights(encoder, weights, encoder_weights)
    network.encoder.model.load_state_dict(weights.state_dict())
    return network.to(memory_format=torch.channels_last)


def normalise(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8, as the weights of EfficientNet-Lite, all three, expect them."""
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in normalisation_of(LITE))
    return ((images / 255 - mean) / deviation).contiguous(memory_format=torch.channels_last)


def train(
    network: nn.Module,
    images: Tensor,
    masks: Tensor,
    epochs: int,
    batch_size: int,
    runtime: Runtime,
    state_file: Path,
) -> None:
    """Train in place, printing a line for each epoch, and go on from the state of an earlier run.

    Args:
        network: On the runtime's device.
        images: (N, 3, H, W) uint8, on any device.
        masks: (N, H, W) uint8, {0, 1}.
        epochs: In all.
        batch_size: Of each step.
        runtime: Device and precision.
        state_file: Where the state is kept after each epoch.
    """
    from segmentation_models_pytorch.losses import DiceLoss

    dice_loss = DiceLoss(mode="binary", from_logits=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, LAST_LEARNING_RATE)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    done = 0
    if state_file.is_file():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        done = state["epochs"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["generator"])

    network.train()
    for epoch in range(done + 1, epochs + 1):
        started, losses = time.perf_counter(), []
        for indices in torch.randperm(len(images)).split(batch_size):
            batch, labels = images[indices], masks[indices, None]
            for axis in (-1, -2):
                flipped = torch.rand(len(indices)) < 0.5
                batch[flipped], labels[flipped] = batch[flipped].flip(axis), labels[flipped].flip(axis)
            inputs, labels = normalise(batch).to(runtime.device), labels.to(runtime.device)
            with torch.autocast(runtime.device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
                logits = network(inputs)
            loss = dice_loss(logits.float(), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        seconds = time.perf_counter() - started
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.4f}, {seconds:.0f} s", flush=True)
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"epochs": epoch, "generator": torch.get_rng_state()}
        with atomic_file(state_file) as file:
            torch.save(state, file)


@torch.inference_mode()
def write_masks(network: nn.Module, rows: Split, images: Tensor, device: torch.device, folder: Path) -> None:
    """Write the mask of each image at its original size, as PNG of 0 and 255 under the image's name."""
    folder.mkdir(exist_ok=True)
    network.eval()
    for row, resized in zip(rows, images, strict=True):
        sample = load_sample(row)
        small = network(normalise(resized[None]).to(device)).cpu()
        logits = F.interpolate(small, sample.ground_truth.shape, mode="bilinear")
        mask = (logits[0, 0] > 0).to(torch.uint8) * 255
        with atomic_file(folder / f"{sample.name}.png") as file:
            Image.fromarray(mask.numpy()).save(file, "PNG")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="Angelou0516/kvasir-seg", help="as of train.py")
    parser.add_argument("--synthetic_rows", type=int, default=1000, help="as of train.py")
    parser.add_argument("--encoder", default=LITE, help="efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2")
    parser.add_argument("--encoder_weights", default="imagenet", help="as of train.py, for the encoder")
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/peer"))
    arguments = parser.parse_args(argv)
    with user_errors(PROGRAM, OSError, kept=KEPT), output_lock(arguments.output_dir, PROGRAM, ["masks"]):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Train, and write the masks."""
    from unet_kvasir_seg.benchmarks.bare_loop import in_memory

    torch.manual_seed(arguments.seed)
    keep_freed_memory()
    splits = load_splits(arguments.dataset_name, synthetic_rows=arguments.synthetic_rows)
    runtime = choose_runtime()
    print(f"Computing on {runtime}.")
    network = build(arguments.encoder, arguments.encoder_weights).to(runtime.device)
    state_file = arguments.output_dir / "state.pt"
    images, masks = in_memory(splits["train"], arguments.image_size)
    train(network, images, masks, arguments.epochs, arguments.batch_size, runtime, state_file)
    validation_images, _ = in_memory(splits["validation"], arguments.image_size)
    write_masks(network, splits["validation"], validation_images, runtime.device, arguments.output_dir / "masks")


if __name__ == "__main__":
    main()
