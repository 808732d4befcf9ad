"""Score a model on a split it was not trained on, with intervals, where it fails, and a model card that says so.

    python evaluation.py --dataset_name path/to/kvasir-seg --split validation    # the model of this clone
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --tune_threshold_on validation
    python evaluation.py --model outputs/a --compare_with outputs/b --dataset_name me/polyps --split test
    python evaluation.py --predictions masks/of/another/program --dataset_name me/polyps --split test
    python evaluation.py --dataset_name me/polyps --split validation --negative_windows 500 \\
        --tune_peak_on validation --sensitivity 0.98 --save_peak
    python evaluation.py --dataset_name path/to/frames --split test --sequence_pattern \\
        '(?P<sequence>[^/]+)_(?P<frame>\\d+)$'
    python evaluation.py --dataset_name me/polyps --split test --robustness
    python evaluation.py --test_sets path/to/TestDataset                         # PraNet's five, or any others
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --push_to_hub

Writes results.json, per_image.csv, README.md (the model card), figures/, with --audit near_duplicates.csv and, of
videos, sequences.csv and with --test_sets test_sets.csv into the output folder. Several processes share the images:
`accelerate launch --num_processes 2 evaluation.py ...`.
"""

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from unet_kvasir_seg.common.command_line import FlagParser, program_name
from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors
from unet_kvasir_seg.common.processes import Processes, ending_alike, share_work
from unet_kvasir_seg.scoring.arguments import EvaluationArguments, check_arguments

# PyTorch, transformers and datasets are imported by the functions that need them, so that --help and errors of the
# command line come at once.
if TYPE_CHECKING:
    from datasets import Dataset
    from unet_kvasir_seg.reporting.results import Data, Results
    from unet_kvasir_seg.scoring.inputs import Inputs, Outcome
    from unet_kvasir_seg.scoring.run import ScoredSplit
    from unet_kvasir_seg.scoring.sources import Source
    from unet_kvasir_seg.scoring.test_sets import TestSets

PACKAGES_OF_THE_EXTRA = ("matplotlib", "monai", "py_sod_metrics")  # as modules
PROGRAM = program_name("evaluation.py")
KEPT = "Scores so far are kept in the output folder: run the same command again to go on."


def describe_run(arguments: EvaluationArguments, source: "Source", data: "Data", processes: Processes) -> "Results":
    """`results.json` without scores: model, data, environment, and what earlier results say of the same weights."""
    from unet_kvasir_seg.common.device import choose_runtime
    from unet_kvasir_seg.data.division import warn_of_other_division
    from unet_kvasir_seg.reporting.description import unscored_results
    from unet_kvasir_seg.reporting.results import describe_environment, known_results
    from unet_kvasir_seg.scoring.sources import ModelSource

    predictor = source.predictor if isinstance(source, ModelSource) else None
    runtime = predictor.runtime if predictor else choose_runtime(arguments.device, arguments.dtype)
    is_alone = predictor is not None and len(predictor.members) == 1
    known = known_results(arguments.model_name, arguments.model_revision) if is_alone else None
    if known and processes.is_main:
        warn_of_other_division(known["training"], data)
    repo = arguments.target_repo if arguments.push_to_hub else None
    pushed = known_results(repo, None) if repo else None
    environment = describe_environment(runtime, processes.count)
    name = repo.split("/")[-1] if repo else source.name  # a folder's name is not published
    return unscored_results(name, data, environment, predictor, known, pushed, arguments.target_repo)


def draw(
    folder: Path,
    arguments: EvaluationArguments,
    results: "Results",
    scored: "ScoredSplit",
    source: "Source",
    splits: "dict[str, Dataset]",
) -> list[str]:
    """Look for near-duplicates if asked to, draw the pictures, and add both to the results.

    Returns:
        Names of all pictures; the results name those that may be published.

    Raises:
        OSError: If a file cannot be written.
    """
    from unet_kvasir_seg.reporting.figures import draw_evaluation
    from unet_kvasir_seg.reporting.grids import PAIRS_SHOWN, example_grid, pair_grid
    from unet_kvasir_seg.scoring import near_duplicates, run, sections, summary

    evaluation = results["evaluation"]
    assert evaluation is not None
    assert arguments.split is not None
    folder = folder / "figures"
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
    return published + of_frames


def evaluate(
    arguments: EvaluationArguments, processes: Processes, held: ExitStack
) -> "tuple[Results, Path, TestSets | None]":
    """Score, and write what the command writes.

    Returns:
        What `results.json` holds, in the main process all of it, the output folder, which the stack holds, and the
        data sets of --test_sets.

    Raises:
        UserError: If model or data are invalid, or a file cannot be written. If the model gives NaN, `results.json`
            is written first, without scores and marked invalid.
    """
    started = time.perf_counter()
    from unet_kvasir_seg.reporting.evaluation_folder import open_folder
    from unet_kvasir_seg.reporting.results import write_results
    from unet_kvasir_seg.scoring import run, sources
    from unet_kvasir_seg.scoring.inputs import load_inputs
    from unet_kvasir_seg.scoring.kept_scores import KeptScores

    arguments, inputs = load_inputs(arguments, processes)
    how = {name: getattr(arguments, name) for name in ("device", "dtype", "tta", "field_of_view")}
    names = (arguments.models, arguments.model_revision, arguments.predictions, arguments.compare_with)
    source, other = sources.open_sources(*names, **how)
    with ending_alike(processes):
        if processes.is_main:
            inputs.check_fields_of_view(arguments, [source, *([other] if other else [])])
    results = describe_run(arguments, source, inputs.describe(arguments), processes)
    settings = arguments.settings_with(source)
    named = None if arguments.output_dir is None else Path(arguments.output_dir)
    folder = open_folder(named, results, settings, processes, held, PROGRAM)
    work = run.Work(processes, KeptScores(folder))
    try:
        outcome = inputs.score(arguments, source, other, work)
    except sources.InvalidRunError as error:
        if processes.is_main:
            write_results(folder / "results.json", {**results, "invalid": str(error)})
        raise
    results.update(outcome.sections)
    if processes.is_main:
        write_outputs(folder, arguments, results, outcome, inputs, source, started - work.kept.seconds)
    return results, folder, inputs.sets


def write_outputs(
    folder: Path,
    arguments: EvaluationArguments,
    results: "Results",
    outcome: "Outcome",
    inputs: "Inputs",
    source: "Source",
    started: float,
) -> None:
    """Write the output folder, and complete the results; the scores are printed if that fails.

    Raises:
        UserError: If a file cannot be written.
    """
    from unet_kvasir_seg.common.files import write_atomic
    from unet_kvasir_seg.reporting.model_card import fill_card
    from unet_kvasir_seg.reporting.results import write_results
    from unet_kvasir_seg.scoring import peak, sequences, summary, test_sets, training_frames

    evaluation, scored, sets = results["evaluation"], outcome.split, inputs.sets
    drawn: list[str] = []
    try:
        if scored is not None and evaluation is not None:
            evaluation["model_seconds"] = round(source.seconds, 1)
            evaluation["seconds"] = round(time.perf_counter() - started, 1)
            drawn = draw(folder, arguments, results, scored, source, inputs.splits)
            evaluation["seconds"] = round(time.perf_counter() - started, 1)
            summary.write_per_image_csv(scored.images, folder / "per_image.csv")
        if outcome.videos:
            sequences.write_sequences_csv(outcome.videos, folder / "sequences.csv")
        else:  # an earlier run's would not belong to these results
            (folder / "sequences.csv").unlink(missing_ok=True)
        if sets is not None:
            test_sets.write_test_sets_csv(sets, results["test_sets"], folder / "test_sets.csv")
        write_results(folder / "results.json", results)
        if arguments.save_peak and scored is not None and scored.choice is not None:
            peak.save_peak(Path(arguments.model_name), scored.choice, copy_to=folder)
        if arguments.save_statistics:
            given = (Path(arguments.model_name), source, inputs.splits, str(arguments.split), folder)
            training_frames.save_statistics(*given)
        if arguments.predictions is None:
            pictures = evaluation["figures"] if evaluation and arguments.push_to_hub else drawn
            write_atomic(folder / "README.md", fill_card(results, pictures).encode())
    except OSError as error:
        print(as_text(results, arguments, sets))
        raise UserError(
            f"{error.filename} cannot be written: {error.strerror}. Make room and run the same command again: the "
            "scores that are kept in the output folder are not computed again."
        ) from error


def as_text(results: "Results", arguments: EvaluationArguments, sets: "TestSets | None") -> str:
    """What was measured, for the terminal."""
    from unet_kvasir_seg.reporting.tables import results_as_text
    from unet_kvasir_seg.reporting.test_sets import test_sets_as_text

    parts = [results_as_text(results, arguments.compare_with)] if results["evaluation"] else []
    if sets is not None:
        parts.append("\n".join(test_sets_as_text(results, sets.names, sets.failures, arguments.compare_with)))
    return "\n\n".join(parts)


def push(folder: Path, results: "Results", arguments: EvaluationArguments) -> str:
    """Upload results, card and pictures in one commit; returns its URL."""
    from unet_kvasir_seg.common.hub import push_files

    assert results["evaluation"] is not None
    names = ["results.json", "README.md", *(f"figures/{name}" for name in results["evaluation"]["figures"])]
    # The peak that the scores are of, and the frames' statistics.
    names += ["preprocessor_config.json"] if arguments.save_peak or arguments.save_statistics else []
    files = [folder / name for name in names]
    return push_files(str(arguments.target_repo), folder, files, f"Evaluate on {results['data']['split']}")


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept=KEPT):
        parser = FlagParser([EvaluationArguments], program=PROGRAM, description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        if arguments.check_data:
            from unet_kvasir_seg.data.check import check_data

            folder = Path(arguments.output_dir or "outputs/evaluation")
            sys.exit(check_data(arguments, folder, arguments.field_of_view))
        check_arguments(arguments)
        require_extra("evaluation", *PACKAGES_OF_THE_EXTRA)
        from transformers.utils import logging
        from unet_kvasir_seg.common.device import choose_runtime
        from unet_kvasir_seg.common.hub import check_writable
        from unet_kvasir_seg.reporting.evaluation_folder import hold_folder
        from unet_kvasir_seg.scoring.kept_scores import KeptScores

        logging.disable_progress_bar()  # of loading weights, which takes no time
        cpu = choose_runtime(arguments.device, arguments.dtype).device.type == "cpu"
        with ExitStack() as held, share_work(cpu) as processes:
            with ending_alike(processes):
                if processes.is_main and arguments.output_dir is not None:
                    hold_folder(Path(arguments.output_dir), held, PROGRAM)
                if processes.is_main and arguments.push_to_hub:
                    check_writable(str(arguments.target_repo))
            results, folder, sets = evaluate(arguments, processes, held)
            if processes.is_main:
                written = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
                print(f"\n{as_text(results, arguments, sets)}\nWritten to {folder}: {', '.join(written)}")
                if arguments.save_peak:
                    print(f"Saved the peak threshold among the settings of {arguments.model_name}.")
                if arguments.push_to_hub:
                    print(f"Pushed: {push(folder, results, arguments)}")
                if not (sets and sets.failures):  # or the others need not be scored again once these are mended
                    KeptScores(folder).remove()
        if sets and sets.failures:
            sys.exit(1)


if __name__ == "__main__":
    main()
