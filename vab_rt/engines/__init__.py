"""Backends: objects with the same calls, and the one function that chooses among them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.errors import BackendError, OptionError
from vab_rt.sampling import Sampler, fastest_sampler

DEVICES = ("auto", "cpu")
LATER_DEVICES = ("cuda", "tensorrt", "tensorrt-rtx")  # named by the design, refused so far

Engine = Callable[..., npt.NDArray[Any]]
"""Takes the inputs of a graph as named arrays and returns its output; see `contract.py`."""


@dataclass(frozen=True)
class Engines:
    """Everything a pipeline computes with. `device` names what was chosen."""

    visual_encoder: Engine
    backbone: Engine
    codec_decoder: Engine
    device: str
    sample_step: Sampler = field(default_factory=fastest_sampler)


def open_engines(bundle: Bundle, device: str = "auto", threads: int | None = None) -> Engines:
    """The engines of a bundle on a device; auto takes the best that is there and says which.

    threads: for CPU work, None takes one per physical core. Raises OptionError for a device or
    count that does not exist, BackendError for a device that cannot be used: it never falls back.
    """
    if device not in DEVICES + LATER_DEVICES:
        raise OptionError(f"device is {device!r}, expected {' or '.join(DEVICES)}; choose one")
    if threads is not None and not 1 <= threads <= 1024:
        raise OptionError(f"threads is {threads}, expected 1 to 1024")
    if device not in DEVICES:
        raise BackendError(
            f"device {device} is not in this version of vab-rt, expected {' or '.join(DEVICES)}; "
            "for a newer one: pip install --upgrade vab-rt"
        )
    from vab_rt.engines.cpu import open_cpu_engines

    return open_cpu_engines(bundle, threads)
