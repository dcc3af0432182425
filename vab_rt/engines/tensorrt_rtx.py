"""TensorRT-RTX for desktops: engines for every RTX GPU from Ampere on, built without a GPU."""

from importlib import import_module
from typing import Any

from vab_rt.bundle import Bundle
from vab_rt.engines import Engines
from vab_rt.engines.compiled import LEAST_FP8, Library, open_compiled
from vab_rt.engines.gpu import Gpu
from vab_rt.errors import BackendError

SUPPORTED = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""Compute capabilities that an engine runs on; data-centre Hopper and Blackwell are not."""

_WITH_FP8 = ("SM89", "SM120", "SM121")


def open_engines(bundle: Bundle, threads: int | None = None) -> Engines:
    """The engines of a bundle, built where this user has not built them before."""
    import_library()
    gpu = Gpu()
    if not is_supported(gpu.capability):
        known = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        raise BackendError(
            f"{gpu.name} has compute capability {'.'.join(map(str, gpu.capability))}, expected one "
            f"that TensorRT-RTX supports ({known}); use --device tensorrt or --device cuda"
        )
    return open_compiled(bundle, import_library(gpu), gpu)


def is_supported(capability: tuple[int, ...]) -> bool:
    """Whether its engines run on a GPU of that compute capability."""
    return capability in SUPPORTED


def import_library(gpu: Gpu | None = None) -> Library:
    """The library, which builds for all its GPUs at once, or for those that have fp8.

    gpu: which of them it is to run on; None where it only builds. Raises BackendError without it.
    """
    try:
        api = import_module("tensorrt_rtx")
    except ImportError as error:
        raise BackendError(
            f"device tensorrt-rtx needs tensorrt_rtx, which cannot be imported ({error}); install "
            'it with: pip install "vab-rt[rtx]"'
        ) from error

    def configure(config: Any, precision: str) -> None:
        # Without it an engine allocates while it runs, which a CUDA graph cannot hold.
        config.set_flag(api.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if precision == "fp8":
            config.num_compute_capabilities = len(_WITH_FP8)
            for index, name in enumerate(_WITH_FP8):
                config.set_compute_capability(getattr(api.ComputeCapability, name), index)

    def open_context(engine: Any) -> Any:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            api.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # Compiled in the background, the kernels for these shapes would come too late: a captured
        # graph keeps those it was made with.
        eager = api.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return engine.create_execution_context(config)

    has_fp8 = gpu is None or gpu.capability >= LEAST_FP8
    return Library("tensorrt-rtx", api, "Ampere and later", configure, open_context, has_fp8)
