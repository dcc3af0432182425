"""Backends: objects with the same calls, and the one function that chooses among them."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.config import TokenOptions
from vab_rt.decoding import Tokens, decode_masked, guided
from vab_rt.errors import BackendError, BundleError, OptionError
from vab_rt.sampling import Sampler, fastest_sampler

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx")

Engine = Callable[..., npt.NDArray[Any]]
"""Takes the inputs of a graph as named arrays and returns its output; see `contract.py`."""


@dataclass(frozen=True)
class Engines:
    """The graphs of a bundle, by name, on one device. `device` names what was chosen."""

    graphs: Mapping[str, Engine]
    device: str
    sample_step: Sampler = field(default_factory=fastest_sampler)

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

    def warm_up(self, backbone: str) -> None:
        """Prepare `decode_tokens` for one guided clip, where that takes time."""


def open_engines(bundle: Bundle, device: str = "auto", threads: int | None = None) -> Engines:
    """The engines of a bundle on a device; auto takes the best that is there and says which.

    threads: for CPU work, None takes one per physical core. Raises OptionError for a device or
    count that does not exist, BackendError for a device that cannot be used: it never falls back.
    """
    if device not in DEVICES:
        raise OptionError(
            f"device is {device!r}, expected {', '.join(DEVICES[:-1])} or {DEVICES[-1]}; choose one"
        )
    if threads is not None and not 1 <= threads <= 1024:
        raise OptionError(f"threads is {threads}, expected 1 to 1024")
    if device == "auto":
        return _open_best(bundle, threads)
    return _open(bundle, device, threads)


def _open_best(bundle: Bundle, threads: int | None) -> Engines:
    """cuda where its parts are installed, or else cpu; TensorRT may build for minutes."""
    from vab_rt.engines.cpu import has_cuda_provider

    if has_cuda_provider():
        try:
            return _open(bundle, "cuda", threads)
        except (BackendError, BundleError) as error:  # such as graphs for processors alone
            log.warning("device auto chose cpu, as cuda cannot be used: %s", error)
    return _open(bundle, "cpu", threads)


def _open(bundle: Bundle, device: str, threads: int | None) -> Engines:
    module = import_module(f"vab_rt.engines.{device.replace('-', '_')}")
    engines: Engines = module.open_engines(bundle, threads)
    return engines
