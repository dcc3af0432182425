"""The native kernel equals the reference token for token, at every size, and touches no more."""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import equal_cases, make_case, run, run_in_place

from vab_rt.errors import BackendError, OptionError, VabError
from vab_rt.sampling import NativeSampler, fastest_sampler, sample_step

pytest.importorskip(
    "vab_rt._sampling", reason="the native sampling kernel is not built: no C++ compiler"
)
ODD_SIZES = (1, 2, 15, 16, 17, 63, 781, 1823)


def assert_same_tokens(case, threads=2):
    np.testing.assert_array_equal(run(case, NativeSampler(threads)), run(case))


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("top_k", [0, 1, 7, 256, 5000])
def test_tokens_equal_the_reference_at_odd_sizes(size, top_k):
    assert_same_tokens(make_case(size=size, top_k=top_k, seed=size + top_k))


@pytest.mark.parametrize("name", equal_cases())
def test_tokens_equal_the_reference_where_much_ties(name):
    assert_same_tokens(equal_cases()[name])


@pytest.mark.parametrize("positions", ODD_SIZES)
def test_tokens_equal_the_reference_at_odd_numbers_of_positions(positions):
    assert_same_tokens(make_case(positions=positions, size=63, seed=positions))


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    clips=st.integers(1, 3),
    positions=st.integers(1, 70),
    size=st.integers(1, 700),
    top_k=st.integers(0, 300),
    masked=st.sampled_from([-1.0, 0.1, 0.9, 2.0]),
    scale=st.sampled_from([0.0, 1e-30, 0.1, 1.0, 30.0, 1e7, 1e37]),
    levels=st.sampled_from([0, 1, 3]),
    threads=st.integers(1, 3),
)
def test_tokens_equal_the_reference_for_any_shape(
    seed, clips, positions, size, top_k, masked, scale, levels, threads
):
    case = make_case(seed, clips, positions, size, masked, scale, top_k=top_k, guidance=1.5)
    if levels:  # few values: ties within the row, at the threshold, and zeros of either sign
        for name in ("conditional", "unconditional"):
            case[name] = np.round(case[name] / max(scale, 1) * levels) / levels
        case["unconditional"], case["guidance"], case["temperature"] = None, 1.0, 1.0
    assert_same_tokens(case, threads)


def test_tokens_equal_the_reference_in_a_thousand_small_shapes():
    rng, sampler = np.random.default_rng(0), NativeSampler(1)
    for seed in range(1000):
        size, top_k = int(rng.integers(8, 64)), int(rng.integers(1, 24))
        case = make_case(seed, size=size, top_k=top_k, scale=float(rng.choice([1.0, 4.0, 16.0])))
        np.testing.assert_array_equal(run(case, sampler), run(case), err_msg=f"{seed=}")


def test_tokens_equal_the_reference_over_ten_thousand_rows():
    case = make_case(clips=1, positions=10_000, size=256, masked=2.0, top_k=64, scale=1.0)
    assert_same_tokens(case)


def test_nothing_is_written_around_the_tokens():
    case = make_case()
    poison = np.full((4, 63), -7, np.int32)
    poison[1:3] = case["tokens"]
    run_in_place(case | {"tokens": poison[1:3]}, NativeSampler(2))
    assert (poison[[0, 3]] == -7).all()
    np.testing.assert_array_equal(poison[1:3], run(case))


def test_scratch_left_by_another_shape_does_not_matter():
    sampler = NativeSampler(2)
    for size in (1823, 5, 781, 64, 1823):
        case = make_case(size=size, seed=size, top_k=16)
        np.testing.assert_array_equal(run(case, sampler), run(case))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["conditional", "unconditional"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_logits_that_are_not_finite_are_the_same_error(name, value, guidance):
    case = make_case(guidance=guidance)
    b, n = np.argwhere(case["tokens"] == 37)[-1]
    case[name][b, n, 36] = value
    before = case["tokens"].copy()
    for step in (sample_step, NativeSampler(2)):
        with pytest.raises(VabError, match=rf"{name}\[{b}, {n}, 36\] of shape \(2, 63, 37\) is"):
            run_in_place(case, step)
        np.testing.assert_array_equal(case["tokens"], before)


def test_the_largest_finite_logits_are_sampled():
    largest = np.finfo(np.float32).max
    case = make_case(unconditional=None, guidance=1.0, temperature=1.0)
    case["conditional"] = np.where(case["conditional"] > 0, largest, -largest).astype(np.float32)
    assert_same_tokens(case)


def test_arguments_are_checked_before_the_kernel_sees_them():
    with pytest.raises(
        OptionError, match=r"conditional is float64 \(2, 63, 37\), expected float32"
    ):
        run(make_case(conditional=np.zeros((2, 63, 37))), NativeSampler(1))
    with pytest.raises(OptionError, match=r"num_remask\[0\] is 64, expected 0 to"):
        run(make_case(num_remask=np.array([64, 0], np.int32)), NativeSampler(1))


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_number_of_threads_out_of_range_is_refused(threads):
    with pytest.raises(OptionError, match=rf"threads is {threads}, expected 1 to 1024"):
        NativeSampler(threads)


def test_one_sampler_may_be_called_from_several_threads():
    sampler, case = NativeSampler(2), make_case(size=781)
    results = []
    callers = [threading.Thread(target=lambda: results.append(run(case, sampler))) for _ in "1234"]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, run(case))


def test_the_native_kernel_is_chosen_where_it_is_built():
    sampler = fastest_sampler(threads=3)
    assert sampler.name == "native"
    assert sampler.num_threads == 3


def test_without_the_native_kernel_the_choice_is_numpy_and_asking_for_it_is_an_error(monkeypatch):
    import vab_rt

    monkeypatch.delattr(vab_rt, "_sampling", raising=False)
    monkeypatch.setitem(sys.modules, "vab_rt._sampling", None)
    assert fastest_sampler().name == "numpy"
    with pytest.raises(BackendError, match="native sampling kernel is not installed"):
        NativeSampler()
