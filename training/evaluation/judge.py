"""The judge: a small log-mel network that names the sound, trained on true audio alone.

It never sees the codec or the model it judges. Every clip it trains on is a new one of the training
split, coloured, masked in noise and partly stripped of phase, so that it listens to the sound and
not to its fidelity. Of two sources it is to hear either.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

from training import foleyworld
from training.fitting import Average, fit, half_cosine, set_rate
from training.representation import load_averaged

N_FFT, HOP, MELS = 1024, 320, 64
BATCH = 16
PEAK_RATE = 2e-3
EMBEDDING = 128


class AudioClassifier(nn.Module):
    """audio [B, S] at 16 kHz -> logits [B, classes]; `embed` gives the layer before [B, 128]."""

    def __init__(self, sample_rate_hz: int = 16_000) -> None:
        super().__init__()
        filters = melscale_fbanks(N_FFT // 2 + 1, 0, sample_rate_hz / 2, MELS, sample_rate_hz)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        widths = (1, 24, 48, 96, EMBEDDING)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2 if i < 2 else (1, 2), padding=1),
                nn.GroupNorm(8, b),
                nn.GELU(),
            )
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.head = nn.Linear(2 * EMBEDDING, len(foleyworld.CLASSES))

    def forward(self, audio: Tensor) -> Tensor:
        return self.head(self.embed(audio))

    def embed(self, audio: Tensor) -> Tensor:
        x = self._log_mel(audio)[:, None]  # [B, 1, frames, mels]
        for block in self.blocks:
            x = block(x)
        x = x.mean(3)  # [B, EMBEDDING, frames / 4]
        return torch.cat([x.mean(2), x.std(2)], 1)

    def _log_mel(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(audio, N_FFT, HOP, window=self.window, return_complex=True)
        mel = spectrum.abs().transpose(1, 2) @ self.filters  # [B, frames, mels]
        log_mel = (mel + 1e-2).log()
        return (log_mel - log_mel.mean((1, 2), keepdim=True)) / 2


def train_classifier(
    path: Path, minutes: float | None, steps: int | None = None, seed: int = 0
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves the averaged weights in `path`."""
    torch.manual_seed(seed)
    model = AudioClassifier()
    average = Average(model, 0.99)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)

    def step(i: int, progress: float) -> dict[str, float]:
        set_rate(optimizer, half_cosine(progress, PEAK_RATE))
        random = np.random.default_rng((seed, 7, i))
        audio, present = random_sounds(BATCH, random)
        logits = model(colour(audio, random))
        shares = present / present.sum(1, keepdim=True)
        loss = F.cross_entropy(logits, shares, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        right = present.gather(1, logits.argmax(1, keepdim=True)).mean()
        return {"loss": loss.item(), "accuracy": right.item()}

    parts = {"classifier": model, "average": average, "optimizer": optimizer}
    yield from fit(path, parts, step, minutes, steps)


def load_classifier(path: Path) -> AudioClassifier:
    """What `train_classifier` left. Raises DataError, ExportError for another architecture's."""
    return load_averaged(path, AudioClassifier())


@torch.inference_mode()
def listen(
    judge: AudioClassifier, sound: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The judge's class probabilities [N, classes] and embeddings [N, D] of sound [N, S]."""
    embeddings = torch.cat([judge.embed(torch.from_numpy(s)[None]) for s in sound])
    probabilities = judge.head(embeddings).softmax(1)
    return probabilities.double().numpy(), embeddings.double().numpy()


def random_sounds(count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Sounds of the training split [B, S], and which classes are in them [B, classes]."""
    split = foleyworld.SPLITS["train"]
    seeds = random.integers(split.start, split.stop, count)
    scenes = [foleyworld.make_scene(int(seed)) for seed in seeds]
    audio = np.stack([scene.audio() for scene in scenes])
    return torch.from_numpy(audio), torch.from_numpy(present_classes(scenes).astype(np.float32))


def present_classes(scenes: list[foleyworld.Scene]) -> NDArray[np.bool_]:
    """[N, classes] of `foleyworld.CLASSES`; one or two of each scene."""
    return np.array([[kind in scene.classes for kind in foleyworld.CLASSES] for scene in scenes])


def colour(audio: Tensor, random: np.random.Generator) -> Tensor:
    """Random spectral envelope, noise, and for half of the batch random phases [B, S]."""
    count = len(audio)
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(audio, N_FFT, HOP, window=window, return_complex=True)
    bins = torch.linspace(0, np.pi, spectrum.shape[1])
    waves = torch.from_numpy(random.normal(0, 0.25, (count, 3, 1)).astype(np.float32))
    orders = torch.arange(1, 4)[None, :, None]
    envelope = (waves * torch.cos(orders * bins)).sum(1).exp()  # [B, bins]
    spectrum = spectrum * envelope[:, :, None]
    turn = torch.from_numpy(random.uniform(0, 2 * np.pi, spectrum.shape).astype(np.float32))
    turned = torch.polar(spectrum.abs(), turn)
    half = torch.from_numpy(random.random(count) < 0.5)[:, None, None]
    coloured = torch.istft(
        torch.where(half, turned, spectrum), N_FFT, HOP, window=window, length=audio.shape[1]
    )
    levels = 10 ** random.uniform(-4, -1.7, (count, 1))
    noise = random.standard_normal(coloured.shape, np.float32) * levels.astype(np.float32)
    return coloured + torch.from_numpy(noise)
