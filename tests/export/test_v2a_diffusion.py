"""The runtime's diffusion of latents against the scheduler of diffusers."""

import numpy as np
import pytest
import torch
from v2a_checkpoints import SCHEDULER, tiny_v2a_config, write_tiny_v2a

from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from training.v2a_mapper.engines import open_system
from vab_rt.v2a_mapper.config import LatentOptions
from vab_rt.v2a_mapper.diffusion import denoise, latent_levels, scaled_linear_alphas
from vab_rt.windows import Seen, cut_windows

DDIMScheduler = pytest.importorskip("diffusers", reason="pip install diffusers").DDIMScheduler

PARITY = 1e-5
LINEAR = scaled_linear_alphas(1000, 0.0015, 0.0195)
START = np.random.default_rng(0).standard_normal((1, 8, 25, 16)).astype(np.float32)


def network(scale):
    """Stands for one, the same in NumPy and torch."""
    return lambda latent, timestep: scale * latent * (1 + timestep / 1000) - 0.1


def assert_near(found, expected):
    assert np.abs(found - expected.numpy()).max() < PARITY * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("steps", [2, 7, 10, 200])
def test_latents_are_those_of_the_scheduler_of_diffusers(steps):
    scheduler = DDIMScheduler(**SCHEDULER)
    np.testing.assert_allclose(LINEAR, scheduler.alphas_cumprod, rtol=1e-4)
    scheduler.set_timesteps(steps)
    predict, latent = network(0.7), torch.from_numpy(START)
    levels = latent_levels(LINEAR, steps, 1)
    assert [level.timestep for level in levels] == scheduler.timesteps.tolist()
    ours = denoise(predict, "noise", START, levels)
    for (_, found), timestep in zip(ours, scheduler.timesteps, strict=True):
        latent = scheduler.step(predict(latent, int(timestep)), timestep, latent).prev_sample
        assert_near(found, latent)


def test_windows_render_what_they_share_alike(tmp_path):
    """The columns carried over make the sound on both sides of a join nearly one: networks that
    see all of a window, as these do, differ by what lies outside the shared part."""
    config, options = tiny_v2a_config(clip_s=4.0), LatentOptions(steps=4)
    system = open_system(read_v2a_checkpoint(write_tiny_v2a(tmp_path / "c.pt", config)))
    features = np.random.default_rng(5).standard_normal((20, 24)).astype(np.float32)
    stream = (Seen(x, 9.0 if i == 19 else None) for i, x in enumerate(features))
    windows = list(cut_windows(stream, config))
    shared = config.num_overlap_hops * config.hop_samples
    middle = slice(shared // 2, shared // 2 + config.hop_samples)  # where they are joined

    def sound(window, state):
        *_, (_, state) = system.decode(window, state, options)
        return system.render(state)[0], state

    before, state = sound(windows[0], None)
    for window in windows[1:]:
        (after, following), (alone, _) = sound(window, state), sound(window, None)
        old, new, anew = (audio[middle] for audio in (before[-shared:], after, alone))
        assert np.corrcoef(old, new)[0, 1] > 0.95
        assert np.corrcoef(old, anew)[0, 1] < 0.9
        before, state = after, following
