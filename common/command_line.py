"""What the commands share: flags declared as dataclass fields, their parser, and the flags that several commands have.

Imports neither torch nor transformers, so that --help and errors of the command line come at once.
"""

import argparse
import dataclasses
import difflib
import importlib.metadata
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .annotation_rules import AnnotationRules
from .errors import UserError
from .mask_rules import MaskRules
from .paths import TRAINED_MODEL
from .split_rules import SplitRules

# The console scripts that an installed package has in place of the files of a clone.
SCRIPTS = {
    "train.py": "unet-train",
    "evaluation.py": "unet-evaluate",
    "predict.py": "unet-predict",
    "export.py": "unet-export",
    "app.py": "unet-app",
    "convert.py": "unet-convert",
}
YES, NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


def flag(default: Any, help: str) -> Any:
    """A dataclass field that `FlagParser` makes a flag of, with its default and its line in --help."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass
class ModelFlags:
    """Which trained model a command works with."""

    model: str | None = flag(
        None, "A folder, an id on the Hub, or an .onnx file of export.py; by default the model of this clone."
    )
    model_revision: str | None = flag(None, "Branch, tag or commit of --model on the Hub.")


@dataclass
class ModelsFlags(ModelFlags):
    """Which trained model, or which of them together, a command works with."""

    model: list[str] | None = flag(  # type: ignore[assignment]
        None,
        "A folder, an id on the Hub, or an .onnx file of export.py; by default the model of this clone. Of several, "
        "the probabilities are averaged; an id may end in its revision then, as me/unet@v2.",
    )

    @property
    def models(self) -> list[str]:
        """The models; that of this clone if none was named."""
        return self.model or [str(TRAINED_MODEL)]


@dataclass
class MaskFlags:
    """How masks are read, where they are not the usual ones.

    Raises:
        ValueError: If the flags exclude each other, or a value cannot be.
    """

    foreground_values: list[int] | None = flag(None, "Mask values that mean polyp, where they are not the usual ones.")
    mask_threshold: float | None = flag(
        None, "The mask value above which is polyp, of masks that were blurred or enlarged smoothly: 127."
    )
    ignore_exif: bool | None = flag(
        None,
        "true: read images and masks as they are stored, without turning them as EXIF tags say, for masks that were "
        "drawn on such images; false: turn each as its own tag says, also where a pair's tags differ.",
    )

    def __post_init__(self) -> None:
        _ = self.mask_rules

    @property
    def mask_rules(self) -> MaskRules:
        """The flags, as the rooms take them."""
        return MaskRules(self.foreground_values, self.mask_threshold, self.ignore_exif)


@dataclass
class DataFlags(MaskFlags):
    """Which images and masks a command works on."""

    dataset_name: str = flag(
        "Angelou0516/kvasir-seg",
        "An id on the Hub, a local data set, a folder with images/ and masks/, a file or folder of annotations, "
        '"synthetic" or "synthetic-clips".',
    )
    dataset_config: str | None = flag(None, "Configuration of a data set that has several.")
    dataset_revision: str | None = flag(None, "Branch, tag or commit of the data set on the Hub.")
    train_split: str | None = flag(None, "Split of the training samples; found if not given.")
    validation_split: str | None = flag(
        None, "Split of the validation samples; found, or held out of the training samples, if not given."
    )
    image_column: str | None = flag(None, "Column of images; found if not given.")
    mask_column: str | None = flag(None, "Column of masks; found if not given.")
    labels: list[str] | None = flag(
        None, "Of annotations, the labels whose regions are polyp; the only one if not given."
    )
    unlabelled: str = flag(
        "skip", "Of annotations, what images without any are: skip, to leave them out, or negative, without polyp."
    )
    negatives: str | None = flag(
        None, "Frames known to show no polyp: a folder of images, or the id of a data set on the Hub."
    )
    negatives_config: str | None = flag(None, "Configuration of --negatives, if that is a data set with several.")
    synthetic_rows: int = flag(400, "Training samples of the synthetic data; a quarter as many to evaluate.")
    validation_fraction: float | None = flag(
        None, "Hold out this share of the training and validation samples anew; as 0.2."
    )
    fold: int | None = flag(None, "Cross-validation: the fold, from 0, that is the validation split; with --folds.")
    folds: int | None = flag(None, "Cross-validation: number of folds of the training and validation samples.")
    group_column: str | None = flag(
        None, "Column that names each sample's group, as its patient: random splits keep groups together."
    )
    group_pattern: str | None = flag(
        None,
        "In place of the column, a regular expression that finds the group in each image's path below the data set, "
        "without ending, as '(case\\d+)_'.",
    )
    split_seed: int = flag(42, "Seed of random splits, and of the synthetic data.")
    check_data: bool = flag(False, "Read every image and mask, list all that is wrong, and do nothing else.")

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = self.split_rules
        _ = self.annotation_rules
        if self.split_seed < 0:
            raise ValueError(f"--split_seed {self.split_seed} is no seed: expected 0 or more.")
        if self.validation_split is not None and rules.divides_anew:
            raise ValueError(
                "--validation_split names a validation split, and --validation_fraction and --folds make one: leave "
                "one out."
            )

    @property
    def split_rules(self) -> SplitRules:
        """The flags, as the rooms take them."""
        return SplitRules(self.validation_fraction, self.fold, self.folds, self.group_column, self.group_pattern)

    @property
    def annotation_rules(self) -> AnnotationRules:
        """The flags, as the rooms take them."""
        return AnnotationRules(self.labels, self.unlabelled)

    @property
    def source(self) -> dict[str, Any]:
        """Arguments of `data.dataset.load_splits`."""
        return {
            "name": self.dataset_name,
            "config": self.dataset_config,
            "revision": self.dataset_revision,
            "image_column": self.image_column,
            "mask_column": self.mask_column,
            "train_split": self.train_split,
            "validation_split": self.validation_split,
            "synthetic_rows": self.synthetic_rows,
            "seed": self.split_seed,
            "split_rules": self.split_rules,
            "annotation_rules": self.annotation_rules,
        }

    @property
    def described(self) -> dict[str, Any]:
        """Arguments of `data.dataset.describe_data`, besides the samples."""
        return {
            "name": self.dataset_name,
            "revision": self.dataset_revision,
            "config": self.dataset_config,
            "mask_rules": self.mask_rules,
            "seed": self.split_seed,
            "split_rules": self.split_rules,
            "annotation_rules": self.annotation_rules,
        }


@dataclass
class DeviceFlags:
    """Where and in which precision a command computes."""

    device: str = flag("auto", "auto, cuda, mps or cpu.")
    dtype: str = flag("auto", "auto, float32, bfloat16 or float16.")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, but for None, and keeps the line breaks of the description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class FlagParser(argparse.ArgumentParser):
    """A parser with a flag for each field of some dataclasses. Flags cannot be abbreviated.

    Fields may be of type str, int, float or bool, optional or not, or lists of these. A bool flag alone means yes.

    Args:
        kinds: The dataclasses. Fields that a parser of `parents` has already are taken from there.
        program: Name of the command.
        description: Shown above the flags.
        usage: Shown in place of the list of all flags.
        parents: Further parsers whose flags this one has too, as in `argparse`.
    """

    def __init__(
        self,
        kinds: Sequence[type],
        *,
        program: str,
        description: str | None,
        usage: str = "%(prog)s [flags]",
        parents: Sequence[argparse.ArgumentParser] = (),
    ):
        super().__init__(
            prog=program,
            description=in_words_of(program, description),
            formatter_class=_HelpFormatter,
            usage=usage,
            parents=list(parents),
            allow_abbrev=False,
        )
        add_version(self)
        self.kinds = kinds
        for kind in kinds:
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                if field.init and field.name not in self.names:
                    self.add_flag(field.name, hints[field.name], _default_of(field), field.metadata.get("help"))

    @property
    def names(self) -> set[str]:
        """Names of the flags that have a value, without their dashes."""
        return {action.dest for action in self._actions if action.dest != argparse.SUPPRESS}

    def add_flag(self, name: str, hint: Any, default: Any, help: str | None) -> None:
        """Add --name and, if it has underscores, --name with dashes.

        Raises:
            TypeError: For a type that a flag cannot have.
        """
        options = list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
        kind, is_list = _value_type(hint)
        if kind is bool:
            self.add_argument(*options, type=_yes_or_no, nargs="?", const=True, default=default, help=help)
        else:
            self.add_argument(*options, type=kind, nargs="+" if is_list else None, default=default, help=help)

    def set_values(self, values: Mapping[str, Any], source: str) -> None:
        """Make values, as of a recipe, the flags' defaults; what the command line gives still goes before.

        Args:
            values: By the flags' names; None leaves a flag as it is.
            source: What to call them in an error, such as the recipe's path.

        Raises:
            UserError: For an unknown flag, or a value that the flag cannot have.
        """
        # Of --x and --no_x, which set the same value, the first has its type.
        actions = {action.dest: action for action in reversed(self._actions)}
        for name, value in values.items():
            if name not in actions:
                raise UserError(f"{source}: " + unknown("key", str(name), self.names))
            if value is not None:
                self.set_defaults(**{name: _checked_value(actions[name], value, source)})

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """One instance of each dataclass.

        Raises:
            UserError: For unknown flags, and for values that a dataclass refuses.
        """
        values, rest = self.parse_known_args(list(argv))
        if rest:
            raise self._unknown_flag(rest[0])
        try:
            return tuple(
                kind(**{field.name: getattr(values, field.name) for field in dataclasses.fields(kind) if field.init})
                for kind in self.kinds
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    def separate(
        self, argv: Sequence[str], is_further: Callable[[str], bool] = lambda word: False
    ) -> tuple[list[str], list[str]]:
        """Tell flags with their values from the arguments that may stand before, between and after them.

        After "--" there are only arguments, so that they may begin with a dash. A bool flag takes the word that
        follows it only if that is a yes or a no; a flag of several values one word, and further ones as long as they
        can be no arguments.

        Args:
            argv: The words.
            is_further: Whether a word is a further value of a flag that takes several, and no argument.

        Raises:
            UserError: For unknown flags: nobody knows whether a value follows.
        """
        flags: list[str] = []
        arguments: list[str] = []
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                return flags, arguments + words
            if not word.startswith("-") or word == "-":
                arguments.append(word)
                continue
            flags.append(word)
            action = self._option_string_actions.get(word.split("=")[0])
            if action is None:
                raise self._unknown_flag(word)
            may_follow = action.nargs == "?" and words[:1] and words[0].lower() in (*YES, *NO)
            takes_several = action.nargs == "+"
            if (action.nargs is None or may_follow or takes_several) and "=" not in word and words:
                flags.append(words.pop(0))
            while takes_several and words and not words[0].startswith("-") and is_further(words[0]):
                flags.append(words.pop(0))
        return flags, arguments

    def _unknown_flag(self, flag: str) -> UserError:
        return UserError(unknown("flag", flag, [f"--{name}" for name in self.names]))


def program_name(file: str) -> str:
    """What a command calls itself: as its console script if it was started as that, otherwise as its file.

    Args:
        file: Its file, one of `SCRIPTS`.
    """
    started_as = Path(sys.argv[0]).name.removesuffix(".exe")
    return SCRIPTS[file] if started_as == SCRIPTS[file] else file


def in_words_of(program: str, description: str | None) -> str | None:
    """The commands in a description as they are typed where the package is installed, if `program` is a script."""
    if description is None or program not in SCRIPTS.values():
        return description
    files = "|".join(map(re.escape, SCRIPTS))
    typed = re.sub(rf"python ({files})", lambda found: SCRIPTS[found[1]], description)
    launched = rf"((?:accelerate launch|torchrun) [^`\n]*?)({files})"
    return re.sub(launched, lambda found: f"{found[1]}-m unet_kvasir_seg.{Path(found[2]).stem}", typed)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add --version, which prints that of this project."""
    parser.add_argument("--version", action="version", version=importlib.metadata.version("unet-kvasir-seg"))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A message that an unknown name is refused by, with the known names near it."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"unknown {kind} {name!r}" + (f"; near it are {', '.join(near)}." if near else "; see --help.")


def _default_of(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value_type(hint: Any) -> tuple[type, bool]:
    """The type of a flag's values, and whether it takes several: list[int] | None -> (int, True)."""
    choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and len(choices) == 1:
        hint = choices[0]
    is_list = typing.get_origin(hint) is list
    kind = typing.get_args(hint)[0] if is_list else hint
    if kind not in (str, int, float, bool):
        raise TypeError(
            f"A flag cannot have the type {hint}: expected str, int, float, bool or a list of one of these."
        )
    return kind, is_list


def _yes_or_no(word: str | bool) -> bool:
    if str(word).lower() not in (*YES, *NO):
        raise argparse.ArgumentTypeError(f"expected true or false, got {word}")
    return str(word).lower() in YES


def _checked_value(action: argparse.Action, value: Any, source: str) -> Any:
    """A recipe's value, converted as the same words on the command line would be; mappings stay as they are."""
    if isinstance(value, Mapping):
        return value
    takes_list, is_list = action.nargs in ("+", "*"), isinstance(value, list)
    if is_list and not takes_list:
        raise UserError(f"{source}: {action.dest} takes one value, got the list {value}.")
    convert = typing.cast("typing.Callable[[str], Any]", action.type or str)
    try:
        # YAML takes the word `no`, as of `eval_strategy: no`, for false.
        words = ["no" if item is False else str(item) for item in (value if is_list else [value])]
        converted = [convert(word) for word in words]
    except (ValueError, argparse.ArgumentTypeError) as error:
        is_bool = isinstance(error, argparse.ArgumentTypeError)
        expected = "true or false" if is_bool else f"of type {getattr(action.type, '__name__', 'str')}"
        raise UserError(f"{source}: {action.dest} must be {expected}, got {value!r}.") from error
    return converted if takes_list else converted[0]
