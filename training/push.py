"""Pushes a run that has ended: what a push at its end would have uploaded."""

from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from ..common.errors import UserError
from ..common.files import write_atomic
from ..common.hub import make_repo, push_files
from ..common.local_paths import near_paths
from ..common.output_lock import output_lock
from ..inference.checkpoint import load_checkpoint
from ..reporting.model_card import fill_card
from ..reporting.results import (
    Results,
    exports_of,
    known_results,
    read_results,
    refuse_project_folder,
    write_results,
)
from .arguments import PushFlags
from .checkpoints import checkpoints_in
from .outcome import print_usage
from .saving import check_saved
from .trainer import PUSHED_FILES, files_to_push


def push_finished(flags: PushFlags) -> None:
    """Push a finished run in one commit, after the checks of the end of a training, and print how to use it.

    The card and `results.json` in its folder name the repository then.

    Raises:
        UserError: If there is no such run, files of it are missing or of other weights, a command is writing into its
            folder, or the Hub refuses. Nothing is uploaded then.
    """
    disable_progress_bar()  # of loading weights, which takes no time
    folder = Path(flags.push_finished)
    if not flags.push_finished.strip() or not folder.is_dir():
        near = near_paths(flags.push_finished)
        raise UserError(f"There is no folder {flags.push_finished!r}{near}: expected the --output_dir of a training.")
    refuse_project_folder(folder)
    with output_lock(folder, "train.py", ["figures"]):
        results = _finished_run(folder)
        files = _files_of(folder, results)
        repo = make_repo(
            flags.hub_model_id or results["model"]["repository"] or folder.resolve().name, flags.hub_private_repo
        )
        results["model"] |= {"name": repo.split("/")[-1], "repository": repo}
        # The card lists the ONNX files of the repository, which export.py pushes.
        results.pop("exports", None)
        if exports := exports_of(str(results["model"]["fingerprint"]), known_results(repo, flags.hub_revision)):
            results["exports"] = exports
        card = fill_card(results)
        write_results(folder / "results.json", results)
        write_atomic(folder / "README.md", card.encode())
        url = push_files(repo, folder, files, "Push the finished training", flags.hub_revision)
    print_usage(results, str(folder), url)


def _finished_run(folder: Path) -> Results:
    """What `results.json` says of a finished run, whose files are there and of the weights that it describes.

    Raises:
        UserError: If it is not finished, or files are missing or damaged.
    """
    if not (folder / "results.json").is_file() and checkpoints_in(folder):
        raise UserError(
            f"The training in {folder} has not ended: there are checkpoints, but no results.json. Go on with "
            "--resume_from_checkpoint, and --push_to_hub to push it at its end."
        )
    results = read_results(folder / "results.json")
    if not results["training"] or not results["model"].get("fingerprint"):
        raise UserError(f"{folder} holds other results than those of a training: expected a folder of train.py.")
    check_saved(folder, str(results["model"]["fingerprint"]))
    load_checkpoint(str(folder))
    return results


def _files_of(folder: Path, results: Results) -> list[Path]:
    """The files to upload: those of a push at the end, and the pictures that the card shows.

    Raises:
        UserError: If one is missing.
    """
    evaluation, training = results["evaluation"], results["training"]
    assert training is not None
    shown = evaluation["figures"] if evaluation else training.get("figures", [])
    pictures = [f"figures/{Path(name).name}" for name in shown]  # never a file elsewhere
    needed = [name for name in PUSHED_FILES if name.endswith((".py", ".json", ".md")) and "index" not in name]
    missing = [name for name in [*needed, *pictures] if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}, which a push uploads. Write it again with --resume_from_checkpoint."
        )
    return list(dict.fromkeys([*files_to_push(folder), *(folder / name for name in pictures)]))
