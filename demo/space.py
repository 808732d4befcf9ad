"""Pushes the page of app.py as a Hugging Face Space: the files that it needs, in one commit, and no others."""

import ast
import re
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, SpaceCardData

from ..common.errors import UserError, first_line
from ..common.hub import push_files
from ..common.notice import NOTICE
from ..common.paths import PACKAGE
from ..encoder_unet import LITE_SCALES
from ..reporting.results import Results, as_json, public_name
from .locked_folder import LockedFolder, cannot_write_temporary

PROJECT = "unet_kvasir_seg"

# The packages that the page imports, for requirements.txt; the README states gradio's version.
PACKAGES = (
    "av",
    "filelock",
    "huggingface_hub",
    "numpy",
    "pillow",
    "scipy",
    "torch",
    "torchvision",
    "tqdm",
    "transformers",
)
FOLDER_PREFIX = "unet-space-"
STYLE = "demo/style.css"
WEIGHTS = ("config.json", "model.safetensors", "preprocessor_config.json")

LAUNCHER = '''"""Serves the page, on the address that a Space shows."""

from pathlib import Path

from unet_kvasir_seg.app import main

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":  # processes that decode images import this file too
    main([{arguments}, "--host", "0.0.0.0", "--port", "7860"])
'''
README = """---
{metadata}
---

# Polyp segmentation

Upload a colonoscopy image or a short video, and see the polyps that the model {model} finds.

**{notice}**
"""


def needed_modules(first: str) -> list[str]:
    """The modules of the project that one of them needs to run: itself and all that it imports, directly or not.

    Imports inside functions count; those for type checkers do not. This module is left out: a Space does not need it.

    Args:
        first: Path of a module in the project, such as "app.py".

    Returns:
        Paths in the project, sorted.
    """
    needed: set[str] = set()
    waiting = [first]
    while waiting:
        module = waiting.pop()
        if module in needed or module == "demo/space.py":
            continue
        needed.add(module)
        packages = [f"{folder}/__init__.py" for folder in Path(module).parents]
        waiting += [package for package in packages if (PACKAGE / package).is_file()]
        finder = _ImportFinder()
        finder.visit(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))
        for node in finder.imports:
            waiting += _modules_of(node, module)
    return sorted(needed)


class _ImportFinder(ast.NodeVisitor):
    """Collects the statements "from ... import ..." of a module that may be executed."""

    def __init__(self) -> None:
        self.imports: list[ast.ImportFrom] = []

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imports.append(node)

    def visit_If(self, node: ast.If) -> None:
        is_for_type_checkers = ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.orelse if is_for_type_checkers else [*node.body, *node.orelse]:
            self.visit(statement)


def _modules_of(node: ast.ImportFrom, module: str) -> list[str]:
    """Paths of the project's modules that an import in `module` names, before or after the word "import"."""
    parts = node.module.split(".") if node.module else []
    if node.level:
        parts = [*Path(module).parts[: -node.level], *parts]
    elif parts.pop(0) != PROJECT:
        return []
    named = "/".join(parts)
    candidates = [f"{named}.py", *(f"{named}/{alias.name}.py" for alias in node.names)]
    return [candidate for candidate in candidates if (PACKAGE / candidate).is_file()]


def push_space(
    space: str,
    model: str,
    revision: str | None,
    results: Results | None,
    encoder: str | None = None,
    private: bool = False,
    field_of_view: str | None = None,
) -> str:
    """Upload a Space; returns the URL of the commit.

    Args:
        space: Id of the Space; it is created if it does not exist.
        model: A folder, whose weights are uploaded too, or an id on the Hub, which the Space loads.
        revision: Branch, tag or commit of an id on the Hub.
        results: Of the model, if there are any. The name of its folder is not published.
        encoder: Of the model, as in `UNetConfig`; the Space installs timm for those of timm.
        private: Whether others than its owner are kept out of the Space.
        field_of_view: What the network sees of a frame, as app.py takes it; None: the model's own setting.

    Raises:
        UserError: If the model is an ONNX file, one of its files is missing, the Hub refuses or cannot be reached, or
            a Space that is to be private exists and is public.
    """
    made = LockedFolder(FOLDER_PREFIX)
    with ExitStack() as stack:
        stack.callback(made.delete)
        files = write_space(made.path, model, revision, results, encoder, field_of_view)
        repo = make_space(space, private)
        try:
            return push_files(repo, made.path, files, f"Show {public_name(model, results)}", repo_type="space")
        except UserError:  # it says how to upload these files later
            stack.pop_all()
            made.release()
            raise


def make_space(space: str, private: bool) -> str:
    """Create a Space unless it exists; returns its full id.

    Raises:
        UserError: If the Hub refuses or cannot be reached, or a Space that is to be private exists and is public.
    """
    try:
        created = HfApi().create_repo(
            space, repo_type="space", space_sdk="gradio", exist_ok=True, private=private or None
        )
        is_public = private and not HfApi().repo_info(created.repo_id, repo_type="space").private
    except Exception as error:  # the HTTP client's and the Hub's errors have no common base
        raise UserError(
            f"The Space {space} cannot be made: {first_line(error)}. Expected OWNER/NAME, and a login that may write: "
            "hf auth login."
        ) from error
    if is_public:
        raise UserError(
            f"The Space {space} exists and is public; nothing was uploaded. Make it private in its settings."
        )
    return created.repo_id


def write_space(
    folder: Path,
    model: str,
    revision: str | None,
    results: Results | None,
    encoder: str | None = None,
    field_of_view: str | None = None,
) -> list[Path]:
    """Write the files of a Space into a folder; returns their paths.

    Args:
        folder: An empty folder.
        model, revision, results, encoder, field_of_view: As for `push_space`.

    Raises:
        UserError: If the model is an ONNX file, one of its files is missing, or `folder` cannot be written to.
    """
    if model.endswith(".onnx"):
        raise UserError(f"A Space cannot show {model}: expected a folder or an id on the Hub, with the weights.")
    name = public_name(model, results)
    # The package lies beside the Space's app.py and is imported from there, without being installed.
    code = [*needed_modules("app.py"), STYLE]
    files = {f"{PROJECT}/{file}": (PACKAGE / file).read_bytes() for file in code}
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
        files |= {f"model/{file}": (Path(model) / file).read_bytes() for file in WEIGHTS}
        if results:
            files["model/results.json"] = as_json({**results, "model": {**results["model"], "name": name}})
        arguments = '"--model", str(FOLDER / "model")'
    else:
        metadata.models = [model]
        arguments = f'"--model", {model!r}' + (f', "--model_revision", {revision!r}' if revision else "")
    if field_of_view is not None:
        arguments += f', "--field_of_view", {field_of_view!r}'
    files["README.md"] = README.format(notice=NOTICE, metadata=metadata.to_yaml(), model=name).encode()
    files["app.py"] = LAUNCHER.format(arguments=arguments).encode()
    packages = PACKAGES if encoder is None or encoder in LITE_SCALES else (*PACKAGES, "timm")
    files["requirements.txt"] = "".join(f"{package}=={published_version(package)}\n" for package in packages).encode()
    try:
        for file, content in files.items():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except OSError as error:
        raise cannot_write_temporary(error) from error
    return [folder / file for file in files]


def published_version(package: str) -> str:
    """The installed version without a local build's suffix, such as +cpu, which registries do not have."""
    return re.sub(r"[+].*", "", version(package))
