"""How many processors this process may use, which can be fewer than the machine has."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # of this container


def usable_processors(cgroup: Path = CGROUP) -> int:
    """Those of its affinity, as `taskset` and job schedulers set it, within the quota of its container.

    Args:
        cgroup: Where Linux shows the quota, in version 2 or 1 of control groups.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Processors that the container may use at the same time, on average; infinite without a quota."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # there is none: the file is missing, or says "max"
        return math.inf
