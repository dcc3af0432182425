"""The discriminator tells real sound from made-up, and says so to the codec; losses in balance."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training.codecs.balancer import Balancer, WeightedSum
from training.codecs.discriminator import (
    Adversary,
    build_discriminator,
    discriminator_loss,
    feature_loss,
    generator_loss,
)


def tones(count: int, samples: int = 4096) -> torch.Tensor:
    times = torch.arange(samples) / 16_000
    pitches = torch.linspace(300, 1200, count)[:, None]
    return 0.3 * torch.sin(2 * torch.pi * pitches * times)  # [count, samples]


def test_it_learns_to_tell_tones_from_noise():
    torch.manual_seed(0)
    adversary = Adversary(2, 3e-2, (0.5, 0.9), torch.device("cpu"))
    real, fake = tones(2), 0.1 * torch.randn(2, 4096)
    _, before = adversary.losses(fake, real)
    for _ in range(25):
        adversary.learn(fake, real)
    of_codec, after = adversary.losses(fake, real)
    assert before > 1.9 and after < 0.6 * before
    assert of_codec["adversarial"] > 1.2, "made-up sound that is found out costs more than 1"


def test_it_has_five_scales_that_see_complex_spectra():
    logits, features = build_discriminator(4)(torch.randn(2, 1, 4096))
    assert len(logits) == len(features) == 5
    shapes = [maps[0].shape[2:] for maps in features]  # frames, bins
    assert sorted(bins for _, bins in shapes) == [65, 129, 257, 513, 1025]
    turned, _ = build_discriminator(4)(-torch.randn(1, 1, 4096))
    assert all(torch.isfinite(x).all() for x in turned)


def test_the_hinge_asks_no_more_than_it_should():
    sure, unsure = [torch.full((1, 1, 2, 2), 3.0)], [torch.zeros(1, 1, 2, 2)]
    assert discriminator_loss(sure, [-sure[0]]) == 0
    assert discriminator_loss(unsure, unsure) == 2
    assert generator_loss(sure) == 0 and generator_loss(unsure) == 1
    assert generator_loss([-sure[0]]) == 4


def test_features_are_compared_at_their_own_scale():
    real, fake = [[torch.full((1, 2), 10.0), torch.ones(1, 2)]], [[torch.full((1, 2), 11.0)] * 2]
    assert feature_loss(real, real) == 0
    assert feature_loss(real, fake).item() == pytest.approx((0.1 + 10) / 2)


def test_weights_are_shares_of_the_gradient_whatever_the_scale():
    output = torch.randn(2, 100, requires_grad=True)
    towards, away = torch.randn(2, 100), torch.randn(2, 100)
    losses = {"a": (output * towards).sum(), "b": 1000 * (output * away).sum()}
    gradient = Balancer({"a": 3.0, "b": 1.0, "unused": 9.0}).gradient(losses, output)
    shares = [t / t.norm(dim=1).mean() for t in (towards, away)]
    torch.testing.assert_close(gradient, 0.75 * shares[0] + 0.25 * shares[1])


def test_the_balance_is_a_running_one_that_survives_an_interruption():
    output = torch.randn(2, 100, requires_grad=True)
    balancer = Balancer({"a": 1.0})
    balancer.gradient({"a": output.sum()}, output)
    resumed = Balancer({"a": 1.0})
    resumed.load_state_dict(balancer.state_dict())
    steps = [b.gradient({"a": 3 * output.sum()}, output) for b in (balancer, resumed)]
    torch.testing.assert_close(*steps)
    assert steps[0].norm(dim=1).mean().item() == pytest.approx(1.5, rel=1e-3), "3 over mean(1, 3)"


def test_without_balance_it_is_the_weighted_sum():
    output = torch.randn(2, 10, requires_grad=True)
    gradient = WeightedSum({"a": 2.0, "b": 0.5}).gradient(
        {"a": output.sum(), "b": output.square().sum()}, output
    )
    torch.testing.assert_close(gradient, (2 + output).detach())
