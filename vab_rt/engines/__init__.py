"""Backends: what a device gives, the graphs of a bundle as functions and decoding with them, and
the one function that chooses among devices."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.decoding import decode_masked, guided
from vab_rt.engines.precision import PRECISIONS, check_precision
from vab_rt.errors import BackendError, BundleError, OptionError
from vab_rt.options import TokenOptions, check_threads
from vab_rt.sampling import Sampler, fastest_sampler
from vab_rt.sampling_arguments import Tokens
from vab_rt.threads import Helpers

__all__ = ["DEVICES", "PRECISIONS", "Engine", "Engines", "open_engines"]

log = logging.getLogger(__name__)

_OF_GPUS = ("cuda", "tensorrt", "tensorrt-rtx")
_OF_PROVIDERS = ("openvino", "coreml", "directml", "migraphx")
DEVICES = ("auto", "cpu", *_OF_GPUS, *_OF_PROVIDERS)
_PARTS = re.compile(r"(cuda|tensorrt|tensorrt-rtx|directml|migraphx):\d+|openvino:[a-z]+(\.\d+)?")


Engine = Callable[..., npt.NDArray[Any]]
"""Takes the inputs of a graph as named arrays and returns its output; see `contract.py`."""


@dataclass(frozen=True)
class Engines:
    """The graphs of a bundle, by name, on one device. `device` names what was chosen.

    precision: what the products of the backbones are computed in.
    """

    graphs: Mapping[str, Engine]
    device: str
    sample_step: Sampler = field(default_factory=fastest_sampler)
    meanwhile: Helpers | None = None
    """for what can be done beside the graphs; None where one thread does everything"""
    loaded: Callable[[], float] | None = None
    """the seconds that opening the graphs takes, once they are; None: they were before"""
    precision: str = "fp32"

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
        branches: tuple[float, ...],
    ) -> Iterator[tuple[int, Tokens]]:
        """Fill the [MASK] positions of tokens [B, K, T] with the graph of that name.

        given: the graph's other inputs, which stay: features [B, F, visual_dim], and of a
        fine_backbone coarse tokens. seeds [B]. branches: see `ModelConfig`. Yields (step, tokens),
        on a GPU the last alone; each clip gets the tokens it would get alone.
        """
        logits = guided(self[backbone], given, branches)
        return decode_masked(logits, tokens, seeds, options, self.sample_step)

    def warm_up(self, backbone: str, branches: tuple[float, ...]) -> None:
        """Prepare `decode_tokens` for one clip with these branches, where that takes time."""


def open_engines(
    bundle: Bundle,
    device: str = "auto",
    threads: int | None = None,
    *,
    precision: str | None = None,
    wait: bool = True,
) -> Engines:
    """The engines of a bundle on a device; auto takes the best that is there and says which.

    device: one of DEVICES; of several GPUs the first, or another by its number, as cuda:1; of
    OpenVINO its cpu, or openvino:gpu.
    threads: for CPU work, None takes one per physical core. precision: one of PRECISIONS, what the
    CPU then multiplies in; None is the bundle's own. wait: until all graphs are open; on the CPU it
    may be left to the first call of each, which then raises what is wrong with it.

    Raises OptionError for a device, precision or count that does not exist, or a precision on
    another device; BackendError for a device that cannot be used: it never falls back; BundleError
    for a bundle that has not that precision.
    """
    check_device(device, precision)
    threads = check_threads(threads)
    if precision is not None:
        from vab_rt.engines.sessions import open_sessions

        return open_sessions(bundle, threads=threads, precision=precision, wait=wait)
    if device == "auto":
        return _open_best(bundle, threads, wait=wait)
    name, _, part = device.partition(":")
    return _open(bundle, name, part, threads, wait=wait)


def check_device(device: str, precision: str | None) -> None:
    """Raises OptionError for one that there is not, and a precision that there is not on it."""
    if device not in DEVICES and not (isinstance(device, str) and _PARTS.fullmatch(device)):
        raise OptionError(
            f"device is {device!r}, expected {', '.join(DEVICES[:-1])} or {DEVICES[-1]}, with a "
            "number for a GPU other than the first, as in cuda:1, or openvino:gpu; choose one"
        )
    if precision is not None:
        check_precision(precision, device)


def import_libraries(device: str) -> None:
    """Imports what `open_engines` will need first. What is missing is told there."""
    if device.partition(":")[0] not in _OF_GPUS:
        with suppress(BackendError):
            import_module("vab_rt.engines.sessions")


def _open_best(bundle: Bundle, threads: int | None, *, wait: bool) -> Engines:
    """cuda where its parts are installed, or else cpu; TensorRT may build for minutes."""
    from vab_rt.engines.sessions import has_cuda_provider

    if has_cuda_provider():
        try:
            return _open(bundle, "cuda", "", threads, wait=wait)
        except (BackendError, BundleError) as error:  # such as graphs for CPUs alone
            log.warning("device auto chose cpu, as cuda cannot be used: %s", error)
    return _open(bundle, "cpu", "", threads, wait=wait)


def _open(bundle: Bundle, device: str, part: str, threads: int | None, *, wait: bool) -> Engines:
    """Each device imports its own libraries, which take long or are missing."""
    if device not in _OF_GPUS:
        from vab_rt.engines.sessions import open_sessions

        return open_sessions(bundle, device, part, threads, wait=wait)
    gpu_id = int(part or 0)
    if device == "cuda":
        from vab_rt.engines.cuda import open_cuda

        return open_cuda(bundle, gpu_id)
    from vab_rt.engines.tensorrt import open_tensorrt

    return open_tensorrt(bundle, device, gpu_id)
