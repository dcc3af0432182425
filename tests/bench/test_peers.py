"""The peers of the token loop: equal tokens, gates that close, and the figures."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

import msgspec
from tiny_bundle import tiny_config

from bench.peers import comparison, contenders, parity
from bench.peers.devices import Device, find_device
from bench.peers.parallel import Parallel
from bench.roofline import Roofline
from training.model import VAB
from vab_rt.decoding import remask_count
from vab_rt.engines import Engines
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions
from vab_rt.sampling import sample_step
from vab_rt.systems.vab import Vab

SIZES = {"num_codebooks": 3, "codebook_size": 37, "width": 32, "layers": 3, "heads": 4}
CONFIG = tiny_config(**SIZES, expert_layers=2, clip_s=0.4, visual_rate_hz=5.0)  # F 2, T 20
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


def system_of(vab, error=0.0):
    """Our own loop and reference sampler around the torch model."""

    @torch.inference_mode()
    def backbone(tokens, features, conditional):
        return vab(*map(torch.from_numpy, (tokens, features, conditional))).numpy() + error

    return Vab(CONFIG, Engines({"backbone": backbone}, "cpu", sample_step))


def ours_of(system, features):
    def ours(seed, options):
        masked = np.full(
            (1, CONFIG.num_codebooks, CONFIG.num_token_steps), CONFIG.mask_id, np.int32
        )
        seeds = np.array([seed], np.uint64)
        steps = system.decode_tokens(features.numpy(), masked, seeds, options)
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
    ours = ours_of(system_of(vab), features)
    assert len(ours(1, OPTIONS)) == OPTIONS.steps
    assert parity.share_unequal_steps(way, features, ours) == 0


def test_where_only_the_last_step_is_seen_a_single_one_is_compared(way, vab, features):
    ours = ours_of(system_of(vab), features)
    asked = []

    def as_on_a_gpu(seed, options):
        asked.append(options.steps)
        return ours(seed, options)[-1:]

    assert parity.share_unequal_steps(way, features, as_on_a_gpu) == 0
    assert asked == [5, 1]


def test_other_tokens_are_noticed(way, vab, features):
    ours = ours_of(system_of(vab), features)

    def off_by_one(seed, options):
        return [(tokens + 1) % CONFIG.codebook_size for tokens in ours(seed, options)]

    assert parity.share_unequal_steps(way, features, off_by_one) > 0.1


def test_logits_are_compared(way, vab, features):
    right, wrong = (
        parity.logits_error(way, features, system_of(vab, error).engines["backbone"])
        for error in (0.0, np.float32(0.5))
    )
    assert right < 1e-6
    assert wrong > 0.05


@pytest.mark.parametrize("found", [0.2, float("nan")])
def test_a_gate_closes(found):
    assert parity.require("logits", 0.1, 0.1) == 0.1
    with pytest.raises(parity.Differs, match=r"not timed: logits differ by .*at most 0.1"):
        parity.require("logits", found, 0.1)


@pytest.fixture
def small_bench(monkeypatch, vab):
    """The whole command at the size of the tests, nothing compiled or exported."""
    monkeypatch.setattr(comparison, "OPTIONS", OPTIONS)
    monkeypatch.setattr(comparison, "PAUSE_S", 0)
    monkeypatch.setattr(contenders, "compile_step", lambda step: step)
    monkeypatch.setattr(comparison, "model_of_size", lambda size: CONFIG)
    monkeypatch.setattr(comparison, "find_device", lambda precision: CPU)
    monkeypatch.setattr(Device, "roofline", lambda self: Roofline(1e11, 1e10))
    monkeypatch.setattr(comparison, "build", lambda *_: (vab, system_of(vab)))
    return monkeypatch


def test_every_peer_is_beside_ours(small_bench, capsys):
    comparison.main(["--json", "--repeats", "2"])
    out = capsys.readouterr().out
    figures = json.loads(out.strip().rpartition("\n")[2])
    assert "no GPU: every peer runs on the CPU" in out
    assert out.index("ceiling of") < out.index("parity:") < out.index("times ours")
    assert set(KEYS) <= set(figures)
    assert figures["device"] == "test" and figures["size"] == "small"
    assert figures["ours"] == "cpu" and figures["failed"] == {}
    assert figures["graph_breaks"] == 0 and figures["skipped_graphs"] is None
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
    wrong = system_of(vab, error=np.float32(0.5))
    small_bench.setattr(comparison, "build", lambda *_: (vab, wrong))
    with pytest.raises(parity.Differs, match="not timed: logits"):
        comparison.main([])
    assert "times ours" not in capsys.readouterr().out


def fails(*arguments, **more):
    raise RuntimeError("no such kernel\nat line 7")


def test_a_peer_that_does_not_run_is_left_out_with_its_reason(small_bench, capsys):
    """What torch.compile makes of a step fails when it is called."""
    small_bench.setattr(contenders, "compile_step", lambda step: fails)
    comparison.main(["--json", "--repeats", "1"])
    out = capsys.readouterr().out
    figures = json.loads(out.strip().rpartition("\n")[2])
    reason = "RuntimeError: no such kernel"
    assert figures["failed"] == {"autoregressive_compiled": reason, "compiled": reason}
    assert list(figures["peers"]) == ["ours", "eager", "autoregressive_eager"]
    assert figures["over_compiled"] is figures["parallel_over_autoregressive_compiled"] is None
    assert figures["over_eager"] > 0 and set(KEYS) <= set(figures)
    assert f"compiled is left out: {reason}" in out


def test_a_peer_that_differs_is_left_out_and_so_is_what_depends_on_it(small_bench):
    small_bench.setattr(parity, "cached_error", lambda *_: 0.5)
    found = comparison.compare_peers(CPU, "small", 1, "cpu")
    assert found["failed"]["autoregressive_eager"].startswith("Differs: not timed: logits (cache)")
    assert found["failed"]["autoregressive_compiled"] == "there are no columns to compare it with"
    assert list(found["peers"]) == ["ours", "eager", "compiled"]
    assert list(found["parity"]) == ["backbone", "steps"]


def test_ours_is_never_left_out(small_bench):
    small_bench.setattr(contenders.Contenders, "ours", fails)
    with pytest.raises(RuntimeError, match="no such kernel"):
        comparison.compare_peers(CPU, "small", 1, "cpu")


def test_each_turn_is_shown_as_it_comes(small_bench, capsys):
    comparison.compare_peers(CPU, "small", 2, "cpu")
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[:2] for line in lines if line.startswith(("warm-up", "parity", "turn"))]
    assert [" ".join(words) for words in shown] == [
        "parity: backbone",
        "warm-up: ours",
        "warm-up: eager",
        "warm-up: autoregressive_eager",
        "parity: static_cache",
        "warm-up: compiled",
        "warm-up: autoregressive_compiled",
        "turn 1:",
        "turn 2:",
    ]


def test_what_is_not_compiled_is_shown_where_compiling_never_ends(small_bench, capsys):
    def hangs(*arguments, **more):
        raise KeyboardInterrupt

    small_bench.setattr(contenders, "compile_step", lambda step: hangs)
    with pytest.raises(KeyboardInterrupt):
        comparison.compare_peers(CPU, "small", 1, "cpu")
    out = capsys.readouterr().out
    assert all(f"warm-up: {name} " in out for name in ("ours", "eager", "autoregressive_eager"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_there_is_no_loop_around_torchs_backbone():
    with pytest.raises(OptionError, match="--device torch needs a GPU that torch finds"):
        comparison.main(["--device", "torch"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch finds")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_our_loop_goes_around_torchs_backbone(precision):
    device = Device("cuda", "test", precision)
    vab, system = comparison.build("default", CONFIG, device, "torch")
    both = contenders.Contenders(device, vab, system, OPTIONS)
    errors, columns = contenders.check(both)
    errors |= contenders.check_compiled(both, columns)
    assert system.engines.device == "cuda, around torch's backbone" and both.failed == {}
    assert errors["backbone"] <= parity.TOLERANCES[precision].logits
    first, again = (both.ours(seed=3)[-1] for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("size", comparison.SIZES)
def test_all_see_one_frame_a_second(size):
    model = comparison.model_of_size(size)
    assert model.num_frames == model.clip_s == 10
    assert msgspec.structs.replace(model, visual_rate_hz=1.0) == model


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_cpu_is_the_device():
    found = find_device("fp16")
    assert (found.kind, found.precision, found.number_bytes) == ("cpu", "fp32", 4)
    assert found.elapsed_ms(lambda: None) >= 0
