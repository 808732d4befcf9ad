"""`train.py --push_finished`: what is refused, before the Hub is asked. Pushes themselves: tests/test_hub.py."""

import pytest
from conftest import ROOT
from training_runs import TINY, error_of
from unet_kvasir_seg.common.output_lock import output_lock
from unet_kvasir_seg.training.checkpoints import begin_checkpoint


@pytest.fixture
def push(run_train):
    """The error of a push."""

    def push(*flags: object) -> str:
        done = run_train(*flags, check=False)
        assert done.stderr.count("\n") == 1
        return error_of(done)

    return push


def test_only_a_finished_run_is_pushed(run_train, push, tmp_path):
    run_train(*TINY, "--num_train_epochs", 1, "--output_dir", "run")
    folder, finished = tmp_path / "run", ("--push_finished", "run")
    assert "The repository run cannot be made on the Hub" in push(*finished)  # no test is online
    with output_lock(folder, "train.py"):
        assert "run is in use by train.py" in push(*finished)
    results = (folder / "results.json").read_text()
    (folder / "notes.txt").write_text("of a patient")
    (folder / "results.json").write_text(results.replace('"loss_curve.png"', '"../notes.txt"'))
    assert "run lacks figures/notes.txt, which a push uploads. " in push(*finished)
    (folder / "results.json").write_text(results)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "run does not hold what was saved in it (model.safetensors)" in push(*finished)
    weights.write_bytes(content)
    (folder / "regions_unet.py").rename(folder / "moved.py")
    (folder / "figures" / "loss_curve.png").unlink()
    assert "run lacks regions_unet.py, figures/loss_curve.png, which a push uploads. " in push(*finished)
    (folder / "results.json").unlink()
    assert "The training in run has not ended: there are checkpoints, but no results.json" in push(*finished)


def test_what_is_no_run_is_not_pushed(push, tmp_path):
    begin_checkpoint(tmp_path / "killed" / "checkpoint-2")
    assert "The training in killed has not ended" in push("--push_finished", "killed")
    assert "There is no folder 'kiled'; near it are killed: expected the --output_dir of" in push(
        "--push_finished", "kiled"
    )
    (tmp_path / "empty").mkdir()
    assert "empty/results.json cannot be read" in push("--push_finished", "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    assert "There is no folder ''" in push("--push_finished=")
    assert "is the project itself" in push("--push_finished", ROOT)


def test_flags_of_a_training_are_refused(push, tmp_path):
    message = push("--push_finished", "run", "--learning_rate", "1", "--hub_model_id", "team/never")
    assert "trains nothing: remove --learning_rate. Besides the folder it takes --hub_model_id, " in message
    assert "remove recipes/demo.yaml. " in push("recipes/demo.yaml", "--push-finished=run")
    message = push("--hub_token=hf_secret", "--push_finished", "run")
    assert "remove --hub_token. " in message
    assert "hf_secret" not in message
    (tmp_path / "recipe.yaml").write_text("push_finished: run\n")
    assert "recipe.yaml: push_finished is no setting of a training" in push("recipe.yaml")
