"""Which layers of a graph are candidates to stay in float, and what is quantized together with them."""

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from unet_kvasir_seg.onnx_export.quantization import candidates, layers_of_nodes  # noqa: E402 - it needs onnx


def graph_of(*names: str):
    """A graph of nodes with these names, "LAYER/OPERATOR"; of their inputs and outputs nothing is read."""
    nodes = [onnx.helper.make_node(name.partition("/")[2], ["x"], ["y"], name=name) for name in names]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))


GRAPH = graph_of(
    "processing/MatMul",
    "network.stem/Conv",
    "network.encoder.0/Conv",
    "network.encoder.0/Relu",
    "network.decoder.0/Conv",
    "network.decoder.1/Conv",
    "network.classifier/Conv",
    "network.head/Resize",
    "processing/Sigmoid",
)


def test_candidates_are_the_last_convolutions_and_the_first():
    assert candidates(GRAPH) == ["classifier", "decoder.1", "decoder.0", "stem"]
    assert candidates(graph_of("network.a/Conv", "network.b/Conv")) == ["b", "a"]  # none twice


def test_nodes_after_the_last_convolution_belong_to_its_layer():
    layers = layers_of_nodes(GRAPH)
    assert layers["network.encoder.0/Relu"] == "encoder.0"
    assert layers["network.head/Resize"] == "classifier"
    assert not [name for name in layers if name.startswith("processing")]
