"""Pushes the page of app.py as a Hugging Face Space: what it needs, in one commit, and nothing else."""

import ast
import re
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, SpaceCardData

from ..common.errors import UserError, first_line
from ..common.hub import push_files
from ..common.paths import PACKAGE

PROJECT = "unet_kvasir_seg"

# What the page imports; gradio is named in the Space's README.
PACKAGES = (
    *("av", "huggingface_hub", "numpy", "pillow", "safetensors", "scipy", "torch", "torchvision", "tqdm"),
    "transformers",
)
WEIGHTS = ("config.json", "model.safetensors", "preprocessor_config.json")

LAUNCHER = '''"""Serves the page, on the address that a Space shows."""

from pathlib import Path

from unet_kvasir_seg.app import main

FOLDER = Path(__file__).resolve().parent

main([{arguments}, "--host", "0.0.0.0", "--port", "7860"])
'''
README = """---
{metadata}
---

# Polyp segmentation

Upload a colonoscopy image or a short video, and see the polyps that {model} finds.

**Research use only. Not a medical device; not for diagnosis or treatment.**
"""


def needed_modules(first: str) -> list[str]:
    """The project's modules that one of them imports, itself and those that they import included; not this one."""
    needed: set[str] = set()
    waiting = [first]
    while waiting:
        module = waiting.pop()
        if module in needed:
            continue
        needed.add(module)
        for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            parts = node.module.split(".")
            if node.level:
                parts = [*Path(module).parts[: -node.level], *parts]
            elif parts.pop(0) != PROJECT:
                continue
            if parts != ["demo", "space"]:
                waiting.append("/".join(parts) + ".py")
    return sorted(needed)


def push_space(space: str, model: str, revision: str | None, name: str) -> str:
    """Upload a Space; returns the URL of the commit.

    Args:
        space: Id of the Space, made if it is not there.
        model: A folder, whose weights are uploaded with it, or an id on the Hub, which it loads.
        revision: Of an id on the Hub.
        name: Of the model.

    Raises:
        UserError: If a file of the model is missing, or the Hub refuses or cannot be reached.
    """
    folder = Path(tempfile.mkdtemp(prefix="unet-space-"))
    files = write_space(folder, model, revision, name)
    try:
        created = HfApi().create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
    except Exception as error:  # whatever the HTTP client and the Hub raise
        shutil.rmtree(folder)
        raise UserError(
            f"The Space {space} cannot be made: {first_line(error)}. Expected OWNER/NAME, and a login that may write: "
            "hf auth login."
        ) from error
    url = push_files(created.repo_id, folder, files, f"Show {name}", repo_type="space")
    shutil.rmtree(folder)
    return url


def write_space(folder: Path, model: str, revision: str | None, name: str) -> list[Path]:
    """Write the files of a Space into a folder; returns them. The arguments are those of `push_space`."""
    # A folder beside the Space's app.py, so that nothing is to be installed.
    files = {f"unet_kvasir_seg/{module}": (PACKAGE / module).read_bytes() for module in needed_modules("app.py")}
    metadata = SpaceCardData(
        title="Polyp segmentation",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license="other",
        license_name="apache-2.0-code-with-weights-under-the-terms-of-their-data",
    )
    if Path(model).is_dir():
        for file in WEIGHTS:
            if not (Path(model) / file).is_file():
                raise UserError(f"{model} holds no {file}. A Space takes a folder with {', '.join(WEIGHTS)}.")
        there = [file for file in (*WEIGHTS, "results.json") if (Path(model) / file).is_file()]
        files |= {f"model/{file}": (Path(model) / file).read_bytes() for file in there}
        arguments = '"--model", str(FOLDER / "model")'
    else:
        metadata.models = [model]
        arguments = f'"--model", {model!r}' + (f', "--model_revision", {revision!r}' if revision else "")
    files |= {
        "README.md": README.format(metadata=metadata.to_yaml(), model=name).encode(),
        "app.py": LAUNCHER.format(arguments=arguments).encode(),
        # As they were seen to work together; a local build's suffix, such as +cpu, is in no registry.
        "requirements.txt": "".join(
            f"{package}=={re.sub(r'[+].*', '', version(package))}\n" for package in PACKAGES
        ).encode(),
    }
    for file, content in files.items():
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return [folder / file for file in files]
