"""Opens the models of `predict.py`. An ONNX file needs neither torch nor transformers, and imports neither."""

from collections.abc import Sequence

from ..common.imports import quick_imports
from .ensemble import load_ensemble
from .prediction import BasePredictor


def is_onnx_file(model: str) -> bool:
    """Whether a model is a file of `export.py`."""
    return model.endswith(".onnx")


def computes_on_cpu(models: Sequence[str], device: str, dtype: str, compile: bool) -> bool:
    """Whether several processes share their work as on a CPU.

    Args:
        models, device, dtype, compile: As for `open_predictor`.

    Raises:
        UserError: If this machine lacks the device or dtype.
    """
    if all(map(is_onnx_file, models)):
        return True  # ONNX Runtime chooses its device itself
    with quick_imports():
        from ..common.device import choose_runtime

    return choose_runtime(device, dtype, compile).device.type == "cpu"


def open_predictor(
    models: Sequence[str], revision: str | None, device: str, dtype: str, compile: bool
) -> BasePredictor:
    """Load a model, with ONNX Runtime or with PyTorch; of several an `Ensemble`.

    Args:
        models: Folders, ids on the Hub, or ONNX files.
        revision: Branch, tag or commit on the Hub.
        device, dtype, compile: As for `choose_runtime`.

    Raises:
        UserError: If one cannot be loaded, this machine lacks the device or dtype, or they cannot be averaged.
    """
    return load_ensemble(models, revision, lambda one, of_one: _open_one(one, of_one, device, dtype, compile))


def _open_one(model: str, revision: str | None, device: str, dtype: str, compile: bool) -> BasePredictor:
    if is_onnx_file(model):
        from .onnx_session import OnnxPredictor

        return OnnxPredictor.load(model, device, revision)
    with quick_imports():
        from transformers.utils import logging

        from .predictor import load_predictor

    logging.disable_progress_bar()  # loading weights takes no time
    return load_predictor(model, revision, device, dtype, compile)
