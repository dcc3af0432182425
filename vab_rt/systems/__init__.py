"""Systems turn visual features into sound: one file a kind of bundle, all with the same calls."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.config import ClipConfig
from vab_rt.contract import Manifest
from vab_rt.engines import Engines
from vab_rt.options import GenerateOptions, Options
from vab_rt.windows import Window

if TYPE_CHECKING:  # features can do without the library that reads videos
    from vab_rt.video import Frame

State = npt.NDArray[Any]
"""What a system decodes, [B, ...]: tokens or a latent."""


class System(Protocol[Options]):
    """A model on a device: between the frames and the sound."""

    stages: tuple[str, str]
    """what `decode` and `render` are called in timings"""

    @property
    def config(self) -> ClipConfig: ...

    @property
    def engines(self) -> Engines: ...

    def see(self, frames: "Iterator[Frame]") -> Iterator[npt.NDArray[np.float32]]:
        """Features [visual_dim] of a video's frames, one each."""
        ...

    def options(self, overrides: GenerateOptions) -> Options:
        """The caller's overrides, and the model's own where there are none: what `decode` takes.
        Raises OptionError for an override that the system has no use for."""
        ...

    def num_steps(self, options: Options) -> int:
        """Steps that `decode` counts."""
        ...

    def decode(
        self, window: Window, previous: State | None, options: Options
    ) -> Iterator[tuple[int, State]]:
        """The state of one window, [1, ...], step by step: (step, state), finished in step
        num_steps - 1. Steps in between may be left out, as on a GPU.

        `previous` is the finished state of the window before, which begins `num_overlap_hops`
        before its end. The seed is `window.seed(options.seed)`.
        """
        ...

    def render(self, state: State) -> npt.NDArray[np.float32]:
        """Sound [B, S] in -1 to 1 of finished states [B, ...]."""
        ...


def open_system(bundle: Bundle, engines: Engines) -> System[Any]:
    """The system of a bundle with its graphs on a device. Raises BundleError, BackendError."""
    system: System[Any] = module_of(bundle.manifest).open_system(bundle, engines)
    return system


def module_of(manifest: Manifest) -> ModuleType:
    """The module of a kind of bundle: its `open_system`, and `facts_of` its model for people."""
    return import_module(manifest.system)
