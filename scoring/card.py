"""Fills the model card's template from a run's results, so that no figure is typed by hand."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).resolve().parent.parent / "model_card.md"
TITLES = {
    "dice_per_image": "Dice, mean per image",
    "iou_per_image": "IoU, mean per image",
    "dice_pooled": "Dice, pooled",
}


def fill_card(results: dict[str, Any]) -> str:
    """The model card, with the Hub's metadata at its top.

    Args:
        results: What `results.json` holds: "model", "data", "environment", "training" and "metrics".

    Returns:
        Markdown; its metadata gives the same scores back when `huggingface_hub.ModelCard` parses it.
    """
    card = ModelCard.from_template(card_data=_metadata(results), template_path=str(TEMPLATE), **results)
    return str(card)


def _metadata(results: dict[str, Any]) -> ModelCardData:
    data = results["data"]
    return ModelCardData(
        license="other",
        license_name="apache-2.0-code-with-weights-under-the-terms-of-their-data",
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["unet", "polyp-segmentation", "medical-imaging", "colonoscopy"],
        datasets=[data["name"]] if data["on_the_hub"] else None,
        metrics=["dice", "mean_iou"],
        model_name=results["model"]["name"],
        eval_results=[_eval_result(results, score) for score in TITLES],
    )


def _eval_result(results: dict[str, Any], score: str) -> EvalResult:
    data = results["data"]
    height, width = results["model"]["image_size"]
    return EvalResult(
        task_type="image-segmentation",
        dataset_type=data["name"] if data["on_the_hub"] else "other",
        dataset_name=data["name"],
        dataset_split="validation",
        dataset_revision=data["revision"],
        metric_type=score,
        metric_name=f"{TITLES[score]}, at {height}x{width}",
        metric_value=results["training"]["validation"][score],
    )
