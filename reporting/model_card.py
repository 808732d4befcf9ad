"""Fills the model card's template, and the README's table, from a run's results: no figure is typed by hand.

    python -m unet_kvasir_seg.reporting.model_card results.json README.md

puts the scores of `results.json` into the README, between the lines `<!-- results: begin -->` and
`<!-- results: end -->`.
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..common.errors import UserError, user_errors
from ..common.files import write_atomic
from ..common.paths import CARD_TEMPLATE
from .results import read_results

RESULTS_MARKERS = ("<!-- results: begin -->", "<!-- results: end -->")
NOT_MEASURED = "Not measured."

# Names of scores, without the size that they were taken at.
TITLES = {
    "dice_per_image": "Dice, mean per image",
    "iou_per_image": "IoU, mean per image",
    "dice_pooled": "Dice, pooled",
    "iou_pooled": "IoU, pooled",
    "dice_256_thresholds": "Dice, mean over 256 thresholds",
    "dice_256_thresholds_minmax": "Dice, mean over 256 thresholds, min-max (PraNet's)",
    "precision_per_image": "precision, mean per image",
    "recall_per_image": "recall, mean per image",
    "f2_per_image": "F2, mean per image",
    "accuracy_per_image": "accuracy, mean per image",
    "precision_pooled": "precision, pooled",
    "recall_pooled": "recall, pooled",
    "f2_pooled": "F2, pooled",
    "mae": "mean absolute error (lower is better)",
    "s_measure": "S-measure",
    "e_measure": "E-measure",
    "weighted_f": "weighted F",
    "hd95": "HD95 in pixels (lower is better)",
    "nsd": "normalised surface Dice",
    "ece": "calibration error (lower is better)",
    # The training's own validation names no size, and its precision and recall are pooled.
    "precision": "precision, pooled",
    "recall": "recall, pooled",
    "loss": "loss",
}
# What the Hub shows beside the card, and what the README does.
INDEXED = ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled")
COMPACT = (*INDEXED, "precision_per_image", "recall_per_image", "hd95", "ece")
STRATUM_SCORES = ("dice_per_image", "iou_per_image", "recall_per_image")
# Digits after the point; three for the others.
DIGITS = {"hd95": 1, "mae": 4, "ece": 4}
# What `--augmentation` of train.py names.
AUGMENTATIONS = {
    "card": "flips (p 0.5 each), rotation of up to 30 degrees, brightness and contrast 0.7 to 1.3",
    "strong": "flips, rotation, scale, shear and shift; brightness, contrast, saturation, gamma; blur and noise",
}
LOSS_NAMES = {
    "bce_dice": "binary cross-entropy plus per-image Dice",
    "structure": "weighted cross-entropy plus weighted IoU (PraNet; Fan et al., 2020, section 2.3)",
}
# Epochs whose training loss the card lists.
LOSSES = 8

# File name -> what a reader who cannot see the picture is told, and its caption.
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
    "loss_curve.png": (
        "Training loss by epoch",
        "Mean training loss by epoch; dashed, where it is the same loss: as the card states it that the default "
        "recipe follows.",
    ),
    "examples.png": (
        "Image, true mask, predicted mask and overlay of the best, median and worst cases",
        "The best, median and worst images by Dice, with true and predicted mask.",
    ),
    "audit.png": (
        "Pairs of frames from different splits that look alike",
        "Near-duplicate frames, side by side.",
    ),
}


def fill_card(results: dict[str, Any]) -> str:
    """The model card, with the Hub's metadata at its top.

    Args:
        results: What `results.json` holds. "training" and "evaluation" may be None or missing, "metrics" empty, and
            "exports" missing; the card then says so.

    Returns:
        Markdown; its metadata gives the same scores back when `huggingface_hub.ModelCard` parses it.

    Raises:
        ValueError: If the run is marked invalid.
    """
    _refuse_invalid(results)
    evaluation, training = results.get("evaluation"), results.get("training")
    card = ModelCard.from_template(
        card_data=_metadata(results),
        template_path=str(CARD_TEMPLATE),
        **results | {"evaluation": evaluation, "training": training},
        trained_on=_training_record(results, "data"),
        scored=_scored(results),
        network_size=_size(results["model"].get("image_size")),
        threshold=_threshold(evaluation),
        model_facts=_model_facts(results),
        training_facts=_training_facts(results) if training else "",
        cost_facts=_cost_facts(results),
        results_tables=results_tables(results),
        calibration_table=_calibration_table(results),
        exports_table=_exports_table(results),
        audit_text=_audit_text(results),
        losses=_losses(training) if training else "",
        pictures={name: _picture(name, evaluation or training) for name in PICTURES},
        score=_score,
        data_name=_data_name,
        percent=_percent,
        not_measured=NOT_MEASURED,
    )
    # Conditions of the template stand on lines of their own, which stay empty.
    return re.sub(r"\n{3,}", "\n\n", str(card))


def results_tables(results: dict[str, Any], compact: bool = False) -> str:
    """The scores as Markdown, each with its 95 % interval and the size that it was taken at.

    Args:
        results: What `results.json` holds.
        compact: The main scores and where the model fails, without headings, as fits a README.

    Returns:
        Where the run has no metrics, the validation scores of its training; where it has none either, "Not measured."

    Raises:
        ValueError: If the run is marked invalid.
    """
    _refuse_invalid(results)
    if not results["metrics"]:
        return _validation_table(results)
    evaluation = results["evaluation"]
    tuned_on = evaluation["threshold"]["tuned_on"]
    tuned = f"tuned on the {tuned_on} split" if tuned_on else "not tuned"
    flips = "; mean over the image and its flips" if evaluation["protocol"].get("test_time_augmentation") else ""
    name = f"`{results['model']['name']}` on " if compact else ""
    scored = _scored(results) if compact else _capitalised(_scored(results))
    opening = (
        f"{name}{scored}; threshold {_threshold(evaluation)} ({tuned}){flips}. In brackets: 95 % bootstrap intervals."
    )
    if compact:
        parts = [opening, _score_table(results, COMPACT), _strata_table(results), _lesion_table(results)]
    else:
        parts = [
            *(opening, _score_table(results), _threshold_table(results)),
            *("### By size and number of polyps", _strata_table(results)),
            *("### Polyps found and false alarms", _lesion_table(results)),
            *("### Against another model", _comparison_table(results)),
        ]
    return "\n\n".join(part for part in parts if part)


def update_readme(readme: Path, text: str, markers: tuple[str, str] = RESULTS_MARKERS) -> None:
    """Put `text` between a README's two markers, whole or not at all; the rest stays as it is, byte for byte.

    Raises:
        UserError: If the file cannot be read or written, or does not have both markers once, in order.
    """
    begin, end = markers
    readme = readme.resolve()
    try:
        content = readme.read_bytes()
        before, _, rest = content.partition(begin.encode())
        _, ended, after = rest.partition(end.encode())
        if not ended or any(content.count(mark.encode()) != 1 for mark in markers):
            raise UserError(
                f"{readme.name} must have the line {begin} once and, below it, the line {end} once. "
                "Put them where the table belongs."
            )
        write_atomic(readme, before + f"{begin}\n\n{text}\n\n{end}".encode() + after)
    except OSError as error:
        raise UserError(f"{readme.name} cannot be read or written: {error.strerror}.") from error


def _refuse_invalid(results: dict[str, Any]) -> None:
    if results.get("invalid"):
        raise UserError(
            f"These results are marked invalid: {results['invalid']} Mend that and measure again; no card or table "
            "is made of them."
        )


def _metadata(results: dict[str, Any]) -> ModelCardData:
    trained_on = _training_record(results, "data")
    scores = _eval_results(results)
    return ModelCardData(
        license="other",
        license_name="apache-2.0-code-with-weights-under-the-terms-of-their-data",
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["unet", "polyp-segmentation", "medical-imaging", "colonoscopy"],
        # The Hub lists a model under the data sets that it was trained on.
        datasets=[trained_on["name"]] if trained_on and trained_on["on_the_hub"] else None,
        metrics=["dice", "mean_iou"],
        model_name=results["model"]["name"] if scores else None,
        eval_results=scores or None,
    )


def _eval_results(results: dict[str, Any]) -> list[EvalResult]:
    metrics, data = results["metrics"], results["data"]
    if metrics:
        size = f"original size {results['evaluation']['native_size']}"
        split, suffix = data["split"], "_native"
        values = {name: metrics[f"{name}_native"]["value"] for name in INDEXED}
    elif results.get("training"):
        size = f"input size {_size(results['model']['image_size'])}"
        split, suffix = "validation", ""
        validation = results["training"]["validation"]
        values = {name: validation[name] for name in INDEXED if name in validation}
    else:
        return []
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=data["name"] if data["on_the_hub"] else "other",
            dataset_name=data["name"],
            dataset_split=split,
            dataset_revision=data["revision"],
            metric_type=name + suffix,
            metric_name=f"{TITLES[name]}, at {size}",
            metric_value=value,
        )
        for name, value in values.items()
    ]


def _training_record(results: dict[str, Any], key: str) -> dict[str, Any] | None:
    """Data or environment of the training: its own, or the run's while nothing else was run."""
    training = results.get("training")
    if not training:
        return None
    return training.get(key) or (None if results["metrics"] else results[key])


def _score_table(results: dict[str, Any], names: Sequence[str] | None = None) -> str:
    metrics, network = results["metrics"], _size(results["model"].get("image_size"))
    columns = {"native": f"original size {results['evaluation']['native_size']}"}
    if any(key.endswith("_network") for key in metrics):
        columns["network"] = f"input size {network}"
    present = dict.fromkeys(key.rsplit("_", maxsplit=1)[0] for key in metrics)
    return _table(
        ["score", *columns.values()],
        (
            [TITLES.get(name, name), *(_score(metrics.get(f"{name}_{size}"), name) for size in columns)]
            for name in present
            if names is None or name in names
        ),
    )


def _threshold_table(results: dict[str, Any]) -> str:
    """Scores at the tuned threshold and at 0.5; empty where it was not tuned."""
    evaluation = results["evaluation"]
    at_half = evaluation["threshold"]["at_half"]
    if not at_half:
        return ""
    return _table(
        [f"threshold, at original size {evaluation['native_size']}", *(_title(key) for key in at_half)],
        [
            [f"{_threshold(evaluation)} (tuned)", *(_score(results["metrics"][key]) for key in at_half)],
            ["0.5", *(_score(score) for score in at_half.values())],
        ],
    )


def _strata_table(results: dict[str, Any]) -> str:
    evaluation = results["evaluation"]
    small, large = (_percent(evaluation["protocol"][cut]) for cut in ("small_below", "large_from"))
    titles = {
        ("size", "small"): f"small: polyp on under {small} of the image",
        ("size", "medium"): f"medium: {small} to under {large}",
        ("size", "large"): f"large: {large} or more",
        ("polyps", "one"): "one polyp",
        ("polyps", "two"): "two polyps",
        ("polyps", "three or more"): "three or more polyps",
    }
    rows = []
    for (kind, name), title in titles.items():
        stratum = evaluation["strata"][kind][name]
        scores = (_score(stratum["metrics"].get(f"{score}_native")) for score in STRATUM_SCORES)
        rows.append([title, str(stratum["images"]), *scores])
    heading = f"images with polyp, at original size {evaluation['native_size']}"
    return _table([heading, "number", *(TITLES[score] for score in STRATUM_SCORES)], rows)


def _lesion_table(results: dict[str, Any]) -> str:
    evaluation = results["evaluation"]
    lesions, without = evaluation["lesions"], evaluation["without_polyp"]
    right = lesions["predicted"] - lesions["false"]
    rows = [
        ["polyps found", f"{lesions['found']} of {lesions['true']}", _score(lesions["sensitivity"])],
        ["marked regions that match a polyp", f"{right} of {lesions['predicted']}", _score(lesions["precision"])],
        ["marked regions that match none, per image", str(lesions["false"]), _score(lesions["false_per_image"])],
        [
            "images without polyp that get a false alarm",
            f"{without['false_alarms']} of {without['images']}",
            _score(without["share"]) if without["images"] else "not measured: there is no such image",
        ],
    ]
    if without["area_share"] is not None:
        rows.append(["share of the image that such an alarm covers, mean", "", _percent(without["area_share"])])
    heading = f"found: IoU of at least {evaluation['protocol']['lesion_iou']:g} with a marked region, at original size"
    return _table([heading, "number", "share or rate"], rows)


def _comparison_table(results: dict[str, Any]) -> str:
    comparison = results["evaluation"]["comparison"]
    if not comparison:
        return NOT_MEASURED
    native_size = results["evaluation"]["native_size"]
    header = [f"this model minus {comparison['with']}, at original size {native_size}", "difference", "p", "images"]
    rows = (
        [_title(key), _difference(score), f"{score['p_value']:.2g}", str(score["images"])]
        for key, score in comparison["metrics"].items()
    )
    return _table(header, rows) + (
        "\n\nThe same images for both. Intervals: paired bootstrap; p: two-sided permutation test that flips the "
        "signs of the differences."
    )


def _validation_table(results: dict[str, Any]) -> str:
    training = results.get("training")
    if not training:
        return NOT_MEASURED
    header = ["score on the validation split", f"input size {_size(results['model']['image_size'])}"]
    return _table(
        header, ([TITLES.get(name, name), _number(value, name)] for name, value in training["validation"].items())
    )


def _calibration_table(results: dict[str, Any]) -> str:
    """Empty where nothing was measured; bins that no pixel fell into are left out."""
    if not results["metrics"]:
        return ""
    bins = [chunk for chunk in results["evaluation"]["calibration"]["bins"] if chunk["pixels"]]
    return _table(
        ["predicted probability", "pixels", "mean prediction", "share that is polyp"],
        (
            [
                f"{chunk['low']:.3f} to {chunk['high']:.3f}",
                f"{chunk['pixels']:,}",
                _number(chunk["mean_probability"]),
                _number(chunk["polyp_share"]),
            ]
            for chunk in bins
        ),
    )


def _exports_table(results: dict[str, Any]) -> str:
    """A row an ONNX file, of what `export.py` measured; empty where nothing was exported."""
    exports = results.get("exports")
    if not exports:
        return ""
    header = ["file", "precision", "MB", "Dice minus PyTorch's: mean", "worst image", "equal mask pixels"]
    rows = []
    for report in exports.values():
        proof, layers = report["proof"], report["float_layers"]
        dice = proof["dice"]
        differences = [f"{dice[key]:+.4f}" for key in ("mean_difference", "worst_image")] if dice else ["-", "-"]
        rows.append(
            [
                *(f"`onnx/{report['file']}`", report["precision"], f"{report['bytes'] / 1e6:.2f}", *differences),
                f"{100 * proof['equal_mask_pixels']:.3f} %",
                "all" if report["precision"] == "fp32" else ", ".join(layers) or "none",
                f"{proof['images']} images: {proof['data']}",
            ]
        )
    return _table([*header, "layers in float32", "compared on"], rows)


def _model_facts(results: dict[str, Any]) -> str:
    model = results["model"]
    described = [
        *("name", "repository", "parameters", "image_size", "fingerprint"),
        *("depth", "channels", "norm", "upsampling", "dropout", "loss"),
    ]
    architecture = "not recorded"
    if model.get("channels"):  # masks from a folder come without a network
        architecture = (
            "U-Net (Ronneberger et al., 2015), depth {depth}, channels of the levels {levels}, norm {norm}, "
            "upsampling {upsampling}, dropout {dropout:g}"
        ).format(levels=", ".join(map(str, model["channels"])), **model)
    facts = {
        "architecture": architecture,
        "parameters": f"{model['parameters']:,}" if model.get("parameters") else "not recorded",
        "input size": f"{_size(model['image_size'])} (width x height)" if model.get("image_size") else "not recorded",
        "weights": f"`{model['fingerprint']}`" if model.get("fingerprint") else "not recorded",
    }
    return _rows([*facts.items(), *_further_settings(model, described)])


def _training_facts(results: dict[str, Any]) -> str:
    training = results["training"]
    best, steps = training["best_step"], training["steps"]
    facts = {
        "start": "a checkpoint (fine-tuning)" if training["fine_tuned"] else "random weights (He et al., 2015)",
        "loss": LOSS_NAMES[results["model"].get("loss", "bce_dice")],  # earlier versions had the one alone
        "optimiser": (
            f"AdamW, learning rate {training['learning_rate']:g}, {training['schedule']} schedule, "
            f"weight decay {training['weight_decay']:g}"
        ),
        "batch": str(training["batch_size"]),
        "epochs": f"{training['epochs']:g} ({steps:,} steps)",
        "seed": str(training["seed"]),
        "augmentation": AUGMENTATIONS.get(str(training.get("augmentation")), "not recorded"),
        "checkpoint": f"the best on the validation split: step {best} of {steps}" if best else "the last",
    }
    described = [
        *("data", "environment", "epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "seed"),
        *("fine_tuned", "seconds", "loss", "best_step", "steps", "validation", "augmentation", "figures"),
    ]
    return _rows([*facts.items(), *_further_settings(training, described)])


def _further_settings(section: dict[str, Any], described: Sequence[str]) -> list[tuple[str, str]]:
    """A row of what a section of the results holds besides what was described, so that no setting is kept back."""
    settings = [
        f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"
        for name, value in section.items()
        if name not in described and value not in (None, [])
    ]
    return [("further settings", ", ".join(settings))] if settings else []


def _cost_facts(results: dict[str, Any]) -> str:
    training, evaluation = results.get("training"), results.get("evaluation")
    took = f"; {_duration(training['seconds'])}" if training else ""
    facts = [("training", _environment(_training_record(results, "environment")) + took)]
    if evaluation and results["metrics"]:
        took = f"; {_duration(evaluation['seconds'])}, the model {_duration(evaluation['model_seconds'])} of them"
        facts.append(("evaluation", _environment(results["environment"]) + took))
    else:
        facts.append(("evaluation", "not measured"))
    return _rows([*facts, ("energy", "not measured")])


def _environment(environment: dict[str, Any] | None) -> str:
    """Device, processes and versions."""
    if not environment:
        return "not recorded"
    processes = f"{environment['processes']} process{'es' if environment['processes'] > 1 else ''}"
    versions = [f"{name} {environment[name.lower()]}" for name in ("Python", "torch", "transformers")]
    code = [f"unet-kvasir-seg {environment['code']}"] if environment.get("code") else []
    return "; ".join([environment["runtime"], processes, ", ".join([*versions, *code])])


def _audit_text(results: dict[str, Any]) -> str:
    """Counts only: names of frames may be names of patients."""
    evaluation = results.get("evaluation")
    if not evaluation or not evaluation["audit"]:
        return NOT_MEASURED
    audit = evaluation["audit"]
    method = f"by perceptual hash, at most {audit['max_distance']} bits apart"
    if not audit["pairs"]:
        return f"No frame of the scored split has a near-duplicate in another split ({method})."
    splits = Counter(f"{pair['first'][0]} and {pair['second'][0]}" for pair in audit["pairs"])
    counts = ", ".join(f"{number} between {pair}" for pair, number in splits.items())
    text = f"Pairs of near-duplicate frames in different splits ({method}): {counts}."
    if not audit["left_out"] or not audit["metrics"]:
        return text
    native_size = evaluation["native_size"]
    header = [
        f"at original size {native_size}",
        "all images",
        f"without the {audit['left_out']} that have a duplicate",
    ]
    rows = (
        [_title(key), _score(results["metrics"].get(key)), _score(score)] for key, score in audit["metrics"].items()
    )
    return f"{text}\n\n{_table(header, rows)}"


def _losses(training: dict[str, Any]) -> str:
    """Losses of up to `LOSSES` epochs, evenly spread, the first and the last among them."""
    losses = training["loss"]
    steps = min(len(losses), LOSSES) - 1
    chosen = [losses[round(step * (len(losses) - 1) / max(steps, 1))] for step in range(steps + 1)]
    return ", ".join(f"{_number(loss)} (epoch {epoch:g})" for epoch, loss in chosen)


def _picture(name: str, run: dict[str, Any] | None) -> str:
    """Markdown of a picture and its caption; empty where the evaluation, or else the training, has not drawn it."""
    if not run or name not in run.get("figures", []):
        return ""
    alt, caption = PICTURES[name]
    return f"![{alt}](figures/{name})\n\n*{caption}*"


def _scored(results: dict[str, Any]) -> str:
    """Which images the scores are of, and how large they are."""
    if not results["metrics"]:
        return ""
    data = results["data"]
    images = data["rows"].get(data["split"])
    which = f"the {data['split']} split of {data['name']}" if data["split"] else data["name"]
    return (
        f"{f'{images:,} images' if images else 'the images'} of {which}, {results['evaluation']['native_size']} pixels"
    )


def _data_name(data: dict[str, Any]) -> str:
    """Name, revision and rows: "team/polyps at revision 1a2b, 800 train and 100 validation rows"."""
    revision = f" at revision {data['revision']}" if data["revision"] else ""
    rows = [f"{'streamed' if number is None else f'{number:,}'} {split}" for split, number in data["rows"].items()]
    return f"{data['name']}{revision}" + (f"; rows: {', '.join(rows)}" if rows else "")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _rows([header, ["---"] * len(header), *rows])


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _threshold(evaluation: dict[str, Any] | None) -> str:
    """The threshold of the scores; the default where nothing was scored."""
    return f"{evaluation['threshold']['value']:.6g}" if evaluation else "0.5"


def _score(score: dict[str, Any] | None, name: str = "") -> str:
    """Value and 95 % interval: "0.712 [0.689, 0.735]"."""
    if not score:
        return "-"
    low, high = (_number(bound, name) for bound in score["ci95"])
    return f"{_number(score['value'], name)} [{low}, {high}]"


def _difference(score: dict[str, Any]) -> str:
    low, high = score["ci95"]
    return f"{score['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _number(value: float, name: str = "") -> str:
    return f"{value:.{DIGITS.get(name, 3)}f}" if math.isfinite(value) else "not finite"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _size(image_size: Sequence[int] | None) -> str:
    """Width x height of a (height, width), as the Hub and cameras state it."""
    return f"{image_size[1]}x{image_size[0]}" if image_size else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _title(key: str) -> str:
    return TITLES[key.removesuffix("_native")]


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def main(argv: list[str] | None = None) -> None:
    program = "python -m unet_kvasir_seg.reporting.model_card"
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", type=Path, help="results.json that evaluation.py or train.py wrote")
    parser.add_argument("readme", type=Path, help="Markdown file that has the two lines")
    arguments = parser.parse_args(argv)
    with user_errors(program):
        update_readme(arguments.readme, results_tables(read_results(arguments.results), compact=True))
        print(f"Put the scores of {arguments.results} into {arguments.readme}.")


if __name__ == "__main__":
    main()
