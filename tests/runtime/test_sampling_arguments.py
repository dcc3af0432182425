"""What every sampler refuses: the error names the argument, what is found, what is expected."""

import numpy as np
import pytest
from sampling_cases import make_case, run, run_in_place

from vab_rt.engines.gpu import DeviceArray
from vab_rt.errors import OptionError

REFUSALS = {
    "tokens dtype": (
        {"tokens": np.zeros((2, 63), np.int64)},
        r"tokens is int64 \(2, 63\), expected int32 \(any, any\), \[B, N\]",
    ),
    "tokens list": (
        {"tokens": [[37] * 63] * 2},
        r"tokens is a list, expected a NumPy array int32 \(any, any\), \[B, N\]",
    ),
    "conditional on a GPU": (
        {"conditional": DeviceArray(4096, np.float32, (2, 63, 37))},
        r"conditional is a DeviceArray, expected a NumPy array float32 \(2, 63, any\)",
    ),
    "tokens rank": (
        {"tokens": np.zeros(63, np.int32)},
        r"tokens is int32 \(63,\), expected int32 \(any, any\), \[B, N\]",
    ),
    "tokens range": (
        {"tokens": np.full((2, 63), 38, np.int32)},
        r"tokens hold 38 to 38, expected 0 to 37 \(\[MASK\]\)",
    ),
    "conditional dtype": (
        {"conditional": np.zeros((2, 63, 37))},
        r"conditional is float64 \(2, 63, 37\), expected float32 \(2, 63, any\), \[B, N, V\]",
    ),
    "conditional shape": (
        {"conditional": np.zeros((2, 62, 37), np.float32)},
        r"conditional is float32 \(2, 62, 37\), expected float32 \(2, 63, any\)",
    ),
    "unconditional shape": (
        {"unconditional": np.zeros((2, 63, 36), np.float32)},
        r"unconditional is float32 \(2, 63, 36\), expected float32 \(2, 63, 37\)",
    ),
    "unconditional contiguity": (
        {"unconditional": np.zeros((2, 37, 63), np.float32).transpose(0, 2, 1)},
        r"unconditional of shape \(2, 63, 37\) has strides .*expected a C-contiguous",
    ),
    "seeds over 64 bits": (
        {"seeds": np.array([1, 2**64], object)},
        r"seeds is object \(2,\), expected uint64 \(2\), \[B\]",
    ),
    "seeds count": (
        {"seeds": np.zeros(3, np.uint64)},
        r"seeds is uint64 \(3,\), expected uint64 \(2\)",
    ),
    "num_remask dtype": (
        {"num_remask": np.zeros(2)},
        r"num_remask is float64 \(2,\), expected int32 \(2\)",
    ),
    "num_remask negative": (
        {"num_remask": np.array([0, -1], np.int32)},
        r"num_remask\[1\] is -1, expected 0 to \d+, the masked positions",
    ),
    "num_remask over": (
        {"num_remask": np.array([64, 0], np.int32)},
        r"num_remask\[0\] is 64, expected 0 to \d+, the masked positions",
    ),
    "step": ({"step": 2**32}, r"step is 4294967296, expected 0 to 2\*\*32 - 1"),
    "guidance": ({"guidance": np.nan}, r"guidance is nan, expected a finite float32"),
    "temperature zero": ({"temperature": 0.0}, r"temperature is 0.0, expected over 0"),
    "temperature tiny": ({"temperature": 1e-40}, r"temperature is 1e-40, expected over 0"),
    "temperature infinite": ({"temperature": np.inf}, r"temperature is inf, expected over 0"),
    "top_k": ({"top_k": -1}, r"top_k is -1, expected 0 \(keep all\)"),
    "mask_temperature": ({"mask_temperature": -1.0}, r"mask_temperature is -1.0, expected 0 or mo"),
    "empty vocabulary": (
        {
            "conditional": np.zeros((2, 63, 0), np.float32),
            "unconditional": np.zeros((2, 63, 0), np.float32),
        },
        r"N \* V is 0, expected 1 to 2\*\*32",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_arguments_that_do_not_fit_are_refused(name):
    changes, message = REFUSALS[name]
    with pytest.raises(OptionError, match=message):
        run(make_case(**changes))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 65537, 65536), r"N \* V is 4295032832, expected 1 to 2\*\*32"),
        ((1, 1, 2**31), r"V is 2147483648, expected under 2\*\*31, as tokens are int32"),
    ],
)
def test_counters_past_32_bits_are_refused(shape, message):
    """Of logits that are not there: nothing reads them."""
    strides = (4 * shape[1] * shape[2], 4 * shape[2], 4)
    sparse = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, strides)
    with pytest.raises(OptionError, match=message):
        run(make_case(1, *shape[:2], size=2, conditional=sparse, unconditional=None))


def test_read_only_tokens_are_refused():
    case = make_case()
    case["tokens"].flags.writeable = False
    with pytest.raises(OptionError, match="tokens is read-only"):
        run_in_place(case)
