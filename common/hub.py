"""Uploading to the Hugging Face Hub: one commit with exactly the files that are named."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi

from .errors import UserError, first_line


def push_files(
    repo: str,
    folder: Path,
    files: Sequence[Path],
    message: str,
    revision: str | None = None,
    repo_type: str = "model",
) -> str:
    """Upload files of `folder`, under their names there, in one commit; returns its URL.

    Args:
        repo: Id on the Hub; it is there.
        folder: Holds the files.
        files: What to upload.
        message: Of the commit.
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
        # The flag is given once, with all names, before version 1, and once a name since.
        is_old = huggingface_hub.__version__.startswith("0.")
        command += ["--include", *names] if is_old else [word for name in names for word in ("--include", name)]
        command += ["--revision", revision] if revision else []
        command += ["--repo-type", repo_type] if repo_type != "model" else []
        raise UserError(
            f"The push to {repo} failed: {first_line(error)}. What was to be uploaded is safe in {folder}. "
            f"To upload it: {shlex.join(command)}"
        ) from error
    return commit.commit_url
