"""The files that make a Space of the page, and what happens when the Hub refuses them."""

import ast
import shlex
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from conftest import ROOT
from loopback_hub import LoopbackHub
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.demo import space


def test_needed_modules_are_found_in_all_kinds_of_imports(tmp_path, monkeypatch):
    files = {
        "start.py": "from typing import TYPE_CHECKING\n"
        "from unet_kvasir_seg.room.first import x\n"
        "if TYPE_CHECKING:\n    from unet_kvasir_seg.room.typed import T\n"
        "else:\n    from .at_runtime import T\n"
        "def run():\n    from unet_kvasir_seg.room import lazy, not_a_module\n",
        "at_runtime.py": "",
        "room/__init__.py": "from .of_package import y\n",
        "room/of_package.py": "import os\n",
        "room/first.py": "from . import sibling\nfrom ..hall.second import z\n",
        "room/sibling.py": "from .first import x\n",  # a circle ends too
        "room/lazy.py": "from PIL import Image\n",
        "room/typed.py": "",
        "hall/second.py": "try:\n    from ..demo.space import push_space\nexcept ImportError:\n    pass\n",
        "demo/space.py": "",
        "unused.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(space, "PACKAGE", tmp_path)
    assert space.needed_modules("start.py") == [
        "at_runtime.py",
        "hall/second.py",
        "room/__init__.py",
        "room/first.py",
        "room/lazy.py",
        "room/of_package.py",
        "room/sibling.py",
        "start.py",
    ]


def test_requirements_are_the_packages_that_the_page_imports():
    """Apart from gradio, which the Space's README names, and its own, and what only some models need."""
    imported = set()
    for module in space.needed_modules("app.py"):
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= {*sys.stdlib_module_names, space.PROJECT, "gradio", "onnxruntime", "timm"}
    imported -= {"fastapi", "gradio_client", "starlette", "uvicorn"}  # gradio's own
    assert {"pillow" if name == "PIL" else name for name in imported} == set(space.PACKAGES)


def test_a_space_of_a_model_on_the_hub_loads_it_from_there(tmp_path):
    files = space.write_space(tmp_path, "me/unet", "v2", None)
    assert not [file for file in files if "model" in file.relative_to(tmp_path).parts]
    assert "models:\n- me/unet\n" in (tmp_path / "README.md").read_text()
    assert "main([\"--model\", 'me/unet', \"--model_revision\", 'v2', " in (tmp_path / "app.py").read_text()


def test_timm_is_required_for_its_encoders_alone(tmp_path):
    for encoder in (None, "efficientnet_lite0", "resnet34"):
        space.write_space(tmp_path, "me/unet", None, None, encoder)
        requirements = (tmp_path / "requirements.txt").read_text()
        assert ("timm==" in requirements) == (encoder == "resnet34")


def test_a_model_without_weights_is_refused(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        space.write_space(tmp_path / "space", str(tmp_path / "model"), None, None)
    with pytest.raises(UserError, match=r"cannot show out/model\.onnx"):
        space.write_space(tmp_path / "space", "out/model.onnx", None, None)
    assert not (tmp_path / "space").exists()


def test_a_refused_push_keeps_the_files_and_says_how_to_go_on(model, monkeypatch):
    with LoopbackHub() as hub:
        hub.answer_this_process(monkeypatch)
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(UserError, match=r"The Space me/polyps cannot be made.*hf auth login"):
            space.push_space("me/polyps", str(model), None, None)
        assert hub.repos == {}

        monkeypatch.setenv("HF_TOKEN", hub.token)
        hub.refusals["POST .*/commit/"] = 403
        with pytest.raises(UserError, match="The push to me/polyps failed") as error:
            space.push_space("me/polyps", str(model), None, None)
    command = shlex.split(str(error.value).rpartition("To upload it: ")[2])
    assert command[:3] == ["hf", "upload", "me/polyps"]
    assert command[-2:] == ["--repo-type", "space"]
    kept = Path(command[3])
    assert (kept / "app.py").exists()
    shutil.rmtree(kept)


def test_a_space_is_private_on_request(model, monkeypatch):
    with LoopbackHub() as hub:
        hub.answer_this_process(monkeypatch)
        for _ in range(2):
            space.push_space("me/private", str(model), None, None, private=True)
        assert hub.repos["spaces/me/private"].private
        assert len(hub.repos["spaces/me/private"].pushes) >= 1
        space.push_space("me/public", str(model), None, None)
        before = len(hub.repos["spaces/me/public"].pushes)
        with pytest.raises(UserError, match="exists and is public; nothing was uploaded"):
            space.push_space("me/public", str(model), None, None, private=True)
        assert len(hub.repos["spaces/me/public"].pushes) == before
