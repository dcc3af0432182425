"""FoleyGen: the autoregressive baseline of the paper (appendix E; arXiv:2309.10537).

A decoder-only transformer reads the visual features of a clip, one a second, and then the audio
tokens of the steps so far; it predicts the next token of every codebook. Codebook k lags k steps
behind the first (the delay pattern of arXiv:2306.05284), so that T steps take T + K - 1 passes.
Width, layers and heads are those of the model it is compared with: of the paper, 1024, 24 and 16.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from training.model import attend, initialise_linears
from vab_rt.config import ModelConfig

FEED_FORWARD_FACTOR = 4
MASK_MULTIPLE = 8  # of keys, in which torch's attention takes masks in 16 bits without copying them


class Cache(Protocol):
    """Keys and values of the positions so far."""

    def mask(self, positions: Tensor) -> Tensor | None:
        """What the positions [P] see of the keys that `extend` returns; None is everything."""
        ...

    def extend(
        self, layer: int, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keep keys and values [B, H, P, D / H] of these positions -> those to attend to."""
        ...


class GrowingCache:
    """Joins keys and values to those before them, at every step: plain PyTorch.

    One that holds only what is seen, given all columns at once, has no use of them: the reference.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.pairs: list[tuple[Tensor, Tensor] | None] = [None] * config.layers

    def mask(self, positions: Tensor) -> Tensor | None:
        if len(positions) == 1:
            return None
        pair = self.pairs[0]
        num_keys = len(positions) + (0 if pair is None else pair[0].shape[2])
        return positions[:, None] >= torch.arange(num_keys, device=positions.device)

    def extend(
        self, layer: int, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        pair = self.pairs[layer]
        if pair is not None:
            keys, values = torch.cat([pair[0], keys], 2), torch.cat([pair[1], values], 2)
        self.pairs[layer] = keys, values
        return keys, values


class StaticCache(nn.Module):
    """Room for every position from the start, at addresses that a CUDA graph can hold.

    What is behind the current position is masked, so that a clip may overwrite the one before.
    """

    def __init__(self, config: ModelConfig, rows: int) -> None:
        super().__init__()
        self.num_positions = -(-num_positions(config) // MASK_MULTIPLE) * MASK_MULTIPLE
        shape = (rows, config.heads, self.num_positions, config.width // config.heads)
        for layer in range(config.layers):
            self.register_buffer(f"keys{layer}", torch.zeros(shape))
            self.register_buffer(f"values{layer}", torch.zeros(shape))

    def mask(self, positions: Tensor) -> Tensor:
        return positions[:, None] >= torch.arange(self.num_positions, device=positions.device)

    def extend(
        self, layer: int, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        all_keys, all_values = getattr(self, f"keys{layer}"), getattr(self, f"values{layer}")
        all_keys.index_copy_(2, positions, keys)
        all_values.index_copy_(2, positions, values)
        return all_keys, all_values


class NoCache:
    """All of a stream at once, in its order, as in training: nothing to keep."""

    def mask(self, positions: Tensor) -> Tensor:
        num = len(positions)
        return torch.full((num, num), -torch.inf, device=positions.device).triu(1)

    def extend(
        self, layer: int, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        return keys, values


class FoleyGen(nn.Module):
    """Visual features, then columns of delayed tokens -> logits of the next column.

    A column holds one token of each codebook; V stands where the delay leaves a place empty. In
    the unconditional branch of guidance the visual embedding is zeroed.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.codes = nn.Embedding(c.num_codebooks * (c.codebook_size + 1), c.width)
        self.visual_in = nn.Linear(c.visual_dim, c.width)
        self.layers = nn.ModuleList(Layer(i, c.width, c.heads) for i in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        self.heads = nn.Linear(c.width, c.num_codebooks * c.codebook_size, bias=False)
        self.register_buffer("positions", sinusoids(num_positions(c), c.width), persistent=False)
        first = torch.arange(c.num_codebooks) * (c.codebook_size + 1)
        self.register_buffer("first_code", first[:, None], persistent=False)  # [K, 1]
        self._initialise()

    def _initialise(self) -> None:
        """As VAB has it: unit variance in, and residual branches that add up to about as much."""
        initialise_linears(self)
        nn.init.trunc_normal_(self.codes.weight, std=self.config.num_codebooks**-0.5)
        for layer in self.layers:
            for branch in (layer.out, layer.feed_forward[-1]):
                branch.weight.data *= (2 * len(self.layers)) ** -0.5

    def forward(
        self, columns: Tensor, features: Tensor, conditional: Tensor, first_frame: int = 0
    ) -> Tensor:
        """columns [B, K, P], features [B, F, visual_dim], conditional [B] of 0 or 1 -> logits
        [B, P, K, V] of what follows each column: all in one pass, as in training.

        F and P may be those of a part of the clip that begins at `first_frame`.
        """
        c, device = self.config, columns.device
        seen = self.embed_features(features, conditional)
        x = torch.cat([seen, self.embed_columns(columns)], 1)
        first, num_seen = first_frame // c.image_stride, seen.shape[1]
        first_step = c.num_visual + round(first_frame * c.hop_rate_hz / c.visual_rate_hz)
        positions = torch.cat(
            [
                torch.arange(first, first + num_seen, device=device),
                torch.arange(first_step, first_step + columns.shape[2], device=device),
            ]
        )
        return self._logits(self._through(x, positions, NoCache())[:, num_seen:])

    def see(self, features: Tensor, conditional: Tensor, cache: Cache) -> None:
        """Fill the cache from features [B, F, visual_dim], conditional [B] of 0 or 1."""
        x = self.embed_features(features, conditional)
        self._through(x, torch.arange(x.shape[1], device=x.device), cache)

    def advance(self, columns: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """columns [B, K, P] at positions [P] of the stream -> logits [B, P, K, V]."""
        return self._logits(self._through(self.embed_columns(columns), positions, cache))

    def embed_features(self, features: Tensor, conditional: Tensor) -> Tensor:
        positions = features.unflatten(1, (-1, self.config.image_stride)).mean(2)
        return self.visual_in(positions) * conditional[:, None, None]  # [B, F / image_stride, D]

    def embed_columns(self, columns: Tensor) -> Tensor:
        return self.codes(columns + self.first_code).sum(1)  # [B, P, D]

    def _logits(self, x: Tensor) -> Tensor:  # [B, P, D] -> [B, P, K, V]
        return self.heads(x).unflatten(2, (self.config.num_codebooks, -1))

    def _through(self, x: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        x = x + self.positions[positions]
        mask = cache.mask(positions)
        for layer in self.layers:
            x = layer(x, positions, mask, cache)
        return self.norm(x)


class Layer(nn.Module):
    """Pre-norm attention to what came before, then a feed-forward."""

    def __init__(self, index: int, width: int, heads: int) -> None:
        super().__init__()
        self.index, self.num_heads = index, heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, FEED_FORWARD_FACTOR * width, bias=False),
            nn.GELU(),
            nn.Linear(FEED_FORWARD_FACTOR * width, width, bias=False),
        )

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
        q, k, v = (
            y.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, H, P, D / H]
            for y in self.qkv(self.norm(x)).chunk(3, -1)
        )
        keys, values = cache.extend(self.index, positions, k, v)
        mixed = attend(q, keys, values, mask, spelled_out=self.training and x.device.type == "cpu")
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


def num_columns(config: ModelConfig) -> int:
    """Passes of the delay pattern."""
    return config.num_token_steps + config.num_codebooks - 1


def num_positions(config: ModelConfig) -> int:
    """The length of the whole stream: what is seen, then a column a pass."""
    return config.num_visual + num_columns(config)


def sinusoids(length: int, width: int) -> Tensor:
    """[length, D]"""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
