"""The choice of device and precision."""

from pathlib import Path

import pytest
import torch
from unet_kvasir_seg.common.device import available_devices, choose_runtime, supported_dtypes
from unet_kvasir_seg.common.errors import UserError


def test_the_cpu_is_always_there_and_computes_in_float32():
    assert available_devices()[-1] == "cpu"
    runtime = choose_runtime("cpu", "float32")
    assert (runtime.device, runtime.dtype) == (torch.device("cpu"), torch.float32)
    assert str(runtime) == "cpu, float32, channels_last"


def test_bfloat16_is_the_default_just_where_the_cores_have_it():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no other source tells what the cores have")
    flags = cpuinfo.read_text().split()
    has_bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags
    assert supported_dtypes("cpu")[0] == ("bfloat16" if has_bfloat16 else "float32")


def test_mps_computes_in_float32_alone():
    assert supported_dtypes("mps") == ["float32"]


def test_compiling_is_asked_for():
    assert [choose_runtime("cpu", compile=choice).compiles for choice in ("auto", False, True)] == [False, False, True]
    with pytest.raises(UserError, match="compile='yes' cannot be: expected True, False or"):
        choose_runtime("cpu", compile="yes")


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("tpu", "auto", "no device 'tpu' here; there is .*cpu"),
        ("cpu", "float16", "cpu does not compute in float16 here; choose .*float32"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(device, dtype, message):
    with pytest.raises(UserError, match=message):
        choose_runtime(device, dtype)
