"""Importing large libraries quickly."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import without garbage collection.

    Imports create many objects that live until the end, and hardly any garbage. To look for it again and again takes
    a fifth of the CPU time of importing torch and transformers.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections do not visit what lives until the end
        if was_enabled:
            gc.enable()
