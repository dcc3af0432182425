"""The peer of the sampling kernels: the same tokens, and the bench around it on a stand-in GPU."""

import time

import numpy as np
import pytest
from sampling_cases import make_case, run

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

from bench import gpu_sampling
from bench.sampling import first_step, measure_in_torch, measure_on_gpu
from bench.torch_sampling import measure_torch, philox_gumbel, torch_gumbel, torch_step
from vab_rt.philox import CONFIDENCE_STREAM, TOKEN_STREAM, gumbel
from vab_rt.sampling import sample_step
from vab_rt.sampling_arguments import StepSettings

ARRAYS = ("tokens", "conditional", "unconditional")
CASES = {
    "a few": make_case(masked=0.6, clips=3),
    "no top-k": make_case(top_k=0),
    "top-k over V": make_case(top_k=38),
    "odd sizes": make_case(1, positions=63, size=781, top_k=256),
    "as in the bench": make_case(2, 1, 500, 2048, masked=2.0, top_k=256, guidance=5.0),
    "none masked": make_case(masked=-1.0),
    "last step": make_case(step=2**32 - 1),
}


def settings_of(case):
    return StepSettings(**{name: value for name, value in case.items() if name not in ARRAYS})


def run_in_torch(case, noise=philox_gumbel):
    settings = settings_of(case)
    step = torch_step(settings, noise(settings))
    return step(*(torch.from_numpy(case[name]) for name in ARRAYS)).numpy()


@pytest.mark.parametrize("name", CASES)
def test_tokens_equal_the_reference(name):
    np.testing.assert_array_equal(run_in_torch(CASES[name]), run(CASES[name]))


@pytest.mark.parametrize("stream", [TOKEN_STREAM, CONFIDENCE_STREAM])
def test_the_noise_is_that_of_the_reference_but_for_the_rounding_of_log(stream):
    seeds = np.array([0, 5, 2**63 + 2**32, 2**64 - 1], np.uint64)
    counters = np.random.default_rng(0).integers(0, 2**32, (4, 1000), np.uint32)
    case = make_case(clips=4, seeds=seeds, step=2**32 - 1)
    noise = philox_gumbel(settings_of(case))(stream, torch.from_numpy(counters.astype(np.int64)))
    for seed, c0, found in zip(seeds, counters, noise.numpy(), strict=True):
        expected = gumbel(int(seed), 2**32 - 1, stream, c0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_with_noise_of_its_own_the_asked_number_is_masked_again():
    case = make_case(clips=3)
    after = run_in_torch(case, lambda settings: torch_gumbel)
    given = case["tokens"] != 37
    np.testing.assert_array_equal((after == 37).sum(axis=1), case["num_remask"])
    np.testing.assert_array_equal(after[given], case["tokens"][given])
    apart = case["conditional"] - case["unconditional"]
    ranks = (-case["unconditional"] - case["guidance"] * apart).argsort(-1).argsort(-1)
    drawn = ~given & (after != 37)
    chosen = np.take_along_axis(ranks, after[..., None].clip(0, 36), -1)[..., 0]
    assert drawn.any() and (chosen[drawn] < case["top_k"]).all()
    noise = torch_gumbel(TOKEN_STREAM, torch.zeros(100_000))
    assert abs(noise.mean().item() - np.euler_gamma) < 0.03


def only_eager(settings, device="cpu"):
    """Without compiling, which takes longer than all other tests of this file."""
    same = torch_step(settings, philox_gumbel(settings, device), device)
    return {"torch": same, "torch_compile": same}


def test_every_way_is_timed_on_this_processor(monkeypatch):
    monkeypatch.setattr("bench.torch_sampling.torch_steps", only_eager)
    buffers = np.random.default_rng(0).standard_normal((2, 2, 1, 20, 32), np.float32)
    figures = measure_torch(first_step(20), buffers, torch.get_num_threads(), num_runs=2)
    assert list(figures) == ["torch_ms", "torch_compile_ms"]
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_bench_says_so(monkeypatch):
    monkeypatch.setattr("bench.sampling.POSITIONS", 20)
    monkeypatch.setattr("bench.sampling.SIZE", 32)
    monkeypatch.setattr("bench.torch_sampling.torch_steps", only_eager)
    assert measure_in_torch(torch.get_num_threads(), 1)["torch_ms"] > 0
    assert measure_on_gpu(1) == {"gpu": None, "gpu_reason": "not measured: no GPU"}


def test_a_compiler_that_fails_costs_its_own_figures_alone(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr("bench.sampling.POSITIONS", 20)
    monkeypatch.setattr("bench.sampling.SIZE", 32)
    monkeypatch.setattr("bench.torch_sampling.measure_torch", fail)
    figures = measure_in_torch(1, 1)
    assert figures == {"torch_ms": None, "torch_reason": "not measured: no C++ compiler at all"}


class StandInGpu:
    """The clock of the host; a captured call is called again."""

    name = "stand-in"

    def elapsed_ms(self, call):
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)

    def capture(self, call):
        call()
        return call


class StandInSampler:
    """The reference behind the interface of the kernels' launcher, with their schedule."""

    shape = (1, 20, 32)

    def __init__(self):
        self.step = self.num_steps = 0

    def begin(self, seeds, *, num_remask, mask_temperatures, first_step, **rest):
        self.step, self.num_steps = 0, len(num_remask)
        self.settings = lambda i: StepSettings(
            seeds=seeds,
            step=first_step + i,
            num_remask=num_remask[i],
            mask_temperature=float(mask_temperatures[i]),
            **rest,
        )

    def launch(self, tokens, conditional, unconditional):
        assert self.step < self.num_steps, "more steps than begin() was given"
        arrays = (array.owner.numpy() for array in (tokens, conditional, unconditional))
        sample_step(*arrays, self.settings(self.step))
        self.step += 1

    def check(self):
        pass


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.setattr(gpu_sampling, "torch_steps", only_eager)
    return gpu_sampling.Steps(first_step(20), StandInSampler(), "cpu")


def test_the_figures_of_a_gpu_are_beside_its_ceiling(steps):
    figures = gpu_sampling.measure_steps(StandInGpu(), steps, num_runs=2)
    assert figures["gpu"] == "stand-in"
    assert figures["gpu_torch_equal_tokens"] == figures["gpu_torch_compile_equal_tokens"] == 1
    for name in ("kernels", "kernels_graph", "torch", "torch_graph", "torch_compile", "ceiling"):
        assert figures[f"gpu_{name}_ms"] > 0
    share = figures["gpu_ceiling_ms"] / figures["gpu_kernels_graph_ms"]
    assert figures["gpu_share_of_memory_ceiling"] == pytest.approx(share, abs=1e-3)


def test_nothing_is_timed_on_a_gpu_whose_tokens_differ(steps):
    launch = steps.ways["kernels"]

    def off_by_one(tokens, *logits):
        launch(tokens, *logits)
        tokens[0, 0] = (tokens[0, 0] + 1) % 32

    steps.ways["kernels"] = off_by_one
    with pytest.raises(SystemExit, match=r"parity is red on stand-in: 95.00% .*nothing was timed"):
        gpu_sampling.measure_steps(StandInGpu(), steps, num_runs=1)


def test_a_way_that_does_not_run_is_left_out_with_its_reason(steps):
    def fail(*arguments):
        raise RuntimeError("no kernel\nimage")

    steps.ways["torch_compile"] = fail
    figures = gpu_sampling.measure_steps(StandInGpu(), steps, num_runs=1)
    assert figures["gpu_failed"] == {"torch_compile": "RuntimeError: no kernel image"}
    assert not [name for name in figures if name.startswith("gpu_torch_compile")]
    assert figures["gpu_kernels_graph_ms"] > 0 and figures["gpu_torch_graph_ms"] > 0
    steps.ways["kernels"] = fail
    with pytest.raises(RuntimeError, match="no kernel"):
        gpu_sampling.measure_steps(StandInGpu(), steps, num_runs=1)
