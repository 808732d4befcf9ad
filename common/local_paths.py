"""Tells paths of this machine from ids on the Hub, so that a mistyped path is not looked up on the Hub."""

import difflib
import os
import re
from pathlib import Path

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
SECONDS = 5  # that the Hub has to answer for a name that may well be a path


def is_hub_id(name: str, repo_type: str) -> bool:
    """Whether a name is to be looked up on the Hub: it can be an id, and is no path.

    "me/unet" may be a mistyped path if there is a folder "me" here: then it is an id only if the Hub has it.

    Args:
        name: What a user gave.
        repo_type: "model" or "dataset".
    """
    path = Path(name).expanduser()
    if path.exists() or not HUB_ID.fullmatch(name):
        return False
    return path.parent == Path() or not path.parent.is_dir() or _is_on_hub(name, repo_type)


def near_paths(name: str) -> str:
    """For the message about a path that is not there: "; near it are ..." with what has a similar name, or nothing."""
    missing = Path(name).expanduser()
    while not missing.parent.is_dir() and missing != missing.parent:
        missing = missing.parent
    try:
        near = difflib.get_close_matches(missing.name, os.listdir(missing.parent), n=3, cutoff=0.6)
    except OSError:
        near = []
    return f"; near it are {', '.join(str(missing.parent / one) for one in sorted(near))}" if near else ""


def _is_on_hub(name: str, repo_type: str) -> bool:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return True  # perhaps in the cache, which answers at once
    try:
        HfApi().repo_info(name, repo_type=repo_type, timeout=SECONDS)
    except Exception:  # whatever the HTTP client and the Hub raise
        return False
    return True
