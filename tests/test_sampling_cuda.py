"""The compiled kernels on a GPU equal the reference, token for token."""

import numpy as np
import pytest
from test_sampling import make_case, run

from vab_rt.engines.cuda_sampling import CudaSampler
from vab_rt.errors import BackendError, VabError


def sampler_for(case):
    """A sampler of the case's shape; skips where there is no GPU."""
    try:
        return CudaSampler(*case["conditional"].shape)
    except BackendError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")


def test_tokens_equal_the_reference_on_ten_thousand_rows():
    for seed in range(5):
        case = make_case(seed, 2, 1000, 2048, masked=2.0, top_k=256, guidance=5.0)
        np.testing.assert_array_equal(run(case, sampler_for(case)), run(case))


@pytest.mark.parametrize("size", [1, 2, 63, 781, 1823])
@pytest.mark.parametrize("positions", [1, 63, 1823])
@pytest.mark.parametrize("top_k", [0, 7])
def test_tokens_equal_the_reference_at_odd_sizes(size, positions, top_k):
    case = make_case(size, 2, positions, size, top_k=top_k)
    np.testing.assert_array_equal(run(case, sampler_for(case)), run(case))


@pytest.mark.parametrize("scale", [1, 1e12])  # at 1e12 noise vanishes: the lowest of equals wins
def test_one_branch_and_ties_equal_the_reference(scale):
    case = make_case(masked=2.0, unconditional=None, guidance=1.0, mask_temperature=0.0)
    case["conditional"] = np.round(case["conditional"]) * np.float32(scale)
    np.testing.assert_array_equal(run(case, sampler_for(case)), run(case))


def test_damaged_logits_are_an_error_that_names_them():
    case = make_case(masked=2.0)
    case["unconditional"][1, 5, 3] = np.nan
    sampler = sampler_for(case)
    with pytest.raises(VabError, match=r"unconditional\[1, 5, 3\] .* is nan"):
        run(case, sampler)
