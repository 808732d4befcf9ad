"""Weights of other U-Nets: equal outputs whatever the names, and a full refusal of what does not fit."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.convert import convert_model, convert_state_dict, main, read_state_dict
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

ROOT = Path(__file__).resolve().parent.parent


def double_conv(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(o, o, 3, padding=1), nn.ReLU(inplace=True)
    )


class CardLayout(nn.Module):
    """enc1..enc4, bottleneck, upconv4, dec4 ... upconv1, dec1, final; no normalisation; skip first."""

    def __init__(self, base: int = 4):
        super().__init__()
        widths = [base * 2**level for level in range(5)]
        for level in range(1, 5):
            setattr(self, f"enc{level}", double_conv(3 if level == 1 else widths[level - 2], widths[level - 1]))
        self.bottleneck = double_conv(widths[3], widths[4])
        for level in range(4, 0, -1):
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(widths[level], widths[level - 1], 2, stride=2))
            setattr(self, f"dec{level}", double_conv(widths[level], widths[level - 1]))
        self.final = nn.Conv2d(base, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(nn.functional.max_pool2d(e1, 2))
        e3 = self.enc3(nn.functional.max_pool2d(e2, 2))
        e4 = self.enc4(nn.functional.max_pool2d(e3, 2))
        d5 = self.bottleneck(nn.functional.max_pool2d(e4, 2))
        d4 = self.dec4(torch.cat([e4, self.upconv4(d5)], dim=1))
        d3 = self.dec3(torch.cat([e3, self.upconv3(d4)], dim=1))
        d2 = self.dec2(torch.cat([e2, self.upconv2(d3)], dim=1))
        d1 = self.dec1(torch.cat([e1, self.upconv1(d2)], dim=1))
        return self.final(d1)


class NormedBlock(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1),
            nn.BatchNorm2d(o),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), NormedBlock(i, o))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(i, o, 2, stride=2)
        self.conv = NormedBlock(i, o)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class OutConv(nn.Module):
    def __init__(self, i: int):
        super().__init__()
        self.conv = nn.Conv2d(i, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class NormedLayout(nn.Module):
    """inc, down1..down3, up1..up3, outc; batch norm behind convolutions with biases; skip first.

    The bottleneck is called a further down, and up1 is the deepest: numbers do not name levels.
    """

    def __init__(self, base: int = 4, channels: int = 1):
        super().__init__()
        self.inc = NormedBlock(channels, base)
        self.down1, self.down2, self.down3 = Down(base, 2 * base), Down(2 * base, 4 * base), Down(4 * base, 8 * base)
        self.up1, self.up2, self.up3 = Up(8 * base, 4 * base), Up(4 * base, 2 * base), Up(2 * base, base)
        self.outc = OutConv(base)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        return self.outc(self.up3(self.up2(self.up1(self.down3(x3), x3), x2), x1))


class NamedBlock(nn.Module):
    """Registered second before first, so that not even the order within a block helps."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.bn2, self.bn1 = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.conv2, self.conv1 = nn.Conv2d(o, o, 3, padding=1, bias=False), nn.Conv2d(i, o, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


class ListLayout(nn.Module):
    """Lists of ups, decoders (shallowest first) and encoders, in this order; upsampled first; 1x1 upsampling."""

    def __init__(self, base: int = 4):
        super().__init__()
        widths = [base * 2**level for level in range(4)]
        self.head = nn.Conv2d(base, 1, 1)
        self.ups = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths[:-1])
        self.decoder = nn.ModuleList(NamedBlock(2 * width, width) for width in widths[:-1])
        self.bridge = NamedBlock(widths[2], widths[3])
        self.encoder = nn.ModuleList(NamedBlock(i, o) for i, o in zip([3, *widths[:2]], widths[:3], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.encoder:
            skips.append(block(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bridge(x)
        for level in (2, 1, 0):
            x = self.ups[level](nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear"))
            x = self.decoder[level](torch.cat([x, skips[level]], dim=1))
        return self.head(x)


class FlatLayout(nn.Module):
    """conv1..conv10 and norm1..norm10 through the whole network, depth 2: numbers alone name anything."""

    def __init__(self, norm: str, base: int = 4):
        super().__init__()
        widths = [(3, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 8), (8, 8), (8, 4), (4, 4)]
        for index, (i, o) in enumerate(widths, start=1):
            setattr(self, f"conv{index}", nn.Conv2d(i, o, 3, padding=1, bias=norm != "group"))
            kinds = {
                "group": lambda o: nn.GroupNorm(2, o),
                "instance": lambda o: nn.InstanceNorm2d(o, affine=True),
                "bare instance": nn.InstanceNorm2d,
            }
            setattr(self, f"norm{index}", kinds[norm](o))
        self.up1, self.up2 = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.logits = nn.Conv2d(base, 1, 1, bias=False)

    def block(self, x: Tensor, first: int) -> Tensor:
        for index in (first, first + 1):
            x = getattr(self, f"norm{index}")(getattr(self, f"conv{index}")(x)).relu()
        return x

    def forward(self, x: Tensor) -> Tensor:
        s1 = self.block(x, 1)
        s2 = self.block(nn.functional.max_pool2d(s1, 2), 3)
        x = self.block(nn.functional.max_pool2d(s2, 2), 5)
        x = self.block(torch.cat([s2, self.up1(x)], dim=1), 7)
        return self.logits(self.block(torch.cat([s1, self.up2(x)], dim=1), 9))


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters and statistics drawn so that each entry matters and activations keep their size."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("running_var", "weight")):
            tensor.copy_(noise.abs() + 0.5)
        else:
            tensor.copy_(noise * 0.3)
    return module.eval()


def save(state_dict: dict[str, Tensor], path: Path) -> Path:
    save_file(state_dict, path) if path.suffix == ".safetensors" else torch.save(state_dict, path)
    return path


@torch.no_grad()
def assert_same_outputs(network: nn.Module, model: UNetForSemanticSegmentation, channels: int = 3) -> None:
    images = torch.rand(2, channels, 32, 48, generator=torch.Generator().manual_seed(1))
    expected = network(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(model(images).logits, expected, rtol=1e-5, atol=1e-5)


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
def test_a_named_norm_and_numbers_through_the_network(norm):
    network = randomise(FlatLayout(norm))
    model = convert_model(network.state_dict(), norm=norm.split()[-1], num_groups=2)
    assert model.config.norm == norm.split()[-1]
    assert_same_outputs(network, model)


def test_the_wrong_order_of_concatenation_shows():
    network = randomise(CardLayout())
    with pytest.raises(AssertionError):
        assert_same_outputs(network, convert_model(network.state_dict(), concat="upsampled-first"))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_our_own_state_dict_is_a_fixed_point(norm):
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
def test_numbers_that_are_not_plain_are_refused(weight):
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
def test_what_is_no_unet_is_refused(state_dict, part):
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


def run_convert(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_command_writes_a_checkpoint_that_loads_anywhere(tmp_path):
    network = randomise(CardLayout())
    source = tmp_path / "source"
    source.mkdir()
    save(network.state_dict(), source / "model.safetensors")
    done = run_convert("source", "--output_dir", "converted", "--concat", "skip-first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "base_channels=4, depth=4, num_channels=3, norm=none, upsampling=transpose" in done.stdout
    assert "--concat" in done.stdout

    folder = tmp_path / "converted"
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "configuration_unet.py",
        "modeling_unet.py",
        "image_processing_unet.py",
    }
    assert str(tmp_path) not in (folder / "config.json").read_text()
    assert_same_outputs(network, UNetForSemanticSegmentation.from_pretrained(folder))

    images, logits = tmp_path / "images.pt", tmp_path / "logits.pt"
    torch.save(torch.rand(1, 3, 32, 32), images)
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, torch\n"
            "from transformers import AutoImageProcessor, AutoModel\n"
            "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "torch.save(model(torch.load(sys.argv[2])).logits.detach(), sys.argv[3])",
            *map(str, (folder, images, logits)),
        ],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert loaded.returncode == 0, loaded.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(logits), network(torch.load(images)), rtol=1e-5, atol=1e-5)


def test_the_command_refuses_without_a_traceback_and_writes_nothing(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 cut off")
    done = run_convert("broken.pt", "--output_dir", "converted", "--concat", "skip-first", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("convert.py: error: broken.pt is broken")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "converted").exists()


def test_options_reach_the_conversion(tmp_path, capsys):
    network = randomise(ListLayout())
    source = save(network.state_dict(), tmp_path / "unet.bin")
    main([str(source), "--output_dir", str(tmp_path / "lists"), "--concat", "upsampled-first"])
    assert_same_outputs(network, UNetForSemanticSegmentation.from_pretrained(tmp_path / "lists"))

    network = randomise(FlatLayout("group"))
    source = save(network.state_dict(), tmp_path / "unet.safetensors")
    main(
        [
            str(source),
            "--output_dir",
            str(tmp_path / "flat"),
            "--concat",
            "skip-first",
            "--norm",
            "group",
            "--num_groups",
            "2",
        ]
    )
    assert_same_outputs(network, UNetForSemanticSegmentation.from_pretrained(tmp_path / "flat"))
    assert "makes 3 channels" not in capsys.readouterr().out


def test_a_network_of_grey_images_is_written_with_a_warning(tmp_path, capsys):
    source = save(randomise(NormedLayout()).state_dict(), tmp_path / "unet.pt")
    main([str(source), "--output_dir", str(tmp_path / "out"), "--concat", "skip-first"])
    assert "makes 3 channels, not 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_channels"] == 1


@pytest.mark.parametrize("held", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_a_model_is_never_overwritten(tmp_path, capsys, held):
    source = save(CardLayout().state_dict(), tmp_path / "unet.pt")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / held).write_text("mine")
    with pytest.raises(SystemExit) as caught:
        main([str(source), "--output_dir", str(folder), "--concat", "skip-first"])
    assert caught.value.code == 2
    assert f"holds a model already ({held}). Choose another --output_dir." in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [held]
    assert (folder / held).read_text() == "mine"


def test_an_output_file_is_refused(tmp_path, capsys):
    source = save(CardLayout().state_dict(), tmp_path / "unet.pt")
    with pytest.raises(SystemExit):
        main([str(source), "--output_dir", str(source), "--concat", "skip-first"])
    assert "is a file. Choose a folder." in capsys.readouterr().err
