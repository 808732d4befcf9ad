"""Building the data sets of a training."""

import torch
from training_runs import TINY
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.training.arguments import parse_arguments
from unet_kvasir_seg.training.building import build_datasets, build_model


def test_batches_are_augmented_on_a_gpu_by_default():
    """Decided by the device that the arguments report, since tests have no GPU."""
    splits = load_splits("synthetic", synthetic_rows=4, synthetic_size=32)
    model, data, training = parse_arguments([*TINY, "--use_cpu"])
    _, processor = build_model(model)

    class OnCuda:
        device = torch.device("cuda")
        dispatches_batches = False
        seed = 0

    for arguments, flag, expected in [(training, None, False), (OnCuda, None, True), (OnCuda, False, False)]:
        data.augment_in_batches = flag
        *_, transform = build_datasets(splits, processor, data, arguments, minimum_size=16)
        assert transform.in_batches is expected
