"""The classifier that names sounds: a small log-mel network, trained on true audio alone.

It never sees a codec or a model. Every clip it trains on is a new one of the training split,
coloured, masked in noise and, for half of them, stripped of its phases and roughened in its
magnitudes, as any lossy copy may be, so that it listens to the sound and not to its fidelity.
Half of its clips have two sources, and each class is a question of its own: of two it is to hear
both. Its weights are kept beside this file; `python -m training.evaluate classifier` trains others.
"""

import datetime
import itertools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

from training import foleyworld
from training.checkpoint import check_weights
from training.command import report
from training.evaluation.measures import agreement
from training.fitting import EMA, cosine_lr, fit, set_lr
from training.representation import load_averaged
from vab_rt.errors import DataError
from vab_rt.output import whole_file, writing

KEPT = Path(__file__).with_name("foleyworld-classifier.npz")
N_FFT, HOP, MELS = 1024, 320, 64
BATCH, STEPS = 16, 500
FITTED, RIDGE = 1600, 1e-5
PEAK_RATE = 2e-3
EMBEDDING = 128
PROVENANCE = "provenance"


class AudioClassifier(nn.Module):
    """audio [B, S] at 16 kHz -> logits [B, classes], one question a class; `embed` gives the layer
    before [B, 2 EMBEDDING]."""

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
    path: Path, steps: int = STEPS, seed: int = 0
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves a checkpoint in `path`, from which it goes on."""
    torch.manual_seed(seed)
    model = AudioClassifier()
    average = EMA(model, 0.99)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)

    def step(i: int, progress: float) -> dict[str, float]:
        set_lr(optimizer, cosine_lr(progress, PEAK_RATE))
        random = np.random.default_rng((seed, 7, i))
        audio, present = random_sounds(BATCH, random)
        logits = model(colour(audio, random))
        loss = F.binary_cross_entropy_with_logits(logits, present)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        right = ((logits > 0) == (present > 0)).all(1).float().mean()
        return {"loss": loss.item(), "all_right": right.item()}

    parts = {"classifier": model, "average": average, "optimizer": optimizer}
    yield from fit(path, parts, step, minutes=None, steps=steps)


def fit_last_layer(classifier: AudioClassifier, seed: int = 0) -> None:
    """Fit the last layer anew, to the end, to FITTED sounds of which half are coloured: a convex
    problem, for which far fewer steps of the network's training are enough."""
    random = np.random.default_rng((seed, 8))
    embeddings, present = [], []
    for _ in range(max(1, FITTED // BATCH)):
        audio, there = random_sounds(BATCH, random)
        audio[: BATCH // 2] = colour(audio[: BATCH // 2], random)
        with torch.inference_mode():
            embeddings.append(classifier.embed(audio))
        present.append(there)
    weight, bias = logistic_regression(torch.cat(embeddings).clone(), torch.cat(present))
    with torch.no_grad():
        classifier.head.weight.copy_(weight)
        classifier.head.bias.copy_(bias)


def logistic_regression(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [C, D] and biases [C] of a question for each column of targets [N, C], of inputs
    [N, D]."""
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-4
    layer = nn.Linear(inputs.shape[1], targets.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, -2.0)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = layer((inputs - mean) / spread)
        found = F.binary_cross_entropy_with_logits(logits, targets)
        found = found + RIDGE * (layer.weight**2).sum()
        found.backward()
        return found

    optimizer.step(loss)
    weight = layer.weight.detach() / spread
    return weight, layer.bias.detach() - weight @ mean


def keep_classifier(path: Path, weights: dict[str, Tensor], provenance: dict[str, str]) -> None:
    """Weights as float16 in an .npz without pickles. Raises OutputError."""
    arrays = {name: weight.half().numpy() for name, weight in weights.items()}
    arrays[PROVENANCE] = np.array(json.dumps(provenance))
    with whole_file(path, force=True) as part, writing(path), part.open("wb") as file:
        np.savez(file, **arrays)


def keep_trained(checkpoint: Path, path: Path, provenance: dict[str, str]) -> None:
    """The averaged weights that `train_classifier` left, with their last layer fitted anew, as
    `load_classifier` reads them."""
    classifier = load_averaged(checkpoint, AudioClassifier())
    fit_last_layer(classifier)
    keep_classifier(path, classifier.state_dict(), provenance)


def load_classifier(path: Path = KEPT) -> AudioClassifier:
    """What `keep_classifier` wrote. Raises DataError, ExportError for another architecture's."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            weights = {name: torch.from_numpy(kept[name]) for name in kept if name != PROVENANCE}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected the weights of a classifier; train one "
            f"with python -m training.evaluate classifier --out {path}"
        ) from error
    classifier = AudioClassifier()
    weights = {name: weight.float() for name, weight in weights.items()}
    check_weights(str(path), weights, classifier.state_dict())
    classifier.load_state_dict(weights)
    return classifier.eval()


@torch.inference_mode()
def classify(
    classifier: AudioClassifier, sound: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The classifier's logits [N, classes] and embeddings [N, D] of sound [N, S]."""
    embeddings = torch.cat([classifier.embed(torch.from_numpy(s)[None]) for s in sound])
    return classifier.head(embeddings).double().numpy(), embeddings.double().numpy()


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def classifier_result(classifier: AudioClassifier, seeds: list[int]) -> dict:
    """What it makes of true sound: class_agreement and both_sources as of a model; all_right where
    it names all that is there and no more; false_alarms, its share of yes to what is not there."""
    scenes = [foleyworld.make_scene(seed) for seed in seeds]
    present = present_classes(scenes)
    logits = np.concatenate([classify(classifier, s.audio()[None])[0] for s in scenes])
    named = logits >= 0
    pairs = present.sum(1) == 2
    both = (named | ~present)[pairs].all(1)
    return {
        "clips": len(seeds),
        "pair_clips": int(pairs.sum()),
        "class_agreement": round(float(agreement(logits, present).mean()), 4),
        "all_right": round(float((named == present).all(1).mean()), 4),
        "both_sources": round(float(both.mean()), 4) if len(both) else None,
        "false_alarms": round(float(named[~present].mean()), 4),
    }


def random_sounds(count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Sounds of the training split [B, S], and which classes are in them [B, classes]; every other
    clip has two sources."""
    split = foleyworld.SPLITS["train"]
    seeds = random.integers(split.start, split.stop, count)
    scenes = [
        foleyworld.make_scene(int(seed), num_sources=2 if i % 2 else None)
        for i, seed in enumerate(seeds)
    ]
    audio = np.stack([scene.audio() for scene in scenes])
    return torch.from_numpy(audio), torch.from_numpy(present_classes(scenes).astype(np.float32))


def present_classes(scenes: list[foleyworld.Scene]) -> NDArray[np.bool_]:
    """[N, classes] of `foleyworld.CLASSES`; one or two of each scene."""
    return np.array([[kind in scene.classes for kind in foleyworld.CLASSES] for scene in scenes])


def colour(audio: Tensor, random: np.random.Generator) -> Tensor:
    """Random spectral envelope and noise; half of the batch is made rough too [B, S]."""
    count, samples = audio.shape
    spectrum = torch.fft.rfft(audio)  # of the whole clip
    bins = torch.linspace(0, np.pi, spectrum.shape[1])
    waves = torch.from_numpy(random.normal(0, 0.25, (count, 3, 1)).astype(np.float32))
    orders = torch.arange(1, 4)[None, :, None]
    envelope = (waves * torch.cos(orders * bins)).sum(1).exp()  # [B, bins]
    coloured = torch.fft.irfft(spectrum * envelope, samples)
    half = torch.from_numpy(random.permutation(count)[: count // 2])
    coloured[half] = roughen(coloured[half], random)
    levels = 10 ** random.uniform(-4, -1.7, (count, 1))
    noise = random.standard_normal(coloured.shape, np.float32) * levels.astype(np.float32)
    return coloured + torch.from_numpy(noise)


def roughen(audio: Tensor, random: np.random.Generator) -> Tensor:
    """Random phases, and magnitudes off by up to about 6 dB."""
    window = torch.hann_window(N_FFT)
    magnitude = torch.stft(audio, N_FFT, HOP, window=window, return_complex=True).abs()
    turn = torch.from_numpy(random.random(magnitude.shape, np.float32)) * (2 * np.pi)
    gain = torch.from_numpy(random.standard_normal(magnitude.shape, np.float32))
    spread = torch.from_numpy(random.uniform(0, 0.5, (len(audio), 1, 1)).astype(np.float32))
    spectrum = torch.polar(magnitude * (spread * gain).exp(), turn)
    return torch.istft(spectrum, N_FFT, HOP, window=window, length=audio.shape[1])


def trained_classifier(out: Path, steps: int, clips: int) -> dict:
    """Train a classifier into `out`, and what it makes of true sound of seeds that it has not seen.

    Beside it lies OUT.pt, from which an interrupted training goes on.
    """
    checkpoint = out.with_suffix(".pt")
    report("classifier", train_classifier(checkpoint, steps))
    provenance = {
        "trained_with": f"python -m training.evaluate classifier --steps {steps}",
        "trained_on": f"true sound of the training split of FoleyWorld {foleyworld.VERSION}",
        "date": datetime.date.today().isoformat(),
    }
    keep_trained(checkpoint, out, provenance)
    seeds = foleyworld.clip_seeds("test", 0, clips)
    return classifier_result(load_classifier(out), seeds) | {"classifier": str(out)} | provenance
