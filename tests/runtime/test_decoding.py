"""The masked-decoding loop with a function for a model: schedule, given tokens, batches."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vab_rt.decoding import decode_masked, remask_count
from vab_rt.options import TokenOptions
from vab_rt.sampling import NumpySampler

K, T, V = 2, 30, 12


def schedule_by_definition(steps: int, num_masked_at_start: int) -> list[int]:
    """floor(cos), clamped to 1 and one less than before; nothing after the last step."""
    masked, counts = num_masked_at_start, []
    for i in range(steps - 1):
        n = math.floor(math.cos(math.pi / 2 * (i + 1) / steps) * num_masked_at_start)
        masked = max(1, min(n, masked - 1)) if masked else 0
        counts.append(masked)
    return [*counts, 0]


def schedule(steps: int, num_masked_at_start: int) -> list[int]:
    return [remask_count(step, steps, num_masked_at_start) for step in range(steps)]


def test_schedule_of_the_default_clip():
    assert schedule(16, 2000) == [
        1990, 1961, 1913, 1847, 1763, 1662, 1546, 1414,
        1268, 1111, 942, 765, 580, 390, 196, 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "num_masked", "counts"),
    [
        (1, 2000, [0]),
        (4, 0, [0, 0, 0, 0]),
        (4, 1, [1, 1, 1, 0]),
        (4, 2, [1, 1, 1, 0]),
        (4, 3, [2, 1, 1, 0]),
        (8, 5, [4, 3, 2, 1, 1, 1, 1, 0]),
    ],
)
def test_schedule_is_clamped_so_that_every_step_counts(steps, num_masked, counts):
    assert schedule(steps, num_masked) == counts


@given(st.integers(1, 100), st.integers(0, 8000))
def test_schedule_is_its_definition(steps, num_masked):
    assert schedule(steps, num_masked) == schedule_by_definition(steps, num_masked)


def random_model(seed: int = 0):
    """Logits that depend on the clip's own tokens only."""
    weights = np.random.default_rng(seed).standard_normal((V + 1, K, T, V)).astype(np.float32)

    def tokens_to_logits(tokens):
        counts = (tokens[..., None] == np.arange(V + 1)).mean(axis=(1, 2))  # [B, V + 1]
        logits = [np.tensordot(c.astype(np.float32), weights, 1) for c in counts]
        conditional = np.stack(logits) * 8  # [B, K, T, V]
        return conditional, conditional[..., ::-1].copy()

    return tokens_to_logits


def decode(tokens, seeds, model=None, sampler=None, **options):
    settings = TokenOptions(**({"steps": 6, "top_k": 5} | options))
    return list(
        decode_masked(
            model or random_model(),
            tokens,
            np.array(seeds, np.uint64),
            settings,
            sampler or NumpySampler(),
        )
    )


def masked(clips: int = 1) -> np.ndarray:
    return np.full((clips, K, T), V, np.int32)


def test_a_result_after_every_step_and_the_schedule_is_kept():
    results = decode(masked(), [3])
    assert [step for step, _ in results] == list(range(6))
    assert [int((tokens == V).sum()) for _, tokens in results] == schedule(6, K * T)
    assert results[-1][1].dtype == np.int32 and results[-1][1].shape == (1, K, T)


def test_results_do_not_share_memory_and_the_input_is_kept():
    start = masked()
    results = decode(start, [3])
    assert (start == V).all()
    assert not any(np.shares_memory(a, b) for (_, a), (_, b) in itertools.pairwise(results))


def test_tokens_follow_the_logits():
    wanted = np.arange(K * T).reshape(1, K, T) % V

    def peaked(tokens):
        logits = np.where(wanted[..., None] == np.arange(V), 40, 0).astype(np.float32)
        return logits, np.zeros_like(logits)

    assert (decode(masked(), [0], peaked)[-1][1] == wanted).all()


def test_given_tokens_never_change():
    start = np.random.default_rng(1).integers(0, V, (2, K, T)).astype(np.int32)
    hidden = np.random.default_rng(2).random(start.shape) < 0.5
    start[hidden] = V
    for _, tokens in decode(start, [5, 6]):
        assert (tokens[~hidden] == start[~hidden]).all()
    assert (tokens[hidden] < V).all()


def test_a_single_masked_position_is_filled_in_the_last_step():
    start = np.zeros((1, K, T), np.int32)
    start[0, 1, 7] = V
    counts = [int((tokens == V).sum()) for _, tokens in decode(start, [0])]
    assert counts == [1, 1, 1, 1, 1, 0]


def test_nothing_masked_stays_as_it_is():
    start = np.zeros((1, K, T), np.int32)
    results = decode(start, [0])
    assert len(results) == 6 and all((tokens == 0).all() for _, tokens in results)


def test_a_batch_of_four_equals_each_alone():
    start = masked(4)
    start[1, :, :10] = 3
    start[2] = 1
    seeds = [7, 2**64 - 1, 0, 7]
    together = decode(start, seeds)
    for b in range(4):
        alone = decode(start[b : b + 1], seeds[b : b + 1])
        for (_, all_clips), (_, clip) in zip(together, alone, strict=True):
            assert (all_clips[b] == clip[0]).all()


def test_guidance_of_one_needs_no_unconditional_logits():
    model = random_model()
    plain = decode(masked(), [4], lambda t: (model(t)[0], None), guidance=1.0)
    assert (plain[-1][1] == decode(masked(), [4], model, guidance=1.0)[-1][1]).all()


class RecordingSampler(NumpySampler):
    """The reference, which also notes what it was asked for."""

    def __init__(self):
        self.calls = []

    def __call__(self, tokens, conditional, unconditional, settings):
        self.calls.append(settings)
        NumpySampler.__call__(tokens, conditional, unconditional, settings)


def test_confidence_noise_is_annealed_to_nothing():
    sampler = RecordingSampler()
    decode(masked(), [0], sampler=sampler, steps=4, mask_temperature=8.0)
    assert [call.mask_temperature for call in sampler.calls] == [6.0, 4.0, 2.0, 0.0]
    assert [call.step for call in sampler.calls] == [0, 1, 2, 3]
