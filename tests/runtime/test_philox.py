"""The counter-based numbers against published vectors and their distributions."""

from statistics import NormalDist

import numpy as np
import pytest

from vab_rt.errors import OptionError
from vab_rt.philox import (
    CONFIDENCE_STREAM,
    EMBEDDING_STREAM,
    LATENT_STREAM,
    TOKEN_STREAM,
    gumbel,
    log_poly,
    normal,
    philox4x32,
    uniform,
)
from vab_rt.philox import _normal_of as quantile_of

# Random123, tests/kat_vectors, the rows "philox4x32 10": counter, key, output.
KNOWN_ANSWERS = [
    (
        [0x00000000] * 4,
        [0x00000000] * 2,
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
    ),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]

PINNED_NORMALS = [
    "0x1.4cb51a0000000p+0",
    "0x1.26c65c0000000p-1",
    "0x1.9252280000000p-3",
    "0x1.1d230e0000000p+0",
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, expected):
    words = philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    np.testing.assert_array_equal(words, np.array(expected, np.uint32))


def test_philox_keeps_the_shape_of_its_counters():
    counters = np.random.default_rng(0).integers(0, 2**32, (3, 5, 4), np.uint32)
    key = np.array([7, 9], np.uint32)
    words = philox4x32(counters, key)
    assert words.shape == (3, 5, 4)
    np.testing.assert_array_equal(words[2, 1], philox4x32(counters[2, 1], key))


def test_both_halves_of_the_seed_the_step_and_the_stream_change_the_noise():
    c0 = np.arange(64, dtype=np.uint32)
    draws = [
        gumbel(5, 0, TOKEN_STREAM, c0),
        gumbel(5 + 2**32, 0, TOKEN_STREAM, c0),
        gumbel(6, 0, TOKEN_STREAM, c0),
        gumbel(5, 1, TOKEN_STREAM, c0),
        gumbel(5, 0, CONFIDENCE_STREAM, c0),
    ]
    assert len({draw.tobytes() for draw in draws}) == len(draws)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_over_64_bits_is_refused(seed):
    with pytest.raises(OptionError, match=r"seed is -?\d+, expected 0 to 2\*\*64 - 1"):
        uniform(seed, 0, TOKEN_STREAM, np.zeros(1, np.uint32))


def test_log_is_within_one_and_a_half_ulp_and_the_noise_finite_for_every_uniform():
    u = (np.arange(2**23, dtype=np.float32) + np.float32(0.5)) * np.float32(2**-23)
    assert u.min() > 0
    assert u.max() < 1
    exact = np.log(u.astype(np.float64))
    assert np.abs(log_poly(u) / exact - 1).max() < 1e-7
    noise = -log_poly(-log_poly(u))
    assert np.abs(noise + np.log(-exact)).max() < 1e-6
    assert -2.82 < noise.min() < noise.max() < 16.64


def test_uniform_noise_fills_its_bins_evenly():
    c0 = np.arange(1 << 18, dtype=np.uint32)
    counts = np.histogram(uniform(11, 3, TOKEN_STREAM, c0), bins=256, range=(0, 1))[0]
    expected = len(c0) / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


def test_confidence_noise_has_gumbel_moments():
    noise = gumbel(123, 4, CONFIDENCE_STREAM, np.arange(1 << 19, dtype=np.uint32)).astype(float)
    sigma = np.pi / np.sqrt(6)
    standard = (noise - np.euler_gamma) / sigma
    assert abs(standard.mean()) < 5 / np.sqrt(len(noise))
    assert abs(noise.std() / sigma - 1) < 0.01
    assert abs((standard**3).mean() - 1.1395) < 0.03
    assert abs((standard**4).mean() - 5.4) < 0.2


def test_normals_are_the_quantiles_of_their_uniforms_and_symmetric():
    ends = np.arange(2**10, dtype=np.float32)
    places = np.concatenate(
        [ends, np.arange(2**10, 2**23, 997, dtype=np.float32), np.float32(2**23 - 1) - ends]
    )
    u = (places + np.float32(0.5)) * np.float32(2**-23)
    z = quantile_of(u)
    assert z.dtype == np.float32
    exact = np.array([NormalDist().inv_cdf(float(p)) for p in u])
    assert np.abs(z - exact).max() < 1e-6
    np.testing.assert_array_equal(z, -quantile_of(np.float32(1) - u))
    assert -5.3 < z.min() < -5.2


def test_normal_noise_has_its_moments_and_streams_do_not_meet():
    c0 = np.arange(1 << 17, dtype=np.uint32)
    noise = normal(77, 2, LATENT_STREAM, c0).astype(float)
    assert abs(noise.mean()) < 5 / np.sqrt(len(noise))
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1
    other = normal(77, 2, EMBEDDING_STREAM, c0).astype(float)
    assert abs((noise * other).mean()) < 5 / np.sqrt(len(noise))


def test_the_first_normals_of_a_seed_are_pinned():
    """What another backend has to repeat, bit for bit."""
    found = normal(1, 0, LATENT_STREAM, np.arange(4, dtype=np.uint32))
    assert [x.hex() for x in found.tolist()] == PINNED_NORMALS
