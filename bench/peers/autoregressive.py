"""FoleyGen's loop: one column of tokens a pass, in plain PyTorch or compiled with CUDA graphs."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.peers.foleygen import Cache, FoleyGen, GrowingCache, StaticCache, num_columns
from vab_rt.config import ModelConfig
from vab_rt.options import TokenOptions

# column [B, K], its number [1], noise [B, K, V] -> the next column
Pass = Callable[[Tensor, Tensor, Tensor], Tensor]
Compiler = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


class Autoregressive:
    """One way to run FoleyGen, on the device and in the precision of its weights."""

    def __init__(
        self,
        model: FoleyGen,
        options: TokenOptions,
        compiler: Compiler | None = None,
        batch: int = 1,
    ) -> None:
        """compiler: None runs plain PyTorch with a cache that grows."""
        self.model, self.config, self.options = model, model.config, options
        weight = model.visual_in.weight
        self.device, self.dtype, self.batch = weight.device, weight.dtype, batch
        self.branches = torch.tensor([[1.0], [0.0]]).expand(2, batch).flatten().to(weight)  # [2B]
        self.numbers = [
            torch.tensor([i], device=self.device) for i in range(num_columns(self.config))
        ]
        self.static: StaticCache | None = None
        self.compiled: Pass | None = None
        if compiler is not None:
            self.static = StaticCache(self.config, 2 * batch).to(weight)
            self.compiled = compiler(self.advance)

    def begin(self, features: Tensor) -> Pass:
        """The pass of a clip with these features [B, F, visual_dim]."""
        pair = features.to(self.branches).repeat(2, 1, 1)  # [2B, F, visual_dim]
        if self.compiled is not None:
            self.model.see(pair, self.branches, self.static)
            return self.compiled
        cache = GrowingCache(self.config)
        self.model.see(pair, self.branches, cache)
        return lambda column, number, noise: self.advance(column, number, noise, cache)

    def advance(
        self, column: Tensor, number: Tensor, noise: Tensor, cache: Cache | None = None
    ) -> Tensor:
        logits = self.logits(column[..., None], number, cache or self.static)  # [B, 1, K, V]
        return draw(logits[:, 0], number + 1, noise, self.options, self.config)

    def logits(self, columns: Tensor, numbers: Tensor, cache: Cache) -> Tensor:
        """Guided logits [B, P, K, V] of what follows columns [B, K, P]."""
        numbers = numbers + self.config.num_visual
        both = self.model.advance(columns.repeat(2, 1, 1), numbers, cache)
        conditional, unconditional = both.float().chunk(2)
        return unconditional + self.options.guidance * (conditional - unconditional)

    @torch.inference_mode()
    def columns(self, features: Tensor, seed: int) -> Iterator[Tensor]:
        """The empty first column [B, K], then every one as it is drawn."""
        one_pass, noise = self.begin(features), self.noise(seed)
        column = self.empty_column()
        yield column
        for number, each in zip(self.numbers, noise, strict=True):
            torch.compiler.cudagraph_mark_step_begin()
            # A graph writes its next result over this one.
            column = one_pass(column, number, each).clone()
            yield column

    def tokens(self, features: Tensor, seed: int) -> Tensor:
        """[B, K, T]"""
        return undelay(torch.stack(list(self.columns(features, seed)), 2), self.config)

    def noise(self, seed: int) -> Tensor:
        """Gumbel noise of every token of a clip, drawn once [T + K - 1, B, K, V]."""
        random, c = torch.Generator(self.device).manual_seed(seed), self.config
        shape = (num_columns(c), self.batch, c.num_codebooks, c.codebook_size)
        return -torch.empty(shape, device=self.device).exponential_(generator=random).log()

    def empty_column(self) -> Tensor:
        c = self.config
        return torch.full((self.batch, c.num_codebooks), c.codebook_size, device=self.device)


def draw(
    logits: Tensor, number: Tensor, noise: Tensor, options: TokenOptions, config: ModelConfig
) -> Tensor:
    """Top-k sampling of column `number` [1], from logits [B, K, V] -> [B, K]; V where empty.

    Noise is a token's, whatever its rank: in 16 bits so many logits tie that ranks are chance.
    """
    least = logits.topk(num_kept(options, config)).values[..., -1:]  # [B, K, 1]
    score = (logits / options.temperature + noise).masked_fill(logits < least, -torch.inf)
    step = number - 1 - torch.arange(config.num_codebooks, device=logits.device)  # [K]
    is_there = (step >= 0) & (step < config.num_token_steps)
    return torch.where(is_there, score.argmax(-1), config.codebook_size)


def num_kept(options: TokenOptions, config: ModelConfig) -> int:
    return min(options.top_k or config.codebook_size, config.codebook_size)


def delay(tokens: Tensor, config: ModelConfig) -> Tensor:
    """All columns [B, K, T + K] of tokens [B, K, T], the first empty; T may be part of a clip."""
    batch, num, length = tokens.shape
    columns = tokens.new_full((batch, num, length + num), config.codebook_size)
    for k in range(num):
        columns[:, k, k + 1 : k + 1 + length] = tokens[:, k]
    return columns


def undelay(columns: Tensor, config: ModelConfig) -> Tensor:
    """Tokens [B, K, T] of all columns [B, K, T + K], whose first is empty."""
    steps = range(1, config.num_codebooks + 1)
    parts = [columns[:, k, s : s + config.num_token_steps] for k, s in enumerate(steps)]
    return torch.stack(parts, 1)
