"""The two diffusions: of CLAP vectors (the prior) and of AudioLDM's latents. Plain functions.

The samplers are the reference for the runtime's: generators that take the network as a function,
and the noise as another, so that a test can give them either.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vab_rt.errors import OptionError

Predict = Callable[[Tensor, int], Tensor]
Noise = Callable[[int], Tensor]

COSINE_S = 0.008
MAX_BETA = 0.999


def cosine_schedule(timesteps: int) -> Tensor:
    """The share of signal that is left at each step, float32 [timesteps] (arXiv:2102.09672)."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    left = ((t + COSINE_S) / (1 + COSINE_S) * torch.pi / 2).cos().square()
    betas = (1 - left[1:] / left[:-1]).clamp(max=MAX_BETA)
    return (1 - betas).cumprod(0).float()


def scaled_linear_schedule(timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """The same of AudioLDM: the square roots of the betas lie on a line."""
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
    return (1 - roots.square()).cumprod(0).float()


def noised(clean: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """clean and noise [B, ...], left [B] -> what the network is given in training."""
    left = left.view(-1, *[1] * (clean.dim() - 1))
    return left.sqrt() * clean + (1 - left).sqrt() * noise


def noise_in(x: Tensor, clean: Tensor, left: Tensor) -> Tensor:
    """The noise in x [B, ...], given what it would be without; left is a scalar."""
    return (x / left.sqrt() - clean) / (1 / left - 1).sqrt()


def clean_of(x: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """x [B, ...] without this noise; left is a scalar."""
    return (x - (1 - left).sqrt() * noise) / left.sqrt()


def embedding_times(timesteps: int, steps: int) -> list[tuple[int, int]]:
    """The prior's steps from one time to the next; the last one goes to -1, which is no noise."""
    check_steps(steps, timesteps)
    times = torch.linspace(-1, timesteps, steps + 1)[:-1].int().tolist()[::-1]
    if steps == 1:
        return [(timesteps - 1, -1)]  # the spacing leaves none
    return list(itertools.pairwise(times))


def latent_times(timesteps: int, steps: int, offset: int) -> list[tuple[int, int]]:
    """AudioLDM's, in the "leading" spacing of diffusers; the last one goes below 0."""
    check_steps(steps, timesteps)
    stride = timesteps // steps
    return [(stride * i + offset, stride * (i - 1) + offset) for i in reversed(range(steps))]


def check_steps(steps: int, timesteps: int) -> None:
    if not 1 <= steps < timesteps:
        raise OptionError(f"steps is {steps}, expected 1 to {timesteps - 1}")


def denoise_embedding(
    predict: Predict, left: Tensor, noise: Noise, steps: int, eta: float = 1.0
) -> Iterator[tuple[int, Tensor]]:
    """Sample scaled CLAP vectors; yields (step, x [B, D]), the last of which is the result.

    predict(x, time) is the vector without noise. noise(i): standard normal [B, D], at 0 the start.
    DDIM as in DALLE2-pytorch: its steps take the share of signal one time earlier than the
    schedule says (arXiv:2010.02502, equation 12).
    """
    earlier = torch.cat([torch.ones(1, dtype=left.dtype), left[:-1]])
    x = noise(0)
    for i, (time, following) in enumerate(embedding_times(len(left), steps)):
        clean = predict(x, time)
        if following < 0:
            yield i, clean
            return
        direction = noise_in(x, clean, left[time])
        a, b = earlier[time], earlier[following]
        spread = eta * ((1 - a / b) * (1 - b) / (1 - a)).sqrt()
        x = b.sqrt() * clean + (1 - b - spread.square()).sqrt() * direction
        if eta and following > 0:
            x = x + spread * noise(i + 1)
        yield i, x


def denoise_latents(
    predict: Predict, left: Tensor, noise: Noise, steps: int, eta: float = 0.0, offset: int = 1
) -> Iterator[tuple[int, Tensor]]:
    """Sample latents [B, C, T, M]; yields (step, x). predict(x, time) is the noise in x.

    DDIM as in diffusers with `set_alpha_to_one=False` and no clipping.
    """
    x = noise(0)
    for i, (time, following) in enumerate(latent_times(len(left), steps, offset)):
        found = predict(x, time)
        a, b = left[time], left[max(following, 0)]
        spread = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        x = b.sqrt() * clean_of(x, found, a) + (1 - b - spread.square()).sqrt() * found
        if eta:
            x = x + spread * noise(i + 1)
        yield i, x


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598); 1 is the conditional prediction alone."""
    return unconditional + guidance * (conditional - unconditional)
