"""Score a model on a split it was not trained on, with intervals, where it fails, and a model card that says so.

    python evaluation.py --dataset_name path/to/kvasir-seg --split validation    # the model of this clone
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --tune_threshold_on validation
    python evaluation.py --model outputs/a --compare_with outputs/b --dataset_name me/polyps --split test
    python evaluation.py --predictions masks/of/another/program --dataset_name me/polyps --split test
    python evaluation.py --dataset_name me/polyps --split validation --negative_windows 500 \\
        --tune_peak_on validation --sensitivity 0.98 --save_peak
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --push_to_hub

Writes results.json, per_image.csv, README.md (the model card), figures/ and, with --audit, near_duplicates.csv into
the output folder. Several processes share the images: `accelerate launch --num_processes 2 evaluation.py ...`.
"""

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unet_kvasir_seg.common.command_line import DataFlags, DeviceFlags, FlagParser, ModelFlags, flag
from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.common.processes import Processes, share_work
from unet_kvasir_seg.data.split_names import known_split

# PyTorch, transformers and datasets are imported by the functions that need them, so that --help and errors of the
# command line come at once.
if TYPE_CHECKING:
    from datasets import Dataset
    from unet_kvasir_seg.reporting.results import Evaluation, Results
    from unet_kvasir_seg.scoring.run import ScoredSplit
    from unet_kvasir_seg.scoring.sources import Source

PACKAGES_OF_THE_EXTRA = ("imagehash", "matplotlib", "monai", "py_sod_metrics")  # as modules
FLAGS_OF_A_MODEL = ("model", "model_revision", "tta", "push_to_hub", "negatives", "negative_windows", "save_peak")


@dataclass
class EvaluationArguments(DeviceFlags, DataFlags, ModelFlags):
    """What to score, on what, and how."""

    predictions: str | None = flag(
        None,
        "Score the files of this folder in place of a model: one for each image, of the same name, with a mask or "
        "8- or 16-bit probabilities, or .npy with probabilities.",
    )
    compare_with: str | None = flag(None, "A second model, or a folder of predictions, on the same images.")
    split: str = flag("test", "The split to score, by any name that the data set has.")
    output_dir: str = flag("outputs/evaluation", "Folder of the results.")
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
    negative_windows: int | None = flag(None, "Score so many windows without polyp of the split's frames too.")
    tta: bool = flag(False, "Average the probabilities of the image and its three flips.")
    surface_tolerance: float = flag(2.0, "Distance in pixels within which the surface Dice takes outlines as equal.")
    audit: bool = flag(False, "Look for near-duplicates of the scored images in the other splits.")
    resamples: int = flag(10_000, "Resamples of the bootstrap.")
    seed: int = flag(0, "Seed of the bootstrap, of the windows and of the halves of a split.")
    batch_size: int = flag(8, "Images that go through the network together.")
    dtype: str = flag("float32", "float32, so that scores do not depend on the machine; or auto, bfloat16, float16.")
    push_to_hub: bool = flag(False, "Upload results, card and pictures to the Hub.")
    hub_model_id: str | None = flag(None, "The repo to upload to; by default --model, if that is one.")
    push_example_images: bool = flag(
        False, "Publish the pictures that show frames of the data set too; they may be patients'."
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("split", "tune_threshold_on", "tune_peak_on"):
            setattr(self, name, known_split(getattr(self, name)))  # "validation" for "val"

    @property
    def model_name(self) -> str:
        """The model's folder, file or id on the Hub."""
        return self.model or str(TRAINED_MODEL)

    @property
    def target_repo(self) -> str | None:
        """The repo on the Hub that results are uploaded to; None if none is named."""
        if self.hub_model_id is not None or self.model is None or Path(self.model).exists():
            return self.hub_model_id
        return self.model


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
    if arguments.tune_threshold_on == arguments.split:
        raise UserError(
            f"--tune_threshold_on {arguments.split} is the split that is scored: its threshold would be chosen by its "
            "own masks. Name another split."
        )
    if arguments.predictions is not None:
        for name in FLAGS_OF_A_MODEL:
            if getattr(arguments, name):
                raise UserError(f"--{name} goes with a model, and --predictions is in place of one: leave one out.")
    if arguments.push_to_hub and arguments.target_repo is None:
        raise UserError("--push_to_hub does not know where to: name the repo with --hub_model_id user/name.")
    check_peak_arguments(arguments)


def check_peak_arguments(arguments: EvaluationArguments) -> None:
    """The same, of the flags for the peak threshold and for images without polyp."""
    from unet_kvasir_seg.regions_unet import check_thresholds

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
    from unet_kvasir_seg.scoring.peak import check_savable

    check_savable(arguments.model_name)


def open_sources(arguments: EvaluationArguments) -> "tuple[Source, Source | None]":
    """What is scored, and what it is compared with, if anything.

    Raises:
        UserError: If a model or a folder of predictions cannot be read.
    """
    from unet_kvasir_seg.scoring.sources import FileSource, ModelSource, open_source

    how = {"device": arguments.device, "dtype": arguments.dtype, "tta": arguments.tta}
    files, other = arguments.predictions, arguments.compare_with
    source: Source = (
        ModelSource.load(arguments.model_name, arguments.model_revision, **how)
        if files is None
        else FileSource(Path(files))
    )
    return source, None if other is None else open_source(other, None, **how)


def describe_run(arguments: EvaluationArguments, source: "Source", rows: "Dataset", processes: Processes) -> "Results":
    """`results.json` without scores: model, data, environment, and what earlier results say of the same weights."""
    from unet_kvasir_seg.common.device import choose_runtime
    from unet_kvasir_seg.data.dataset import describe_data
    from unet_kvasir_seg.reporting.description import unscored_results
    from unet_kvasir_seg.reporting.results import describe_environment, known_results
    from unet_kvasir_seg.scoring.sources import ModelSource

    predictor = source.predictor if isinstance(source, ModelSource) else None
    runtime = predictor.runtime if predictor else choose_runtime(arguments.device, arguments.dtype)
    data = describe_data(**arguments.described, rows={arguments.split: rows}, split=arguments.split)
    known = known_results(arguments.model_name, arguments.model_revision) if predictor else None
    repo = arguments.target_repo if arguments.push_to_hub else None
    pushed = known_results(repo, None) if repo else None
    environment = describe_environment(runtime, processes.count)
    name = repo.split("/")[-1] if repo else source.name  # a folder's name is not published
    return unscored_results(name, data, environment, predictor, known, pushed, arguments.target_repo)


def draw(
    arguments: EvaluationArguments,
    results: "Results",
    scored: "ScoredSplit",
    source: "Source",
    splits: "dict[str, Dataset]",
) -> None:
    """Look for near-duplicates if asked to, draw the pictures, and add both to the results."""
    from unet_kvasir_seg.reporting.figures import draw_evaluation
    from unet_kvasir_seg.reporting.grids import PAIRS_SHOWN, example_grid, pair_grid
    from unet_kvasir_seg.scoring import near_duplicates, run, sections, summary

    evaluation = results["evaluation"]
    assert evaluation is not None
    folder = Path(arguments.output_dir) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    dice, area_shares = summary.per_image_dice(scored.images), summary.area_shares(scored.images)
    published = draw_evaluation(results, dice, area_shares, folder)
    examples = run.predict_examples(source, splits[arguments.split], scored)
    example_grid(examples, folder / "examples.png")
    of_frames = ["examples.png"]
    if arguments.audit:
        evaluation["audit"], pairs = sections.check_near_duplicates(splits, arguments.split, scored)
        near_duplicates.write_pairs(pairs, folder.parent / "near_duplicates.csv")
        if pairs:
            shown = near_duplicates.titled_images(splits, pairs[:PAIRS_SHOWN])
            pair_grid(shown, folder / "audit.png", total=len(pairs))
            of_frames.append("audit.png")
    evaluation["figures"] = published + (of_frames if arguments.push_example_images else [])


def evaluate(arguments: EvaluationArguments, processes: Processes) -> "Results":
    """Score, and write what the command writes; returns what `results.json` holds, in the main process all of it.

    Raises:
        UserError: If model or data are invalid. If the model gives NaN, `results.json` is written first, without
            scores and marked invalid.
    """
    started = time.perf_counter()
    from unet_kvasir_seg.data.dataset import load_splits
    from unet_kvasir_seg.reporting.model_card import fill_card
    from unet_kvasir_seg.reporting.results import check_results_folder, write_results
    from unet_kvasir_seg.scoring import peak, run, sections, sources, summary
    from unet_kvasir_seg.scoring.negatives import Negatives

    with processes.main_first():
        needed = [arguments.split, arguments.tune_threshold_on, arguments.tune_peak_on]
        splits = load_splits(**arguments.source, needed_splits=needed)
    source, other = open_sources(arguments)
    results = describe_run(arguments, source, splits[arguments.split], processes)
    folder = Path(arguments.output_dir)
    check_results_folder(folder, results)
    negatives = None
    if arguments.negatives is not None:
        negatives = Negatives.load(arguments.negatives, splits, arguments.mask_rules, arguments.negatives_config)

    protocol = run.Protocol(**{one.name: getattr(arguments, one.name) for one in dataclasses.fields(run.Protocol)})
    try:
        tuning = run.Tuning(arguments.tune_threshold_on, arguments.tune_peak_on, arguments.sensitivity)
        scored = run.score_split(
            *(source, splits, arguments.split, protocol, processes), other=other, negatives=negatives, tuning=tuning
        )
    except sources.InvalidRunError as error:
        if processes.is_main:
            write_results(folder / "results.json", {**results, "invalid": str(error)})
        raise
    if not processes.is_main:
        return results

    evaluation: Evaluation
    results["metrics"], evaluation = sections.summarise_split(scored, arguments.tta)
    results["evaluation"] = evaluation
    draw(arguments, results, scored, source, splits)
    evaluation["seconds"] = round(time.perf_counter() - started, 1)
    evaluation["model_seconds"] = round(source.seconds, 1)
    summary.write_per_image_csv(scored.images, folder / "per_image.csv")
    write_results(folder / "results.json", results)
    if arguments.save_peak and scored.choice is not None:
        peak.save_peak(Path(arguments.model_name), scored.choice, copy_to=folder)
    if arguments.predictions is None:
        (folder / "README.md").write_text(fill_card(results), encoding="utf-8")
    return results


def push(results: "Results", arguments: EvaluationArguments) -> str:
    """Upload results, card and pictures in one commit; returns its URL."""
    from unet_kvasir_seg.common.hub import push_files

    assert results["evaluation"] is not None
    folder = Path(arguments.output_dir)
    names = ["results.json", "README.md", *(f"figures/{name}" for name in results["evaluation"]["figures"])]
    names += ["preprocessor_config.json"] if arguments.save_peak else []  # the peak that the scores are of
    files = [folder / name for name in names]
    return push_files(str(arguments.target_repo), folder, files, f"Evaluate on {results['data']['split']}")


def main(argv: list[str] | None = None) -> None:
    with user_errors("evaluation.py"):
        parser = FlagParser([EvaluationArguments], program="evaluation.py", description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        check_arguments(arguments)
        require_extra("evaluation", *PACKAGES_OF_THE_EXTRA)
        from transformers.utils import logging
        from unet_kvasir_seg.common.device import choose_runtime
        from unet_kvasir_seg.reporting.tables import results_as_text

        logging.disable_progress_bar()  # of loading weights, which takes no time
        with share_work(cpu=choose_runtime(arguments.device, arguments.dtype).device.type == "cpu") as processes:
            results = evaluate(arguments, processes)
            if processes.is_main:
                written = sorted(path.name for path in Path(arguments.output_dir).iterdir())
                print(f"\n{results_as_text(results)}\nWritten to {arguments.output_dir}: {', '.join(written)}")
                if arguments.save_peak:
                    print(f"Saved the peak threshold among the settings of {arguments.model_name}.")
                if arguments.push_to_hub:
                    print(f"Pushed: {push(results, arguments)}")


if __name__ == "__main__":
    main()
