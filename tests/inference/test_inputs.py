"""Files, folders, globs and links: which inputs are found, in which order, and what is refused."""

import os
import re
from pathlib import Path

import pytest
from conftest import ROOT
from hostile_files import PICTURE, encoded
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.files import IMAGE_FORMATS, IMAGE_SUFFIXES
from unet_kvasir_seg.inference.inputs import UNREAD_SUFFIXES, VIDEO_SUFFIXES, Failure, Source, find_inputs

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.png", "in/a.JPG", "in/sub/c.mp4", "in/sub/deep/d.tif", "in/.hidden.png", "in/.git/e.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
    Path("in/notes.txt").write_text("x")
    return tmp_path / "in"


def names(*arguments: str) -> list[str]:
    return [source.name for source in find_inputs(arguments, Path("out")).sources]


def reasons(*arguments: str) -> dict[str, str]:
    return {failure.path: failure.reason for failure in find_inputs(arguments, Path("out")).failures}


def test_a_folder_is_searched_in_order_without_hidden_and_other_files(folder):
    found = find_inputs(["in"], Path("out"))
    sources = found.sources
    assert [source.path for source in sources] == ["in/a.JPG", "in/b.png", "in/sub/c.mp4", "in/sub/deep/d.tif"]
    assert [source.name for source in sources] == ["a.JPG", "b.png", "sub/c.mp4", "sub/deep/d.tif"]
    assert [source.is_video for source in sources] == [False, False, True, False]
    assert found.failures == []
    assert found.ignored == ["in/.git", "in/.hidden.png", "in/notes.txt"]
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
    for argument in ("in", "in/**"):
        assert set(names(argument)) >= {"linked/f.png", "sub/deep/d.tif"}
        (failure,) = find_inputs([argument], Path("out")).failures
        assert failure.path == "in/sub/loop"
        assert "links back to a folder that holds it" in failure.reason


def test_links_to_nothing_are_named(folder):
    """Also those to a folder, as of a share that is not there today: all of its frames are missing."""
    (folder / "broken.png").symlink_to("/nowhere/f.png")
    (folder / "archive").symlink_to("/nowhere/archive")
    (folder / "itself.mp4").symlink_to("itself.mp4")
    expected = {
        "in/archive": "is a link to /nowhere/archive, which is not there: mend or remove the link",
        "in/broken.png": "is a link to /nowhere/f.png, which is not there: mend or remove the link",
        "in/itself.mp4": "is a link to itself.mp4, which is not there: mend or remove the link",
    }
    assert reasons("in") == reasons("in/*") == reasons("in/*/*.tif") == reasons(*expected) == expected
    assert "a.JPG" in names("in")


def test_pipes_with_the_ending_of_an_image_are_left_to_the_reader_and_others_ignored(folder):
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    found = find_inputs(["in"], Path("out"))
    assert "pipe.png" in [source.name for source in found.sources]
    assert "in/pipe" in found.ignored


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed_is_reported(folder):
    (folder / "sub").chmod(0)
    try:
        found = find_inputs(["in"], Path("out"))
    finally:
        (folder / "sub").chmod(0o700)
    assert [source.name for source in found.sources] == ["a.JPG", "b.png"]
    assert found.failures == [Failure("in/sub", "cannot be listed (Permission denied)")]


def test_a_named_file_that_is_no_image_is_reported(folder):
    found = find_inputs(["in/notes.txt", "in/b.png"], Path("out"))
    assert found.sources == [Source("in/b.png", "b.png")]
    assert found.failures == [Failure("in/notes.txt", "is neither an image nor a video that is known here")]


def test_every_ending_that_pillow_knows_for_the_formats_is_taken():
    Image.init()
    known = {suffix for suffix, name in Image.EXTENSION.items() if name in (*IMAGE_FORMATS, "MPO")}
    assert known <= set(IMAGE_SUFFIXES)
    assert not set(IMAGE_SUFFIXES) & set(VIDEO_SUFFIXES)
    assert not set(UNREAD_SUFFIXES) & {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}


def test_the_documents_list_these_endings():
    text = (ROOT / "docs" / "predicting.md").read_text(encoding="utf-8")
    for kind, suffixes in (("Images", IMAGE_SUFFIXES), ("Videos", VIDEO_SUFFIXES)):
        (listed,) = re.findall(rf"^\| {kind} \| (.*?) \|", text, flags=re.MULTILINE)
        assert listed == " ".join(suffixes)


@pytest.mark.parametrize(("name", "content"), [("a.mka", b"\x1aE\xdf\xa3"), ("A.M4A", b"\0\0\0\x18ftypisom")])
def test_sound_in_the_container_of_a_video_is_ignored(folder, name, content):
    (folder / name).write_bytes(content)
    assert f"in/{name}" in find_inputs(["in"], Path("out")).ignored
    assert reasons("in") == {}


def test_images_without_an_ending_are_taken_and_other_files_counted(folder):
    (folder / "IMG0001").write_bytes(encoded(PICTURE, "JPEG"))
    (folder / "IMG0002").write_bytes(encoded(PICTURE, "TIFF"))
    for name in ("Thumbs.db", ".DS_Store", "readme", "a.xml", "b.json", "c.csv.part"):
        (folder / name).write_text("some, text")
    found = find_inputs(["in"], Path("out"))
    assert [source.name for source in found.sources][:2] == ["IMG0001", "IMG0002"]
    assert [source.output("masks", ".png") for source in found.sources][:2] == [
        "masks/IMG0001.png",
        "masks/IMG0002.png",
    ]
    others = {".DS_Store", ".git", ".hidden.png", "Thumbs.db", "a.xml", "b.json", "c.csv.part", "notes.txt", "readme"}
    assert set(found.ignored) == {f"in/{name}" for name in others}
    assert found.failures == []


UNREAD = ", which is not read here. "
RENAME = ", but does not end as one. Rename it to end in "


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("frame.heic", HEIC, f"holds an image in HEIC{UNREAD}Save it as JPEG or PNG"),
        ("A.HEIF", b"", f"ends in .heif{UNREAD}Save an image as JPEG or PNG, convert a video to MP4"),
        ("frame", HEIC, f"holds an image in HEIC{UNREAD}Save it as JPEG or PNG"),
        ("IM0001", bytes(128) + b"DICM", f"holds an image in DICOM{UNREAD}Save it as JPEG or PNG"),
        ("frame.nef", encoded(PICTURE, "TIFF"), f"ends in .nef{UNREAD}Save it as JPEG or PNG"),
        ("frame.thm", encoded(PICTURE, "JPEG"), f"holds an image in JPEG{RENAME}.jpg"),
        ("a.png.part", encoded(PICTURE, "PNG"), f"holds an image in PNG{RENAME}.png"),
        ("clip.flv", b"FLV\x01", f"holds a video in Flash{UNREAD}Convert it to MP4"),
        ("clip", b"\x1aE\xdf\xa3", f"holds a video in Matroska{RENAME}.mkv"),
    ],
)
def test_what_looks_like_an_image_or_a_video_is_named(folder, name, content, reason):
    (folder / name).write_bytes(content)
    assert reasons("in") == reasons("in/*") == reasons(f"in/{name}") == {f"in/{name}": reason}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere.png", "no file or folder nowhere.png"),
        ("in/*.gif", "Nothing matches in/"),
        ("empty", r"The folder empty holds no image.*Ignored: empty/notes.txt\."),
    ],
)
def test_arguments_that_name_nothing_are_refused(folder, argument, message):
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("x")
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
