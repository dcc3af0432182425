"""The transformer: sizes of the paper's presets, and what each input may and may not change."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
from checkpoints import coded_vab

from training.configs import read_recipe, recipe_names
from training.model import VAB, attention_bias, stream_times


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.fixture(scope="module")
def config():
    """A small model on the clock, with frames at 2 Hz beside tokens at 50 Hz."""
    return msgspec.structs.replace(
        read_recipe("default").model,
        clip_s=2.0, visual_rate_hz=2.0, image_stride=1, motion_dim=0, motion_reach=0,
        width=32, heads=4, layers=3, expert_layers=2,
        codebook_size=16, code_dim=8, visual_dim=12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(config):
    return coded_vab(config)


@pytest.fixture
def inputs(config):
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 17, (2, 4, config.num_token_steps), generator=random)
    features = torch.randn(2, config.num_frames, 12, generator=random)
    return tokens.int(), features, torch.ones(2)


def test_vab_encodec_has_the_papers_size():
    with torch.device("meta"):
        model = VAB(read_recipe("vab-encodec").model)
    assert millions(model.layers) == pytest.approx(403, rel=0.005)
    assert millions(model.layers[:12]) == pytest.approx(253, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "total"), [("vab-dac", 403), ("vab-dac-test", 198), ("vab-dac-coarse2fine", 315)]
)
def test_dac_presets_follow_from_their_table(preset, total):
    """12 D^2 a layer, 8 D^2 more in each expert layer."""
    config = read_recipe(preset).model
    with torch.device("meta"):
        model = VAB(config)
    layers, experts = config.layers, config.expert_layers
    expected = (12 * layers + 8 * experts) * config.width**2 / 1e6
    assert millions(model.layers) == pytest.approx(expected, rel=0.002)
    assert expected == pytest.approx(total, rel=0.01)


def test_every_recipe_reads_and_builds():
    names = recipe_names()
    assert {"default", "vab-encodec", "vab-dac", "vab-dac-test", "vab-dac-coarse2fine"} <= set(
        names
    )
    for name in names:
        with torch.device("meta"):
            VAB(read_recipe(name).model)


def test_logits_have_the_contracts_shape(model, config, inputs):
    logits = model(*inputs)
    assert logits.shape == (2, 4, config.num_token_steps, config.codebook_size)


def test_given_codebooks_are_read_and_not_predicted(config, inputs):
    tokens, features, on = inputs
    fine = coded_vab(msgspec.structs.replace(config, given_codebooks=3))
    logits = fine(tokens, features, on)
    assert logits.shape == (2, 1, config.num_token_steps, config.codebook_size)
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % 16
    assert (fine(other, features, on) - logits).abs().max() > 1e-4


def test_the_unconditional_branch_does_not_see_the_features(model, inputs):
    tokens, features, _ = inputs
    off = torch.zeros(2)
    torch.testing.assert_close(model(tokens, features, off), model(tokens, -features, off))
    on = torch.ones(2)
    assert (model(tokens, features, on) - model(tokens, -features, on)).abs().max() > 1e-3


@pytest.mark.parametrize(("is_shared", "least", "most"), [(False, 0.9, 1), (True, 0, 0.4)])
def test_a_model_can_read_codes_of_few_numbers(config, is_shared, least, most):
    """Its own four tokens a step, of 4 numbers each; by one projection of their sum it cannot."""
    few = {"codebook_size": 32, "code_dim": 4, "layers": 1, "expert_layers": 0, "clip_s": 0.5}
    model = coded_vab(msgspec.structs.replace(config, **few)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    features, off = torch.zeros(16, model.config.num_frames, 12), torch.zeros(16)
    levels = model.audio_in.weight.data.unflatten(1, (4, 4))  # [D, K, code_dim]
    for _ in range(120):
        if is_shared:
            levels.copy_(levels.mean(1, keepdim=True).expand_as(levels))
        tokens = torch.randint(0, 32, (16, 4, 25))
        logits = model(tokens, features, off)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 2), tokens.flatten()).backward()
        optimizer.step()
    assert least <= (logits.argmax(-1) == tokens).float().mean() <= most


def test_a_masked_token_reads_the_mask_vector_of_its_codebook(model, inputs):
    tokens, features, on = inputs
    masked = tokens.clone()
    masked[:, 1] = 16
    before = model(masked, features, on)
    with torch.no_grad():
        model.mask_codes[1] += 1.0
    after = model(masked, features, on)
    with torch.no_grad():
        model.mask_codes[1] -= 1.0
    assert (before - after).abs().max() > 1e-4


def test_both_streams_enter_at_the_same_scale(model, inputs):
    tokens, features, on = inputs
    x = model.embed(tokens, torch.nn.functional.normalize(features, dim=-1), on)
    visual, audio = (x - model.positions).split((4, 100), 1)
    assert 0.5 < visual.std() < 2 and 0.5 < audio.std() < 2


def test_clips_of_a_batch_do_not_touch_each_other(model, inputs):
    tokens, features, on = inputs
    alone = model(tokens[:1], features[:1], on[:1])
    torch.testing.assert_close(model(tokens, features, on)[:1], alone)


def test_index_alibi_counts_positions_of_the_concatenation(config):
    times = stream_times(msgspec.structs.replace(config, alibi="index"))
    assert times.tolist() == list(range(4 + 100))


def test_time_alibi_puts_a_frame_beside_its_sound(config):
    times = stream_times(config)
    assert times[:4].tolist() == [12.5, 37.5, 62.5, 87.5]  # 0.25, 0.75, ... s in 20-ms steps
    assert times[4:7].tolist() == [0.5, 1.5, 2.5]
    bias = attention_bias(config)[0]  # [H, F + T, F + T]
    nearest = bias[:, 1, 4:].argmax(1)  # frame 1 shows 0.75 s
    assert set(nearest.tolist()) <= {36, 37, 38}
    assert torch.equal(bias, bias.transpose(1, 2))
    assert bias.diagonal(dim1=1, dim2=2).abs().max() == 0


def test_slopes_are_the_published_ones(config):
    bias = attention_bias(msgspec.structs.replace(config, alibi="index", heads=8))[0]
    assert bias[:, 0, 1].tolist() == pytest.approx([-(2.0**-i) for i in range(1, 9)])


@pytest.mark.parametrize("alibi", ["index", "time"])
def test_no_weight_of_attention_is_denormal(config, alibi):
    """Processors treat numbers below 1e-38 one by one: attention took 3 to 4 times as long."""
    config = msgspec.structs.replace(config, alibi=alibi, heads=16)
    bias = attention_bias(config)
    scores = torch.full((bias.shape[-1],), 18.0)  # as far apart as they get
    scores[::2] *= -1
    weights = (bias + scores).softmax(-1)
    assert weights.min() >= torch.finfo(torch.float32).tiny
