"""Backends: objects with the same calls, and the one function that chooses among them."""

import logging

from vab_rt.bundle import Bundle
from vab_rt.config import check_threads
from vab_rt.engines.engine import Engine, Engines
from vab_rt.errors import BackendError, BundleError, OptionError

__all__ = ["DEVICES", "Engine", "Engines", "open_engines"]

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx")
_OF_GPUS = DEVICES[2:]


def open_engines(bundle: Bundle, device: str = "auto", threads: int | None = None) -> Engines:
    """The engines of a bundle on a device; auto takes the best that is there and says which.

    device: one of DEVICES; of several GPUs the first, or another by its number, as cuda:1.
    threads: for CPU work, None takes one per physical core. Raises OptionError for a device or
    count that does not exist, BackendError for a device that cannot be used: it never falls back.
    """
    name, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if name not in DEVICES or colon and (name not in _OF_GPUS or not number.isdecimal()):
        raise OptionError(
            f"device is {device!r}, expected {', '.join(DEVICES[:-1])} or {DEVICES[-1]}, with a "
            f"number for a GPU other than the first, as in cuda:1; choose one"
        )
    threads = check_threads(threads)
    if name == "auto":
        return _open_best(bundle, threads)
    return _open(bundle, name, int(number or 0), threads)


def _open_best(bundle: Bundle, threads: int | None) -> Engines:
    """cuda where its parts are installed, or else cpu; TensorRT may build for minutes."""
    from vab_rt.engines.providers import has_cuda_provider

    if has_cuda_provider():
        try:
            return _open(bundle, "cuda", 0, threads)
        except (BackendError, BundleError) as error:  # such as graphs for CPUs alone
            log.warning("device auto chose cpu, as cuda cannot be used: %s", error)
    return _open(bundle, "cpu", 0, threads)


def _open(bundle: Bundle, device: str, gpu_id: int, threads: int | None) -> Engines:
    """Each device imports its own libraries, which take long or are missing."""
    if device == "cpu":
        from vab_rt.engines.providers import open_cpu

        return open_cpu(bundle, threads)
    if device == "cuda":
        from vab_rt.engines.cuda import open_cuda

        return open_cuda(bundle, gpu_id)
    from vab_rt.engines.tensorrt import open_tensorrt

    return open_tensorrt(bundle, device, gpu_id)
