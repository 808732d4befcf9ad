"""Flags of `transformers.TrainingArguments`: each works, or is refused before any work with the reason."""

import dataclasses
import importlib.util
import json

import pytest
from conftest import ROOT
from training_runs import FP32, TINY, error_of
from transformers import TrainingArguments
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.training.arguments import default_values, parse_arguments
from unet_kvasir_seg.training.flag_checks import REFUSED

SHORT = (*TINY, *FP32, "--depth", "2", "--num_train_epochs", "1", "--output_dir", "run")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--label_smoothing_factor 0.1", "--label_smoothing_factor 0.1 is refused: it is for losses of classes"),
        ("--label_smoothing_factor -0.1", "--label_smoothing_factor -0.1 is refused"),
        ("--metric_for_best_model dice", "unknown score 'dice'; choose loss, dice_per_image"),
        ("--metric_for_best_model eval_dice --load_best_model_at_end False", "unknown score 'dice'"),
        ("--metric_for_best_model runtime --save_strategy best", "unknown score 'runtime'"),
        ("--metric_for_best_model loss --greater_is_better True", "would keep the worst checkpoint"),
        ("--greater_is_better False", "would keep the worst checkpoint"),
        ("--eval_strategy no", "--eval_strategy no and --save_strategy epoch: make them equal, or give --load_best"),
        ("--save_strategy steps", "--eval_strategy epoch and --save_strategy steps: make them equal"),
        ("--learning_rate nan", "--learning_rate must be a finite number, got nan"),
        ("--learning_rate -1", "--learning_rate must be at least 0, got -1.0"),
        ("--weight_decay inf", "--weight_decay must be a finite number, got inf"),
        ("--adam_beta2 1", "--adam_beta2 must be below 1, got 1.0"),
        ("--per_device_train_batch_size 0", "--per_device_train_batch_size must be above 0, got 0"),
        ("--gradient_accumulation_steps 0", "--gradient_accumulation_steps must be above 0"),
        ("--eval_accumulation_steps 0", "--eval_accumulation_steps must be above 0"),
        ("--save_total_limit 0", "--save_total_limit must be above 0"),
        ("--dataloader_num_workers -1", "--dataloader_num_workers must be at least 0"),
        ("--cache_megabytes -1", "--cache_megabytes must be at least 0"),
        ("--num_train_epochs 0", "--num_train_epochs must be above 0, got 0.0"),
        ("--max_steps 0", "--max_steps must be at least 1, or -1"),
        ("--seed -1", "--seed must be from 0 to 4294967295, got -1"),
        ("--do_train False", "--do_train False is refused"),
        ("--do_predict", "--do_predict True is refused: train.py trains, evaluates and saves"),
        ("--remove_unused_columns", "--remove_unused_columns True is refused"),
        ("--batch_eval_metrics False", "--batch_eval_metrics False is refused"),
        ("--prediction_loss_only", "the validation scores need the predictions"),
        ("--include_for_metrics inputs loss", "--include_for_metrics ['inputs', 'loss'] is refused"),
        ("--label_names mask", "--label_names ['mask'] is refused"),
        ("--neftune_noise_alpha 0", "it is for language models"),
        ("--bf16_full_eval", "--bf16_full_eval True is refused"),
        ("--auto_find_batch_size", "another batch size"),
        ("--fsdp full_shard", "--fsdp full_shard is refused"),
        ("--deepspeed nowhere.json", "--deepspeed nowhere.json is refused"),
        ("--debug tpu_metrics_debug", "TPUs are not supported"),
        ("--ddp_backend gloo", "--ddp_backend gloo needs several processes"),
        ("--local_rank 1", "--local_rank 1 needs several processes"),
        ("--report_to tensorbord", "--report_to: unknown tracker 'tensorbord'; near it are tensorboard."),
        ("--report_to dvclive", "--report_to dvclive: that tracker is not installed"),
        ("--torch_compile_mode quick", "--torch_compile cannot be used: RuntimeError: Unrecognized mode=quick"),
        ("--optim_args momentum=0.9 --optim sgd", "--optim_args has no effect with --optim sgd"),
        ("--optim_target_modules encoder", "--optim_target_modules has no effect"),
        ("--optim ademamix --optim_args alpha", "'alpha' is no name=value"),
        ("--dataloader_persistent_workers", "needs --dataloader_num_workers of at least 1"),
        ("--output_dir=", "--output_dir is empty"),
    ],
)
def test_flags_refused(flags, message):
    with pytest.raises(UserError) as refusal:
        parse_arguments([*SHORT, *flags.split()])
    assert message in str(refusal.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="it is installed")
def test_the_extra_of_a_missing_tracker_is_named():
    with pytest.raises(UserError, match=r"tensorboard is not installed.*\[tensorboard\]"):
        parse_arguments([*SHORT, "--report_to", "tensorboard"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split_batches": True}, "split_batches is refused"),
        ({"even_batches": False}, "even_batches false is refused"),
        ({"gradient_accumulation_kwargs": {"num_steps": 2}}, "num_steps is refused"),
        ({"no_option": 1}, "unexpected keyword argument 'no_option'"),
    ],
    ids=str,
)
def test_options_of_accelerate_that_are_refused(options, named):
    with pytest.raises(UserError, match=named):
        parse_arguments([*SHORT, "--accelerator_config", json.dumps(options)])


def test_options_of_checkpointing_that_do_not_exist_are_named():
    with pytest.raises(UserError, match="unknown option reentrant; there is use_reentrant"):
        parse_arguments([*SHORT, "--gradient_checkpointing_kwargs", '{"reentrant": false}'])


@pytest.mark.parametrize(
    "flags",
    ["--do_train --do_eval", "--do_predict False", "--remove_unused_columns False", "--label_smoothing_factor 0"],
)
def test_what_a_training_does_anyway_may_be_said(flags):
    parse_arguments([*SHORT, *flags.split()])


def test_every_refused_flag_is_documented():
    documentation = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in REFUSED if f"`--{name}`" not in documentation] == []
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {"label_smoothing_factor", "fsdp", "bf16_full_eval", "prediction_loss_only"} <= REFUSED.keys() & known
    assert known <= default_values().keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--optim lomo", "--optim lomo cannot be used: ImportError: You need to install `lomo_optim`"),
        ("--lr_scheduler_type cosine_with_min_lr", "One of min_lr or min_lr_rate should be set"),
        (
            "--per_device_train_batch_size 16 --dataloader_drop_last",
            "8 training samples are fewer than one batch",
        ),
    ],
)
def test_what_only_the_trainer_knows_is_refused_before_the_first_step(run_train, tmp_path, flags, message):
    assert message in error_of(run_train(*SHORT, *flags.split(), check=False))
    assert not list(tmp_path.glob("run/[!.]*"))


def test_no_validation_sample_is_dropped(run_train, tmp_path):
    """Two samples, in batches of 3 of which none is complete."""
    losses = []
    for name, flags in (("all", ()), ("dropped", ("--dataloader_drop_last", "--per_device_eval_batch_size", 3))):
        run_train(*SHORT, *flags, "--output_dir", name)
        losses.append(json.loads((tmp_path / name / "results.json").read_text())["training"]["validation"])
    assert losses[1] == pytest.approx(losses[0])
