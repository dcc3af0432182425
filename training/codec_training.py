"""Train the spectral codec: codebooks by k-means, then the decoder by its spectra."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

from training.codec import build_codec
from training.data import Clips
from training.fitting import Average, fit, half_cosine, set_rate
from training.spectral import FLOOR, SpectralCodec, Spectrum
from vab_rt.config import ModelConfig

CROP_S = 1.0
BATCH = 16
PEAK_RATE = 1e-3
FIT_CLIPS = 300
HEARD = 2.0  # nepers between the faintest band and the loudest
FFT_SIZES = (256, 512, 1024, 2048)


def train_codec(
    folder: Path, clips: Clips, config: ModelConfig, settings: dict, minutes: float, seed: int
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/codec.pt with the averaged weights."""
    torch.manual_seed(seed)
    codec = build_codec(config, settings)
    if not (folder / "codec.pt").exists():
        codec.fit_codebooks(heard_frames(codec, clips, np.random.default_rng(seed)))
    average = Average(codec)
    optimizer = torch.optim.AdamW(codec.parameters(), betas=(0.8, 0.99), weight_decay=1e-5)
    loss_of = SpectralLoss(config.sample_rate_hz)

    def step(i: int, progress: float) -> dict[str, float]:
        set_rate(optimizer, half_cosine(progress, PEAK_RATE))
        audio = random_crops(clips, config, np.random.default_rng((seed, i)))
        spectrum = codec(audio)
        losses = spectrum_loss(codec, spectrum, audio) | loss_of(codec.render(spectrum), audio)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        average.update(codec)
        return {name: x.item() for name, x in losses.items()}

    parts = {"codec": codec, "average": average, "optimizer": optimizer}
    yield from fit(folder / "codec.pt", parts, step, minutes)


@torch.no_grad()
def heard_frames(codec: SpectralCodec, clips: Clips, random: np.random.Generator) -> Tensor:
    """Frames to fit the codebooks to [N, code_dim]; of silence, which is all alike, a tenth."""
    kept = []
    for row in random.permutation(len(clips))[:FIT_CLIPS]:
        gain = np.float32(10 ** random.uniform(-0.3, 0.1) / 32767)
        latents = codec.latents(torch.from_numpy(clips.audio[row] * gain)[None])[0]
        heard = latents.amax(1) > latents.amin() + HEARD
        kept.append(latents[heard | torch.from_numpy(random.random(len(heard)) < 0.1)])
    return torch.cat(kept)


def random_crops(clips: Clips, config: ModelConfig, random: np.random.Generator) -> Tensor:
    """Crops of random clips at random gains [B, crop samples], a whole number of hops."""
    length = round(CROP_S * config.token_rate_hz) * config.hop_samples
    rows = random.integers(len(clips), size=BATCH)
    starts = random.integers(config.num_samples - length + 1, size=BATCH)
    crops = np.stack([clips.audio[r, s : s + length] for r, s in zip(rows, starts, strict=True)])
    gains = 10 ** random.uniform(-0.3, 0.1, (BATCH, 1))
    return torch.from_numpy((crops / 32767 * gains).astype(np.float32))


def spectrum_loss(codec: SpectralCodec, spectrum: Spectrum, target: Tensor) -> dict[str, Tensor]:
    """Magnitude and frequency against the codec's own transform of the target.

    Frequency: how far each bin's advance is from the true one, weighted by what is heard of it.
    """
    real, imaginary = codec.transform.analyse(target)  # [B, T, bins]
    power = real.square() + imaginary.square()
    log_magnitude = (power + FLOOR**2).log() / 2
    magnitude = F.mse_loss(spectrum.log_magnitude, log_magnitude)  # peaks are few: no median here
    phase = torch.atan2(imaginary, real)
    advance = codec.centre_phase(1) + spectrum.deviation[:, 1:]
    error = advance - (phase[:, 1:] - phase[:, :-1])
    weight = (power[:, 1:] + FLOOR**2) ** 0.25
    frequency = ((1 - error.cos()) * weight).sum() / weight.sum()
    return {"magnitude": magnitude, "frequency": frequency}


class SpectralLoss:
    """Log-mel L1 and spectral convergence at several window lengths.

    Convergence is normalised over the batch: per sample it explodes on near-silent crops and
    drives the output to zero. There is no waveform term: the tokens do not hold the phase.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self.windows = {n: torch.hann_window(n) for n in FFT_SIZES}
        self.filters = {
            n: melscale_fbanks(
                n // 2 + 1, 0.0, sample_rate_hz / 2, min(80, n // 8), sample_rate_hz, norm="slaney"
            )
            for n in FFT_SIZES
        }

    def __call__(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        mel = convergence = output.new_zeros(())
        for n in FFT_SIZES:
            a, b = self._magnitude(output, n), self._magnitude(target, n)
            convergence = convergence + (a - b).norm() / b.norm().clamp(min=1e-3)
            log_a, log_b = ((x @ self.filters[n] + 1e-3).log() for x in (a, b))
            mel = mel + F.l1_loss(log_a, log_b)
        return {"mel": 2 * mel / len(FFT_SIZES), "convergence": convergence / len(FFT_SIZES)}

    def _magnitude(self, audio: Tensor, n: int) -> Tensor:  # [B, S] -> [B, frames, bins]
        spectrum = torch.stft(audio, n, n // 4, window=self.windows[n], return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt().transpose(1, 2)
