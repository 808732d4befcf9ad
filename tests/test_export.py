"""`export.py` from its command line: files that agree with PyTorch, files that must not be kept, and invalid input."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, save_confident_model, save_tiny_model
from loopback_hub import LoopbackHub, Repo
from PIL import Image
from torch import nn
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.checkpoint import fingerprint, load_checkpoint
from unet_kvasir_seg.inference.onnx_session import OnnxSession

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from unet_kvasir_seg import evaluation, export, predict  # noqa: E402 - they need onnx
from unet_kvasir_seg.onnx_export.graph import SegmentationGraph  # noqa: E402 - as above


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_confident_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of 20 plain images."""
    folder = tmp_path_factory.mktemp("images")
    for index, row in enumerate(generate(20, (40, 56), seed=1)):
        row["image"].save(folder / f"{index}.png")
    return folder


def report(output: Path, name: str) -> dict:
    return json.loads((output / "onnx" / name).read_text())


def files(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "onnx").iterdir()) if (output / "onnx").exists() else []


def refused(done) -> str:
    assert done.returncode == 2
    return done.stderr.strip().splitlines()[-1]


def test_float_files_agree_with_pytorch(run_command, model, tmp_path):
    for precision, name in (("fp32", "model"), ("fp16", "model_fp16")):
        run_command(export.main, "--model", model, "--output_dir", "out", "--precision", precision)
        found = report(tmp_path / "out", f"{name}.json")
        content = (tmp_path / "out" / "onnx" / f"{name}.onnx").read_bytes()
        assert found["bytes"] == len(content)
        assert found["proof"]["problems"] == []
        assert found["proof"]["same_pixel_values"]["worst"] < {"fp32": 1e-5, "fp16": 1e-2}[precision]
        assert list(found["proof"]["sizes"]) == ["1x1", "31x17", "256x256", "1920x1072"]
        for path in (ROOT, model, tmp_path, Path.home(), Path(torch.__file__).parent):
            assert str(path).encode() not in content
        assert b".py" not in content.replace(b"processing_unet.UNet", b"")
        session = OnnxSession.load(tmp_path / "out" / "onnx" / f"{name}.onnx")
        assert session.precision == precision
        assert json.loads(session.metadata["id2label"]) == {"0": "background", "1": "polyp"}
        types = {tensor.data_type for tensor in onnx.load_from_string(content).graph.initializer if tensor.dims}
        assert (onnx.TensorProto.FLOAT16 in types) == (precision == "fp16")
    assert files(tmp_path / "out") == ["model.json", "model.onnx", "model_fp16.json", "model_fp16.onnx"]


def test_int8_has_int8_weights_and_names_its_float_layers(run_command, model, images, tmp_path):
    flags = ("--model", model, "--output_dir", "out", "--precision", "int8", "--calibration_dataset", images)
    done = run_command(export.main, *flags)
    found = report(tmp_path / "out", "model_int8.json")
    assert f"float32, since their rounding costs the most: {', '.join(found['float_layers']) or 'none'}" in done.stdout
    assert found["calibration"]["images"] == 16
    assert found["proof"]["images"] == 4
    assert found["proof"]["dice"] is None
    trials = found["calibration"]["difference_by_float_layers"]
    assert set(trials) >= {"none", "classifier", "encoder.0.convs.0.0"}
    assert trials.get(", ".join(found["float_layers"]) or "none") <= trials["none"]
    graph = onnx.load(tmp_path / "out" / "onnx" / "model_int8.onnx").graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    eight_bit = [
        weights[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights and len(weights[node.input[0]].dims) == 4
    ]
    network, _ = load_checkpoint(str(model))
    layers = sum(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in network.modules())
    assert len(eight_bit) == layers - len(found["float_layers"])
    assert {tensor.data_type for tensor in eight_bit} == {onnx.TensorProto.INT8}
    # Pre- and post-processing stay in float: nothing before the first convolution or after the logits is rounded.
    rounded = [node.name for node in graph.node if node.op_type == "QuantizeLinear"]
    assert not [name for name in rounded if name.startswith("processing")]


def test_a_file_that_disagrees_is_not_kept_and_earlier_files_stay(run_command, model, monkeypatch, tmp_path):
    flags = ("--model", model, "--output_dir", "out")
    run_command(export.main, *flags)
    before = (tmp_path / "out" / "onnx" / "model.onnx").read_bytes()
    forward = SegmentationGraph.forward

    def darker(self, frames, threshold):  # as with an error in the exported pre-processing
        return forward(self, (frames.float() * 0.9).to(torch.uint8), threshold)

    monkeypatch.setattr(SegmentationGraph, "forward", darker)
    done = run_command(export.main, *flags, status=2)
    assert "disagrees with PyTorch and is not kept: worst difference in probability" in refused(done)
    assert files(tmp_path / "out") == ["model.json", "model.onnx"]
    assert (tmp_path / "out" / "onnx" / "model.onnx").read_bytes() == before


def test_invalid_input_is_explained_and_nothing_is_written(run_command, model, images, tmp_path):
    def line(*flags) -> str:
        return refused(run_command(export.main, "--model", model, "--output_dir", "out", *flags, status=2))

    few = tmp_path / "few"
    few.mkdir()
    for index in range(5):
        os.link(images / f"{index}.png", few / f"{index}.png")
    assert "--precision int4 is unknown: expected fp32, fp16, int8" in line("--precision", "int4")
    assert "int8 needs images to calibrate on" in line("--precision", "int8")
    int8 = ("--precision", "int8", "--calibration_dataset")
    assert "--calibration_images 8 is too few" in line(*int8, images, "--calibration_images", 8)
    assert "has 5 images to calibrate on: expected 16 or more" in line(*int8, few)
    assert "No data set at" in line(*int8, tmp_path / "absent")
    assert not (tmp_path / "out").exists()

    (few / "broken.png").write_bytes(b"no image")
    assert "broken.png is no image" in line("--calibration_dataset", few)


def test_another_models_folder_is_left_alone(run_command, model, tmp_path):
    folder = tmp_path / "out" / "onnx"
    run_command(export.main, "--model", model, "--output_dir", "out")
    other = save_tiny_model(tmp_path / "other", seed=1)
    done = run_command(export.main, "--model", other, "--output_dir", "out", "--precision", "fp16", status=2)
    assert f"{Path('out') / 'onnx'} holds the export of another model, model.onnx" in refused(done)
    (folder / "model.onnx").write_text("something else")
    done = run_command(export.main, "--model", model, "--output_dir", "out", status=2)
    assert "model.onnx is there and is no ONNX file of this command" in refused(done)
    assert (folder / "model.onnx").read_text() == "something else"


def unmeasured_results(weights: str) -> dict:
    """A results.json without any scores."""
    shipped = json.loads((ROOT / "results.json").read_text())
    return {
        "schema_version": 1,
        "model": {"name": "tiny", "repository": "team/unet", "fingerprint": weights},
        "data": {
            "name": "synthetic",
            "on_the_hub": False,
            "revision": None,
            "split": None,
            "rows": {},
            "fingerprint": None,
        },
        "environment": shipped["environment"],
        "training": None,
        "metrics": {},
        "evaluation": None,
    }


def test_the_commands_take_the_file(run_command, model, images, tmp_path):
    run_command(export.main, "--model", model, "--output_dir", "out")
    file = tmp_path / "out" / "onnx" / "model.onnx"
    for name, of in (("torch", model), ("onnx", file)):
        flags = ("--model", of, "--device", "cpu", "--dtype", "float32", "--output_dir", name)
        run_command(predict.main, images / "0.png", *flags)
    masks = [np.array(Image.open(tmp_path / name / "masks" / "0.png")) for name in ("torch", "onnx")]
    assert (masks[0] == masks[1]).mean() > 0.999
    # Outputs of the two are not mixed in one folder.
    done = run_command(predict.main, images / "0.png", "--model", file, "--output_dir", "torch", status=2)
    assert "holds the outputs of another model" in refused(done)

    # A new evaluation keeps the reports on exports of these weights, and drops those of other weights.
    measured = report(tmp_path / "out", "model.json")
    known = {
        **unmeasured_results(measured["fingerprint"]),
        "exports": {"fp32": measured, "int8": measured | {"fingerprint": "sha256:other"}},
    }
    (tmp_path / "out" / "results.json").write_text(json.dumps(known))
    flags = ("--dataset_name", "synthetic", "--synthetic_rows", 8, "--resamples", 10, "--device", "cpu")
    scores = {}
    for name, of in (("torch", model), ("onnx", file)):
        run_command(evaluation.main, "--model", of, *flags, "--output_dir", f"{name}_scores")
        scores[name] = json.loads((tmp_path / f"{name}_scores" / "results.json").read_text())
    assert scores["onnx"]["exports"] == {"fp32": measured}
    assert "`onnx/model.onnx`" in (tmp_path / "onnx_scores" / "README.md").read_text()
    assert "exports" not in scores["torch"]
    described = scores["onnx"]["model"]
    assert (described["format"], described["precision"], described["name"]) == ("onnx", "fp32", "model.onnx")
    assert (
        described["fingerprint"] == scores["torch"]["model"]["fingerprint"] == fingerprint(load_checkpoint(model)[0])
    )
    for score, value in scores["torch"]["metrics"].items():
        assert scores["onnx"]["metrics"][score]["value"] == pytest.approx(value["value"], rel=0.02, abs=0.01), score


def test_a_push_holds_the_file_its_numbers_and_the_card_that_shows_them(model, tmp_path):
    """To a repo with results, one with none, one that takes the folder's, and one with those of other weights."""
    weights = fingerprint(load_checkpoint(str(model))[0])
    results = unmeasured_results(weights)
    of_others = results | {"model": {"name": "else", "repository": None, "fingerprint": "sha256:other"}}
    local = tmp_path / "local"
    shutil.copytree(model, local)
    evaluation_flags = ["--output_dir", "scored", "--dataset_name", "synthetic", "--synthetic_rows", 8]
    evaluation_flags += ["--resamples", 10, "--device", "cpu"]
    runs = [
        ("export", "--model", "team/unet", "--push_to_hub", "team/unet", "--output_dir", "out"),
        ("export", "--model", model, "--push_to_hub", "team/unet", "--output_dir", "out", "--precision", "fp16"),
        ("export", "--model", model, "--push_to_hub", "team/bare", "--output_dir", "bare"),
        ("export", "--model", local, "--push_to_hub", "team/new", "--output_dir", "new"),
        ("evaluation", "--model", model, "--push_to_hub", "--hub_model_id", "team/unet", *evaluation_flags),
        ("export", "--model", model, "--push_to_hub", "team/other", "--output_dir", "other"),
    ]
    with LoopbackHub() as hub:
        hub.repos = {f"team/{name}": Repo() for name in ("unet", "bare", "new", "other")}
        content = {file.name: file.read_bytes() for file in model.iterdir()}
        hub.repos["team/unet"].commit("trained", content | {"results.json": json.dumps(results).encode()})
        hub.repos["team/other"].commit("trained", {"results.json": json.dumps(of_others).encode()})
        (local / "results.json").write_text(json.dumps(results))
        done = hub.run(runs, tmp_path)
    assert "team/other holds the results of other weights, else" in refused(done)
    assert not (tmp_path / "other").exists()
    assert len(hub.repos["team/other"].pushes) == 1
    unet, bare, new = (hub.repos[f"team/{name}"] for name in ("unet", "bare", "new"))
    filled = {"results.json", "README.md"}
    fp32, fp16 = ({f"onnx/{name}.onnx", f"onnx/{name}.json"} for name in ("model", "model_fp16"))
    assert [push.changed for push in unet.pushes[1:3]] == [fp32 | filled, fp16 | filled]
    assert [push.changed for push in bare.pushes] == [fp32]
    assert [push.changed for push in new.pushes] == [fp32 | filled]

    exported, scored = (push.files for push in unet.pushes[2:])
    pushed = json.loads(exported["results.json"])
    reports = {"fp32": "onnx/model.json", "fp16": "onnx/model_fp16.json"}
    exports = pushed.pop("exports")
    assert exports == {precision: json.loads(exported[name]) for precision, name in reports.items()}
    named = results["model"] | {"name": "unet"}  # after the repo: what it was called may be a folder's name
    assert pushed == results | {"model": named}
    assert json.loads(scored["results.json"])["exports"] == exports  # kept, though the evaluated folder has none
    for files_then in (exported, scored):
        for name in ("model", "model_fp16"):
            size = f"{len(exported[f'onnx/{name}.onnx']) / 1e6:.2f}"
            row = rf"^\| `onnx/{name}\.onnx` \| fp\d\d \| {size} \|"
            assert re.search(row, files_then["README.md"].decode(), flags=re.MULTILINE)
    assert json.loads(new.files["results.json"])["model"]["repository"] == "team/new"
    for repo in (unet, bare, new):
        for path in (ROOT, model.parent, tmp_path, Path.home(), Path(torch.__file__).parent):
            assert not [name for name, content in repo.files.items() if str(path).encode() in content]
