"""Push from one process, load in another: each its own process, against a Hub on the loopback."""

import getpass
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard
from loopback_hub import USER, LoopbackHub, Repo
from PIL import Image
from unet_kvasir_seg import train
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

TRAIN = Path(train.__file__).resolve()
CODE = {
    "configuration_unet.py",
    "losses_unet.py",
    "modeling_unet.py",
    "image_processing_unet.py",
    "encoder_unet.py",
    "regions_unet.py",
    "field_of_view_unet.py",
    "pipeline_unet.py",
}
PUSHED = CODE | {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", "results.json"}
PUSHED |= {"figures/loss_curve.png"}
TINY = ("--dataset_name", "synthetic", "--synthetic_rows", "8", "--image_size", "32", "--num_train_epochs", "1")
SMALL = ("--base_channels", "4")
ANNOTATOR = "polyp-annotator-7"  # the user's name and home folder in the processes that push
ID2LABEL = {0: "background", 1: "polyp"}

# Arguments: the image, the file to write, and sources, each "ID_OR_FOLDER" or "ID@REVISION".
LOAD = """
import logging
import sys

import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline


messages = []


class Keep(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())


logging.getLogger("transformers").addHandler(Keep(logging.WARNING))


def load(source, image):
    name, _, revision = source.partition("@")
    options = {"trust_remote_code": True, "revision": revision or "main"}
    config = AutoConfig.from_pretrained(name, **options)
    processor = AutoImageProcessor.from_pretrained(name, **options)
    base_model = AutoModel.from_pretrained(name, **options)
    model = AutoModelForSemanticSegmentation.from_pretrained(name, **options)
    segment = pipeline("image-segmentation", model=name, **options)
    batch = processor(image, return_tensors="pt")
    with torch.no_grad():
        logits = [network(**batch).logits for network in (model, base_model)]
    parts = (config, processor, base_model, model, segment, segment.model, segment.image_processor)
    return {
        "base_channels": config.base_channels,
        "modules": [type(part).__module__ for part in parts],
        "training": [network.training for network in (model, base_model, segment.model)],
        "logits": logits,
        "masks": {found["label"]: pil_to_tensor(found["mask"])[0] for found in segment(image)},
        "log": [message for message in messages if not message.startswith("Device set to use")],
    }


image_file, output_file, *sources = sys.argv[1:]
torch.save({source: load(source, Image.open(image_file)) for source in sources}, output_file)
assert "unet_kvasir_seg" not in sys.modules, "the installed package was used, not what was loaded"
"""

# Arguments: the id to load, the folder to save into, the id to push to.
SAVE_AND_PUSH = """
import sys

from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

source, folder, target = sys.argv[1:]
model = AutoModelForSemanticSegmentation.from_pretrained(source, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
model.save_pretrained(folder)
processor.save_pretrained(folder)
model.push_to_hub(target)
processor.push_to_hub(target)
"""


class Machine:
    """Runs programs as on another machine: a home, a Hub cache and a working folder of its own."""

    def __init__(self, folder: Path, hub: LoopbackHub):
        self.folder = folder
        home = folder / ANNOTATOR
        home.mkdir(parents=True)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        self.environment = inherited | {
            "HOME": str(home),
            "USER": ANNOTATOR,
            "LOGNAME": ANNOTATOR,
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def run(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        return subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def run_script(self, script: str, *arguments: str | Path, **environment: str) -> None:
        """Run a script that sees neither this folder nor PYTHONPATH, and expect it to succeed."""
        file = self.folder / "script.py"
        file.write_text(script)
        done = self.run("-I", file, *arguments, **environment)
        assert done.returncode == 0, done.stderr

    def load(self, image: Image.Image, *sources: str, **environment: str) -> dict[str, dict[str, Any]]:
        """What a process gets that loads `sources` and segments `image`, by source."""
        image.save(self.folder / "image.png")
        self.run_script(LOAD, self.folder / "image.png", self.folder / "loaded.pt", *sources, **environment)
        return torch.load(self.folder / "loaded.pt", weights_only=True)


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def machine(tmp_path: Path, hub: LoopbackHub) -> Machine:
    return Machine(tmp_path, hub)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """45 pixels wide and 37 high: sizes that no pooling divides."""
    return next(generate(1, (37, 45), seed=5))["image"]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub) -> tuple[Repo, Path]:
    """The repo of a run with --push_to_hub, and the run's folder."""
    machine = Machine(tmp_path_factory.mktemp("pusher"), hub)
    folder = machine.folder / "run"
    done = machine.run(
        *(TRAIN, *TINY, *SMALL, "--output_dir", folder, "--push_to_hub", "--hub_model_id", "team/tiny-unet"),
        HF_TOKEN=hub.token,
    )
    assert done.returncode == 0, done.stderr
    assert 'model="team/tiny-unet"' in done.stdout
    return hub.repos["team/tiny-unet"], folder


@pytest.fixture(scope="module")
def fine_tuned(
    tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub, pushed: tuple[Repo, Path]
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run that goes on from a local folder, in a folder that holds the user's own files; no repo is named."""
    machine = Machine(tmp_path_factory.mktemp("fine-tuner"), hub)
    folder = machine.folder / "tuned"
    (folder / "notes").mkdir(parents=True)
    for name in ("patients.py", "notes/patients.py", "notes/README.md", "notes/frames.safetensors"):
        (folder / name).write_text("the user's own")
    done = machine.run(
        *(TRAIN, *TINY, "--output_dir", folder, "--model_name_or_path", pushed[1], "--push_to_hub"), HF_TOKEN=hub.token
    )
    assert done.returncode == 0, done.stderr
    return done, folder


def segment(folder: Path, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (1, 1, h, w) and mask (H, W) by the package's own classes."""
    model = UNetForSemanticSegmentation.from_pretrained(folder)
    processor = UNetImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    return outputs.logits, processor.post_process_semantic_segmentation(outputs, [(image.height, image.width)])[0]


def check_loaded(loaded: dict[str, Any], folder: Path, image: Image.Image) -> None:
    """What was loaded is remote code, and gives what the package gives from `folder`, bit for bit."""
    assert loaded["base_channels"] == 4
    assert all(module.startswith("transformers_modules.") for module in loaded["modules"]), loaded["modules"]
    assert loaded["training"] == [False] * 3
    assert loaded["log"] == []
    logits, mask = segment(folder, image)
    for found in loaded["logits"]:
        assert found.dtype == torch.float32
        assert torch.equal(found, logits)
    assert mask.shape == (37, 45)
    expected = {name: (mask == label).to(torch.uint8) * 255 for label, name in ID2LABEL.items()}
    assert loaded["masks"].keys() == expected.keys()
    for label, found in loaded["masks"].items():
        assert torch.equal(found, expected[label])


def write(files: dict[str, bytes], folder: Path) -> Path:
    """The files of a repo as a folder, as `git clone` makes it."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def halved(weights: bytes, logits: torch.Tensor) -> bytes:
    """The weights with another bias, by which half the pixels of these logits are polyp."""
    tensors = safetensors.torch.load(weights)
    tensors["classifier.bias"] -= logits.median()
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_a_push_is_one_commit_of_what_the_hub_needs(pushed: tuple[Repo, Path]):
    repo, folder = pushed
    assert [commit.changed for commit in repo.pushes] == [PUSHED]
    assert repo.files.keys() == PUSHED
    for path, content in repo.files.items():
        assert content == (folder / path).read_bytes(), path


def test_the_pushed_code_is_the_projects(pushed: tuple[Repo, Path]):
    for path in CODE:
        assert pushed[0].files[path] == TRAIN.with_name(path).read_bytes(), path


@pytest.mark.parametrize("run", ["pushed", "fine_tuned"])
def test_no_pushed_file_holds_a_path_a_name_or_the_token(
    run: str, pushed: tuple[Repo, Path], fine_tuned: Any, hub: LoopbackHub
):
    repo = hub.repos["team/tiny-unet" if run == "pushed" else f"{USER}/tuned"]
    private = {ANNOTATOR, hub.token, hub.endpoint, str(TRAIN.parent), str(Path.home()), "fine-tuner", "pusher"}
    private |= {str(pushed[1].parent), str(fine_tuned[1].parent)}
    # The real names, unless they are words of our own, such as a user "polyp".
    ours = TRAIN.with_name("model_card.md").read_text(encoding="utf-8")
    private |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 2 and name not in ours}
    for path in repo.files.keys() - CODE:
        for name in private:
            assert not re.search(rb"(?<!\w)" + re.escape(name.encode()) + rb"(?!\w)", repo.files[path]), (path, name)


def test_the_card_gives_the_scores_of_results_json(pushed: tuple[Repo, Path]):
    repo, _ = pushed
    results = json.loads(repo.files["results.json"])
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.model_name == "tiny-unet"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-segmentation"
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores.keys() == {"dice_per_image", "iou_per_image", "dice_pooled"}
    assert scores == {name: results["training"]["validation"][name] for name in scores}
    assert 'model="team/tiny-unet"' in card.text


def test_a_fine_tuned_push_holds_the_models_files_alone(fine_tuned: Any, hub: LoopbackHub):
    repo = hub.repos[f"{USER}/tuned"]
    assert [commit.changed for commit in repo.pushes] == [PUSHED]
    config = json.loads(repo.files["config.json"])
    assert config["base_channels"] == 4
    assert "_name_or_path" not in config
    assert json.loads(repo.files["results.json"])["training"]["fine_tuned"] is True


def test_a_push_without_a_repo_names_the_one_that_was_made(fine_tuned: Any, hub: LoopbackHub):
    snippet = f'pipeline("image-segmentation", model="{USER}/tuned", trust_remote_code=True)'
    assert snippet in fine_tuned[0].stdout
    assert snippet in hub.repos[f"{USER}/tuned"].files["README.md"].decode()


def test_a_fresh_process_loads_from_the_hub_and_agrees_bit_for_bit(
    pushed: tuple[Repo, Path], machine: Machine, image: Image.Image
):
    loaded = machine.load(image, "team/tiny-unet")
    check_loaded(loaded["team/tiny-unet"], pushed[1], image)


def test_a_clone_loads_without_the_hub(
    pushed: tuple[Repo, Path], machine: Machine, image: Image.Image, hub: LoopbackHub
):
    clone = write(pushed[0].files, machine.folder / "clone")
    before = len(hub.requests)
    loaded = machine.load(image, str(clone), HF_HUB_OFFLINE="1")
    check_loaded(loaded[str(clone)], pushed[1], image)
    assert hub.requests[before:] == []


def test_a_loaded_model_can_be_saved_and_pushed_and_loaded_again(
    pushed: tuple[Repo, Path], machine: Machine, image: Image.Image, hub: LoopbackHub
):
    saved = machine.folder / "saved"
    machine.run_script(SAVE_AND_PUSH, "team/tiny-unet", saved, "team/again", HF_TOKEN=hub.token)
    files = hub.repos["team/again"].files
    assert files.keys() >= PUSHED - {"README.md", "results.json", "figures/loss_curve.png"}
    for name, field in (
        ("config.json", "auto_map"),
        ("config.json", "custom_pipelines"),
        ("preprocessor_config.json", "auto_map"),
    ):
        original = json.loads(pushed[0].files[name])[field]
        assert json.loads((saved / name).read_text())[field] == original
        assert json.loads(files[name])[field] == original
        assert b"tiny-unet" not in files[name]
    loaded = machine.load(image, str(saved), "team/again")
    for source in (str(saved), "team/again"):
        check_loaded(loaded[source], pushed[1], image)


def test_a_pinned_revision_outlives_a_push_of_other_weights(
    pushed: tuple[Repo, Path], machine: Machine, image: Image.Image, hub: LoopbackHub
):
    files, folder = pushed[0].files, pushed[1]
    repo = hub.repos["team/revised"] = Repo()
    first = repo.commit("first", files)
    changed = halved(files["model.safetensors"], segment(folder, image)[0])
    repo.commit("second", {"model.safetensors": changed})
    second_folder = write(repo.files, machine.folder / "second")

    pinned = f"team/revised@{first.sha}"
    loaded = machine.load(image, pinned, "team/revised")
    check_loaded(loaded[pinned], folder, image)
    check_loaded(loaded["team/revised"], second_folder, image)
    assert all(mask.any() for mask in loaded["team/revised"]["masks"].values())
    assert not torch.equal(loaded[pinned]["logits"][0], loaded["team/revised"]["logits"][0])


@pytest.mark.parametrize(
    "flags",
    [
        ["--hub_token", "hf_secret"],
        ["--hub_token=hf_secret"],
        ["--hub-token", "hf_secret"],
        ["--hub-token=hf_secret"],
        ["recipe.yaml"],
    ],
    ids=lambda flags: flags[0],
)
def test_hub_token_is_refused_with_the_remedy(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("dataset_name: synthetic\nhub_token: hf_secret\n")
    with pytest.raises(SystemExit) as exit_:
        train.main([*flags, "--output_dir", "run"])
    assert exit_.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("train.py: error: --hub_token is refused")
    assert stderr.count("\n") == 1
    assert "HF_TOKEN" in stderr
    assert "hf auth login" in stderr
    assert "hf_secret" not in stderr
    assert not Path("run").exists()


def test_hub_token_is_refused_before_the_hub_is_asked(machine: Machine, hub: LoopbackHub):
    before = len(hub.requests)
    done = machine.run(TRAIN, *TINY, "--push_to_hub", "--hub_model_id", "team/refused", "--hub_token", hub.token)
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: error: --hub_token is refused")
    assert done.stderr.count("\n") == 1
    assert hub.requests[before:] == []
    assert "team/refused" not in hub.repos


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_pushes_during_training_are_refused(strategy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        train.main(["--push_to_hub", "--hub_strategy", strategy, "--output_dir", str(tmp_path / "run")])
    assert exit_.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"train.py: error: --hub_strategy {strategy} is refused")
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_hub_that_knows_no_such_token_ends_the_run_before_training(machine: Machine, hub: LoopbackHub):
    folder = machine.folder / "run"
    done = machine.run(
        *(TRAIN, *TINY, *SMALL, "--output_dir", folder, "--push_to_hub", "--hub_model_id", "team/unknown"),
        HF_TOKEN="hf_wrongSecret",
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = last_line(done.stderr)
    assert message.startswith("train.py: error: ")
    assert "team/unknown" in message
    assert "hf auth login" in message
    assert "HF_TOKEN" in message
    assert "hf_wrongSecret" not in done.stdout + done.stderr
    assert not any(folder.rglob("*.safetensors"))
    assert "team/unknown" not in hub.repos


def test_a_push_that_fails_at_the_end_loses_nothing(machine: Machine, hub: LoopbackHub, image: Image.Image):
    folder = machine.folder / "run"
    hub.refusals["/team/refusing/commit/"] = 403  # as for a token that may only read
    done = machine.run(
        *(TRAIN, *TINY, *SMALL, "--output_dir", folder, "--push_to_hub", "--hub_model_id", "team/refusing"),
        HF_TOKEN=hub.token,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Validation split at 32x32" in done.stdout  # the summary, with the scores
    message = last_line(done.stderr)
    assert message.startswith("train.py: error: ")
    assert "403" in message
    assert hub.repos["team/refusing"].pushes == []

    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} >= PUSHED
    logits, _ = segment(folder, image)
    assert torch.isfinite(logits).all()

    # The command in the message uploads the model, and nothing that a push would not.
    upload = re.search(r"hf (upload .+)$", message)
    assert upload, message
    command = shlex.split(upload[1])
    assert command[:3] == ["upload", "team/refusing", str(folder)]
    hub.refusals.clear()
    done = machine.run("-m", "huggingface_hub.cli.hf", *command, HF_TOKEN=hub.token)
    assert done.returncode == 0, done.stderr
    assert [commit.changed for commit in hub.repos["team/refusing"].pushes] == [PUSHED]


def test_a_finished_run_is_pushed_later(run_train, machine: Machine, hub: LoopbackHub, image: Image.Image):
    """The same files, and a card of the repo, as of a push at the end; nothing is trained or computed anew."""
    folder = machine.folder / "run"
    run_train(*TINY, *SMALL, "--output_dir", folder)
    before = {name: (folder / name).read_bytes() for name in PUSHED}
    results = json.loads(before["results.json"])
    assert (results["model"]["name"], results["model"]["repository"]) == ("run", None)

    push = ("--push_finished", folder, "--hub_model_id", "team/later", "--hub_private_repo")
    done = machine.run(TRAIN, *push, HF_TOKEN="hf_wrongSecret")
    assert done.returncode == 2
    assert last_line(done.stderr).startswith("train.py: error: The repository team/later cannot be made on the Hub")
    assert {name: (folder / name).read_bytes() for name in PUSHED} == before

    # Then once more, to the repo that the run names by now.
    done = hub.run([("train", *push), ("train", f"--push-finished={folder}")], machine.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('model="team/later"') == 2
    repo = hub.repos["team/later"]
    assert repo.pushes[0].changed == PUSHED
    for name, content in repo.files.items():
        assert content == (folder / name).read_bytes()
        assert name in ("README.md", "results.json") or content == before[name]
    results["model"] |= {"name": "later", "repository": "team/later"}
    assert json.loads(repo.files["results.json"]) == results
    card = repo.files["README.md"].decode()
    assert ModelCard(card).data.model_name == "later"
    assert 'model="team/later"' in card
    loaded = machine.load(image, "team/later")
    check_loaded(loaded["team/later"], folder, image)
