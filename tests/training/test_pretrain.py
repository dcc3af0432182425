"""Pre-training: exact resuming, several processes, accumulation, crops, and bad checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import tiny_config

from training import distributed, fitting
from training.datasets.clips import TokenisedClips
from training.fitting import wants_bfloat16
from training.masking import random_part
from training.model import VAB
from training.pretrain import (
    PretrainSettings,
    make_optimizers,
    masked_loss,
    num_steps,
    pretrain,
    training_batch,
    validate,
)
from vab_rt.errors import DataError, OptionError, OutputError

CONFIG = tiny_config(num_codebooks=2, codebook_size=11, width=16, layers=2, expert_layers=1)
SETTINGS = PretrainSettings(
    batch=4, epochs=4, peak_rate=1e-2, warm_up=0.03, precision="fp32", validate_every=4
)
CODEBOOKS = torch.randn(2, 11, 288, generator=torch.Generator().manual_seed(0))


def untrained(config=CONFIG) -> VAB:
    torch.manual_seed(0)
    model = VAB(config)
    model.use_codebooks(CODEBOOKS)
    return model


def make_clips(count: int = 8, config=CONFIG) -> TokenisedClips:
    """A feature says which token sounds beside it, so there is something to learn."""
    random = np.random.default_rng(0)
    kinds = random.integers(config.codebook_size, size=(count, config.num_frames))
    features = np.eye(config.visual_dim, dtype=np.float32)[kinds]  # [N, F, C]
    per_frame = config.num_token_steps // config.num_frames
    tokens = np.repeat(kinds, per_frame, 1)[:, None].repeat(config.num_codebooks, 1)
    return TokenisedClips(tokens.astype(np.int16), features, np.zeros((count, 0), np.float32))


def train(folder: Path, settings=SETTINGS, config=CONFIG, minutes=None, clips=None):
    clips = clips or make_clips(config=config)
    reports = pretrain(folder, clips, clips, untrained(config), settings, minutes)
    return [losses for _, _, losses in reports]


@pytest.mark.parametrize("muon_rate", [0.0, 0.02])
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, monkeypatch, muon_rate):
    monkeypatch.setattr(fitting, "REPORT_EVERY", 1)
    settings = PretrainSettings(
        batch=2, epochs=2, muon_rate=muon_rate, warm_up=0.03, crop_s=1.2, precision="fp32"
    )
    whole = train(tmp_path / "whole", settings)
    assert len(whole) == num_steps(8, settings) + 1
    monkeypatch.setattr(fitting, "SAVE_EVERY_S", 0.0)  # so that a run can be left anywhere
    clips, losses = make_clips(), []
    first = pretrain(tmp_path / "parts", clips, clips, untrained(), settings, None)
    for _ in range(4):
        losses.append(next(first)[2])
    first.close()  # what a crash leaves: the checkpoint after three steps
    saved = torch.load(tmp_path / "parts" / "vab.pt", weights_only=True)["step"]
    losses = losses[:saved] + train(tmp_path / "parts", settings)
    assert losses == whole


def test_it_learns_and_reports_accuracy_on_held_out_clips(tmp_path):
    settings = PretrainSettings(
        batch=8,
        epochs=60,
        peak_rate=2e-2,
        warm_up=0.03,
        dropout=0.0,
        precision="fp32",
        validate_every=20,
    )
    last = train(tmp_path, settings)[-1]
    assert last["val_accuracy"] > 0.5 > 3 / CONFIG.codebook_size


@pytest.mark.parametrize("muon_rate", [0.0, 0.02])
def test_rates_rise_for_as_many_steps_as_are_asked_for(tmp_path, muon_rate):
    settings = msgspec.structs.replace(SETTINGS, epochs=2, warm_up=3, muon_rate=muon_rate)
    train(tmp_path, settings)  # four steps: the last is the first at the peak
    saved = torch.load(tmp_path / "vab.pt", weights_only=True)
    assert saved["optimizer"]["param_groups"][0]["lr"] == pytest.approx(settings.peak_rate)
    if muon_rate:
        assert saved["muon"]["param_groups"][0]["lr"] == pytest.approx(muon_rate)


@pytest.mark.parametrize(("minutes", "said"), [(None, "the run has 8 steps"), (1, "minutes are")])
def test_a_warm_up_that_the_run_does_not_outlast_is_refused(tmp_path, minutes, said):
    settings = msgspec.structs.replace(SETTINGS, warm_up=100_000)
    with pytest.raises(OptionError, match=f"pretrain warm_up is 100000 and {said}"):
        train(tmp_path, settings, minutes=minutes)
    assert not list(tmp_path.iterdir())


def test_accumulated_passes_are_one_larger_batch(monkeypatch):
    """The gradients of two passes average to those of the clips together."""
    clips = make_clips()
    settings = PretrainSettings(batch=4, dropout=0.0, label_smoothing=0.0, precision="fp32")
    model = untrained()
    passes = [training_batch(clips, CONFIG, settings, i, 0.0) for i in range(2)]
    for batch in passes:
        (masked_loss(model, batch, CONFIG, settings)[0] / 2).backward()
    summed = model.heads.weight.grad.clone()
    model.zero_grad()
    sum(masked_loss(model, batch, CONFIG, settings)[0] / 2 for batch in passes).backward()
    torch.testing.assert_close(summed, model.heads.weight.grad)
    assert num_steps(100, PretrainSettings(batch=5, accumulate=2, epochs=3)) == 30


def test_a_part_of_a_clip_gives_what_it_gives_inside_the_clip():
    """With all attention on the part itself, positions are those of the whole clip."""
    config = tiny_config(num_codebooks=2, codebook_size=11, width=16, layers=2, aligned_visual=True)
    model = VAB(config).eval()
    clips = make_clips(2, config)
    random = np.random.default_rng(3)
    tokens, features, first = random_part(clips.tokens, clips.features, config, 0.4, random)
    assert tokens.shape[2] == 40 and features.shape[1] == 2
    start = first * config.num_token_steps // config.num_frames
    np.testing.assert_array_equal(tokens, clips.tokens[:, :, start : start + 40])
    on = torch.ones(2)
    arguments = (torch.from_numpy(tokens.astype(np.int32)), torch.from_numpy(features), on)
    here, elsewhere = model(*arguments, first), model(*arguments, (first + 1) % 3)
    assert not torch.allclose(here, elsewhere), "positions of the clip are used"
    rows = model._rows(2, 40, first)
    x = model.embed(*arguments) + model.positions[rows]
    bias = model.bias[:, :, rows][..., rows]
    for layer in model.layers:
        x = layer(x, bias, 2)
    expected = model.heads(model.norm(x[:, 2:])).unflatten(2, (2, -1)).transpose(1, 2)
    torch.testing.assert_close(here, expected)


def test_frames_beside_their_tokens_reach_them_and_no_further():
    config = tiny_config(aligned_visual=True)
    beside = VAB(config).visual_beside
    features = torch.zeros(1, config.num_frames, config.visual_dim)
    features[0, 2] = 1.0
    moved = beside(features, config.num_token_steps).abs().sum(2)[0] > 0  # [T]
    per_frame = config.num_token_steps // config.num_frames
    assert moved.tolist() == [1 <= t // per_frame <= 3 for t in range(config.num_token_steps)]


def test_given_codebooks_are_neither_masked_nor_scored():
    config = tiny_config(num_codebooks=2, codebook_size=11, width=16, given_codebooks=1)
    settings = PretrainSettings(batch=4, precision="fp32")
    batch = training_batch(make_clips(config=config), config, settings, 0, 0.0)
    assert set(batch.places[1].tolist()) == {1}
    assert torch.equal(batch.tokens[:, 0].long(), batch.targets[:, 0]), "they are all read"
    model = untrained(config)
    loss, accuracy = masked_loss(model, batch, config, settings)
    other = (batch.targets[:, :1] + 1) % 11
    unscored = msgspec.structs.replace(batch, targets=torch.cat([other, batch.targets[:, 1:]], 1))
    assert torch.equal(masked_loss(model, unscored, config, settings)[0], loss)
    other_given = batch.tokens.clone()
    other_given[:, :1] = other
    read = msgspec.structs.replace(batch, tokens=other_given)
    assert not torch.equal(masked_loss(model, read, config, settings)[0], loss)
    assert 0 <= accuracy <= 1


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest():
    model = VAB(CONFIG)
    both = make_optimizers(model, PretrainSettings(muon_rate=0.02))
    held = {name: {id(p) for g in o.param_groups for p in g["params"]} for name, o in both.items()}
    assert held["muon"] == {id(p) for p in model.layers.parameters() if p.ndim == 2}
    assert held["optimizer"] | held["muon"] == {id(p) for p in model.parameters()}
    assert not held["optimizer"] & held["muon"]
    assert list(make_optimizers(model, PretrainSettings())) == ["optimizer"]


def test_precision_is_what_was_asked_for():
    cpu = torch.device("cpu")
    assert wants_bfloat16("bf16", cpu) and not wants_bfloat16("fp32", cpu)
    assert wants_bfloat16("auto", cpu) in (True, False)
    settings = PretrainSettings(batch=4, precision="bf16")
    batch = training_batch(make_clips(), CONFIG, settings, 0, 0.0)
    model = VAB(CONFIG)
    rough = masked_loss(model, batch, CONFIG, settings)[0].item()
    exact = masked_loss(model, batch, CONFIG, PretrainSettings(batch=4, precision="fp32"))[0].item()
    assert rough == pytest.approx(exact, rel=0.02) and rough != exact


def test_validation_does_not_depend_on_when_it_is_asked():
    model = VAB(CONFIG)
    average = fitting.EMA(model)
    torch.manual_seed(1)
    once = validate(average, make_clips(), CONFIG, SETTINGS)
    torch.manual_seed(2)
    assert validate(average, make_clips(), CONFIG, SETTINGS) == once


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    train(tmp_path, minutes=0.0001)
    wider = tiny_config(num_codebooks=2, codebook_size=11, width=32, layers=2, expert_layers=1)
    with pytest.raises(DataError, match=r"vab\.pt is of another model.*another folder"):
        train(tmp_path, config=wider)


def test_a_checkpoint_that_is_cut_short_is_named(tmp_path):
    train(tmp_path, minutes=0.0001)
    path = tmp_path / "vab.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"vab\.pt cannot be read.*delete it"):
        train(tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    train(tmp_path, minutes=0.0001)
    before = (tmp_path / "vab.pt").read_bytes()

    def full(content, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left.*free some space"):
        train(tmp_path)
    assert (tmp_path / "vab.pt").read_bytes() == before
    assert {path.name for path in tmp_path.glob("*.*")} - {"losses.csv"} == {"vab.pt"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "pretrain batch is 0, expected at least 1"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"validate_every": 0}, "validate_every is 0"),
        ({"mask_mean": 9.0}, "mask_mean is 9.0, expected 0 to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        PretrainSettings(**changes)


@pytest.mark.parametrize("crop_s", [0.0, 2.0, 20.0])
def test_a_crop_that_is_no_part_of_a_clip_is_refused(crop_s, tmp_path):
    settings = msgspec.structs.replace(SETTINGS, crop_s=crop_s)
    with pytest.raises(OptionError, match=r"crop_s is .*less than a clip, 2 s"):
        train(tmp_path, settings)


def test_processes_wait_for_the_first_one_as_long_as_a_stage_takes(monkeypatch):
    joined = {}
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, **options: joined.update(options)
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with distributed.init_distributed():
        assert joined["timeout"].days >= 1


WORKER = """
import sys, json, torch
sys.path[:0] = sys.argv[2:]
torch.set_num_threads(1)
from pathlib import Path
from training import distributed, fitting
from test_pretrain import SETTINGS, make_clips, untrained
from training.pretrain import pretrain
fitting.REPORT_EVERY = 1
with distributed.init_distributed():
    clips = make_clips()
    reports = pretrain(Path(sys.argv[1]), clips, clips, untrained(), SETTINGS, None)
    losses = [losses["loss"] for _, _, losses in reports if losses]
    told = json.dumps([distributed.rank(), distributed.world_size(), losses])
    (Path(sys.argv[1]) / f"{distributed.rank()}.json").write_text(told)
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    """Both see the same mean losses, the first one saves, and training goes on from its file."""
    (tmp_path / "worker.py").write_text(WORKER)
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(tmp_path / "worker.py"), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += [str(here), str(here.parent), str(here.parents[1])]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    (first, world, losses), (second, _, others) = told
    assert (first, second, world) == (0, 1, 2)
    assert losses == others and len(losses) == 4  # 4 epochs of 8 clips, 2 processes of 4 a step
    assert fitting.steps_made(tmp_path / "vab.pt") == 4
