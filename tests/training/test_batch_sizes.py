"""Batches that a network's normalisation cannot take are refused before the training."""

from types import SimpleNamespace

import pytest
import torch
from training_runs import FP32, TINY, error_of
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.training.batch_sizes import can_train_on, smallest_batch

# At 32 pixels, the bottleneck of depth 5 is a single pixel.
PROGRESSIVE = ("--progressive_sizes", 32, "--progressive_epochs", 1)
RUN = (*TINY, *FP32, "--norm", "batch", "--depth", 5, "--num_train_epochs", 1, "--output_dir", "run")


def smallest(samples, size, *, devices=1, processes=1, drop_last=False):
    arguments = SimpleNamespace(
        per_device_train_batch_size=size,
        train_batch_size=size * devices,
        n_gpu=devices,
        world_size=processes,
        dataloader_drop_last=drop_last,
    )
    return smallest_batch(samples, arguments)


def test_the_smallest_batch_of_an_epoch():
    assert smallest(8, 7) == 1
    assert smallest(8, 4) == 4
    assert smallest(3, 4) == 3
    assert smallest(8, 7, drop_last=True) == 7
    assert smallest(8, 7, processes=2) == 7  # accelerate repeats samples
    assert smallest(None, 4) == 1  # of a stream, nobody knows
    # Two GPUs of one process take batches of 8: the last one of 3 becomes 2 and 1, of 4 becomes 2 and 2.
    assert smallest(11, 4, devices=2) == 1
    assert smallest(12, 4, devices=2) == 2
    assert smallest(9, 4, devices=2) == 1


@pytest.mark.parametrize(
    ("fields", "samples", "side", "expected"),
    [
        ({"norm": "batch", "depth": 5}, 1, 32, False),
        ({"norm": "batch", "depth": 5}, 2, 32, True),
        ({"norm": "batch", "depth": 5}, 1, 64, True),
        ({"norm": "batch", "depth": 5, "block": "residual"}, 1, 32, False),
        ({"norm": "none", "depth": 5}, 1, 32, True),
        ({"norm": "group", "depth": 5, "num_groups": 2}, 1, 32, True),
        ({"norm": "batch", "encoder": "efficientnet_lite0"}, 1, 32, False),
        ({"norm": "group", "encoder": "efficientnet_lite0"}, 2, 32, True),
    ],
    ids=str,
)
def test_shapes_say_what_the_network_itself_says(fields, samples, side, expected):
    own = {} if "encoder" in fields else {"base_channels": 2}
    model = UNetForSemanticSegmentation(UNetConfig(**own, **fields)).train()
    pixels = torch.rand(samples, 3, side, side)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert can_train_on(model, samples, side) is expected
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    if expected:
        model(pixels)
    else:
        with pytest.raises(ValueError, match="Expected more than 1"):
            model(pixels)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--per_device_train_batch_size", 7), "give --dataloader_drop_last, or another --per_device_train_batch"),
        (("--per_device_train_batch_size", 1), "raise --per_device_train_batch_size"),
        (("--synthetic_rows", 1), "train on more samples, use larger images"),  # dropping it would leave none
        (
            ("--per_device_train_batch_size", 7, "--image_size", 64, *PROGRESSIVE),
            "A batch of 1 at 32x32 pixels",
        ),
    ],
    ids=str,
)
def test_a_batch_of_one_at_a_single_pixel_is_refused(run_train, tmp_path, flags, message):
    assert message in error_of(run_train(*RUN, *flags, check=False))
    assert not list(tmp_path.glob("run/[!.]*"))


def test_the_remedy_helps(run_train):
    """Also where single samples are evaluated."""
    run_train(*RUN, "--per_device_train_batch_size", 7, "--dataloader_drop_last", "--per_device_eval_batch_size", 1)
