"""Train a small CLIP on frames and their captions, so that features know kind and state, and on the
sound of the clip, so that they know what it is like: captions say large, not how large."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from training import distributed
from training.datasets.rendered import Clips
from training.fitting import EMA, cosine_lr, fit, set_lr, wants_bfloat16
from training.image_encoder import ImageEncoder, build_clip
from training.motion_training import NUM_MELS, Spectra
from training.samples import as_floats
from vab_rt.config import ModelConfig

BATCH = 128
PEAK_RATE = 1e-3


def train_clip(
    folder: Path, clips: Clips, config: ModelConfig, minutes: float, seed: int
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/clip.pt with the averaged weights.

    heard is the share of the variance of timbre, between clips, that a linear layer does not read
    from the features.
    """
    device = distributed.device()
    torch.manual_seed(seed)
    clip = build_clip(config).to(device)
    encoder = ImageEncoder(config, clip.visual).to(device)
    read = nn.Linear(config.image_dim, NUM_MELS).to(device)
    average = EMA(clip)
    optimizer = torch.optim.AdamW(
        [*clip.parameters(), *read.parameters()], betas=(0.9, 0.98), weight_decay=0.05
    )
    captions = CaptionTable(clips, clip.context_length)
    timbres = mean_timbres(clips, config)
    half = wants_bfloat16("auto", device)

    def step(i: int, progress: float) -> dict[str, Tensor]:
        set_lr(optimizer, cosine_lr(progress, PEAK_RATE))
        random = np.random.default_rng((seed, i))
        rows = random.integers(len(clips), size=BATCH)
        times = random.integers(config.num_frames, size=BATCH)
        frames = torch.from_numpy(
            np.stack([clips.frames[r, t] for r, t in zip(rows, times, strict=True)])
        )
        frames = jitter(mirrored(frames, random), random).to(device)
        ids = captions.ids[rows, times]
        different, which = np.unique(ids, return_inverse=True)
        with torch.autocast(device.type, torch.bfloat16, half), attention_for(device):
            text = F.normalize(clip.encode_text(captions.tokens[different].to(device)), dim=-1)
            seen = encoder(frames).float()
        text = text.float()[torch.from_numpy(which).to(device)]
        matching = matching_loss(seen, text, clip.logit_scale.exp(), ids)
        heard = F.mse_loss(read(10 * seen), timbres[rows].to(device))
        optimizer.zero_grad()
        (matching + heard).backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        average.update(clip)
        scale = clip.logit_scale.exp().detach()
        return {"loss": matching.detach(), "heard": heard.detach(), "scale": scale}

    parts = {"clip": clip, "read": read, "average": average, "optimizer": optimizer}
    yield from fit(folder / "clip.pt", parts, step, minutes)


def mean_timbres(clips: Clips, config: ModelConfig) -> Tensor:
    """The log of each clip's mean mel spectrum, without its level; standardised over the clips
    [N, mels]."""
    spectra = Spectra(config)
    powers = []
    for first in range(0, len(clips), 8):
        sound = torch.from_numpy(as_floats(clips.audio[first : first + 8]))
        powers.append(spectra(sound)[..., :NUM_MELS].exp().mean(1))
    timbres = torch.cat(powers).log()
    timbres -= timbres.mean(1, keepdim=True)
    return (timbres - timbres.mean(0)) / (timbres.std(0, correction=0) + 1e-3)


def attention_for(device: torch.device) -> AbstractContextManager[None]:
    """On CPUs attention from its parts, whose backward pass torch 2.14 computes faster."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class CaptionTable:
    """Every caption tokenised once: `tokens` [captions, length], `ids` [N, F] into it."""

    def __init__(self, clips: Clips, context_length: int) -> None:
        texts = sorted({text for row in clips.captions for text in row})
        index = {text: i for i, text in enumerate(texts)}
        self.tokens: Tensor = SimpleTokenizer()(texts, context_length)
        self.ids = np.array([[index[text] for text in row] for row in clips.captions])


def mirrored(frames: Tensor, random: np.random.Generator) -> Tensor:
    """Half of them, left for right: no caption and no sound tells the two apart."""
    turned = torch.from_numpy(random.random(len(frames)) < 0.5)
    return torch.where(turned[:, None, None, None], frames.flip(2), frames)


def jitter(frames: Tensor, random: np.random.Generator) -> Tensor:
    """Small changes of brightness and contrast, and noise as video codecs leave it."""
    count = len(frames)
    gain = torch.from_numpy(random.uniform(0.85, 1.15, (count, 1, 1, 1)).astype(np.float32))
    offset = torch.from_numpy(random.uniform(-12, 12, (count, 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(random.normal(0, 3, frames.shape).astype(np.float32))
    return ((frames.float() - 128) * gain + 128 + offset + noise).clamp(0, 255)


def matching_loss(images: Tensor, texts: Tensor, scale: Tensor, ids: np.ndarray) -> Tensor:
    """Symmetric InfoNCE; frames with the same caption are all right answers for it."""
    logits = scale * images @ texts.T  # [B, B]
    same = torch.from_numpy(ids[:, None] == ids[None]).float().to(logits.device)
    targets = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
