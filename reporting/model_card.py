"""Fills the template of the model card, `model_card.md` in the root, from a run's results."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..common.errors import counted
from ..common.paths import CARD_TEMPLATE
from ..encoder_unet import LITE_SCALES
from ..losses_unet import LOSSES
from .known_data import shown_name
from .markdown import interval, number, percent, table_rows, width_x_height
from .presence import (
    froc_table,
    negatives_text,
    peak_argument,
    peak_text,
    points_table,
    presence_table,
)
from .results import Data, Environment, Evaluation, Results, Training
from .robustness import alarms_table, levels_table, robustness_table
from .tables import (
    MAIN_SCORES,
    NOT_MEASURED,
    TITLES,
    calibration_table,
    data_name,
    exports_table,
    groups_text,
    near_duplicates_table,
    refuse_invalid,
    results_tables,
    scored_images,
    threshold_text,
)
from .test_sets import test_sets_facts, test_sets_table
from .uncertainty import uncertainty_table
from .videos import videos_table

# What the values of train.py's `--augmentation` mean.
AUGMENTATIONS = {
    "card": "flips (p 0.5 each), rotation of up to 30 degrees, brightness and contrast 0.7 to 1.3",
    "none": "none",
    "strong": "flips, rotation, scale, shear and shift; brightness, contrast, saturation, gamma; blur and noise",
    "strong_colour": (
        "flips, rotation, scale, shear and shift; wide ranges of brightness, contrast, saturation, colour and gamma; "
        "grey images, lower resolution, noise and JPEG"
    ),
    "robust": (
        "flips, rotation, scale, shear and shift; wide ranges of brightness, contrast, saturation, colour and gamma; "
        "grey images, lower resolution, noise and JPEG; in some blur, motion, strong noise or JPEG, or interlacing"
    ),
}
EPOCHS_LISTED = 8  # whose training loss the card states

# File name -> alternative text and caption.
PICTURES = {
    "dice_histogram.png": ("Histogram of Dice per image", "How many images reach which Dice."),
    "dice_by_size.png": (
        "Dice per image against the size of the polyp",
        "Dice of each image against the share of the image that is polyp.",
    ),
    "threshold_curve.png": (
        "Mean Dice against the threshold",
        "Mean Dice per image by threshold: the flatter, the less the choice of it matters.",
    ),
    "reliability.png": (
        "Share of polyp pixels against the predicted probability",
        "Reliability: on the diagonal, the predicted probability is the share of pixels that are polyp.",
    ),
    "robustness.png": (
        "Mean Dice by the strength of ten kinds of change",
        "Mean Dice and, if measured, the share of images without polyp that are marked, by strength of each change. "
        "Bands: 95 % intervals.",
    ),
    "loss_curve.png": (
        "Training loss by epoch",
        "Mean training loss by epoch and, where it was measured, loss and Dice of the validation split. The dashed "
        "line, drawn if the loss is the same, is what the model card of the default recipe states.",
    ),
    "examples.png": (
        "Image, ground truth, prediction and overlay of the best, median and worst cases",
        "The best, median and worst images by Dice, with ground truth and prediction.",
    ),
    "audit.png": (
        "Pairs of frames from different splits that look alike",
        "Near-duplicate frames, side by side.",
    ),
}


def fill_card(results: Results, pictures: Sequence[str] | None = None) -> str:
    """The model card, with the Hub's metadata at its top.

    Args:
        results: What `results.json` holds. "training" and "evaluation" may be None, "metrics" empty, and "exports"
            missing; the card then says so.
        pictures: File names of those to show; None: those that the results name, which may be published.

    Returns:
        Markdown. `huggingface_hub.ModelCard` reads the same scores from its metadata.

    Raises:
        UserError: If the run is marked invalid.
    """
    refuse_invalid(results)
    evaluation, training = results.get("evaluation"), results.get("training")
    if pictures is None:
        pictures = evaluation["figures"] if evaluation else training.get("figures", []) if training else []
    sections: dict[str, Any] = {**results, "evaluation": evaluation, "training": training}
    card = ModelCard.from_template(
        card_data=_metadata(results),
        template_path=str(CARD_TEMPLATE),
        **sections,
        trained_on=_training_data(results),
        scored=scored_images(results),
        network_size=width_x_height(results["model"].get("image_size")),
        threshold=threshold_text(evaluation),
        groups=groups_text(results["data"]),
        **_of_peak(evaluation),
        videos_table=videos_table(evaluation) if evaluation else "",
        sets_table=test_sets_table(results),
        sets_facts=test_sets_facts(results),
        robustness_table=robustness_table(evaluation) if evaluation else "",
        robustness_alarms=alarms_table(evaluation) if evaluation else "",
        robustness_levels=levels_table(evaluation) if evaluation else "",
        uncertainty_table=uncertainty_table(evaluation) if evaluation else "",
        model_facts=_model_facts(results),
        training_facts=_training_facts(results, training) if training else "",
        cost_facts=_cost_facts(results),
        results_tables=results_tables(results),
        calibration_table=calibration_table(results),
        exports_table=exports_table(results),
        audit_text=_near_duplicates_text(results),
        losses=_losses(training) if training else "",
        pictures={name: _picture(name) if name in pictures else "" for name in PICTURES},
        score=interval,
        data_name=data_name,
        percent=percent,
        not_measured=NOT_MEASURED,
    )
    # The template's conditions leave empty lines behind.
    return re.sub(r"\n{3,}", "\n\n", str(card))


def _of_peak(evaluation: Evaluation | None) -> dict[str, str]:
    """What the card says of the peak threshold and of images without polyp; empty where nothing was measured."""
    peak = evaluation.get("peak") if evaluation else None
    measured = evaluation is not None and (peak_text(peak) or evaluation.get("negatives"))
    return {
        "peak": peak_text(peak),
        "peak_argument": peak_argument(peak),
        "negatives": negatives_text(evaluation) if evaluation else "",
        "points_table": points_table(evaluation) if evaluation and measured else "",
        "presence_table": presence_table(evaluation) if evaluation else "",
        "froc_table": froc_table(evaluation) if evaluation else "",
    }


def _metadata(results: Results) -> ModelCardData:
    trained_on = _training_data(results)
    scores = _eval_results(results)
    return ModelCardData(
        license="other",
        license_name="apache-2.0-code-with-weights-under-the-terms-of-their-data",
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["unet", "polyp-segmentation", "medical-imaging", "colonoscopy"],
        # The Hub lists a model under the data sets that it was trained on.
        datasets=[trained_on["name"]] if trained_on and trained_on["on_the_hub"] else None,
        base_model=_base_model(results),
        metrics=["dice", "mean_iou"],
        model_name=results["model"]["name"] if scores else None,
        eval_results=scores or None,
    )


def _base_model(results: Results) -> str | None:
    """The id on the Hub of the fine-tuned checkpoint, unless the model itself is pushed there."""
    training = results.get("training")
    base_model = training.get("base_model") if training else None
    return None if base_model == results["model"]["repository"] else base_model


def _eval_results(results: Results) -> list[EvalResult]:
    """The scores that the Hub shows: of the evaluation, or else of the training's validation."""
    metrics, data, evaluation = results["metrics"], results["data"], results.get("evaluation")
    training = results.get("training")
    if metrics and evaluation:
        size = f"original size {evaluation['native_size']}"
        split, suffix = data["split"], "_native"
        values = {name: metrics[f"{name}_native"]["value"] for name in MAIN_SCORES if f"{name}_native" in metrics}
    elif training:
        size = f"input size {width_x_height(results['model']['image_size'])}"
        split, suffix = "validation", ""
        values = {name: training["validation"][name] for name in MAIN_SCORES if name in training["validation"]}
    else:
        return []
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=data["name"] if data["on_the_hub"] else "other",
            dataset_name=shown_name(data),
            dataset_split=split,
            dataset_revision=data["revision"],
            metric_type=name + suffix,
            metric_name=f"{TITLES[name]}, at {size}",
            metric_value=value,
        )
        for name, value in values.items()
    ]


def _training_data(results: Results) -> Data | None:
    """The data of the training. Older files have it at the top level only, where an evaluation overwrites it."""
    training = results.get("training")
    if not training:
        return None
    is_of_training = not (results["metrics"] or results.get("test_sets"))
    return training.get("data") or (results["data"] if is_of_training else None)


def _training_environment(results: Results) -> Environment | None:
    """The environment of the training. Older files have it at the top level only, as the data."""
    training = results.get("training")
    if not training:
        return None
    is_of_training = not (results["metrics"] or results.get("test_sets"))
    return training.get("environment") or (results["environment"] if is_of_training else None)


def _model_facts(results: Results) -> str:
    model: Mapping[str, Any] = results["model"]
    described = ["name", "repository", "parameters", "image_size", "fingerprint", "members"]
    described += ["depth", "channels", "encoder", "norm", "upsampling", "dropout", "loss"]
    architecture = "not recorded"  # as of masks from a folder
    if model.get("members"):
        architecture = f"the mean of {len(model['members'])} networks' probabilities; input size of the first"
    elif model.get("encoder"):
        architecture = (
            f"U-Net (Ronneberger et al., 2015) with the encoder {model['encoder']}, "
            f"decoder norm {model['norm']}, upsampling {model['upsampling']}, dropout {model['dropout']:g}"
        )
        if model["encoder"] not in LITE_SCALES:
            architecture += "; the encoder is timm's: `pip install timm` to load it"
    elif model.get("channels"):
        levels = ", ".join(map(str, model["channels"]))
        architecture = (
            f"U-Net (Ronneberger et al., 2015), depth {model['depth']}, channels of the levels {levels}, "
            f"norm {model['norm']}, upsampling {model['upsampling']}, dropout {model['dropout']:g}"
        )
    size = width_x_height(model.get("image_size"))
    facts = {
        "architecture": architecture,
        "parameters": f"{model['parameters']:,}" if model.get("parameters") else "not recorded",
        "input size": f"{size} (width x height)" if size else "not recorded",
        "weights": f"`{model['fingerprint']}`" if model.get("fingerprint") else "not recorded",
    }
    return table_rows([*facts.items(), *_further_settings(model, described)])


def _training_facts(results: Results, training: Training) -> str:
    best, steps = training["best_step"], training["steps"]
    model: Mapping[str, Any] = results["model"]
    facts = {
        "start": _start_of(training),
        "loss": LOSSES[model["loss"]].long_name,
        "optimiser": (
            f"AdamW, learning rate {training['learning_rate']:g}, {training['schedule']} schedule, "
            f"weight decay {training['weight_decay']:g}"
        ),
        "batch": str(training["batch_size"]),
        "epochs": f"{training['epochs']:g} ({steps:,} steps)",
        "seed": str(training["seed"]),
        "augmentation": AUGMENTATIONS.get(str(training.get("augmentation")), "not recorded"),
        "without polyp": _negatives_of(training),
        "checkpoint": f"the best on the validation split: step {best} of {steps}" if best else "the last",
    }
    described = ["data", "environment", "epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "seed"]
    described += ["fine_tuned", "seconds", "loss", "best_step", "steps", "validation", "augmentation", "figures"]
    described += ["negative_window_share", "negatives", "encoder_weights", "base_model", "validation_curve"]
    described += ["averaged_with"]
    if others := training.get("averaged_with"):
        facts["weights"] = (
            f"the mean of those of this training and of {counted(len(others), 'other')}: {_settings_of(others)}"
        )
    return table_rows([*facts.items(), *_further_settings(training, described)])


def _settings_of(trainings: Sequence[Mapping[str, Any]]) -> str:
    """What each of some trainings did otherwise than the one that is described."""
    shown = (", ".join(_setting(name, value) for name, value in one.items()) for one in trainings)
    return "; ".join(one or "the same settings" for one in shown)


def _start_of(training: Training) -> str:
    if base_model := training.get("base_model"):
        return f"the checkpoint [{base_model}](https://huggingface.co/{base_model}) (fine-tuning)"
    if training["fine_tuned"]:
        return "a checkpoint (fine-tuning)"
    weights = training.get("encoder_weights")
    if weights in (None, "none"):
        return "random weights (He et al., 2015)"
    source = "ImageNet's, from timm" if weights == "imagenet" else f"those of {weights}"
    return f"the encoder's weights {source}; the decoder's random (He et al., 2015)"


def _negatives_of(training: Training) -> str:
    """What showed the network how it looks where there is no polyp."""
    facts = []
    if share := training.get("negative_window_share"):
        facts.append(f"{percent(share)} of the examples are windows of their frames in which no polyp is labelled")
    if count := training.get("negatives"):
        facts.append(f"{counted(count, 'frame')} without polyp")
    return "; ".join(facts) or "nothing but the frames of the data that show none, if any"


def _further_settings(section: Mapping[str, Any], described: Sequence[str]) -> list[tuple[str, str]]:
    """One row with all settings of a section that no other row describes, so that the card omits none."""
    settings = [
        _setting(name, value) for name, value in section.items() if name not in described and value not in (None, [])
    ]
    return [("further settings", ", ".join(settings))] if settings else []


def _setting(name: str, value: Any) -> str:
    return f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"


def _cost_facts(results: Results) -> str:
    training, evaluation = results.get("training"), results.get("evaluation")
    took = f"; {_duration(training['seconds'])}" if training else ""
    facts = [("training", _environment(_training_environment(results)) + took)]
    if evaluation and results["metrics"]:
        took = f"; {_duration(evaluation['seconds'])}, the model {_duration(evaluation['model_seconds'])} of them"
        facts.append(("evaluation", _environment(results["environment"]) + took))
    else:
        facts.append(("evaluation", "not measured"))
    return table_rows([*facts, ("energy", "not measured")])


def _environment(environment: Environment | None) -> str:
    """Device, processes and versions."""
    if not environment:
        return "not recorded"
    processes = f"{environment['processes']} process{'es' if environment['processes'] > 1 else ''}"
    versions = [f"Python {environment['python']}", f"torch {environment['torch']}"]
    versions.append(f"transformers {environment['transformers']}")
    if environment.get("code"):
        versions.append(f"unet-kvasir-seg {environment['code']}")
    return "; ".join([environment["runtime"], processes, ", ".join(versions)])


def _near_duplicates_text(results: Results) -> str:
    """How many pairs there are, and the scores without them."""
    evaluation = results.get("evaluation")
    if not evaluation or not evaluation["audit"]:
        return NOT_MEASURED
    found = evaluation["audit"]
    method = f"by perceptual hash, at most {found['max_distance']} bits apart"
    if not found["pairs"]:
        return f"No frame of the scored split has a near-duplicate in another split ({method})."
    splits = Counter(" and ".join(pair["splits"]) for pair in found["pairs"])
    counts = ", ".join(f"{count} between {pair}" for pair, count in splits.items())
    text = f"Pairs of near-duplicate frames in different splits ({method}): {counts}."
    table = near_duplicates_table(results, evaluation)
    return f"{text}\n\n{table}" if table else text


def _losses(training: Training) -> str:
    """Losses of up to `EPOCHS_LISTED` epochs, evenly spread, the first and the last among them."""
    losses = training["loss"]
    steps = min(len(losses), EPOCHS_LISTED) - 1
    chosen = [losses[round(step * (len(losses) - 1) / max(steps, 1))] for step in range(steps + 1)]
    return ", ".join(f"{number(loss)} (epoch {epoch:g})" for epoch, loss in chosen)


def _picture(name: str) -> str:
    """Markdown of a picture and its caption."""
    alt, caption = PICTURES[name]
    return f"![{alt}](figures/{name})\n\n*{caption}*"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
