"""The documents hold together: links and paths exist, and commands use flags and modules that are there."""

import ast
import contextlib
import importlib.util
import io
import re
import shlex
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from conftest import ROOT

README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
GENERATED = re.compile(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", flags=re.DOTALL)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
# The commands that the documents show, and their modules.
MODULES = {
    **{f"{name}.py": name for name in ("train", "evaluation", "predict", "export", "convert", "app")},
    "ablation/screen.py": "ablation.screen",
    "ablation/table.py": "ablation.table",
    "benchmarks/annotations.py": "benchmarks.annotations",
    "benchmarks/bare_loop.py": "benchmarks.bare_loop",
    "benchmarks/field_of_view.py": "benchmarks.field_of_view",
    "benchmarks/ensemble.py": "benchmarks.ensemble",
    "benchmarks/frame_statistics.py": "benchmarks.frame_statistics",
    "benchmarks/labelling.py": "benchmarks.labelling",
    "benchmarks/peer.py": "benchmarks.peer",
    "benchmarks/smoothing.py": "benchmarks.smoothing",
    "benchmarks/speed.py": "benchmarks.speed",
    "benchmarks/table.py": "benchmarks.table",
}


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def section(text: str, heading: str) -> str:
    """What stands under `## heading`."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [code for kind, code in BLOCK.findall(document.read_text(encoding="utf-8")) if kind == language]


def command_lines(document: Path) -> list[str]:
    """Commands of the shell blocks, a continued one joined, and those that stand within the text."""
    prose = BLOCK.sub("", document.read_text(encoding="utf-8"))
    inline = [" ".join(code.split()) for code in re.findall(r"`((?:python|accelerate|torchrun) [^`]+)`", prose)]
    shell = [line for code in blocks(document, "bash") for line in code.replace("\\\n", " ").splitlines()]
    return [line for line in shell + inline if line.strip()]


def commands(document: Path) -> list[tuple[str, list[str]]]:
    """Each call of Python: the script, or the module after -m, and the flags that it is given."""
    calls = []
    for line in command_lines(document):
        words = shlex.split(line.replace("(", " ").replace(")", " "), comments=True)
        for number, word in enumerate(words):
            is_module = (
                word == "-m" and words[number - 1] == "python" and words[number + 1].startswith("unet_kvasir_seg")
            )
            if not is_module and not (word.endswith(".py") and words[0] != "pytest"):
                continue
            rest = words[number + 1 :]
            rest = rest[: rest.index("&&")] if "&&" in rest else rest
            flags = [flag.split("=")[0] for flag in rest if flag.startswith("--") and flag != "--"]
            calls.append((rest[0] if is_module else word, flags))
    return calls


@lru_cache
def known_flags(module: str) -> set[str]:
    """The flags that a command lists in its --help."""
    output = io.StringIO()
    main = importlib.import_module(f"unet_kvasir_seg.{module}").main
    with patch("sys.argv", [module, "--help"]), contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        main()
    lines = [line for line in output.getvalue().splitlines() if re.match(r"  (-\w[, ]|--)", line)]
    return {flag for line in lines for flag in re.findall(r"--[\w-]+", line)}


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 12_000


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_and_pictures_are_there(document):
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_each_page_is_linked_from_another():
    linked = set()
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s#]+)", document.read_text(encoding="utf-8")):
            linked.add((document.parent / link).resolve())
    assert {*DOCUMENTS} - {README} <= linked


def test_paths_of_the_file_map_are_there():
    (tree,) = BLOCK.findall(section(README.read_text(encoding="utf-8"), "Files"))
    paths, mentioned = [], []
    for line in tree[1].splitlines():
        if line.startswith(" "):
            continue
        names, _, text = line.partition("  ")
        paths += re.split(r", ", names.strip())
        mentioned += [f"{paths[-1]}{name}" for name in re.findall(r"\b[\w]+/(?=\W|$)", text)]
    assert len(paths) > 20
    for path in [*paths, *mentioned]:
        assert (ROOT / path).exists(), path
    # And none is missing: each folder with code, and each Python file in the root.
    there = {f"{path.parent.name}/" for path in ROOT.glob("*/*.py")} | {path.name for path in ROOT.glob("*.py")}
    assert {name for name in there if not name.startswith(("build", "dist", "."))} <= set(paths)


def test_paths_of_the_table_of_changes_are_there():
    table = section(README.read_text(encoding="utf-8"), "How do I change ...?")
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 7
    for _, files, tests in rows:
        for cell in (files, tests):
            paths = re.findall(r"`([\w./]+(?:\.\w+|/))`", cell)
            assert paths, cell
            for path in paths:
                assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_are_named_in_the_text_are_there(document):
    """Of what has a folder in its name, which only this repository's files have; outputs of commands aside."""
    text = BLOCK.sub("", GENERATED.sub("", document.read_text(encoding="utf-8")))
    for path in re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|md|yaml|yml|json|css|js|png))`", text):
        if not path.startswith(("outputs/", "figures/", "onnx/", "path/")):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_commands_use_flags_that_there_are(document):
    for program, flags in commands(document):
        if program.startswith("unet_kvasir_seg."):
            module = program.removeprefix("unet_kvasir_seg.")
        else:
            assert program in MODULES, program
            assert (ROOT / program).exists(), program
            module = MODULES[program]
        # Modules without a parser of their own flags need not be asked.
        unknown = set(flags) - known_flags(module) if flags else set()
        assert not unknown, (program, unknown)
        assert importlib.util.find_spec(f"unet_kvasir_seg.{module}"), program


def test_the_commands_are_found():
    """Or the test above would pass without looking at any."""
    found = {program for document in PAGES for program, _ in commands(document)}
    assert found >= MODULES.keys() | {"unet_kvasir_seg.reporting.tables"}
    assert ("train.py", ["--push_to_hub", "--hub_model_id"]) in commands(README)


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_recipes_in_commands_are_there(document):
    for line in command_lines(document):
        for recipe in re.findall(r"\brecipes/[\w-]+\.yaml", line):
            assert (ROOT / recipe).exists(), recipe


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_python_examples_import_what_is_there(document):
    for code in blocks(document, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), alias.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_no_page_needs_another_commit(document):
    text = GENERATED.sub("", document.read_text(encoding="utf-8"))
    assert not re.search(r"git (worktree|checkout|switch|restore|reset|show)\b", text)
    assert not re.search(r"\bcommit [0-9a-f]{7,40}\b", text)


def test_the_workflow_calls_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert {repo["repo"] for repo in hooks} == {"local"}  # no other host, and the environment's own versions
