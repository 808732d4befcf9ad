"""`convert.py` from its command line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from plain_unets import CardLayout, FlatLayout, ListLayout, NormedLayout, assert_same_outputs, randomise, save
from unet_kvasir_seg import convert
from unet_kvasir_seg.convert import main
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation


def run_convert(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_command_writes_a_checkpoint_that_loads_anywhere(tmp_path):
    network = randomise(CardLayout())
    source = tmp_path / "source"
    source.mkdir()
    save(network.state_dict(), source / "model.safetensors")
    done = run_convert("source", "--output_dir", "converted", "--concat", "skip-first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "base_channels=4, depth=4, num_channels=3, norm=none, upsampling=transpose" in done.stdout
    assert "--concat" in done.stdout

    folder = tmp_path / "converted"
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "configuration_unet.py",
        "modeling_unet.py",
        "image_processing_unet.py",
        "regions_unet.py",
        "field_of_view_unet.py",
    }
    assert str(tmp_path) not in (folder / "config.json").read_text()
    assert_same_outputs(network, UNetForSemanticSegmentation.from_pretrained(folder))

    images, logits = tmp_path / "images.pt", tmp_path / "logits.pt"
    torch.save(torch.rand(1, 3, 32, 32), images)
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, torch\n"
            "from transformers import AutoImageProcessor, AutoModel\n"
            "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "torch.save(model(torch.load(sys.argv[2])).logits.detach(), sys.argv[3])",
            *map(str, (folder, images, logits)),
        ],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert loaded.returncode == 0, loaded.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(logits), network(torch.load(images)), rtol=1e-5, atol=1e-5)


def test_the_command_refuses_without_a_traceback_and_writes_nothing(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 cut off")
    done = run_convert("broken.pt", "--output_dir", "converted", "--concat", "skip-first", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("convert.py: error: broken.pt is broken")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "converted").exists()


def test_options_reach_the_conversion(tmp_path, capsys):
    network = randomise(ListLayout())
    source = save(network.state_dict(), tmp_path / "unet.bin")
    main([str(source), "--output_dir", str(tmp_path / "lists"), "--concat", "upsampled-first"])
    assert_same_outputs(network, UNetForSemanticSegmentation.from_pretrained(tmp_path / "lists"))

    network = randomise(FlatLayout("group"))
    source = save(network.state_dict(), tmp_path / "unet.safetensors")
    main(
        [
            str(source),
            "--output_dir",
            str(tmp_path / "flat"),
            "--concat",
            "skip-first",
            "--norm",
            "group",
            "--num_groups",
            "2",
        ]
    )
    assert_same_outputs(network, UNetForSemanticSegmentation.from_pretrained(tmp_path / "flat"))
    assert "makes 3 channels" not in capsys.readouterr().out


def test_a_network_of_grey_images_is_written_with_a_warning(tmp_path, capsys):
    source = save(randomise(NormedLayout()).state_dict(), tmp_path / "unet.pt")
    main([str(source), "--output_dir", str(tmp_path / "out"), "--concat", "skip-first"])
    assert "makes 3 channels, not 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_channels"] == 1


@pytest.mark.parametrize("held", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_a_model_is_never_overwritten(tmp_path, capsys, held):
    source = save(CardLayout().state_dict(), tmp_path / "unet.pt")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / held).write_text("mine")
    with pytest.raises(SystemExit) as caught:
        main([str(source), "--output_dir", str(folder), "--concat", "skip-first"])
    assert caught.value.code == 2
    assert f"holds a model already ({held}). Choose another --output_dir." in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [held]
    assert (folder / held).read_text() == "mine"


def test_an_output_file_is_refused(tmp_path, capsys):
    source = save(CardLayout().state_dict(), tmp_path / "unet.pt")
    with pytest.raises(SystemExit):
        main([str(source), "--output_dir", str(source), "--concat", "skip-first"])
    assert "is a file. Choose a folder." in capsys.readouterr().err


def test_the_commands_of_the_docstring_work_as_written(tmp_path, monkeypatch):
    commands = re.findall(r"^    python convert\.py (.+)$", convert.__doc__, flags=re.MULTILINE)
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    for command in commands:
        arguments = shlex.split(command)
        source = Path(arguments[0])
        file = source if source.suffix else source / "model.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        network = randomise(ListLayout() if "upsampled-first" in arguments else CardLayout())
        save(network.state_dict(), file)
        output = Path(arguments[arguments.index("--output_dir") + 1])
        main(arguments)
        assert_same_outputs(network, UNetForSemanticSegmentation.from_pretrained(output))
        for written in output.iterdir():
            written.unlink()


@pytest.mark.parametrize(("flag", "value"), [("--concat", "first"), ("--norm", "layer")])
def test_unknown_values_are_refused(tmp_path, capsys, flag, value):
    source = save(CardLayout().state_dict(), tmp_path / "unet.pt")
    with pytest.raises(SystemExit) as caught:
        main([str(source), "--output_dir", str(tmp_path / "out"), "--concat", "skip-first", flag, value])
    assert caught.value.code == 2
    assert "must be one of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
