"""Where the `datasets` library keeps its copies of data sets."""

import atexit
import logging
import tempfile
from functools import cache
from pathlib import Path

from datasets.config import HF_DATASETS_CACHE

logger = logging.getLogger(__name__)


@cache
def datasets_cache() -> Path:
    """The library's own folder or, if it cannot be written to, a temporary one, which is removed at the end."""
    try:
        Path(HF_DATASETS_CACHE).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=HF_DATASETS_CACHE):
            return Path(HF_DATASETS_CACHE)
    except OSError as error:
        logger.warning(
            f"The cache {HF_DATASETS_CACHE} cannot be written to ({error.strerror}): a temporary one is used. To keep "
            "what it holds, set HF_HOME to a folder that can."
        )
        folder = tempfile.TemporaryDirectory(prefix="unet-datasets-", ignore_cleanup_errors=True)
        atexit.register(folder.cleanup)
        return Path(folder.name)
