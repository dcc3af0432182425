"""A tiny CLAP: sounds and texts in one space, by contrast (arXiv:2211.06687).

It is trained apart from the CLIP of the frames, from weights and with words of its own, so that
nothing ties the two spaces together: the gap that the mapper is to bridge.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import foleyworld
from training.fitting import EMA, cosine_lr, fit, set_lr, wants_bfloat16
from training.representation import load_averaged
from training.v2a_mapper.mel import standardised
from training.v2a_mapper.pairs import Pairs
from training.v2a_mapper.settings import check_stage
from training.v2a_mapper.texts import ALL_DETAILS, PAD, sound_text, tokenise, vocabulary
from vab_rt.errors import OptionError

WIDTHS = (1, 24, 48, 96, 128)
TEXT_WIDTH = 128
FIRST_SCALE, MAX_SCALE = 1 / 0.07, 100.0
AT_ONCE = 50


class ClapSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """stripe: mel bands and twice as many frames, of 20 ms, that are blanked, at most."""

    batch: int = 64
    peak_rate: float = 2e-3
    weight_decay: float = 1e-2
    stripe: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        check_stage("clap", self, ("batch",))
        if self.stripe < 0:
            raise OptionError(f"clap stripe is {self.stripe}, expected 0 or more")


class TinyClap(nn.Module):
    """log mels [B, frames, mels] and text ids [B, words] -> unit vectors [B, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2 if i < 2 else (1, 2), padding=1),
                    nn.GroupNorm(8, b),
                    nn.GELU(),
                )
                for i, (a, b) in enumerate(itertools.pairwise(WIDTHS))
            ]
        )
        self.audio_projection = projection(2 * WIDTHS[-1], dim)
        self.words = nn.Embedding(len(vocabulary()) + 2, TEXT_WIDTH, padding_idx=PAD)
        self.text_projection = projection(TEXT_WIDTH, dim)
        self.log_scale_a, self.log_scale_t = (
            nn.Parameter(torch.tensor(FIRST_SCALE).log()) for _ in range(2)
        )

    def audio(self, log_mels: Tensor) -> Tensor:
        x = F.avg_pool2d(standardised(log_mels)[:, None], (2, 1))  # [B, 1, frames / 2, mels]
        x = self.blocks(x).float().mean(3)  # [B, width, frames / 8]
        return F.normalize(self.audio_projection(torch.cat([x.mean(2), x.std(2)], 1)), dim=1)

    def text(self, ids: Tensor) -> Tensor:
        """A bag of words: the start of the text is one of them, so "" has a place too."""
        counts = (ids != PAD).sum(1, keepdim=True)
        return F.normalize(self.text_projection(self.words(ids).sum(1) / counts), dim=1)


def projection(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, dim))


def train_clap(
    folder: Path, pairs: Pairs, dim: int, settings: ClapSettings, minutes: float
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/clap.pt with the averaged weights."""
    s, half = settings, wants_bfloat16("auto", torch.device("cpu"))
    torch.manual_seed(s.seed)
    clap = TinyClap(dim)
    average = EMA(clap)
    optimizer = torch.optim.AdamW(clap.parameters(), weight_decay=s.weight_decay)
    texts = TextTable(pairs)

    def step(i: int, progress: float) -> dict[str, float]:
        set_lr(optimizer, cosine_lr(progress, s.peak_rate))
        random = np.random.default_rng((s.seed, i))
        rows = random.integers(len(pairs), size=s.batch)
        log_mels = torch.from_numpy(pairs.mels[np.sort(rows)].astype(np.float32))
        ids, same = texts.batch(np.sort(rows), random)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            sound = clap.audio(striped(log_mels, s.stripe, random))
        loss, found = contrast(sound.float(), clap.text(ids), clap, same)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clap.parameters(), 1.0)
        optimizer.step()
        average.update(clap)
        return {"loss": loss.item(), "found": found.item()}

    parts = {"clap": clap, "average": average, "optimizer": optimizer}
    yield from fit(folder / "clap.pt", parts, step, minutes)


class TextTable:
    """The texts of all clips, tokenised once for every choice of details."""

    def __init__(self, pairs: Pairs) -> None:
        scenes = [foleyworld.make_scene(seed) for seed in pairs.seeds]
        self.tokens = []  # by choice: [N, words]
        for choice in range(2 ** len(ALL_DETAILS)):
            details = [name for i, name in enumerate(ALL_DETAILS) if choice >> i & 1]
            self.tokens.append(tokenise([sound_text(scene, details) for scene in scenes]))

    def batch(self, rows: np.ndarray, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Ids [B, words] of clips, all with the same kinds of details, and which say the same
        [B, B]."""
        ids = self.tokens[int(random.integers(len(self.tokens)))][rows]
        return ids, (ids[:, None] == ids[None]).all(2)


def striped(log_mels: Tensor, most: int, random: np.random.Generator) -> Tensor:
    """A stripe over time and one over frequency are silenced in each clip (arXiv:1904.08779)."""
    _, frames, mels = log_mels.shape
    for clip in log_mels:
        width, length = random.integers(most + 1), 4 * random.integers(most + 1)
        low, start = random.integers(mels - width + 1), random.integers(frames - length + 1)
        quiet = clip.min()
        clip[:, low : low + width] = quiet
        clip[start : start + length] = quiet
    return log_mels


def contrast(sound: Tensor, text: Tensor, clap: TinyClap, same: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of unit vectors [B, dim] under two scales, and the share of sounds whose
    text is found; clips with the same text are right answers for it."""
    scale_a, scale_t = (x.exp().clamp(max=MAX_SCALE) for x in (clap.log_scale_a, clap.log_scale_t))
    targets = same.float() / same.sum(1, keepdim=True)
    likeness = sound @ text.T  # [B, B]
    loss = F.cross_entropy(scale_a * likeness, targets)
    loss = loss + F.cross_entropy(scale_t * likeness.T, targets)
    best = likeness.argmax(1, keepdim=True)
    return loss / 2, same.gather(1, best).float().mean()


def load_clap(path: Path, dim: int) -> TinyClap:
    """What `train_clap` left. Raises DataError, ExportError for another width's."""
    return load_averaged(path, TinyClap(dim))


@torch.inference_mode()
def sound_vectors(clap: TinyClap, log_mels: np.ndarray) -> Tensor:
    """Unit vectors [N, dim] of log mels [N, frames, mels]."""
    parts = [
        clap.audio(torch.from_numpy(log_mels[i : i + AT_ONCE].astype(np.float32)))
        for i in range(0, len(log_mels), AT_ONCE)
    ]
    return torch.cat(parts)


@torch.inference_mode()
def text_vectors(clap: TinyClap, texts: list[str]) -> Tensor:
    """Unit vectors [N, dim]."""
    return clap.text(tokenise(texts))
