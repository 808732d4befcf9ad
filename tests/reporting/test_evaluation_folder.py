"""Which folder an evaluation writes into, by what the folders hold: nothing of another run is overwritten."""

import copy
import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from example_results import evaluated_results
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.processes import OneProcess
from unet_kvasir_seg.reporting.evaluation_folder import KEPT_SCORES, SETTINGS, hold_folder, open_folder
from unet_kvasir_seg.reporting.results import write_results

RESULTS = evaluated_results()
PLAIN = {"threshold": 0.5, "tta": False}
FIRST, SECOND, THIRD = (Path("outputs", name) for name in ("evaluation", "evaluation-2", "evaluation-3"))


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def changed(place: str, value: object) -> dict:
    results = copy.deepcopy(RESULTS)
    section, name = place.split(".")
    results[section][name] = value
    return results


def run(settings: dict = PLAIN, *, results: dict = RESULTS, named: Path | None = None, ends: bool = True) -> Path:
    """What `evaluation.py` does with its folder; a run that does not end has kept some scores."""
    with ExitStack() as held:
        if named is not None:
            hold_folder(named, held, "evaluation.py")
        folder = open_folder(named, results, settings, OneProcess(), held, "evaluation.py")
        if ends:
            write_results(folder / "results.json", results)
        else:
            (folder / KEPT_SCORES).mkdir()
            (folder / KEPT_SCORES / "share.json.gz").write_bytes(b"")
    return folder


def test_other_settings_take_the_next_free_name_and_the_same_ones_go_on(capsys):
    assert run() == FIRST
    assert capsys.readouterr().out == ""
    assert run(PLAIN | {"threshold": 0.4}) == SECOND
    said = "outputs/evaluation holds the results of other settings: threshold 0.5 and not 0.4"
    assert capsys.readouterr().out == f"{said}: outputs/evaluation-2 is taken.\n"
    assert run(PLAIN | {"tta": True}) == THIRD
    assert run() == FIRST
    assert run(PLAIN | {"threshold": 0.4}) == SECOND


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("model.fingerprint", "sha256:0", "the results of another model"),
        ("data.fingerprint", "sha256:0", "the results on other data"),
    ],
)
def test_another_model_and_other_data_take_the_next_free_name(capsys, place, value, said):
    run()
    assert run(results=changed(place, value)) == SECOND
    assert f"outputs/evaluation holds {said}" in capsys.readouterr().out
    assert json.loads((FIRST / "results.json").read_text()) == RESULTS


def test_of_several_folders_of_the_same_settings_the_last_one_is_taken():
    run(PLAIN | {"threshold": 0.4})
    for folder, seconds in ((SECOND, 200), (THIRD, 100)):
        run(named=folder)
        os.utime(folder / SETTINGS, (seconds, seconds))
    assert run() == SECOND


def test_a_folder_that_was_named_is_refused_and_left_as_it_is():
    folder = Path("mine")
    run(named=folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"mine holds the results of other settings: tta False and not True\. Choose"):
        run(PLAIN | {"tta": True}, named=folder)
    with pytest.raises(UserError, match="mine holds the results of another model, unet-x; this one is unet-x"):
        run(results=changed("model.fingerprint", "sha256:0"), named=folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert run(named=folder) == folder


def test_an_unfinished_run_keeps_its_name_and_goes_on():
    assert run(ends=False) == FIRST
    assert run(PLAIN | {"threshold": 0.4}) == SECOND
    assert run(results=changed("model.fingerprint", "sha256:0")) == THIRD
    assert run(ends=True) == FIRST


def test_an_unfinished_run_may_be_replaced_in_a_folder_that_was_named():
    run(named=FIRST, ends=False)
    assert run(PLAIN | {"threshold": 0.4}, named=FIRST) == FIRST


def fail(error: BaseException) -> None:
    """A run that ends with an error before anything is scored."""
    with ExitStack() as held:
        open_folder(None, RESULTS, PLAIN, OneProcess(), held, "evaluation.py")
        raise error


def test_a_start_that_fails_leaves_nothing():
    with pytest.raises(UserError):
        fail(UserError("the data are bad"))
    assert not FIRST.exists()
    run()
    settings = (FIRST / SETTINGS).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert (FIRST / SETTINGS).read_bytes() == settings


def test_what_a_killed_start_leaves_is_no_obstacle():
    FIRST.mkdir(parents=True)
    (FIRST / SETTINGS).write_text(json.dumps({"model": "sha256:0", "threshold": 0.7}))
    assert run() == FIRST


def test_results_that_mean_nothing_are_replaced():
    folder = run()
    write_results(folder / "results.json", RESULTS | {"metrics": {}, "evaluation": None, "invalid": "NaN"})
    assert run(PLAIN | {"dtype": "float32"}, named=folder) == folder


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"threshold": 0.5'])
def test_settings_that_cannot_be_read_are_those_of_an_earlier_version(content):
    folder = run()
    (folder / SETTINGS).write_bytes(content)
    assert run(PLAIN | {"tta": True}) == FIRST


def test_folders_of_others_are_left_alone():
    FIRST.mkdir(parents=True)
    (FIRST / "README.md").write_text("mine")
    SECOND.write_text("a file")
    THIRD.mkdir()
    (THIRD / "results.json").write_text("{")
    assert run() == Path("outputs", "evaluation-4")
    assert run() == Path("outputs", "evaluation-4")
    with pytest.raises(UserError, match=r"README\.md that no run of this project wrote"):
        run(named=FIRST)
    with pytest.raises(UserError, match="is not valid JSON"):
        run(named=THIRD)


def test_a_file_in_place_of_the_folder_is_passed_over(capsys):
    FIRST.parent.mkdir()
    FIRST.write_text("mine")
    assert run() == SECOND
    assert capsys.readouterr().out == "outputs/evaluation is a file: outputs/evaluation-2 is taken.\n"
    assert FIRST.read_text() == "mine"
