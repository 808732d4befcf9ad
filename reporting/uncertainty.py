"""Tables and text on how well uncertainty points at wrong pixels, for the card and the terminal."""

from .markdown import interval, percent, table, text_table
from .results import Evaluation, Uncertainty

HEADER = ("map", "AUROC of wrong pixels", "area under risk against coverage", "risk at coverage 0.95", "0.99")


def uncertainty_table(evaluation: Evaluation) -> str:
    """Each map with its scores; empty if not measured."""
    uncertainty = evaluation.get("uncertainty")
    return table(HEADER, _rows(uncertainty)) if uncertainty else ""


def uncertainty_as_text(evaluation: Evaluation) -> list[str]:
    """Lines for the terminal; none if not measured."""
    uncertainty = evaluation.get("uncertainty")
    if not uncertainty:
        return []
    wrong = f"{percent(uncertainty['wrong']['value'])} of the pixels are wrong"
    return [f"Uncertainty and wrong pixels ({wrong}):", *text_table([HEADER, *_rows(uncertainty)])]


def _rows(uncertainty: Uncertainty) -> list[list[str]]:
    rows = []
    for name, scores in uncertainty["maps"].items():
        risks = {point["coverage"]: f"{point['risk']:.5f}" for point in scores["risk"]}
        aurc = scores["aurc"]
        low, high = aurc["ci95"]
        area = f"{aurc['value']:.5f} [{low:.5f}, {high:.5f}]"
        rows.append([name, interval(scores["auroc"]), area, risks.get(0.95, "-"), risks.get(0.99, "-")])
    return rows
