"""Measure this project's speed beside its alternatives, in one run and in turns.

    pip install -e ".[benchmark]"                                # the peers, and matplotlib
    python benchmarks/speed.py                                   # all parts, twelve minutes on two quiet cores
    python benchmarks/speed.py --parts inference training        # some of them
    python benchmarks/speed.py --quick                           # tiny networks: whether it works, not how fast
    python benchmarks/table.py outputs/benchmarks/benchmarks.json docs/speed.md

Parts: inference (one frame a call, then sixteen), training (a step), data (frames to examples on one core), scaling
(image size, batch, width, gradient checkpointing, data-loading workers). All run on each device of the machine,
the data on a CPU. It prints the tables and writes benchmarks.json, with every raw timing, and pictures. Peers that
are not installed are named and left out.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors

PROGRAM, KEPT = "speed.py", "No measurement is kept: run the same command again."

with user_errors(PROGRAM, kept=KEPT):  # large libraries: Ctrl-C is answered while they are imported, too
    import torch
    from transformers.utils import logging
    from unet_kvasir_seg.benchmarks import data_path, inference, scaling, training
    from unet_kvasir_seg.benchmarks.measurement import Measurement, as_json
    from unet_kvasir_seg.benchmarks.networks import missing_packages
    from unet_kvasir_seg.benchmarks.plan import QUICK, Plan
    from unet_kvasir_seg.benchmarks.table import tables
    from unet_kvasir_seg.common.command_line import FlagParser, flag, unknown
    from unet_kvasir_seg.common.device import available_devices, choose_runtime
    from unet_kvasir_seg.common.output_lock import output_lock
    from unet_kvasir_seg.reporting.results import describe_environment, write_results

PARTS: dict[str, Callable[[Plan, list[str]], list[Measurement]]] = {
    "inference": inference.measure,
    "training": training.measure,
    "data": data_path.measure,
    "scaling": scaling.measure,
}


@dataclass
class SpeedArguments:
    """What is measured, and where to."""

    parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": f"Some of: {', '.join(PARTS)}."})
    devices: list[str] = field(
        default_factory=available_devices, metadata={"help": "Devices to compute on; all that are here by default."}
    )
    quick: bool = flag(False, "Tiny networks and few rounds: only whether it works.")
    output_dir: str = flag("outputs/benchmarks", "Folder of JSON and pictures.")

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UserError(unknown("part", part, PARTS))
        for device in self.devices:
            choose_runtime(device)  # refuses what is not here


def measure(plan: Plan, parts: list[str], devices: list[str]) -> list[Measurement]:
    """Measure the parts, one after the other; a line for each says so."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        # An empty cache, so that a first call compiles even if the network was compiled in an earlier run.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for part in parts:
            print(f"Measuring: {part} ...", flush=True)
            found += PARTS[part](plan, devices)
    return found


def describe_machine(devices: list[str]) -> dict[str, Any]:
    """Versions and devices of the run, without names of users and hosts."""
    names = {"cpu": processor_name(), "mps": "Apple GPU"}
    if "cuda" in devices:
        names["cuda"] = torch.cuda.get_device_name()
    return describe_environment(choose_runtime(devices[0]), processes=1) | {
        "devices": {device: names[device] for device in devices},
        "threads": torch.get_num_threads(),
        "missing_packages": missing_packages(),
    }


def processor_name() -> str:
    """The CPU's name if the system is Linux, else the name of its instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def draw_pictures(measurements: list[Measurement], folder: Path) -> None:
    """Draw what was measured: each device's contestants and growth, and data loading."""
    from unet_kvasir_seg.benchmarks.figure import draw_contest, draw_growth, draw_loading

    contests = (inference.LATENCY, inference.THROUGHPUT, training.TRAINING)
    growths = (scaling.INFERENCE, scaling.TRAINING)
    for device in dict.fromkeys(one.device for one in measurements):
        here = [one for one in measurements if one.device == device]
        if contested := [one for one in here if one.part in contests]:
            draw_contest(contested, folder / f"speed-{device}.png")
        if grown := [one for one in here if one.part in growths]:
            draw_growth(grown, folder / f"scaling-{device}.png")
    if loaded := [one for one in measurements if one.part == scaling.LOADING]:
        draw_loading(loaded, folder / "loading.png")


def main(argv: list[str] | None = None) -> None:
    parser = FlagParser([SpeedArguments], program=PROGRAM, description=__doc__)
    with user_errors(PROGRAM, OSError, kept=KEPT):
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        require_extra("benchmark", "matplotlib")
        logging.disable_progress_bar()
        folder = Path(arguments.output_dir)
        environment = describe_machine(arguments.devices) | {"quick": arguments.quick}
        with output_lock(folder, PROGRAM):
            measurements = measure(QUICK if arguments.quick else Plan(), arguments.parts, arguments.devices)
            print(tables(environment, measurements))  # first: the disk may be full
            write_results(folder / "benchmarks.json", as_json(environment, measurements))
            draw_pictures(measurements, folder)
        print(f"Written: {folder / 'benchmarks.json'} and pictures.")


if __name__ == "__main__":
    main()
