"""Denoising: how much noise is left at each step, and the loop around a model given as a function.

DDIM (Song et al. 2021, arXiv:2010.02502, equation 12). "alpha" is the share of signal that is left:
what the model sees is sqrt(alpha) * original + sqrt(1 - alpha) * noise.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Latent = npt.NDArray[np.float32]
Alphas = npt.NDArray[np.float64]
Predict = Callable[[Latent, int], Latent]
"""A noisy latent and its time step -> the noise in it, or the original."""

COSINE_OFFSET = 0.008
MAX_BETA = 0.999


class Level(NamedTuple):
    """One step: the time that the model is told, the alpha of what it is given, and the weights of
    original, noise and fresh noise in what it is given next."""

    timestep: int
    alpha: float
    original: float
    noise: float
    fresh: float


def denoise(
    predict: Predict,
    predicts: Literal["noise", "original"],
    start: Latent,
    levels: list[Level],
    *,
    fresh: Callable[[int], Latent] | None = None,
    known: Latent | None = None,
) -> Iterator[tuple[int, Latent]]:
    """Take the noise out of `start`, a standard normal; yields (step, latent), clean in the last.

    fresh(step): standard normal of the same shape, for levels that add some. known [B, C, t, M]:
    the first t columns of the result, as in the window before; the model sees them as noisy as the
    others, so that those follow on from them. Every array yielded is a new one.
    """
    latent = start
    for step, level in enumerate(levels):
        latent = _with_known(latent, known, start, level.alpha)
        output = predict(latent, level.timestep)
        signal, spread = _shares(level.alpha)
        original: Latent = output
        noise: Latent = output
        if predicts == "noise":
            original = np.divide(latent - spread * output, signal)
        else:
            noise = np.divide(latent - signal * output, spread)
        latent = level.original * original + level.noise * noise
        if level.fresh:
            assert fresh is not None, level
            latent = latent + level.fresh * fresh(step)
        if step == len(levels) - 1:
            latent = _with_known(latent, known, start, 1.0)
        yield step, latent


def _with_known(latent: Latent, known: Latent | None, noise: Latent, alpha: float) -> Latent:
    if known is None:
        return latent
    columns, (signal, spread) = known.shape[2], _shares(alpha)
    shown = signal * known + spread * noise[:, :, :columns]
    return np.concatenate((shown, latent[:, :, columns:]), axis=2)  # [B, C, T, M]


def _shares(alpha: float) -> tuple[np.float32, np.float32]:
    """What signal and noise are multiplied with."""
    return np.float32(math.sqrt(alpha)), np.float32(math.sqrt(1 - alpha))


def scaled_linear_alphas(timesteps: int, beta_start: float, beta_end: float) -> Alphas:
    """Alphas [timesteps] of latent diffusion: the square roots of the betas lie on a line."""
    roots = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), timesteps)
    return np.cumprod(1 - np.square(roots))


def cosine_alphas(timesteps: int) -> Alphas:
    """Alphas [timesteps] of Nichol and Dhariwal (arXiv:2102.09672, equation 17)."""
    times = np.arange(timesteps + 1) / timesteps
    left = np.square(np.cos((times + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2))
    betas = np.minimum(1 - left[1:] / left[:-1], MAX_BETA)
    return np.cumprod(1 - betas)


def latent_levels(alphas: Alphas, steps: int, offset: int) -> list[Level]:
    """Steps of AudioLDM, without fresh noise: times a whole stride apart, the last `offset`.

    As DDIMScheduler of diffusers has them with "leading" spacing and set_alpha_to_one false: the
    last latent is that of time 0, which the decoder was trained with.
    """
    stride = len(alphas) // steps
    levels = []
    for time in (np.arange(steps)[::-1] * stride + offset).tolist():
        following = alphas[max(0, time - stride)]
        levels.append(Level(time, alphas[time], math.sqrt(following), math.sqrt(1 - following), 0))
    return levels


def embedding_levels(alphas: Alphas, steps: int, eta: float) -> list[Level]:
    """Steps of the prior of DALLE2-pytorch; the last one takes the original as it is predicted.

    Times are evenly spaced from the last to one before the first, which takes one step fewer. Its
    weights are of alphas one time earlier than those the noise is computed with.
    """
    earlier = np.concatenate(([1.0], alphas[:-1]))
    times = [i * (len(alphas) + 1) // steps - 1 for i in reversed(range(steps))]
    pairs = list(pairwise(times)) or [(len(alphas) - 1, -1)]
    levels = []
    for time, following in pairs:
        if following < 0:
            levels.append(Level(time, alphas[time], 1, 0, 0))
            continue
        a, b = earlier[time], earlier[following]
        fresh = eta * math.sqrt((1 - a / b) * (1 - b) / (1 - a))
        level = Level(time, alphas[time], math.sqrt(b), math.sqrt(1 - b - fresh**2), fresh)
        levels.append(level)
    return levels


def guided(
    model: Callable[..., Latent], condition: dict[str, Latent], name: str, guidance: float
) -> Predict:
    """A graph of the contract as `denoise` wants it: both branches of guidance in one call.

    condition: the graph's further inputs, of one clip. name: of the input that takes the latent.
    """
    branches = np.array([1] if guidance == 1 else [1, 0], np.float32)  # [G]
    num = len(branches)
    condition = {key: np.concatenate([x] * num) for key, x in condition.items()}

    def predict(latent: Latent, timestep: int) -> Latent:
        output = model(
            **{name: np.concatenate([latent] * num)},
            timestep=np.full(num, timestep, np.int32),
            conditional=branches,
            **condition,
        )  # [G, ...]
        if guidance == 1:
            return output
        mixed: Latent = output[1:] + np.float32(guidance) * (output[:1] - output[1:])
        return mixed

    return predict
