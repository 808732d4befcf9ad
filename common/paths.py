"""Where the files that come with the code lie, in a clone and in an installed package alike."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
# config.json, preprocessor_config.json, model.safetensors and results.json lie beside the code, as in a Hub repo.
TRAINED_MODEL = PACKAGE
TRAINED_NAME = "unet-kvasir-seg"  # what results call these weights
RECIPES = PACKAGE / "recipes"
CARD_TEMPLATE = PACKAGE / "model_card.md"
