"""The flags of `evaluation.py`, and the checks of their values that need no data."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.command_line import DataFlags, DeviceFlags, ModelsFlags, flag
from ..common.errors import UserError
from ..common.split_rules import SplitRules
from ..data.split_names import known_split
from ..inference.arguments import FIELD_OF_VIEW, known_field_of_view

if TYPE_CHECKING:
    from .sources import Source

MIN_FRAME_RATE, MAX_FRAME_RATE = 0.001, 10_000  # of time lapses, and of high-speed cameras
# That the results depend on, beside model, data and split.
SETTINGS = (
    *("threshold", "tune_threshold_on", "peak_threshold", "tune_peak_on", "sensitivity", "tta", "surface_tolerance"),
    *("sequence_pattern", "sequence_column", "frame_column", "frame_rate", "alert_seconds"),
    *("negatives", "negatives_config", "negative_windows", "compare_with", "audit", "robustness"),
    *("test_sets", "resamples", "seed"),
    "uncertainty",
    *("group_column", "group_pattern", "foreground_values", "mask_threshold", "ignore_exif", "dtype"),
    *("labels", "unlabelled", "field_of_view"),
)
FLAGS_OF_A_MODEL = (
    *("model", "model_revision", "tta", "field_of_view", "push_to_hub", "negatives", "negative_windows"),
    *("save_peak", "save_statistics", "uncertainty", "robustness", "test_sets"),
)
FLAGS_OF_ONE_MODEL = ("push_to_hub", "save_peak", "save_statistics")
# Of a split, which with --test_sets alone is not scored.
FLAGS_OF_A_SPLIT = (
    *("sequence_pattern", "sequence_column", "frame_column", "negatives", "negative_windows", "audit", "robustness"),
    *("save_statistics", "uncertainty", "push_to_hub", "dataset_config", "dataset_revision"),
    *("train_split", "validation_split", "validation_fraction", "fold", "folds"),
)


@dataclass
class EvaluationArguments(DeviceFlags, DataFlags, ModelsFlags):
    """What to score, on what, and how."""

    predictions: str | None = flag(
        None,
        "Score the files of this folder in place of a model: one for each image, of the same name, with a mask or "
        "8- or 16-bit probabilities, or .npy with probabilities.",
    )
    compare_with: str | None = flag(None, "A second model, or a folder of predictions, on the same images.")
    test_sets: str | None = flag(
        None,
        "Score every data set in this folder, each in a folder of its own, as in PraNet's TestDataset/; with "
        "--dataset_name or --split beside that split, otherwise alone.",
    )
    split: str | None = flag(
        None, "The split to score, by any name that the data set has; by default test or, without one, validation."
    )
    output_dir: str | None = flag(
        None,
        "Folder of the results; by default outputs/evaluation, for another model, other data or other settings "
        "outputs/evaluation-2 and so on.",
    )
    threshold: float = flag(0.5, "A pixel is polyp if its probability is higher.")
    tune_threshold_on: str | None = flag(None, "Another split, whose best threshold is taken in place of --threshold.")
    peak_threshold: float | None = flag(
        None, "A region counts if its highest probability reaches this: the model's own. At --threshold, all count."
    )
    tune_peak_on: str | None = flag(
        None, "A split, also the scored one, whose polyps choose the peak threshold in place of --peak_threshold."
    )
    sensitivity: float = flag(0.98, "Share of the polyps found by the threshold alone that the chosen peak keeps.")
    save_peak: bool = flag(False, "Write the chosen peak threshold into the model's preprocessor_config.json.")
    save_statistics: bool = flag(
        False,
        "Write statistics of the frames into the model's preprocessor_config.json, with which predict.py tells frames "
        "that are far off: colours of the train split, presence and uncertainty of the scored one.",
    )
    sequence_pattern: str | None = flag(
        None,
        "Score videos too: a regular expression with the groups sequence and frame, such as "
        "'(?P<sequence>[^/]+)_(?P<frame>\\d+)$', found in each image's path below the data set, without ending.",
    )
    sequence_column: str | None = flag(None, "In place of the pattern: the column that names each frame's video.")
    frame_column: str | None = flag(None, "The column of the frames' numbers in their videos.")
    frame_rate: float = flag(25.0, "Frames per second of the videos, which the numbers count.")
    alert_seconds: float = flag(0.5, "A region that is followed for so long in a video is an alert.")
    negative_windows: int | None = flag(None, "Score so many windows without polyp of the split's frames too.")
    tta: bool = flag(False, "Average the probabilities of the image and its three flips.")
    field_of_view: str | None = flag(None, FIELD_OF_VIEW)
    uncertainty: bool = flag(
        False,
        "Judge how well the spread of the averaged maps, those of several models or with --tta of the flips, points "
        "at wrong pixels.",
    )
    surface_tolerance: float = flag(2.0, "Distance in pixels within which the surface Dice takes outlines as equal.")
    audit: bool = flag(False, "Look for near-duplicates of the scored images in the other splits.")
    robustness: bool = flag(
        False, "Score the split, and images without polyp, under 10 kinds of change at 5 strengths too: 50 passes."
    )
    resamples: int = flag(10_000, "Resamples of the bootstrap.")
    seed: int = flag(0, "Seed of the bootstrap, of the windows, of the halves of a split and of the changes.")
    batch_size: int = flag(8, "Images that go through the network together.")
    dtype: str = flag("float32", "float32, so that scores do not depend on the machine; or auto, bfloat16, float16.")
    push_to_hub: bool = flag(False, "Upload results, card and pictures to the Hub.")
    hub_model_id: str | None = flag(None, "The repo to upload to; by default --model, if that is one.")
    push_example_images: bool = flag(
        False, "Publish the pictures that show frames of the data set too; they may be patients'."
    )

    def __post_init__(self):
        super().__post_init__()
        self.field_of_view = known_field_of_view(self.field_of_view)
        for name in ("split", "tune_threshold_on", "tune_peak_on"):
            setattr(self, name, known_split(getattr(self, name)))  # "validation" for "val"

    @property
    def scores_split(self) -> bool:
        """Whether a split is scored, and not only the data sets of a folder."""
        return self.test_sets is None or self.split is not None or self.dataset_name != type(self).dataset_name

    @property
    def group_rules(self) -> SplitRules:
        """Which samples belong together, for data that is not divided."""
        return SplitRules(group_column=self.group_column, group_pattern=self.group_pattern)

    @property
    def scores_videos(self) -> bool:
        """Whether the frames are those of videos."""
        return self.sequence_pattern is not None or bool(self.sequence_columns)

    @property
    def sequence_columns(self) -> dict[str, str]:
        """The columns that tell the video of each frame and its number there; empty if none do."""
        columns = {"sequence": self.sequence_column, "frame": self.frame_column}
        if self.dataset_name == "synthetic-clips" and self.sequence_pattern is None:
            columns = {name: column or name for name, column in columns.items()}
        return {name: column for name, column in columns.items() if column is not None}

    def settings_with(self, source: "Source") -> dict[str, Any]:
        """All that the results depend on, beside weights, data and code, by the names of the flags."""
        settings = {name: getattr(self, name) for name in SETTINGS} | {"image_processor": source.processor_settings}
        if self.peak_threshold is None and self.tune_peak_on is None:
            settings["peak_threshold"] = source.peak_threshold  # the model's own
        # None in place of "none": the settings of earlier versions lack it.
        settings["field_of_view"] = None if source.field_of_view == "none" else source.field_of_view
        return settings

    @property
    def model_name(self) -> str:
        """The model's folder, file or id on the Hub; of several models the first."""
        return self.models[0]

    @property
    def target_repo(self) -> str | None:
        """The repo on the Hub that results are uploaded to; None if none is named."""
        if self.hub_model_id is not None or self.model is None or Path(self.model_name).exists():
            return self.hub_model_id
        return self.model_name


def check_arguments(arguments: EvaluationArguments) -> None:
    """Refuse impossible values, and flags that exclude each other, before any work.

    Raises:
        UserError: The message says what was given and what to do.
    """
    if arguments.surface_tolerance < 0:
        raise UserError(f"--surface_tolerance {arguments.surface_tolerance} is no distance: expected 0 or more.")
    for name in ("resamples", "batch_size", "synthetic_rows", "negative_windows"):
        count = getattr(arguments, name)
        if count is not None and count < 1:
            raise UserError(f"--{name} {count} is too few: expected 1 or more.")
    if arguments.split is not None and arguments.tune_threshold_on == arguments.split:
        raise UserError(
            f"--tune_threshold_on {arguments.split} is the split that is scored: its threshold would be chosen by its "
            "own masks. Name another split."
        )
    if arguments.predictions is not None:
        for name in FLAGS_OF_A_MODEL:
            if getattr(arguments, name):
                raise UserError(f"--{name} goes with a model, and --predictions is in place of one: leave one out.")
    if len(arguments.models) > 1:
        for name in FLAGS_OF_ONE_MODEL:
            if getattr(arguments, name):
                raise UserError(f"--{name} is for one model, and --model names {len(arguments.models)}: leave it out.")
    if arguments.uncertainty and not arguments.tta and len(arguments.models) == 1:
        raise UserError(
            "--uncertainty judges the spread of several maps, and one model gives one map: add --tta, for its flips, "
            "or give --model several models."
        )
    if arguments.push_to_hub and arguments.target_repo is None:
        raise UserError("--push_to_hub does not know where to: name the repo with --hub_model_id user/name.")
    check_test_sets_arguments(arguments)
    check_peak_arguments(arguments)
    check_sequence_arguments(arguments)
    for name in ("save_peak", "save_statistics"):
        if getattr(arguments, name):
            from .saved_settings import check_savable

            check_savable(arguments.model_name, f"--{name}")


def with_split(arguments: EvaluationArguments, there: Collection[str]) -> EvaluationArguments:
    """The arguments with the split that is scored, where none was named: test or, without one, validation.

    Args:
        arguments: As they were given.
        there: Names of the splits that were loaded.

    Raises:
        UserError: If there is neither, or the split cannot be scored with the other flags.
    """
    if arguments.audit and len(there) < 2:
        raise UserError(
            f"--audit looks for near-duplicates in other splits, and there is none but {', '.join(there)}: remove it."
        )
    if arguments.split is not None:
        return arguments
    split = next((name for name in ("test", "validation") if name in there), None)
    if split is None:
        raise UserError(
            "The data set has neither a test nor a validation split: name the one to score with --split, or all for "
            "every sample."
        )
    chosen = replace(arguments, split=split)
    check_arguments(chosen)
    return chosen


def check_test_sets_arguments(arguments: EvaluationArguments) -> None:
    """The same, of the flags that do not go with --test_sets."""
    if arguments.test_sets is None:
        return
    for name in ("tune_threshold_on", "tune_peak_on", "save_peak"):
        if getattr(arguments, name):
            raise UserError(
                f"--{name} chooses a threshold on a split, and --test_sets compares by one that is fixed: choose it "
                "in a run of its own, then give it with --threshold or --peak_threshold, or save it in the model."
            )
    if not arguments.scores_split:
        for name in FLAGS_OF_A_SPLIT:
            if getattr(arguments, name) not in (None, False):
                raise UserError(
                    f"--{name} is about a split, and --test_sets alone scores whole data sets: name the split that "
                    "is scored beside them with --dataset_name and --split, or leave it out."
                )
    other = arguments.compare_with
    if other is not None and Path(other).is_dir() and not (Path(other) / "config.json").is_file():
        raise UserError(
            f"--compare_with {other} is a folder of predictions, and --test_sets compares with a model alone: name a "
            "model, or score one set with --dataset_name."
        )


def check_peak_arguments(arguments: EvaluationArguments) -> None:
    """The same, of the flags for the peak threshold and for images without polyp."""
    from ..regions_unet import check_thresholds

    try:
        check_thresholds(0.0 if arguments.tune_threshold_on else arguments.threshold, arguments.peak_threshold)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not 0 < arguments.sensitivity <= 1:
        raise UserError(f"--sensitivity {arguments.sensitivity} is no share: expected more than 0 and at most 1.")
    for one, other in (("negatives", "negative_windows"), ("peak_threshold", "tune_peak_on")):
        if None not in (getattr(arguments, one), getattr(arguments, other)):
            raise UserError(f"--{one} and --{other} exclude each other: leave one out.")
    if not arguments.save_peak:
        return
    if arguments.tune_peak_on is None:
        raise UserError("--save_peak saves what --tune_peak_on SPLIT chooses: name the split.")
    if arguments.threshold != 0.5 or arguments.tune_threshold_on is not None:
        raise UserError("--save_peak is for masks at the threshold 0.5, a model's default: leave the other out.")


def check_sequence_arguments(arguments: EvaluationArguments) -> None:
    """The same, of the flags for videos."""
    if arguments.sequence_pattern is not None and arguments.sequence_columns:
        raise UserError("--sequence_pattern is in place of --sequence_column and --frame_column: leave one out.")
    if len(arguments.sequence_columns) == 1:
        raise UserError("--sequence_column and --frame_column go together: name both.")
    if not MIN_FRAME_RATE <= arguments.frame_rate <= MAX_FRAME_RATE:
        raise UserError(
            f"--frame_rate {arguments.frame_rate} cannot be: expected frames per second, such as 25, from "
            f"{MIN_FRAME_RATE:g} to {MAX_FRAME_RATE:,}."
        )
    if not 0 <= arguments.alert_seconds < math.inf:
        raise UserError(f"--alert_seconds {arguments.alert_seconds} is no time: expected 0 or more.")
    if not arguments.scores_videos:
        for name in ("frame_rate", "alert_seconds"):
            if getattr(arguments, name) != getattr(EvaluationArguments, name):  # the default
                raise UserError(f"--{name} is for videos: tell their frames by --sequence_pattern, or by columns.")
        return
    if arguments.split is not None and arguments.tune_peak_on == arguments.split:
        raise UserError(
            f"--tune_peak_on {arguments.split} is the split that is scored, of which frames of one video would choose "
            "the peak for others of it: name another split."
        )
    if arguments.sequence_pattern is not None:
        from .sequence_frames import compile_pattern

        compile_pattern(arguments.sequence_pattern)
