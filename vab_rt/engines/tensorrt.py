"""TensorRT for data centres: engines are built on the machine, for its GPU alone."""

from importlib import import_module
from typing import Any

from vab_rt.bundle import Bundle
from vab_rt.engines import Engines
from vab_rt.engines.compiled import LEAST_FP8, Library, open_compiled
from vab_rt.engines.gpu import Gpu
from vab_rt.errors import BackendError

LEAST_VERSION = (10, 14)  # the first that reads ONNX Attention


def open_engines(bundle: Bundle, threads: int | None = None) -> Engines:
    """The engines of a bundle, built where this machine has not built them before."""
    api = import_tensorrt()
    gpu = Gpu()
    return open_compiled(bundle, library_for(api, gpu), gpu)


def library_for(api: Any, gpu: Gpu) -> Library:
    """It builds for this GPU."""
    return Library(
        device="tensorrt",
        api=api,
        target=f"{gpu.name}, {'.'.join(map(str, gpu.capability))}",
        configure=lambda config, precision: None,
        open_context=lambda engine: engine.create_execution_context(
            api.ExecutionContextAllocationStrategy.USER_MANAGED
        ),
        has_fp8=gpu.capability >= LEAST_FP8,
    )


def import_tensorrt() -> Any:
    """The module. Raises BackendError where it is missing or too old."""
    try:
        api = import_module("tensorrt")
    except ImportError as error:
        raise BackendError(
            f"device tensorrt needs tensorrt, which cannot be imported ({error}); install it "
            'with: pip install "vab-rt[trt]"'
        ) from error
    version = tuple(int(part) for part in api.__version__.split(".")[:2])
    if version < LEAST_VERSION:
        raise BackendError(
            f"tensorrt {api.__version__} is installed, expected "
            f"{'.'.join(map(str, LEAST_VERSION))} or newer; upgrade with: "
            'pip install --upgrade "vab-rt[trt]"'
        )
    return api
