"""The compiled kernels on a GPU equal the reference, token for token."""

import numpy as np
import pytest
from sampling_cases import damaged_cases, equal_cases, make_case, run

from vab_rt.engines.gpu import Gpu
from vab_rt.engines.sampling_kernels import CudaSampler
from vab_rt.errors import BackendError, VabError


@pytest.fixture(scope="module")
def gpu():
    try:
        return Gpu()
    except BackendError as error:
        pytest.skip(f"needs a GPU: {error}")


class OnGpu:
    """One step of the kernels on host arrays, called as the reference is."""

    def __init__(self, gpu, case):
        self.gpu, self.sampler = gpu, CudaSampler(gpu, *case["conditional"].shape)

    def __call__(self, tokens, conditional, unconditional, settings):
        s = settings
        self.sampler.begin(
            s.seeds,
            guidance=s.guidance,
            temperature=s.temperature,
            top_k=s.top_k,
            mask_temperatures=np.array([s.mask_temperature], np.float32),
            num_remask=s.num_remask[None],
            first_step=s.step,
        )
        arrays = uploaded(self.gpu, tokens, conditional, unconditional)
        self.sampler.launch(*arrays)
        self.sampler.check()
        tokens[...] = self.gpu.download(arrays[0])


def uploaded(gpu, *values):
    given = [each for each in values if each is not None]
    arrays = [gpu.array(each.dtype, each.shape) for each in given]
    for array, each in zip(arrays, given, strict=True):
        gpu.upload(array, each)
    return arrays


def assert_equal(gpu, case):
    np.testing.assert_array_equal(run(case, OnGpu(gpu, case)), run(case))


@pytest.mark.parametrize("seed", range(5))
def test_tokens_equal_the_reference_on_ten_thousand_rows(gpu, seed):
    assert_equal(gpu, make_case(seed, 2, 1000, 2048, masked=2.0, top_k=256, guidance=5.0))


@pytest.mark.parametrize("size", [1, 2, 63, 781, 1823])
@pytest.mark.parametrize("positions", [1, 63, 1823])
@pytest.mark.parametrize("top_k", [0, 7])
def test_tokens_equal_the_reference_at_odd_sizes(gpu, size, positions, top_k):
    assert_equal(gpu, make_case(size, 2, positions, size, top_k=top_k))


@pytest.mark.parametrize("name", equal_cases())
def test_tokens_equal_the_reference_where_much_ties(gpu, name):
    """Ties of logits, scores and confidence, zeros of either sign, one masked, none, k 0."""
    assert_equal(gpu, equal_cases()[name])


@pytest.mark.parametrize("name", damaged_cases())
def test_logits_that_the_reference_refuses_are_refused(gpu, name):
    case = damaged_cases()[name]
    for step in ({}, {"step": OnGpu(gpu, case)}):
        with pytest.raises(VabError, match="finite"):
            run(case, **step)


def test_a_sampler_works_again_after_an_error(gpu):
    case = make_case(masked=2.0)
    sampler = OnGpu(gpu, case)
    with pytest.raises(VabError, match="finite"):
        run(case | {"conditional": np.full_like(case["conditional"], np.nan)}, sampler)
    np.testing.assert_array_equal(run(case, sampler), run(case))


def test_a_captured_step_replayed_equals_the_loop(gpu):
    case = make_case(clips=2, positions=63, masked=2.0, step=7)
    schedule = {
        "mask_temperatures": np.array([3.0, 2.0, 1.0, 0.0], np.float32),
        "num_remask": np.array([[40, 50], [20, 30], [10, 5], [0, 0]], np.int32),
    }
    sampler = CudaSampler(gpu, *case["conditional"].shape)
    arrays = uploaded(gpu, *(case[name] for name in ("tokens", "conditional", "unconditional")))
    settings = {name: case[name] for name in ("guidance", "temperature", "top_k")}
    sampler.begin(case["seeds"], **settings, **schedule, first_step=7)
    builder = gpu.stream.create_graph_builder().begin_building(mode="relaxed")
    sampler.launch(*arrays, stream=builder)
    graph = builder.end_building().complete()
    for _ in schedule["num_remask"]:
        graph.launch(gpu.stream)
    sampler.check()
    found = gpu.download(arrays[0])
    steps = zip(*schedule.values(), strict=True)
    for step, (mask_temperature, num_remask) in enumerate(steps, start=7):
        case |= {"step": step, "mask_temperature": float(mask_temperature)}
        case["tokens"] = run(case | {"num_remask": num_remask})
    np.testing.assert_array_equal(found, case["tokens"])
