"""FoleyGen: the delay pattern, its caches, guidance and sampling."""

import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from checkpoints import tiny_config

from bench.peers.autoregressive import Autoregressive, draw, undelay
from bench.peers.foleygen import FoleyGen, GrowingCache, StaticCache, num_columns, num_positions
from bench.peers.parity import cached_error, share_unequal_columns
from training.configs import read_recipe
from vab_rt.options import TokenOptions

CONFIG = tiny_config(clip_s=0.4, visual_rate_hz=2.5)  # F 1, T 20, K 3, V 37
OPTIONS = TokenOptions(seed=1, top_k=8)
EMPTY = CONFIG.codebook_size


def as_it_is(step):
    return step


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FoleyGen(CONFIG).eval()


@pytest.fixture(scope="module")
def eager(model):
    return Autoregressive(model, OPTIONS)


@pytest.fixture
def compiled(model):
    """With the cache that is compiled, but not compiled, which takes longer than all tests."""
    return Autoregressive(model, OPTIONS, as_it_is)


@pytest.fixture(scope="module")
def features():
    random = torch.Generator().manual_seed(2)
    return torch.randn(1, CONFIG.num_frames, CONFIG.visual_dim, generator=random)


@pytest.fixture(scope="module")
def columns(eager, features):
    return torch.stack(list(eager.columns(features, 1)), 2)


def test_codebooks_lag_one_step_behind_each_other(columns):
    _, num_codebooks, num = columns.shape
    assert num == CONFIG.num_token_steps + CONFIG.num_codebooks
    for k in range(num_codebooks):
        there = torch.arange(num)
        there = (there > k) & (there <= k + CONFIG.num_token_steps)
        assert (columns[0, k, ~there] == EMPTY).all()
        assert (columns[0, k, there] < EMPTY).all()


def test_tokens_are_the_columns_without_delay(eager, features, columns):
    tokens = eager.tokens(features, 1)
    assert tokens.shape == (1, CONFIG.num_codebooks, CONFIG.num_token_steps)
    assert tokens[0, 2, 5] == columns[0, 2, 5 + 3]
    marked = torch.arange(columns.shape[2]).expand_as(columns)
    assert undelay(marked, CONFIG)[0, :, 0].tolist() == [1, 2, 3]


def test_seeds_decide(eager, features):
    first, again, other = (eager.tokens(features, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_both_caches_give_the_logits_of_no_cache(eager, compiled, features, columns):
    assert cached_error(eager, features, columns) < 1e-5
    assert cached_error(compiled, features, columns) < 1e-5


def test_a_cache_that_shows_what_is_not_there_yet_is_noticed(
    compiled, features, columns, monkeypatch
):
    monkeypatch.setattr(StaticCache, "mask", lambda self, positions: None)
    assert cached_error(compiled, features, columns) > 1e-3


def test_the_static_cache_has_room_for_all_in_eights(compiled):
    needed, there = num_positions(CONFIG), compiled.static.num_positions
    assert needed % 8 and there % 8 == 0 and needed < there < needed + 8


def test_the_static_cache_may_be_used_again(compiled, eager, features):
    compiled.tokens(torch.randn_like(features), 5)
    assert torch.equal(compiled.tokens(features, 1), eager.tokens(features, 1))


def test_passes_are_compared_one_by_one(compiled, features, columns):
    assert share_unequal_columns(compiled, features, 1, columns) == 0
    changed = columns.clone()
    changed[0, 0, -CONFIG.num_codebooks] = (changed[0, 0, -CONFIG.num_codebooks] + 1) % EMPTY
    assert share_unequal_columns(compiled, features, 1, changed) > 0


def test_later_columns_do_not_change_earlier_logits(model, eager, features, columns):
    numbers = torch.arange(6)
    changed = columns[..., :6].clone()
    changed[..., 4:] = 0
    found = []
    for each in (columns[..., :6], changed):
        cache = GrowingCache(CONFIG)
        with torch.inference_mode():
            model.see(features.repeat(2, 1, 1), eager.branches, cache)
            found.append(eager.logits(each, numbers, cache))  # [1, 6, K, V]
    first, second = found
    torch.testing.assert_close(first[:, :4], second[:, :4])
    assert not torch.allclose(first[:, 4:], second[:, 4:])


def test_the_unconditional_branch_does_not_see(model, features):
    column = torch.zeros(2, CONFIG.num_codebooks, 1, dtype=torch.long)
    found = []
    for seen in (features, 3 * features + 1):
        cache = GrowingCache(CONFIG)
        with torch.inference_mode():
            model.see(seen.repeat(2, 1, 1), torch.tensor([1.0, 0.0]), cache)
            found.append(model.advance(column, torch.tensor([CONFIG.num_frames]), cache))
    torch.testing.assert_close(found[0][1], found[1][1])
    assert not torch.allclose(found[0][0], found[1][0])


def test_only_the_likeliest_are_drawn():
    options = TokenOptions(top_k=2)
    logits = torch.randn(1, CONFIG.num_codebooks, EMPTY, generator=torch.Generator().manual_seed(3))
    best = logits.topk(2).indices
    noise = torch.zeros_like(logits)
    number = torch.tensor([CONFIG.num_codebooks])  # the first column without an empty place
    assert torch.equal(draw(logits, number, noise, options, CONFIG), best[..., 0])
    noise = noise.scatter(2, best[..., 1:], 1000.0)
    assert torch.equal(draw(logits, number, noise, options, CONFIG), best[..., 1])
    noise = noise.scatter(2, logits.argmin(-1, keepdim=True), 9000.0)
    assert torch.equal(draw(logits, number, noise, options, CONFIG), best[..., 1])


def test_ties_do_not_move_the_noise():
    """In float16 logits tie, and their ranks are chance."""
    logits = torch.zeros(1, CONFIG.num_codebooks, EMPTY)
    noise = torch.zeros_like(logits)
    noise[..., 5] = 1.0
    number = torch.tensor([CONFIG.num_codebooks])
    for tied in (logits, logits.index_fill(2, torch.tensor([3]), 1e-4)):
        assert (draw(tied, number, noise, TokenOptions(top_k=8), CONFIG) == 5).all()


def test_top_k_0_keeps_all(model, features):
    every = Autoregressive(model, TokenOptions(top_k=0))
    assert every.noise(0).shape == (num_columns(CONFIG), 1, CONFIG.num_codebooks, EMPTY)
    assert (every.tokens(features, 0) < EMPTY).all()


def test_clips_of_a_batch_do_not_mix(model, features):
    two = Autoregressive(model, OPTIONS, batch=2)
    both = torch.cat([features, -features])
    first = two.tokens(both, 1)
    second = two.tokens(torch.cat([features, 2 * features]), 1)
    assert first.shape[0] == 2
    assert torch.equal(first[0], second[0])


def test_at_full_size_it_is_the_model_of_the_paper():
    c = read_recipe("vab-encodec").model
    assert (c.layers, c.heads, c.width, c.num_codebooks, c.visual_rate_hz) == (24, 16, 1024, 4, 1)
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in FoleyGen(c).parameters())
    assert 300e6 < weights < 340e6
