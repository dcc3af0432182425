"""The ceilings: the work of each model is what torch counts, and what its weights weigh."""

import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from checkpoints import tiny_config
from tiny_bundle import folded_flops
from torch import nn

from bench.peers.autoregressive import Autoregressive
from bench.peers.foleygen import FoleyGen, num_columns
from bench.roofline import (
    Roofline,
    Work,
    autoregressive_work,
    backbone_flops,
    backbone_weights,
    backbone_work,
    measure_roofline,
)
from bench.torch_loop import flops_of
from training.configs import read_recipe
from training.model import VAB
from vab_rt.options import TokenOptions

CONFIGS = {
    "plain": tiny_config(),
    "frames beside": tiny_config(aligned_visual=True),
    "coarse to fine": tiny_config(given_codebooks=1),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_flops_of_a_pass_are_those_that_torch_counts(name, batch):
    c = CONFIGS[name]
    tokens = torch.zeros(batch, c.num_codebooks, c.num_token_steps, dtype=torch.int32)
    features = torch.zeros(batch, c.num_frames, c.visual_dim)
    counted = flops_of(VAB(c), tokens, features, torch.ones(batch))
    assert backbone_flops(c, batch) == counted - folded_flops(c)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_pass_reads_every_matrix(name):
    vab = VAB(CONFIGS[name])
    matrices = (
        part
        for part in vab.modules()
        if isinstance(part, nn.Linear | nn.Conv1d) and part is not vab.audio_in  # folded into codes
    )
    assert backbone_weights(CONFIGS[name]) == sum(part.weight.numel() for part in matrices)


def test_flops_of_the_autoregressive_loop_are_those_that_torch_counts():
    c = tiny_config(clip_s=0.4, visual_rate_hz=5.0)
    way = Autoregressive(FoleyGen(c).eval(), TokenOptions())
    counted = flops_of(lambda x: way.tokens(x, 0), torch.zeros(1, c.num_frames, c.visual_dim))
    # What the mask hides among the frames is computed, and no part of the work.
    hidden = c.num_frames * (c.num_frames - 1) // 2
    hidden_flops = 2 * 2 * 2 * c.layers * hidden * c.width
    assert counted == autoregressive_work(c, 1).flops + hidden_flops


def test_the_autoregressive_loop_reads_its_weights_at_every_step():
    c = tiny_config(clip_s=0.4, visual_rate_hz=5.0)
    model = FoleyGen(c)
    at_every_step = sum(
        part.weight.numel()
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name != "visual_in"
    )
    positions = c.num_frames + num_columns(c)
    cached = 2 * c.layers * c.width * 2 * positions * (positions + 1) // 2
    expected = 4 * (num_columns(c) * at_every_step + cached)
    assert autoregressive_work(c, 1).size_bytes == expected
    assert autoregressive_work(c, 1, number_bytes=2).size_bytes == expected // 2


def test_at_the_size_of_the_paper_parallel_decoding_does_many_times_the_arithmetic():
    c = read_recipe("vab-encodec").model
    parallel, one_by_one = backbone_work(c, 2).times(16), autoregressive_work(c, 1)
    assert 15 < parallel.flops / one_by_one.flops < 20
    assert one_by_one.size_bytes / parallel.size_bytes > 10


def test_work_adds_up():
    assert Work(2, 3) + Work(5, 7) == Work(7, 10)
    assert Work(2, 3).times(4) == Work(8, 12)


def test_the_least_time_is_that_of_the_larger_ceiling():
    roofline = Roofline(flops_per_s=100.0, bytes_per_s=10.0)
    for size_bytes, seconds in ((10, 2), (50, 5)):
        assert roofline.seconds(200, size_bytes) == seconds
        assert roofline.least_ms(Work(200, size_bytes)) == 1000 * seconds


def test_peaks_are_of_this_world():
    found = measure_roofline(size=256, copied_bytes=10_000_000)
    assert 1e8 < found.flops_per_s < 1e14
    assert 1e8 < found.bytes_per_s < 1e13
