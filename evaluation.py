"""Score a model on a split it was not trained on, with intervals, where it fails, and a model card that says so.

    python evaluation.py --dataset_name path/to/kvasir-seg --split validation    # the model of this clone
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --tune_threshold_on validation
    python evaluation.py --model outputs/a --compare_with outputs/b --dataset_name me/polyps --split test
    python evaluation.py --predictions masks/of/another/program --dataset_name me/polyps --split test
    python evaluation.py --dataset_name me/polyps --split validation --negative_windows 500 \\
        --tune_peak_on validation --sensitivity 0.98 --save_peak
    python evaluation.py --dataset_name path/to/frames --split test --sequence_pattern \\
        '(?P<sequence>[^/]+)_(?P<frame>\\d+)$'
    python evaluation.py --model me/unet --dataset_name me/polyps --split test --push_to_hub

Writes results.json, per_image.csv, README.md (the model card), figures/, with --audit near_duplicates.csv and, of
videos, sequences.csv into the output folder. Several processes share the images:
`accelerate launch --num_processes 2 evaluation.py ...`.
"""

import dataclasses
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from unet_kvasir_seg.common.command_line import FlagParser, program_name
from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors
from unet_kvasir_seg.common.processes import Processes, ending_alike, share_work
from unet_kvasir_seg.scoring.arguments import EvaluationArguments, check_arguments, with_split

# PyTorch, transformers and datasets are imported by the functions that need them, so that --help and errors of the
# command line come at once.
if TYPE_CHECKING:
    from datasets import Dataset
    from unet_kvasir_seg.reporting.results import Results
    from unet_kvasir_seg.scoring.run import ScoredSplit
    from unet_kvasir_seg.scoring.sequence_frames import Sequences
    from unet_kvasir_seg.scoring.sequences import SequenceScores
    from unet_kvasir_seg.scoring.sources import Source

PACKAGES_OF_THE_EXTRA = ("matplotlib", "monai", "py_sod_metrics")  # as modules
PROGRAM = program_name("evaluation.py")
KEPT = "Scores so far are kept in the output folder: run the same command again to go on."


def describe_run(arguments: EvaluationArguments, source: "Source", rows: "Dataset", processes: Processes) -> "Results":
    """`results.json` without scores: model, data, environment, and what earlier results say of the same weights."""
    assert arguments.split is not None
    from unet_kvasir_seg.common.device import choose_runtime
    from unet_kvasir_seg.data.dataset import describe_data
    from unet_kvasir_seg.data.division import warn_of_other_division
    from unet_kvasir_seg.reporting.description import unscored_results
    from unet_kvasir_seg.reporting.results import describe_environment, known_results
    from unet_kvasir_seg.scoring.sources import ModelSource

    predictor = source.predictor if isinstance(source, ModelSource) else None
    runtime = predictor.runtime if predictor else choose_runtime(arguments.device, arguments.dtype)
    data = describe_data(**arguments.described, rows={arguments.split: rows}, split=arguments.split)
    is_alone = predictor is not None and len(predictor.members) == 1
    known = known_results(arguments.model_name, arguments.model_revision) if is_alone else None
    if known and processes.is_main:
        warn_of_other_division(known["training"], data)
    repo = arguments.target_repo if arguments.push_to_hub else None
    pushed = known_results(repo, None) if repo else None
    environment = describe_environment(runtime, processes.count)
    name = repo.split("/")[-1] if repo else source.name  # a folder's name is not published
    return unscored_results(name, data, environment, predictor, known, pushed, arguments.target_repo)


def load_data(
    arguments: EvaluationArguments, processes: Processes
) -> "tuple[EvaluationArguments, dict[str, Dataset]]":
    """The splits, checked as far as that takes seconds, and the arguments with the split that is scored.

    Raises:
        UserError: If the data cannot be used, or there is no such split.
    """
    from unet_kvasir_seg.data.check import check_at_start
    from unet_kvasir_seg.data.dataset import load_splits

    needed = [arguments.split, arguments.tune_threshold_on, arguments.tune_peak_on]
    with processes.main_first():
        splits = load_splits(**arguments.source, needed_splits=needed, further_columns=arguments.sequence_columns)
    chosen = with_split(arguments, splits)
    with ending_alike(processes):
        if processes.is_main:
            if chosen is not arguments and chosen.split != "test":
                print(f"The data set has no test split: the {chosen.split} split is scored.", file=sys.stderr)
            needed = [chosen.split, chosen.tune_threshold_on, chosen.tune_peak_on]
            used = splits if chosen.audit else {name: splits[name] for name in needed if name is not None}
            if partly := check_at_start(used, chosen.mask_rules):
                print(partly, file=sys.stderr)
    return chosen, splits


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


def evaluate(arguments: EvaluationArguments, processes: Processes, held: ExitStack) -> "tuple[Results, Path]":
    """Score, and write what the command writes.

    Returns:
        What `results.json` holds, in the main process all of it, and the output folder, which the stack holds.

    Raises:
        UserError: If model or data are invalid, or a file cannot be written. If the model gives NaN, `results.json`
            is written first, without scores and marked invalid.
    """
    started = time.perf_counter()
    from unet_kvasir_seg.reporting.evaluation_folder import open_folder
    from unet_kvasir_seg.reporting.results import write_results
    from unet_kvasir_seg.scoring import run, sections, sequence_frames, sources
    from unet_kvasir_seg.scoring.kept_scores import KeptScores
    from unet_kvasir_seg.scoring.negatives import Negatives
    from unet_kvasir_seg.scoring.wrong_pixels import judge_uncertainty, summarise_uncertainty

    arguments, splits = load_data(arguments, processes)
    assert arguments.split is not None
    timing = (arguments.frame_rate, arguments.alert_seconds)
    sequences: Sequences = {}
    if arguments.scores_videos:
        rows, pattern = splits[arguments.split], arguments.sequence_pattern
        sequences = sequence_frames.find_sequences(rows, pattern, arguments.dataset_name, *timing)
    how = {name: getattr(arguments, name) for name in ("device", "dtype", "tta", "field_of_view")}
    names = (arguments.models, arguments.model_revision, arguments.predictions, arguments.compare_with)
    source, other = sources.open_sources(*names, **how)
    results = describe_run(arguments, source, splits[arguments.split], processes)
    settings = arguments.settings_with(source)
    named = None if arguments.output_dir is None else Path(arguments.output_dir)
    folder = open_folder(named, results, settings, processes, held, PROGRAM)
    negatives = None
    if arguments.negatives is not None:
        negatives = Negatives.load(arguments.negatives, splits, arguments.mask_rules, arguments.negatives_config)

    protocol = run.Protocol(**{one.name: getattr(arguments, one.name) for one in dataclasses.fields(run.Protocol)})
    tuning = run.Tuning(arguments.tune_threshold_on, arguments.tune_peak_on, arguments.sensitivity)
    work = run.Work(processes, KeptScores(folder))
    try:
        scored = run.score_split(
            *(source, splits, arguments.split, protocol, work), other=other, negatives=negatives, tuning=tuning
        )
        judged = judge_uncertainty(source, splits[arguments.split], scored, work) if arguments.uncertainty else None
    except sources.InvalidRunError as error:
        if processes.is_main:
            write_results(folder / "results.json", {**results, "invalid": str(error)})
        raise
    if processes.is_main:
        results["metrics"], evaluation = sections.summarise_split(scored, arguments.tta)
        videos = sections.score_videos(sequences, scored, *timing)
        if judged is not None:
            evaluation["uncertainty"] = summarise_uncertainty(judged, scored)
        if videos:
            evaluation["videos"] = sections.summarise_videos(videos, sequences, scored, *timing)
        results["evaluation"] = evaluation
        write_outputs(folder, arguments, results, scored, videos, source, splits, started - work.kept.seconds)
    return results, folder


def write_outputs(
    folder: Path,
    arguments: EvaluationArguments,
    results: "Results",
    scored: "ScoredSplit",
    videos: "dict[str, SequenceScores]",
    source: "Source",
    splits: "dict[str, Dataset]",
    started: float,
) -> None:
    """Write the output folder, and complete the results; the scores are printed if that fails.

    Raises:
        UserError: If a file cannot be written.
    """
    from unet_kvasir_seg.common.files import write_atomic
    from unet_kvasir_seg.reporting.model_card import fill_card
    from unet_kvasir_seg.reporting.results import write_results
    from unet_kvasir_seg.reporting.tables import results_as_text
    from unet_kvasir_seg.scoring import peak, sequences, summary, training_frames

    evaluation = results["evaluation"]
    assert evaluation is not None
    evaluation["model_seconds"] = round(source.seconds, 1)
    evaluation["seconds"] = round(time.perf_counter() - started, 1)
    try:
        drawn = draw(folder, arguments, results, scored, source, splits)
        evaluation["seconds"] = round(time.perf_counter() - started, 1)
        summary.write_per_image_csv(scored.images, folder / "per_image.csv")
        if videos:
            sequences.write_sequences_csv(videos, folder / "sequences.csv")
        else:  # an earlier run's would not belong to these results
            (folder / "sequences.csv").unlink(missing_ok=True)
        write_results(folder / "results.json", results)
        if arguments.save_peak and scored.choice is not None:
            peak.save_peak(Path(arguments.model_name), scored.choice, copy_to=folder)
        if arguments.save_statistics:
            training_frames.save_statistics(Path(arguments.model_name), source, splits, arguments.split, folder)
        if arguments.predictions is None:
            pictures = evaluation["figures"] if arguments.push_to_hub else drawn
            write_atomic(folder / "README.md", fill_card(results, pictures).encode())
    except OSError as error:
        print(results_as_text(results))
        raise UserError(
            f"{error.filename} cannot be written: {error.strerror}. Make room and run the same command again: the "
            "scores that are kept in the output folder are not computed again."
        ) from error


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

            sys.exit(check_data(arguments, Path(arguments.output_dir or "outputs/evaluation")))
        check_arguments(arguments)
        require_extra("evaluation", *PACKAGES_OF_THE_EXTRA)
        from transformers.utils import logging
        from unet_kvasir_seg.common.device import choose_runtime
        from unet_kvasir_seg.common.hub import check_writable
        from unet_kvasir_seg.reporting.evaluation_folder import hold_folder
        from unet_kvasir_seg.reporting.tables import results_as_text
        from unet_kvasir_seg.scoring.kept_scores import KeptScores

        logging.disable_progress_bar()  # of loading weights, which takes no time
        cpu = choose_runtime(arguments.device, arguments.dtype).device.type == "cpu"
        with ExitStack() as held, share_work(cpu) as processes:
            with ending_alike(processes):
                if processes.is_main and arguments.output_dir is not None:
                    hold_folder(Path(arguments.output_dir), held, PROGRAM)
                if processes.is_main and arguments.push_to_hub:
                    check_writable(str(arguments.target_repo))
            results, folder = evaluate(arguments, processes, held)
            if processes.is_main:
                written = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
                print(
                    f"\n{results_as_text(results, arguments.compare_with)}\nWritten to {folder}: {', '.join(written)}"
                )
                if arguments.save_peak:
                    print(f"Saved the peak threshold among the settings of {arguments.model_name}.")
                if arguments.push_to_hub:
                    print(f"Pushed: {push(folder, results, arguments)}")
                KeptScores(folder).remove()


if __name__ == "__main__":
    main()
