"""The timings of one contestant, and the figures computed from them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from unet_kvasir_seg.reporting.results import read_versioned

BENCHMARKS_SCHEMA = 1
MATRIX_MULTIPLY = "matrix multiply"


@dataclass(frozen=True)
class Measurement:
    """Timings of one contestant at one job, on one device.

    Attributes:
        part: The job, such as "training step"; only measurements of one part can be compared.
        name: The contestant.
        device: "cpu", "cuda" or "mps".
        seconds: Of one call, in each round; the rounds of a part's contestants alternate.
        first_seconds: Of the first call, which includes compilation if there is one.
        images: Of one call.
        dtype: Type of the operands of matrix multiplications; None if there are none.
        flops: Floating-point operations of one call; a multiplication and an addition are two.
        compared_with: Name of the contestant whose time is divided by this one's.
        peak_bytes: Peak memory of the process, or of the accelerator if one computes; only of what ran alone.
        axis, value: In scaling, what grows from point to point, and its value here.
    """

    part: str
    name: str
    device: str
    seconds: list[float]
    first_seconds: float
    images: int
    dtype: str | None = None
    flops: int | None = None
    compared_with: str | None = None
    peak_bytes: int | None = None
    axis: str | None = None
    value: int | None = None

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Interquartile range of the seconds of a call: quartiles by linear interpolation, as numpy has them."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float(high - low)

    @property
    def flops_per_second(self) -> float | None:
        """At the median."""
        return None if self.flops is None else self.flops / self.median


def peak_flops_per_second(measurements: list[Measurement], device: str, dtype: str | None) -> float | None:
    """The device's peak: its fastest matrix multiplication in `dtype`; None if none was timed."""
    rates = [
        found.flops / min(found.seconds)
        for found in measurements
        if found.part == MATRIX_MULTIPLY and (found.device, found.dtype) == (device, dtype) and found.flops
    ]
    return max(rates, default=None)


def share_of_peak(measurement: Measurement, measurements: list[Measurement]) -> float | None:
    """Achieved FLOP/s divided by the device's peak in the same dtype; None if either is unknown."""
    peak = peak_flops_per_second(measurements, measurement.device, measurement.dtype)
    achieved = measurement.flops_per_second
    return None if peak is None or achieved is None else achieved / peak


def speed_up(measurement: Measurement, measurements: list[Measurement]) -> float | None:
    """How many times as fast as the contestant it is compared with; None without one.

    It is the median of the rounds' ratios: the turns of a round follow each other, so a disturbance of the machine
    meets both.
    """
    key = (measurement.part, measurement.device, measurement.compared_with)
    rivals = [other for other in measurements if (other.part, other.device, other.name) == key]
    if not rivals:
        return None
    return float(np.median(np.divide(rivals[0].seconds, measurement.seconds)))


def as_json(environment: dict[str, Any], measurements: list[Measurement]) -> dict[str, Any]:
    """What `benchmarks.json` holds."""
    return {
        "schema_version": BENCHMARKS_SCHEMA,
        "environment": environment,
        "measurements": [dataclasses.asdict(measurement) for measurement in measurements],
    }


def read_benchmarks(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """Environment and measurements of a `benchmarks.json`.

    Raises:
        UserError: If it cannot be read, or another version of the project wrote it.
    """
    content = read_versioned(path, BENCHMARKS_SCHEMA, "what speed.py wrote", "speed.py")
    return content["environment"], [Measurement(**fields) for fields in content["measurements"]]
