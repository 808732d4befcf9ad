"""The flags of `predict.py`, and the checks of their values that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..common.command_line import DeviceFlags, ModelFlags, flag
from ..common.errors import UserError, require_extra

if TYPE_CHECKING:
    from .inputs import Inputs

PREDICTION_FLAGS = ("threshold", "tta", "peak_threshold", "min_area", "largest_lesion")  # of the predictor
IMAGE_FLAGS, VIDEO_FLAGS = ("overlay", "probabilities", "annotations"), ("smoothing", "alert_seconds")
FORMATS = ("coco", "labelme", "cvat", "label-studio", "via", "yolo")  # of annotations
POLYGON_FORMATS = ("via", "yolo")  # which have no masks
SETTINGS = (*PREDICTION_FLAGS, *VIDEO_FLAGS)  # that the outputs depend on


@dataclass
class PredictArguments(DeviceFlags, ModelFlags):
    """How to segment, and what to write."""

    output_dir: str | None = flag(
        None,
        "Folder of the outputs. By default outputs/predictions, or outputs/predictions-2 and so on if that holds "
        "the outputs of another model or other settings.",
    )
    overlay: bool = flag(False, "Write pictures of the images with the polyps drawn in.")
    probabilities: bool = flag(False, "Write the probability maps of the images.")
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
    smoothing: float = flag(
        0.0,
        "For videos, against flicker: s in S = s * (S of the previous frame) + (1 - s) * probability, the map that "
        "--threshold is applied to; from 0 (none) to below 1.",
    )
    alert_seconds: float = flag(0.5, "For videos: a lesion that was seen for so long is an alert.")
    report: bool = flag(
        False, "Write report.html, a page to look through the outputs; without INPUT, of those that are there."
    )
    batch_size: int = flag(8, "Images that go through the network together.")
    compile: bool = flag(False, "Compile the network first: it pays off over thousands of images.")


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
    if arguments.min_area < 0:
        raise UserError(f"--min_area {arguments.min_area} cannot be: expected a number of pixels, 0 or more.")
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size {arguments.batch_size} is too few: expected 1 or more.")
    _check_annotations(arguments)


def _check_annotations(arguments: PredictArguments) -> None:
    format, label = arguments.annotations, arguments.annotation_label
    if format is None:
        if given := changed_flags(arguments, ("annotation_label", "annotation_masks")):
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


def changed_flags(arguments: PredictArguments, names: Sequence[str]) -> dict[str, Any]:
    """The flags of these names that have another value than by default."""
    defaults = PredictArguments()
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(defaults, name)}


def flags_without_effect(found: "Inputs", arguments: PredictArguments) -> list[str]:
    """A line for flags that do nothing for some of the inputs.

    Raises:
        UserError: If flags ask for outputs that none of the inputs has.
    """
    lines = []
    of_images, of_videos = (
        [f"--{name}" for name in changed_flags(arguments, names)] for names in (IMAGE_FLAGS, VIDEO_FLAGS)
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
