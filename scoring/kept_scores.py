"""Scores that outlive an interrupted evaluation, in a hidden folder of its output folder.

kept = KeptScores(Path("out"))
with kept.share({"model": "sha256:...", "threshold": 0.5}) as share:
    share.scores += ...  # behind those that an earlier run computed from the very same
kept.remove()            # once the results are written
"""

import base64
import contextlib
import functools
import gzip
import hashlib
import importlib.metadata
import json
import logging
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import write_atomic
from ..common.paths import PACKAGE
from .image_scores import ImageScores
from .regions import Regions
from .sequences import VideoFrame

logger = logging.getLogger(__name__)

FOLDER = ".scores"
KINDS = {kind.__name__: kind for kind in (ImageScores, Regions, VideoFrame)}


@dataclass
class Share:
    """The scores that a process computes of some images.

    Attributes:
        scores: Each an `ImageScores` or `Regions`, in the order in which they are computed.
        seconds: How long that took.
        model_seconds: How much of it the predictions took.
    """

    scores: list[Any]
    seconds: float = 0.0
    model_seconds: float = 0.0


class KeptScores:
    """The scores of a run, and those that an interrupted run left.

    Args:
        output: The output folder.

    Attributes:
        seconds: How long it took to compute those of earlier runs that are used.
    """

    def __init__(self, output: Path):
        self.folder = output / FOLDER
        self.seconds = 0.0

    @contextlib.contextmanager
    def share(self, depends_on: Any) -> Iterator[Share]:
        """Scores to go on with; what is there when the block ends, by an error too, is kept.

        Args:
            depends_on: All that the scores depend on, beside the code and its libraries.
        """
        parts = json.dumps([_code(), depends_on], default=str, sort_keys=True)
        file = self.folder / f"{hashlib.sha256(parts.encode()).hexdigest()}.json.gz"
        share = _read(file)
        count, started = len(share.scores), time.perf_counter()
        self.seconds += share.seconds
        try:
            yield share
        finally:
            share.seconds += time.perf_counter() - started
            if len(share.scores) > count:
                _write(file, share)

    def remove(self) -> None:
        """Forget all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def _code() -> list[str]:
    """Hash of the project's code, and the versions of all libraries."""
    digest = hashlib.sha256()
    for file in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*/*.py"), *PACKAGE.glob("[!.]*/[!.]*/*.py")]):
        digest.update(file.read_bytes())
    libraries = {f"{found.name} {found.version}" for found in importlib.metadata.distributions()}
    return [digest.hexdigest(), *sorted(libraries)]


def _read(file: Path) -> Share:
    """What a file holds; nothing if there is none, or it is damaged, which the checksum of gzip shows."""
    try:
        return Share(**json.loads(gzip.decompress(file.read_bytes()), object_hook=_from_json))
    except (OSError, EOFError, ValueError, TypeError, zlib.error):
        return Share([])


def _write(file: Path, share: Share) -> None:
    content = gzip.compress(json.dumps(vars(share), default=_as_json).encode(), compresslevel=1)
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, content)
    except OSError as error:
        logger.warning("The scores cannot be kept for another run: %s.", error)


def _as_json(value: Any) -> Any:
    if is_dataclass(value):
        return {"kind": type(value).__name__, **vars(value)}
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": value.shape, "bytes": base64.b64encode(value.tobytes()).decode()}
    return value.item()  # of NumPy's numbers


def _from_json(found: dict[str, Any]) -> Any:
    if "dtype" in found:
        return np.frombuffer(base64.b64decode(found["bytes"]), found["dtype"]).reshape(found["shape"])
    if "kind" in found:
        kind: Any = KINDS[found.pop("kind")]
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})
    return found
