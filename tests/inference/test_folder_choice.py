"""Which output folder a run takes where none is named."""

import json
import os
from pathlib import Path

import pytest
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.output_lock import output_lock
from unet_kvasir_seg.inference.folder_choice import (
    FIRST_FOLDER,
    choose_folder,
    folder_to_report,
    possible_folders,
    run_folder,
)
from unet_kvasir_seg.inference.inputs import Inputs, Source
from unet_kvasir_seg.inference.output_folder import open_output

IMAGE, VIDEO = Source("a.png", "a.png"), Source("a.mp4", "a.mp4")
IMAGES, VIDEOS, BOTH = Inputs([IMAGE], [], []), Inputs([VIDEO], [], []), Inputs([IMAGE, VIDEO], [], [])


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def settings(model: str = "first", threshold: float = 0.5, smoothing: float = 0.0) -> dict:
    return {"model": model, "threshold": threshold, "smoothing": smoothing, "alert_seconds": 0.5}


def make(number: int, *outputs: str, used: int = 0, **values) -> Path:
    """A folder with a run of these settings, its outputs, and the second in which it was used last."""
    folder = FIRST_FOLDER if number == 1 else Path(f"{FIRST_FOLDER}-{number}")
    open_output(folder, settings(**values), with_videos="videos/a.mp4" in outputs)
    for name in outputs:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    os.utime(folder / "run.json", (used, used))
    return folder


def chosen(found: Inputs, **values) -> str:
    return choose_folder(settings(**values), found)[0].name


def test_the_first_run_takes_the_first_folder():
    assert choose_folder(settings(), IMAGES) == (Path("outputs/predictions"), "")
    assert possible_folders(None) == [Path("outputs/predictions")]
    assert possible_folders(Path("out")) == [Path("out")]


def test_settings_count_for_what_they_shape():
    make(1, "masks/a.png", used=1)
    for found in (IMAGES, VIDEOS, BOTH):
        assert chosen(found, smoothing=0.6) == "predictions"
        assert chosen(found, threshold=0.4) == "predictions-2"
        assert chosen(found, model="other") == "predictions-2"
    make(1, "videos/a.mp4", used=1, smoothing=0.6)
    assert chosen(IMAGES) == "predictions"
    for found in (VIDEOS, BOTH):
        assert chosen(found, smoothing=0.6) == "predictions"
        assert chosen(found) == "predictions-2"
    # A run of images leaves the settings of the videos that are there.
    open_output(FIRST_FOLDER, settings(), with_videos=False)
    assert json.loads((FIRST_FOLDER / "run.json").read_text())["smoothing"] == 0.6


def test_a_run_of_images_by_an_earlier_version_takes_videos():
    """Its run.json has the settings of videos, although there are none."""
    folder = make(1, used=1)
    (folder / "run.json").write_text(json.dumps(settings()))
    (folder / "masks" / "a.png").touch()
    assert chosen(VIDEOS, smoothing=0.6) == "predictions"


def test_a_run_that_wrote_nothing_binds_nobody():
    """As one that was killed at its start, or whose inputs were all damaged."""
    folder = make(1, used=1)
    (folder / "videos" / "deep").mkdir(parents=True)
    (folder / "videos" / "deep" / ".0123456789abcdef.part").touch()
    assert chosen(BOTH, model="other", threshold=0.4) == "predictions"
    open_output(folder, settings(model="other"))
    assert json.loads((folder / "run.json").read_text())["model"] == "other"


def test_of_several_the_one_with_outputs_of_the_kind_and_then_the_one_used_last_is_taken():
    make(1, "masks/a.png", used=5)
    make(2, "masks/a.png", used=9)
    make(3, "videos/a.mp4", used=7)
    make(4, used=20)
    make(5, "masks/a.png", used=30, model="other")
    assert chosen(IMAGES) == "predictions-2"
    assert chosen(VIDEOS) == "predictions-3"
    assert chosen(BOTH) == "predictions-2"
    make(10, "masks/a.png", used=9)  # as a copy: of the same second, the one with the higher number
    assert chosen(IMAGES) == "predictions-10"
    assert [folder.name for folder in possible_folders(None)] == [
        *("predictions", "predictions-2", "predictions-3", "predictions-4", "predictions-5", "predictions-10")
    ]


def test_the_reason_is_given():
    make(1, "masks/a.png", used=1)
    assert choose_folder(settings(threshold=0.4), IMAGES)[1] == (
        "outputs/predictions holds outputs of other settings: threshold 0.5 and not 0.4. "
        "So outputs/predictions-2 is taken."
    )
    make(2, "masks/a.png", used=2)
    assert choose_folder(settings(), IMAGES)[1] == (
        "outputs/predictions-2 is taken, which has the outputs of this model and these settings that were made last."
    )


@pytest.mark.parametrize("text", ["{", "[]", "5", "[" * 100_000])
def test_folders_that_are_not_of_this_command_are_passed_over(text):
    make(1, "masks/a.png", used=1)
    (FIRST_FOLDER / "run.json").write_text(text)
    second = Path(f"{FIRST_FOLDER}-2")
    (second / "masks").mkdir(parents=True)
    (second / "masks" / "mine.png").touch()
    Path(f"{FIRST_FOLDER}-3").touch()
    folder, reason = choose_folder(settings(), IMAGES)
    assert folder.name == "predictions-4"
    assert reason == (
        "outputs/predictions holds a run.json that is not of this command. So outputs/predictions-4 is taken."
    )


def test_a_file_in_place_of_the_folder_is_passed_over():
    FIRST_FOLDER.parent.mkdir()
    FIRST_FOLDER.touch()
    folder, reason = choose_folder(settings(), IMAGES)
    assert folder.name == "predictions-2"
    assert reason.startswith("outputs/predictions is a file. So ")


def test_the_folder_is_held_until_the_end():
    with run_folder(None, "predict.py") as open_folder:
        assert open_folder(settings(), IMAGES) == FIRST_FOLDER
        with (
            pytest.raises(UserError, match=r"outputs/predictions is in use by predict\.py"),
            output_lock(FIRST_FOLDER, "another.py"),
        ):
            pass
    with (
        output_lock(FIRST_FOLDER, "another.py"),
        run_folder(None, "predict.py") as open_folder,
        pytest.raises(UserError, match=r"outputs/predictions is in use by another\.py"),
    ):
        open_folder(settings(), IMAGES)


def test_a_folder_that_was_named_is_held_before_the_model_is_known():
    with run_folder(Path("named"), "predict.py") as open_folder:
        with (
            pytest.raises(UserError, match="named is in use"),
            run_folder(Path("named"), "predict.py"),
        ):
            pass
        assert open_folder(settings(), IMAGES) == Path("named")
    assert (Path("named") / "run.json").is_file()


def test_the_report_is_of_the_last_run_that_agrees():
    with pytest.raises(UserError, match="outputs/predictions holds no run of this command"):
        folder_to_report(None, {})
    make(1, "masks/a.png", used=3)
    make(2, "masks/a.png", used=2, threshold=0.4)
    make(3, "masks/a.png", used=1, threshold=0.4)
    assert folder_to_report(None, {}).name == "predictions"
    assert folder_to_report(None, {"threshold": 0.4}).name == "predictions-2"
    with pytest.raises(UserError, match=r"--threshold 0\.3 changes nothing .* outputs of threshold 0\.5"):
        folder_to_report(None, {"threshold": 0.3})
    named = Path("outputs", "predictions-3")
    assert folder_to_report(named, {}) == named
    with pytest.raises(UserError, match=r"of threshold 0\.4"):
        folder_to_report(named, {"threshold": 0.5})
