"""Which numbered folders are found, and which name is free."""

import os
from pathlib import Path

from unet_kvasir_seg.common.numbered_folders import next_free, numbered_folders


def names(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


def test_folders_are_found_in_the_order_of_their_numbers(tmp_path):
    first = tmp_path / "a.b"
    assert numbered_folders(first) == []
    assert numbered_folders(tmp_path / "absent" / "a") == []
    for name in ("a.b-10", "a.b-2", "a.b", "a.b-1", "a.b-02", "a.b-2-2", "axb-3", "a.b-x", "a.b-0"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.b-4").touch()
    assert names(numbered_folders(first)) == ["a.b", "a.b-2", "a.b-10"]


def test_a_name_is_free_if_nothing_is_there_or_nothing_but_what_a_killed_run_leaves(tmp_path):
    first = tmp_path / "a"
    assert next_free(first) == first
    first.mkdir()
    (first / ".lock").touch()
    assert next_free(first) == first
    (first / "run.json").touch()
    assert next_free(first).name == "a-2"
    (tmp_path / "a-2").touch()
    os.symlink(tmp_path / "absent", tmp_path / "a-3")
    (tmp_path / "a-4" / "notes").mkdir(parents=True)
    assert next_free(first).name == "a-5"
    assert next_free(tmp_path / "absent" / "b").name == "b"
