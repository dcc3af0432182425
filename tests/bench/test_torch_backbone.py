"""Torch's backbone in our loop: what is warmed up, captured and replayed, on a stand-in GPU."""

import contextlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from tiny_bundle import tiny_config

from bench.peers import torch_backbone
from vab_rt.contract import contract_of
from vab_rt.engines.gpu import DeviceArray

CONFIG = tiny_config(width=32, layers=1, heads=4, clip_s=0.4, visual_rate_hz=5.0)
ROWS = 2
tensor_of = torch_backbone.tensor_of


class Memory:
    """The host's, under the names of the backbone's tensors; it holds what is no token."""

    def __init__(self):
        contract = contract_of(CONFIG)["backbone"]
        self.arrays = {}
        for tensor in (*contract.inputs, *contract.outputs):
            shape = tuple(ROWS if isinstance(size, str) else size for size in tensor.shape)
            self.arrays[tensor.name] = np.full(shape, 10**6, tensor.dtype)
        self.tensors = {
            name: DeviceArray(array.ctypes.data, array.dtype, array.shape)
            for name, array in self.arrays.items()
        }

    def tensor_of(self, array):
        (found,) = [a for a in self.arrays.values() if a.ctypes.data == array.address]
        return torch.from_numpy(found)


class StandInGraph:
    """Calls again what was called while it was captured."""

    def replay(self):
        assert torch.is_inference_mode_enabled(), "torch refuses to fill its tensors of that mode"
        self.run()


@pytest.fixture
def memory(monkeypatch):
    found = Memory()
    monkeypatch.setattr(torch_backbone, "tensor_of", found.tensor_of)
    return found


@pytest.fixture
def graph(memory, monkeypatch):
    """With `vab`, and `calls`: the inputs of each run of it."""
    vab, calls = torch_backbone.random_vab(CONFIG), []

    def compiled(*inputs):
        calls.append(inputs)
        return vab(*inputs)

    @contextlib.contextmanager
    def capture(graph, stream):
        yield
        logits = torch.from_numpy(memory.arrays["logits"])
        graph.run = lambda: logits.copy_(vab(*calls[-1]))

    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle: handle)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)

    class Gpu:
        handle = 0x5000

    made = torch_backbone.TorchGraph(vab, Gpu())
    calls.clear()  # it has tried whether torch can compile
    made.vab, made.calls = vab, calls
    return made


def test_it_is_warmed_up_with_tokens_whatever_its_memory_held(graph, memory):
    graph.bind(memory.tensors)
    assert len(graph.calls) == torch_backbone.WARM_UPS + 1
    assert np.isfinite(memory.arrays["logits"]).all()


def test_a_replay_reads_and_writes_the_memory_that_was_bound(graph, memory):
    enqueue, random = graph.bind(memory.tensors), np.random.default_rng(0)
    arrays = memory.arrays
    arrays["tokens"][...] = random.integers(CONFIG.mask_id + 1, size=arrays["tokens"].shape)
    arrays["features"][...] = random.standard_normal(arrays["features"].shape)
    arrays["conditional"][...] = [1, 0]
    enqueue()
    inputs = (torch.from_numpy(arrays[name]) for name in ("tokens", "features", "conditional"))
    with torch.no_grad():
        expected = graph.vab(*inputs).numpy()
    np.testing.assert_allclose(arrays["logits"], expected, rtol=0, atol=1e-6)
    assert not np.allclose(expected[0], expected[1])


def test_wherever_it_is_bound_one_compilation_serves(graph, memory):
    """torch compiles anew for tensors of the other mode: half a minute at full size."""
    graph.bind(memory.tensors)
    with torch.inference_mode():
        graph.bind(memory.tensors)
    assert all(tensor.is_inference() for inputs in graph.calls for tensor in inputs)


def test_a_copy_of_the_memory_is_refused(memory, monkeypatch):
    array = memory.tensors["tokens"]
    monkeypatch.setattr(torch, "as_tensor", lambda array, device: memory.tensor_of(array))
    assert tensor_of(array).data_ptr() == array.address
    monkeypatch.setattr(torch, "as_tensor", lambda array, device: memory.tensor_of(array).clone())
    with pytest.raises(AssertionError, match="a copy at 0x"):
        tensor_of(array)


def test_where_torch_cannot_compile_the_backbone_is_plain_and_says_so(monkeypatch, capsys):
    def fails(*inputs):
        raise RuntimeError("no C compiler\nat all")

    vab = torch_backbone.random_vab(CONFIG)
    monkeypatch.setattr(torch, "compile", lambda model, **_: fails)
    assert torch_backbone.compiled_or_plain(vab) == (vab, "torch's backbone, not compiled")
    printed = " ".join(capsys.readouterr().out.split())
    assert "cannot compile the backbone here: RuntimeError: no C compiler at all" in printed
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    assert torch_backbone.compiled_or_plain(vab) == (vab, "torch's backbone")
