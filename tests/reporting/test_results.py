"""Reading results.json: what is refused and how it is named, and files of earlier versions."""

import copy
import json
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from conftest import ROOT
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.reporting.results import (
    check_results,
    check_results_folder,
    exports_of,
    known_results,
    public_name,
    read_results,
    write_results,
)
from unet_kvasir_seg.reporting.schema import Schema

SHIPPED = json.loads((ROOT / "results.json").read_text(encoding="utf-8"))


def changed(place: str, value: Any = None, remove: bool = False) -> dict:
    """The shipped results with the field at a dotted place set or removed."""
    results = copy.deepcopy(SHIPPED)
    *sections, name = place.split(".")
    section = results
    for step in sections:
        section = section[step]
    if remove:
        del section[name]
    else:
        section[name] = value
    return results


def refusal(results: Any, folder: Path) -> str:
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError) as error:
        read_results(folder / "results.json")
    return str(error.value)


def test_the_shipped_results_are_read_as_they_are():
    read = read_results(ROOT / "results.json")
    assert read == SHIPPED


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("evaluation.videos", {"frame_rate": 25}, "evaluation.videos.alert_seconds is missing; expected float"),
        ("training.warmup_stepz", 1, "training.warmup_stepz is unknown; expected one of "),
        ("model.norn", "batch", "model.norn is unknown; expected one of "),
        ("scores", {}, "scores is unknown; expected one of "),
        ("training.epochs", "415", "training.epochs is '415'; expected float"),
        ("training.progressive_sizes", [128, "192"], "training.progressive_sizes[1] is '192'; expected int"),
        ("model.depth", True, "model.depth is True; expected int"),
        ("model.encoder_blocks", 3, "model.encoder_blocks is 3; expected list"),
        ("data.rows", {"validation": 1.5}, "data.rows.validation is 1.5; expected int"),
        ("metrics", [], "metrics is []; expected an object"),
        ("metrics.hd95_native.value", None, "metrics.hd95_native.value is None; expected float"),
        ("evaluation.comparison", 3, "evaluation.comparison is 3; expected an object"),
        ("metrics.hd95_native.ci95", [1.0], "metrics.hd95_native.ci95 has 1 entries; expected 2"),
        ("model.image_size", [256, 256, 3], "model.image_size has 3 entries; expected 2"),
        ("evaluation.strata.size", {}, "evaluation.strata.size.small is missing; expected an object"),
        ("evaluation", None, "evaluation is null; expected an object"),
        ("metrics.hd95_native.value", float("nan"), "NaN is not a number"),
    ],
)
def test_a_wrong_field_is_named(place, value, expected, tmp_path):
    message = refusal(changed(place, value), tmp_path)
    assert expected in message
    assert str(tmp_path / "results.json") in message


@pytest.mark.parametrize(
    "place", ["model", "data.fingerprint", "training.steps", "evaluation.strata", "metrics.ece_native.ci95"]
)
def test_a_missing_field_is_named(place, tmp_path):
    assert f"{place} is missing; expected " in refusal(changed(place, remove=True), tmp_path)


def test_a_number_without_a_fraction_is_a_float(tmp_path):
    write_results(tmp_path / "results.json", changed("training.epochs", 415))
    assert read_results(tmp_path / "results.json")["training"]["epochs"] == 415


def test_files_of_earlier_versions_are_read(tmp_path):
    """They call progressive resizing otherwise, know one loss, and have no section that was not measured."""
    earlier = changed("training.seed", 42)
    training = earlier["training"]
    del training["progressive_sizes"], training["progressive_epochs"], training["augmentation"]
    training |= {"smaller_sizes": [128, 192], "smaller_until": [150, 310]}
    del earlier["environment"]["code"], earlier["model"]["loss"], earlier["model"]["encoder"]
    earlier["model"] |= {"depth": 1, "channels": [16, 32]}
    write_results(tmp_path / "results.json", earlier)
    read = read_results(tmp_path / "results.json")
    assert read["training"]["progressive_sizes"] == [128, 192]
    assert read["training"]["progressive_epochs"] == [150, 310]
    assert "smaller_sizes" not in read["training"]
    assert read["model"]["loss"] == "bce_dice"
    assert read["metrics"] == SHIPPED["metrics"]
    del earlier["training"], earlier["evaluation"]
    write_results(tmp_path / "results.json", earlier | {"metrics": {}})
    read = read_results(tmp_path / "results.json")
    assert (read["training"], read["evaluation"]) == (None, None)


def test_names_of_files_in_earlier_versions_are_not_read(tmp_path):
    """They named near-duplicates and what was compared; a push would publish that."""
    earlier = changed("evaluation.comparison", {"with": "mary-smith", "metrics": {}})
    earlier["evaluation"]["audit"]["pairs"] = [
        {"first": ["train", "mary-smith"], "second": ["test", "mary-smith-2"], "distance": 7}
    ]
    write_results(tmp_path / "results.json", earlier)
    evaluation = read_results(tmp_path / "results.json")["evaluation"]
    assert evaluation["comparison"] == {"other": "another model", "metrics": {}}
    assert evaluation["audit"]["pairs"] == [{"splits": ["train", "test"], "rows": None, "distance": 7}]
    assert "mary-smith" not in json.dumps(evaluation)


def test_a_local_model_is_named_after_its_repository_in_public(tmp_path):
    folder = tmp_path / "mary-smith"
    folder.mkdir()
    assert public_name(str(folder), None) == public_name(str(folder), changed("model.repository", None)) == "U-Net"
    assert public_name(str(folder), changed("model.repository", "me/unet-2")) == "unet-2"
    assert public_name("me/unet-3", changed("model.repository", "me/unet-2")) == "unet-3"
    assert public_name(str(ROOT), SHIPPED) == "unet-kvasir-seg"


def test_other_files_are_refused(tmp_path):
    assert "schema version 99" in refusal(SHIPPED | {"schema_version": 99}, tmp_path)
    assert "schema version None" in refusal([1], tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_results(tmp_path / "results.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path / "absent.json")


def test_an_invalid_run_is_read_only_if_asked_for(tmp_path):
    assert "invalid: NaN for frame 3" in refusal(SHIPPED | {"invalid": "NaN for frame 3"}, tmp_path)
    assert read_results(tmp_path / "results.json", allow_invalid=True)["invalid"] == "NaN for frame 3"


def test_results_are_found_beside_folders_and_onnx_files(tmp_path):
    assert known_results(str(tmp_path), None) is None
    write_results(tmp_path / "results.json", SHIPPED)
    (tmp_path / "onnx").mkdir()
    for model in (tmp_path, tmp_path / "onnx" / "model.onnx"):
        assert known_results(str(model), None)["metrics"] == SHIPPED["metrics"]


def test_exports_are_those_of_the_weights():
    def results(**fingerprints: str) -> dict:
        return {"exports": {precision: {"fingerprint": weights} for precision, weights in fingerprints.items()}}

    first, second = results(fp32="a", fp16="b"), results(fp32="a", int8="a")
    found = exports_of("a", first, None, second, {})
    assert found == second["exports"]
    assert found["fp32"] is second["exports"]["fp32"]


def test_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path / "results.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_folder_is_kept_for_one_model_and_one_data_set(tmp_path):
    write_results(tmp_path / "results.json", SHIPPED)
    check_results_folder(tmp_path, SHIPPED)
    check_results_folder(tmp_path, changed("model.name", "the same weights"))
    for place, value, message in (
        ("model.fingerprint", "sha256:0", "another model"),
        ("data.fingerprint", "sha256:0", "other data"),
    ):
        with pytest.raises(UserError, match=message):
            check_results_folder(tmp_path, changed(place, value))
    masks = changed("model.fingerprint", None)  # masks from a folder have no weights, only a name
    write_results(tmp_path / "results.json", masks)
    with pytest.raises(UserError, match="another model"):
        check_results_folder(tmp_path, masks | {"model": masks["model"] | {"name": "other"}})


def test_schemas_of_each_kind():
    class Inner(TypedDict, total=False):
        number: int | float | None

    class Outer(TypedDict):
        inner: list[Inner]
        kind: Literal["a", "b"]
        anything: Any

    schema = Schema(Outer, further={Inner: {"word": str}})
    schema.check({"inner": [{"number": 1.5, "word": "x"}, {"number": None}, {}], "kind": "a", "anything": [{}]})
    good = {"inner": [], "kind": "a", "anything": 1}
    for content, message in (
        ([], r"the file is \[\]; expected an object"),
        (good | {"kind": "c"}, r"kind is 'c'; expected typing.Literal\['a', 'b'\]"),
        (good | {"inner": [{"number": "1"}]}, r"inner\[0\].number is '1'; expected int or float or null"),
        (good | {"inner": [{"word": 1}]}, r"inner\[0\].word is 1; expected str"),
        (good | {"inner": ["x" * 99]}, r"inner\[0\] is 'x{39}\.\.\.; expected an object"),
    ):
        with pytest.raises(ValueError, match=message):
            schema.check(content)


def test_checked_results_need_no_file():
    check_results(SHIPPED)
    with pytest.raises(ValueError, match=r"training\.warmup_stepz is unknown"):
        check_results(changed("training.warmup_stepz", 1))
