"""Encoders from classification: EfficientNet-Lite against timm's, timm's own, and the U-Net around both."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from unet_kvasir_seg import encoder_unet
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.encoder_unet import LITE_SCALES, make_encoder, scaled_channels
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

# One of each kind: in the remote code, timm's with a map at stride 2, and timm's without one.
ENCODERS = ["efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto"]


def unet(encoder: str, **fields) -> UNetForSemanticSegmentation:
    """A U-Net in evaluation mode whose batch norms are not the identity."""
    torch.manual_seed(0)
    defaults = {"norm": "batch", "upsampling": "bilinear", "decoder_channels": [8, 8, 16, 16]}
    model = UNetForSemanticSegmentation(UNetConfig(encoder=encoder, **{**defaults, **fields}))
    return shake_norms(model).eval()


def shake_norms(model: nn.Module) -> nn.Module:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize("name", LITE_SCALES)
def test_efficientnet_lite_equals_timms(name: str):
    """Weights by timm's names, maps at odd and even sizes of the levels."""
    theirs = shake_norms(timm.create_model(f"tf_{name}", features_only=True)).eval()
    ours = make_encoder(name).eval()
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = theirs(images), ours(images)
    assert ours.channels == theirs.feature_info.channels() == [feature.shape[1] for feature in got]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_channels_are_rounded_to_eights_as_the_paper_does():
    # As 40 * 1.1 = 44, half-way from 40 to 48, and 112 * 1.1 = 123.2, nearest to 120.
    assert [scaled_channels(channels, 1.1) for channels in (16, 24, 40, 80, 112, 192, 320)] == [
        *(16, 24, 48, 88, 120, 208, 352)
    ]
    assert scaled_channels(11, 1.0) == 16  # 8 would be less than 90 % of 11


@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_have_the_images_size_whatever_it_is(encoder: str):
    model = unet(encoder)
    for height, width in ((32, 32), (64, 96), (33, 70)):
        images = torch.rand(1, 3, height, width)
        outputs = model(images, output_hidden_states=True)
        assert outputs.logits.shape == (1, 1, height, width)
    # Maps of 1/2 to 1/32 where there are some, and the decoder's four of 1/16 to 1/2, of the padded 64x96.
    skips = 4 if encoder == "convnext_atto" else 5
    sizes = [state.shape[-2] for state in outputs.hidden_states]
    assert sizes == [*[32, 16, 8, 4, 2][5 - skips :], 4, 8, 16, 32]
    with pytest.raises(ValueError, match="at least 32x32"):
        model(torch.rand(1, 3, 31, 64))


def test_without_a_map_at_stride_two_the_last_decoder_stage_has_no_skip():
    model = unet("convnext_atto")
    assert model.decoder[-1].convs[0][0].in_channels == 8  # its own upsampled channels alone
    assert unet("efficientnet_lite0").decoder[-1].convs[0][0].in_channels == 8 + 16


@pytest.mark.parametrize("encoder", ENCODERS)
def test_saved_and_loaded_with_nothing_else(encoder: str, tmp_path: Path, monkeypatch):
    model = unet(encoder)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)  # no weights may be downloaded
    loaded = UNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded(images).logits, model(images).logits, rtol=1e-5, atol=1e-5)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == dict(model.state_dict()).keys()
    # Weights that a checkpoint lacks are initialised, not left as memory was.
    del saved["classifier.weight"]
    save_file(saved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert UNetForSemanticSegmentation.from_pretrained(tmp_path)(images).logits.isfinite().all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_training_reaches_every_parameter_with_and_without_checkpointing(encoder: str):
    model = unet(encoder).train()
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 2, (2, 64, 64))
    gradients, statistics = [], []
    for checkpointing in (False, True):
        one = copy.deepcopy(model)
        for module in one.modules():
            if "Drop" in type(module).__name__:
                module.eval()
        if checkpointing:
            one.gradient_checkpointing_enable()
        one(images, labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in one.named_parameters()})
        statistics.append(dict(one.named_buffers()))
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(statistics[0], statistics[1])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_exported_with_dynamic_shapes_and_in_channels_last_equal_eager(encoder: str):
    model = unet(encoder)
    batch, height, width = (torch.export.Dim(name, min=low, max=8) for name, low in (("b", 1), ("h", 1), ("w", 1)))
    shapes = {"pixel_values": {0: batch, 2: 32 * height, 3: 32 * width}}
    program = torch.export.export(model, (torch.rand(2, 3, 64, 96),), {}, dynamic_shapes=shapes)
    images = torch.rand(3, 3, 96, 64)
    expected = model(images).logits
    torch.testing.assert_close(program.module()(images).logits, expected, rtol=1e-4, atol=1e-4)
    in_channels_last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(in_channels_last.logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "resnet43"}, r"there is no 'resnet43'; similar names: .*resnet34"),
        ({"encoder": "efficientnet_lite7"}, r"similar names: efficientnet_lite\d"),
        (
            {"encoder": "resnet18", "depth": 5, "block": "residual"},
            "own, which depth, block describe",
        ),
        ({"encoder": "efficientnet_lite0", "num_channels": 4}, "takes images of 3 channels, got 4"),
        ({"encoder": "resnet18", "decoder_channels": [8, 8]}, "`decoder_channels` must have 4 entries"),
    ],
)
def test_configurations_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**fields)


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_an_encoder_without_usable_feature_maps_is_refused(encoder: str):
    with pytest.raises(ValueError, match=f"'{encoder}'.*(has|have) .*feature maps.*"):
        make_encoder(encoder)


def test_a_tag_names_weights_of_an_encoder_of_timm():
    tagged, plain = make_encoder("resnet18.a1_in1k"), make_encoder("resnet18")
    assert tagged.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(ValueError, match="no-such-tag"):
        make_encoder("resnet18.no-such-tag")


def test_without_timm_only_its_own_encoders_are_missing(monkeypatch):
    monkeypatch.setattr(encoder_unet, "timm", None)
    assert UNetConfig(encoder="efficientnet_lite2").encoder == "efficientnet_lite2"
    with pytest.raises(ImportError, match=r"'resnet18' is not one of efficientnet_lite0.*pip install timm"):
        UNetConfig(encoder="resnet18")


def test_no_encoder_is_the_network_of_before():
    """Its parameters have the names and shapes that checkpoints have."""
    names = list(UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=1)).state_dict())
    assert names[:2] == ["encoder.0.convs.0.0.weight", "encoder.0.convs.0.0.bias"]
    assert UNetForSemanticSegmentation(UNetConfig()).num_parameters() == 31_031_745


LOAD_WITHOUT_TIMM = """
import sys

sys.modules["timm"] = None  # as if it were not installed
import torch
from PIL import Image
from transformers import AutoModel, pipeline

try:
    model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
except ImportError as error:
    print(error)
else:
    with torch.no_grad():
        torch.save(model(torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)).logits, "logits.pt")
    segment = pipeline("image-segmentation", model=sys.argv[1], trust_remote_code=True)
    print([part["label"] for part in segment(Image.new("RGB", (70, 50)))])
"""


@pytest.mark.parametrize("encoder", ["efficientnet_lite1", "resnet10t"])
def test_remote_code_in_a_fresh_process_without_timm(encoder: str, tmp_path: Path):
    model = unet(encoder)
    model.register_for_auto_class("AutoModel")
    model.save_pretrained(tmp_path / "model")
    processor = UNetImageProcessor(size={"height": 64, "width": 64}, do_normalize=True)
    processor.image_mean = processor.image_std = [0.5] * 3
    processor.save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD_WITHOUT_TIMM, str(tmp_path / "model")],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf")},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if encoder == "resnet10t":
        assert "'resnet10t' is not one of" in done.stdout
        assert "pip install timm" in done.stdout
        return
    assert done.stdout.strip() == "['background', 'polyp']"
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), expected)
