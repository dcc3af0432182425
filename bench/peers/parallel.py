"""The same VAB in torch, plain or compiled: the peer of the loop in every bench."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.torch_sampling import sample, torch_gumbel
from training.model import VAB
from vab_rt.decoding import remask_count
from vab_rt.options import TokenOptions

Compiler = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


class Parallel:
    """One way to run VAB, on the device and in the precision of its weights."""

    def __init__(self, vab: VAB, options: TokenOptions, compiler: Compiler | None = None) -> None:
        """compiler: None runs plain PyTorch."""
        self.vab, self.config, self.options = vab, vab.config, options
        weight = vab.audio_in.weight
        self.device = weight.device
        self.branches = torch.tensor([1.0, 0.0]).to(weight)
        self.step = self.advance if compiler is None else compiler(self.advance)
        self.schedule = [tuple(t.to(self.device) for t in row) for row in self._schedule()]

    def _schedule(self) -> Iterator[tuple[Tensor, Tensor]]:
        """How many are masked again after each step, and the temperature of its noise."""
        o, total = self.options, self.config.num_codebooks * self.config.num_token_steps
        for step in range(o.steps):
            annealed = o.mask_temperature * (1 - (step + 1) / o.steps)
            yield torch.tensor(remask_count(step, o.steps, total)), torch.tensor(annealed)

    @torch.inference_mode()
    def tokens(self, features: Tensor, seed: int) -> Tensor:
        """[1, K, T] of features [1, F, visual_dim]; torch draws its own noise."""
        torch.manual_seed(seed)
        pair = features.to(self.branches).repeat(2, 1, 1)
        tokens = self.masked()
        for num_remask, mask_temperature in self.schedule:
            torch.compiler.cudagraph_mark_step_begin()
            # A graph writes its next result over this one.
            tokens = self.step(tokens, pair, num_remask, mask_temperature).clone()
        return tokens

    def masked(self) -> Tensor:
        c = self.config
        shape = (1, c.num_codebooks, c.num_token_steps)
        return torch.full(shape, c.mask_id, dtype=torch.int32, device=self.device)

    def advance(
        self, tokens: Tensor, pair: Tensor, num_remask: Tensor, mask_temperature: Tensor
    ) -> Tensor:
        logits, flat = self.guided(tokens, pair).flatten(1, 2), tokens.flatten(1)
        step = sample(flat, logits, self.options, mask_temperature, num_remask, torch_gumbel)
        return step.view_as(tokens)

    def guided(self, tokens: Tensor, pair: Tensor) -> Tensor:
        """Logits [1, K, T, V] of both branches of guidance; pair [2, F, visual_dim]."""
        conditional, unconditional = self.branch_logits(tokens, pair)
        return unconditional + self.options.guidance * (conditional - unconditional)

    def branch_logits(self, tokens: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        return self.vab(tokens.repeat(2, 1, 1), pair, self.branches).float().chunk(2)
