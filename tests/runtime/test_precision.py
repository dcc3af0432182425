"""int8 beside float32: which products of a graph, how far off, and what is told of it."""

import json
from functools import partial
from random import Random as random_numbers

import numpy as np
import onnx
import pytest
from manifests import write_manifest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from tiny_bundle import tiny_config

import vab_rt
from vab_rt.attention import spelled_out
from vab_rt.errors import BundleError
from vab_rt.quantisation import in_float32, in_int8

FAST = vab_rt.GenerateOptions(steps=4, seed=7)
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
ROWS, SIZE = 5, 200  # more than 127 of something: numbers of two bytes


def products(dtype: int = FLOAT) -> bytes:
    """x through a weight, one that is cast, the first again, one of whole numbers, and one that is
    folded at load, twice; a weight of every position stays, as one that is no MatMul's."""
    random = np.random.default_rng(0)
    whole = helper.tensor_dtype_to_np_dtype(dtype)
    square = partial(random.normal, 0, SIZE**-0.5)
    weights = {
        "first": square(size=(SIZE, SIZE)).astype(whole),
        "small": square(size=(SIZE, SIZE)).astype(np.float16),
        "whole": random.integers(-127, 128, (SIZE, SIZE)).astype(np.int8),
        "steps": np.full((1, SIZE), 1e-3, whole),
        "folded": square(size=(SIZE, SIZE)).astype(whole),
        "placed": square(size=(ROWS, SIZE, SIZE)).astype(whole),
        "added": square(size=SIZE).astype(whole),
    }
    weights["first"][:, 3] = 0
    node = helper.make_node
    nodes = [
        node("Cast", ["small"], ["cast"], to=dtype),
        node("MatMul", ["x", "first"], ["a"]),
        node("Tanh", ["a"], ["a2"]),
        node("MatMul", ["a2", "cast"], ["b"]),
        node("MatMul", ["b", "first"], ["c"]),
        node("MatMul", ["folded", "folded"], ["table"]),
        node("Cast", ["whole"], ["wide"], to=dtype),
        node("Mul", ["wide", "steps"], ["scaled"]),
        node("MatMul", ["c", "scaled"], ["c2"]),
        node("MatMul", ["c2", "table"], ["d"]),
        node("Unsqueeze", ["d", "one"], ["e"]),
        node("MatMul", ["e", "placed"], ["f"]),
        node("Add", ["f", "added"], ["y"]),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    held.append(numpy_helper.from_array(np.array([1]), "one"))
    x = helper.make_tensor_value_info("x", dtype, (ROWS, SIZE))
    y = helper.make_tensor_value_info("y", dtype, (ROWS, 1, SIZE))
    graph = helper.make_graph(nodes, "products", [x], [y], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return model.SerializeToString()


def product(value: float) -> bytes:
    """x [1, 2] through a weight [2, 2] of one value."""
    x, y = (helper.make_tensor_value_info(name, FLOAT, (1, 2)) for name in "xy")
    held = [numpy_helper.from_array(np.full((2, 2), value, np.float32), "w")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return helper.make_model(helper.make_graph([node], "one", [x], [y], held)).SerializeToString()


def test_products_with_weights_of_what_the_inputs_reach():
    model, int8 = onnx.load_from_string(products()), in_int8(products())
    found = onnx.load_from_string(int8)
    onnx.checker.check_model(found, full_check=True)
    kinds = [node.op_type for node in found.graph.node]
    assert kinds.count("MatMulInteger") == 4 and kinds.count("MatMul") == 3
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    assert held.keys() == {
        *("first.int8", "first.scales", "cast.int8", "cast.scales"),
        *("scaled.int8", "scaled.scales"),
        *("folded", "placed", "added", "one"),
    }
    largest = np.abs(held["first.int8"]).max(axis=0)
    assert largest[3] == 0 and set(np.delete(largest, 3)) == {64}  # seven bits, in every channel
    x = np.random.default_rng(1).standard_normal((ROWS, SIZE)).astype(np.float32)
    exact, near = (
        InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for one in (model.SerializeToString(), int8)
    )
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_weights_stored_in_int8_in_float32():
    wide = onnx.load_from_string(in_float32(products()))
    onnx.checker.check_model(wide, full_check=True)
    assert [node.op_type for node in wide.graph.node].count("Mul") == 0
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in wide.graph.initializer}
    assert held["scaled"].dtype == np.float32 and not held.keys() & {"whole", "steps"}
    x = np.random.default_rng(1).standard_normal((ROWS, SIZE)).astype(np.float32)
    exact, same = (
        InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for one in (products(), wide.SerializeToString())
    )
    assert np.array_equal(same, exact)
    assert in_float32(in_float32(products())) == in_float32(products())


@pytest.mark.parametrize("model", [products(HALF), product(np.nan), b"no model", b""])
def test_what_has_no_such_product_stays(model):
    assert in_int8(model) == model


def test_of_a_channel_of_nothing_nothing_comes():
    held = onnx.load_from_string(in_int8(product(1e-45))).graph.initializer
    assert [not numpy_helper.to_array(tensor).any() for tensor in held] == [True, False]


@pytest.mark.parametrize("edit", [in_int8, in_float32, spelled_out])
def test_what_is_damaged_is_for_onnxruntime_to_refuse(edit):
    """In no time, either: a number of any length took the square of its bytes."""
    model, random = products(), random_numbers(0)
    for _ in range(300):
        damaged = bytearray(model[-2000:] if random.random() < 0.5 else model)
        for _ in range(random.randint(1, 6)):
            at = random.randrange(len(damaged))
            damaged[at : at + random.randint(0, 9)] = random.randbytes(random.randint(0, 12))
        assert isinstance(edit(bytes(damaged)), bytes)
    for broken in (b"\x08" + b"\xff" * 1_000_000, model[:-100]):
        assert edit(broken) is broken


def test_a_sound_in_int8(tiny_bundle, pipeline, videos):
    made = [
        vab_rt.load(tiny_bundle, precision="int8", threads=threads).generate(videos(60), FAST)
        for threads in (1, 2)
    ]
    exact = pipeline.generate(videos(60), FAST)
    assert np.array_equal(made[0].samples, made[1].samples)
    assert made[0].take.precision == "int8" and exact.take.precision == "fp32"
    same = (made[0].take.tokens == exact.take.tokens).mean()
    assert 0.5 < same < 1


def test_logits_are_near(tiny_bundle, pipeline):
    int8, c = vab_rt.load(tiny_bundle, "cpu", precision="int8"), pipeline.config
    random = np.random.default_rng(0)
    row = {
        "tokens": np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32),
        "features": random.standard_normal((1, c.num_frames, c.visual_dim)).astype(np.float32),
        "conditional": np.ones(1, np.float32),
    }
    exact, near = (p.system.engines["backbone"](**row) for p in (pipeline, int8))
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()
    assert (int8.precision, pipeline.precision) == ("int8", "fp32")


def test_the_command_tells_it_and_a_part_is_made_anew(run, tiny_bundle, videos, tmp_path):
    out, anew = tmp_path / "out.wav", tmp_path / "anew.wav"
    model = ("--model", tiny_bundle)
    told = run("generate", videos(60), out, *model, "--precision", "int8", "--json")
    assert json.loads(told.out)["precision"] == "int8"
    assert json.loads((tmp_path / "out.wav.vab.json").read_text())["precision"] == "int8"
    told = run("generate", videos(60), out, *model, "--precision", "int8", "--force")
    assert "on cpu in int8, seed 0" in told.out
    told = run("regenerate", videos(60), out, anew, "--from", 1, *model, "--json")
    assert (told.code, json.loads(told.out)["precision"]) == (0, "fp32")
    assert "precision" not in json.loads((tmp_path / "anew.wav.vab.json").read_text())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--precision", "bf16"], "precision is 'bf16', expected fp32 or int8; choose one"),
        (["--precision", "int8", "--device", "cuda"], "int8 came with device cuda, expected it"),
        (["--precision", "fp32", "--device", "openvino"], "fp32 came with device openvino"),
    ],
)
def test_what_cannot_be_asked_for(run, tiny_bundle, videos, tmp_path, words, told):
    result = run("generate", videos(10), tmp_path / "out.wav", "--model", tiny_bundle, *words)
    assert (result.code, result.err.count("\n")) == (1, 1) and told in result.err


def test_a_bundle_in_int8(bundle_copy):
    """It has float32 where that was exported beside it."""
    exact = (bundle_copy / "backbone.onnx").read_bytes()
    (bundle_copy / "backbone.onnx").write_bytes(in_int8(exact))
    write_manifest(bundle_copy, tiny_config(), "int8")
    for precision in (None, "int8"):
        assert vab_rt.load(bundle_copy, precision=precision, threads=1).precision == "int8"
    with pytest.raises(BundleError, match="backbones in int8, expected fp32 .*int8,fp32"):
        vab_rt.load(bundle_copy, precision="fp32")
    (bundle_copy / "backbone.fp32.onnx").write_bytes(exact)
    write_manifest(bundle_copy, tiny_config(), "int8")
    assert vab_rt.load(bundle_copy, precision="fp32", threads=1).precision == "fp32"


def test_what_int8_changes_nothing_in_is_not_called_int8(bundle_copy):
    """Weights in a field that is not read: their products would be computed in float32."""
    path = bundle_copy / "backbone.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == FLOAT:
            numbers = numpy_helper.to_array(tensor).ravel()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(numbers)
    onnx.save(model, path)
    write_manifest(bundle_copy, tiny_config())
    assert vab_rt.load(bundle_copy, threads=1).precision == "fp32"
    with pytest.raises(BundleError, match="backbone of .* has no products that int8 is made of"):
        vab_rt.load(bundle_copy, precision="int8", threads=1)


def test_a_model_without_a_backbone(v2a_bundle):
    with pytest.raises(BundleError, match="kind v2a-mapper, expected a model with a backbone"):
        vab_rt.load(v2a_bundle, precision="int8")
