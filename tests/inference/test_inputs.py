"""Files, folders, globs and links: which inputs are found, in which order, and what is refused."""

import os
from pathlib import Path

import pytest
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.inference.inputs import Failure, Source, find_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.png", "in/a.JPG", "in/sub/c.mp4", "in/sub/deep/d.tif", "in/.hidden.png", "in/.git/e.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
    Path("in/notes.txt").write_text("x")
    return tmp_path / "in"


def names(*arguments: str) -> list[str]:
    return [source.name for source in find_inputs(arguments, Path("out"))[0]]


def test_a_folder_is_searched_in_order_without_hidden_and_other_files(folder):
    sources, failures = find_inputs(["in"], Path("out"))
    assert [source.path for source in sources] == ["in/a.JPG", "in/b.png", "in/sub/c.mp4", "in/sub/deep/d.tif"]
    assert [source.name for source in sources] == ["a.JPG", "b.png", "sub/c.mp4", "sub/deep/d.tif"]
    assert [source.is_video for source in sources] == [False, False, True, False]
    assert failures == []
    assert names(str(folder)) == names("in/") == names("./in") == [source.name for source in sources]


def test_names_of_files_and_globs(folder):
    assert names("in/sub/deep/d.tif", "in/b.png") == ["d.tif", "b.png"]
    assert names("in/**/*.tif") == ["sub/deep/d.tif"]
    assert names("in/*/deep") == ["sub/deep/d.tif"]
    assert names("in/[ab].*") == ["a.JPG", "b.png"]
    assert names("in/**") == ["a.JPG", "b.png", "sub/c.mp4", "sub/deep/d.tif"]
    assert names("**/.hidden.png") == ["in/.hidden.png"]


def test_links_are_followed_and_loops_reported(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f.png").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "broken.png").symlink_to(tmp_path / "nothing")
    for argument in ("in", "in/**"):
        sources, failures = find_inputs([argument], Path("out"))
        assert {source.name for source in sources} >= {"linked/f.png", "broken.png", "sub/deep/d.tif"}
        assert [failure.path for failure in failures] == ["in/sub/loop"]
        assert "links back to a folder that holds it" in failures[0].reason


def test_sockets_and_pipes_are_passed_over(folder):
    os.mkfifo(folder / "pipe.png")
    assert "pipe.png" not in names("in")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed_is_reported(folder):
    (folder / "sub").chmod(0)
    try:
        sources, failures = find_inputs(["in"], Path("out"))
    finally:
        (folder / "sub").chmod(0o700)
    assert [source.name for source in sources] == ["a.JPG", "b.png"]
    assert failures == [Failure("in/sub", "cannot be listed (Permission denied)")]


def test_a_file_with_another_suffix_is_reported(folder):
    sources, failures = find_inputs(["in/notes.txt", "in/b.png"], Path("out"))
    assert sources == [Source("in/b.png", "b.png")]
    assert [failure.path for failure in failures] == ["in/notes.txt"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere.png", "no file or folder nowhere.png"),
        ("in/*.gif", "Nothing matches in/"),
        ("empty", "The folder empty holds no image"),
    ],
)
def test_arguments_that_name_nothing_are_refused(folder, argument, message):
    Path("empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_inputs([argument], Path("out"))


def test_outputs_among_the_inputs_are_refused(folder):
    for output in ("in", "in/out"):
        with pytest.raises(UserError, match="would take masks for images"):
            find_inputs(["in"], Path(output))
    masks = Path("out/masks")
    masks.mkdir(parents=True)
    (masks / "b.png").write_text("x")
    for argument in ("out/masks", "out/masks/b.png", "out/**/*.png"):
        with pytest.raises(UserError, match="is among the outputs"):
            find_inputs([argument], Path("out"))


def test_two_inputs_of_one_output_are_refused(folder):
    Path("in/b.bmp").write_text("x")
    with pytest.raises(UserError, match=r"in/b.bmp and in/b.png would both become masks/b.png"):
        find_inputs(["in"], Path("out"))
