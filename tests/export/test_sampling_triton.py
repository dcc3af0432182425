"""The Triton kernels, in Triton's interpreter, equal the reference bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sampling_cases import damaged_cases, equal_cases, make_case, run

from vab_rt.engines.sampling_kernels import pack_parameters
from vab_rt.philox import CONFIDENCE_STREAM, gumbel
from vab_rt.sampling import _sample_rows, _scaled_logits

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
pytest.importorskip("kernels", reason="the Triton kernels are not part of the installed package")
ROOT = Path(__file__).parents[2]
POISON = -12345


def as_kernel_arguments(case, num_steps=1, mask_temperatures=None, num_remask=None):
    tokens, size = case["tokens"], case["conditional"].shape[2]
    unconditional = case["unconditional"]
    return {
        "tokens": tokens,
        "conditional": case["conditional"],
        "unconditional": case["conditional"] if unconditional is None else unconditional,
        "parameters": pack_parameters(
            case["seeds"],
            case["guidance"],
            case["temperature"],
            case["top_k"],
            np.array([case["mask_temperature"]])
            if mask_temperatures is None
            else mask_temperatures,
            case["num_remask"][None] if num_remask is None else num_remask,
            case["step"],
        ),
        "steps": np.zeros(len(tokens), np.int32),
        "errors": np.zeros(1, np.int32),
        "sampled": np.full(tokens.shape, POISON, np.int32),
        "confidence": np.full(tokens.shape, np.nan, np.float32),
        "blocks": np.array([max(16, 1 << (size - 1).bit_length()), 256]),
        "num_steps": np.array(num_steps),
    }


STEPS = 4
SCHEDULE = {
    "mask_temperatures": np.array([3.0, 2.0, 1.0, 0.0], np.float32),
    "num_remask": np.array([[8, 5], [4, 3], [1, 2], [0, 0]], np.int32),
}


def loop_case():
    return make_case(clips=2, positions=9, size=11, masked=2.0, top_k=4, step=0)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the kernels wrote, for every case of this file; one process runs them all."""
    cases = {name: as_kernel_arguments(case) for name, case in equal_cases().items()}
    cases |= {name: as_kernel_arguments(case) for name, case in damaged_cases().items()}
    cases["loop"] = as_kernel_arguments(loop_case(), STEPS, **SCHEDULE)
    cases["past the end"] = as_kernel_arguments(loop_case(), STEPS + 1, **SCHEDULE)
    too_many = np.array([[10, 4]], np.int32)
    cases["too many"] = as_kernel_arguments(loop_case(), 1, num_remask=too_many)
    folder = tmp_path_factory.mktemp("triton")
    flat = {f"{case}/{n}": array for case, named in cases.items() for n, array in named.items()}
    np.savez(folder / "cases.npz", **flat)
    subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            ROOT / "tests/triton_interpreter.py",
            "cases.npz",
            "results.npz",
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    with np.load(folder / "results.npz") as file:
        arrays = dict(file)
    return {
        case: {
            key.split("/")[1]: array for key, array in arrays.items() if key.startswith(f"{case}/")
        }
        for case in cases
    }


def expected_rows(case, b):
    """Positions [R], tokens [R] and confidences [R] of the masked rows of a clip."""
    rows = np.flatnonzero(case["tokens"][b] == case["conditional"].shape[2])
    unconditional = case["unconditional"]
    scaled = _scaled_logits(
        case["conditional"][b, rows],
        None if unconditional is None else unconditional[b, rows],
        case["guidance"],
        case["temperature"],
    )
    seed = int(case["seeds"][b])
    token, log_p = _sample_rows(scaled, rows, seed, case["step"], case["top_k"])
    noise = gumbel(seed, case["step"], CONFIDENCE_STREAM, rows.astype(np.uint32))
    return rows, token, log_p + np.float32(case["mask_temperature"]) * noise


@pytest.mark.parametrize("name", equal_cases())
def test_tokens_and_confidence_equal_the_reference(results, name):
    case, result = equal_cases()[name], results[name]
    assert result["errors"] == 0
    np.testing.assert_array_equal(result["tokens"], run(case))
    for b in range(len(case["tokens"])):
        rows, token, confidence = expected_rows(case, b)
        np.testing.assert_array_equal(result["sampled"][b, rows], token)
        np.testing.assert_array_equal(result["confidence"][b, rows], confidence)


@pytest.mark.parametrize("name", equal_cases())
def test_given_positions_are_neither_scored_nor_changed(results, name):
    case, result = equal_cases()[name], results[name]
    given = case["tokens"] != case["conditional"].shape[2]
    np.testing.assert_array_equal(result["tokens"][given], case["tokens"][given])
    assert (result["sampled"][given] == POISON).all()
    assert np.isnan(result["confidence"][given]).all()


def test_the_cases_hold_what_they_are_for():
    cases = equal_cases()
    _, _, confidence = expected_rows(cases["ties"], 0)
    assert len(np.unique(confidence)) < len(confidence)
    zeros = cases["zeros of either sign"]["conditional"] * np.float32(1 / 4)
    assert (zeros == 0).all() and np.signbit(zeros).any() and not np.signbit(zeros).all()
    levels = cases["ties of the score"]["conditional"]
    assert ((levels == levels.max(axis=2, keepdims=True)).sum(axis=2) > 1).any()
    assert 0 < np.abs(cases["tiny logits"]["conditional"]).max() < np.finfo(np.float32).tiny


@pytest.mark.parametrize("name", damaged_cases())
def test_logits_that_are_not_finite_raise_the_flag_and_change_nothing(results, name):
    case, result = damaged_cases()[name], results[name]
    assert result["errors"] == 1
    np.testing.assert_array_equal(result["tokens"], case["tokens"])
    np.testing.assert_array_equal(result["steps"], 0)


def reference_loop():
    case = loop_case()
    for step in range(STEPS):
        changes = {name: values[step] for name, values in SCHEDULE.items()}
        case |= {
            "step": step,
            "mask_temperature": float(changes["mask_temperatures"]),
            "num_remask": changes["num_remask"],
        }
        case["tokens"] = run(case)
    return case["tokens"]


def test_replayed_launches_follow_the_schedule_in_the_parameter_block(results):
    assert results["loop"]["errors"] == 0
    np.testing.assert_array_equal(results["loop"]["steps"], STEPS)
    np.testing.assert_array_equal(results["loop"]["tokens"], reference_loop())


def test_a_launch_past_the_schedule_raises_the_flag_and_changes_nothing(results):
    assert results["past the end"]["errors"] == 4
    np.testing.assert_array_equal(results["past the end"]["steps"], STEPS)
    np.testing.assert_array_equal(results["past the end"]["tokens"], reference_loop())


def test_too_large_a_count_raises_the_flag_and_leaves_its_clip(results):
    result = results["too many"]
    assert result["errors"] == 2
    np.testing.assert_array_equal(result["tokens"][0], 11)
    assert (result["tokens"][1] == 11).sum() == 4
    np.testing.assert_array_equal(result["steps"], [0, 1])
