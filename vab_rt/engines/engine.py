"""What a device gives: the graphs of a bundle as functions, and decoding with them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.config import TokenOptions
from vab_rt.decoding import Tokens, decode_masked, guided
from vab_rt.sampling import Sampler, fastest_sampler
from vab_rt.threads import Helpers

Engine = Callable[..., npt.NDArray[Any]]
"""Takes the inputs of a graph as named arrays and returns its output; see `contract.py`."""


@dataclass(frozen=True)
class Engines:
    """The graphs of a bundle, by name, on one device. `device` names what was chosen."""

    graphs: Mapping[str, Engine]
    device: str
    sample_step: Sampler = field(default_factory=fastest_sampler)
    meanwhile: Helpers | None = None
    """for what can be done beside the graphs; None where one thread does everything"""

    def __getitem__(self, name: str) -> Engine:
        return self.graphs[name]

    def with_graphs(self, **graphs: Engine) -> "Engines":
        """The same engines, but for these graphs."""
        return replace(self, graphs={**self.graphs, **graphs})

    def decode_tokens(
        self,
        backbone: str,
        given: Mapping[str, npt.NDArray[Any]],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
    ) -> Iterator[tuple[int, Tokens]]:
        """Fill the [MASK] positions of tokens [B, K, T] with the graph of that name.

        given: the graph's other inputs, which stay: features [B, F, visual_dim], and of a
        fine_backbone coarse tokens. seeds [B]. Yields (step, tokens), on a GPU the last alone; each
        clip gets the tokens it would get alone.
        """
        logits = guided(self[backbone], given, options.guidance)
        return decode_masked(logits, tokens, seeds, options, self.sample_step)

    def warm_up(self, backbone: str, options: TokenOptions) -> None:
        """Prepare `decode_tokens` for one clip with these options, where that takes time."""
