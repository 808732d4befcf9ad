"""The mean of the weights of several trainings as one network, which costs no more than one of them.

    python -m unet_kvasir_seg.training.averaging outputs/pretrained outputs/robust --output_dir outputs/mean

After Wortsman et al. (Model soups, 2022, https://arxiv.org/abs/2203.05482). It works for trainings that began with the
same weights: those of one seed and one recipe, with other data, augmentation or length, or fine-tunings of one
checkpoint. The mean of others finds nothing, and trainings of several seeds are refused for that. Score the mean with
evaluation.py before you use it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..common.errors import UserError, user_errors
from ..common.output_lock import output_lock
from ..image_processing_unet import UNetImageProcessor
from ..inference.checkpoint import describe_model, fingerprint, load_checkpoint
from ..modeling_unet import UNetForSemanticSegmentation
from ..reporting.model_card import fill_card
from ..reporting.results import Results, read_results, write_results
from .building import forget_choices
from .saving import check_saved, replacing_files

PROGRAM = "python -m unet_kvasir_seg.training.averaging"
# Of a training's description, what is no setting of it.
OUTCOME = {"data", "environment", "seconds", "loss", "validation_curve", "best_step", "steps", "validation", "figures"}


def average(folders: Sequence[Path], output: Path) -> None:
    """Write the mean of the weights of some trainings into a folder, as `train.py` writes a model.

    The description and the image processor are the first one's. What was chosen or measured for its weights alone,
    such as the peak threshold, the statistics of frames and the scores, is left out.

    Args:
        folders: Output folders of `train.py`, two or more, each of other weights.
        output: The folder to write.

    Raises:
        UserError: If they cannot be averaged, or the folder holds a model already.
        OSError: If a file cannot be written.
    """
    if len(folders) < 2:
        raise UserError("A mean needs two trainings or more, and got one.")
    results = [read_results(folder / "results.json") for folder in folders]
    loaded = [load_checkpoint(str(folder)) for folder in folders]
    _check_alike(folders, results, loaded)
    model, processor = loaded[0]
    model.load_state_dict(mean_of([one.state_dict() for one, _ in loaded]))
    forget_choices(processor)
    if (output / "config.json").exists():
        raise UserError(f"{output} holds a model already. Choose another --output_dir.")
    described = _describe(results, fingerprint(model), output.resolve().name)
    with output_lock(output, PROGRAM), replacing_files(output) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        write_results(unfinished / "results.json", described)
        (unfinished / "README.md").write_text(fill_card(described), encoding="utf-8")
    check_saved(output, fingerprint(model))


def mean_of(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of weights of the same names and shapes; counts, which are no weights, are the first one's."""
    return {
        name: (
            torch.stack([one[name].double() for one in weights]).mean(dim=0).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
        )
        for name, tensor in weights[0].items()
    }


def _check_alike(
    folders: Sequence[Path],
    results: Sequence[Results],
    loaded: Sequence[tuple[UNetForSemanticSegmentation, UNetImageProcessor]],
) -> None:
    """Check that some trainings can be averaged.

    Raises:
        UserError: If two are one network, their architectures or inputs differ, or they began with other weights.
    """
    seen: dict[str, Path] = {}
    for folder, (model, _) in zip(folders, loaded, strict=True):
        same = seen.setdefault(fingerprint(model), folder)
        if same is not folder:
            raise UserError(f"{same} and {folder} hold the same weights: leave one out.")
    kinds = [_kind(*one) for one in loaded]
    starts = [_start(result) for result in results]
    for folder, kind, start in zip(folders, kinds, starts, strict=True):
        if other := [name for name, value in kind.items() if value != kinds[0][name]]:
            raise UserError(f"{folders[0]} and {folder} cannot be averaged: they differ in {', '.join(other)}.")
        if start != starts[0]:
            raise UserError(
                f"{folders[0]} and {folder} cannot be averaged: they began with other weights ({starts[0]}; {start}), "
                "and the mean of such trainings finds nothing. Average trainings of one seed, or give both as --model "
                "to predict.py, which averages their predictions."
            )


def _kind(model: UNetForSemanticSegmentation, processor: UNetImageProcessor) -> dict[str, Any]:
    """What has to be the same: the architecture, and how an image becomes the input; the loss may differ."""
    settings = processor.to_dict()
    inputs = {name: settings.get(name) for name in ("do_rescale", "rescale_factor", "do_normalize")}
    inputs |= {name: settings.get(name) for name in ("image_mean", "image_std", "field_of_view")}
    return {**describe_model(model, processor, "", None), **inputs, "loss": None}


def _start(results: Results) -> str:
    """The weights that a training began with, in words; fine-tunings of local checkpoints are taken for alike.

    Raises:
        UserError: If the results are of no training.
    """
    training = results.get("training")
    if training is None:
        raise UserError(
            f"The results of {results['model']['name']} are of no training: give output folders of train.py."
        )
    if training["fine_tuned"]:
        return f"fine-tuned {training.get('base_model') or 'from a local checkpoint'}"
    return f"seed {training['seed']}"


def _describe(results: Sequence[Results], weights: str, name: str) -> Results:
    """The first training's results with what the others did otherwise, and without scores of any."""
    first = results[0]["training"]
    assert first is not None
    others = [
        {name: value for name, value in training.items() if name not in OUTCOME and value != first.get(name)}
        for training in (result["training"] for result in results[1:])
        if training is not None
    ]
    training = {**first, "averaged_with": others, "validation": {}, "validation_curve": [], "figures": []}
    model = {**results[0]["model"], "name": name, "repository": None, "fingerprint": weights}
    kept = {key: results[0][key] for key in ("schema_version", "data", "environment")}  # type: ignore[literal-required]
    return cast(Results, {**kept, "model": model, "training": training, "metrics": {}, "evaluation": None})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folders", nargs="+", type=Path, help="Output folders of train.py, two or more.")
    parser.add_argument("--output_dir", required=True, type=Path, help="Folder to write the mean into.")
    arguments = parser.parse_args(argv)
    with user_errors(PROGRAM, OSError, kept="Nothing is written."):
        average(arguments.folders, arguments.output_dir)
        print(f"{arguments.output_dir} holds the mean of {len(arguments.folders)} trainings. Score it: evaluation.py.")


if __name__ == "__main__":
    main()
