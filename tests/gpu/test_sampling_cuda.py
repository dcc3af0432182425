"""The compiled kernels on a GPU equal the reference, token for token."""

import numpy as np
import pytest
from sampling_cases import damaged_cases, equal_cases, make_case, run

from vab_rt.engines.cuda_sampling import CudaSampler
from vab_rt.engines.device_arrays import DeviceArray
from vab_rt.errors import BackendError, VabError

STEPS = 4


def sampler_for(case):
    """A sampler of the case's shape; skips where there is no GPU."""
    try:
        return CudaSampler(*case["conditional"].shape)
    except BackendError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")


@pytest.mark.parametrize("seed", range(5))
def test_tokens_equal_the_reference_on_ten_thousand_rows(seed):
    case = make_case(seed, 2, 1000, 2048, masked=2.0, top_k=256, guidance=5.0)
    np.testing.assert_array_equal(run(case, sampler_for(case)), run(case))


@pytest.mark.parametrize("size", [1, 2, 63, 781, 1823])
@pytest.mark.parametrize("positions", [1, 63, 1823])
@pytest.mark.parametrize("top_k", [0, 7])
def test_tokens_equal_the_reference_at_odd_sizes(size, positions, top_k):
    case = make_case(size, 2, positions, size, top_k=top_k)
    np.testing.assert_array_equal(run(case, sampler_for(case)), run(case))


@pytest.mark.parametrize("name", equal_cases())
def test_tokens_equal_the_reference_where_much_ties(name):
    """Ties of logits, scores and confidence, zeros of either sign, one masked, none, k 0."""
    case = equal_cases()[name]
    np.testing.assert_array_equal(run(case, sampler_for(case)), run(case))


@pytest.mark.parametrize("name", damaged_cases())
def test_damaged_logits_are_the_error_of_the_reference(name):
    case = damaged_cases()[name]
    sampler = sampler_for(case)
    with pytest.raises(VabError) as expected:
        run(case)
    with pytest.raises(VabError) as found:
        run(case, sampler)
    assert str(found.value) == str(expected.value)


def test_a_sampler_works_again_after_an_error():
    case = make_case(masked=2.0)
    sampler = sampler_for(case)
    damaged = case | {"conditional": np.full_like(case["conditional"], np.nan)}
    with pytest.raises(VabError):
        run(damaged, sampler)
    np.testing.assert_array_equal(run(case, sampler), run(case))


def test_a_captured_step_replayed_equals_the_loop():
    case = make_case(clips=2, positions=63, masked=2.0, step=7)
    schedule = {
        "mask_temperatures": np.array([3.0, 2.0, 1.0, 0.0], np.float32),
        "num_remask": np.array([[40, 50], [20, 30], [10, 5], [0, 0]], np.int32),
    }
    sampler = sampler_for(case)
    names = ("tokens", "conditional", "unconditional")
    buffers = [sampler._allocate(case[name].nbytes) for name in names]
    for buffer, name in zip(buffers, names, strict=True):
        sampler._upload(buffer, case[name])
    settings = {name: case[name] for name in ("guidance", "temperature", "top_k")}
    sampler.begin(case["seeds"], **settings, **schedule, first_step=7)
    builder = sampler.stream.create_graph_builder().begin_building(mode="relaxed")
    arrays = zip(buffers, names, strict=True)
    sampler.launch(
        *(DeviceArray(int(b.handle), case[n].dtype, case[n].shape) for b, n in arrays),
        stream=builder,
    )
    graph = builder.end_building().complete()
    for _ in range(STEPS):
        graph.launch(sampler.stream)
    sampler.check()
    found = sampler._download(buffers[0], np.empty_like(case["tokens"]))
    for step in range(STEPS):
        case |= {
            "step": 7 + step,
            "mask_temperature": float(schedule["mask_temperatures"][step]),
            "num_remask": schedule["num_remask"][step],
        }
        case["tokens"] = run(case)
    np.testing.assert_array_equal(found, case["tokens"])
