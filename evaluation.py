"""Score a model on a split it was not trained on, with intervals, where it fails, and a model card that says so.

    python evaluation.py --dataset_name path/to/kvasir-seg --split validation    # the model of this clone
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --tune_threshold_on validation
    python evaluation.py --model outputs/a --compare_with outputs/b --dataset_name me/polyps --split test
    python evaluation.py --predictions masks/of/another/program --dataset_name me/polyps --split test
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --push_to_hub

Writes results.json, per_image.csv, README.md (the model card) and figures/ into the output folder. Several
processes share the images: `accelerate launch --num_processes 2 evaluation.py ...`.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm
from unet_kvasir_seg.common.command_line import FlagParser
from unet_kvasir_seg.common.device import Runtime, choose_runtime, leaving_processes
from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors
from unet_kvasir_seg.common.hub import push_files
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.data.dataset import (
    DatasetError,
    choose_split,
    describe_data,
    load_sample,
    load_splits,
)
from unet_kvasir_seg.inference.checkpoint import describe_model, fingerprint
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.reporting.model_card import fill_card
from unet_kvasir_seg.reporting.results import (
    RESULTS_SCHEMA,
    check_results_folder,
    describe_environment,
    exports_of,
    known_results,
    write_results,
)
from unet_kvasir_seg.scoring.prediction_files import PredictionFiles

if TYPE_CHECKING:
    from unet_kvasir_seg.reporting.figures import Case
    from unet_kvasir_seg.scoring.image_scores import ImageScores

MAIN_SCORES = ("dice_per_image_native", "iou_per_image_native")
PACKAGES_OF_THE_EXTRA = ("imagehash", "matplotlib", "monai", "py_sod_metrics")  # as modules
EXAMPLES = 3  # each of the best, the middle and the worst


@dataclass
class EvaluationArguments:
    """What to score, on what, and how."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "A folder, an id on the Hub, or an .onnx file of export.py; by default the model of this clone."
        },
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of --model on the Hub."})
    predictions: str | None = field(
        default=None,
        metadata={
            "help": "Score the files of this folder in place of a model: an image a row, named as the row's image, "
            "with masks or 8- or 16-bit probabilities, or .npy with probabilities."
        },
    )
    compare_with: str | None = field(
        default=None,
        metadata={"help": "A second model, or a folder of predictions, on the same images."},
    )
    dataset_name: str = field(
        default="Angelou0516/kvasir-seg",
        metadata={"help": 'An id on the Hub, a local data set, a folder with images/ and masks/, or "synthetic".'},
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the data set on the Hub."}
    )
    split: str = field(default="test", metadata={"help": "The split to score."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found if not given."})
    mask_column: str | None = field(default=None, metadata={"help": "Column of masks; found if not given."})
    foreground_values: list[int] | None = field(
        default=None, metadata={"help": "Mask values that mean polyp, where they are not the usual ones."}
    )
    synthetic_rows: int = field(
        default=400, metadata={"help": "Training rows of the synthetic data; a quarter as many to evaluate."}
    )
    output_dir: str = field(default="outputs/evaluation", metadata={"help": "Folder of the results."})
    threshold: float = field(default=0.5, metadata={"help": "A pixel is polyp if its probability is higher."})
    tune_threshold_on: str | None = field(
        default=None, metadata={"help": "Another split, whose best threshold is taken in place of --threshold."}
    )
    tta: bool = field(default=False, metadata={"help": "Average the probabilities of the image and its three flips."})
    surface_tolerance: float = field(
        default=2.0, metadata={"help": "Distance in pixels within which the surface Dice takes outlines as equal."}
    )
    audit: bool = field(
        default=False, metadata={"help": "Look for near-duplicates of the scored images in the other splits."}
    )
    resamples: int = field(default=10_000, metadata={"help": "Resamples of the bootstrap."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap."})
    batch_size: int = field(default=8, metadata={"help": "Images that go through the network together."})
    device: str = field(default="auto", metadata={"help": "auto, cuda, mps or cpu."})
    dtype: str = field(
        default="float32",
        metadata={"help": "float32, so that scores do not depend on the machine; or auto, bfloat16, float16."},
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Upload results, card and pictures to the Hub."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "The repo to upload to; by default --model, if that is one."}
    )
    push_example_images: bool = field(
        default=False,
        metadata={"help": "Publish the pictures that show frames of the data set too; they may be patients'."},
    )


@dataclass(frozen=True)
class Pair:
    """An image and its mask, decoded."""

    name: str
    image: Image.Image
    ground_truth: np.ndarray  # (H, W) bool


@dataclass(frozen=True)
class Maps:
    """What a source predicts for one image, and the ground truth at the input size."""

    probability: np.ndarray  # (H, W) float32
    network_pair: (
        tuple[np.ndarray, np.ndarray] | None
    )  # probability and ground truth, (h, w); None for files of a folder


class InvalidRunError(UserError):
    """The model gave no number for some pixel: no score of such a run means anything."""


class ModelSource:
    """Predictions of a network.

    Attributes:
        name: What the results call it.
        seconds: Time spent in the network so far, with pre- and post-processing.
    """

    def __init__(self, name: str, predictor: Predictor, tta: bool):
        self.name = name
        self.predictor = predictor
        self.tta = tta
        self.seconds = 0.0

    def predict(self, pairs: Sequence[Pair]) -> list[Maps]:
        """The maps of some images, in order.

        Raises:
            InvalidRunError: If the network gives no number somewhere; the message names the image.
        """
        started = time.perf_counter()
        inputs = self.predictor.processor.preprocess(
            [pair.image for pair in pairs],
            segmentation_maps=[pair.ground_truth.astype(np.uint8) for pair in pairs],
            return_tensors="pt",
        )
        sizes = [(pair.ground_truth.shape[0], pair.ground_truth.shape[1]) for pair in pairs]
        predictions = self.predictor.from_pixels(inputs["pixel_values"], sizes, tta=self.tta)
        self.seconds += time.perf_counter() - started
        for pair, prediction in zip(pairs, predictions, strict=True):
            if not prediction.is_valid:
                raise InvalidRunError(
                    f"{self.name} gives NaN for the image {pair.name}: the run is invalid, and no score is kept. "
                    "Try --dtype float32; if it is that already, the weights are broken."
                )
        return [
            Maps(prediction.probability, (prediction.network_probability, ground_truth.numpy() == 1))
            for prediction, ground_truth in zip(predictions, inputs["labels"], strict=True)
        ]


class FileSource:
    """Predictions of another program, from the files of a folder."""

    def __init__(self, folder: Path):
        self.name = folder.resolve().name
        self.files = PredictionFiles(folder)
        self.seconds = 0.0

    def predict(self, pairs: Sequence[Pair]) -> list[Maps]:
        """The maps of some images, in order."""
        return [Maps(self.files.probability(pair.name, pair.ground_truth.shape), None) for pair in pairs]


Source: TypeAlias = ModelSource | FileSource


def evaluate(arguments: EvaluationArguments) -> dict[str, Any]:
    """Score, and write what the command writes; returns what `results.json` holds, in the main process.

    Raises:
        UserError, DatasetError: For what a user can mend. Of a run whose model gives NaN, `results.json` is written
            too, without scores and marked invalid.
    """
    started = time.perf_counter()
    check_arguments(arguments)
    # Here, so that --help need not wait for them, and a missing one is told in one line.
    require_extra("evaluation", *PACKAGES_OF_THE_EXTRA)
    from unet_kvasir_seg.scoring import summary
    from unet_kvasir_seg.scoring.image_scores import LESION_IOU

    runtime = choose_runtime(arguments.device, arguments.dtype)
    processes = PartialState(cpu=runtime.device.type == "cpu")
    with processes.main_process_first():
        splits = load_splits(
            arguments.dataset_name,
            revision=arguments.dataset_revision,
            image_column=arguments.image_column,
            mask_column=arguments.mask_column,
            synthetic_rows=arguments.synthetic_rows,
        )
    rows = choose_split(splits, arguments.split)
    source = open_source(arguments, runtime)
    other = open_other(arguments, runtime)
    results = describe_run(arguments, source, rows, runtime, processes)
    folder = Path(arguments.output_dir)
    check_results_folder(folder, results)

    threshold, at_half, comparison = arguments.threshold, None, None
    resampling = {"resamples": arguments.resamples, "seed": arguments.seed}
    try:
        if arguments.tune_threshold_on is not None:
            tuning_rows = choose_split(splits, arguments.tune_threshold_on)
            threshold = summary.best_threshold(score_rows(source, tuning_rows, 0.5, arguments, processes))
        images = score_rows(source, rows, threshold, arguments, processes)
        if arguments.tune_threshold_on is not None:
            at_half = summary.at_threshold(images, 0.5, **resampling)
        if other is not None:
            others_images = score_rows(other, rows, threshold, arguments, processes)
            with value_errors_explained():
                comparison = {"with": other.name, "metrics": summary.compare(images, others_images, **resampling)}
    except InvalidRunError as error:
        if processes.is_main_process:
            write_results(folder / "results.json", results | {"invalid": str(error)})
        raise
    if not processes.is_main_process:
        return results

    scores = summary.summarise(images, **resampling)
    results["metrics"] = scores.pop("metrics")
    results["evaluation"] = {
        "threshold": {"value": threshold, "tuned_on": arguments.tune_threshold_on, "at_half": at_half},
        "native_size": describe_sizes([(image.width, image.height) for image in images]),
        "protocol": {
            "surface_tolerance": arguments.surface_tolerance,
            **resampling,
            "small_below": summary.SMALL_BELOW,
            "large_from": summary.LARGE_FROM,
            "lesion_iou": LESION_IOU,
            "test_time_augmentation": arguments.tta,
        },
        **scores,
        "comparison": comparison,
        "audit": None,
    }
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    if arguments.audit:
        results["evaluation"]["audit"] = audit_split(splits, arguments, images, folder / "figures" / "audit.png")
    results["evaluation"]["figures"] = draw_figures(results, images, source, rows, arguments, folder / "figures")
    results["evaluation"]["seconds"] = round(time.perf_counter() - started, 1)
    results["evaluation"]["model_seconds"] = round(source.seconds, 1)
    summary.write_per_image_csv(images, folder / "per_image.csv")
    write_results(folder / "results.json", results)
    if isinstance(source, ModelSource):
        (folder / "README.md").write_text(fill_card(results), encoding="utf-8")
    return results


def check_arguments(arguments: EvaluationArguments) -> None:
    """Refuse values that cannot be, and flags that do not go together, before any work.

    Raises:
        UserError: The message says what was given and what to do.
    """
    if not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold {arguments.threshold} is no probability: expected 0 to 1.")
    if arguments.surface_tolerance < 0:
        raise UserError(f"--surface_tolerance {arguments.surface_tolerance} is no distance: expected 0 or more.")
    for flag in ("resamples", "batch_size", "synthetic_rows"):
        if getattr(arguments, flag) < 1:
            raise UserError(f"--{flag} {getattr(arguments, flag)} is too few: expected 1 or more.")
    if arguments.tune_threshold_on == arguments.split:
        raise UserError(
            f"--tune_threshold_on {arguments.split} is the split that is scored: its threshold would be chosen by its "
            "own masks. Name another split."
        )
    if arguments.predictions is not None:
        for flag in ("model", "model_revision", "tta", "push_to_hub"):
            if getattr(arguments, flag):
                raise UserError(f"--{flag} goes with a model, and --predictions is in place of one: leave one out.")
    if arguments.push_to_hub and target_repo(arguments) is None:
        raise UserError("--push_to_hub does not know where to: name the repo with --hub_model_id user/name.")


def target_repo(arguments: EvaluationArguments) -> str | None:
    """The repo on the Hub that results are uploaded to; None if none is named."""
    if arguments.hub_model_id is not None or arguments.model is None or Path(arguments.model).exists():
        return arguments.hub_model_id
    return arguments.model


def open_source(arguments: EvaluationArguments, runtime: Runtime) -> Source:
    """The model or the folder of predictions that is scored."""
    if arguments.predictions is not None:
        return FileSource(Path(arguments.predictions))
    name = arguments.model or str(TRAINED_MODEL)
    return open_model(name, arguments.model_revision, arguments, runtime)


def open_other(arguments: EvaluationArguments, runtime: Runtime) -> Source | None:
    """What is compared with: a folder without a model's configuration holds predictions."""
    name = arguments.compare_with
    if name is None:
        return None
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return FileSource(Path(name))
    return open_model(name, None, arguments, runtime)


def open_model(name: str, revision: str | None, arguments: EvaluationArguments, runtime: Runtime) -> ModelSource:
    """A model of a folder or of the Hub."""
    folder = Path(name).resolve()
    short_name = (
        "unet-kvasir-seg" if folder == TRAINED_MODEL else folder.name if folder.exists() else name.split("/")[-1]
    )
    return ModelSource(short_name, Predictor.load(name, revision, runtime), arguments.tta)


def describe_run(
    arguments: EvaluationArguments, source: Source, rows: Dataset, runtime: Runtime, processes: PartialState
) -> dict[str, Any]:
    """`results.json` without scores: model, data and environment, and what is known of the training."""
    results: dict[str, Any] = {
        "schema_version": RESULTS_SCHEMA,
        "model": {"name": source.name, "repository": None, "fingerprint": None},
        "data": describe_data(
            arguments.dataset_name, arguments.dataset_revision, {arguments.split: rows}, arguments.split
        ),
        "environment": describe_environment(
            source.predictor.runtime if isinstance(source, ModelSource) else runtime, processes.num_processes
        ),
        "training": None,
        "metrics": {},
        "evaluation": None,
    }
    if isinstance(source, ModelSource):
        known = known_results(arguments.model or str(TRAINED_MODEL), arguments.model_revision)
        weights = fingerprint(source.predictor.model)
        if known and known["model"].get("fingerprint") == weights:
            results["training"] = known["training"]
        there = known_results(str(target_repo(arguments)), None) if arguments.push_to_hub else None
        if exports := exports_of(weights, known, there):
            results["exports"] = exports
        repository = target_repo(arguments) or (known["model"]["repository"] if known else None)
        results["model"] = {
            **describe_model(source.predictor.model, source.predictor.processor, source.name, repository),
            "fingerprint": weights,
        }
    return results


def score_rows(
    source: Source, rows: Dataset, threshold: float, arguments: EvaluationArguments, processes: PartialState
) -> "list[ImageScores]":
    """Scores of every row, in order; each process works on a part, and all get all.

    Raises:
        UserError, DatasetError: In every process, if a row cannot be scored in one.
    """
    from unet_kvasir_seg.scoring.image_scores import score_image

    mine = range(processes.process_index, len(rows), processes.num_processes)
    scored, failure = [], None
    try:
        with tqdm(total=len(mine), desc=source.name, unit="image", disable=not processes.is_main_process) as progress:
            for start in range(0, len(mine), arguments.batch_size):
                indices = mine[start : start + arguments.batch_size]
                pairs = [read_pair(rows[index], arguments.foreground_values) for index in indices]
                for index, pair, maps in zip(indices, pairs, source.predict(pairs), strict=True):
                    with value_errors_explained():
                        image = score_image(
                            pair.name,
                            maps.probability,
                            pair.ground_truth,
                            threshold=threshold,
                            tolerance=arguments.surface_tolerance,
                            input_pair=maps.network_pair,
                        )
                    scored.append((index, image))
                    progress.update()
    except (UserError, DatasetError) as error:
        failure = error
    gathered = gather_object([(scored, failure)])
    failures = [error for _, error in gathered if error is not None]
    if failures:
        raise failures[0]
    in_order = sorted((entry for part, _ in gathered for entry in part), key=lambda entry: entry[0])
    return [image for _, image in in_order]


@contextlib.contextmanager
def value_errors_explained() -> Iterator[None]:
    """Pass on a refusal of the scores as the user's: their messages name the image."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def read_pair(row: dict[str, Any], foreground_values: list[int] | None) -> Pair:
    """Decode a row of `load_splits`.

    Raises:
        DatasetError: If image or mask cannot be read or used; the message names it.
    """
    sample = load_sample(row, foreground_values)
    return Pair(sample.name, sample.image, sample.ground_truth)


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Width x height in pixels: "384x288", or from the smallest area to the largest."""
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    smallest, largest = (f"{width}x{height}" for width, height in (by_area[0], by_area[-1]))
    return smallest if smallest == largest else f"from {smallest} to {largest}"


def audit_split(
    splits: dict[str, Dataset], arguments: EvaluationArguments, images: "list[ImageScores]", picture: Path
) -> dict[str, Any]:
    """The section "audit" of the results: near-duplicates in other splits, and the scores without them."""
    from unet_kvasir_seg.reporting import figures
    from unet_kvasir_seg.scoring import near_duplicates as audit
    from unet_kvasir_seg.scoring import summary

    found = [pair for pair in audit.find_near_duplicates(splits) if arguments.split in (pair.first[0], pair.second[0])]
    left_out = audit.rows_to_leave_out(found, arguments.split)
    kept = [image for row, image in enumerate(images) if row not in left_out]
    metrics = summary.summarise(kept, arguments.resamples, arguments.seed)["metrics"] if kept else {}
    if found:
        shown = [
            (
                f"{' '.join(pair.first)}\n{' '.join(pair.second)}\ndistance {pair.distance}",
                *audit.decode_duplicates(splits, pair),
            )
            for pair in found[: figures.PAIRS_SHOWN]
        ]
        figures.pair_grid(shown, picture, total=len(found))
    return {
        "max_distance": audit.MAX_DISTANCE,
        "pairs": [
            {"first": list(pair.first), "second": list(pair.second), "distance": pair.distance} for pair in found
        ],
        "left_out": len(left_out),
        "metrics": {name: metrics[name] for name in MAIN_SCORES if name in metrics},
    }


def draw_figures(
    results: dict[str, Any],
    images: "list[ImageScores]",
    source: Source,
    rows: Dataset,
    arguments: EvaluationArguments,
    folder: Path,
) -> list[str]:
    """Draw the pictures; returns the names of those that may be published."""
    from unet_kvasir_seg.reporting import figures
    from unet_kvasir_seg.scoring import summary

    evaluation = results["evaluation"]
    dice = summary.per_image_dice(images)
    figures.dice_histogram(dice, folder / "dice_histogram.png")
    published = ["dice_histogram.png", "threshold_curve.png", "reliability.png"]
    curve = evaluation["threshold_curve"]
    figures.threshold_curve(
        curve["thresholds"],
        curve["dice_per_image"],
        evaluation["threshold"]["value"],
        folder / "threshold_curve.png",
        images=len(images),
    )
    ece = results["metrics"]["ece_native"]["value"]
    figures.reliability_diagram(evaluation["calibration"]["bins"], ece, folder / "reliability.png")
    shares = np.array([image.true_pixels / (image.height * image.width) for image in images])
    if (shares > 0).any():
        figures.dice_by_size(
            dice[shares > 0],
            shares[shares > 0],
            folder / "dice_by_size.png",
            summary.SMALL_BELOW,
            summary.LARGE_FROM,
        )
        published.append("dice_by_size.png")
    if results["training"] and results["training"]["loss"]:
        figures.loss_curve(results["training"]["loss"], folder / "loss_curve.png", results["model"]["loss"])
        published.append("loss_curve.png")
    figures.example_grid(example_cases(dice, source, rows, evaluation, arguments), folder / "examples.png")
    if arguments.push_example_images:
        # These show frames of the data set.
        published += ["examples.png"] + (["audit.png"] if evaluation["audit"] and evaluation["audit"]["pairs"] else [])
    return published


def example_cases(
    dice: np.ndarray, source: Source, rows: Dataset, evaluation: dict[str, Any], arguments: EvaluationArguments
) -> "list[Case]":
    """The best, the middle and the worst images, predicted once more: maps are not kept."""
    order = np.argsort(-dice, kind="stable")
    middle = max((len(order) - EXAMPLES) // 2, 0)
    chosen = {"worst": order[-EXAMPLES:], "middle": order[middle : middle + EXAMPLES], "best": order[:EXAMPLES]}
    kind_of = {int(index): kind for kind, indices in chosen.items() for index in indices}  # one row an image
    cases = []
    for index in sorted(kind_of, key=lambda index: -dice[index]):
        pair = read_pair(rows[index], arguments.foreground_values)
        probability = source.predict([pair])[0].probability
        mask = probability > evaluation["threshold"]["value"]
        cases.append((f"{kind_of[index]}: Dice {dice[index]:.3f}", pair.image, pair.ground_truth, probability, mask))
    return cases


def print_scores(results: dict[str, Any], output_dir: str) -> None:
    """Say how good the model is, and where to read on."""
    evaluation, data = results["evaluation"], results["data"]
    threshold = evaluation["threshold"]
    chosen = f" (the best on {threshold['tuned_on']})" if threshold["tuned_on"] else ""
    print(f"\n{results['model']['name']} on {data['name']}, split {data['split']}:")
    print(f"{data['rows'][data['split']]} images of {evaluation['native_size']} pixels, 95 % intervals;")
    print(f"threshold {threshold['value']:.4g}{chosen}.")
    for name, score in results["metrics"].items():
        print(f"  {name:<35} {score['value']:8.4f}  [{score['ci95'][0]:.4f}, {score['ci95'][1]:.4f}]")
    if evaluation["comparison"]:
        print(f"Minus {evaluation['comparison']['with']}, on the same images:")
        for name, score in evaluation["comparison"]["metrics"].items():
            low, high = score["ci95"]
            print(f"  {name:<35} {score['difference']:8.4f}  [{low:.4f}, {high:.4f}]  p = {score['p_value']:.4g}")
    if evaluation["audit"]:
        audit = evaluation["audit"]
        print(
            f"{len(audit['pairs'])} near-duplicate pairs with other splits; without those {audit['left_out']} images:"
        )
        for name, score in audit["metrics"].items():
            print(f"  {name:<35} {score['value']:8.4f}  [{score['ci95'][0]:.4f}, {score['ci95'][1]:.4f}]")
    print(f"Written to {output_dir}: {', '.join(path.name for path in sorted(Path(output_dir).iterdir()))}")
    print(f"{evaluation['seconds']} s, {evaluation['model_seconds']} s of them in the model.")


def push(results: dict[str, Any], arguments: EvaluationArguments) -> str:
    """Upload results, card and pictures in one commit; returns its URL."""
    folder = Path(arguments.output_dir)
    files = [folder / "results.json", folder / "README.md"]
    files += [folder / "figures" / name for name in results["evaluation"]["figures"]]
    return push_files(str(target_repo(arguments)), folder, files, f"Evaluate on {results['data']['split']}")


def main(argv: list[str] | None = None) -> None:
    transformers.utils.logging.disable_progress_bar()  # of loading weights, which takes no time
    with leaving_processes(), user_errors("evaluation.py"):
        parser = FlagParser([EvaluationArguments], program="evaluation.py", description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        results = evaluate(arguments)
        processes = PartialState()
        if processes.is_main_process:
            print_scores(results, arguments.output_dir)
            if arguments.push_to_hub:
                print(f"Pushed: {push(results, arguments)}")
        # Launchers end the others when one has ended: not before the main process has written.
        processes.wait_for_everyone()


if __name__ == "__main__":
    main()
