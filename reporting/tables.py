"""The tables of a run as Markdown, made from its results: no figure is typed by hand.

    python -m unet_kvasir_seg.reporting.tables results.json docs/results.md

puts the main scores of `results.json` into a Markdown file, between its lines `<!-- results: begin -->` and
`<!-- results: end -->`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ..common.errors import UserError, counted, user_errors
from ..common.files import write_atomic
from .known_data import shown_name
from .markdown import interval, number, percent, table, text_table, width_x_height
from .presence import peak_text, points_as_text, points_table, presence_table
from .results import Comparison, Data, Difference, Evaluation, Results, Stratum, read_results
from .robustness import robustness_as_text
from .uncertainty import uncertainty_as_text
from .videos import videos_as_text

RESULTS_MARKERS = ("<!-- results: begin -->", "<!-- results: end -->")
NOT_MEASURED = "Not measured."

# Titles of scores, whose names end in the size that they were taken at.
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
MAIN_SCORES = ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled")
COMPACT = (*MAIN_SCORES, "precision_per_image", "recall_per_image", "hd95", "ece")
STRATUM_SCORES = ("dice_per_image", "iou_per_image", "recall_per_image")


def results_tables(results: Results, compact: bool = False) -> str:
    """The scores, each with its 95 % interval and the size that it was taken at.

    Args:
        results: What `results.json` holds.
        compact: Only the main scores and where the model fails, without headings, as fits a document.

    Returns:
        If the run has no metrics, the validation scores of its training; without these either, "Not measured."

    Raises:
        UserError: If the run is marked invalid.
    """
    refuse_invalid(results)
    evaluation = results.get("evaluation")
    if evaluation is None or not results["metrics"]:
        return _validation_table(results)
    strata, lesions = table_of(_strata_rows(evaluation)), table_of(_lesion_rows(evaluation))
    if compact:
        opening = f"`{results['model']['name']}` on {scored_images(results)}; {_how_scored(results, evaluation)}"
        tables = [table_of(_score_rows(results, COMPACT)), strata, lesions, *negatives_tables(evaluation)]
        return "\n\n".join([opening, *tables])
    scored = scored_images(results)
    parts = [
        f"{scored[:1].upper()}{scored[1:]}; {_how_scored(results, evaluation)}",
        table_of(_score_rows(results)),
        table_of(_threshold_rows(results, evaluation)),
        f"### By size and number of polyps\n\n{strata}",
        f"### Polyps found and false alarms\n\n{lesions}",
        f"### Against another model\n\n{_comparison_table(results, evaluation)}",
    ]
    return "\n\n".join(part for part in parts if part)


def results_as_text(results: Results, other: str | None = None) -> str:
    """What an evaluation measured, for the terminal: the tables of the card, aligned.

    Args:
        results: Of an evaluation.
        other: What to call the model that it is compared with; by default its public name.
    """
    evaluation = results["evaluation"]
    assert evaluation is not None
    opening = f"{results['model']['name']} on {scored_images(results)}"
    parts = [[opening, *_how_scored(results, evaluation).split("; ")], text_table(_score_rows(results))]
    parts += [text_table(rows) for rows in (_threshold_rows(results, evaluation), _strata_rows(evaluation)) if rows]
    parts.append(text_table(_lesion_rows(evaluation)))
    if comparison := evaluation["comparison"]:
        parts.append(
            [f"Compared with {other or comparison['other']}:", *text_table(_comparison_rows(results, comparison))]
        )
    if evaluation["audit"]:
        parts.append(_near_duplicates_as_text(results, evaluation))
    further = (
        *(points_as_text(evaluation), uncertainty_as_text(evaluation), videos_as_text(evaluation)),
        robustness_as_text(evaluation),
    )
    parts += [lines for lines in further if lines]
    parts.append([f"{evaluation['seconds']} s, {evaluation['model_seconds']} s of them in the model."])
    return "\n\n".join("\n".join(lines) for lines in parts)


def _near_duplicates_as_text(results: Results, evaluation: Evaluation) -> list[str]:
    found = evaluation["audit"]
    assert found is not None
    if not found["pairs"]:
        return ["No scored image has a near-duplicate in another split."]
    rows = _near_duplicates_rows(results, evaluation)
    pairs = counted(len(found["pairs"]), "pair")
    return [f"{pairs} of near-duplicates with other splits:", *(text_table(rows) if rows else [])]


def update_document(document: Path, text: str, markers: tuple[str, str] = RESULTS_MARKERS) -> None:
    """Put `text` between two markers of a Markdown file, atomically; the rest stays as it is, byte for byte.

    Raises:
        UserError: If the file cannot be read or written, or does not have both markers once, in order.
    """
    begin, end = markers
    before, after = parts_around(document, markers)
    try:
        write_atomic(document.resolve(), before + f"{begin}\n\n{text}\n\n{end}".encode() + after)
    except OSError as error:
        raise UserError(f"{document.name} cannot be read or written: {error.strerror}.") from error


def parts_around(document: Path, markers: tuple[str, str]) -> tuple[bytes, bytes]:
    """What a Markdown file has before the first of two markers, and after the second.

    Raises:
        UserError: If the file cannot be read, or does not have both markers once, in order.
    """
    begin, end = markers
    try:
        content = document.read_bytes()
    except OSError as error:
        raise UserError(f"{document.name} cannot be read or written: {error.strerror}.") from error
    before, _, rest = content.partition(begin.encode())
    _, ended, after = rest.partition(end.encode())
    if not ended or any(content.count(mark.encode()) != 1 for mark in markers):
        raise UserError(
            f"{document.name} must have the line {begin} once and, below it, the line {end} once. "
            "Put them where the table belongs."
        )
    return before, after


def refuse_invalid(results: Results) -> None:
    """Refuse to present a run that is marked invalid.

    Raises:
        UserError: If it is; the message says why.
    """
    if results.get("invalid"):
        raise UserError(
            f"These results are marked invalid: {results['invalid']} Correct that and measure again; no card or "
            "table is made of them."
        )


def calibration_table(results: Results) -> str:
    """Bins of predicted probability that hold pixels; empty where nothing was measured."""
    evaluation = results.get("evaluation")
    if evaluation is None or not results["metrics"]:
        return ""
    return table(
        ["predicted probability", "pixels", "mean prediction", "share that is polyp"],
        (
            [
                f"{one['low']:.3f} to {one['high']:.3f}",
                f"{one['pixels']:,}",
                "-" if one["mean_probability"] is None else number(one["mean_probability"]),
                "-" if one["polyp_share"] is None else number(one["polyp_share"]),
            ]
            for one in evaluation["calibration"]["bins"]
            if one["pixels"]
        ),
    )


def exports_table(results: Results) -> str:
    """A row for each ONNX file, of what `export.py` measured; empty where nothing was exported."""
    rows = []
    for export in results.get("exports", {}).values():
        verified = export["proof"]
        dice = verified["dice"]
        rows.append(
            [
                f"`onnx/{export['file']}`",
                export["precision"],
                f"{export['bytes'] / 1e6:.2f}",
                f"{dice['mean_difference']:+.4f}" if dice else "-",
                f"{dice['worst_image']:+.4f}" if dice else "-",
                f"{100 * verified['equal_mask_pixels']:.3f} %",
                "all" if export["precision"] == "fp32" else ", ".join(export["float_layers"]) or "none",
                f"{verified['images']} images: {verified['data']}",
            ]
        )
    header = ["file", "precision", "MB", "Dice minus PyTorch's: mean", "worst image", "equal mask pixels"]
    return table([*header, "layers in float32", "compared on"], rows) if rows else ""


def near_duplicates_table(results: Results, evaluation: Evaluation) -> str:
    """The scores of all images beside those without near-duplicates; empty where there are none."""
    return table_of(_near_duplicates_rows(results, evaluation))


def _near_duplicates_rows(results: Results, evaluation: Evaluation) -> list[list[str]]:
    found = evaluation["audit"]
    if not found or not found["left_out"] or not found["metrics"]:
        return []
    left_out = f"without the {found['left_out']} that have a duplicate"
    return [
        [f"at original size {evaluation['native_size']}", "all images", left_out],
        *(
            [_title(key), interval(results["metrics"].get(key)), interval(without)]
            for key, without in found["metrics"].items()
        ),
    ]


def negatives_tables(evaluation: Evaluation) -> list[str]:
    """What a peak threshold finds and spares, and how well presence tells; empty where neither was measured."""
    if not (peak_text(evaluation.get("peak")) or evaluation.get("negatives")):
        return []
    return [part for part in (points_table(evaluation), presence_table(evaluation)) if part]


def _how_scored(results: Results, evaluation: Evaluation) -> str:
    tuned_on = evaluation["threshold"]["tuned_on"]
    tuned = f"tuned on the {tuned_on} split" if tuned_on else "not tuned"
    peak = peak_text(evaluation.get("peak"))
    more = f"; {peak}" if peak else ""
    groups = groups_text(results["data"])
    over = f" over {groups}" if groups else ""
    more += "; mean over the image and its flips" if evaluation["protocol"]["test_time_augmentation"] else ""
    return f"threshold {threshold_text(evaluation)} ({tuned}){more}. In brackets: 95 % bootstrap intervals{over}."


def groups_text(data: Data) -> str:
    """What was resampled where groups, as patients, are known: "12 groups of images"; else empty."""
    groups = (data.get("groups") or {}).get(data["split"] or "")
    if groups is None:
        return ""
    return f"{groups:,} groups of images" if groups > 1 else "a single group of images, so that they have no width"


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is its header; empty without rows."""
    return table(rows[0], rows[1:]) if rows else ""


def _score_rows(results: Results, names: Sequence[str] | None = None) -> list[list[str]]:
    """All scores, or those of some names, a column for each size."""
    metrics, evaluation = results["metrics"], results["evaluation"]
    assert evaluation is not None
    columns = {"native": f"original size {evaluation['native_size']}"}
    if any(key.endswith("_network") for key in metrics):
        columns["network"] = f"input size {width_x_height(results['model'].get('image_size'))}"
    present = dict.fromkeys(key.rsplit("_", maxsplit=1)[0] for key in metrics)
    return [
        ["score", *columns.values()],
        *(
            [TITLES.get(name, name), *(interval(metrics.get(f"{name}_{size}"), name) for size in columns)]
            for name in present
            if names is None or name in names
        ),
    ]


def _threshold_rows(results: Results, evaluation: Evaluation) -> list[list[str]]:
    """Scores at the tuned threshold and at 0.5; empty where it was not tuned."""
    at_half = evaluation["threshold"]["at_half"]
    if not at_half:
        return []
    half = "0.5, every region counts" if peak_text(evaluation.get("peak")) else "0.5"
    return [
        [f"threshold, at original size {evaluation['native_size']}", *(_title(key) for key in at_half)],
        [f"{threshold_text(evaluation)} (tuned)", *(interval(results["metrics"][key]) for key in at_half)],
        [half, *(interval(score) for score in at_half.values())],
    ]


def _strata_rows(evaluation: Evaluation) -> list[list[str]]:
    small = percent(evaluation["protocol"]["small_below"])
    large = percent(evaluation["protocol"]["large_from"])
    titles = {
        ("size", "small"): f"small: polyp on under {small} of the image",
        ("size", "medium"): f"medium: {small} to under {large}",
        ("size", "large"): f"large: {large} or more",
        ("polyps", "one"): "one polyp",
        ("polyps", "two"): "two polyps",
        ("polyps", "three or more"): "three or more polyps",
    }
    heading = f"images with polyp, at original size {evaluation['native_size']}"
    rows = [[heading, "number", *(TITLES[score] for score in STRATUM_SCORES)]]
    strata = cast(dict[str, dict[str, Stratum]], evaluation["strata"])
    for (kind, name), title in titles.items():
        stratum = strata[kind][name]
        scores = (interval(stratum["metrics"].get(f"{score}_native")) for score in STRATUM_SCORES)
        rows.append([title, str(stratum["images"]), *scores])
    return rows


def _lesion_rows(evaluation: Evaluation) -> list[list[str]]:
    lesions, without = evaluation["lesions"], evaluation["without_polyp"]
    right = lesions["predicted"] - lesions["false"]
    heading = f"found: IoU of at least {evaluation['protocol']['lesion_iou']:g} with a marked region, at original size"
    rows = [
        [heading, "number", "share or rate"],
        ["polyps found", f"{lesions['found']} of {lesions['true']}", interval(lesions["sensitivity"])],
        ["marked regions that match a polyp", f"{right} of {lesions['predicted']}", interval(lesions["precision"])],
        ["marked regions that match none, per image", str(lesions["false"]), interval(lesions["false_per_image"])],
        [
            "images without polyp that get a false alarm",
            f"{without['false_alarms']} of {without['images']}",
            interval(without["share"]) if without["images"] else "not measured: there is no such image",
        ],
    ]
    if without["area_share"] is not None:
        rows.append(["share of the image that such an alarm covers, mean", "", percent(without["area_share"])])
    return rows


def _comparison_table(results: Results, evaluation: Evaluation) -> str:
    comparison = evaluation["comparison"]
    if not comparison:
        return NOT_MEASURED
    header, *rows = _comparison_rows(results, comparison)
    header[0] = f"compared with {comparison['other']}, at original size {evaluation['native_size']}"
    return table(header, rows) + (
        "\n\nThe same images for both. Intervals: paired bootstrap; p: two-sided permutation test that flips the "
        "signs of the differences."
    )


def _comparison_rows(results: Results, comparison: Comparison) -> list[list[str]]:
    """A row for each score, of both models; results of earlier versions do not have the other one's."""
    others = comparison.get("scores", {})
    return [
        ["at original size", "this model", "the other", "this minus the other", "p", "images"],
        *(
            [
                *(_title(key), interval(results["metrics"].get(key)), interval(others.get(key))),
                *(_difference(score), f"{score['p_value']:.2g}", str(score["images"])),
            ]
            for key, score in comparison["metrics"].items()
        ),
    ]


def _validation_table(results: Results) -> str:
    training = results.get("training")
    if not training:
        return NOT_MEASURED
    return table(
        ["score on the validation split", f"input size {width_x_height(results['model']['image_size'])}"],
        ([TITLES.get(name, name), number(value, name)] for name, value in training["validation"].items()),
    )


def scored_images(results: Results) -> str:
    """Which images the scores are of, and how large they are; empty where nothing was scored."""
    evaluation = results.get("evaluation")
    if evaluation is None or not results["metrics"]:
        return ""
    data = results["data"]
    count = data["rows"].get(data["split"] or "")
    which = f"the {data['split']} split of {shown_name(data)}" if data["split"] else shown_name(data)
    return f"{counted(count, 'image') if count else 'the images'} of {which}, {evaluation['native_size']} pixels"


def data_name(data: Data) -> str:
    """Name, revision and rows: "team/polyps at revision 1a2b; rows: 800 train, 100 validation"."""
    revision = f" at revision {data['revision']}" if data["revision"] else ""
    rows = [f"{'streamed' if count is None else f'{count:,}'} {split}" for split, count in data["rows"].items()]
    return f"{shown_name(data)}{revision}" + (f"; rows: {', '.join(rows)}" if rows else "")


def threshold_text(evaluation: Evaluation | None) -> str:
    """The threshold of the scores; the default where nothing was scored."""
    return f"{evaluation['threshold']['value']:.6g}" if evaluation else "0.5"


def _difference(score: Difference) -> str:
    low, high = score["ci95"]
    return f"{score['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _title(key: str) -> str:
    return TITLES[key.removesuffix("_native")]


def main(argv: list[str] | None = None) -> None:
    program = "python -m unet_kvasir_seg.reporting.tables"
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", type=Path, help="results.json that evaluation.py or train.py wrote")
    parser.add_argument("document", type=Path, help="Markdown file that has the two lines")
    arguments = parser.parse_args(argv)
    with user_errors(program, OSError, kept="The document is as it was."):
        update_document(arguments.document, results_tables(read_results(arguments.results), compact=True))
        print(f"Put the scores of {arguments.results} into {arguments.document}.")


if __name__ == "__main__":
    main()
