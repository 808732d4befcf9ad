"""Segment images, folders and videos: a mask for each image, a picture of it if wanted, and tables.

    python predict.py frame.jpg                                    # with the model of this clone
    python predict.py frames/ more/*.png --output_dir out --overlay
    python predict.py "archive/**/*.tif" --model me/unet-kvasir-seg --threshold 0.4 --tta
    python predict.py frames/ --model outputs/a outputs/b me/unet --uncertainty    # the mean of three models
    python predict.py clip.mp4 frames/ --report                    # then open outputs/predictions/report.html
    python predict.py --report --output_dir out                    # the report of an earlier run, made again
    python predict.py frames/ --annotations cvat                   # polygons, to be corrected in CVAT
    python predict.py --output_dir out -- -odd-name.png            # after --, names may begin with a dash

INPUT is a file, a folder (with all folders in it), a glob in quotes, or several of them, images and videos mixed.
The output folder holds, with the names and folders of the inputs:

    masks/            a PNG per image, at its original size: 255 is polyp, 0 is background. An image without polyp has
                      a black mask.
    predictions.csv   a row per lesion, of all masks in the folder: image, lesion (1 is the image's largest), box in
                      pixels (right and bottom are the first outside), centroid, area in pixels and in per cent of the
                      image, mean probability. An image without polyp has no row, but a mask.
    images.csv        a row per image, those without polyp included: image, presence (the probability that it shows a
                      polyp at all), number of regions marked, their area in pixels and in per cent of the image,
                      uncertainty.
    overlays/         with --overlay: the images with the polyps drawn in.
    probabilities/    with --probabilities: 16-bit PNG, where 65535 is the probability 1.
    uncertainties/    with --uncertainty: the same for the standard deviation of the maps that were averaged, those of
                      several models or, with --tta, of the flips.
    videos/           for each video: an mp4 with the polyps drawn in, without audio, and a CSV with a row per frame.
    tracks.csv        a row per lesion of a video, followed through its frames: whether it is an alert (seen for
                      --alert_seconds; the mp4 shows a box with its number), first and last second, frames, largest
                      area, mean and highest probability, its best frame, and its box in pixels there.
    report.html       with --report: a page to look through all that is in the folder; it needs no network.
    annotations/      with --annotations: all masks in the folder, as files of an annotation tool.
    selected.csv      with --select 100: so many images to label next, as --select_by chooses them.
    selected/         with --select_copy: these images.
    run.json          model and settings. Outputs of another model, or of other settings of the same kind, get a
                      folder of their own: outputs/predictions-2 and so on, if --output_dir names none.
    inputs.json       the paths of the inputs, for the report.

If a run was stopped, the same command continues it. Inputs that cannot be used are listed at the end, all others are
done, and the exit status is 1 (0: all done; 2: nothing was started, or it could not go on). Files of folders that are
neither images nor videos are counted. Several processes share the inputs:
`accelerate launch --num_processes 2 predict.py ...`.
"""

import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_kvasir_seg.common.command_line import FlagParser, program_name
from unet_kvasir_seg.common.errors import UserError, printable, require_extra, user_errors
from unet_kvasir_seg.common.processes import Processes, ending_alike, share_work
from unet_kvasir_seg.inference.arguments import (
    ANNOTATION_FLAGS,
    IMAGE_FLAGS,
    PREDICTION_FLAGS,
    SELECTION_FLAGS,
    SETTINGS,
    VIDEO_FLAGS,
    PredictArguments,
    changed_flags,
    check_arguments,
    check_label,
    flags_without_effect,
    is_further_model,
)

# All else is imported by the functions that need it, after the arguments were parsed: --help, a wrong flag and Ctrl-C
# are answered at once, and with an ONNX file neither torch nor transformers is imported at all.
if TYPE_CHECKING:
    from unet_kvasir_seg.inference.image_run import Report
    from unet_kvasir_seg.inference.inputs import Inputs, Source
    from unet_kvasir_seg.inference.prediction import BasePredictor

PROGRAM, KEPT = program_name("predict.py"), "What was done is kept. Run the same command again to go on."
LONGEST_WAIT = timedelta(days=7)  # of a process for the others: one may have the long videos


def predict(inputs: Sequence[str], arguments: PredictArguments) -> "Report":
    """Segment the inputs, write the outputs, and print a report.

    Returns:
        What all processes did together.

    Raises:
        UserError: If arguments, inputs or model are invalid, or an output cannot be written. Outputs that were
            written before are kept.
    """
    from PIL import Image
    from unet_kvasir_seg.field_of_view_unet import field_of_view_text
    from unet_kvasir_seg.inference import output_folder
    from unet_kvasir_seg.inference.ensemble import describe_choices
    from unet_kvasir_seg.inference.folder_choice import possible_folders, run_folder
    from unet_kvasir_seg.inference.image_run import print_report
    from unet_kvasir_seg.inference.inputs import find_inputs
    from unet_kvasir_seg.inference.opening import computes_on_cpu, open_predictor
    from unet_kvasir_seg.inference.selection import find_labelled

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such images are refused
    check_arguments(arguments)
    named = None if arguments.output_dir is None else Path(arguments.output_dir)
    found = find_inputs(inputs, *possible_folders(named))
    labelled = find_labelled(arguments.select_not, possible_folders(named))
    notes = flags_without_effect(found, arguments)
    if found.videos:
        require_extra("video", "av")
    computing = (arguments.device, arguments.dtype, arguments.compile)
    with share_work(computes_on_cpu(arguments.models, *computing), LONGEST_WAIT) as processes, ExitStack() as held:
        with ending_alike(processes):
            if processes.is_main:
                print("".join(f"{note}\n" for note in notes), end="")
                open_folder = held.enter_context(run_folder(named, PROGRAM))
        predictor = open_predictor(arguments.models, arguments.model_revision, *computing)
        if processes.is_main and arguments.peak_threshold is None and (line := describe_choices(predictor)):
            print(line)
        arguments = replace(arguments, peak_threshold=choose_peak_threshold(predictor, arguments))
        predictor.field_of_view = arguments.field_of_view
        arguments = replace(arguments, field_of_view=field_of_view_text(predictor.field_of_view))
        # No process writes before this: the main one would take the masks for those of another program.
        with ending_alike(processes):
            if processes.is_main:
                how = {name: getattr(arguments, name) for name in SETTINGS}
                named = open_folder(output_folder.describe_settings(predictor, **how), found)
                output_folder.write_inputs(named, found.sources, keep_known=True)
        output = processes.gather(named)[0]
        total = segment_all(found, predictor, output, arguments, processes)
        with ending_alike(processes):
            if processes.is_main:
                output_folder.write_inputs(output, [done.source for done in total.done])
                output_folder.write_tables(output, predictor.processor_settings)
                if arguments.annotations:
                    write_tool_files(output, predictor, arguments)
                if arguments.select is not None:
                    select(total, output, labelled, arguments)
                print_report(total, found.ignored, str(output))
                if arguments.report:
                    write_page(output)
    return total


def choose_peak_threshold(predictor: "BasePredictor", arguments: PredictArguments) -> float | None:
    """--peak_threshold, or the model's own.

    Raises:
        UserError: If it is below --threshold, or the model's own settings are invalid.
    """
    try:
        return predictor.choose_peak_threshold(arguments.threshold, arguments.peak_threshold)
    except ValueError as error:
        origin = "the model's own" if arguments.peak_threshold is None else "given"
        raise UserError(f"--threshold and --peak_threshold ({origin}) do not go together. {error}") from error


def segment_all(
    found: "Inputs", predictor: "BasePredictor", folder: Path, arguments: PredictArguments, processes: Processes
) -> "Report":
    """Segment the inputs into the output folder, each process its share of them.

    Returns:
        What all processes did together.

    Raises:
        UserError: If no file can be written, or the network gives NaN.
    """
    from unet_kvasir_seg.inference.image_run import ImageRun, Report, segment_images
    from unet_kvasir_seg.inference.output_folder import OutputFolder

    output = OutputFolder(folder)
    how: dict[str, Any] = {name: getattr(arguments, name) for name in PREDICTION_FLAGS}
    wanted = {name: getattr(arguments, name) for name in IMAGE_FLAGS}
    wanted["with_scores"] = arguments.select is not None
    run = ImageRun(predictor, output, arguments.batch_size, how=how, **wanted)
    share = slice(processes.index, None, processes.count)
    report = Report(failures=found.failures if processes.is_main else [])
    with ending_alike(processes):
        segment_images(found.images[share], run, report, shown=processes.is_main)
        if videos := found.videos[share]:
            from unet_kvasir_seg.inference.video_run import segment_video_file  # needs the extra "video"

            how |= {name: getattr(arguments, name) for name in (*VIDEO_FLAGS, "batch_size")}
            how["shown"] = processes.is_main
        for video in videos:
            segment_video_file(video, predictor, output, report, **how)
    with ending_alike(processes):  # when all are through: what is counted as done exists in the end
        output.check()
        report.fail_missing(run.all_targets)
    total = Report()
    for part in processes.gather(report):
        total.add(part)
    return total


def select(total: "Report", folder: Path, labelled: Sequence["Source"], arguments: PredictArguments) -> None:
    """Choose the images to label next among those that are done, and add what failed to the report.

    Raises:
        UserError: If what was chosen cannot be written, or a labelled image cannot be read.
    """
    from unet_kvasir_seg.inference.output_folder import OutputFolder
    from unet_kvasir_seg.inference.selection import Request, select_images

    done = [each.source for each in total.done]
    assert arguments.select is not None
    request = Request(arguments.select, arguments.select_by, arguments.select_seed, arguments.select_copy)
    total.failures += select_images(OutputFolder(folder), done, request, labelled)


def write_report_alone(arguments: PredictArguments) -> None:
    """Write the report of an output folder, of what is there."""
    from unet_kvasir_seg.common.output_lock import output_lock
    from unet_kvasir_seg.inference.folder_choice import folder_to_report
    from unet_kvasir_seg.inference.inputs import OUTPUT_FOLDERS

    with share_work(cpu=True) as processes, ending_alike(processes):
        if processes.is_main:
            named = None if arguments.output_dir is None else Path(arguments.output_dir)
            of_inputs = (
                *SETTINGS,
                *IMAGE_FLAGS,
                *ANNOTATION_FLAGS,
                *SELECTION_FLAGS,
                "model",
                "model_revision",
                "dtype",
            )
            ignored = changed_flags(arguments, of_inputs)
            output = folder_to_report(named, ignored)
            with output_lock(output, PROGRAM, OUTPUT_FOLDERS):  # which would make the folder
                write_page(output)


def write_tool_files(output: Path, predictor: "BasePredictor", arguments: PredictArguments) -> None:
    """Write the masks of the folder for an annotation tool, and print what was written.

    Raises:
        UserError: As `write_annotations`.
    """
    from unet_kvasir_seg.inference.annotations.writer import write_annotations
    from unet_kvasir_seg.inference.ensemble import labels_of

    assert arguments.annotations is not None
    label = arguments.annotation_label or labels_of(predictor.members[0]).get("1", "polyp")
    check_label(label)
    print(write_annotations(output, arguments.annotations, label, arguments.annotation_masks), end="")


def write_page(output: Path) -> None:
    """Write report.html, and print where it is.

    Raises:
        UserError: If there is nothing to show, or it cannot be written.
    """
    from unet_kvasir_seg.inference.output_folder import REPORT, cannot_write
    from unet_kvasir_seg.reporting.report_page import write_report

    try:
        page = write_report(output)
    except OSError as error:
        raise cannot_write(output / REPORT, error) from error
    print(f"{printable(str(page))}: the report, to be opened in a browser.")


def no_input(models: Sequence[str]) -> UserError:
    """The error if no input is named; a word after `--model A` may have been meant as one."""
    further = " and ".join(models[1:])
    taken = f" After --model, {further} was taken for a model: name the inputs first." if further else ""
    return UserError(f"No input: name images, folders, globs or videos; see --help.{taken}")


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept=KEPT):
        parser = FlagParser(
            [PredictArguments], program=PROGRAM, description=__doc__, usage="%(prog)s [INPUT...] [flags]"
        )
        flags, inputs = parser.separate(sys.argv[1:] if argv is None else argv, is_further_model)
        (arguments,) = parser.parse(flags)
        if not inputs and not arguments.report:
            raise no_input(arguments.models)
        report = predict(inputs, arguments) if inputs else None
        if report is None:
            write_report_alone(arguments)
    if report and report.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
