"""Train a small CLIP on frames and their captions, so that features know kind and state."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from training import ranks
from training.datasets.rendered import Clips
from training.fitting import Average, fit, half_cosine, set_rate
from training.image_encoder import ImageEncoder, build_clip
from training.pretrain import wants_bfloat16
from vab_rt.config import ModelConfig

BATCH = 128
PEAK_RATE = 1e-3


def train_clip(
    folder: Path, clips: Clips, config: ModelConfig, minutes: float, seed: int
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/clip.pt with the averaged weights."""
    device = ranks.device()
    torch.manual_seed(seed)
    clip = build_clip(config).to(device)
    encoder = ImageEncoder(config, clip.visual).to(device)
    average = Average(clip)
    optimizer = torch.optim.AdamW(clip.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    captions = CaptionTable(clips, clip.context_length)
    half = wants_bfloat16("auto", device)

    def step(i: int, progress: float) -> dict[str, Tensor]:
        set_rate(optimizer, half_cosine(progress, PEAK_RATE))
        random = np.random.default_rng((seed, i))
        rows = random.integers(len(clips), size=BATCH)
        times = random.integers(config.num_frames, size=BATCH)
        frames = torch.from_numpy(
            np.stack([clips.frames[r, t] for r, t in zip(rows, times, strict=True)])
        )
        ids = captions.ids[rows, times]
        with torch.autocast(device.type, torch.bfloat16, half), attention_for(device):
            text = F.normalize(clip.encode_text(captions.tokens[ids].to(device)), dim=-1)
            seen = encoder(jitter(frames, random).to(device))
        loss = matching_loss(seen.float(), text.float(), clip.logit_scale.exp(), ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        average.update(clip)
        return {"loss": loss.detach(), "scale": clip.logit_scale.exp().detach()}

    parts = {"clip": clip, "average": average, "optimizer": optimizer}
    yield from fit(folder / "clip.pt", parts, step, minutes)


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
    wanted = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
