"""What a launcher, such as `torchrun`, says of the processes that it started, before they have met."""

import os


def was_launched() -> bool:
    """Whether a launcher started this process and others, before a group of them is made."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """What `Processes.is_main` of processes.py will say, before the processes have met."""
    return not was_launched() or os.environ.get("RANK", "0") == "0"
