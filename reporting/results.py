"""`results.json`: what a run measured. The types below are its schema; whatever reads or writes the file uses them.

`schema.py` checks a file against them when it is read. The section "model" also holds fields of `UNetConfig`, which
declares them.
"""

import importlib.metadata
import json
import platform
import subprocess
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, cast

from ..common.errors import UserError
from ..common.files import write_atomic
from ..common.paths import PACKAGE, TRAINED_MODEL, TRAINED_NAME
from .schema import Schema

if TYPE_CHECKING:
    from ..common.device import Runtime

RESULTS_SCHEMA = 1
REMEDY = "Choose another --output_dir, or remove what is there."  # of a folder that is taken
RENAMED_TRAINING_FIELDS = {"smaller_sizes": "progressive_sizes", "smaller_until": "progressive_epochs"}


Interval = Annotated[list[float], 2]  # low, high


class Score(TypedDict):
    """A score with its 95 % interval."""

    value: float
    ci95: Interval


class Difference(TypedDict):
    """The mean difference of two models' scores on the same images, with its 95 % interval."""

    difference: float
    ci95: Interval
    p_value: float
    images: int


class _ModelOfAnyKind(TypedDict):
    name: str
    repository: str | None


class Model(_ModelOfAnyKind, total=False):
    """The model, with the fields of `UNetConfig` that it uses. Of masks from a folder only the name is known."""

    fingerprint: str | None
    parameters: int
    image_size: Annotated[list[int], 2]  # height, width
    members: list[str]  # fingerprints, of an ensemble
    format: str  # of an ONNX file
    precision: str


class _MaskReadingOfAnyVersion(TypedDict):
    foreground_values: list[int] | None
    threshold: float | None
    ignore_exif: bool


class MaskReading(_MaskReadingOfAnyVersion, total=False):
    """How masks were read, as `MaskRules` and `AnnotationRules` of common/ say."""

    labels: list[str] | None  # of annotations, that are polyp; None: not given
    unlabelled: str  # what images without annotation are: "skip" or "negative"


class Splitting(TypedDict):
    """How samples were divided into splits, as `common.split_rules.SplitRules` says.

    Names of groups, which may be patients', are not recorded, and so of a pattern, which may hold some, only a hash.
    """

    seed: int  # of random splits
    validation_fraction: float | None
    fold: int | None
    folds: int | None
    group_column: str | None
    group_pattern: str | None  # "sha256:..."


class _DataOfAnyVersion(TypedDict):
    name: str
    on_the_hub: bool
    revision: str | None
    split: str | None
    rows: dict[str, int | None]  # samples of each split; None for a stream
    fingerprint: str | None


class Data(_DataOfAnyVersion, total=False):
    """The images and masks of a run, as `data.dataset.describe_data` gives them."""

    config: str | None  # None for a local data set
    masks: MaskReading
    splitting: Splitting
    groups: dict[str, int] | None  # number of groups, as patients, in each split; None: not known
    groups_in_several_splits: int | None


class _Versions(TypedDict):
    python: str
    torch: str
    transformers: str
    runtime: str
    processes: int


class Environment(_Versions, total=False):
    """Versions and device of a run."""

    code: str


class _FinishedTraining(TypedDict):
    epochs: float
    batch_size: int
    learning_rate: float
    schedule: str
    weight_decay: float
    seed: int
    fine_tuned: bool
    seconds: float
    loss: list[list[float]]  # epoch, mean training loss
    best_step: int | None
    steps: int
    validation: dict[str, float]


class Training(_FinishedTraining, total=False):
    """Settings and outcome of a training. Settings that earlier versions did not have are optional."""

    data: Data
    environment: Environment
    warmup_steps: float
    ema_decay: float | None
    augmentation: str
    negative_window_share: float  # of examples that are windows without polyp
    negatives: int  # training frames without a mask, which are known to show no polyp
    encoder_weights: str | None  # what an encoder from classification starts from
    encoder_learning_rate_scale: float | None  # None: the network has no such encoder
    progressive_sizes: list[int] | None
    progressive_epochs: list[int] | None
    early_stopping_patience: int | None  # None: no early stopping
    base_model: str | None  # id on the Hub of the checkpoint that was fine-tuned; None: a local one, or none
    averaged_with: list[dict[str, Any]]  # trainings whose weights are in the mean too: what they did otherwise
    validation_curve: list[list[float]]  # epoch, loss, Dice per image
    figures: list[str]


class Threshold(TypedDict):
    """Above which probability a pixel is polyp."""

    value: float
    tuned_on: str | None
    at_half: dict[str, Score] | None  # scores at 0.5, where it was tuned


class _ProtocolOfAnyVersion(TypedDict):
    surface_tolerance: float
    resamples: int
    seed: int
    small_below: float
    large_from: float
    lesion_iou: float
    test_time_augmentation: bool


class Protocol(_ProtocolOfAnyVersion, total=False):
    """How scores were taken."""

    min_polyp_pixels: int  # a smaller component of the ground truth is no polyp to be found


class Stratum(TypedDict):
    """Scores of a part of the images."""

    images: int
    metrics: dict[str, Score]


class SizeStrata(TypedDict):
    small: Stratum
    medium: Stratum
    large: Stratum


PolypStrata = TypedDict("PolypStrata", {"one": Stratum, "two": Stratum, "three or more": Stratum})


class Strata(TypedDict):
    """Scores by the share of the image that is polyp, and by the number of polyps."""

    size: SizeStrata
    polyps: PolypStrata


class Lesions(TypedDict):
    """Connected regions of the ground truth that were found, and of the prediction that are false."""

    true: int
    found: int
    predicted: int
    false: int
    sensitivity: Score | None
    precision: Score | None
    false_per_image: Score | None


class WithoutPolyp(TypedDict):
    """False alarms on images without polyp."""

    images: int
    false_alarms: int
    share: Score | None
    area_share: float | None


class OperatingPoint(TypedDict):
    """What is found and what is falsely marked at a peak threshold."""

    peaks: list[float]  # none: every region counts; two: each half of the images has that chosen on the other half
    polyps: int
    found: int  # polyps that a region overlaps
    negatives: int  # images without polyp
    alarms: int  # of these, those that have a region
    found_share: Score | None
    sensitivity: Score | None  # share of the frames with polyp that have a region on a polyp
    dice_per_image_native: Score | None
    false_per_image: Score | None  # regions that overlap no polyp, over all images
    alarm_share: Score | None
    marked_share: Score | None  # mean share of an image without polyp that is marked


class PeakTuning(TypedDict):
    """A peak threshold chosen on a split."""

    split: str
    sensitivity: float  # share of the polyps found by the threshold alone that it keeps
    value: float  # of all images of the split
    presence_calibration: Annotated[list[float], 2] | None  # scale, offset
    points: list[OperatingPoint]  # on the images that it was chosen on


class Peak(TypedDict):
    """From which highest probability on a region of a mask counts."""

    values: list[float]  # none: every region counts; two: cross-fitted, as in `OperatingPoint`
    source: Literal["none", "model", "flag", "tuned"]
    chosen_on_split: bool  # whether the model's own was chosen on the scored split itself
    tuning: PeakTuning | None


class AtSpecificity(TypedDict):
    """Sensitivity where that share of the images without polyp has no region."""

    specificity: float
    peak_above: float  # the regions above this probability, chosen on these very images
    sensitivity: Score | None


class FrocPoint(TypedDict):
    """Polyps found and false regions an image at a peak threshold; None: every region counts."""

    peak_threshold: float | None
    found_share: Score | None
    false_per_image: Score | None


class Negatives(TypedDict):
    """Images without polyp that were scored beside the split, or are part of it."""

    kind: Literal["frames", "windows", "split"]  # of another data set; of the split's frames; the split's own frames
    name: str | None  # of the other data set, or of the split that the windows are of
    fingerprint: str | None  # of its images
    images: int
    frames: int  # that windows are of
    with_polyp: int  # frames of the split with a polyp, which they are told from
    presence_auc: Score | None
    at_specificity: list[AtSpecificity]
    froc: list[FrocPoint]


class VideoScores(TypedDict):
    """The scores of one video. It is not named: the name of a file may be a patient's."""

    frames: int
    seconds: float
    polyps: int
    delays: list[float]  # seconds from the first frame of each alerted polyp to the first alert on it
    alerts: int
    false_alerts: int  # those that never lie on a polyp
    flicker: float | None
    shows_polyp: bool


class Videos(TypedDict):
    """The scores of all videos, as `scoring.sequences` takes them."""

    frame_rate: float
    alert_seconds: float  # for which a region is followed before it is an alert
    gap_seconds: float  # over which it is followed without being marked
    sequences: list[VideoScores]
    without_polyp: int  # videos in which nothing is labelled
    polyps: int
    alerted: int
    alerts: int
    false_alerts: int
    polyps_alerted: Score | None  # share
    median_delay_seconds: Score | None
    false_alerts_per_minute: Score | None
    alerts_per_minute_without_polyp: Score | None
    flicker: Score | None


class CalibrationBin(TypedDict):
    """A bin of predicted probability."""

    low: float
    high: float
    pixels: int
    mean_probability: float | None
    polyp_share: float | None


class Calibration(TypedDict):
    """The reliability diagram."""

    bins: list[CalibrationBin]


class ThresholdCurve(TypedDict):
    """Mean Dice per image at each threshold."""

    thresholds: list[float]
    dice_per_image: list[float]


class _ComparisonOfAnyVersion(TypedDict):
    other: str  # never the name of a file or folder
    metrics: dict[str, Difference]


class Comparison(_ComparisonOfAnyVersion, total=False):
    """Differences to another model, on the same images."""

    scores: dict[str, Score]  # the other model's


class DuplicatePair(TypedDict):
    """Two near-duplicate frames. They are not named: the name of a file may be a patient's."""

    splits: Annotated[list[str], 2]
    rows: Annotated[list[int], 2] | None  # places in their splits; None in files of earlier versions
    distance: int  # of their hashes, in bits


class NearDuplicates(TypedDict):
    """Frames of the scored split that another split holds too, and the scores without them."""

    max_distance: int
    pairs: list[DuplicatePair]
    left_out: int
    metrics: dict[str, Score]


class ChangedScores(TypedDict):
    """Scores of a split under a change, or the mean of each image's over several."""

    dice_per_image_native: Score
    relative_loss: float | None  # 1 - Dice / Dice of the split as it is
    alarm_share: Score | None  # of the images without polyp, if there are any


class StrengthScores(ChangedScores):
    """Scores at one strength of a change."""

    level: str  # in words


class ChangeScores(TypedDict):
    """Scores under one kind of change."""

    name: str
    strengths: list[StrengthScores]  # the weakest first
    mean: ChangedScores


class Robustness(TypedDict):
    """Scores of the split under changes, as `scoring.changes` makes them."""

    seed: int
    plain: ChangedScores
    changes: list[ChangeScores]
    mean: ChangedScores
    seconds: float


class RiskPoint(TypedDict):
    """How often a pixel is wrong among the share of pixels that are the most certain."""

    coverage: float
    risk: float


class PointsAtWrongPixels(TypedDict):
    """How well a map points at the wrong pixels of the masks."""

    auroc: Score | None  # None where no pixel, or every pixel, is wrong
    aurc: Score  # area under the curve of risk against coverage
    risk: list[RiskPoint]


class Uncertainty(TypedDict):
    """`scoring.wrong_pixels.summarise_uncertainty`: by map."""

    threshold: float
    wrong: Score  # share of the pixels
    maps: dict[str, PointsAtWrongPixels]


class _EvaluationOfAnyVersion(TypedDict):
    threshold: Threshold
    native_size: str  # of the images, width x height
    protocol: Protocol
    strata: Strata
    lesions: Lesions
    without_polyp: WithoutPolyp
    calibration: Calibration
    threshold_curve: ThresholdCurve
    comparison: Comparison | None
    audit: NearDuplicates | None
    figures: list[str]
    seconds: float
    model_seconds: float


class Evaluation(_EvaluationOfAnyVersion, total=False):
    """What `evaluation.py` measured besides the metrics. What earlier versions did not measure is optional."""

    peak: Peak
    operating_points: list[OperatingPoint]  # at the threshold alone and, if there is one, with the peak threshold
    negatives: Negatives | None
    videos: Videos | None
    uncertainty: Uncertainty
    robustness: Robustness | None


class TestSet(TypedDict):
    """Scores of one of several data sets."""

    name: str  # of PraNet's test sets; that of another folder is not recorded
    images: int
    fingerprint: str
    scores: dict[str, Score]
    difference: Difference | None  # of Dice per image, to the other model


class TestSets(TypedDict):
    """Scores of every data set in a folder, as `scoring.test_sets` takes them."""

    sets: list[TestSet]
    failed: list[str]  # that could not be scored
    mean: dict[str, Score]  # over the sets, each of which weighs the same
    other: str | None  # public name of the model that it is compared with
    threshold: float
    peak_threshold: float | None
    resamples: int
    seed: int


class Verification(TypedDict):
    """How an ONNX file compares with PyTorch, as `onnx_export.verification.verify` measures it."""

    data: str  # what it was compared on
    images: int
    threshold: float
    same_pixel_values: dict[str, float]  # mean and worst difference in probability on the same input
    end_to_end: dict[str, float]  # the same from the frames on
    equal_mask_pixels: float  # share
    dice_between_masks: dict[str, float]
    dice: dict[str, float] | None  # against the ground truth, if there is one
    sizes: dict[str, dict[str, float]]  # of frames of unusual sizes, by width x height
    tolerances: dict[str, dict[str, Any]]
    problems: list[str]


class _VerifiedExport(TypedDict):
    schema_version: int
    file: str
    bytes: int
    fingerprint: str
    precision: str
    opset: int
    environment: dict[str, str]
    float_layers: list[str]
    proof: Verification


class Export(_VerifiedExport, total=False):
    """An ONNX file and how it compares with PyTorch; the JSON beside the file holds the same."""

    calibration: dict[str, Any]


class _Measured(TypedDict):
    schema_version: int
    model: Model
    data: Data
    environment: Environment
    training: Training | None
    metrics: dict[str, Score]
    evaluation: Evaluation | None


class Results(_Measured, total=False):
    """What `results.json` holds."""

    exports: dict[str, Export]  # by precision
    test_sets: TestSets
    invalid: str  # why no score of the run means anything


def read_results(path: Path, *, allow_invalid: bool = False) -> Results:
    """Read a `results.json`, also of an earlier version of the project.

    Args:
        path: The file.
        allow_invalid: Read it also if its run was marked invalid.

    Raises:
        UserError: If it is missing, is not JSON, has another schema version, has unknown, missing or wrongly typed
            fields, or its run was marked invalid.
    """
    path = Path(path)
    content = read_versioned(path, RESULTS_SCHEMA, "the results.json of a run", "evaluation.py")
    results = _with_todays_fields(content)
    try:
        check_results(results)
    except ValueError as error:
        raise UserError(
            f"{path} does not fit this version of the project: {error}. Measure again with evaluation.py, or use the "
            "version that wrote it."
        ) from error
    if "invalid" in results and not allow_invalid:
        raise UserError(f"{path} is of a run that is invalid: {results['invalid']}")
    return cast(Results, results)


def check_results(results: Mapping[str, Any]) -> None:
    """Check the fields of a `results.json` and their types.

    Raises:
        ValueError: If a field is unknown, missing or wrongly typed; the message names it, as in "training.epochs".
    """
    from ..configuration_unet import UNetConfig

    Schema(Results, further={Model: typing.get_type_hints(UNetConfig.__init__)}).check(results)
    if results["metrics"] and results["evaluation"] is None:
        raise ValueError('evaluation is null; expected an object, since there are "metrics"')


def _with_todays_fields(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file with today's names of fields, with what earlier versions left out, without file names."""
    content = {"training": None, "evaluation": None} | content
    if isinstance(content["evaluation"], dict):
        content["evaluation"] = _without_file_names(content["evaluation"])
    if isinstance(content["training"], dict):
        content["training"] = {
            RENAMED_TRAINING_FIELDS.get(name, name): value for name, value in content["training"].items()
        }
    if isinstance(content.get("model"), dict) and "channels" in content["model"]:
        content["model"] = {"loss": "bce_dice"} | content["model"]  # the only loss of those versions
    return content


def _without_file_names(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The section without names of files and folders, which earlier versions wrote; a push would publish them."""
    evaluation = dict(evaluation)
    match evaluation:
        case {"comparison": {"with": _, **comparison}}:
            evaluation["comparison"] = {"other": "another model", **comparison}
    match evaluation:
        case {"audit": {"pairs": [*pairs], **audit}}:
            evaluation["audit"] = {**audit, "pairs": [_without_names(pair) for pair in pairs]}
    return evaluation


def _without_names(pair: Any) -> Any:
    match pair:
        case {"first": [first, _], "second": [second, _], "distance": distance}:
            return {"splits": [first, second], "rows": None, "distance": distance}
    return pair


def public_name(model: str, results: Results | None) -> str:
    """What a model may be called in public, where the name of its folder may be private.

    Args:
        model: A folder, an ONNX file or an id on the Hub.
        results: Of the model, if there are any.

    Returns:
        The name of its repository; of a local model that has none, "U-Net".
    """
    if Path(model).resolve() == TRAINED_MODEL:
        return TRAINED_NAME
    repository = results["model"]["repository"] if results else None
    if not Path(model).exists():
        repository = model
    return repository.split("/")[-1] if repository else "U-Net"


def read_versioned(path: Path, schema: int, expected: str, program: str) -> dict[str, Any]:
    """Read a JSON file with a schema version.

    Args:
        path: The file.
        schema: The version that is read.
        expected: What the file should be, for messages.
        program: The command that writes it.

    Raises:
        UserError: If it is missing, is not JSON, or has another schema version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Expected {expected}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Expected {expected}.") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != schema:
        raise UserError(
            f"{path} has the schema version {found}; this version of the project reads {schema}. "
            f"Measure again with {program}, or use the version that wrote it."
        )
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def write_results(path: Path, content: Mapping[str, Any]) -> None:
    """Write a `results.json`, or another JSON file of measurements, atomically.

    Raises:
        ValueError: As of `as_json`.
    """
    write_atomic(path, as_json(content))


def as_json(content: Mapping[str, Any]) -> bytes:
    """What the file holds.

    Raises:
        ValueError: If a number is NaN or infinite. JSON has no such numbers, and no score is one.
    """
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def known_results(model: str, revision: str | None) -> Results | None:
    """The `results.json` beside a model, or beside the folder of an ONNX file; None if there is none.

    Args:
        model: A folder, an id on the Hub, or an ONNX file.
        revision: Branch, tag or commit on the Hub.

    Raises:
        UserError: If there is one that this version of the project cannot read.
    """
    if model.endswith(".onnx"):
        file = Path(model).resolve().parent.parent / "results.json"
    elif Path(model).is_dir():
        file = Path(model) / "results.json"
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HFValidationError

        try:
            file = Path(hf_hub_download(model, "results.json", revision=revision))
        except (OSError, EntryNotFoundError, HFValidationError):
            return None
    return read_results(file, allow_invalid=True) if file.is_file() else None


def exports_of(weights: str, *known: Results | None) -> dict[str, Export]:
    """The entries "exports" of some results, by precision, that are of these weights.

    Args:
        weights: A fingerprint.
        known: From `known_results`; where several have an export of one precision, the last one counts.
    """
    return {
        precision: report
        for results in known
        if results is not None
        for precision, report in results.get("exports", {}).items()
        if report["fingerprint"] == weights
    }


def check_results_folder(folder: Path, results: Results) -> None:
    """Make the folder that results are written to, unless it holds something else.

    Raises:
        UserError: If the folder is the project itself, cannot be made, or holds the results of another model or of
            other data.
    """
    refuse_project_folder(folder)
    if difference := other_results(folder, results):
        raise UserError(f"{folder} holds {difference}. {REMEDY}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder} cannot be made: {error}.") from error


def other_results(folder: Path, results: Results) -> str | None:
    """What a folder holds, in words, if it is of another model, of other data, or no run's; None if it is not.

    Raises:
        UserError: If it holds a results.json that this version cannot read.
    """
    if (folder / "results.json").exists():
        earlier = read_results(folder / "results.json", allow_invalid=True)
        if model_identity(earlier) != model_identity(results):
            return f"the results of another model, {earlier['model']['name']}; this one is {results['model']['name']}"
        # A training's results have no metrics: its validation scores stay in the section "training".
        if earlier["metrics"] and earlier["data"]["fingerprint"] != results["data"]["fingerprint"]:
            return f"the results on other data: {earlier['data']['name']}, split {earlier['data']['split']}"
    elif (folder / "README.md").exists():
        return "a README.md that no run of this project wrote"
    return None


def refuse_project_folder(folder: Path) -> None:
    """Refuse to write results into the project's own folder.

    Raises:
        UserError: If it is that.
    """
    if folder.resolve() == PACKAGE:
        raise UserError(
            f"The folder {folder} is the project itself, whose README.md would be lost. Choose another one."
        )


def model_identity(results: Results) -> str:
    """Tells models apart: by their weights, or else, of masks from a folder, by name."""
    return results["model"].get("fingerprint") or results["model"]["name"]


def describe_environment(runtime: "Runtime", processes: int) -> Environment:
    """Versions and device of a run, without names of users and hosts."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "runtime": str(runtime),
        "processes": processes,
        "code": code_version(),
    }


def code_version() -> str:
    """The project's version and, in a clone with git, its commit: "0.1.0 (commit 1a2b3c4, changed)"."""
    version = importlib.metadata.version("unet-kvasir-seg")
    if not (PACKAGE / ".git").exists():
        return version
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--exclude=*", "--dirty=, changed"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # git is not installed, or the clone belongs to another user
        return version
    return f"{version} (commit {commit})"
