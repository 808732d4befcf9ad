"""The exported graph: modules that replace others, architectures, and what cannot be exported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from PIL import Image
from torch import nn
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import load_checkpoint
from unet_kvasir_seg.inference.onnx_session import OnnxSession
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from unet_kvasir_seg.onnx_export.graph import PointwiseUpsample, build_graph  # noqa: E402 - it needs onnx


@pytest.fixture
def model(tmp_path) -> Path:
    """A tiny network."""
    return save_tiny_model(tmp_path / "tiny", seed=0)


def test_a_transposed_convolution_is_a_pointwise_one():
    torch.manual_seed(0)
    transposed = nn.ConvTranspose2d(6, 4, kernel_size=2, stride=2)
    images = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(PointwiseUpsample(transposed)(images), transposed(images))


ARCHITECTURES = {
    **{
        norm: {"base_channels": 8, "depth": 2, "norm": norm, "block": "residual", "stem_stride": 2, "num_groups": 4}
        for norm in ("batch", "group", "instance")
    },
    **{
        encoder: {"encoder": encoder, "norm": "batch", "decoder_channels": [8, 8, 16, 16]}
        for encoder in ("efficientnet_lite0", "mobilenetv3_small_050")
    },
}


@pytest.mark.parametrize(
    ("architecture", "precision", "tolerance"),
    [*((name, "fp32", 1e-5) for name in ARCHITECTURES), ("batch", "fp16", 1e-2), ("efficientnet_lite0", "fp16", 1e-2)],
)
def test_other_architectures_agree_too(architecture, precision, tolerance, tmp_path):
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(UNetConfig(upsampling="bilinear", **ARCHITECTURES[architecture])).train()
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))  # gives batch norm statistics of its own
    processor = UNetImageProcessor(
        size={"height": 36, "width": 52},  # padded inside
        do_normalize=True,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.5, 0.6, 0.7],
    )
    (tmp_path / "model.onnx").write_bytes(build_graph(model.eval(), processor, precision).SerializeToString())
    graph = onnx.load(tmp_path / "model.onnx")
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    picture = np.array(next(generate(1, (72, 104), seed=0))["image"])
    expected = Predictor(model, processor, choose_runtime("cpu", "float32"))(Image.fromarray(picture))
    _, probability, _ = OnnxSession.load(tmp_path / "model.onnx").run(picture[None])
    np.testing.assert_allclose(probability[0], expected.probability, atol=tolerance)


def test_a_layer_without_onnx_form_is_named(model):
    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    network, processor = load_checkpoint(str(model))
    network.encoder[1].convs[0][2] = Bessel()
    with pytest.raises(UserError, match=r"layer encoder\.1\.convs\.0\.2 \(Bessel\) has no ONNX form"):
        build_graph(network.eval(), processor, "fp32")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("resample", 3, r"has resample=.*the exported graph can only have"),
        ("do_rescale", False, "has do_rescale=False"),
        ("size", {"shortest_edge": 32}, "expected height and width"),
    ],
)
def test_settings_that_the_graph_cannot_express_are_refused(model, setting, value, message):
    network, processor = load_checkpoint(str(model))
    setattr(processor, setting, value)
    with pytest.raises(UserError, match=message):
        build_graph(network, processor, "fp32")
