"""Imports without garbage collection, which is as it was afterwards."""

import gc

import pytest
from unet_kvasir_seg.common.imports import quick_imports


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_pauses_and_is_as_before_afterwards(enabled):
    try:
        (gc.enable if enabled else gc.disable)()
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        gc.unfreeze()
        gc.enable()
