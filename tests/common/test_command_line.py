"""Flags made from dataclasses: their types, what is refused, and values of a recipe."""

import argparse
import inspect
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import tomllib
from conftest import ROOT
from unet_kvasir_seg.common.command_line import (
    SCRIPTS,
    DataFlags,
    DeviceFlags,
    FlagParser,
    ModelFlags,
    flag,
    in_words_of,
    program_name,
    unknown,
)
from unet_kvasir_seg.common.errors import UserError


@dataclass
class Settings(DeviceFlags):
    rate: float = flag(0.5, "A number.")
    sides: list[int] | None = flag(None, "Whole numbers.")
    fast: bool = flag(False, "Yes or no.")
    slow: bool | None = flag(None, "Yes, no or unknown.")
    dtype: str = flag("float32", "Another default than the one that is inherited.")

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate is {self.rate}; expected 0 or more.")


@pytest.fixture
def parser() -> FlagParser:
    return FlagParser([Settings, ModelFlags], program="program.py", description="Does things.")


def test_values_get_the_fields_types(parser):
    words = ["--rate", "2", "--sides", "1", "2", "--fast", "--slow=no", "--model-revision", "main"]
    settings, model = parser.parse(words)
    assert settings == Settings(rate=2.0, sides=[1, 2], fast=True, slow=False)
    assert model == ModelFlags(model=None, model_revision="main")


def test_without_flags_the_defaults_are_taken(parser):
    assert parser.parse([]) == (Settings("auto", "float32", 0.5, None, False, None), ModelFlags())


def test_a_list_can_be_a_default():
    @dataclass
    class Parts:
        parts: list[str] = field(default_factory=lambda: ["one", "two"], metadata={"help": "Names."})

    parser = FlagParser([Parts], program="program.py", description=None)
    assert parser.parse([]) == (Parts(["one", "two"]),)
    assert parser.parse(["--parts", "three"]) == (Parts(["three"]),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ratte", "1"], r"unknown flag '--ratte'; near it are --rate"),
        (["--rat", "1"], "unknown flag '--rat'"),  # no abbreviations
        (["--rate=-1"], r"rate is -1.0; expected 0 or more"),
    ],
)
def test_a_wrong_flag_or_value_is_refused(parser, words, message):
    with pytest.raises(UserError, match=message):
        parser.parse(words)


@pytest.mark.parametrize("words", [["--rate", "much"], ["--fast=maybe"], ["--sides"], ["--sides", "1.5"]])
def test_a_value_of_another_type_ends_the_program_with_status_2(parser, words, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse(words)
    assert end.value.code == 2
    assert words[0].split("=")[0] in capsys.readouterr().err


def test_values_of_a_recipe_are_defaults_of_the_flags_types(parser):
    parser.set_values({"rate": "1e-3", "sides": 7, "fast": True, "model": None, "dtype": "bfloat16"}, "recipe.yaml")
    settings, model = parser.parse(["--dtype", "float16"])
    assert settings == Settings("auto", "float16", rate=0.001, sides=[7], fast=True)
    assert model == ModelFlags()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rates": 1}, r"recipe.yaml: unknown key 'rates'; near it are .*rate"),
        ({"rate": "much"}, r"recipe.yaml: rate must be of type float, got 'much'"),
        ({"rate": [1, 2]}, r"recipe.yaml: rate takes one value, got the list \[1, 2\]"),
        ({"sides": [1, "x"]}, r"recipe.yaml: sides must be of type int, got \[1, 'x'\]"),
        ({"fast": "maybe"}, r"recipe.yaml: fast must be true or false, got 'maybe'"),
    ],
)
def test_a_wrong_key_or_value_of_a_recipe_is_refused(parser, values, message):
    with pytest.raises(UserError, match=message):
        parser.set_values(values, "recipe.yaml")


@pytest.mark.parametrize(
    ("words", "flags", "arguments"),
    [
        (["a", "--rate", "1", "b", "--fast", "c"], ["--rate", "1", "--fast"], ["a", "b", "c"]),
        (["--fast", "no", "a", "--rate=2", "b"], ["--fast", "no", "--rate=2"], ["a", "b"]),
        (["a", "--fast", "--", "--rate", "-x"], ["--fast"], ["a", "--rate", "-x"]),
        (["-"], [], ["-"]),
    ],
)
def test_flags_and_arguments_may_stand_in_any_order(parser, words, flags, arguments):
    assert parser.separate(words) == (flags, arguments)
    with pytest.raises(UserError, match="unknown flag '--odd'"):
        parser.separate([*words[:1], "--odd", "x"])


def test_flags_of_a_parent_parser_are_taken_from_there():
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--device", default="mps", choices=["mps", "cpu"])
    parser = FlagParser([DeviceFlags, DataFlags], program="", description=None, parents=[parent])
    device, data = parser.parse(["--dtype", "float16"])
    assert (device, data) == (DeviceFlags("mps", "float16"), DataFlags())


def test_a_field_of_another_type_is_the_programmers_mistake():
    @dataclass
    class Wrong:
        pair: tuple[int, int] = flag((1, 2), "Cannot be.")

    with pytest.raises(TypeError, match="cannot have the type"):
        FlagParser([Wrong], program="", description=None)


def test_unknown_names_are_answered_with_near_ones():
    assert unknown("key", "epoch", ["epochs", "sides"]) == "unknown key 'epoch'; near it are epochs."
    assert unknown("key", "zzz", ["epochs"]) == "unknown key 'zzz'; see --help."


def test_neither_torch_nor_transformers_is_imported():
    program = (
        "import sys; from unet_kvasir_seg.common import command_line, errors, files, paths, prefetch, processes;"
        "print(sorted({'torch', 'transformers', 'datasets', 'torchvision', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_data_flags_are_the_arguments_of_load_splits():
    from unet_kvasir_seg.data.dataset import load_splits

    parser = FlagParser([DataFlags], program="", description=None)
    flags = "--dataset_name me/polyps --dataset_config b --train_split all --validation_split Dev --mask_column gt"
    (data,) = parser.parse(flags.split())
    usual = {"synthetic_rows", "seed", "split_rules", "annotation_rules"}
    given = {name: value for name, value in data.source.items() if value is not None and name not in usual}
    assert given == {
        "name": "me/polyps",
        "config": "b",
        "mask_column": "gt",
        "train_split": "all",
        "validation_split": "Dev",
    }
    assert data.source.keys() <= inspect.signature(load_splits).parameters.keys()


def test_scripts_are_those_that_are_installed():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert {f"unet_kvasir_seg.{file.removesuffix('.py')}:main": name for file, name in SCRIPTS.items()} == {
        main: name for name, main in stated.items()
    }


@pytest.mark.parametrize(
    ("started_as", "expected"),
    [
        ("/usr/bin/unet-evaluate", "unet-evaluate"),
        ("unet-evaluate.exe", "unet-evaluate"),
        ("evaluation.py", "evaluation.py"),
        ("/clone/evaluation.py", "evaluation.py"),
        ("/usr/bin/unet-train", "evaluation.py"),  # another command that calls this one
        ("pytest", "evaluation.py"),
        ("", "evaluation.py"),
        ("-c", "evaluation.py"),
    ],
)
def test_a_command_is_called_what_it_was_started_as(monkeypatch, started_as, expected):
    monkeypatch.setattr("sys.argv", [started_as, "--help"])
    assert program_name("evaluation.py") == expected


def test_the_description_of_a_script_shows_what_is_typed():
    text = """Trains.

    python train.py recipes/demo.yaml    # then python evaluation.py
    `accelerate launch --num_processes 2 train.py ...` or `torchrun --nproc_per_node 2 train.py ...`, see train.py
"""
    assert in_words_of("train.py", text) == text
    assert (
        in_words_of("unet-train", text)
        == """Trains.

    unet-train recipes/demo.yaml    # then unet-evaluate
    `accelerate launch --num_processes 2 -m unet_kvasir_seg.train ...` or `torchrun --nproc_per_node 2 -m \
unet_kvasir_seg.train ...`, see train.py
"""
    )
    assert in_words_of("unet-train", None) is None
