"""Train a motion encoder to hear what it sees: the sound of each moment from the frames around it.

The target is the soundtrack itself, its log-mel spectrum and how fast that rises, so that any video
with sound will do; the features are what a linear layer reads both from.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.datasets.rendered import Clips
from training.fitting import EMA, cosine_lr, fit, set_lr, wants_bfloat16
from training.samples import as_floats
from training.visual_encoder import MotionEncoder
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

NUM_MELS = 32
STEPS_PER_FRAME = 2
WINDOW_HOPS = 2
FLOOR = 1e-3
"""The floor of magnitudes: -60 dB of a full-scale sine, below which nothing is heard."""


class MotionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """batch: clips a step; crop_s: seconds of each. at_rises: the share of crops around a moment
    when a sound begins, as these are rare. held: the share of crops of a lower frame rate, whose
    frames repeat. rise_weight: of the error of the rise beside that of the spectrum."""

    batch: int = 48
    crop_s: float = 0.32
    peak_rate: float = 2e-3
    weight_decay: float = 0.05
    at_rises: float = 0.6
    held: float = 0.25
    rise_weight: float = 1.0


class Listener(nn.Module):
    """A motion encoder, and the layer that reads its features."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.motion = MotionEncoder(config)
        self.read = nn.Linear(config.motion_dim, STEPS_PER_FRAME * (NUM_MELS + 1))

    def forward(self, frames: Tensor) -> Tensor:
        """frames uint8 [B, N + 2 * reach, H, W, 3] -> [B, N * steps, mels + 1], the rise last."""
        heard = self.read(10 * self.motion(frames).float())
        return heard.unflatten(2, (STEPS_PER_FRAME, -1)).flatten(1, 2)


def train_motion(
    folder: Path,
    clips: Clips,
    config: ModelConfig,
    minutes: float,
    seed: int,
    settings: MotionSettings,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/motion.pt with the averaged weights.

    The losses are shares of the variance that is left unexplained, of the spectrum and of its rise.
    """
    s, device = settings, distributed.device()
    torch.manual_seed(seed)
    listener = Listener(config).to(device)
    average = EMA(listener)
    optimizer = torch.optim.AdamW(listener.parameters(), weight_decay=s.weight_decay)
    spectra = Spectra(config)
    mean, std = spectra.statistics(clips)
    rises = Rises(clips, config, spectra)
    half = wants_bfloat16("auto", device)

    def step(i: int, progress: float) -> dict[str, Tensor]:
        set_lr(optimizer, cosine_lr(progress, s.peak_rate))
        random = np.random.default_rng((seed, i))
        frames, audio = training_crops(clips, config, s, random, rises)
        targets = ((spectra(audio)[:, 1:-1] - mean) / std).to(device)  # [B, steps, mels + 1]
        with torch.autocast(device.type, torch.bfloat16, half):
            heard = listener(frames.to(device))
        errors = (heard.float() - targets).square().mean((0, 1))  # [mels + 1]
        loss = errors[:-1].mean() + s.rise_weight * errors[-1]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(listener.parameters(), 1.0)
        optimizer.step()
        average.update(listener)
        return {"spectrum": errors[:-1].mean().detach(), "rise": errors[-1].detach()}

    parts = {"listener": listener, "average": average, "optimizer": optimizer}
    yield from fit(folder / "motion.pt", parts, step, minutes)


def motion_weights(averaged: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the motion encoder alone, of a finished stage."""
    prefix = "motion."
    found = {name: x for name, x in averaged.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): x for name, x in found.items()}


class Spectra:
    """Log-mel spectra of sound, STEPS_PER_FRAME in a frame, and the mean rise of each over the one
    before."""

    def __init__(self, config: ModelConfig) -> None:
        self.hop = step_samples(config)
        self.window = torch.hann_window(WINDOW_HOPS * self.hop)
        self.mels = mel_bands(config.sample_rate_hz, WINDOW_HOPS * self.hop)

    def __call__(self, audio: Tensor) -> Tensor:
        """audio float32 [B, S] -> [B, S / hop, mels + 1]"""
        size = len(self.window)
        padded = F.pad(audio, ((size - self.hop) // 2,) * 2)
        frames = padded.unfold(1, size, self.hop) * self.window  # [B, steps, size]
        magnitude = torch.fft.rfft(frames).abs() * (2 / self.window.sum())
        mels = (magnitude.square() @ self.mels.T + FLOOR**2).log()  # [B, steps, mels]
        rise = F.pad(mels.diff(dim=1).clamp(min=0).mean(2), (1, 0))
        return torch.cat([mels, rise[..., None]], 2)

    def statistics(self, clips: Clips, count: int = 200) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [mels + 1] over the first clips."""
        sound = torch.from_numpy(as_floats(clips.audio[:count]))
        spectra = torch.cat([self(part) for part in sound.split(8)]).flatten(0, 1)
        return spectra.mean(0), spectra.std(0) + 1e-3


class Rises:
    """Which frames of a clip a sound rises in; computed once a clip."""

    def __init__(self, clips: Clips, config: ModelConfig, spectra: Spectra) -> None:
        self.clips, self.config, self.spectra = clips, config, spectra
        self.shares: dict[int, NDArray[np.float64]] = {}

    def draw(self, clip: int, random: np.random.Generator) -> int:
        """A frame, by the square of how much the sound rises in it."""
        if clip not in self.shares:
            sound = torch.from_numpy(as_floats(self.clips.audio[clip]))
            rise = self.spectra(sound[None])[0, :, -1].double().square().numpy() + 1e-6  # [steps]
            per_frame = rise.reshape(self.config.num_frames, -1).sum(1)
            self.shares[clip] = per_frame / per_frame.sum()
        return int(random.choice(self.config.num_frames, p=self.shares[clip]))


def mel_bands(sample_rate_hz: int, size: int) -> Tensor:
    """Triangles over the bins of a transform of `size` samples, 50 Hz to half the rate
    [NUM_MELS, bins]; each adds up to 1."""

    def mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return 2595 * np.log10(1 + np.asarray(hz) / 700)

    edges = np.linspace(mel(50.0), mel(sample_rate_hz / 2), NUM_MELS + 2)
    bins = mel(np.arange(size // 2 + 1) * sample_rate_hz / size)
    low, centre, high = (edges[i : i + NUM_MELS, None] for i in range(3))
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    bands = np.clip(np.minimum(rising, falling), 1e-6, None)  # the lowest lie between two bins
    return torch.from_numpy((bands / bands.sum(1, keepdims=True)).astype(np.float32))


def training_crops(
    clips: Clips,
    config: ModelConfig,
    s: MotionSettings,
    random: np.random.Generator,
    rises: Rises,
) -> tuple[Tensor, Tensor]:
    """frames uint8 [B, N + 2 * reach, H, W, 3], mirrored or not, and their sound with a hop before
    and after [B, S + 2 * hop]."""
    c, reach = config, config.motion_reach
    count = round(s.crop_s * c.visual_rate_hz)
    hop = step_samples(c)
    samples = STEPS_PER_FRAME * hop
    frames, sounds = [], []
    for clip in random.integers(len(clips), size=s.batch):
        first = int(random.integers(c.num_frames - count + 1))
        if random.random() < s.at_rises:
            around = rises.draw(int(clip), random) - int(random.integers(count))
            first = min(max(0, around), c.num_frames - count)
        shown = np.arange(first - reach, first + count + reach).clip(0, c.num_frames - 1)
        if random.random() < s.held:
            shown = _at_lower_rate(shown, random)
        part = clips.frames[clip][shown]
        frames.append(part[:, :, ::-1] if random.random() < 0.5 else part)
        span = slice(first * samples, (first + count) * samples + 2 * hop)
        sounds.append(np.pad(clips.audio[clip], hop)[span])
    audio = torch.from_numpy(as_floats(np.stack(sounds)))
    return torch.from_numpy(np.stack([_jittered(part, random) for part in frames])), audio


def _jittered(frames: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Other brightness and contrast, the same in all frames, and noise as video codecs leave it."""
    gain, offset = random.uniform(0.85, 1.15), random.uniform(-12, 12)
    noise = random.integers(-5, 6, size=frames.shape, dtype=np.int8)
    changed = (frames.astype(np.float32) - 128) * np.float32(gain) + np.float32(128 + offset)
    return (changed + noise).clip(0, 255).astype(np.uint8)


def _at_lower_rate(shown: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The same frames as a video of a lower frame rate shows them: some stay for longer."""
    step = random.uniform(1.0, 2.5)
    times = shown - shown[0]
    held = np.floor(np.floor(times / step + 0.5) * step - 1e-9).clip(0, None).astype(np.int64)
    return shown[0] + np.minimum(held, times)


def step_samples(config: ModelConfig) -> int:
    """The samples of a step. Raises OptionError unless whole ones go with a frame."""
    samples = config.sample_rate_hz / config.visual_rate_hz / STEPS_PER_FRAME
    if samples < 1 or samples != round(samples):
        raise OptionError(
            f"model {config.name} has {config.sample_rate_hz} samples and "
            f"{config.visual_rate_hz:g} frames a second, expected {STEPS_PER_FRAME} steps of whole "
            "samples in a frame; set visual_rate_hz so that twice it divides the first, such as 25"
        )
    return round(samples)
