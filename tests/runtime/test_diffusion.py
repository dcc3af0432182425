"""The denoising loop against models whose answer is known; its schedules against their formulas."""

import numpy as np
import pytest

from vab_rt.v2a_mapper.diffusion import (
    cosine_alphas,
    denoise,
    embedding_levels,
    guided,
    latent_levels,
    scaled_linear_alphas,
)

ALPHAS = scaled_linear_alphas(1000, 0.0015, 0.0195)
SHAPE = (1, 3, 20, 4)
RNG = np.random.default_rng(0)
ORIGINAL, START = RNG.standard_normal((2, *SHAPE)).astype(np.float32)


def finish(steps):
    *_, (_, latent) = steps
    return latent


def noise_of(latent, timestep):
    """What a perfect model answers for ORIGINAL."""
    a = ALPHAS[timestep]
    return ((latent - np.sqrt(a) * ORIGINAL) / np.sqrt(1 - a)).astype(np.float32)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 200])
def test_a_perfect_model_gives_back_the_original(steps):
    levels = latent_levels(ALPHAS, steps, 1)
    noise = noise_of(START, levels[0].timestep)
    expected = np.sqrt(ALPHAS[0]) * ORIGINAL + np.sqrt(1 - ALPHAS[0]) * noise  # that of time 0
    found = finish(denoise(noise_of, "noise", START, levels))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)
    found = finish(denoise(lambda latent, t: ORIGINAL, "original", START, levels))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_prior_ends_with_what_the_model_predicts_and_draws_fresh_noise():
    levels = embedding_levels(cosine_alphas(1000), 64, 1.0)
    drawn = []

    def fresh(step):
        drawn.append(step)
        return np.zeros(SHAPE, np.float32)

    steps = denoise(lambda latent, t: ORIGINAL, "original", START, levels, fresh=fresh)
    np.testing.assert_array_equal(finish(steps), ORIGINAL)
    assert drawn == list(range(62))  # the last of 63 steps adds none


def share_of_signal(t, timesteps=1000):
    """In closed form, where no beta is cut off: the product of its parts ends in the last one."""
    f = [np.cos((x / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2 for x in (t + 1, 0)]
    return f[0] / f[1] if t >= 0 else 1.0


def plain_prior(predict, noises, times, eta):
    """The steps of DALLE2-pytorch, from docs/BUNDLE.md, in float64."""
    x, found = noises[0], []
    for i, (t, s) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        p = predict(x, t)
        if s < 0:
            return [*found, p]
        signal = share_of_signal(t)
        e = (x - np.sqrt(signal) * p) / np.sqrt(1 - signal)
        a, b = share_of_signal(t - 1), share_of_signal(s - 1)
        c = eta * np.sqrt((1 - a / b) * (1 - b) / (1 - a))
        x = np.sqrt(b) * p + np.sqrt(1 - b - c**2) * e + c * noises[i + 1]
        found.append(x)


@pytest.mark.parametrize("eta", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_the_prior_is_its_equations(steps, eta):
    noises = np.random.default_rng(1).standard_normal((steps + 1, 1, 24))
    levels = embedding_levels(cosine_alphas(1000), steps, eta)
    times = [level.timestep for level in levels]

    def predict(x, t):  # stands for a network
        return 0.3 * x * (1 + t / 1000) - 0.1

    start, *fresh = noises.astype(np.float32)
    found = [x for _, x in denoise(predict, "original", start, levels, fresh=fresh.__getitem__)]
    expected = plain_prior(predict, noises, times, eta)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_shares_of_signal_are_their_formulas():
    times = range(999)  # the last beta is cut off
    expected = [share_of_signal(t) for t in times]
    np.testing.assert_allclose(cosine_alphas(1000)[:999], expected, rtol=1e-9)
    cut = 0.001 * share_of_signal(998)
    np.testing.assert_allclose(cosine_alphas(1000)[999], cut, rtol=1e-9)
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    np.testing.assert_allclose(ALPHAS, np.exp(np.log1p(-betas).cumsum()), rtol=1e-9)


def test_fresh_noise_keeps_the_variance_of_a_standard_normal():
    """Of a model that knows nothing: the original of a normal is sqrt(alpha) of what it sees."""
    alphas = cosine_alphas(1000)
    rng = np.random.default_rng(1)
    start = rng.standard_normal((1, 1, 500, 20)).astype(np.float32)
    levels = embedding_levels(alphas, 50, 1.0)[:-1]
    steps = denoise(
        lambda latent, t: np.float32(np.sqrt(alphas[t])) * latent,
        "original",
        start,
        levels,
        fresh=lambda step: rng.standard_normal(start.shape).astype(np.float32),
    )
    for _, latent in steps:
        assert abs(latent.std() - 1) < 0.05


def test_known_columns_are_kept_and_seen_at_the_noise_of_each_step():
    known = RNG.standard_normal((1, 3, 6, 4)).astype(np.float32)
    levels = latent_levels(ALPHAS, 5, 1)
    seen = []

    def predict(latent, timestep):
        seen.append(latent[:, :, :6].copy())
        return np.zeros_like(latent)

    *others, (step, latent) = denoise(predict, "noise", START, levels, known=known)
    assert step == 4
    np.testing.assert_array_equal(latent[:, :, :6], known)
    for level, shown in zip(levels, seen, strict=True):
        expected = np.sqrt(level.alpha) * known + np.sqrt(1 - level.alpha) * START[:, :, :6]
        np.testing.assert_allclose(shown, expected, atol=1e-6)
    free = finish(denoise(predict, "noise", START, levels))
    np.testing.assert_array_equal(latent[:, :, 6:], free[:, :, 6:])
    assert len({id(latent) for _, latent in others}) == len(others)


def test_times_of_the_latents_are_those_of_leading_spacing():
    levels = latent_levels(ALPHAS, 10, 1)
    assert [level.timestep for level in levels] == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert levels[0].original == pytest.approx(np.sqrt(ALPHAS[801]))
    assert levels[-1].original == pytest.approx(np.sqrt(ALPHAS[0]))
    assert [level.timestep for level in latent_levels(ALPHAS, 999, 1)] == list(range(999, 0, -1))


@pytest.mark.parametrize(("steps", "first", "last"), [(1, 999, 999), (2, 499, 499), (64, 984, 14)])
def test_times_of_the_prior(steps, first, last):
    levels = embedding_levels(cosine_alphas(1000), steps, 1.0)
    assert len(levels) == max(1, steps - 1)
    assert (levels[0].timestep, levels[-1].timestep) == (first, last)
    assert levels[-1][2:] == (1, 0, 0)


def test_times_of_the_prior_are_those_of_dalle2_pytorch():
    for steps in range(2, 1000):
        if np.gcd(steps, 1001) > 1:
            continue  # whole numbers, of which floats may fall short
        times = np.linspace(-1, 1000, steps + 1)[:-1].astype(int)[:0:-1].tolist()
        levels = embedding_levels(cosine_alphas(1000), steps, 1.0)
        assert [level.timestep for level in levels] == times, steps


def test_the_share_of_signal_falls_from_all_to_little():
    for alphas, last in ((ALPHAS, 2e-4), (cosine_alphas(1000), 1e-6)):
        assert (np.diff(alphas) < 0).all()
        assert 0.998 < alphas[0] < 1
        assert 0 < alphas[-1] < last


def model_of(calls):
    def model(noisy, timestep, features, conditional):
        calls.append((noisy.shape, timestep.tolist(), conditional.tolist(), timestep.dtype))
        return noisy + features * conditional[:, None]

    return model


def test_guidance_is_a_line_through_both_branches():
    calls, noisy = [], np.full((1, 4), 2, np.float32)
    features = np.arange(4, dtype=np.float32)[None]
    predict = guided(model_of(calls), {"features": features}, "noisy", 3.0)
    np.testing.assert_array_equal(predict(noisy, 7), noisy + 3 * features)
    assert calls == [((2, 4), [7, 7], [1, 0], np.int32)]


def test_guidance_one_is_the_condition_alone():
    calls, noisy = [], np.full((1, 4), 2, np.float32)
    features = np.arange(4, dtype=np.float32)[None]
    predict = guided(model_of(calls), {"features": features}, "noisy", 1.0)
    np.testing.assert_array_equal(predict(noisy, 7), noisy + features)
    assert calls == [((1, 4), [7], [1], np.int32)]
