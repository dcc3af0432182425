"""Every node of an exported graph has a kernel of onnxruntime's CUDA provider."""

from pathlib import Path

import onnx
import pytest
from cuda_kernels import is_registered, off_the_gpu
from onnx import TensorProto, helper

SHIPPED = Path(__file__).parents[2] / "vab_rt" / "bundles" / "default"


@pytest.mark.parametrize("name", ["visual_encoder", "backbone", "codec_decoder"])
def test_the_shipped_model_stays_on_the_gpu(name):
    assert off_the_gpu(SHIPPED / f"{name}.onnx") == set()


def test_a_kernel_serves_the_versions_it_is_registered_for():
    assert is_registered("Pad", 21) and is_registered("Pad", 23)
    assert not is_registered("Pad", 19)
    assert is_registered("Gemm", 13) and not is_registered("Gemm", 14)
    assert not is_registered("Loop", 23)


def test_what_has_no_kernel_is_named(tmp_path):
    x, y, z = (
        helper.make_tensor_value_info(name, kind, [2])
        for name, kind in (("x", TensorProto.BFLOAT16), ("y", TensorProto.BFLOAT16), ("z", 1))
    )
    nodes = [
        helper.make_node("Clip", ["x"], ["clipped"]),
        helper.make_node("Add", ["clipped", "x"], ["y"]),
        helper.make_node("Cast", ["y"], ["wide"], to=1),
        helper.make_node("Asinh", ["wide"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y, z])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "g")
    assert off_the_gpu(tmp_path / "g") == {"Clip 13 in bfloat16", "Asinh 22"}
