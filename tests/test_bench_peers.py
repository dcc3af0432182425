"""The peers of the token loop: equal tokens, gates that close, and the figures."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

import msgspec
from checkpoints import tiny_config

from bench.peers import comparison, parity
from bench.peers.devices import Device, find_device
from bench.peers.parallel import Parallel
from bench.roofline import Roofline
from training.model import VAB
from training.recipes import Recipe
from vab_rt.config import TokenOptions
from vab_rt.decoding import remask_count
from vab_rt.engines import Engines
from vab_rt.pipeline import Pipeline
from vab_rt.sampling import sample_step
from vab_rt.systems.vab import Vab

CONFIG = tiny_config(clip_s=0.4, visual_rate_hz=5.0)  # F 2, T 20, K 3, V 37
OPTIONS = TokenOptions(seed=1, steps=5, top_k=8)
CPU = Device("cpu", "test", "fp32")
KEYS = (
    "parallel_over_autoregressive_eager",
    "parallel_over_autoregressive_compiled",
    "over_eager",
    "over_compiled",
    "loop_ms",
    "ceiling_ms",
    "device",
)


@pytest.fixture(scope="module")
def vab():
    torch.manual_seed(0)
    return VAB(CONFIG).eval()


@pytest.fixture
def way(vab):
    return Parallel(vab, OPTIONS)


@pytest.fixture(scope="module")
def features():
    found = torch.randn(1, CONFIG.num_frames, CONFIG.visual_dim)
    return torch.nn.functional.normalize(found, dim=-1)


def pipeline_of(vab, error=0.0):
    """Our own loop and reference sampler around the torch model."""

    @torch.inference_mode()
    def backbone(tokens, features, conditional):
        return vab(*map(torch.from_numpy, (tokens, features, conditional))).numpy() + error

    return Pipeline(Vab(CONFIG, Engines({"backbone": backbone}, "cpu", sample_step)))


def ours_of(pipeline, features):
    def ours(seed, options):
        masked = np.full(
            (1, CONFIG.num_codebooks, CONFIG.num_token_steps), CONFIG.mask_id, np.int32
        )
        seeds = np.array([seed], np.uint64)
        steps = pipeline.system.decode_tokens(features.numpy(), masked, seeds, options)
        return [tokens for _, tokens in steps]

    return ours


def test_torch_fills_every_token_on_the_schedule(way, features):
    masked_after = []
    step = way.step

    def counted(*arguments):
        tokens = step(*arguments)
        masked_after.append(int((tokens == CONFIG.mask_id).sum()))
        return tokens

    way.step = counted
    tokens = way.tokens(features, 1)
    total = tokens.numel()
    assert masked_after == [remask_count(i, OPTIONS.steps, total) for i in range(OPTIONS.steps)]
    assert tokens.shape == (1, CONFIG.num_codebooks, CONFIG.num_token_steps)
    assert torch.equal(tokens, way.tokens(features, 1))
    assert not torch.equal(tokens, way.tokens(features, 2))


def test_known_tokens_stay(way, features):
    tokens = way.masked()
    tokens[0, 0, :5] = torch.arange(5)
    pair = features.repeat(2, 1, 1)
    with torch.inference_mode():
        after = way.advance(tokens, pair, *way.schedule[0])
    assert after[0, 0, :5].tolist() == [0, 1, 2, 3, 4]


def test_our_steps_are_torchs(way, vab, features):
    ours = ours_of(pipeline_of(vab), features)
    assert len(ours(1, OPTIONS)) == OPTIONS.steps
    assert parity.share_unequal_steps(way, features, ours) == 0


def test_where_only_the_last_step_is_seen_a_single_one_is_compared(way, vab, features):
    ours = ours_of(pipeline_of(vab), features)
    asked = []

    def as_on_a_gpu(seed, options):
        asked.append(options.steps)
        return ours(seed, options)[-1:]

    assert parity.share_unequal_steps(way, features, as_on_a_gpu) == 0
    assert asked == [5, 1]


def test_other_tokens_are_noticed(way, vab, features):
    ours = ours_of(pipeline_of(vab), features)

    def off_by_one(seed, options):
        return [(tokens + 1) % CONFIG.codebook_size for tokens in ours(seed, options)]

    assert parity.share_unequal_steps(way, features, off_by_one) > 0.1


def test_logits_are_compared(way, vab, features):
    right, wrong = (
        parity.logits_error(way, features, pipeline_of(vab, error).system.engines["backbone"])
        for error in (0.0, np.float32(0.5))
    )
    assert right < 1e-6
    assert wrong > 0.05


@pytest.mark.parametrize("found", [0.2, float("nan")])
def test_a_gate_closes(found):
    parity.require("logits", 0.1, 0.1)
    with pytest.raises(SystemExit, match=r"not timed: logits differ by .*at most 0.1"):
        parity.require("logits", found, 0.1)


@pytest.fixture
def small_bench(monkeypatch, vab):
    """The whole command at the size of the tests, nothing compiled or exported."""
    monkeypatch.setattr(comparison, "OPTIONS", OPTIONS)
    monkeypatch.setattr(comparison, "PAUSE_S", 0)
    monkeypatch.setattr(comparison, "compile_step", lambda step: step)
    monkeypatch.setattr(comparison, "recipe_of_size", lambda size: Recipe(model=CONFIG))
    monkeypatch.setattr(comparison, "find_device", lambda precision: CPU)
    monkeypatch.setattr(Device, "roofline", lambda self: Roofline(1e11, 1e10))
    monkeypatch.setattr(comparison, "build", lambda *_: (vab, pipeline_of(vab)))
    return monkeypatch


def test_every_peer_is_beside_ours(small_bench, capsys):
    comparison.main(["--json", "--repeats", "2"])
    out = capsys.readouterr().out
    figures = json.loads(out.strip().rpartition("\n")[2])
    assert "no GPU: every peer runs on the processor" in out
    assert out.index("ceiling of") < out.index("parity:") < out.index("times ours")
    assert set(KEYS) <= set(figures)
    assert figures["device"] == "test" and figures["size"] == "small"
    assert figures["ours"] == "cpu"
    assert len(figures["peers"]) == 5
    for name, peer in figures["peers"].items():
        assert peer["ms"] > peer["ceiling_ms"] > 0
        assert peer["ms"] / figures["loop_ms"] == pytest.approx(over(figures, name), abs=0.02)


def over(figures, name):
    if name == "ours":
        return 1
    parts = {"eager": "over_eager", "compiled": "over_compiled"}
    return figures[parts.get(name, f"parallel_over_{name}")]


def test_nothing_is_timed_where_logits_differ(small_bench, vab, capsys):
    wrong = pipeline_of(vab, error=np.float32(0.5))
    small_bench.setattr(comparison, "build", lambda *_: (vab, wrong))
    with pytest.raises(SystemExit, match="not timed: logits"):
        comparison.main([])
    assert "times ours" not in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch finds")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_our_loop_goes_around_torchs_backbone(precision):
    device = Device("cuda", "test", precision)
    vab, pipeline = comparison.build(Recipe(model=CONFIG), device, "torch")
    sides = comparison.Sides(device, vab, pipeline)
    errors = comparison.check(sides)
    assert pipeline.device == "cuda, around torch's backbone"
    assert errors["backbone"] <= parity.TOLERANCES[precision].logits
    first, again = (sides.ours(seed=3)[-1] for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("size", comparison.SIZES)
def test_all_see_one_frame_a_second(size):
    model = comparison.recipe_of_size(size).model
    assert model.num_frames == model.clip_s == 10
    assert msgspec.structs.replace(model, visual_rate_hz=1.0) == model


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_processor_is_the_device():
    found = find_device("fp16")
    assert (found.kind, found.precision, found.number_bytes) == ("cpu", "fp32", 4)
    assert found.elapsed_ms(lambda: None) >= 0
