"""`ablation/screen.py` and `benchmarks/`: they end with what they started, from the first moment on, and say so."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from processes import finish, start, wait_until
from training_runs import largest_difference
from unet_kvasir_seg.ablation import screen
from unet_kvasir_seg.common.output_lock import output_lock
from unet_kvasir_seg.training.checkpoints import checkpoints_in, is_complete

FLAGS = ["--dataset_name", "synthetic", "--plan", "plan.yaml", "--output_dir", "out"]
RUN = Path("out") / "round-1" / "as-it-is-1"


@pytest.fixture
def plan(tmp_path) -> Path:
    """One training that takes longer than any test."""
    recipe = {"image_size": 32, "depth": 2, "base_channels": 4, "num_train_epochs": 5000, "use_cpu": True}
    recipe |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "bf16": False}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rounds = [{"name": "small", "keep": 1, "seeds": [1], "flags": {}}]
    content = {"recipe": str(tmp_path / "recipe.yaml"), "rounds": rounds, "candidates": {"as it is": {}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.mark.slow
def test_an_interruption_ends_the_trainings_too(plan):
    process = start("ablation/screen.py", *FLAGS, cwd=plan)
    log = plan / RUN / "log.txt"
    wait_until(lambda: log.exists() and "it/s" in log.read_text(), process, 240)
    process.send_signal(signal.SIGTERM)
    output = finish(process, status=128 + signal.SIGTERM)
    assert output.strip().splitlines()[-1] == f"{screen.PROGRAM}: SIGTERM. {screen.KEPT}"
    assert "failed" not in output
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing of its session is left


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can end with its parent")
def test_a_killed_screening_goes_on_from_the_checkpoint_of_its_training(plan):
    """The flags let the training save nothing; its weights are those of a training that was not disturbed."""
    recipe = (plan / "recipe.yaml").read_text().replace("5000", "100")
    (plan / "recipe.yaml").write_text(f"{recipe}synthetic_rows: 8\n")
    model = plan / RUN / "model"
    process = start("ablation/screen.py", *FLAGS, cwd=plan)
    wait_until(lambda: any(map(is_complete, checkpoints_in(model))), process, 240)
    holder = json.loads((model / ".lock.json").read_text(encoding="utf-8"))["process"]
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not Path(f"/proc/{holder}").exists(), seconds=30)
    assert "train.py: SIGTERM. Complete checkpoints are kept" in (plan / RUN / "log.txt").read_text()
    kept = next(filter(is_complete, checkpoints_in(model)))
    output = finish(start("ablation/screen.py", *FLAGS, cwd=plan), seconds=300)
    assert f"seed 1 ... (log: {RUN / 'log.txt'})" in output
    assert f"going on from {kept.relative_to(plan)}\n" in output
    assert f"resuming from {kept.relative_to(plan)}." in (plan / RUN / "log.txt").read_text()
    assert checkpoints_in(model) == []
    finish(start("train.py", RUN / "recipe.yaml", "--output_dir", "undisturbed", cwd=plan), seconds=300)
    assert largest_difference(model, plan / "undisturbed") == 0


def test_what_a_killed_screening_left_running_is_named(run_command, plan):
    with output_lock(plan / RUN / "model", "train.py"):
        done = run_command(screen.main, *FLAGS, status=2)
    assert "model is in use by train.py (process" in done.stderr
    assert not (plan / "out" / "ablation.json").exists()
    with output_lock(plan / "out", screen.PROGRAM):
        assert "out is in use by python ablation" in run_command(screen.main, *FLAGS, status=2).stderr


@pytest.mark.parametrize(
    ("script", "program"),
    [
        ("ablation/screen.py", screen.PROGRAM),
        pytest.param("benchmarks/speed.py", "speed.py", marks=pytest.mark.slow),
        pytest.param("benchmarks/peer.py", "peer.py", marks=pytest.mark.slow),
        pytest.param("benchmarks/bare_loop.py", "bare_loop.py", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_of_the_imports_is_one_line(tmp_path, script, program):
    process = start(script, cwd=tmp_path)
    wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    (line,) = finish(process, status=128 + signal.SIGINT).splitlines()
    assert line.startswith(f"{program}: interrupted. ")
