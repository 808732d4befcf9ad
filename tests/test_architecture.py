"""The rooms of the house: each imports only from rooms above it in this list, and never from the commands."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# Room -> the rooms that it may import from, itself aside. "hub" stands for the files that the Hub runs.
MAY_IMPORT = {
    "hub": set(),
    "common": set(),
    "data": {"common", "hub"},
    "inference": {"common", "hub"},
    "scoring": {"common", "hub", "data", "inference"},
    "reporting": {"common", "hub", "inference"},
    "training": {"common", "hub", "data", "inference", "scoring", "reporting"},
    "onnx_export": {"common", "hub", "data", "inference", "scoring"},
    "demo": {"common", "hub", "inference", "reporting"},
}
COMMANDS = ("train", "evaluation", "predict", "export", "convert", "app")
HUB = (
    *("configuration_unet", "data_collator", "encoder_unet", "field_of_view_unet"),
    *("image_processing_unet", "losses_unet", "modeling_unet", "pipeline_unet", "regions_unet"),
)


def room_of(module: str) -> str:
    """The room of a module of the package, such as "inference.predictor"."""
    first = module.split(".")[0]
    return "hub" if first in HUB else first


def imported_modules(file: Path) -> set[str]:
    """The package's modules that a file names in an import, wherever in the file, as "inference.predictor"."""
    here = file.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".")
        if node.level:
            parts = [*here[: len(here) - node.level + 1], *filter(None, parts)]
        elif parts.pop(0) != "unet_kvasir_seg":
            continue
        # `from . import x` and `from unet_kvasir_seg.scoring import x` name modules.
        found |= (
            {".".join(parts)}
            if len(parts) > 1 or parts[:1] in [[name] for name in HUB]
            else {".".join([*parts, alias.name]) for alias in node.names}
        )
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_above_it(room):
    files = [ROOT / f"{name}.py" for name in HUB] if room == "hub" else sorted((ROOT / room).rglob("*.py"))
    assert files
    imports = {(file.name, module) for file in files for module in imported_modules(file)}
    allowed = MAY_IMPORT[room] | {room}
    assert {(file, module) for file, module in imports if room_of(module) not in allowed} == set()


def test_the_rooms_form_no_circle():
    """Each room may be imported by rooms that stand after it in the list alone."""
    above: set[str] = set()
    for room, allowed in MAY_IMPORT.items():
        assert allowed <= above
        above.add(room)


def test_modules_of_a_room_form_no_circle():
    """Imports inside functions aside, the order in which modules are loaded never matters."""
    waiting = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): imported_modules(file)
        for room in MAY_IMPORT
        for file in ([ROOT / f"{name}.py" for name in HUB] if room == "hub" else (ROOT / room).rglob("*.py"))
    }
    waiting = {module: imports & waiting.keys() for module, imports in waiting.items()}
    # modeling_unet names pipeline_unet for the Hub only, which copies files that are named in a relative import.
    waiting["modeling_unet"] -= {"pipeline_unet"}
    while free := {module for module, imports in waiting.items() if not imports}:
        waiting = {module: imports - free for module, imports in waiting.items() if module not in free}
    assert waiting == {}


def test_every_room_is_installed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for room in MAY_IMPORT.keys() - {"hub"}:
        assert f'"unet_kvasir_seg.{room}"' in text


def test_commands_are_short_and_no_file_hides_an_installed_package():
    for command in COMMANDS:
        assert len((ROOT / f"{command}.py").read_text(encoding="utf-8").splitlines()) <= 300
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    installed = {"onnx", "datasets", "evaluate", "torch", "transformers", "gradio", "av", *sys.stdlib_module_names}
    assert not names & installed
    assert not (ROOT / "__init__.py").exists()
