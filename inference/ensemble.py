"""Several models as one predictor, whose probabilities are the mean of theirs; imports no torch.

predictor = Predictor.from_pretrained(["outputs/a", "outputs/b", "me/unet@v2"])    # an `Ensemble`
predictor(Image.open("frame.jpg"), uncertainty=True).spread    # (H, W), where the models disagree

Each member prepares the image by its own image processor, and its map is resized to the image before the mean is
taken: input sizes and normalisations may differ, and PyTorch and ONNX files may be mixed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.errors import UserError
from .frame_statistics import SETTING
from .prediction import BasePredictor, MapPair, PreparedImage
from .resize import resize_map

if TYPE_CHECKING:
    from ..image_processing_unet import UNetImageProcessor

USUAL_LABELS = {"0": "background", "1": "polyp"}
CHOSEN_FOR_A_MODEL = ("peak_threshold", "presence_calibration", "peak_chosen_on")  # settings of a single network


@dataclass(frozen=True)
class EnsembleRuntime:
    """Where the members compute, named as in `Runtime` of common/device.py.

    Attributes:
        device, dtype: Of the members; all of them, where they differ.
        description: In words.
    """

    device: str
    dtype: str
    description: str

    def __str__(self) -> str:
        return self.description

    @classmethod
    def of(cls, runtimes: Sequence[Any]) -> "EnsembleRuntime":
        def together(values: Iterator[Any]) -> str:
            return " and ".join(dict.fromkeys(str(value).removeprefix("torch.") for value in values))

        devices = together(getattr(one.device, "type", one.device) for one in runtimes)
        return cls(devices, together(one.dtype for one in runtimes), together(iter(runtimes)))


class Ensemble(BasePredictor):
    """The mean of several models.

    Its image processor and field of view are those of the first member. Statistics of training frames are those of the
    first member that keeps some, and frames are measured as that one sees them. Settings that were chosen for one
    network are put together: the peak threshold is the lowest of the members' own, since averaging lowers peaks, and
    there is none if a member has none; the calibration of presence is the mean of theirs, if all have one.

    Args:
        members: The models, two or more.
        names: What messages and run.json call them.

    Raises:
        UserError: If they cannot be averaged.
    """

    def __init__(self, members: Sequence[BasePredictor], names: Sequence[str]):
        check_members(members, names)
        self._members = list(members)
        self.names = list(names)
        self.runtime: EnsembleRuntime = EnsembleRuntime.of([member.runtime for member in members])
        self.model = None

    @property
    def members(self) -> Sequence[BasePredictor]:
        return self._members

    @property
    def processor(self) -> "UNetImageProcessor":
        return self.members[0].processor

    @cached_property
    def processor_settings(self) -> dict[str, Any]:
        of_members = [member.processor_settings for member in self.members]
        peaks = [settings.get("peak_threshold") for settings in of_members]
        calibrations = [settings.get("presence_calibration") for settings in of_members]
        peak = None if None in peaks else min(peak for peak in peaks if peak is not None)
        calibration = None if None in calibrations else np.mean(np.array(calibrations), axis=0).tolist()
        chosen = {"peak_threshold": peak, "presence_calibration": calibration, "peak_chosen_on": None}
        statistics = of_members[self._measuring].get(SETTING)
        return of_members[0] | chosen | ({} if statistics is None else {SETTING: statistics})

    @cached_property
    def _measuring(self) -> int:
        """Number of the member by whose statistics frames are compared; without any, the first."""
        have = [member.processor_settings.get(SETTING) is not None for member in self.members]
        return have.index(True) if any(have) else 0

    @cached_property
    def identity(self) -> str:
        """Hash of what the members' probabilities depend on, in their order."""
        unused = (*CHOSEN_FOR_A_MODEL, SETTING)
        parts = [
            [member.identity, {name: value for name, value in member.processor_settings.items() if name not in unused}]
            for member in self.members
        ]
        return f"sha256:{hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()}"

    def prepare(self, image: Any, field_of_view: str | Sequence[int] | None = None) -> PreparedImage:
        setting = self.field_of_view if field_of_view is None else field_of_view
        first = self.members[0].prepare(image, setting or "none")
        box = first.field_of_view  # of all of them: their maps at the input size show the same
        others = [member.prepare(image, box or "none") for member in self.members[1:]]
        return PreparedImage([first, *others], first.size, box)

    def input_height(self, prepared: PreparedImage) -> int:
        return self.members[self._measuring].input_height(prepared.pixels[self._measuring])

    def grey_levels(self, prepared: PreparedImage, rows: np.ndarray) -> np.ndarray:
        return self.members[self._measuring].grey_levels(prepared.pixels[self._measuring], rows)

    def averages(self, tta: bool) -> bool:
        return True

    def parts(self, prepared: Sequence[PreparedImage], tta: bool) -> Iterator[list[MapPair]]:
        """One part for each member; with `tta`, its mean over the flips. Maps at the input size are at the first's."""
        input_sizes: list[tuple[int, int]] = []
        for number, member in enumerate(self.members):
            maps = member.probability_maps([image.pixels[number] for image in prepared], tta)
            input_sizes = input_sizes or [(len(at_input_size), at_input_size.shape[1]) for _, at_input_size in maps]
            yield [
                (probability, at_input_size if at_input_size.shape == size else resize_map(at_input_size, size))
                for (probability, at_input_size), size in zip(maps, input_sizes, strict=True)
            ]

    def flip_maps(self, prepared: Sequence[PreparedImage], axes: tuple[int, ...]) -> list[MapPair]:
        def flipped() -> Iterator[list[MapPair]]:
            for number, member in enumerate(self.members):
                yield member.flip_maps([image.pixels[number] for image in prepared], axes)

        return self._mean_and_spread(flipped(), with_spread=False)[0]


def check_members(members: Sequence[BasePredictor], names: Sequence[str]) -> None:
    """Check that the maps of some models can be averaged.

    Raises:
        UserError: If there are fewer than two, one is there twice, or they look for different things.
    """
    if len(members) < 2:
        raise UserError(f"An ensemble needs two models or more, and got {len(members)}.")
    seen: dict[str, str] = {}
    for member, name in zip(members, names, strict=True):
        if member.identity in seen:
            raise UserError(
                f"{seen[member.identity]} and {name} are the same network, whose maps do not differ: leave one out."
            )
        seen[member.identity] = name
    labels = [labels_of(member) for member in members]
    for name, of_one in zip(names, labels, strict=True):
        if of_one != labels[0]:
            raise UserError(
                f"{names[0]} and {name} cannot be averaged: the labels of the first are {_shown(labels[0])}, and of "
                f"the second {_shown(of_one)}. Give --model networks of the same kind."
            )


def labels_of(predictor: BasePredictor) -> dict[str, str]:
    """The names of a model's labels, by their numbers as config.json writes them."""
    metadata = getattr(predictor.model, "metadata", None)  # of an ONNX file; its configuration would need transformers
    labels = json.loads(metadata["config"]).get("id2label") if metadata else predictor.model.config.id2label
    return {str(number): str(name) for number, name in (labels or USUAL_LABELS).items()}


def _shown(labels: dict[str, str]) -> str:
    return ", ".join(name for _, name in sorted(labels.items()))


def load_ensemble(
    names: Sequence[str | Path], revision: str | None, load: Callable[[str, str | None], BasePredictor]
) -> BasePredictor:
    """Load several models as one predictor; one alone is itself.

    Args:
        names: Folders, ONNX files, or ids on the Hub, which may end in their revision: "me/unet@v2".
        revision: On the Hub, of the ids that name none.
        load: Loads a model, given its name and its revision.

    Raises:
        UserError: If a model cannot be loaded, or they cannot be averaged.
    """
    if not names:
        raise UserError("There is no model in the list: name one or more.")
    members = []
    for name in map(str, names):
        is_here = Path(name).exists()
        repo, _, of_one = ("", "", "") if is_here else name.rpartition("@")
        members.append(load(repo or name, of_one if repo else None if is_here and len(names) > 1 else revision))
    return members[0] if len(members) == 1 else Ensemble(members, [str(name) for name in names])


def describe_choices(predictor: BasePredictor) -> str:
    """A line on the peak thresholds of an ensemble's members, if they have any; empty for a single model."""
    if not isinstance(predictor, Ensemble):
        return ""
    peaks = [member.peak_threshold for member in predictor.members]
    if all(peak is None for peak in peaks):
        return ""
    shown = ", ".join("none" if peak is None else f"{peak:g}" for peak in peaks)
    taken = "none" if predictor.peak_threshold is None else f"the lowest, {predictor.peak_threshold:g}"
    return (
        f"The models' own peak thresholds are {shown}; the ensemble takes {taken}. Another one: --peak_threshold, "
        "chosen by evaluation.py --tune_peak_on."
    )
