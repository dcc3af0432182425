"""The reference sampling step: what it samples, what it re-masks, what it refuses."""

import numpy as np
import pytest
from sampling_cases import make_case, run, run_in_place

from vab_rt import sampling
from vab_rt.errors import OptionError, VabError
from vab_rt.philox import CONFIDENCE_STREAM, TOKEN_STREAM, gumbel
from vab_rt.sampling import exp_poly, fastest_sampler


def test_only_masked_positions_change_and_the_asked_number_is_masked_again():
    case = make_case()
    before, after = case["tokens"], run(case)
    masked = before == 37
    np.testing.assert_array_equal(after[~masked], before[~masked])
    np.testing.assert_array_equal((after == 37).sum(axis=1), case["num_remask"])
    assert (after[masked] >= 0).all()
    assert (after == 37)[~masked].sum() == 0


def test_the_step_is_the_definition_spelled_out_position_by_position():
    case = make_case(clips=1, positions=9, size=11, top_k=4)
    after = run(case)
    seed, size = int(case["seeds"][0]), 11
    confidence = {}
    for n in np.flatnonzero(case["tokens"][0] == size):
        c, u = case["conditional"][0, n], case["unconditional"][0, n]
        scaled = (u + np.float32(2.5) * (c - u)) * np.float32(1 / 0.9)
        kept = [v for v in range(size) if scaled[v] >= np.sort(scaled)[-4]]
        noise = gumbel(seed, 3, TOKEN_STREAM, np.array([n * size + v for v in kept], np.uint32))
        token = kept[int(np.argmax(scaled[kept] + noise))]
        p = np.exp(scaled[kept].astype(float))
        log_p = np.log(np.exp(float(scaled[token])) / p.sum())
        bonus = gumbel(seed, 3, CONFIDENCE_STREAM, np.array([n], np.uint32))[0]
        confidence[n] = log_p + 3.0 * bonus
        assert after[0, n] in (token, size)
    least = sorted(confidence, key=confidence.get)[: case["num_remask"][0]]
    assert sorted(least) == [n for n in confidence if after[0, n] == size]


def test_sampled_tokens_follow_the_softmax():
    rng = np.random.default_rng(1)
    size, draws = 12, 40_000
    row = rng.standard_normal(size).astype(np.float32)
    clips = draws // 400
    case = make_case(
        tokens=np.full((clips, 400), size, np.int32),
        conditional=np.broadcast_to(row, (clips, 400, size)).copy(),
        unconditional=None,
        guidance=1.0,
        temperature=0.7,
        top_k=0,
        seeds=np.arange(clips, dtype=np.uint64),
        num_remask=np.zeros(clips, np.int32),
    )
    counts = np.bincount(run(case).ravel(), minlength=size)
    p = np.exp(row.astype(float) / 0.7)
    expected = draws * p / p.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 11 + 5 * np.sqrt(2 * 11)


def test_top_k_keeps_the_k_largest_and_all_ties_at_the_threshold():
    row = np.array([5, 1, 3, 3, 3, -4], np.float32)
    seeds = np.arange(300, dtype=np.uint64)
    case = make_case(
        tokens=np.full((300, 4), 6, np.int32),
        conditional=np.broadcast_to(row, (300, 4, 6)).copy(),
        unconditional=None,
        guidance=1.0,
        temperature=4.0,
        seeds=seeds,
        num_remask=np.zeros(300, np.int32),
    )
    kept = {k: set(np.unique(run(case | {"top_k": k}))) for k in (0, 1, 2, 4, 5, 6, 100)}
    everything = {0, 1, 2, 3, 4, 5}
    assert kept[1] == {0}
    assert kept[2] == kept[4] == {0, 2, 3, 4}
    assert kept[5] == {0, 1, 2, 3, 4}
    assert kept[0] == kept[6] == kept[100] == everything


def test_negative_and_positive_zero_tie_at_the_threshold():
    row = np.array([-1, 0.0, -0.0, -1], np.float32)
    case = make_case(
        tokens=np.full((200, 1), 4, np.int32),
        conditional=np.broadcast_to(row, (200, 1, 4)).copy(),
        unconditional=None,
        guidance=1.0,
        top_k=1,
        seeds=np.arange(200, dtype=np.uint64),
        num_remask=np.zeros(200, np.int32),
    )
    assert set(np.unique(run(case))) == {1, 2}


@pytest.mark.parametrize(("num_remask", "expected"), [(0, 0), (3, 3), (7, 7)])
def test_ties_of_confidence_go_by_position_lowest_first(num_remask, expected):
    case = make_case(
        tokens=np.array([[9, 0, 9, 9, 1, 9, 9, 9, 9]], np.int32),
        conditional=np.zeros((1, 9, 9), np.float32),  # every log p is the same
        unconditional=None,
        guidance=1.0,
        mask_temperature=0.0,
        top_k=0,
        seeds=np.array([4], np.uint64),
        num_remask=np.array([num_remask], np.int32),
    )
    remasked = np.flatnonzero(run(case)[0] == 9)
    np.testing.assert_array_equal(remasked, np.array([0, 2, 3, 5, 6, 7, 8])[:expected])


def test_zeros_of_either_sign_tie_in_confidence(monkeypatch):
    monkeypatch.setattr(sampling, "gumbel", lambda seed, step, stream, c0: np.float32(0) * c0)
    monkeypatch.setattr(
        sampling,
        "_sample_rows",
        lambda scaled, *rest: (
            np.zeros(len(scaled), np.int32),
            np.array([0.0, -0.0, 0.0, -0.0], np.float32),
        ),
    )
    case = make_case(clips=1, positions=4, masked=2.0, num_remask=np.array([2], np.int32))
    np.testing.assert_array_equal(run(case)[0] == 37, [True, True, False, False])


def test_without_masked_positions_nothing_happens():
    case = make_case(masked=-1.0)
    np.testing.assert_array_equal(run(case), case["tokens"])


def test_a_clip_does_not_depend_on_its_batch():
    case = make_case(clips=4)
    together = run(case)
    for b in range(4):
        alone = {
            name: value[b : b + 1] if isinstance(value, np.ndarray) else value
            for name, value in case.items()
        }
        np.testing.assert_array_equal(run(alone)[0], together[b])


def test_the_same_seed_repeats_and_another_differs():
    case = make_case(top_k=0)
    np.testing.assert_array_equal(run(case), run(case))
    assert (run(case) != run(case | {"seeds": case["seeds"] + np.uint64(1)})).any()
    assert (run(case) != run(case | {"step": 4})).any()


def test_guidance_one_needs_no_unconditional_logits():
    case = make_case(unconditional=None, guidance=1.0)
    assert (run(case) < 37).sum() > 0
    with pytest.raises(OptionError, match=r"guidance is 5.0, expected 1 when unconditional is No"):
        run(case | {"guidance": 5.0})


def test_exp_is_within_one_ulp_and_one_at_zero():
    x = -np.random.default_rng(0).uniform(0, 79, 100_000).astype(np.float32)
    assert np.abs(exp_poly(x) / np.exp(x.astype(np.float64)) - 1).max() < 1e-7
    ends = exp_poly(np.array([0.0, -0.0, -80.0, -1e30], np.float32))
    np.testing.assert_array_equal(ends[:2], [1, 1])
    assert ends[2] == ends[3] > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["conditional", "unconditional"])
def test_logits_that_are_not_finite_are_an_error_and_change_nothing(name, value):
    case = make_case()
    b, n = np.argwhere(case["tokens"] == 37)[-1]
    case[name][b, n, 5] = value
    before = case["tokens"].copy()
    where = rf"{name}\[{b}, {n}, 5\] of shape \(2, 63, 37\) is {value}, expected finite"
    with pytest.raises(VabError, match=where):
        run_in_place(case)
    np.testing.assert_array_equal(case["tokens"], before)


def test_given_positions_are_not_read():
    case = make_case()
    expected = run(case)
    given = case["tokens"] != 37
    case["conditional"][given] = np.nan
    case["unconditional"][given] = np.inf
    np.testing.assert_array_equal(run(case), expected)


def test_overflow_by_guidance_is_an_error():
    case = make_case()
    case["conditional"][:] = 3e38
    with pytest.raises(VabError, match=r"guidance makes logits of shape \(2, 63, 37\) overflow"):
        run(case)


def test_the_fastest_sampler_has_a_name_and_samples_the_same_tokens():
    sampler = fastest_sampler()
    assert sampler.name in ("native", "numpy")
    np.testing.assert_array_equal(run(make_case(), sampler), run(make_case()))
