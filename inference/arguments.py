"""The flags of `predict.py`, and the checks of their values that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.command_line import DeviceFlags, ModelsFlags, flag
from ..common.errors import UserError, counted, require_extra
from ..common.local_paths import HUB_ID

if TYPE_CHECKING:
    from .inputs import Inputs

PREDICTION_FLAGS = ("threshold", "tta", "peak_threshold", "min_area", "largest_lesion")  # of the predictor
IMAGE_FLAGS, VIDEO_FLAGS = ("overlay", "probabilities", "uncertainty"), ("smoothing", "alert_seconds")
ANNOTATION_FLAGS = ("annotations", "annotation_label", "annotation_masks")
FORMATS = ("coco", "labelme", "cvat", "label-studio", "via", "yolo")  # of annotations
POLYGON_FORMATS = ("via", "yolo")  # which have no masks
SELECTION_FLAGS = ("select", "select_by", "select_seed", "select_not", "select_copy")  # of what to label next
SELECT_BY = ("random", "uncertainty", "diverse")  # the first is the default, by what benchmarks/labelling.py shows
SETTINGS = (*PREDICTION_FLAGS, *VIDEO_FLAGS, "field_of_view")  # that the outputs depend on
FIELD_OF_VIEW = (
    "What the network sees of a frame: none (all of it), auto (the picture, without a black border and its text), or "
    "left,top,right,bottom in pixels, as 80,0,1360,1024. By default the model's own."
)


@dataclass
class PredictArguments(DeviceFlags, ModelsFlags):
    """How to segment, and what to write."""

    output_dir: str | None = flag(
        None,
        "Folder of the outputs. By default outputs/predictions, or outputs/predictions-2 and so on if that holds "
        "the outputs of another model or other settings.",
    )
    overlay: bool = flag(False, "Write pictures of the images with the polyps drawn in.")
    probabilities: bool = flag(False, "Write the probability maps of the images.")
    uncertainty: bool = flag(
        False,
        "Write a map for each image of how far the averaged probabilities spread: those of several models, or with "
        "--tta of the flips.",
    )
    annotations: str | None = flag(
        None,
        f"Write the masks of the images for an annotation tool, to be corrected: {', '.join(FORMATS[:-1])} or "
        f"{FORMATS[-1]}.",
    )
    annotation_label: str | None = flag(None, "Name of the label in --annotations; by default the model's.")
    annotation_masks: bool = flag(False, "Write masks, in place of polygons, with --annotations.")
    threshold: float = flag(0.5, "A pixel is polyp if its probability is higher.")
    peak_threshold: float | None = flag(
        None,
        "A region counts only if its highest probability is at least this. The model's own, if it has one; as high as "
        "--threshold, every region counts.",
    )
    min_area: int = flag(0, "A region counts only if it has at least so many pixels.")
    largest_lesion: bool = flag(False, "Keep only the largest of the regions that count.")
    tta: bool = flag(
        False, "Average the probabilities of the image and its three flips: better, for four times the work."
    )
    field_of_view: str | None = flag(None, FIELD_OF_VIEW)
    smoothing: float = flag(
        0.0,
        "For videos, against flicker: s in S = s * (S of the previous frame) + (1 - s) * probability, the map that "
        "--threshold is applied to; from 0 (none) to below 1.",
    )
    alert_seconds: float = flag(0.5, "For videos: a lesion that was seen for so long is an alert.")
    report: bool = flag(
        False, "Write report.html, a page to look through the outputs; without INPUT, of those that are there."
    )
    select: int | None = flag(None, "Write selected.csv: so many of the images, to be labelled next.")
    select_by: str = flag(
        SELECT_BY[0],
        "How they are chosen: random (any, but no near-duplicates), uncertainty (the most uncertain) or diverse "
        "(uncertain, with those of which it is unclear whether they show a polyp, and unlike each other).",
    )
    select_seed: int = flag(0, "Of --select_by random.")
    select_not: str | None = flag(
        None, "A folder, file or glob of images that are labelled already: these are not chosen."
    )
    select_copy: bool = flag(False, "Copy the chosen images into selected/, with the folders that they lie in.")
    batch_size: int = flag(8, "Images that go through the network together.")
    compile: bool = flag(False, "Compile the network first: it pays off over thousands of images.")

    def __post_init__(self) -> None:
        self.field_of_view = known_field_of_view(self.field_of_view)


def known_field_of_view(value: str | None) -> str | None:
    """--field_of_view in one form, such as "80,0,1360,1024".

    Raises:
        ValueError: If it is no such setting.
    """
    from ..field_of_view_unet import field_of_view_text  # needs numpy, and --help nothing

    return None if value is None else field_of_view_text(value)


def check_arguments(arguments: PredictArguments) -> None:
    """Refuse invalid values before any work.

    Raises:
        UserError: The message says what was given and what was expected.
    """
    for name in ("threshold", "peak_threshold"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} {value} is no probability: expected 0 to 1.")
    if not 0 <= arguments.smoothing < 1:
        raise UserError(f"--smoothing {arguments.smoothing} cannot be: expected 0, for none, to below 1.")
    if not 0 <= arguments.alert_seconds < float("inf"):
        raise UserError(f"--alert_seconds {arguments.alert_seconds} cannot be: expected 0 or more.")
    if arguments.uncertainty and not arguments.tta and len(arguments.models) == 1:
        raise UserError(
            "--uncertainty is the spread of several maps, and one model gives one map: add --tta, for its flips, or "
            "give --model several models."
        )
    if arguments.min_area < 0:
        raise UserError(f"--min_area {arguments.min_area} cannot be: expected a number of pixels, 0 or more.")
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size {arguments.batch_size} is too few: expected 1 or more.")
    _check_selection(arguments)
    _check_annotations(arguments)


def _check_annotations(arguments: PredictArguments) -> None:
    format, label = arguments.annotations, arguments.annotation_label
    if format is None:
        if given := changed_flags(arguments, ANNOTATION_FLAGS):
            raise UserError(f"--{next(iter(given))} needs --annotations: name the format, or leave it out.")
        return
    if format not in FORMATS:
        raise UserError(f"--annotations {format} is no format that is written here: expected {', '.join(FORMATS)}.")
    if arguments.annotation_masks and format in POLYGON_FORMATS:
        formats = ", ".join(name for name in FORMATS if name not in POLYGON_FORMATS)
        raise UserError(
            f"--annotation_masks: {format} has polygons alone. Leave it out, or choose a format with masks: {formats}."
        )
    if label is not None:
        check_label(label)
    require_extra("annotations", "pycocotools", "shapely")


def check_label(label: str) -> None:
    """Refuse a label without letters, or with line breaks and the like.

    Raises:
        UserError: If it cannot be a name.
    """
    if not (label.strip() and label.isprintable()):
        raise UserError(f"The label {label!r} is no name: give a word or several as --annotation_label.")


def _check_selection(arguments: PredictArguments) -> None:
    if arguments.select is None:
        if useless := changed_flags(arguments, SELECTION_FLAGS):
            flags = " and ".join(f"--{name}" for name in useless)
            raise UserError(f"{flags} without --select: say how many images to select, as --select 100.")
        return
    if arguments.select < 1:
        raise UserError(f"--select {arguments.select} is too few: expected 1 or more images.")
    if arguments.select_by not in SELECT_BY:
        raise UserError(f"--select_by {arguments.select_by} is not known: expected {', '.join(SELECT_BY)}.")


def is_further_model(word: str) -> bool:
    """Whether a word after `--model A` is another model, and no image, folder or video to segment.

    It is if it is an ONNX file, a folder with a config.json, or an id on the Hub with its owner's name, perhaps with
    a revision behind an @, where there is no such path.
    """
    path = Path(word)
    if word.endswith(".onnx") or (path / "config.json").is_file():
        return True
    return not path.exists() and "/" in word and bool(HUB_ID.fullmatch(word.partition("@")[0])) and not path.suffix


def changed_flags(arguments: PredictArguments, names: Sequence[str]) -> dict[str, Any]:
    """The flags of these names that have another value than by default."""
    defaults = PredictArguments()
    values = {name: getattr(arguments, name) for name in names}
    if values.get("model"):
        values["model"] = " ".join(values["model"])  # as it was typed
    return {name: value for name, value in values.items() if value != getattr(defaults, name)}


def flags_without_effect(found: "Inputs", arguments: PredictArguments) -> list[str]:
    """A line for flags that do nothing for some of the inputs.

    Raises:
        UserError: If flags ask for outputs that none of the inputs has.
    """
    lines = []
    if arguments.select is not None:
        if not found.images:
            raise UserError(
                "--select chooses among images, and there is none among the inputs. Save a video's frames."
            )
        if found.videos:
            lines.append(
                f"--select chooses among the images: not among the frames of {counted(len(found.videos), 'video')}."
            )
    of_images, of_videos = (
        [f"--{name}" for name in changed_flags(arguments, names)]
        for names in ((*IMAGE_FLAGS, ANNOTATION_FLAGS[0]), VIDEO_FLAGS)
    )
    if of_images and found.videos:
        flags = f"{' and '.join(of_images)} {'has' if len(of_images) == 1 else 'have'} no effect on videos"
        if not found.images:
            raise UserError(
                f"{flags}, and there is no image among the inputs. Leave out what has none: videos/ gets each video "
                "with its polyps drawn in, and a table of its frames."
            )
        lines.append(f"{flags}, which are {len(found.videos)} of the inputs; the images get what was asked for.")
    if of_videos and not found.videos:
        lines.append(f"There is no video among the inputs: nothing depends on {' and '.join(of_videos)}.")
    return lines
