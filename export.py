"""Export a model as one ONNX file that takes uint8 frames of any size and gives masks of that size, proven to agree.

    python export.py                                                     # the model of this clone, in float32
    python export.py --model me/unet --output_dir out --precision fp16
    python export.py --precision int8 --calibration_dataset path/to/kvasir-seg
    python export.py --precision int8 --calibration_dataset folder/of/images --calibration_images 200
    python export.py --model me/unet --precision int8 --calibration_dataset me/polyps --push_to_hub me/unet

Writes into the output folder, as a repo on the Hub has it:

    onnx/model.onnx       float32; with --precision fp16 onnx/model_fp16.onnx, with int8 onnx/model_int8.onnx
    onnx/model.json       of each of them, what was measured against PyTorch before it was kept

With --push_to_hub, also results.json and README.md, the model card, as they are uploaded: with these numbers added.

The file holds the image processor's steps too: resizing, scaling, and back to the frame's own size. It takes `frames`,
uint8 (B, H, W, 3) RGB, and `threshold`, float32; it gives `mask`, uint8 (B, H, W) of 0 and 1, `probability`, float32
(B, H, W), and `logits` at the input size. predict.py and evaluation.py take it as --model.

A file that disagrees with PyTorch by more than the tolerances is not kept, and the exit status is 2.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from unet_kvasir_seg.common.command_line import FlagParser
from unet_kvasir_seg.common.device import Runtime
from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors
from unet_kvasir_seg.common.files import IMAGE_SUFFIXES, image_from_bytes, partial_path, write_atomic
from unet_kvasir_seg.common.hub import push_files
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.data.dataset import DatasetError, cell_name, decode_pair, load_splits
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor, binarize_mask
from unet_kvasir_seg.inference.checkpoint import fingerprint, load_checkpoint
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.reporting.model_card import fill_card
from unet_kvasir_seg.reporting.results import check_results_folder, exports_of, known_results, write_results

if TYPE_CHECKING:
    from onnx import ModelProto
    from unet_kvasir_seg.onnx_export.verification import Sample

FILE_NAMES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}  # as the Hub's libraries do
REPORT_SCHEMA = 1
FEWEST_IMAGES = 16  # to calibrate on: ranges of fewer depend on which they are
MOST_PROOF_IMAGES = 100
REMEDIES = {
    "fp32": "Where the weights are trained, that is an error of this project: report it.",
    "fp16": "Export --precision fp32.",
    "int8": "Calibrate on more images, and such as the model will see, or export --precision fp16.",
}
SYNTHETIC_FRAMES, SYNTHETIC_SIZE = 8, (288, 384)


@dataclass
class ExportArguments:
    """What to export, and how."""

    model: str | None = field(
        default=None, metadata={"help": "A folder or an id on the Hub; by default the model of this clone."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of --model on the Hub."})
    output_dir: str = field(default="outputs/export", metadata={"help": "Folder of the outputs."})
    precision: str = field(
        default="fp32",
        metadata={"help": "fp32; fp16: half the size; or int8: a quarter, and faster on CPUs; needs images."},
    )
    calibration_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Images like those that the model will see: a data set as train.py takes it, or a folder of "
            "images. int8 is calibrated on its training split and proven, as fp32 and fp16 are, on its validation "
            "split; without one, fp32 and fp16 are proven on synthetic frames."
        },
    )
    calibration_images: int = field(default=100, metadata={"help": "Most images to calibrate int8 on."})
    foreground_values: list[int] | None = field(
        default=None, metadata={"help": "Mask values that mean polyp, where they are not the usual ones."}
    )
    push_to_hub: str | None = field(
        default=None,
        metadata={
            "help": "Id of a repo on the Hub to upload the file and its numbers to, under onnx/; where there is a "
            "results.json of the weights, it and the model card get the numbers too."
        },
    )


@dataclass(frozen=True)
class Images:
    """Frames to work with.

    Attributes:
        data: What they are of, without paths.
        calibration: (H, W, 3) uint8 each, to calibrate on.
        proof: To compare on; without images to spare, some of those.
    """

    data: str
    calibration: list[np.ndarray]
    proof: "list[Sample]"


def export(arguments: ExportArguments) -> dict[str, Any]:
    """Export, prove, and write what the command writes; returns what the JSON beside the file holds.

    Raises:
        UserError, DatasetError: For what a user can mend, and for a file that disagrees with PyTorch. Files that were
            there before stay as they were.
    """
    check_arguments(arguments)
    require_extra("export", "onnx", "onnxscript", "onnxruntime")
    from unet_kvasir_seg.inference.onnx_session import OnnxNetwork
    from unet_kvasir_seg.onnx_export.graph import OPSET
    from unet_kvasir_seg.onnx_export.verification import verify

    model, processor = load_checkpoint(arguments.model or str(TRAINED_MODEL), arguments.model_revision)
    weights = fingerprint(model)
    folder = Path(arguments.output_dir) / "onnx"
    check_output_folder(folder, weights)
    if arguments.push_to_hub:
        results_to_push(arguments, weights)  # what it refuses is better told before the work
    images = read_images(arguments, processor)

    report: dict[str, Any] = {
        "schema_version": REPORT_SCHEMA,
        "file": FILE_NAMES[arguments.precision],
        "bytes": None,
        "fingerprint": weights,
        "precision": arguments.precision,
        "opset": OPSET,
        "environment": describe_environment(),
    }
    file = folder / report["file"]
    unfinished = partial_path(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        graph, facts = make_graph(model.eval(), processor, arguments.precision, images)
        write_graph(graph, unfinished)
        predictor = Predictor(model, processor, Runtime(torch.device("cpu"), torch.float32))
        proof = verify(OnnxNetwork.load(unfinished, cpu_only=True), predictor, images.proof)
        report |= {"bytes": unfinished.stat().st_size, **facts, "proof": {"data": images.data, **proof}}
        print_report(report)
        if report["proof"]["problems"]:
            raise UserError(
                f"The exported file disagrees with PyTorch and is not kept: {'; '.join(report['proof']['problems'])}. "
                f"{REMEDIES[arguments.precision]}"
            )
        os.replace(unfinished, file)
        write_atomic(file.with_suffix(".json"), (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return report


def make_graph(
    model: UNetForSemanticSegmentation, processor: UNetImageProcessor, precision: str, images: Images
) -> "tuple[ModelProto, dict[str, Any]]":
    """The graph, and what the report says of how it was made."""
    from unet_kvasir_seg.onnx_export.graph import build_graph, float_layers, set_metadata
    from unet_kvasir_seg.onnx_export.quantization import quantize

    graph = build_graph(model, processor, precision)
    facts: dict[str, Any] = {"float_layers": float_layers(model) if precision == "fp16" else []}
    if precision == "int8":
        quantized = quantize(graph, images.calibration)
        graph = quantized.graph
        differences = {", ".join(trial.float_layers) or "none": trial.difference for trial in quantized.trials}
        calibration = {"images": len(images.calibration), "difference_by_float_layers": differences}
        facts = {"float_layers": list(quantized.float_layers), "calibration": calibration}
    set_metadata(graph, {"float_layers": json.dumps(facts["float_layers"])})
    return graph, facts


def check_arguments(arguments: ExportArguments) -> None:
    """Refuse values that cannot be, before any work.

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
    if arguments.calibration_images < FEWEST_IMAGES:
        raise UserError(
            f"--calibration_images {arguments.calibration_images} is too few: expected {FEWEST_IMAGES} or more."
        )


def check_output_folder(folder: Path, weights: str) -> None:
    """Refuse a folder that holds the export of another model, or a file of another program.

    Raises:
        UserError: The message names the file.
    """
    import onnx

    remedy = "Choose another --output_dir, or remove what is there."
    for name in FILE_NAMES.values():
        file = folder / name
        if not file.exists():
            continue
        try:
            known = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
        except Exception as error:  # protobuf's errors have no common base
            raise UserError(f"{file} is there and is no ONNX file of this command. {remedy}") from error
        if known.get("fingerprint") != weights:
            raise UserError(f"{folder} holds the export of another model, {name}. {remedy}")


def read_images(arguments: ExportArguments, processor: UNetImageProcessor) -> Images:
    """The frames to calibrate on and to compare on.

    Raises:
        UserError, DatasetError: If they cannot be read, or are too few.
    """
    from unet_kvasir_seg.onnx_export.verification import Sample

    name = arguments.calibration_dataset
    if name is None:
        rows = generate(SYNTHETIC_FRAMES, SYNTHETIC_SIZE, seed=0)
        return Images(
            f"{SYNTHETIC_FRAMES} synthetic frames",
            [],
            [Sample(np.array(row["image"]), np.array(row["mask"]) > 0) for row in rows],
        )
    is_int8 = arguments.precision == "int8"
    if files := plain_images(Path(name).expanduser()):
        if is_int8:
            check_count(len(files), name)
        spared = spread(files, MOST_PROOF_IMAGES if not is_int8 else max(len(files) // 5, 1))
        rest = [file for file in files if file not in spared] if is_int8 else []
        return Images(
            "a folder of images",
            [read_frame(file, processor) for file in spread(rest, arguments.calibration_images)],
            [Sample(read_frame(file, processor), None) for file in spread(spared, MOST_PROOF_IMAGES)],
        )
    splits = load_splits(name)
    if is_int8 and "train" not in splits:
        raise UserError(f"{name} has no training split to calibrate on; it has {', '.join(splits)}.")
    calibration = []
    if is_int8:
        check_count(len(splits["train"]), name)
        calibration = read_rows(splits["train"], arguments.calibration_images, arguments, processor)
    proof_split = next(split for split in ("validation", "test", "train") if split in splits)
    proof = read_rows(splits[proof_split], MOST_PROOF_IMAGES, arguments, processor)
    data = "a local data set" if Path(name).expanduser().exists() else name
    return Images(f"{data}, proven on its {proof_split} split", [sample.frame for sample in calibration], proof)


def check_count(images: int, name: str) -> None:
    """Refuse to calibrate on too few images.

    Raises:
        UserError: If there are fewer than `FEWEST_IMAGES`.
    """
    if images < FEWEST_IMAGES:
        raise UserError(
            f"{name} has {images} images to calibrate on: expected {FEWEST_IMAGES} or more like those to segment."
        )


def plain_images(path: Path) -> list[Path]:
    """The images of a folder that is no data set; empty for anything else."""
    if not path.is_dir() or any(path.glob("metadata.*")):
        return []
    return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != ".")


def spread(entries: Sequence[Any], most: int) -> list[Any]:
    """At most so many entries, evenly spread: neighbours are often frames of one film."""
    count = min(len(entries), most)
    return [entries[index * len(entries) // count] for index in range(count)]


def read_rows(rows: Dataset, most: int, arguments: ExportArguments, processor: UNetImageProcessor) -> "list[Sample]":
    """Frames of a data set with their masks.

    Raises:
        DatasetError: If an image or a mask cannot be read; the message names it.
    """
    from unet_kvasir_seg.onnx_export.verification import Sample

    samples = []
    for index in spread(range(len(rows)), most):
        row = rows[index]
        image, mask = decode_pair(row["image"], row["mask"], row["row"])
        try:
            ground_truth = binarize_mask(mask, arguments.foreground_values) == 1
        except ValueError as error:
            raise DatasetError(f"{cell_name(row['mask'], row['row'])}: {error}") from error
        samples.append(Sample(as_frame(image, processor), ground_truth))
    return samples


def read_frame(file: Path, processor: UNetImageProcessor) -> np.ndarray:
    """An image of a folder.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return as_frame(image_from_bytes(file.read_bytes()), processor)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} {error}. Replace or remove it.") from error


def as_frame(image: Any, processor: UNetImageProcessor) -> np.ndarray:
    """(H, W, 3) uint8 of any image that the image processor takes."""
    return np.ascontiguousarray(processor.upright(image).permute(1, 2, 0).numpy())


def write_graph(graph: Any, path: Path) -> None:
    """Write a graph, once ONNX's checker finds nothing wrong.

    Raises:
        UserError: If it does.
    """
    import onnx

    try:
        onnx.checker.check_model(graph, full_check=True)
    except onnx.checker.ValidationError as error:
        raise UserError(f"The exported graph is no valid ONNX: {error}") from error
    path.write_bytes(graph.SerializeToString())


def describe_environment() -> dict[str, str]:
    """Versions, without names of users and hosts."""
    import onnx
    import onnxruntime
    import onnxscript

    libraries = {"torch": torch, "onnx": onnx, "onnxscript": onnxscript, "onnxruntime": onnxruntime}
    versions = {name: str(library.__version__) for name, library in libraries.items()}
    return {"python": platform.python_version(), **versions}


def print_report(report: dict[str, Any]) -> None:
    """Say what the file is, and how well it agrees."""
    proof = report["proof"]
    print(f"{report['file']}: {report['bytes'] / 1e6:.2f} MB, {report['precision']}, opset {report['opset']}.")
    if "calibration" in report:
        print(f"Calibrated on {report['calibration']['images']} images.")
    if report["precision"] != "fp32":
        print(f"Left in float32, since their rounding costs the most: {', '.join(report['float_layers']) or 'none'}.")
    print(f"Against PyTorch in float32, on {proof['images']} images ({proof['data']}):")
    for title, key in (
        ("probability on the same pixel_values", "same_pixel_values"),
        ("probability end to end", "end_to_end"),
        ("Dice between the masks", "dice_between_masks"),
    ):
        what = "" if key == "dice_between_masks" else "difference, "
        print(f"  {title}: {what}mean {proof[key]['mean']:.3g}, worst {proof[key]['worst']:.3g}")
    print(f"  equal mask pixels: {100 * proof['equal_mask_pixels']:.4f} %")
    if proof["dice"]:
        dice = proof["dice"]
        print(
            f"  Dice against the ground truth: {dice['onnx']:.4f}, PyTorch {dice['pytorch']:.4f}; difference "
            f"{dice['mean_difference']:+.4f}, of the worst image {dice['worst_image']:+.4f}"
        )
    for size, entry in proof["sizes"].items():
        print(
            f"  a frame of {size}: probability, worst difference {entry['worst_probability']:.3g}; equal mask pixels "
            f"{100 * entry['equal_mask_pixels']:.4f} %"
        )


def results_to_push(arguments: ExportArguments, weights: str) -> dict[str, Any] | None:
    """`results.json` of the repo to upload to, else the one beside the model; None where neither is of these weights.

    Raises:
        UserError: If the repo holds another model, or the output folder other results.
    """
    repo = str(arguments.push_to_hub)
    of_repo = known_results(repo, None)
    if of_repo and of_repo["model"]["fingerprint"] != weights:
        raise UserError(
            f"{repo} holds the results of other weights, {of_repo['model']['name']}: push these weights first, or "
            "name another repo with --push_to_hub."
        )
    results = of_repo or known_results(arguments.model or str(TRAINED_MODEL), arguments.model_revision)
    if not results or results["model"]["fingerprint"] != weights:
        return None
    check_results_folder(Path(arguments.output_dir), results)
    results["model"]["repository"] = repo
    results["exports"] = exports_of(weights, results)
    if not of_repo:
        for section in filter(None, (results["training"], results["evaluation"])):
            section["figures"] = []  # the repo has none of these pictures
    return results


def push(arguments: ExportArguments, report: dict[str, Any]) -> str:
    """Upload the file, its numbers and the card that shows them in one commit; returns its URL."""
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
    transformers.utils.logging.disable_progress_bar()  # of loading weights, which takes no time
    with user_errors("export.py"):
        parser = FlagParser([ExportArguments], program="export.py", description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        report = export(arguments)
        print(f"Written: {Path(arguments.output_dir) / 'onnx' / report['file']}")
        if arguments.push_to_hub:
            print(f"Pushed: {push(arguments, report)}")


if __name__ == "__main__":
    main()
