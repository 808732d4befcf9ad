"""The network: against a plain U-Net written here, hand-computed numbers, and the conventions of `transformers`."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SemanticSegmenterOutput
from unet_kvasir_seg.configuration_unet import NORMS, UPSAMPLINGS, UNetConfig
from unet_kvasir_seg.losses_unet import bce_dice_loss, structure_loss
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NORMS_PER_IMAGE = [norm for norm in NORMS if norm != "batch"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are no faster on many threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed: int = 0, **fields) -> UNetForSemanticSegmentation:
    """A small network in evaluation mode, with biases and normalisations that are not the identity."""
    torch.manual_seed(seed)
    model = UNetForSemanticSegmentation(UNetConfig(**{"base_channels": 4, "depth": 2, "num_groups": 2} | fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.2, 0.2) if name.endswith("bias") else parameter.uniform_(0.5, 1.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.uniform_(-0.2, 0.2)
    return model.eval()


def images(batch: int = 2, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def masks(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    """(B, H, W) uint8: a rectangle in each image, of another size in each."""
    labels = torch.zeros(batch, height, width, dtype=torch.uint8)
    for index in range(batch):
        labels[index, 2 : 6 + 5 * index, 3 : 9 + 4 * index] = 1
    return labels


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor], **tolerances) -> None:
    torch.testing.assert_close(left, right, **({"rtol": 0, "atol": 0} | tolerances))


def relative_difference(left: Tensor, right: Tensor) -> float:
    return ((left - right).norm() / right.norm()).item()


# --- Architecture ---


def plain_double_conv(norm: Callable[[int], nn.Module], bias: bool, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
        norm(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
        norm(outputs),
        nn.ReLU(),
    )


def plain_up(upsampling: str, inputs: int, outputs: int) -> nn.Module:
    if upsampling == "transpose":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    return nn.Sequential(nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(inputs, outputs, 1))


class PlainUNet(nn.Module):
    """A U-Net of two poolings written out, without padding."""

    NORMS = {  # noqa: RUF012
        "none": lambda channels: nn.Identity(),
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(2, channels),
        "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    }

    def __init__(self, norm: str, upsampling: str):
        super().__init__()
        options = self.NORMS[norm], norm == "none"
        self.level0 = plain_double_conv(*options, 3, 4)
        self.level1 = plain_double_conv(*options, 4, 8)
        self.bottom = plain_double_conv(*options, 8, 16)
        self.up1 = plain_up(upsampling, 16, 8)
        self.merge1 = plain_double_conv(*options, 16, 8)
        self.up0 = plain_up(upsampling, 8, 4)
        self.merge0 = plain_double_conv(*options, 8, 4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        level0 = self.level0(x)
        level1 = self.level1(F.max_pool2d(level0, 2))
        bottom = self.bottom(F.max_pool2d(level1, 2))
        merged1 = self.merge1(torch.cat([level1, self.up1(bottom)], 1))
        merged0 = self.merge0(torch.cat([level0, self.up0(merged1)], 1))
        return self.head(merged0)


PLAIN_STAGES = {
    "encoder.0.convs": "level0",
    "encoder.1.convs": "level1",
    "bottleneck.convs": "bottom",
    "decoder.0.convs": "merge1",
    "decoder.1.convs": "merge0",
}
PLAIN_LAYERS = {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4"}
PLAIN_OTHERS = {
    "transpose": {"decoder.0.upsample": "up1", "decoder.1.upsample": "up0", "classifier": "head"},
    "bilinear": {"decoder.0.upsample.0": "up1.1", "decoder.1.upsample.0": "up0.1", "classifier": "head"},
}


def plain_copy(model: UNetForSemanticSegmentation) -> PlainUNet:
    """The same weights in the plain network."""
    names = PLAIN_OTHERS[model.config.upsampling] | {
        f"{stage}.{layer}": f"{plain_stage}.{plain_layer}"
        for stage, plain_stage in PLAIN_STAGES.items()
        for layer, plain_layer in PLAIN_LAYERS.items()
    }
    plain = PlainUNet(model.config.norm, model.config.upsampling)
    renamed = {}
    for name, tensor in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{names[module]}.{leaf}"] = tensor
    plain.load_state_dict(renamed)
    if model.config.upsampling == "bilinear":
        # `UpsamplingBilinear2d` aligns corners, which U-Nets with bilinear upsampling do not agree on.
        for up in (plain.up0, plain.up1):
            up[0] = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return plain.eval()


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (12, 40)])
def test_equals_the_plain_network_if_nothing_is_padded(norm: str, upsampling: str, height: int, width: int):
    model = tiny(norm=norm, upsampling=upsampling)
    x = images(height=height, width=width)
    with torch.no_grad():
        expected, logits = plain_copy(model)(x), model(x).logits
    assert expected.std() > 1e-3
    # The bilinear network convolves before it interpolates, which rounds differently.
    exact = upsampling == "transpose"
    torch.testing.assert_close(
        logits, expected, rtol=0, atol=0 if exact else 1e-6 * expected.abs().max().item() + 1e-6
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_trains_like_the_plain_network(norm: str, upsampling: str):
    model = tiny(norm=norm, upsampling=upsampling).train()
    plain = plain_copy(model).train()
    for network in (lambda x: model(x).logits, plain):
        bce_dice_loss(network(images()), masks().unsqueeze(1)).backward()
    ours, theirs = model.encoder[0].convs[0][0].weight.grad, plain.level0[0].weight.grad
    assert relative_difference(ours, theirs) < 1e-4
    assert relative_difference(model.classifier.weight.grad, plain.head.weight.grad) < 1e-5


@pytest.mark.parametrize("norm", ["none", "instance"])
@pytest.mark.parametrize(("height", "width"), [(9, 9), (32, 33), (31, 32), (13, 50), (8, 11)])
def test_odd_sizes_are_padded_by_the_border_and_cropped(norm: str, height: int, width: int):
    model = tiny(norm=norm)
    x = images(height=height, width=width)
    bottom, right = -height % 4, -width % 4
    rows = torch.arange(height + bottom).clamp(max=height - 1)
    columns = torch.arange(width + right).clamp(max=width - 1)
    with torch.no_grad():
        expected = plain_copy(model)(x[:, :, rows][:, :, :, columns])[:, :, :height, :width]
        logits = model(x).logits
    assert logits.shape == (2, 1, height, width)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("depth", [1, 3])
def test_every_size_from_the_minimum_on(norm: str, depth: int):
    model = tiny(norm=norm, depth=depth)
    smallest = model.config.minimum_size
    with torch.no_grad():
        for height, width in [(smallest, smallest), (smallest, smallest + 1), (smallest + 3, smallest)]:
            logits = model(images(1, height, width)).logits
            assert logits.shape == (1, 1, height, width)
            assert logits.isfinite().all()


def parameters_by_formula(base: int, depth: int, inputs: int, normalised: bool, bilinear: bool) -> int:
    # Of a 3x3 convolution, beside its weights: one bias a channel, or the norm's scale and shift.
    beside = 2 if normalised else 1
    total = base + 1
    for level in range(depth + 1):
        c = base * 2**level
        total += 9 * (inputs if level == 0 else c // 2) * c + 9 * c * c + 2 * beside * c
        if level < depth:
            total += (1 if bilinear else 4) * 2 * c * c + c
            total += 9 * 2 * c * c + 9 * c * c + 2 * beside * c
    return total


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({}, 31_031_745),
        ({"base_channels": 32}, None),
        ({"base_channels": 16}, None),
        ({"base_channels": 32, "norm": "batch"}, None),
        ({"base_channels": 16, "norm": "group", "depth": 3}, None),
        ({"base_channels": 8, "norm": "instance", "upsampling": "bilinear", "num_channels": 1}, None),
    ],
)
def test_number_of_parameters(fields: dict, number: int | None):
    config = UNetConfig(**fields)
    with torch.device("meta"):
        model = UNetForSemanticSegmentation(config)
    formula = parameters_by_formula(
        config.base_channels,
        config.depth,
        config.num_channels,
        normalised=config.norm != "none",
        bilinear=config.upsampling == "bilinear",
    )
    assert number in (None, formula)
    assert sum(parameter.numel() for parameter in model.parameters()) == formula
    assert all(parameter.is_meta for parameter in model.parameters())


def test_dropout_of_the_bottleneck_is_active_in_training_only():
    model = tiny(dropout=0.4, base_channels=8)
    x = images()
    with torch.no_grad():
        kept = model(x, output_hidden_states=True)
        torch.testing.assert_close(model(x).logits, kept.logits, rtol=0, atol=0)
        model.train()
        dropped, again = (model(x, output_hidden_states=True) for _ in range(2))
    assert not torch.equal(dropped.logits, again.logits)
    assert_equal(dict(enumerate(dropped.hidden_states[:2])), dict(enumerate(kept.hidden_states[:2])))
    before, after = kept.hidden_states[2], dropped.hidden_states[2]
    survived = after != 0
    torch.testing.assert_close(after[survived], before[survived] / 0.6)
    assert 0.3 < 1 - survived.sum().item() / (before != 0).sum().item() < 0.5


# --- Errors: got, expected, remedy ---


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((2, 1, 32, 32), {}, r"\(batch, 3, height, width\), got \(2, 1, 32, 32\)\..*UNetImageProcessor"),
        ((2, 3, 32, 32), {"num_channels": 1}, r"\(batch, 1, height, width\), got \(2, 3, 32, 32\)"),
        ((3, 32, 32), {}, r"\(batch, 3, height, width\), got \(3, 32, 32\)\..*UNetImageProcessor"),
        ((1, 2, 3, 32, 32), {}, r"got \(1, 2, 3, 32, 32\)"),
        (
            (2, 3, 3, 32),
            {},
            r"3x32 pixels are too small: .*at least 4x4\. Resize the images, or lower the depth",
        ),
        ((2, 3, 32, 15), {"depth": 4}, r"32x15 pixels are too small: .*at least 16x16\. Resize"),
        ((2, 3, 7, 32), {"norm": "instance"}, r"7x32 pixels are too small: .*at least 8x8\. Resize"),
    ],
)
def test_pixel_values_refused(shape: tuple[int, ...], fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)(torch.rand(shape))


@pytest.mark.parametrize(
    "shape", [(2, 16, 32), (1, 32, 32), (2, 2, 32, 32), (32, 32), (2, 32, 32, 1), (2, 1, 1, 32, 32)]
)
def test_labels_refused(shape: tuple[int, ...]):
    got = str(shape if len(shape) != 3 else (shape[0], 1, *shape[1:]))
    message = r"\(2, 32, 32\) to match `pixel_values`, or \(2, 1, 32, 32\), got (.*?\))\. `UNetImageProcessor`"
    with pytest.raises(ValueError, match=message) as error:
        tiny()(images(), labels=torch.zeros(shape))
    assert got in str(error.value) or str(shape) in str(error.value)


# --- Loss ---


def test_the_loss_is_the_one_in_the_configuration():
    model = tiny(loss="structure").eval()
    outputs = model(images(), labels=masks())
    assert torch.equal(outputs.loss, structure_loss(outputs.logits, masks().unsqueeze(1)))
    assert torch.equal(outputs.logits, tiny().eval()(images()).logits)


@pytest.mark.parametrize(
    "labels", [torch.zeros(2, 32, 32), torch.ones(2, 32, 32), masks()], ids=["empty", "full", "part"]
)
@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_gradients_are_finite_under_autocast(bias: float, labels: Tensor):
    model = tiny().train()
    nn.init.constant_(model.classifier.bias, bias)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images(), labels=labels)
    outputs.loss.backward()
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    assert outputs.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_loss_under_autocast_is_close_to_float32():
    model = tiny()
    expected = model(images(), labels=masks()).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(), labels=masks()).loss
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("channel", [False, True])
def test_labels_of_any_dtype_with_and_without_channel(dtype: torch.dtype, channel: bool):
    model = tiny()
    labels = masks().to(dtype)
    outputs = model(images(), labels=labels.unsqueeze(1) if channel else labels)
    expected = bce_dice_loss(outputs.logits, masks().unsqueeze(1).float())
    assert outputs.loss.item() == expected.item()


@pytest.mark.parametrize("norm", NORMS_PER_IMAGE)
def test_accumulated_gradients_are_those_of_the_big_batch(norm: str):
    model = tiny(norm=norm).train()
    x, labels = images(4), masks(4)
    labels[1] = 0
    model(x, labels=labels).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (model(x[half], labels=labels[half]).loss / 2).backward()
    for name, gradient in gradients(model).items():
        assert relative_difference(gradient, expected[name]) < 1e-5, name


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=8, depth=2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, labels = images(), masks()
    x[:, 0] = labels
    losses = []
    for _ in range(30):
        loss = model(x, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# --- Conventions: forward and outputs ---


def test_forward_signature():
    parameters = inspect.signature(UNetForSemanticSegmentation.forward).parameters
    assert list(parameters) == ["self", "pixel_values", "labels", "output_hidden_states"]
    assert UNetForSemanticSegmentation.main_input_name == "pixel_values"


def test_trainer_divides_the_loss_of_accumulated_steps(tmp_path: Path):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert Trainer(model=tiny(), args=arguments).model_accepts_loss_kwargs is False


def test_deterministic_and_without_coupling_between_images():
    model = tiny()
    x = images(3)
    with torch.no_grad():
        logits = model(x).logits
        torch.testing.assert_close(model(x).logits, logits, rtol=0, atol=0)
        torch.testing.assert_close(model(x[1:2]).logits, logits[1:2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("hidden_states", [False, True])
def test_tuple_and_dict_hold_the_same(with_labels: bool, hidden_states: bool):
    model = tiny()
    inputs = {"pixel_values": images(), "output_hidden_states": hidden_states}
    if with_labels:
        inputs["labels"] = masks()
    outputs = model(**inputs)
    expected = ["loss"] * with_labels + ["logits"] + ["hidden_states"] * hidden_states
    assert isinstance(outputs, SemanticSegmenterOutput)
    assert list(outputs.keys()) == expected

    by_argument = model(**inputs, return_dict=False)
    model.config.return_dict = False
    by_config = model(**inputs)
    assert model(**inputs, return_dict=True).keys() == outputs.keys()
    for as_tuple in (by_argument, by_config):
        assert type(as_tuple) is tuple
        assert len(as_tuple) == len(expected)
        for name, value in zip(expected, as_tuple, strict=True):
            torch.testing.assert_close(value, outputs[name], rtol=0, atol=0)
            assert type(value) is (tuple if name == "hidden_states" else Tensor)


def test_hidden_states_by_argument_and_by_config():
    model = tiny()
    assert model(images()).hidden_states is None
    by_argument = model(images(), output_hidden_states=True).hidden_states
    model.config.output_hidden_states = True
    by_config = model(images()).hidden_states
    assert model(images(), output_hidden_states=False).hidden_states is None
    assert_equal(dict(enumerate(by_config)), dict(enumerate(by_argument)))


def test_hidden_states_are_the_stages_outputs_in_order():
    model = tiny(depth=3)
    with torch.no_grad():
        outputs = model(images(height=30, width=40), output_hidden_states=True)
        states = outputs.hidden_states
        assert [tuple(state.shape[1:]) for state in states] == [
            (4, 32, 40),
            (8, 16, 20),
            (16, 8, 10),
            (32, 4, 5),
            (16, 8, 10),
            (8, 16, 20),
            (4, 32, 40),
        ]
        assert torch.equal(model.encoder[1](F.max_pool2d(states[0], 2)), states[1])
        assert torch.equal(model.bottleneck(F.max_pool2d(states[2], 2)), states[3])
        assert torch.equal(model.decoder[0](states[3], states[2]), states[4])
        assert torch.equal(model.decoder[2](states[5], states[0]), states[6])
        assert torch.equal(model.classifier(states[6])[..., :30, :], outputs.logits)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_hidden_states_retain_their_gradient(checkpointing: bool):
    model = tiny().train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    outputs = model(images(), labels=masks(), output_hidden_states=True)
    for state in outputs.hidden_states:
        state.retain_grad()
    outputs.loss.backward()
    assert all(state.grad.abs().sum() > 0 for state in outputs.hidden_states)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_training_reaches_every_parameter(norm: str, upsampling: str):
    model = tiny(norm=norm, upsampling=upsampling, dropout=0.1).train()
    model(images(), labels=masks()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0] == []


# --- Conventions: gradient checkpointing ---


def train_two_steps(model: UNetForSemanticSegmentation) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    model.train()
    for seed in range(2):
        model(images(2) + seed, labels=masks()).loss.backward()
    return gradients(model), dict(model.named_buffers())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "kwargs", [None, {"use_reentrant": True}, {"use_reentrant": False}], ids=["default", "reentrant", "non_reentrant"]
)
def test_gradient_checkpointing_changes_neither_gradients_nor_buffers(norm: str, kwargs: dict | None):
    plain, checkpointed = (tiny(norm=norm, dropout=0.3) for _ in range(2))
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    assert checkpointed.is_gradient_checkpointing
    before = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    expected_gradients, expected_buffers = train_two_steps(plain)
    got_gradients, got_buffers = train_two_steps(checkpointed)
    assert_equal(got_gradients, expected_gradients)
    assert_equal(got_buffers, expected_buffers)
    if norm == "batch":
        assert {int(got_buffers[name] - before[name]) for name in before if name.endswith("tracked")} == {2}
        assert not any(torch.equal(got_buffers[name], before[name]) for name in before)


def test_gradient_checkpointing_recomputes_in_training_only_and_can_be_disabled():
    model = tiny()
    calls = []
    # Before the call: the recomputation stops as soon as it has what the backward pass needs.
    model.bottleneck.convs.register_forward_pre_hook(lambda *_: calls.append(1))

    def calls_of_a_step() -> int:
        calls.clear()
        model(images(), labels=masks()).loss.backward()
        return len(calls)

    assert model.supports_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert calls_of_a_step() == 1  # in evaluation mode
    model.train()
    assert calls_of_a_step() == 2
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert calls_of_a_step() == 1


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_checkpointing_model_freezes_its_own_statistics(copied: Callable):
    model = tiny(norm="batch")
    model.gradient_checkpointing_enable()
    twin = copied(model)
    _, got = train_two_steps(twin)
    _, expected = train_two_steps(tiny(norm="batch"))
    assert_equal(got, expected)
    assert int(model.bottleneck.convs[0][1].num_batches_tracked) == 0


# --- Conventions: initialisation ---


def expected_std(module: nn.Module) -> float:
    if isinstance(module, nn.ConvTranspose2d):
        # Each output pixel sees every input channel once and no ReLU follows: 1 / fan_in.
        return math.sqrt(1 / module.in_channels)
    return math.sqrt(2 / (module.in_channels * module.kernel_size[0] * module.kernel_size[1]))


def assert_initialised(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        std, count = expected_std(module), module.weight.numel()
        assert module.weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * count)), name
        assert abs(module.weight.mean().item()) < 4 * std / math.sqrt(count), name
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d):
        assert (module.weight == 1).all(), name
    else:
        return
    assert module.bias is None or (module.bias == 0).all(), name
    if isinstance(module, nn.BatchNorm2d):
        assert (module.running_mean == 0).all(), name
        assert (module.running_var == 1).all(), name
        assert module.num_batches_tracked == 0, name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_initialisation_is_kaiming(norm: str, upsampling: str):
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=8, depth=3, norm=norm, upsampling=upsampling))
    for name, module in model.named_modules():
        assert_initialised(name, module)


def test_initialisation_keeps_the_signal():
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=16)).eval()
    with torch.no_grad():
        states = model(torch.randn(2, 3, 64, 64), output_hidden_states=True).hidden_states
    # Ten convolutions of the library's own N(0, 0.02) would leave 1e-4 of it.
    assert all(0.3 < state.square().mean().sqrt() < 3 for state in states)


@pytest.fixture
def _uninitialised_memory_is_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("_uninitialised_memory_is_nan")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "is_missing",
    [
        lambda name: True,
        lambda name: name.startswith("decoder.0."),
        lambda name: name.endswith(".convs.0.1.bias") or name.endswith("upsample.bias"),
        lambda name: "running" in name or name.endswith(".convs.1.1.weight"),
    ],
    ids=["everything", "a_stage", "biases", "scales_and_statistics"],
)
def test_missing_keys_are_initialised_and_loaded_ones_kept(norm: str, is_missing: Callable, tmp_path: Path):
    saved = tiny(norm=norm, base_channels=8)
    saved.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if not is_missing(name)}
    save_file(left, tmp_path / "model.safetensors", metadata={"format": "pt"})

    torch.manual_seed(0)
    model, info = UNetForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    state = model.state_dict()
    assert set(info["missing_keys"]) == tensors.keys() - left.keys()
    assert_equal({name: state[name] for name in left}, left)

    # What was missing, on a fresh model's modules: judged as a fresh model is.
    fresh = UNetForSemanticSegmentation(model.config)
    fresh.load_state_dict({name: state[name] for name in tensors.keys() - left.keys()}, strict=False)
    for name, module in fresh.named_modules():
        assert_initialised(name, module)


def test_weights_of_another_shape_are_initialised_when_asked(tmp_path: Path):
    saved = tiny(base_channels=8)
    saved.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatch"):
        UNetForSemanticSegmentation.from_pretrained(tmp_path, num_channels=6)
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation.from_pretrained(tmp_path, num_channels=6, ignore_mismatched_sizes=True)
    first = "encoder.0.convs.0.0"
    conv = model.get_submodule(first)
    assert conv.weight.std().item() == pytest.approx(expected_std(conv), rel=0.15)
    expected = {name: tensor for name, tensor in saved.state_dict().items() if name != f"{first}.weight"}
    state = model.state_dict()
    assert_equal({name: state[name] for name in expected}, expected)


# --- Conventions: saving and loading ---


def save_plain(model: UNetForSemanticSegmentation, folder: Path) -> dict:
    model.save_pretrained(folder)
    assert (folder / "model.safetensors").exists()
    return {}


def save_state_dict(model: UNetForSemanticSegmentation, folder: Path) -> dict:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = tiny(seed=1, norm=model.config.norm)
    other.save_pretrained(folder, state_dict=state)
    return {}


def save_variant(model: UNetForSemanticSegmentation, folder: Path) -> dict:
    model.save_pretrained(folder, variant="best")
    assert (folder / "model.best.safetensors").exists()
    assert not (folder / "model.safetensors").exists()
    return {"variant": "best"}


def save_shards(model: UNetForSemanticSegmentation, folder: Path) -> dict:
    model.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return {}


def save_subfolder(model: UNetForSemanticSegmentation, folder: Path) -> dict:
    model.save_pretrained(folder / "nested")
    return {"subfolder": "nested"}


@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
@pytest.mark.parametrize("save", [save_plain, save_state_dict, save_variant, save_shards, save_subfolder])
def test_save_and_load(save: Callable, norm: str, tmp_path: Path):
    model = tiny(norm=norm)
    again, info = UNetForSemanticSegmentation.from_pretrained(
        tmp_path, **save(model, tmp_path), output_loading_info=True
    )
    assert not again.training
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_equal(again.state_dict(), model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images()).logits, model(images()).logits)


def test_saved_by_torch(tmp_path: Path):
    model, other = tiny(norm="batch"), tiny(seed=1, norm="batch")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(images()).logits, model(images()).logits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_from_pretrained_in_a_dtype(dtype: torch.dtype, norm: str, tmp_path: Path):
    saved = tiny(norm=norm)
    saved.save_pretrained(tmp_path / "float32")
    model = UNetForSemanticSegmentation.from_pretrained(tmp_path / "float32", dtype=dtype)
    assert model.dtype == dtype
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    with torch.no_grad():
        logits = model(images(height=30).to(dtype)).logits
        expected = saved(images(height=30)).logits
    assert logits.dtype == dtype
    assert relative_difference(logits.float(), expected) < (1e-6 if dtype == torch.float32 else 0.03)

    model.save_pretrained(tmp_path / "saved")
    again = UNetForSemanticSegmentation.from_pretrained(tmp_path / "saved", dtype="auto")
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}
    assert_equal(again.state_dict(), model.state_dict())
    upcast = UNetForSemanticSegmentation.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert {parameter.dtype for parameter in upcast.parameters()} == {torch.float32}


# --- Compilers and memory formats ---


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_step_equals_eager(backend: str):
    """`aot_eager` traces forward and backward as `inductor` does and spares the C++ compiler."""
    model = tiny(depth=1).train()
    expected = model(images(), labels=masks())
    expected.loss.backward()
    expected_gradients = gradients(model)
    model.zero_grad()
    outputs = torch.compile(model, fullgraph=True, backend=backend)(images(), labels=masks())
    outputs.loss.backward()
    assert isinstance(outputs, SemanticSegmenterOutput)
    torch.testing.assert_close(outputs.loss, expected.loss)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert_equal(gradients(model), expected_gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_captured_as_one_graph(norm: str, upsampling: str):
    # As above with `aot_eager`; 30 pixels need padding.
    model = tiny(norm=norm, upsampling=upsampling)
    x, labels = images(height=30), masks(height=30)
    with torch.no_grad():
        expected = model(x, labels=labels, output_hidden_states=True)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        outputs = compiled(x, labels=labels, output_hidden_states=True)
    for name in ("loss", "logits", "hidden_states"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depth", "norm", "upsampling"), [(4, "none", "transpose"), (2, "instance", "bilinear")])
def test_exported_with_dynamic_shapes_equals_eager(depth: int, norm: str, upsampling: str):
    model = tiny(depth=depth, norm=norm, upsampling=upsampling)
    multiple = 2**depth
    height, width = (torch.export.Dim(name, min=2) * multiple for name in ("height", "width"))
    shapes = {"pixel_values": {0: torch.export.Dim("batch"), 2: height, 3: width}}
    x = images(2, 4 * multiple, 3 * multiple)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes).module()
    with torch.no_grad():
        for batch, rows, columns in [(2, 4, 3), (1, 2, 2), (3, 3, 7)]:
            x = images(batch, rows * multiple, columns * multiple)
            torch.testing.assert_close(program(x).logits, model(x).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [32, 37])
def test_channels_last_equals_contiguous(norm: str, upsampling: str, size: int):
    model = tiny(norm=norm, upsampling=upsampling, base_channels=8).train()
    x, labels = images(height=size), masks(height=size)
    expected = model(x, labels=labels)
    expected.loss.backward()
    expected_gradients = gradients(model)

    model.zero_grad()
    model = model.to(memory_format=torch.channels_last)
    assert model.bottleneck.convs[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    outputs = model(x.to(memory_format=torch.channels_last), labels=labels)
    outputs.loss.backward()
    assert relative_difference(outputs.logits, expected.logits) < 1e-5
    for name, gradient in gradients(model).items():
        assert relative_difference(gradient, expected_gradients[name]) < 1e-4, name


# --- Residual encoder, stem at half resolution, light decoder ---

RESIDUAL = {
    "channels": [4, 6, 8],
    "block": "residual",
    "encoder_blocks": [1, 2, 1],
    "stem_stride": 2,
    "decoder_channels": [2, 4],
    "decoder_convs": 1,
    "norm": "batch",
    "upsampling": "bilinear",
}
VARIANTS = {
    "residual": RESIDUAL,
    "residual_full_resolution": RESIDUAL | {"stem_stride": 1, "upsampling": "transpose", "decoder_convs": 2},
    "residual_group": RESIDUAL | {"norm": "group", "encoder_blocks": None, "decoder_channels": None},
    "residual_instance": RESIDUAL | {"norm": "instance"},
    "plain_stem": {"stem_stride": 2, "channels": [4, 6, 6], "decoder_convs": 1},
}
any_variant = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())


def residual_by_hand(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network of `RESIDUAL` in functions of torch alone, evaluating."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, weights.get(f"{name}.bias"), stride=stride, padding=kernel.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def block(x: Tensor, name: str, stride: int = 1) -> Tensor:
        inner = norm(conv(x, f"{name}.conv1.0", stride), f"{name}.conv1.1").relu()
        inner = norm(conv(inner, f"{name}.conv2"), f"{name}.norm2")
        if stride == 2:
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
            x = norm(conv(x, f"{name}.shortcut.1"), f"{name}.shortcut.2")
        return (inner + x).relu()

    def merge(x: Tensor, skip: Tensor, name: str) -> Tensor:
        x = F.interpolate(conv(x, f"{name}.upsample.0"), scale_factor=2, mode="bilinear")
        return norm(conv(torch.cat([skip, x], 1), f"{name}.convs.0.0"), f"{name}.convs.0.1").relu()

    half = norm(conv(x, "stem.0", 2), "stem.1").relu()
    half = block(half, "encoder.0.convs.0")
    quarter = block(block(half, "encoder.1.convs.0", 2), "encoder.1.convs.1")
    bottom = block(quarter, "bottleneck.convs.0", 2)
    merged = merge(merge(bottom, quarter, "decoder.0"), half, "decoder.1")
    return F.interpolate(conv(merged, "classifier"), scale_factor=2, mode="bilinear")


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (24, 40)])
def test_residual_network_by_hand(height: int, width: int):
    model = tiny(**RESIDUAL)
    x = images(height=height, width=width)
    with torch.no_grad():
        expected, logits = residual_by_hand(model.state_dict(), x), model(x).logits
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_stem_and_widths_of_a_plain_network():
    """The stem halves the image; the rest is a plain network of the same widths."""
    fields = VARIANTS["plain_stem"]
    model = tiny(**fields)
    inner = tiny(**(fields | {"stem_stride": 1, "num_channels": 4}))
    renamed = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("stem.")}
    inner.load_state_dict(renamed)
    with torch.no_grad():
        half = F.conv2d(images(), model.stem[0].weight, model.stem[0].bias, stride=2, padding=1).relu()
        expected = F.interpolate(inner(half).logits, scale_factor=2, mode="bilinear")
        torch.testing.assert_close(model(images()).logits, expected, rtol=1e-5, atol=1e-6)
    assert [stage.convs[0][0].out_channels for stage in (*model.encoder, model.bottleneck)] == [4, 6, 6]


@any_variant
def test_variants_take_every_size_from_the_minimum_on(fields: dict):
    model = tiny(**fields)
    smallest, multiple = model.config.minimum_size, model.config.size_multiple
    with torch.no_grad():
        for height, width in [(smallest, smallest), (smallest, smallest + 1), (37, 50)]:
            x = images(1, height, width)
            rows = torch.arange(height + -height % multiple).clamp(max=height - 1)
            columns = torch.arange(width + -width % multiple).clamp(max=width - 1)
            padded = model(x[:, :, rows][:, :, :, columns]).logits[..., :height, :width]
            torch.testing.assert_close(model(x).logits, padded, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=f"needs at least {smallest}x{smallest}"):
        model(images(1, smallest - 1, smallest))


@any_variant
def test_variants_train_every_parameter_with_and_without_checkpointing(fields: dict):
    plain, checkpointed = (tiny(**fields) for _ in range(2))
    checkpointed.gradient_checkpointing_enable()
    expected_gradients, expected_buffers = train_two_steps(plain)
    got_gradients, got_buffers = train_two_steps(checkpointed)
    assert [name for name, gradient in expected_gradients.items() if not gradient.abs().sum() > 0] == []
    assert_equal(got_gradients, expected_gradients)
    assert_equal(got_buffers, expected_buffers)


@any_variant
def test_variants_are_initialised_and_saved(fields: dict, tmp_path: Path):
    torch.manual_seed(0)
    fresh = UNetForSemanticSegmentation(UNetConfig(**{"depth": 2, "num_groups": 2} | fields))
    for name, module in fresh.named_modules():
        assert_initialised(name, module)
    model = tiny(**fields)
    again, info = UNetForSemanticSegmentation.from_pretrained(
        tmp_path, **save_plain(model, tmp_path), output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(again(images()).logits, model(images()).logits)


@any_variant
def test_variants_exported_with_dynamic_shapes_equal_eager(fields: dict):
    model = tiny(**fields)
    multiple = model.config.size_multiple
    height, width = (torch.export.Dim(name, min=2) * multiple for name in ("height", "width"))
    shapes = {"pixel_values": {0: torch.export.Dim("batch"), 2: height, 3: width}}
    program = torch.export.export(model, (images(2, 32, 24),), dynamic_shapes=shapes).module()
    with torch.no_grad():
        for batch, rows, columns in [(1, 2, 2), (3, 3, 7)]:
            x = images(batch, rows * multiple, columns * multiple)
            torch.testing.assert_close(program(x).logits, model(x).logits, rtol=1e-5, atol=1e-5)


def test_the_compact_network_fits_sixteen_megabytes():
    fields = {"depth": 5, "channels": [16, 32, 64, 128, 192, 256], "encoder_blocks": [1, 1, 1, 2, 2, 1]}
    model = UNetForSemanticSegmentation(UNetConfig(**(RESIDUAL | fields | {"decoder_channels": [16, 16, 32, 64, 96]})))
    assert model.num_parameters() == 3_361_665
    assert model.config.minimum_size == 64
