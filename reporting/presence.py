"""Tables and text on peak thresholds and images without polyp, for the card, documents and the terminal."""

from collections.abc import Sequence

from .markdown import interval, percent, table, text_table
from .results import Evaluation, OperatingPoint, Peak, Score

ON_OTHER_HALF = "chosen on the other half of the split"


def peak_text(peak: Peak | None) -> str:
    """From which peak on a region counts, and who says so; empty if every region counts.

    "peak threshold 0.99 (the model's own)", "peak thresholds 0.981 and 0.987 (chosen on the other half of the split)".
    """
    if peak is None or not peak["values"]:
        return ""
    tuning = peak["tuning"]
    origin = {"model": "the model's own", "flag": "given for this run"}.get(peak["source"], "")
    if peak["chosen_on_split"]:
        origin += ", chosen on this very split"
    if tuning:
        origin = ON_OTHER_HALF if len(peak["values"]) == 2 else f"chosen on the {tuning['split']} split"
    return f"{_peaks(peak['values'])} ({origin})"


def peak_argument(peak: Peak | None) -> str:
    """What a call must be given to get the scored masks: ", peak_threshold=0.99"; empty if the model has it itself."""
    if peak is None or not peak["values"] or peak["source"] == "model":
        return ""
    tuning = peak["tuning"]
    return f", peak_threshold={tuning['value'] if tuning else peak['values'][0]:.6g}"


def negatives_text(evaluation: Evaluation) -> str:
    """What the images without polyp are: "500 windows without polyp of 88 frames of the validation split"."""
    negatives = evaluation.get("negatives")
    if not negatives:
        return ""
    if negatives["kind"] == "windows":
        frames = f"{negatives['frames']:,} frames of the {negatives['name']} split"
        return f"{negatives['images']:,} windows without polyp of {frames}"
    source = negatives["name"] or "the scored split"
    return f"{negatives['images']:,} frames without polyp of {source}"


def points_table(evaluation: Evaluation) -> str:
    """What is found and falsely marked at the threshold alone and with the peak threshold; empty if not measured."""
    points = evaluation.get("operating_points")
    if not points:
        return ""
    threshold, origin = evaluation["threshold"]["value"], peak_text(evaluation.get("peak"))
    titles = [f"threshold {threshold:.6g} alone", *([origin] if len(points) > 1 else [])]
    rows = ([title, *cells] for title, *cells in _rows(points))
    return table(["at original size", *titles], rows)


def presence_table(evaluation: Evaluation) -> str:
    """How well frames with polyp are told from images without, whatever the peak threshold; empty if not measured."""
    negatives = evaluation.get("negatives")
    if not negatives:
        return ""
    rows = [["area under the ROC curve of presence", interval(negatives["presence_auc"])]]
    for point in negatives["at_specificity"]:
        share = percent(point["specificity"])
        title = f"sensitivity at a specificity of {share} (regions above {point['peak_above']:.6g} count)"
        rows.append([title, interval(point["sensitivity"])])
    return table(
        [f"{negatives['with_polyp']:,} frames with polyp against {negatives_text(evaluation)}", "value"], rows
    )


def froc_table(evaluation: Evaluation) -> str:
    """Polyps found against false regions an image, a row for each peak threshold; empty if not measured."""
    negatives = evaluation.get("negatives")
    if not negatives:
        return ""
    rows = [
        [
            "none" if point["peak_threshold"] is None else f"{point['peak_threshold']:g}",
            interval(point["found_share"]),
            interval(point["false_per_image"]),
        ]
        for point in negatives["froc"]
    ]
    return table(["peak threshold", "share of polyps found", "false regions per image"], rows)


def points_as_text(evaluation: Evaluation) -> list[str]:
    """Lines for the terminal: the operating points, those that a peak was chosen by, and the measures of presence."""
    peak, points = evaluation.get("peak"), evaluation.get("operating_points")
    if not peak or not points or not (peak["values"] or evaluation.get("negatives")):
        return []
    alarms_on = negatives_text(evaluation)
    lines = [f"Polyps found, and alarms on {alarms_on}:" if alarms_on else "Polyps found:"]
    lines += _text_table(points)
    if negatives := evaluation.get("negatives"):
        rows = [["area under the ROC curve of presence", interval(negatives["presence_auc"])]]
        for one in negatives["at_specificity"]:
            title = f"sensitivity at {percent(one['specificity'])} specificity"
            rows.append([title, f"{interval(one['sensitivity'])}  (regions above {one['peak_above']:.6g} count)"])
        lines += text_table(rows)
    if tuning := peak["tuning"]:
        kept = f"{percent(tuning['sensitivity'])} of the polyps that the threshold alone finds"
        lines.append(
            f"Peak threshold {tuning['value']:.6g}: the highest that keeps {kept} on the {tuning['split']} split. "
            "On the images that it was chosen on:"
        )
        lines += _text_table(tuning["points"])
    return lines


def _peaks(values: Sequence[float]) -> str:
    shown = " and ".join(f"{value:.6g}" for value in values)
    return f"peak threshold{'s' if len(values) > 1 else ''} {shown}"


def _rows(points: Sequence[OperatingPoint]) -> list[list[str]]:
    """Titles and cells of a table with a column for each operating point; without images without polyp, no alarms."""
    rows = [
        [
            "polyps found: a region overlaps it",
            *(f"{_of(p['found'], p['polyps'])}{interval(p['found_share'])}" for p in points),
        ],
        ["frames with polyp with a region on a polyp", *(interval(p["sensitivity"]) for p in points)],
        ["false regions per image", *(interval(p["false_per_image"]) for p in points)],
        ["Dice of the split, mean per image", *(interval(p["dice_per_image_native"]) for p in points)],
    ]
    if points[0]["negatives"]:
        alarms = (f"{_of(p['alarms'], p['negatives'])}{interval(p['alarm_share'])}" for p in points)
        rows.append(["images without polyp that get an alarm", *alarms])
        rows.append(["share of such an image that is marked, mean", *(_share(p["marked_share"]) for p in points)])
    return rows


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}: " if whole else ""


def _share(score: Score | None) -> str:
    """A small share with its interval, in percent."""
    if not score:
        return "-"
    low, high = (percent(bound) for bound in score["ci95"])
    return f"{percent(score['value'])} [{low}, {high}]"


def _text_table(points: Sequence[OperatingPoint]) -> list[str]:
    """The operating points as lines, a column each."""
    header = ["", *("threshold alone" if not p["peaks"] else _peaks(p["peaks"]) for p in points)]
    return text_table([header, *_rows(points)])
