"""`bench gpu`: the work of each stage, and its measuring on a stand-in for a GPU."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from checkpoints import SETTINGS, tiny_config
from tiny_bundle import folded_flops

from bench import gpu
from bench.peers.devices import Device
from bench.peers.parity import Differs
from bench.roofline import Roofline, backbone_work
from bench.stages import stage_work
from bench.torch_loop import TorchModel, count_flops
from training.configs import Recipe
from vab_rt.engines import Engines
from vab_rt.engines.device_loop import DeviceEngines
from vab_rt.errors import BackendError
from vab_rt.options import TokenOptions
from vab_rt.sampling import sample_step
from vab_rt.systems.vab import Vab

CONFIG = tiny_config(clip_s=0.4, visual_rate_hz=5.0)  # F 2, T 20, K 3, V 37
OPTIONS = TokenOptions(seed=1, steps=2, top_k=8)
STAGES = ["visual_encoder", "token_loop", "codec_decoder"]


@pytest.mark.parametrize("codec", ["spectral", "encodec"])
def test_the_work_of_a_stage_is_what_torch_counts_when_it_runs(codec):
    config = tiny_config(codec=codec, code_dim=288 if codec == "spectral" else 16)
    recipe = Recipe(model=config, codec=SETTINGS[codec])
    found = stage_work(recipe, number_bytes=2, steps=16)
    counted = count_flops(TorchModel(config, SETTINGS[codec]))
    assert list(found) == STAGES
    assert found["visual_encoder"].flops == counted["visual"]
    assert found["token_loop"].flops == 16 * (counted["guided_step"] - folded_flops(config))
    assert found["codec_decoder"].flops == counted["codec"]
    assert found["token_loop"] == backbone_work(config, 2, 2).times(16)


def test_a_stage_reads_the_weights_that_it_runs():
    recipe = Recipe(model=CONFIG, codec=SETTINGS["spectral"])
    model = TorchModel(CONFIG, SETTINGS["spectral"])
    all_weights = sum(w.numel() for w in model.visual_encoder.parameters())
    found = [stage_work(recipe, n, 1)["visual_encoder"].size_bytes for n in (4, 8)]
    assert 0.5 * 4 * all_weights < found[1] - found[0] <= 4 * all_weights


@pytest.fixture(scope="module")
def model():
    return TorchModel(CONFIG, SETTINGS["spectral"])


@pytest.fixture
def system(model, monkeypatch):
    """The torch model behind the calls of a runtime."""
    monkeypatch.setattr(gpu, "OPTIONS", OPTIONS)
    monkeypatch.setattr(Device, "roofline", lambda self: Roofline(1e12, 1e11))

    def called(module):
        def call(**inputs):
            with torch.inference_mode():
                return module(*map(torch.from_numpy, inputs.values())).numpy()

        return call

    parts = (
        model.visual_encoder,
        model.vab,
        lambda tokens: model.codec.decode(tokens).clamp(-1, 1),
    )
    names = ("visual_encoder", "backbone", "codec_decoder")
    graphs = dict(zip(names, map(called, parts), strict=True))
    return Vab(CONFIG, Engines(graphs, "stand-in", sample_step))


DEVICE = Device("cpu", "stand-in", "fp32")


PLAN = gpu.Plan("tiny", repeats=2, batches=(1, 2))


def test_every_stage_is_beside_its_ceiling(model, system, capsys):
    work = stage_work(Recipe(model=CONFIG, codec=SETTINGS["spectral"]), 4, OPTIONS.steps)
    figures = gpu.measure_stages(DEVICE, model.vab, system, work, PLAN)
    out = capsys.readouterr().out
    assert out.index("ceiling of stand-in") < out.index("parity:") < out.index("loop_ms")
    assert list(figures["stages"]) == STAGES
    assert figures["loop_ms"] == figures["stages"]["token_loop"]["ms"]
    assert figures["loop_over_ceiling"] > 0 and figures["frames_to_waveform_ms"] > 0
    assert list(figures["batches"]) == ["1", "2"]
    for batch in figures["batches"].values():
        assert batch["clips_per_s"] > 0 and batch["equal_tokens"] == 1
    assert figures["host_us_per_step"] is None  # no launches on a CPU
    json.dumps(figures)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_measures_small_on_the_processor(
    model, system, monkeypatch, capsys
):
    recipe = Recipe(model=CONFIG, codec=SETTINGS["spectral"])
    monkeypatch.setattr(gpu, "read_model", lambda name: CONFIG)
    monkeypatch.setattr("training.configs.read_recipe", lambda name: recipe)
    monkeypatch.setattr(gpu, "build", lambda *_: (model.vab, system))
    gpu.main(["--repeats", "1", "--json"])
    out = capsys.readouterr().out
    figures = json.loads(out.strip().rpartition("\n")[2])
    assert "not measured: no GPU; what follows is default on the CPU" in out
    assert figures["gpu_reason"] == "not measured: no GPU"
    assert (figures["model"], figures["precision"], figures["backend"]) == (
        "default",
        "fp32",
        "stand-in",
    )
    assert list(figures["work"]) == list(figures["gpu_work"]) == list(figures["stages"]) == STAGES
    for work in (*figures["work"].values(), *figures["gpu_work"].values()):
        assert work["flops"] > 0 and work["size_bytes"] > 0
    assert figures["loop_ms"] > 0 and list(figures["batches"]) == ["1", "2"]


def test_around_torchs_backbone_the_loop_alone_is_measured(model, system):
    engines = dataclasses.replace(system.engines, graphs={"backbone": system.engines["backbone"]})
    work = {"token_loop": backbone_work(CONFIG, 2, 4)}
    figures = gpu.measure_stages(
        DEVICE, model.vab, dataclasses.replace(system, engines=engines), work, PLAN
    )
    assert list(figures["stages"]) == ["token_loop"]
    assert figures["frames_to_waveform_ms"] is figures["beside_the_loop_ms"] is None
    assert figures["batches"]["2"]["clips_per_s"] > 0
    found = gpu.work_of_stages("vab-encodec", "fp16", "torch")
    assert found == {"token_loop": backbone_work(gpu.read_model("vab-encodec"), 2, 2).times(2)}


def test_clips_that_do_not_fit_end_the_batches_and_nothing_else(model, system, monkeypatch):
    decode = gpu.decode

    def small(system, features, tokens):
        if len(tokens) > 1:
            raise BackendError("the memory of GPU 0 is full")
        return decode(system, features, tokens)

    monkeypatch.setattr(gpu, "decode", small)
    work = {"token_loop": backbone_work(CONFIG, 2, 4)}
    plan = PLAN._replace(batches=(1, 2, 4))
    found = dict(gpu.batches(DEVICE, system, work["token_loop"], Roofline(1e12, 1e11), plan))
    assert list(found) == ["1", "2"] and found["1"]["ms"] > 0
    assert found["2"] == {"failed": "the memory of GPU 0 is full"}


def test_nothing_is_timed_where_logits_differ(system):
    other = TorchModel(CONFIG, SETTINGS["spectral"], seed=1)
    with pytest.raises(Differs, match="not timed: logits"):
        gpu.check(DEVICE, other.vab, system)


def test_the_host_time_of_a_step_is_read_from_the_loop(system):
    class Timed(DeviceEngines):
        def loop_for(self, backbone, clips, branches):
            assert (backbone, clips, branches) == ("backbone", 1, (1.0, 0.0))
            return SimpleNamespace(launching_s=100e-6)

    engines = Timed({}, "cuda", gpu=None, device_graphs={}, contracts={})
    assert gpu.host_us_per_step(dataclasses.replace(system, engines=engines)) == 50


def test_a_clip_of_a_batch_has_its_own_seed(system):
    _, features, masked = gpu.inputs(system, 2)
    same = np.repeat(features[:1], 2, axis=0)
    first, second = gpu.decode(system, same, masked)
    assert not np.array_equal(first, second)
