"""Sampling steps that a kernel may get wrong, by name; each rung of the parity ladder runs them."""

from copy import copy

import numpy as np

from vab_rt.sampling import sample_step
from vab_rt.sampling_arguments import StepSettings


def make_case(seed=0, clips=2, positions=63, size=37, masked=0.6, scale=2.0, **changes):
    """Arguments of one step on random logits, with everything the step needs."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, size, (clips, positions)).astype(np.int32)
    tokens[rng.random(tokens.shape) < masked] = size
    logits = rng.standard_normal((2, clips, positions, size)).astype(np.float32) * scale
    case = {
        "tokens": tokens,
        "conditional": logits[0],
        "unconditional": logits[1],
        "seeds": rng.integers(0, 2**64, clips, np.uint64),
        "step": 3,
        "guidance": 2.5,
        "temperature": 0.9,
        "top_k": 8,
        "mask_temperature": 3.0,
        "num_remask": ((tokens == size).sum(axis=1) // 2).astype(np.int32),
    }
    return case | changes


def run(case, step=sample_step):
    """Tokens after the step; the case keeps its own."""
    tokens = copy(case["tokens"])
    run_in_place(case | {"tokens": tokens}, step)
    return tokens


def run_in_place(case, step=sample_step):
    arrays = ("tokens", "conditional", "unconditional")
    settings = {name: value for name, value in case.items() if name not in arrays}
    step(*(case[name] for name in arrays), StepSettings(**settings))


def plain(case):
    """One branch of logits on few levels, so that much ties: in the row and in confidence."""
    case["conditional"] = np.round(case["conditional"])
    return case | {"unconditional": None, "guidance": 1.0, "mask_temperature": 0.0}


def underflowing(case):
    """Logits that the temperature turns into zeros of either sign."""
    case["conditional"] = np.sign(case["conditional"]) * np.float32(1e-45)
    return case | {"unconditional": None, "guidance": 1.0, "temperature": 4.0}


def absorbing(case):
    """Logits on few levels so large that noise vanishes: scores tie, the lowest v wins."""
    case["conditional"] = np.round(case["conditional"]) * np.float32(1e12)
    return case | {"unconditional": None, "guidance": 1.0}


def with_given_rows_damaged(case):
    given = case["tokens"] != case["conditional"].shape[2]
    case["conditional"][given] = np.nan
    case["unconditional"][given] = np.inf
    return case


def with_all_masked_again(case):
    return case | {"num_remask": (case["tokens"] == 37).sum(axis=1).astype(np.int32)}


def one_masked(case):
    case["tokens"][:] = 3
    case["tokens"][0, 5] = 37
    return case | {"num_remask": np.array([1], np.int32)}


def equal_cases():
    """Arguments of one step by name; the kernels must do with them as the reference does."""
    cases = {
        f"vocabulary {size}": make_case(size, 1, 6, size, top_k=top_k, masked=0.7)
        for size, top_k in ((1, 0), (2, 1), (63, 7), (781, 256), (1823, 100), (2048, 256))
    }
    cases |= {
        f"{positions} positions": make_case(positions, 1, positions, 5, top_k=2, masked=masked)
        for positions, masked in ((1, 2.0), (63, 0.5), (781, 0.04), (1823, 0.02))
    }
    small = {"clips": 1, "positions": 12}
    return cases | {
        "clips": make_case(clips=3, positions=7),
        "all masked": make_case(masked=2.0, **small),
        "one masked": one_masked(make_case(**small)),
        "none masked": make_case(masked=-1.0, **small),
        "num_remask 0": make_case(num_remask=np.zeros(1, np.int32), **small),
        "num_remask all": with_all_masked_again(make_case(**small)),
        "ties": plain(make_case(masked=2.0, top_k=5, scale=0.7, **small)),
        "even logits": plain(make_case(masked=2.0, top_k=3, scale=0.1, **small)),
        "zeros of either sign": underflowing(make_case(masked=2.0, top_k=3, **small)),
        "ties of the score": absorbing(make_case(masked=2.0, scale=0.5, **small)),
        "top-k of everything": make_case(top_k=37, **small),
        "top-k over V": make_case(top_k=38, **small),
        "no top-k": make_case(top_k=0, **small),
        "all alike": plain(make_case(0, 2, 101, 9, masked=0.7, scale=0.0, top_k=0)),
        "wide logits": make_case(scale=1e4, **small),
        "tiny logits": make_case(scale=1e-39, **small),
        "last step": make_case(step=2**32 - 1, **small),
        "damage where given": with_given_rows_damaged(make_case(**small)),
    }


def damaged_cases():
    cases = {}
    for name in ("conditional", "unconditional"):
        for value in (np.nan, -np.nan, np.inf, -np.inf):
            case = make_case(clips=2, positions=5, size=7)
            b, n = np.argwhere(case["tokens"] == 7)[0]
            case[name][b, n, 3] = value
            cases[f"{name} {value} {np.signbit(value)}"] = case
    overflow = make_case(clips=2, positions=5, size=7)
    overflow["conditional"][:] = 3e38
    return cases | {"overflow": overflow}
