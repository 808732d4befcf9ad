"""The files of an export: their names, checks before they are written, and the report beside each of them."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import UserError

FILE_NAMES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}  # as in the Hub's libraries


def check_output_folder(folder: Path, fingerprint: str) -> None:
    """Refuse a folder with the export of another model, or with a file of another program.

    Args:
        folder: Where to write; it need not exist.
        fingerprint: Fingerprint of the weights to export.

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
            metadata = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
        except Exception as error:  # protobuf's errors have no common base
            raise UserError(f"{file} is there and is no ONNX file of this command. {remedy}") from error
        if metadata.get("fingerprint") != fingerprint:
            raise UserError(f"{folder} holds the export of another model, {name}. {remedy}")


def write_graph(graph: Any, path: Path) -> None:
    """Write a graph (`onnx.ModelProto`) if ONNX's checker accepts it.

    Raises:
        UserError: If the checker refuses it.
        OSError: If the file cannot be written.
    """
    import onnx

    try:
        onnx.checker.check_model(graph, full_check=True)
    except onnx.checker.ValidationError as error:
        raise UserError(f"The exported graph is no valid ONNX: {error}") from error
    path.write_bytes(graph.SerializeToString())


def describe_environment() -> dict[str, str]:
    """Versions of Python and of the libraries, without names of users and hosts."""
    import onnx
    import onnxruntime
    import onnxscript
    import torch

    libraries = {"torch": torch, "onnx": onnx, "onnxscript": onnxscript, "onnxruntime": onnxruntime}
    versions = {name: str(library.__version__) for name, library in libraries.items()}
    return {"python": platform.python_version(), **versions}


def print_report(report: Mapping[str, Any]) -> None:
    """Print a file's size and how well it agrees with PyTorch.

    Args:
        report: The content of the JSON beside the file.
    """
    verification = report["proof"]
    print(f"{report['file']}: {report['bytes'] / 1e6:.2f} MB, {report['precision']}, opset {report['opset']}.")
    if "calibration" in report:
        print(f"Calibrated on {report['calibration']['images']} images.")
    if report["precision"] != "fp32":
        print(f"Left in float32, since their rounding costs the most: {', '.join(report['float_layers']) or 'none'}.")
    print(f"Against PyTorch in float32, on {verification['images']} images ({verification['data']}):")
    for title, key in (
        ("difference in probability on the same pixel_values", "same_pixel_values"),
        ("difference in probability end to end", "end_to_end"),
        ("Dice between the masks", "dice_between_masks"),
    ):
        print(f"  {title}: mean {verification[key]['mean']:.3g}, worst {verification[key]['worst']:.3g}")
    print(f"  equal mask pixels: {100 * verification['equal_mask_pixels']:.4f} %")
    if dice := verification["dice"]:
        print(
            f"  Dice against the ground truth: {dice['onnx']:.4f}, PyTorch {dice['pytorch']:.4f}; difference "
            f"{dice['mean_difference']:+.4f}, of the worst image {dice['worst_image']:+.4f}"
        )
    for size, entry in verification["sizes"].items():
        print(
            f"  a frame of {size}: worst difference in probability {entry['worst_probability']:.3g}; equal mask "
            f"pixels {100 * entry['equal_mask_pixels']:.4f} %"
        )
