"""One process, and two that a launcher started."""

import os
import subprocess
import sys

from unet_kvasir_seg.common.processes import share_work

SHARED = """
import sys
from unet_kvasir_seg.common.processes import share_work
with share_work(cpu=True) as processes:
    with processes.main_first():
        pass
    gathered = processes.gather({"index": processes.index})
    if processes.is_main:
        print(processes.count, gathered)
"""


def test_one_process_works_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with share_work(cpu=True) as processes:
        assert (processes.index, processes.count, processes.is_main) == (0, 1, True)
        with processes.main_first():
            assert processes.gather("item") == ["item"]
        processes.wait()


def test_launched_processes_gather_what_each_has(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(SHARED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*command, program], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 [{'index': 0}, {'index': 1}]"
