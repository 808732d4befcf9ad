"""Public data sets that are known by the fingerprint of their samples, also where a local folder holds them."""

from .results import Data

_KVASIR_SEG = "Kvasir-SEG"
# Fingerprints as `data.dataset.describe_data` gives them, of 900 pairs at 384x288: train, validation, and both.
KNOWN_DATA = {
    "sha256:78ec7f9a8790f458ff9699a0c816ee6ff5c56610524117172cf24e3e8d7fe690": _KVASIR_SEG,
    "sha256:e32a3a25ac33ab8ce177960f834593c6ad54446dfd6cc6140e60def16b32bc9f": _KVASIR_SEG,
    "sha256:1ebb4d9b5aebcb89c5c63c87373ce4e752b32db9a3a15db7dc955ccd969e25ec": _KVASIR_SEG,
}


def shown_name(data: Data) -> str:
    """The name by which pages and model cards call a data set: its own on the Hub, of a local one the known one."""
    return data["name"] if data["on_the_hub"] else KNOWN_DATA.get(data["fingerprint"] or "", data["name"])
