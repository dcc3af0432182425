"""V2A-Mapper: from the video's CLIP vector to the sound's CLAP vector (arXiv:2308.09300).

Two mappers: a regression, and a diffusion prior in the layout of DALLE2-pytorch's
`DiffusionPriorNetwork`, whose parameter names it keeps. The prior's tokens are, in order: learned
null tokens in the place of a text, the frames, the time step, the noisy sound, and a query whose
output is the sound without noise.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.v2a_mapper.settings import MapperSettings
from vab_rt.errors import OptionError
from vab_rt.v2a_mapper.config import V2AConfig

QUERIES = 4  # frames, time, noisy sound, query
ROTARY = 32
ROTARY_BASE = 10_000.0
ATTENTION_SCALE = 16.0
BUCKETS, EXACT_BUCKETS, FARTHEST = 32, 16, 128


def build_mapper(config: V2AConfig, settings: MapperSettings) -> nn.Module | None:
    """The mapper that `config` names, untrained; None where vectors go through as they are."""
    if config.mapper == "regression":
        return RegressionMapper(config.visual_dim, config.audio_dim, settings.expansion)
    if config.mapper == "prior":
        return PriorNetwork(config.audio_dim, config.mapper_timesteps, settings)
    return None


def aggregate(features: Tensor, how: str, random: np.random.Generator | None = None) -> Tensor:
    """One vector a clip [B, D] of its frames [B, F, D]: mean, middle or random (one a clip)."""
    if how == "mean":
        return features.mean(1)
    if how == "middle":
        return features[:, features.shape[1] // 2]
    if how == "random" and random is not None:
        chosen = torch.from_numpy(random.integers(features.shape[1], size=len(features)))
        return features[torch.arange(len(features)), chosen]
    raise OptionError(
        f"aggregator is {how!r}{' without a generator' if how == 'random' else ''}, expected mean, "
        "middle, or random with a generator to draw from"
    )


class RegressionMapper(nn.Module):
    """visual [B, visual_dim] -> audio [B, audio_dim], of no fixed length."""

    def __init__(self, visual_dim: int, audio_dim: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = expansion * audio_dim
        self.net = nn.Sequential(
            nn.Linear(visual_dim, hidden),
            nn.SiLU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, audio_dim),
        )

    def forward(self, visual: Tensor) -> Tensor:
        return self.net(visual)


class PriorNetwork(nn.Module):
    """The denoiser of the diffusion prior, for vectors scaled by sqrt(dim)."""

    def __init__(self, dim: int, timesteps: int, settings: MapperSettings) -> None:
        super().__init__()
        self.dim, self.timesteps = dim, timesteps
        self.to_time_embeds = nn.Sequential(nn.Embedding(timesteps, dim))
        self.learned_query = nn.Parameter(torch.randn(dim))
        self.null_text_encodings = nn.Parameter(torch.randn(1, settings.null_tokens, dim))
        self.null_text_embeds = nn.Parameter(torch.randn(1, 1, dim))
        self.null_image_embed = nn.Parameter(torch.randn(1, dim))
        self.causal_transformer = CausalTransformer(dim, settings)

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        visual: Tensor,
        conditional: Tensor,
        heard: Tensor | None = None,
    ) -> Tensor:
        """noisy, visual [B, D], time [B] below `timesteps` -> the sound without noise [B, D].

        Where conditional [B] is 0 the image is a learned null, and the noisy sound another one
        where heard [B] (by default as conditional) is.
        """
        heard = conditional if heard is None else heard
        visual = torch.where(conditional[:, None] > 0, visual, self.null_text_embeds[:, 0])
        noisy = torch.where(heard[:, None] > 0, noisy, self.null_image_embed)
        query = self.learned_query.expand_as(noisy)
        tokens = torch.stack([visual, self.to_time_embeds(time), noisy, query], 1)  # [B, 4, D]
        if self.null_text_encodings.shape[1]:
            nulls = self.null_text_encodings.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([nulls, tokens], 1)  # [B, null_tokens + 4, D]
        return self.causal_transformer(tokens)[:, -1]


class CausalTransformer(nn.Module):
    """Tokens [B, N, D] -> [B, N, D]; N is fixed, so positions and mask are tables."""

    def __init__(self, dim: int, settings: MapperSettings) -> None:
        super().__init__()
        s, num_tokens = settings, settings.null_tokens + QUERIES
        self.init_norm = Norm(dim) if s.norm_in else nn.Identity()
        self.rel_pos_bias = RelativeBias(s.heads, num_tokens)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, s, num_tokens), feed_forward(dim, s)])
            for _ in range(s.depth)
        )
        self.norm = Norm(dim, stable=True)
        self.project_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, bias = self.init_norm(x), self.rel_pos_bias()
        for attention, feed in self.layers:
            x = x + attention(x, bias)
            x = x + feed(x)
        return self.project_out(self.norm(x))


class Norm(nn.Module):
    """Layer norm with a gain alone; the stable one divides by the largest value first."""

    def __init__(self, dim: int, stable: bool = False) -> None:
        super().__init__()
        self.stable = stable
        self.g = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.stable:
            x = x / x.amax(-1, keepdim=True).detach()
        return F.layer_norm(x, self.g.shape, self.g)


class SwiGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # [..., 2 * N] -> [..., N]
        x, gate = x.chunk(2, dim=-1)
        return x * F.silu(gate)


def feed_forward(dim: int, settings: MapperSettings) -> nn.Sequential:
    inner = settings.ff_mult * dim
    return nn.Sequential(
        Norm(dim),
        nn.Linear(dim, 2 * inner, bias=False),
        SwiGLU(),
        Norm(inner),
        nn.Dropout(settings.dropout),
        nn.Linear(inner, dim, bias=False),
    )


class Attention(nn.Module):
    """Cosine attention of many queries over one head of keys and values, and a null one."""

    def __init__(self, dim: int, settings: MapperSettings, num_tokens: int) -> None:
        super().__init__()
        s = settings
        self.heads, self.dim_head, self.dropout = s.heads, s.dim_head, s.dropout
        self.norm = Norm(dim)
        self.null_kv = nn.Parameter(torch.randn(2, s.dim_head))
        self.to_q = nn.Linear(dim, s.heads * s.dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * s.dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(s.heads * s.dim_head, dim, bias=False), Norm(dim))
        cosine, sine = rotary_tables(num_tokens, min(ROTARY, s.dim_head))
        self.register_buffer("cosine", cosine, persistent=False)  # [N, ROTARY / 2]
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm(x)
        query = self.to_q(x).unflatten(2, (self.heads, self.dim_head)).transpose(1, 2)
        key, value = self.to_kv(x).chunk(2, dim=-1)  # [B, N, dim_head]
        query, key = self._rotated(query), self._rotated(key)
        null_key, null_value = self.null_kv.expand(x.shape[0], -1, -1).chunk(2, dim=1)
        key = torch.cat([null_key, key], 1)  # [B, N + 1, dim_head]
        value = torch.cat([null_value, value], 1)
        likeness = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1)[:, None].mT
        weights = (ATTENTION_SCALE * likeness + bias).softmax(-1)  # [B, H, N, N + 1]
        weights = F.dropout(weights, self.dropout, self.training)
        return self.to_out((weights @ value[:, None]).transpose(1, 2).flatten(2))

    def _rotated(self, x: Tensor) -> Tensor:  # [..., N, dim_head], pairs of neighbours turned
        turned, rest = x.split(
            [2 * self.cosine.shape[1], x.shape[-1] - 2 * self.cosine.shape[1]], -1
        )
        a, b = turned.unflatten(-1, (-1, 2)).unbind(-1)
        pair = torch.stack([a * self.cosine - b * self.sine, b * self.cosine + a * self.sine], -1)
        return torch.cat([pair.flatten(-2), rest], -1)


def rotary_tables(num_tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, dim / 2] of rotary positions (arXiv:2104.09864)."""
    rates = ROTARY_BASE ** -(torch.arange(0, dim, 2).double() / dim)
    angles = torch.arange(num_tokens).double()[:, None] * rates
    return angles.cos().float(), angles.sin().float()


class RelativeBias(nn.Module):
    """T5's bias by distance and head [H, N, N + 1], minus infinity for what is yet to come.

    Key 0 is the null key, so distances are one shorter than between the tokens themselves.
    """

    def __init__(self, heads: int, num_tokens: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)
        ahead = torch.arange(num_tokens)[:, None] - torch.arange(num_tokens + 1)  # [N, N + 1]
        self.register_buffer("buckets", distance_buckets(ahead.clamp(min=0)), persistent=False)
        hidden = torch.zeros(ahead.shape).masked_fill(ahead < -1, -math.inf)
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self) -> Tensor:
        return self.relative_attention_bias(self.buckets).permute(2, 0, 1) + self.hidden


def distance_buckets(distance: Tensor) -> Tensor:
    """One each up to EXACT_BUCKETS, then on a logarithmic scale up to FARTHEST (T5)."""
    scale = (BUCKETS - EXACT_BUCKETS) / math.log(FARTHEST / EXACT_BUCKETS)
    far = distance.clamp(min=1).float() / EXACT_BUCKETS
    buckets = EXACT_BUCKETS + (far.log() * scale).long()
    return torch.where(distance < EXACT_BUCKETS, distance, buckets.clamp(max=BUCKETS - 1))
