"""Arguments of a training: defaults, recipes, the flags made from `UNetConfig`, and what is refused."""

import inspect

import pytest
import torch
from training_runs import TINY
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.training.arguments import described_arguments, flag_parser, parse_arguments
from unet_kvasir_seg.training.resume import checkpoint_to_resume


def parse(*arguments: str):
    return parse_arguments([*arguments, "--use_cpu"])


def test_defaults_are_the_cards():
    model, data, training = parse()
    assert data.dataset_name == "Angelou0516/kvasir-seg"
    assert model.model_name_or_path is None
    assert training.num_train_epochs == 50
    assert training.per_device_train_batch_size == 4
    assert training.learning_rate == 1e-4
    assert training.lr_scheduler_type == "linear"
    assert training.optim.startswith("adamw")
    assert training.metric_for_best_model == "dice_per_image"


@pytest.mark.parametrize(
    "name", ["best", "card", "compact", "cpu-hour", "demo", "fine-tune", "pretrained", "pretrained-hour", "windows"]
)
def test_shipped_recipes_are_valid(name):
    parse(f"recipes/{name}.yaml")


def test_the_card_recipe_gives_the_defaults():
    ours, plain = parse("recipes/card.yaml"), parse()
    assert ours[1] == plain[1]
    assert ours[2].to_dict() | {"output_dir": "", "logging_dir": ""} == plain[2].to_dict() | {
        "output_dir": "",
        "logging_dir": "",
    }


def test_flags_override_the_recipe(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 1e-3\nnum_train_epochs: 7\nforeground_values: [1, 2]\nimage_column: null\n")
    _, data, training = parse(str(recipe), "--num_train_epochs", "3")
    assert (training.learning_rate, training.num_train_epochs) == (1e-3, 3)
    assert data.foreground_values == [1, 2]
    assert data.image_column is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 1", r"unknown key 'learning_rat'; near it are learning_rate"),
        ("- a\n- b", "must hold lines of `flag: value`, got list"),
        ("a: [", "is not valid YAML"),
        ("hub_token: hf_secret", "--hub_token is refused"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path, content, message):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError, match=message):
        parse(str(recipe))


def test_an_absent_recipe_is_answered_with_the_existing_ones():
    with pytest.raises(UserError, match=r"no recipe nowhere\.yaml; the project has recipes/best\.yaml"):
        parse("nowhere.yaml")


def test_an_unknown_flag_names_near_ones():
    with pytest.raises(UserError, match=r"unknown flag '--base_chanels'; near it are --base_channels"):
        parse("--base_chanels", "8")


def test_precision_follows_the_hardware_and_can_be_chosen():
    assert parse("--bf16", "False")[2].runtime.dtype == torch.float32
    assert parse("--bf16")[2].runtime.dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"cpu does not compute in float16 here; choose .*float32"):
        parse("--fp16")


def test_streams_are_split_among_processes_whatever_else_accelerate_is_told():
    _, _, training = parse(*TINY, "--accelerator_config", '{"non_blocking": true}')
    assert training.accelerator_config.dispatch_batches is False


# --- The network: flags and the mapping `model` of a recipe ---


def test_every_field_of_the_configuration_is_a_flag_with_its_help():
    fields = set(inspect.signature(UNetConfig).parameters) - {"num_channels", "id2label", "kwargs"}
    assert fields < flag_parser().names
    documented = described_arguments(UNetConfig.__doc__)
    assert fields < documented.keys()
    assert documented["encoder_blocks"] == "Residual blocks of each level. None: one. Not for plain levels."
    assert documented["channels"].endswith("None: `base_channels`, doubled by each pooling.")


def test_flags_of_the_network_have_the_types_of_its_fields():
    model, _, _ = parse("--channels", "4", "8", "--dropout", "0.5", "--norm", "group", "--num-groups", "4")
    assert model.config_fields == {"channels": [4, 8], "dropout": 0.5, "norm": "group", "num_groups": 4}
    assert parse()[0].config_fields == {}


def test_a_recipes_model_is_the_network_and_flags_override_it(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model:\n  depth: 3\n  channels: [4, 8, 8, 16]\n  norm: batch\n  dropout: null\nimage_size: 64\n"
    )
    model, _, _ = parse(str(recipe), "--norm", "instance")
    assert model.config_fields == {"depth": 3, "channels": [4, 8, 8, 16], "norm": "instance"}
    assert (model.image_size, model.image_size_is_the_recipes) == (64, True)
    assert parse(str(recipe), "--image_size", "64")[0].image_size_is_the_recipes is False


def test_fields_of_the_network_outside_of_model_still_work(tmp_path):
    recipe = tmp_path / "earlier.yaml"
    recipe.write_text("depth: 3\nloss: structure\n")
    assert parse(str(recipe))[0].config_fields == {"depth": 3, "loss": "structure"}


def test_a_recipe_can_switch_a_flag_off(tmp_path):
    """--no_load_best_model_at_end sets the same value and has no type of its own."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("load_best_model_at_end: false\n")
    assert parse(str(recipe))[2].load_best_model_at_end is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {dept: 3}", r"`model` has an unknown field 'dept'; near it are depth"),
        ("model: {num_channels: 1}", r"`model` has an unknown field 'num_channels'"),
        ("model: {depth: 3}\ndepth: 4", r"gives depth twice, in `model` and outside of it"),
        ("model: false", r"`model` must hold fields of the network, as `depth: 4`, got False"),
        ("model: unet", r"`model` must hold fields of the network, as `depth: 4`, got 'unet'"),
        ("model: {depth: three}", r"depth must be of type int, got 'three'"),
        ("model: {depth: [3]}", r"depth takes one value, got the list \[3\]"),
        ("smaller_sizes: [128]", r"gives smaller_sizes, which is now called progressive_sizes"),
        ("smaller_until: [10]", r"gives smaller_until, which is now called progressive_epochs"),
        ("evaluation_strategy: epoch", r"gives evaluation_strategy, which is now called eval_strategy"),
        ("per_gpu_train_batch_size: 8", r"it is now called --per_device_train_batch_size"),
    ],
)
def test_recipes_whose_keys_do_not_fit(tmp_path, content, message):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError, match=message):
        parse(str(recipe))


@pytest.mark.parametrize(
    ("flags", "new"),
    [
        (["--smaller_sizes", "128"], "progressive_sizes"),
        (["--smaller-sizes=128"], "progressive_sizes"),
        (["--smaller_until", "10"], "progressive_epochs"),
        (["--evaluation-strategy", "no"], "eval_strategy"),
        (["--no_cuda"], "--use_cpu"),  # gone in transformers 5, and refused with 4
    ],
)
def test_flags_that_were_renamed_are_answered_with_the_new_name(flags, new):
    with pytest.raises(UserError, match=f"is now called {new}"):
        parse(*flags)


def test_no_in_a_recipe_is_a_word_for_flags_of_words(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: no\nresume_from_checkpoint: no\n")
    arguments = parse(str(recipe))[2]
    assert (arguments.eval_strategy, arguments.save_strategy, arguments.load_best_model_at_end) == ("no", "no", False)
    assert checkpoint_to_resume(arguments.resume_from_checkpoint, tmp_path, with_ema=False) is None
