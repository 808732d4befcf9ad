"""Uploads to the Hugging Face Hub: one commit with exactly the files given."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from .errors import UserError, first_line


def check_writable(repo: str, repo_type: str = "model") -> None:
    """Check, before the work whose outcome is to be pushed, that a repo is there and may be written to.

    It asks what every upload asks first, how the repo would store a file; nothing is uploaded.

    Args:
        repo: Id of the repo on the Hub.
        repo_type: "model" or "space".

    Raises:
        UserError: If it is not there or not writable, or the Hub cannot be reached.
    """
    try:
        HfApi().preupload_lfs_files(repo, [CommitOperationAdd("results.json", b"{}")], repo_type=repo_type)
    except Exception as error:  # whatever the HTTP client and the Hub raise
        raise UserError(
            f"Nothing can be pushed to {repo}: "
            + _reason_and_remedy(
                error,
                "Expected a repo that is there and may be written to: create it on the Hub, or log in with "
                "`hf auth login` to an account that may write to it.",
            )
        ) from error


def make_repo(name: str, private: bool | None = None) -> str:
    """Make a model repo on the Hub, unless it is there; returns its id, which has its owner's name.

    Args:
        name: With or without its owner.
        private: Whether nobody else may see it; None: as its owner has set. One that is there stays as it is.

    Raises:
        UserError: If the Hub refuses or cannot be reached.
    """
    try:
        return HfApi().create_repo(name, private=private, exist_ok=True).repo_id
    except Exception as error:  # whatever the HTTP client and the Hub raise
        raise UserError(
            f"The repository {name} cannot be made on the Hub: "
            + _reason_and_remedy(
                error,
                "Run `hf auth login` or set HF_TOKEN, check the name (--hub_model_id), or leave out the push.",
            )
        ) from error


def _reason_and_remedy(error: Exception, remedy: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "the environment variable HF_HUB_OFFLINE forbids it. Unset it to push."
    return f"{first_line(error)}. {remedy}"


def push_files(
    repo: str,
    folder: Path,
    files: Sequence[Path],
    message: str,
    revision: str | None = None,
    repo_type: str = "model",
) -> str:
    """Upload files in one commit, under their paths in `folder`; returns the commit's URL.

    Args:
        repo: Id of an existing repo on the Hub.
        folder: Folder that holds the files.
        files: Files to upload.
        message: The commit's message.
        revision: Branch to commit to; the main one by default.
        repo_type: "model" or "space".

    Raises:
        UserError: If the Hub refuses or cannot be reached; the message says how to upload the same files later.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    try:
        # Not `upload_folder`: it may split an upload into several commits.
        commit = HfApi().create_commit(
            repo,
            [CommitOperationAdd(name, folder / name) for name in names],
            commit_message=message,
            revision=revision,
            repo_type=repo_type,
        )
    except Exception as error:  # whatever the HTTP client and the Hub raise
        command = ["hf", "upload", repo, str(folder), "."]
        # Before version 1, --include takes all names at once; since then it is given once a name.
        is_old = huggingface_hub.__version__.startswith("0.")
        command += ["--include", *names] if is_old else [word for name in names for word in ("--include", name)]
        command += ["--revision", revision] if revision else []
        command += ["--repo-type", repo_type] if repo_type != "model" else []
        raise UserError(
            f"The push to {repo} failed: {first_line(error)}. What was to be uploaded is safe in {folder}. "
            f"To upload it: {shlex.join(command)}"
        ) from error
    return commit.commit_url
