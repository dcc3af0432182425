"""FoleyGen learns from tokens, decodes what it has learned, and stands beside VAB."""

import json
import types

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from checkpoints import tiny_checkpoint, tiny_config
from toml_files import toml_of

from bench import foleygen as command
from bench.peers.autoregressive import Autoregressive, delay, undelay
from bench.peers.foleygen import FoleyGen, GrowingCache
from bench.peers.foleygen_training import load_foleygen, next_token_loss, train_foleygen
from training.datasets.clips import TokenisedClips
from training.pretrain import PretrainSettings, training_batch
from vab_rt.errors import BundleError, DataError, OptionError
from vab_rt.options import TokenOptions

CONFIG = tiny_config(
    clip_s=0.8, visual_rate_hz=5.0, image_stride=2, num_codebooks=2, codebook_size=11, layers=2
)  # F 4, T 40
SETTINGS = PretrainSettings(
    batch=8, epochs=250, peak_rate=5e-3, muon_rate=0.02, warm_up=0.03, mixup=0.0, roll=0.0,
    precision="fp32", validate_every=250,
)  # fmt: skip


def make_clips(config, count=8):
    """Token k, t of a clip of kind n is n + t + k: what comes next follows from what was before,
    and where it begins from what is seen."""
    c, kinds = config, np.arange(count)
    features = np.eye(c.visual_dim, dtype=np.float32)[kinds][:, None].repeat(c.num_frames, 1)
    steps = np.arange(c.num_codebooks)[:, None] + np.arange(c.num_token_steps)  # [K, T]
    tokens = (kinds[:, None, None] + steps) % c.codebook_size
    return TokenisedClips(tokens.astype(np.int16), features, np.zeros((count, 0), np.float32))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The file and the last losses of a training that sees parts of clips first."""
    path, clips = tmp_path_factory.mktemp("run") / "foleygen.pt", make_clips(CONFIG)
    settings = msgspec.structs.replace(SETTINGS, crop_s=0.4, crop_share=0.5)
    stage = train_foleygen(path, clips, clips, CONFIG, settings, None)
    (held_out,) = (losses for _, _, losses in stage if "val_loss" in losses)
    return path, held_out


def test_a_repeating_pattern_is_learned_and_decoded(learned):
    path, losses = learned
    assert losses["val_accuracy"] > 0.95 and losses["val_loss"] < 0.5, losses
    model, clips = load_foleygen(path, CONFIG), make_clips(CONFIG)
    way = Autoregressive(model, TokenOptions(guidance=1.0, top_k=1), batch=len(clips))
    found = way.tokens(torch.from_numpy(clips.features), 0).numpy()
    assert (found == clips.tokens).mean() > 0.95


def test_training_goes_on_from_its_file_and_refuses_another(learned, tmp_path):
    path, _ = learned
    clips = make_clips(CONFIG)
    assert not list(train_foleygen(path, clips, clips, CONFIG, SETTINGS, None))  # all was spent
    wider = msgspec.structs.replace(CONFIG, width=64)
    with pytest.raises(DataError, match="another model or stage"):
        next(train_foleygen(path, clips, clips, wider, SETTINGS, None))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FoleyGen(CONFIG)


@pytest.fixture(scope="module")
def columns():
    tokens = torch.from_numpy(make_clips(CONFIG, 3).tokens).long()
    return delay(tokens, CONFIG)  # [3, K, T + K]


def test_delay_is_undone_by_undelay(columns):
    tokens = torch.from_numpy(make_clips(CONFIG, 3).tokens).long()
    assert torch.equal(undelay(columns, CONFIG), tokens)
    assert (columns[..., 0] == CONFIG.codebook_size).all()  # the first is empty
    assert columns[0, 1, :3].tolist() == [11, 11, 1]  # the second codebook lags one behind


@pytest.mark.parametrize("training", [True, False])
def test_logits_of_training_are_those_of_the_cached_loop(model, columns, training):
    """Column by column, given the same tokens before."""
    random = torch.Generator().manual_seed(1)
    features = torch.randn(3, CONFIG.num_frames, CONFIG.visual_dim, generator=random)
    conditional = torch.tensor([1.0, 0.0, 1.0])
    cache, first = GrowingCache(CONFIG), columns[..., :-1]
    with torch.no_grad():
        expected = model.train(training)(first, features, conditional)  # [3, P, K, V]
        model.eval().see(features, conditional, cache)
        one_by_one = [
            model.advance(column, torch.tensor([CONFIG.num_visual + i]), cache)
            for i, column in enumerate(first.split(1, 2))
        ]
    torch.testing.assert_close(torch.cat(one_by_one, 1), expected)


def test_a_part_of_a_clip_lies_where_it_was_cut(model, columns):
    """With the positions moved by hand the part is a clip that begins at 0."""
    first_frame, num_visual = CONFIG.image_stride, CONFIG.num_visual
    first_step = round(first_frame * CONFIG.hop_rate_hz / CONFIG.visual_rate_hz)
    part, features = columns[..., :9], torch.randn(3, CONFIG.image_stride, CONFIG.visual_dim)
    moved, on = model.positions.clone(), torch.ones(3)
    moved[:1] = model.positions[1:2]
    moved[num_visual : num_visual + 9] = model.positions[num_visual + first_step :][:9]
    model.eval()
    with torch.no_grad():
        found, elsewhere = (model(part, features, on, f) for f in (first_frame, 0))
        kept, model.positions = model.positions, moved
        expected = model(part, features, on)
    model.positions = kept
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, elsewhere)


def test_the_loss_is_of_tokens_and_not_of_empty_places(model):
    batch = training_batch(make_clips(CONFIG), CONFIG, SETTINGS, 0, 1.0)

    def certain(columns, *given):
        """Sure of every token, and of 0 where there is none."""
        following = delay(batch.targets, CONFIG)[..., 1:].transpose(1, 2)
        return 100.0 * torch.nn.functional.one_hot(following % 11, 11)

    loss, accuracy = next_token_loss(certain, batch, CONFIG, SETTINGS)
    assert (loss, accuracy) == (0, 1)
    unsure = lambda columns, *given: torch.zeros(8, columns.shape[2], 2, 11)
    assert next_token_loss(unsure, batch, CONFIG, SETTINGS)[0] == pytest.approx(np.log(11))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a tiny model whose clips are FoleyWorld's in length, and its recipe."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(clip_s=10.0, width=16, layers=1, expert_layers=1, heads=2)
    torch.save(tiny_checkpoint(config), folder / "ckpt.pt")
    torch.save({"spent_s": 3.0, "step": 5}, folder / "vab.pt")
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        make_clips(config, count).save(folder / f"{split}.npz")
    recipe = folder / "tiny.toml"
    pretrain = {"batch": 2, "warm_up": 0.03}
    recipe.write_text(toml_of({"pretrain": pretrain, "model": msgspec.to_builtins(config)}))
    return types.SimpleNamespace(folder=folder, recipe=recipe, config=config)


def words(run, *more):
    return ["--run", str(run.folder), "--recipe", str(run.recipe), "--clips", "2", *more]


@pytest.mark.slow
def test_both_are_measured_on_the_same_clips(run, capsys):
    command.main(words(run, "--minutes", "0.02", "--json"))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((run.folder / "foleygen-test.json").read_text())
    for name in ("foleygen", "vab", "codec"):
        assert len(result[name]["class_agreement_95"]) == 2
    for name in ("foleygen", "vab"):
        assert result[name]["generate_s"] > 0 and result[name]["steps"] > 0
    assert result["vab"]["minutes"] == 0.05
    level = [result[name]["level_error_db"] for name in ("foleygen", "vab", "foleygen_minus_vab")]
    assert level[2] == pytest.approx(level[0] - level[1], abs=1e-3)


def test_what_does_not_belong_together_is_refused_before_any_work(run, tmp_path):
    before = sorted(run.folder.iterdir())
    for more, error, message in (
        (["--run", str(tmp_path)], DataError, r"ckpt\.pt is not there, expected a finished run"),
        (["--recipe", "default"], OptionError, "has the model tiny-test, expected vab-tiny"),
        (["--clips", "3"], OptionError, r"clips is 3, expected 2 to 2, as .*test\.npz has"),
        (["--stride", "7"], BundleError, "image_stride is 7, expected a divisor"),
        (["--guidance", "-1"], OptionError, "guidance is -1"),
    ):
        with pytest.raises(error, match=message):
            command.main([*words(run), *more])
    assert sorted(run.folder.iterdir()) == before
