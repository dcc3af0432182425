"""TensorRT-RTX for desktops: engines for every RTX GPU from Ampere on, built without a GPU."""

from importlib import import_module
from typing import Any

from vab_rt.bundle import Bundle
from vab_rt.engines import Engines
from vab_rt.engines.compiled import Library, open_compiled
from vab_rt.engines.gpu import Gpu
from vab_rt.errors import BackendError

SUPPORTED = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""Compute capabilities that an engine runs on; data-centre Hopper and Blackwell are not."""


def open_engines(bundle: Bundle, threads: int | None = None) -> Engines:
    """The engines of a bundle, built where this user has not built them before."""
    library = import_library()
    gpu = Gpu()
    if gpu.capability not in SUPPORTED:
        known = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        raise BackendError(
            f"{gpu.name} has compute capability {'.'.join(map(str, gpu.capability))}, expected one "
            f"that TensorRT-RTX supports ({known}); use --device tensorrt or --device cuda"
        )
    return open_compiled(bundle, library, gpu)


def import_library() -> Library:
    """The library, which builds for all its GPUs at once. Raises BackendError without it."""
    try:
        api = import_module("tensorrt_rtx")
    except ImportError as error:
        raise BackendError(
            f"device tensorrt-rtx needs tensorrt_rtx, which cannot be imported ({error}); install "
            'it with: pip install "vab-rt[rtx]"'
        ) from error

    def configure(config: Any) -> None:
        # Without it an engine allocates while it runs, which a CUDA graph cannot hold.
        config.set_flag(api.BuilderFlag.REQUIRE_USER_ALLOCATION)

    return Library("tensorrt-rtx", api, "Ampere and later", configure)
