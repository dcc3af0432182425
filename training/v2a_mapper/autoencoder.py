"""The tiny autoencoder of log mels: what the latent diffusion works in (arXiv:2301.12503, 3.2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor, nn
from torch.nn import functional as F

from training.fitting import EMA, cosine_lr, fit, set_lr
from training.representation import load_averaged
from training.v2a_mapper.mel import MEAN, SPREAD
from training.v2a_mapper.pairs import Pairs
from training.v2a_mapper.parts import build_vae
from training.v2a_mapper.settings import check_stage
from vab_rt.errors import OptionError
from vab_rt.output import whole_file, writing

AT_ONCE = 4


class AutoencoderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """kl: weight of the distance of the latents from a standard normal; the loss of a spectrum is
    its mean error in the spread of log mels. frames: of a crop, whole latent columns."""

    batch: int = 16
    frames: int = 128
    peak_rate: float = 2e-3
    weight_decay: float = 1e-3
    kl: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_stage("autoencoder", self, ("batch", "frames"))
        if not self.kl >= 0:
            raise OptionError(f"autoencoder kl is {self.kl}, expected 0 or more")


def train_autoencoder(
    folder: Path,
    pairs: Pairs,
    sizes: dict[str, Any],
    settings: AutoencoderSettings,
    minutes: float,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/vae.pt with the averaged weights."""
    s = settings
    torch.manual_seed(s.seed)
    vae = build_vae(sizes).train()
    set_scale(vae)
    average = EMA(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=s.weight_decay)

    def step(i: int, progress: float) -> dict[str, float]:
        set_lr(optimizer, cosine_lr(progress, s.peak_rate))
        random = np.random.default_rng((s.seed, i))
        log_mels = random_crops(pairs.mels, s.batch, s.frames, random)[:, None]
        posterior = vae.encode(log_mels).latent_dist
        noise = random.standard_normal(posterior.mean.shape, np.float32)
        latents = posterior.mean + posterior.std * torch.from_numpy(noise)
        error = F.l1_loss(vae.decode(latents).sample, log_mels) / SPREAD
        kl = normal_distance(posterior.mean, posterior.logvar)
        optimizer.zero_grad()
        (error + s.kl * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae)
        return {"error": error.item(), "kl": kl.item()}

    parts = {"vae": vae, "average": average, "optimizer": optimizer}
    yield from fit(folder / "vae.pt", parts, step, minutes)


def random_crops(clips: np.ndarray, count: int, length: int, random: np.random.Generator) -> Tensor:
    """Parts of random clips: [N, frames, ...] -> float32 [count, length, ...]."""
    rows = random.integers(len(clips), size=count)
    starts = random.integers(clips.shape[1] - length + 1, size=count)
    parts = [clips[r, t : t + length] for r, t in zip(rows, starts, strict=True)]
    return torch.from_numpy(np.stack(parts).astype(np.float32))


def normal_distance(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL from a standard normal, in nats a number."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


@torch.no_grad()
def set_scale(vae: nn.Module) -> None:
    """Have the first layer take MEAN and SPREAD away, and the last one put them back."""
    first, last = vae.encoder.conv_in, vae.decoder.conv_out
    first.weight /= SPREAD
    first.bias -= MEAN * first.weight.sum((1, 2, 3))
    last.weight *= SPREAD
    last.bias.mul_(SPREAD).add_(MEAN)


def load_autoencoder(path: Path, sizes: dict[str, Any]) -> nn.Module:
    """What `train_autoencoder` left. Raises DataError, ExportError for other sizes."""
    return load_averaged(path, build_vae(sizes))


@torch.inference_mode()
def write_latents(vae: nn.Module, pairs: Pairs, path: Path) -> None:
    """The means of all clips' latents, unscaled, as float16 [N, T, C, M]. Raises OutputError."""
    with whole_file(path, force=True) as beside, writing(path), beside.open("wb") as file:
        for i in range(0, len(pairs), AT_ONCE):
            log_mels = torch.from_numpy(pairs.mels[i : i + AT_ONCE].astype(np.float32))
            mean = vae.encode(log_mels[:, None]).latent_dist.mean  # [B, C, T, M]
            latents = mean.transpose(1, 2).half().numpy()
            if i == 0:
                shape = (len(pairs), *latents.shape[1:])
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(file, header)
            file.write(latents.tobytes())


def scaling_factor(latents: np.ndarray) -> float:
    """What makes latents [N, T, C, M] of unit spread, as the first 500 clips say."""
    return float(1 / latents[:500].astype(np.float32).std())
