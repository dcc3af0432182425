"""What this installation can do on this machine, and what to install for more."""

import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import msgspec

from vab_rt.engines.engine_cache import cache_folder
from vab_rt.engines.gpu import INSTALL_CUDA, LEAST_CUDA, cuda_version, find_driver
from vab_rt.engines.precision import PRECISIONS
from vab_rt.engines.providers import PROVIDERS, plugged_in, what_is_missing
from vab_rt.errors import BackendError, VabError
from vab_rt.telemetry import VARIABLE, is_telemetry_wanted
from vab_rt.threads import allowed_cores

_ENCODERS = ("pcm_s16le", "flac", "libmp3lame", "aac", "libopus")


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. needed: without it nothing can be generated."""

    subject: str
    found: str
    is_good: bool = True
    is_needed: bool = False
    advice: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order a reader wants them. Raises nothing."""
    checks: tuple[Callable[[], Finding], ...] = (
        _vab_rt, _python, _onnxruntime, _telemetry, _sampling, _ffmpeg, _bundle, _int8,
        _gpu, _cuda, _tensorrt, _tensorrt_rtx, *(partial(_provider, name) for name in PROVIDERS),
        _kept_engines,
    )  # fmt: skip
    return [check() for check in checks]


def _vab_rt() -> Finding:
    try:
        return Finding("vab-rt", version("vab-rt"))
    except PackageNotFoundError:
        advice = "pip install . in the checkout makes it a package"
        return Finding("vab-rt", "not installed, run from a folder", False, advice=advice)


def _python() -> Finding:
    where = f"{platform.system()} {platform.machine()}, {len(allowed_cores())} CPUs"
    return Finding("python", f"{platform.python_version()} ({where})", sys.version_info >= (3, 11))


def _onnxruntime() -> Finding:
    try:
        import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]  # no types
    except ImportError as error:
        advice = "pip install onnxruntime"
        return Finding("onnxruntime", f"cannot be imported ({error})", False, True, advice)
    providers = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    is_good = "CPU" in providers
    found = f"{ort.__version__}, providers {', '.join(providers)}"
    return Finding(
        "onnxruntime", found, is_good, True, "" if is_good else "pip install onnxruntime"
    )


def _telemetry() -> Finding:
    if is_telemetry_wanted():
        found = f"on, as {VARIABLE} asks: onnxruntime reports to its makers"
        return Finding("telemetry", found, False, advice=f"unset {VARIABLE}")
    return Finding("telemetry", "off: nothing is reported to anyone")


def _sampling() -> Finding:
    from vab_rt.sampling import NativeSampler

    try:
        threads = NativeSampler().num_threads
    except BackendError as error:
        found = "numpy: the same tokens, several times slower"
        return Finding("sampling", found, False, advice=str(error))
    return Finding("sampling", f"native, {threads} threads")


def _ffmpeg() -> Finding:
    try:
        import av
    except ImportError as error:
        return Finding("ffmpeg", f"cannot be imported ({error})", False, True, "pip install av")
    libraries = ", ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}"
        for name in ("libavformat", "libavcodec")
    )
    missing = [name for name in _ENCODERS if not _has_encoder(name)]
    found = f"PyAV {av.__version__}, {libraries}"
    if missing:
        advice = "pip install --force-reinstall --only-binary av av"
        return Finding(
            "ffmpeg", f"{found}; cannot write {', '.join(missing)}", False, False, advice
        )
    return Finding("ffmpeg", found)


def _has_encoder(name: str) -> bool:
    from av.codec.codec import Codec, UnknownCodecError

    try:
        Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


def _bundle() -> Finding:
    from vab_rt.bundle import open_bundle

    try:
        bundle = open_bundle()
        bundle.verify()
    except (VabError, OSError) as error:
        advice = "pip install --force-reinstall --no-deps vab-rt, or name another with --model"
        return Finding("default model", str(error), False, True, advice)
    size = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    return Finding("default model", f"{bundle.config.name}, {size / 1e6:.1f} MB, verified")


def _int8() -> Finding:
    """By its time here: processors differ in what they have for it."""
    try:
        times_ms = {precision: 1e3 * _step_s(precision) for precision in PRECISIONS}
    except (VabError, OSError) as error:
        return Finding("int8", f"cannot be tried ({error})", False)
    found = f"a step takes {times_ms['int8']:.0f} ms, {times_ms['fp32']:.0f} in fp32"
    is_good = times_ms["int8"] < times_ms["fp32"]
    return Finding("int8", found, is_good, advice="" if is_good else "leave --precision int8 out")


def _step_s(precision: str) -> float:
    """Seconds of a pass through the default model on one thread: the least of some."""
    import numpy as np

    from vab_rt.bundle import open_bundle
    from vab_rt.engines.sessions import open_graph

    bundle = open_bundle()
    backbone = open_graph(bundle, "backbone", 1, precision)
    row = {}
    for tensor in bundle.contracts["backbone"].inputs:
        shape = [1 if isinstance(size, str) else size for size in tensor.shape]
        row[tensor.name] = np.zeros(shape, tensor.dtype)
    times_s = []
    for _ in range(3):
        begin = time.perf_counter()
        backbone(**row)
        times_s.append(time.perf_counter() - begin)
    return min(times_s)


def _gpu() -> Finding:
    driver = find_driver()
    if driver is None:
        return Finding("GPU driver", "no NVIDIA driver; not needed, the device cpu needs none")
    found = f"NVIDIA {driver.version} (CUDA {cuda_version(driver.cuda)})".replace("  ", " ")
    advice = "install driver 580 or newer: https://www.nvidia.com/drivers"
    if driver.status:
        found += f", which does not start: CUDA error {driver.status}"
        return Finding("GPU driver", found, False, advice=f"{advice}; then start the machine again")
    if not driver.gpus:
        return Finding("GPU driver", f"{found}, no GPU")
    gpu = driver.gpus[0]
    found += f", {gpu.name} ({gpu.capability}, {gpu.memory_bytes / 1e9:.0f} GB)"
    found += f" and {len(driver.gpus) - 1} more" if len(driver.gpus) > 1 else ""
    is_new = driver.cuda >= LEAST_CUDA
    return Finding("GPU driver", found, is_new, advice="" if is_new else advice)


def _cuda() -> Finding:
    try:
        from vab_rt.engines.sessions import has_cuda_provider
    except BackendError:
        return _for_gpus("device cuda", "onnxruntime is missing", INSTALL_CUDA)
    missing = [name for name in ("cuda.core", "cuda.bindings") if not _is_there(name)]
    if missing or not has_cuda_provider():
        found = f"{missing[0]} is missing" if missing else "onnxruntime has no CUDA provider"
        return _for_gpus("device cuda", found, INSTALL_CUDA)
    found = f"cuda-core {version('cuda-core')}, onnxruntime with CUDA"
    if not _has_gpu():
        return _for_gpus("device cuda", found, "")
    from vab_rt.engines.cuda import why_not_loaded

    if reason := why_not_loaded():
        found += f", which does not load: {reason}"
        return Finding("device cuda", found, False, advice=INSTALL_CUDA)
    return Finding("device cuda", found)


def _tensorrt() -> Finding:
    finding = _library("device tensorrt", "tensorrt", 'pip install "vab-rt[trt]"')
    if finding.is_good:
        from vab_rt.engines.tensorrt import import_api

        try:
            import_api("tensorrt")
        except BackendError as error:
            return msgspec.structs.replace(finding, is_good=False, advice=str(error))
    return finding


def _tensorrt_rtx() -> Finding:
    finding = _library("device tensorrt-rtx", "tensorrt_rtx", 'pip install "vab-rt[rtx]"')
    driver = find_driver()
    if finding.is_good and driver is not None and driver.gpus:
        from vab_rt.engines.tensorrt import runs_rtx

        gpu = driver.gpus[0]
        if not runs_rtx(tuple(map(int, gpu.capability.split(".")))):
            found = f"{finding.found}, which does not run on {gpu.name} ({gpu.capability})"
            return Finding(finding.subject, found, False, advice="use --device tensorrt or cuda")
    return finding


def _provider(device: str) -> Finding:
    subject, provider = f"device {device}", PROVIDERS[device]
    try:
        found, install = what_is_missing(device)
        if found:
            return Finding(subject, found, False, advice=install)
        if provider.plugin is None or not _is_there(provider.plugin):
            return Finding(subject, f"onnxruntime with {provider.name}")
        parts = ", ".join(sorted(plugged_in(provider)))
        return Finding(subject, f"{provider.package} {version(provider.package)}: {parts}")
    except ImportError:
        return Finding(subject, "onnxruntime is missing", False)
    except BackendError as error:
        return Finding(subject, str(error), False)


def _library(subject: str, module: str, install: str) -> Finding:
    if not _is_there(module):
        return _for_gpus(subject, f"{module} is not installed", install)
    try:
        found = f"{module} {version(module)}"
    except PackageNotFoundError:
        found = module
    return Finding(subject, found)


def _for_gpus(subject: str, found: str, install: str) -> Finding:
    """Without a GPU there is nothing to install."""
    if not _has_gpu():
        return Finding(subject, f"{found}; there is no NVIDIA GPU to use it", False)
    return Finding(subject, found, False, advice=install)


def _has_gpu() -> bool:
    driver = find_driver()
    return driver is not None and bool(driver.gpus)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _kept_engines() -> Finding:
    folder = cache_folder()
    try:
        sizes = [path.stat().st_size for path in folder.glob("*.engine")]
    except OSError as error:
        return Finding("engine cache", f"{folder} ({error.strerror})", False)
    return Finding("engine cache", f"{folder}, {len(sizes)} engines, {sum(sizes) / 1e6:.0f} MB")
