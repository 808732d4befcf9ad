"""Weights of other U-Nets: equal outputs whatever the names, and errors that list every misfit."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from plain_unets import CardLayout, FlatLayout, ListLayout, NormedLayout, assert_same_outputs, randomise, save
from torch import nn
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.inference.conversion import convert_model, convert_state_dict, read_state_dict
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

LAYOUTS = {
    "card": (CardLayout, {}, {"depth": 4, "norm": "none", "upsampling": "transpose", "num_channels": 3}),
    "normed": (NormedLayout, {}, {"depth": 3, "norm": "batch", "upsampling": "transpose", "num_channels": 1}),
    "lists": (
        ListLayout,
        {"concat": "upsampled-first"},
        {"depth": 3, "norm": "batch", "upsampling": "bilinear", "num_channels": 3},
    ),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_give_equal_outputs(tmp_path, layout, suffix):
    kind, options, architecture = LAYOUTS[layout]
    network = randomise(kind())
    path = save(network.state_dict(), tmp_path / f"unet{suffix}")
    model = convert_model(read_state_dict(path), **options)
    assert not model.training
    assert {name: getattr(model.config, name) for name in architecture} == architecture
    assert model.config.base_channels == 4
    assert_same_outputs(network, model, architecture["num_channels"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arrange", [reversed, lambda names: sorted(names, key=lambda name: name[::-1])])
def test_the_order_of_the_entries_does_not_matter(layout, arrange):
    kind, options, _ = LAYOUTS[layout]
    state_dict = randomise(kind()).state_dict()
    expected = convert_state_dict(state_dict, **options)[1]
    actual = convert_state_dict({name: state_dict[name] for name in arrange(list(state_dict))}, **options)[1]
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("norm", ["group", "instance", "bare instance"])
def test_a_norm_that_is_named_and_modules_numbered_through_the_network(norm):
    network = randomise(FlatLayout(norm))
    model = convert_model(network.state_dict(), norm=norm.split()[-1], num_groups=2)
    assert model.config.norm == norm.split()[-1]
    assert_same_outputs(network, model)


def test_the_wrong_order_of_concatenation_changes_the_outputs():
    network = randomise(CardLayout())
    with pytest.raises(AssertionError):
        assert_same_outputs(network, convert_model(network.state_dict(), concat="upsampled-first"))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_own_state_dict_is_unchanged(norm):
    own = randomise(UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2, norm=norm))).state_dict()
    _, tensors = convert_state_dict(own)
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[name], own[name]) for name in own)


def test_a_nested_checkpoint_with_prefixes(tmp_path):
    network = randomise(CardLayout())
    state_dict = {f"module.unet.{name}": tensor for name, tensor in network.state_dict().items()}
    nested = {"epoch": 3, "model": {"state_dict": state_dict}, "optimizer": {"lr": 0.1}}
    torch.save(nested, tmp_path / "last.pth")
    assert_same_outputs(network, convert_model(read_state_dict(tmp_path / "last.pth")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_dtype_becomes_float32_and_the_source_stays(dtype):
    network = randomise(NormedLayout()).to(dtype)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    _, tensors = convert_state_dict(network.state_dict())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert_same_outputs(network.float(), convert_model(before), channels=1)


def refusal(state_dict: dict, **options) -> str:
    with pytest.raises(UserError) as caught:
        convert_state_dict(state_dict, **options)
    return str(caught.value)


def test_every_misfit_is_listed():
    state_dict = CardLayout().state_dict()
    del state_dict["dec2.2.weight"], state_dict["upconv3.weight"]
    state_dict |= {
        "aux.weight": torch.zeros(4, 4, 5, 5),
        "enc1.extra.weight": torch.zeros(4, 4, 3, 3),
        "enc2.0.bias": torch.zeros(9),
        "enc2.0.scale": torch.zeros(8),
        "enc3.0.bias": torch.full((16,), torch.nan),
        "step": 7,
    }
    message = refusal(state_dict)
    assert message.startswith("Nothing was converted")
    for part in (
        "base_channels=4, depth=4, num_channels=3, norm=none, upsampling=transpose",
        "dec2.2.bias (8,): no layer",
        "upconv3.bias (16,): no layer",
        "aux.weight (4, 4, 5, 5): no layer",
        "enc2.0.bias (9,): this layer",
        "enc2.0.scale (8,): this layer",
        "enc3.0.bias: holds NaN or infinity",
        "step: a value of type int",
        "weights of shape (8, 8, 3, 3): got 1 (enc2.2), expected 2 (here encoder.1.convs.1.0, decoder.2.convs.1.0)",
        "weights of shape (4, 4, 3, 3): got 3 (enc1.2, dec1.2, enc1.extra), expected 2",
        "weights of shape (32, 16, 2, 2): got 0 (missing), expected 1 (here decoder.1.upsample)",
    ):
        assert part in message


def test_a_head_of_two_logits_is_refused_with_a_remedy_that_works():
    network = randomise(CardLayout())
    network.final = randomise(nn.Conv2d(4, 2, 1))
    state_dict = network.state_dict()
    message = refusal(state_dict)
    assert "final.weight (2, 4, 1, 1): a head of two logits" in message
    assert "x[1:] - x[:1]" in message

    for name in ("final.weight", "final.bias"):
        state_dict[name] = state_dict[name][1:] - state_dict[name][:1]
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).softmax(dim=1)[:, 1:]
        torch.testing.assert_close(convert_model(state_dict)(images).logits.sigmoid(), expected)


def test_three_logits_are_refused():
    state_dict = CardLayout().state_dict() | {"final.weight": torch.zeros(3, 4, 1, 1), "final.bias": torch.zeros(3)}
    message = refusal(state_dict)
    assert "final.weight (3, 4, 1, 1): no layer of this network" in message
    assert "weights of shape (1, 4, 1, 1): got 0 (missing), expected 1 (here classifier)" in message


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(1, 4, 1, 1, dtype=torch.complex64),
        torch.zeros(1, 4, 1, 1).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(1, 4, 1, 1), 0.1, 0, torch.qint8),
    ],
    ids=["complex", "sparse", "quantized"],
)
def test_complex_sparse_and_quantized_weights_are_refused(weight):
    message = refusal(CardLayout().state_dict() | {"final.weight": weight})
    assert f"final.weight: a tensor of {weight.dtype}, {weight.layout}; expected plain real numbers" in message


def test_missing_statistics_are_refused():
    state_dict = NormedLayout().state_dict()
    del state_dict["up3.conv.double_conv.1.running_var"]
    assert "up3.conv.double_conv.1.running_var: missing" in refusal(state_dict)


def test_norms_that_look_alike_must_be_named():
    state_dict = FlatLayout("group").state_dict()
    assert "--norm group --num_groups N or --norm instance" in refusal(state_dict)
    assert "running_mean: missing" in refusal(state_dict, norm="batch")
    assert "num_groups" in refusal(state_dict, norm="group", num_groups=3)


def test_biases_before_group_norm_are_refused():
    state_dict = FlatLayout("instance").state_dict()
    assert "conv1.bias (4,): a bias before group norm" in refusal(state_dict, norm="group", num_groups=2)


def test_norms_named_none_are_refused():
    assert "inc.double_conv.1.weight (4,): no layer" in refusal(NormedLayout().state_dict(), norm="none")


def test_a_relu_before_the_norm_is_refused():
    state_dict = {
        name.replace("double_conv.1", "double_conv.2").replace("double_conv.4", "double_conv.5"): tensor
        for name, tensor in NormedLayout().state_dict().items()
    }
    assert "double_conv.2 does not stand right behind" in refusal(state_dict)


def test_names_that_do_not_decide_are_refused():
    names = {"enc1.2": "apple", "dec1.2": "pear"}
    state_dict = {
        f"{names.get(module, module)}.{parameter}": tensor
        for name, tensor in CardLayout().state_dict().items()
        for module, _, parameter in [name.rpartition(".")]
    }
    message = refusal(state_dict)
    assert "apple, pear have one shape" in message
    assert "enc1.0, dec1.0" in message


@pytest.mark.parametrize(
    ("state_dict", "part"),
    [
        ({}, "of 0 layers: its 3x3 convolutions must have output channels that double from level to level, got none"),
        (nn.Linear(3, 4).state_dict(), "got none"),
        ({"a.weight": torch.zeros(8, 3, 3, 3), "b.weight": torch.zeros(24, 8, 3, 3)}, "got 8 (as a), 24 (as b)"),
        ({"a.weight": torch.zeros(8, 8, 3, 3), "b.weight": torch.zeros(16, 8, 3, 3)}, "input's channels"),
    ],
)
def test_other_networks_are_refused(state_dict, part):
    assert part in refusal(state_dict)


def test_an_unknown_option_is_refused():
    state_dict = CardLayout().state_dict()
    assert "`concat` must be one of" in refusal(state_dict, concat="first")
    assert "`norm` must be one of" in refusal(state_dict, norm="layer")


class Malicious:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_pickle_never_runs_code(tmp_path, suffix, write):
    mark, path = tmp_path / "executed", tmp_path / f"evil{suffix}"
    write({"state_dict": CardLayout().state_dict() if suffix == ".pt" else {}, "extra": Malicious(mark)}, path)
    with pytest.raises(UserError, match="loading them can run code"):
        read_state_dict(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("broken.safetensors", b"no tensors", "broken, or not in the safetensors format"),
        ("broken.pt", b"no tensors", "is broken, or holds objects"),
        ("empty.pth", b"", "is broken, or holds objects"),
        ("unet.h5", b"", "must end in .safetensors"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, part):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=part):
        read_state_dict(tmp_path / name)


def test_a_file_without_names_and_a_missing_one_are_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list, expected a state dict"):
        read_state_dict(tmp_path / "list.pt")
    with pytest.raises(UserError, match=r"There is no file .*model\.safetensors"):
        read_state_dict(tmp_path)


def test_files_that_state_more_than_they_hold_are_refused(tmp_path):
    endless: dict = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pth")
    with pytest.raises(UserError, match="expected a state dict"):
        read_state_dict(tmp_path / "endless.pth")
    torch.save({"a.weight": torch.zeros(1).expand(2**37)}, tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"a\.weight states 137,438,953,472 values and holds fewer"):
        read_state_dict(tmp_path / "wide.pth")
