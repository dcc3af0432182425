"""The two mappers and the two diffusions: their sizes, and that they are the equations'."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training.v2a_mapper.diffusion import noised
from training.v2a_mapper.mapper import PriorNetwork, RegressionMapper, aggregate
from training.v2a_mapper.settings import MapperSettings
from vab_rt.errors import OptionError

SIZES = MapperSettings(depth=2, heads=3, dim_head=8, ff_mult=2, null_tokens=5)
DIM, TIMES = 12, 20


def num_parameters(module):
    return sum(x.numel() for x in module.parameters())


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    network = PriorNetwork(DIM, TIMES, SIZES).double().eval()
    with torch.no_grad():
        for weight in network.parameters():  # gains of 1 would hide a gain in the wrong place
            weight.add_(0.2 * torch.randn_like(weight))
    return network


@pytest.fixture(scope="module")
def inputs():
    random = torch.Generator().manual_seed(1)
    noisy, visual = (torch.randn(3, DIM, generator=random, dtype=torch.float64) for _ in range(2))
    return noisy, torch.tensor([0, 7, 19]), visual


def test_the_regression_has_the_parameters_of_its_copies():
    assert num_parameters(RegressionMapper(512, 512)) == 2_103_808


def test_the_prior_has_the_papers_parameters():
    """48.83 million in its table 1; 48.79 without the tokens in the place of a text."""
    with torch.device("meta"):
        assert num_parameters(PriorNetwork(512, 1000, MapperSettings())) == 48_833_408
        shipped = MapperSettings(norm_in=False)
        assert num_parameters(PriorNetwork(512, 1000, shipped)) == 48_832_896
        short = MapperSettings(null_tokens=0)
        assert num_parameters(PriorNetwork(512, 1000, short)) == 48_793_984


def plain_prior(state, noisy, time, visual):
    """The network for one item, token by token, in numpy, from its published description."""

    def norm(x, gain):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gain

    def turned(x, place):
        out = x.copy()
        for i in range(len(x) // 2):
            angle = place * 10_000 ** (-2 * i / len(x))
            a, b = x[2 * i], x[2 * i + 1]
            out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * i + 1] = b * math.cos(angle) + a * math.sin(angle)
        return out / np.linalg.norm(out)

    def silu(x):
        return x / (1 + np.exp(-x))

    w = {name.removeprefix("causal_transformer."): x.numpy() for name, x in state.items()}
    embedded = w["to_time_embeds.0.weight"][time]
    tokens = [*w["null_text_encodings"][0], visual, embedded, noisy, w["learned_query"]]
    x = np.stack([norm(token, w["init_norm.g"]) for token in tokens])
    biases = w["rel_pos_bias.relative_attention_bias.weight"]
    for layer in range(SIZES.depth):
        p = {name: w[f"layers.{layer}.0.{name}"] for name in ("norm.g", "null_kv", "to_q.weight")}
        kv, out = w[f"layers.{layer}.0.to_kv.weight"], w[f"layers.{layer}.0.to_out.0.weight"]
        normed = [norm(token, p["norm.g"]) for token in x]
        keys = [p["null_kv"][0] / np.linalg.norm(p["null_kv"][0])]
        keys += [turned((kv @ token)[: SIZES.dim_head], i) for i, token in enumerate(normed)]
        values = [p["null_kv"][1]] + [(kv @ token)[SIZES.dim_head :] for token in normed]
        after = []
        for i, token in enumerate(normed):
            heads = (p["to_q.weight"] @ token).reshape(SIZES.heads, SIZES.dim_head)
            mixed = []
            for h, head in enumerate(heads):
                query = turned(head, i)
                scores = [16 * query @ keys[j] + biases[max(i - j, 0), h] for j in range(i + 2)]
                weights = np.exp(scores) / np.exp(scores).sum()
                mixed.append(sum(a * v for a, v in zip(weights, values, strict=False)))
            after.append(norm(out @ np.concatenate(mixed), w[f"layers.{layer}.0.to_out.1.g"]))
        x = x + np.stack(after)
        f = {n: w[f"layers.{layer}.1.{n}"] for n in ("0.g", "1.weight", "3.g", "5.weight")}
        for i, token in enumerate(x):
            value, gate = np.split(f["1.weight"] @ norm(token, f["0.g"]), 2)
            x[i] = token + f["5.weight"] @ norm(value * silu(gate), f["3.g"])
    last = x[-1] / x[-1].max()
    return w["project_out.weight"] @ norm(last, w["norm.g"])


def test_the_prior_is_its_equations(prior, inputs):
    noisy, times, visual = inputs
    with torch.no_grad():
        found = prior(noisy, times, visual, torch.ones(3)).numpy()
    for i in range(3):
        expected = plain_prior(
            prior.state_dict(), noisy[i].numpy(), int(times[i]), visual[i].numpy()
        )
        assert np.abs(found[i] - expected).max() < 1e-6
        assert expected.std() > 0.1


@torch.no_grad()
def test_the_unconditional_branch_sees_neither_picture_nor_sound(prior, inputs):
    noisy, times, visual = inputs
    off = torch.zeros(3)
    alone = prior(noisy, times, visual, off)
    assert torch.equal(alone, prior(noisy + 1, times, visual - 1, off))
    assert (alone - prior(noisy, times - times, visual, off)).abs().max() > 1e-3
    assert (alone - prior(noisy, times, visual, off, heard=torch.ones(3))).abs().max() > 1e-3


@torch.no_grad()
def test_a_result_does_not_depend_on_what_else_is_in_the_batch(prior, inputs):
    noisy, times, visual = inputs
    on = torch.tensor([1.0, 0.0, 1.0])
    together = prior(noisy, times, visual, on)
    for i in range(3):
        one = slice(i, i + 1)
        alone = prior(noisy[one], times[one], visual[one], on[one])
        assert (alone - together[one]).abs().max() < 1e-12


def test_aggregators():
    features = torch.arange(24.0).view(2, 4, 3)
    shuffled = features[:, torch.tensor([2, 0, 3, 1])]
    assert torch.equal(aggregate(features, "mean"), aggregate(shuffled, "mean"))
    assert torch.equal(aggregate(features, "middle"), features[:, 2])
    drawn = aggregate(features, "random", np.random.default_rng(0))
    assert torch.equal(drawn, aggregate(features, "random", np.random.default_rng(0)))
    assert all((row == clip).all(1).any() for row, clip in zip(drawn, features, strict=True))
    image = features[:, :1]
    for how in ("mean", "middle", "random"):
        assert torch.equal(aggregate(image, how, np.random.default_rng(0)), image[:, 0])
    with pytest.raises(OptionError, match="without a generator, expected mean"):
        aggregate(features, "random")
    with pytest.raises(OptionError, match="'median', expected mean"):
        aggregate(features, "median")


def test_mapper_sizes_that_cannot_be_are_refused():
    with pytest.raises(OptionError, match="heads is 0, expected at least 1"):
        MapperSettings(heads=0)
    with pytest.raises(OptionError, match="null_tokens is -1"):
        MapperSettings(null_tokens=-1)


def test_noise_is_mixed_in_by_its_share():
    clean, noise = torch.full((2, 3, 2), 2.0), torch.full((2, 3, 2), 5.0)
    found = noised(clean, noise, torch.tensor([0.64, 0.0]))
    assert torch.allclose(found[0], torch.tensor(0.8 * 2 + 0.6 * 5)) and (found[1] == 5).all()
