"""The spectral codec that learns its latents: how it begins, learns and exports."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import onnxruntime as ort
from checkpoints import tiny_config

from export.modules import CodecEncoder
from export.onnx_graphs import save, trace
from training.codec_training import train_codec
from training.codecs.codebooks import quantise
from training.codecs.codec import build_codec
from training.codecs.learned import power_loss
from training.codecs.recordings import Recordings
from training.codecs.settings import read_training
from vab_rt.contract import contract_of
from vab_rt.errors import OptionError

SIZES = {"code_dim": 24, "num_codebooks": 2, "codebook_size": 16}
CONFIG = tiny_config(**SIZES)
FLOORS = {"floor": 1e-3, "energy_floor": 2e-4, "masked": 1e-6, "masked_envelope": 1e-4}
SETTINGS = {
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1, **FLOORS,
}  # fmt: skip
QUICK = {
    "batch": 2, "crop_s": 0.3, "sizes": [512], "bands": 16, "fit_clips": 6, "energies": 2.0,
    "commitment": 0.5, "encoder_share": 0.1, "spectra_floor": 1e-4, "peak_rate": 3e-3,
}  # fmt: skip


@pytest.fixture(params=[1, 2], ids=["a frame a token", "two"])
def codec(request):
    """Tokens of one frame, and of two."""
    torch.manual_seed(0)
    config = tiny_config(**SIZES, hop_samples=320 * request.param)
    codec = build_codec(config, SETTINGS | {"frames_per_token": request.param}).eval()
    codec.config = config
    return codec


def noises(count: int, samples: int = 8_320) -> torch.Tensor:
    """Of many levels, down to what 16 bits hardly hold, each with a tone of its own."""
    random = torch.Generator().manual_seed(1)
    times = torch.arange(samples) / 16_000
    levels = torch.logspace(-4, -0.7, count)[:, None]
    tones = torch.sin(2000 * torch.arange(1, count + 1)[:, None] * times)
    return levels * (0.3 * torch.randn(count, samples, generator=random) + tones)


def test_it_begins_with_principal_components_and_what_undoes_them(codec):
    points = codec.points(noises(8)).flatten(0, 1)  # [N, frames * 288]
    list(codec.fit(points))
    latents = codec.latents(noises(8)).flatten(0, 1)  # [N, 24]
    left = points - (latents @ codec.up + codec.mean)
    assert points.shape[1] == 288 * codec.settings.frames_per_token
    assert left.square().mean() < 0.05 * (points - points.mean(0)).square().mean()
    between = latents.T @ latents / len(latents)
    assert (between - between.diag().diag()).abs().max() < 1e-2 * between.max()
    codes = codec.quantizer.vq.layers[0].codebook
    assert (
        torch.cdist(latents, codes).amin(1).square().mean() < 0.5 * latents.square().sum(1).mean()
    )


def test_codebooks_that_a_clip_does_not_keep_add_nothing_to_it(codec):
    list(codec.fit(codec.points(noises(8)).flatten(0, 1)))
    latents, none = codec.latents(noises(2)), torch.Generator()
    kept = quantise(codec.quantizer, latents, none, 0.1, torch.tensor([1, 2]))[0]
    tokens = codec.encode(noises(2)).long()
    for clip, count in enumerate((1, 2)):
        expected = codec.dequantise(tokens[clip : clip + 1, :count])
        torch.testing.assert_close(kept[clip : clip + 1], expected)


def test_levels_learn_the_mean_power_not_the_mean_logarithm():
    logs = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0)).square().sum(1).log()
    tried = torch.linspace(-0.5, 1.0, 151)
    best = tried[torch.stack([power_loss(x / 2, logs / 2) for x in tried]).argmin()]
    mean_power, mean_log = logs.exp().mean().log(), logs.mean()
    assert abs(best - mean_power) < 0.15 < mean_power - mean_log


def test_it_learns_and_a_stopped_run_goes_on(tmp_path):
    audio = (noises(6).numpy() * 32767).round().clip(-32767, 32767).astype(np.int16)

    def weights_after(folder, *budgets: int) -> dict:
        for steps in budgets:
            training = read_training("spectral", QUICK | {"steps": steps})
            list(train_codec(folder, Recordings(audio), CONFIG, SETTINGS, 1.0, 3, training))
        return torch.load(folder / "codec.pt", weights_only=True)

    saved = weights_after(tmp_path, 3, 8)
    assert saved["step"] == 8
    assert [group.get("share", 1) for group in saved["optimizer"]["param_groups"]] == [1, 0.1]
    assert saved["codec"]["encoder.4.weight"].abs().max() > 0


def test_its_graph_hears_the_quiet_as_torch_does(codec, tmp_path):
    """Constants of 1e-8 that are added would be left out of a graph."""
    list(codec.fit(codec.points(noises(8)).flatten(0, 1)))
    save(
        trace(CodecEncoder(codec), contract_of(codec.config)["codec_encoder"]),
        tmp_path / "graph.onnx",
    )
    audio = noises(6, codec.config.num_samples)
    audio[:, 16_000:] = 0
    session = ort.InferenceSession(tmp_path / "graph.onnx")
    (found,) = session.run(None, {"audio": audio.numpy()})
    assert (found == codec.encode(audio).numpy()).mean() > 0.995


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"floor": 1e-4}, "floor is 0.0001"),  # a graph cannot hold it
        ({"energy_floor": 1e-4}, "energy_floor is 0.0001"),
        ({"frames_per_token": 3}, "frames_per_token is 3 .*divides hop_samples, 320"),
        ({"frames_per_token": 2, "encoder_width": 0}, "or with an encoder_width a number"),
        ({"upper": True, "frames_per_token": 320}, "upper true, .*divides hop_samples, 320"),
        ({"upper": True, "frames_per_token": 80}, "number that, 8 times where upper is true"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(OptionError, match=named):
        build_codec(CONFIG, SETTINGS | changes)


def test_a_latent_has_no_more_numbers_than_there_are_bands():
    with pytest.raises(OptionError, match="code_dim is 289, expected at most 288"):
        build_codec(tiny_config(code_dim=289), SETTINGS)
