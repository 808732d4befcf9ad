"""Export a model as one ONNX file that takes uint8 frames of any size and gives masks of that size, and verify it.

    python export.py                                                     # the model of this clone, in float32
    python export.py --model me/unet --output_dir out --precision fp16
    python export.py --precision int8 --calibration_dataset path/to/kvasir-seg
    python export.py --precision int8 --calibration_dataset folder/of/images --calibration_images 200
    python export.py --model me/unet --precision int8 --calibration_dataset me/polyps --push_to_hub me/unet

Writes into the output folder, as a repo on the Hub has it:

    onnx/model.onnx       float32; with --precision fp16 onnx/model_fp16.onnx, with int8 onnx/model_int8.onnx
    onnx/model.json       beside each of them: how well it agreed with PyTorch when it was written

With --push_to_hub, also results.json and README.md, the model card, as they are uploaded: with these numbers added.

The file holds the image processor's steps too: resizing, scaling, and back to the frame's original size. It takes
`frames`, uint8 (B, H, W, 3) RGB, and `threshold`, float32; it gives `mask`, uint8 (B, H, W) of 0 and 1, `probability`,
float32 (B, H, W), and `logits` at the input size. predict.py and evaluation.py take it as --model.

A file that differs from PyTorch by more than the tolerances is not kept, and the exit status is 2.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unet_kvasir_seg.common.command_line import FlagParser, MaskFlags, ModelFlags, flag, program_name
from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.onnx_export.files import FILE_NAMES

# What imports torch, transformers or datasets is imported in the functions that run after the arguments are parsed,
# so that --help and a mistyped flag are answered at once.
if TYPE_CHECKING:
    from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
    from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
    from unet_kvasir_seg.onnx_export.images import FrameSets
    from unet_kvasir_seg.reporting.results import Export, Results

REPORT_SCHEMA = 1
PROGRAM, KEPT = program_name("export.py"), "Earlier files are as they were: run the same command again."
REMEDIES = {
    "fp32": "Where the weights are trained, that is an error of this project: report it.",
    "fp16": "Export --precision fp32.",
    "int8": "Calibrate on more images that are like those the model will see, or export --precision fp16.",
}


@dataclass
class ExportArguments(MaskFlags, ModelFlags):
    """What to export, and how."""

    model: str | None = flag(None, "A folder or an id on the Hub; by default the model of this clone.")
    output_dir: str = flag("outputs/export", "Folder of the outputs.")
    precision: str = flag("fp32", "fp32; fp16: half the size; or int8: a quarter, and faster on CPUs; needs images.")
    calibration_dataset: str | None = flag(
        None,
        "Images like those that the model will see: a data set as train.py takes it, or a folder of images. int8 is "
        "calibrated on its training split and verified, as fp32 and fp16 are, on its validation split; without one, "
        "fp32 and fp16 are verified on synthetic frames.",
    )
    calibration_images: int = flag(100, "Most images to calibrate int8 on.")
    dataset_config: str | None = flag(None, "Configuration of a --calibration_dataset that has several.")
    push_to_hub: str | None = flag(
        None,
        "Id of a repo on the Hub to upload the file and its numbers to, under onnx/; where there is a results.json of "
        "the weights, it and the model card get the numbers too.",
    )


def check_arguments(arguments: ExportArguments) -> None:
    """Refuse invalid values, before any work.

    Raises:
        UserError: The message says what was given and what to do.
    """
    if arguments.precision not in FILE_NAMES:
        raise UserError(f"--precision {arguments.precision} is unknown: expected {', '.join(FILE_NAMES)}.")
    if arguments.precision != "int8":
        return
    if arguments.calibration_dataset is None:
        raise UserError(
            "--precision int8 needs images to calibrate on: name a data set or a folder of images with "
            "--calibration_dataset."
        )
    from unet_kvasir_seg.onnx_export.images import MIN_CALIBRATION_IMAGES

    if arguments.calibration_images < MIN_CALIBRATION_IMAGES:
        raise UserError(
            f"--calibration_images {arguments.calibration_images} is too few: expected {MIN_CALIBRATION_IMAGES} or "
            "more."
        )


def export(arguments: ExportArguments) -> "Export":
    """Export, verify, and write the file and the JSON beside it; returns the content of the JSON.

    Raises:
        UserError: If arguments or data are invalid, or the file differs from PyTorch by more than the tolerances.
            Earlier files are left untouched.
    """
    require_extra("export", "onnx", "onnxscript", "onnxruntime")
    from unet_kvasir_seg.common.files import atomic_file
    from unet_kvasir_seg.inference.checkpoint import fingerprint, load_checkpoint
    from unet_kvasir_seg.onnx_export.files import check_output_folder, print_report
    from unet_kvasir_seg.onnx_export.images import load_frames
    from unet_kvasir_seg.reporting.results import as_json

    model, processor = load_checkpoint(arguments.model or str(TRAINED_MODEL), arguments.model_revision)
    weights = fingerprint(model)
    folder = Path(arguments.output_dir) / "onnx"
    check_output_folder(folder, weights)
    if arguments.push_to_hub:
        results_to_push(arguments, weights)  # refuses before the work what the push would refuse after it
    frames = load_frames(
        arguments.calibration_dataset,
        processor,
        calibration_images=arguments.calibration_images if arguments.precision == "int8" else 0,
        config=arguments.dataset_config,
        mask_rules=arguments.mask_rules,
    )

    file = folder / FILE_NAMES[arguments.precision]
    report_file = file.with_suffix(".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(report_file) as written_report, atomic_file(file) as unverified:
            report = write_verified(Path(unverified.name), model.eval(), processor, arguments.precision, frames)
            print_report(report)
            if problems := report["proof"]["problems"]:
                raise UserError(
                    f"The exported file disagrees with PyTorch and is not kept: {'; '.join(problems)}. "
                    f"{REMEDIES[arguments.precision]}"
                )
            # Both are complete before one takes its place; a file may lack its report, but never has another's.
            written_report.write(as_json(report))
            written_report.flush()
            report_file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror or error}. {KEPT}") from error
    return report


def write_verified(
    path: Path,
    model: "UNetForSemanticSegmentation",
    processor: "UNetImageProcessor",
    precision: str,
    frames: "FrameSets",
) -> "Export":
    """Write an ONNX file and compare it with PyTorch; returns the report, whose problems are in "proof".

    Args:
        path: Where to write.
        model: In float32 and evaluation mode.
        processor: The image processor that belongs to it.
        precision: "fp32", "fp16" or "int8".
        frames: To calibrate on and to verify on.
    """
    import torch
    from unet_kvasir_seg.common.device import Runtime
    from unet_kvasir_seg.inference.checkpoint import fingerprint
    from unet_kvasir_seg.inference.onnx_session import OnnxSession
    from unet_kvasir_seg.inference.predictor import Predictor
    from unet_kvasir_seg.onnx_export.files import describe_environment, write_graph
    from unet_kvasir_seg.onnx_export.graph import OPSET
    from unet_kvasir_seg.onnx_export.quantization import make_graph
    from unet_kvasir_seg.onnx_export.verification import verify

    made = make_graph(model, processor, precision, frames.calibration)
    write_graph(made.graph, path)
    predictor = Predictor(model, processor, Runtime(torch.device("cpu"), torch.float32))
    verification = verify(OnnxSession.load(path, cpu_only=True), predictor, frames.verification)
    report: Export = {
        "schema_version": REPORT_SCHEMA,
        "file": FILE_NAMES[precision],
        "bytes": path.stat().st_size,
        "fingerprint": fingerprint(model),
        "precision": precision,
        "opset": OPSET,
        "environment": describe_environment(),
        "float_layers": made.float_layers,
        "proof": {"data": frames.source, **verification},
    }
    if made.calibration:
        report["calibration"] = made.calibration
    return report


def results_to_push(arguments: ExportArguments, weights: str) -> "Results | None":
    """The results.json that the push extends: the one of the repo, else the one beside the model.

    Args:
        arguments: The command's.
        weights: Fingerprint of the exported weights.

    Returns:
        None if neither is of these weights.

    Raises:
        UserError: If the repo holds another model, or the output folder other results.
    """
    from unet_kvasir_seg.reporting.results import check_results_folder, exports_of, known_results

    repo = str(arguments.push_to_hub)
    of_repo = known_results(repo, None)
    if of_repo and of_repo["model"].get("fingerprint") != weights:
        raise UserError(
            f"{repo} holds the results of other weights, {of_repo['model']['name']}: push these weights first, or "
            "name another repo with --push_to_hub."
        )
    results = of_repo or known_results(arguments.model or str(TRAINED_MODEL), arguments.model_revision)
    if not results or results["model"].get("fingerprint") != weights:
        return None
    check_results_folder(Path(arguments.output_dir), results)
    results["model"] |= {"repository": repo, "name": repo.split("/")[-1]}  # the name of a folder is not published
    results["exports"] = exports_of(weights, results)
    if not of_repo:  # the repo does not have the pictures either
        if results["training"]:
            results["training"]["figures"] = []
        if results["evaluation"]:
            results["evaluation"]["figures"] = []
    return results


def push(arguments: ExportArguments, report: "Export") -> str:
    """Upload the file, its report and the model card in one commit; returns the commit's URL.

    Raises:
        UserError: If the Hub refuses or cannot be reached, and as `results_to_push`.
    """
    from unet_kvasir_seg.common.files import write_atomic
    from unet_kvasir_seg.common.hub import push_files
    from unet_kvasir_seg.reporting.model_card import fill_card
    from unet_kvasir_seg.reporting.results import write_results

    folder = Path(arguments.output_dir)
    file = folder / "onnx" / report["file"]
    files = [file, file.with_suffix(".json")]
    if results := results_to_push(arguments, report["fingerprint"]):
        results["exports"][report["precision"]] = report
        card = fill_card(results)
        write_results(folder / "results.json", results)
        write_atomic(folder / "README.md", card.encode())
        files += [folder / "results.json", folder / "README.md"]
    return push_files(str(arguments.push_to_hub), folder, files, f"Export to ONNX, {report['precision']}")


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept=KEPT):
        parser = FlagParser([ExportArguments], program=PROGRAM, description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        check_arguments(arguments)
        from unet_kvasir_seg.common.output_lock import output_lock

        with output_lock(Path(arguments.output_dir), PROGRAM, ["onnx"]):
            import transformers

            transformers.utils.logging.disable_progress_bar()  # loading weights takes no time
            report = export(arguments)
            print(f"Written: {Path(arguments.output_dir) / 'onnx' / report['file']}")
            if arguments.push_to_hub:
                print(f"Pushed: {push(arguments, report)}")


if __name__ == "__main__":
    main()
